"""A volume as the bytes of a NIfTI-1 file."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy.typing as npt

from prism_ssl.contracts import Float64


def nifti_bytes(voxels: npt.NDArray[Any], affine: Float64, slope: float = 1.0, intercept: float = 0.0) -> bytes:
    """A NIfTI-1 file of raw ``voxels`` [nz, ny, nx], in their type and byte order."""
    make_header: Any = nib.Nifti1Header  # nibabel has no types for it
    header = make_header(endianness=">" if voxels.dtype.str.startswith(">") else "<")
    header.set_data_dtype(voxels.dtype)
    header.set_data_shape(voxels.shape[::-1])
    header.set_sform(affine, code=1)
    header.set_qform(affine, code=1, strip_shears=True)
    header["scl_slope"], header["scl_inter"] = slope, intercept
    header["vox_offset"], header["magic"] = 352, b"n+1"
    return bytes(header.binaryblock) + bytes(4) + voxels.tobytes()
