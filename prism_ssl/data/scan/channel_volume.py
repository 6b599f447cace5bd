"""Volumes with a vector in each voxel: written as NIfTI-1, compressed, whole or not at all; and read."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal import igzip as _untyped

from prism_ssl.contracts import Float32, Float64
from prism_ssl.data.scan.geometry import spacing_mm
from prism_ssl.errors import ConfigError
from prism_ssl.utils.fs import atomic_file

igzip: Any = _untyped
_LEVEL = 1  # the mantissas of embeddings do not compress; level 1 packs what is 0
_ORTHOGONAL = 1e-2  # largest cosine between two axes that a qform may stand for


def write_volume(
    path: Path, affine: Float64, shape: tuple[int, int, int], channels: int, blocks: Iterable[Float32]
) -> None:
    """Write a float32 .nii.gz of ``shape`` with ``channels`` along the fourth axis.

    Args:
        path: the file, in an existing folder; it appears when it is whole.
        affine: voxel (i, j, k) to RAS mm, [4, 4]; the file holds it in float32, as its sform. The qform is the closest
            one without shear, and says nothing where the axes are far from orthogonal.
        shape: along i, j, k.
        channels: length of the fourth axis.
        blocks: consecutive channels, each [c, nz, ny, nx]; they are held one at a time.

    Raises:
        ValueError: the blocks do not add up to ``channels`` volumes.
    """
    written = 0
    how = {"filename": "", "mode": "wb", "compresslevel": _LEVEL, "mtime": 0}  # else it holds the temporary name
    with atomic_file(path) as target, igzip.IGzipFile(fileobj=target, **how) as file:
        file.write(_header(affine, (*shape, channels)))
        for block in blocks:
            written += block.shape[0]
            file.write(np.ascontiguousarray(block, np.dtype("<f4")).data)
        if written != channels:
            raise ValueError(f"{written} channels were given for {path.name}; needed: {channels}")


def read_volume(path: Path) -> tuple[Float64, Float32]:
    """``(affine, voxels)`` of a file of ``write_volume``: [4, 4], and [nx, ny, nz, channels] in memory.

    Raises:
        ConfigError: it cannot be read, or has no fourth axis.
    """
    load: Any = nib.load
    try:
        image = load(path)
        voxels = np.asarray(image.dataobj, np.float32)
    except (OSError, EOFError, ValueError, zlib.error, nib.filebasedimages.ImageFileError) as error:
        raise ConfigError(f"{path} cannot be read ({type(error).__name__}); needed: a field of prism field") from error
    if voxels.ndim != 4:
        raise ConfigError(f"{path} has {voxels.ndim} axes; needed: 4, as in a field of prism field")
    return np.asarray(image.affine, np.float64), voxels


def _header(affine: Float64, shape: tuple[int, ...]) -> bytes:
    make_header: Any = nib.Nifti1Header  # nibabel has no types for it
    header = make_header(endianness="<")
    header.set_data_dtype(np.float32)
    header.set_data_shape(shape)
    axes = affine[:3, :3] / spacing_mm(affine)
    orthogonal = np.abs(axes.T @ axes - np.eye(3)).max() < _ORTHOGONAL
    header.set_qform(affine, code=1 if orthogonal else 0, strip_shears=True)
    header.set_sform(affine, code=1)
    header.set_xyzt_units("mm")
    header["scl_slope"], header["scl_inter"] = 1.0, 0.0
    header["vox_offset"], header["magic"] = 352, b"n+1"
    return bytes(header.binaryblock) + bytes(4)
