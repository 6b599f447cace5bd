"""The middle slice of a file as a picture, also of one that cannot be used for training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prism_ssl.contracts import Float32, Float64
from prism_ssl.data.scan.byte_stream import FileStream
from prism_ssl.data.scan.header_geometry import times
from prism_ssl.data.scan.nifti import ScanHeader, read_header
from prism_ssl.data.scan.read_errors import read_failure
from prism_ssl.data.scan.reject_reasons import RejectReason
from prism_ssl.errors import ScanRejected

SLICE_BYTES_MAX = 2**27
"""A header that declares a larger slice is not believed."""


@dataclass(frozen=True, eq=False)
class MiddleSlice:
    """``pixels`` [H, W] in rescaled units, as shown: anterior or superior at the top, the patient's right (in sagittal
    slices: anterior) on the left; as stored where the affine tells no directions. ``pixel_mm`` is (height, width).
    """

    pixels: Float32
    pixel_mm: tuple[float, float]


def middle_slice(path: str | Path) -> MiddleSlice:
    """The slice in the middle of the last axis of the (first) volume; nothing after this slice is read from the file.

    Colours are averaged; complex numbers are shown by their magnitude.

    Raises:
        ScanRejected: there is no such slice: no NIfTI, an impossible header, damaged or ended before.
        ArchiveUnreachable, MachineTrouble: the file is not to blame.
    """
    header = read_header(path)
    nx, ny, nz = (*header.shape, 1, 1)[:3]
    slice_bytes = nx * ny * header.dtype.itemsize
    if min(nx, ny, nz) < 1 or slice_bytes > SLICE_BYTES_MAX:
        raise ScanRejected(RejectReason.NIFTI_LOAD_FAILED, f"shape is {times(header.shape)}, which gives no picture")
    raw = np.empty(slice_bytes, np.uint8)
    try:
        with Path(path).open("rb", buffering=0) as file:
            stream = FileStream(file)
            stream.skip(header.vox_offset + nz // 2 * slice_bytes)
            held = stream.fill(raw.data)
    except (OSError, MemoryError) as error:
        raise read_failure(error) from error
    if held < slice_bytes:
        raise ScanRejected(RejectReason.TRUNCATED_DATA, "the file ends before its middle slice")
    return _as_shown(_real(raw.view(header.dtype), header).reshape(ny, nx), header.affine)


def _real(raw: npt.NDArray[Any], header: ScanHeader) -> Float32:
    if raw.dtype.names is not None:
        channels = [raw[name].astype(np.float32) for name in raw.dtype.names[:3]]
        mean: Float32 = np.mean(channels, axis=0, dtype=np.float32)
        return mean
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.abs(raw) if raw.dtype.kind == "c" else raw
        rescaled: Float32 = (values.astype(np.float64) * header.slope + header.intercept).astype(np.float32)
    return rescaled


def _as_shown(plane: Float32, affine: Float64) -> MiddleSlice:
    """``plane`` [j, i] turned and flipped."""
    across, up = affine[:3, 0], affine[:3, 1]
    lengths = [float(np.linalg.norm(axis)) for axis in (up, across)]
    if not all(math.isfinite(mm) and mm > 0 for mm in lengths):
        return MiddleSlice(plane, (1.0, 1.0))
    main_across, main_up = int(np.abs(across).argmax()), int(np.abs(up).argmax())
    if main_across > main_up:
        plane, lengths, across, up = plane.T, lengths[::-1], up, across
        main_across, main_up = main_up, main_across
    if main_across != main_up:
        plane = plane[:: -1 if up[main_up] > 0 else 1, :: -1 if across[main_across] > 0 else 1]
    return MiddleSlice(plane, (lengths[0], lengths[1]))
