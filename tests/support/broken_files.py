"""Deliberately broken scans: one small file for each kind of damage found in archives."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from isal import igzip

from prism_ssl.data.scan.nifti_writer import nifti_bytes
from prism_ssl.data.scan.reject_reasons import RejectReason
from prism_ssl.utils.fs import write_atomic
from prism_ssl.utils.seeds import generator_for

BOMB_BYTES = 2**30
"""What the bomb inflates to; the file has a few hundred kB."""


class BrokenKind(StrEnum):
    """What is wrong with a file."""

    TRUNCATED_GZIP = "truncated_gzip"
    CORRUPT_DEFLATE = "corrupt_deflate"
    BAD_CRC = "bad_crc"
    TRUNCATED_PLAIN = "truncated_plain"
    FEWER_VOXELS = "fewer_voxels"
    BOMB = "bomb"
    ABSURD_SHAPE = "absurd_shape"
    EMPTY = "empty"
    TEXT = "text"
    FOUR_D = "four_d"
    TINY = "tiny"
    THIN = "thin"
    SINGULAR_AFFINE = "singular_affine"
    NAN_AFFINE = "nan_affine"
    NO_ORIENTATION = "no_orientation"
    NAN_VOXELS = "nan_voxels"
    ALL_NAN = "all_nan"
    CONSTANT = "constant"
    LABEL_MAP = "label_map"
    NOT_HU = "not_hu"


EXPECTED: dict[BrokenKind, RejectReason] = {
    BrokenKind.TRUNCATED_GZIP: RejectReason.TRUNCATED_GZIP,
    BrokenKind.CORRUPT_DEFLATE: RejectReason.CORRUPT_GZIP,
    BrokenKind.BAD_CRC: RejectReason.CORRUPT_GZIP,
    BrokenKind.TRUNCATED_PLAIN: RejectReason.TRUNCATED_DATA,
    BrokenKind.FEWER_VOXELS: RejectReason.TRUNCATED_DATA,
    BrokenKind.BOMB: RejectReason.TRAILING_DATA,
    BrokenKind.ABSURD_SHAPE: RejectReason.TRUNCATED_DATA,
    BrokenKind.EMPTY: RejectReason.NOT_A_NIFTI,
    BrokenKind.TEXT: RejectReason.NOT_A_NIFTI,
    BrokenKind.FOUR_D: RejectReason.NOT_3D,
    BrokenKind.TINY: RejectReason.SHAPE_TOO_SMALL,
    BrokenKind.THIN: RejectReason.TOO_FEW_SLICES,
    BrokenKind.SINGULAR_AFFINE: RejectReason.AFFINE_SINGULAR,
    BrokenKind.NAN_AFFINE: RejectReason.AFFINE_NOT_FINITE,
    BrokenKind.NO_ORIENTATION: RejectReason.NO_ORIENTATION,
    BrokenKind.NAN_VOXELS: RejectReason.NON_FINITE_VOXELS,
    BrokenKind.ALL_NAN: RejectReason.NAN_FILLED,
    BrokenKind.CONSTANT: RejectReason.CONSTANT_INTENSITY,
    BrokenKind.LABEL_MAP: RejectReason.LABEL_MAP,
    BrokenKind.NOT_HU: RejectReason.CT_NOT_IN_HU,
}
"""The reason that preflight gives for each, when it is catalogued as a CT."""


def write_broken(folder: str | Path, kind: BrokenKind | str) -> Path:
    """Write one broken scan into ``folder`` and return its path."""
    kind = BrokenKind(kind)
    data = _WRITERS[kind]()
    path = Path(folder) / (f"{kind}.nii" if kind is BrokenKind.TRUNCATED_PLAIN else f"{kind}.nii.gz")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, data)
    return path


def sound_volume(shape: tuple[int, ...] = (32, 32, 32)) -> npt.NDArray[np.int16]:
    """The volume [nz, ny, nx] that the broken files begin as: air around a noisy block of tissue, in HU."""
    rng = generator_for(0, "sound volume")
    volume = np.full(shape, -1000, dtype=np.int16)
    volume[tuple(slice(n // 4, n - n // 4) for n in shape)] = 40
    volume += rng.normal(0, 20, shape).astype(np.int16)
    return volume


def sound_bytes(voxels: npt.NDArray[Any] | None = None) -> bytes:
    """An uncompressed NIfTI of 2 mm voxels with nothing wrong but its ``voxels``."""
    return nifti_bytes(sound_volume() if voxels is None else voxels, np.diag([2.0, 2.0, 2.0, 1.0]))


def patched(data: bytes, offset: int, value: npt.ArrayLike, dtype: str) -> bytes:
    """``data`` with the bytes from ``offset`` replaced by ``value`` as ``dtype``."""
    patch = np.asarray(value, dtype=dtype).tobytes()
    return data[:offset] + patch + data[offset + len(patch) :]


def _gz(data: bytes) -> bytes:
    return igzip.compress(data, 1, mtime=0)


def _flipped_in_the_middle() -> bytes:
    data = _gz(sound_bytes())
    middle = len(data) // 2
    return data[:middle] + bytes(byte ^ 0xFF for byte in data[middle : middle + 8]) + data[middle + 8 :]


def _wrong_checksum() -> bytes:
    data = _gz(sound_bytes())
    return data[:-8] + bytes(byte ^ 0xFF for byte in data[-8:-4]) + data[-4:]


def _bomb() -> bytes:
    megabyte = _gz(bytes(2**20))
    return _gz(sound_bytes()) + megabyte * (BOMB_BYTES // 2**20)  # a gzip file may have many members


def _with_nan(share: float) -> bytes:
    voxels = sound_volume().astype(np.float32)
    voxels.reshape(-1)[: round(share * voxels.size)] = np.nan
    return _gz(sound_bytes(voxels))


# Offsets of NIfTI-1: dim 40, qform_code 252, srow_x 280.
_WRITERS: dict[BrokenKind, Callable[[], bytes]] = {
    BrokenKind.TRUNCATED_GZIP: lambda: (data := _gz(sound_bytes()))[: len(data) * 6 // 10],
    BrokenKind.CORRUPT_DEFLATE: _flipped_in_the_middle,
    BrokenKind.BAD_CRC: _wrong_checksum,
    BrokenKind.TRUNCATED_PLAIN: lambda: sound_bytes()[:20_000],
    BrokenKind.FEWER_VOXELS: lambda: _gz(sound_bytes()[:-2]),
    BrokenKind.BOMB: _bomb,
    BrokenKind.ABSURD_SHAPE: lambda: _gz(patched(sound_bytes(), 40, [3, 32767, 32767, 32767], "<i2")),
    BrokenKind.EMPTY: lambda: b"",
    BrokenKind.TEXT: lambda: b"the series could not be exported\n",
    BrokenKind.FOUR_D: lambda: _gz(sound_bytes(sound_volume((3, 16, 32, 32)))),
    BrokenKind.TINY: lambda: _gz(sound_bytes(sound_volume((7, 5, 4)))),
    BrokenKind.THIN: lambda: _gz(sound_bytes(sound_volume((9, 32, 32)))),
    BrokenKind.SINGULAR_AFFINE: lambda: _gz(patched(sound_bytes(), 280, np.zeros(12), "<f4")),
    BrokenKind.NAN_AFFINE: lambda: _gz(patched(sound_bytes(), 280, np.nan, "<f4")),
    BrokenKind.NO_ORIENTATION: lambda: _gz(patched(sound_bytes(), 252, [0, 0], "<i2")),
    BrokenKind.NAN_VOXELS: lambda: _with_nan(0.1),
    BrokenKind.ALL_NAN: lambda: _with_nan(1.0),
    BrokenKind.CONSTANT: lambda: _gz(sound_bytes(np.full((32, 32, 32), -1024, np.int16))),
    BrokenKind.LABEL_MAP: lambda: _gz(sound_bytes((sound_volume() > -500).astype(np.uint8))),
    BrokenKind.NOT_HU: lambda: _gz(sound_bytes(sound_volume() + np.int16(1100))),
}
