"""The picture of a scan is the same however the file stores it, and there is one of many a file that is refused."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import numpy as np
import pytest

from prism_ssl.contracts import Float64
from prism_ssl.data.scan import middle_slice, nifti_bytes
from prism_ssl.errors import ScanRejected
from tests.support.broken_files import BrokenKind, sound_bytes, sound_volume, write_broken

NX, NY, NZ = 5, 4, 7


def _stored(folder: Path, order: tuple[int, ...], signs: tuple[int, ...], axes: tuple[int, int, int]) -> Path:
    """A volume whose value is 100 x + 10 y + z in steps of RAS, stored along its axes in this order and direction.

    ``axes``: RAS axis that x, y and z lie along.
    """
    grid = np.stack(np.meshgrid(np.arange(NX), np.arange(NY), np.arange(NZ), indexing="ij"))
    values = np.tensordot((100, 10, 1), grid, axes=1).astype(np.int16)
    affine: Float64 = np.eye(4)
    affine[:3, :3] = 0
    for axis, ras in enumerate(axes):
        affine[ras, axis] = (2.0, 3.0, 4.0)[axis]
    stored = np.transpose(values, order)
    affine[:3, :3] = affine[:3, list(order)]
    for axis, sign in enumerate(signs):
        if sign < 0:
            affine[:3, 3] += affine[:3, axis] * (stored.shape[axis] - 1)
            affine[:3, axis] *= -1
            stored = np.flip(stored, axis)
    path = folder / "scan.nii"
    path.write_bytes(nifti_bytes(np.ascontiguousarray(stored.T), affine))
    return path


def test_an_axial_slice_has_anterior_above_and_the_right_on_the_left_however_it_is_stored(tmp_path: Path) -> None:
    x, y = np.arange(NX)[::-1], np.arange(NY)[::-1]  # right first, anterior first
    expected = 100 * x[None] + 10 * y[:, None] + NZ // 2
    for order, signs in itertools.product(((0, 1, 2), (1, 0, 2)), itertools.product((1, -1), repeat=3)):
        shown = middle_slice(_stored(tmp_path, order, signs, (0, 1, 2)))
        assert np.array_equal(shown.pixels, expected), (order, signs)
        assert shown.pixel_mm == pytest.approx((3.0, 2.0))


def test_a_sagittal_slice_has_superior_above_and_anterior_on_the_left(tmp_path: Path) -> None:
    shown = middle_slice(_stored(tmp_path, (0, 1, 2), (1, 1, 1), (1, 2, 0)))  # x anterior, y superior, z right
    assert np.array_equal(shown.pixels, 100 * np.arange(NX)[::-1][None] + 10 * np.arange(NY)[::-1][:, None] + NZ // 2)


def test_a_file_that_ends_after_its_middle_slice_has_a_picture_and_one_that_ends_before_has_none(
    tmp_path: Path,
) -> None:
    whole, path = sound_bytes(), tmp_path / "scan.nii"
    path.write_bytes(whole[: 352 + 17 * 32 * 32 * 2])
    assert np.array_equal(middle_slice(path).pixels[::-1, ::-1], sound_volume()[16].astype(np.float32))
    path.write_bytes(whole[: 352 + 17 * 32 * 32 * 2 - 1])
    with pytest.raises(ScanRejected, match="ends before its middle slice"):
        middle_slice(path)


PICTURED = {
    BrokenKind.FOUR_D, BrokenKind.THIN, BrokenKind.TINY, BrokenKind.SINGULAR_AFFINE, BrokenKind.NAN_AFFINE,
    BrokenKind.BAD_CRC, BrokenKind.NOT_HU, BrokenKind.LABEL_MAP, BrokenKind.NO_ORIENTATION, BrokenKind.NAN_VOXELS,
    BrokenKind.CONSTANT, BrokenKind.ALL_NAN,
}  # fmt: skip
NOT_PICTURED = {
    BrokenKind.EMPTY: "0 leading bytes", BrokenKind.TEXT: "no single-file NIfTI",
    BrokenKind.ABSURD_SHAPE: "which gives no picture",
}  # fmt: skip


def test_many_a_refused_file_has_a_picture_and_the_others_are_refused_again(tmp_path: Path) -> None:
    for kind in PICTURED:
        assert middle_slice(write_broken(tmp_path, kind)).pixels.ndim == 2, kind
    for kind, why in NOT_PICTURED.items():
        with pytest.raises(ScanRejected, match=why):
            middle_slice(write_broken(tmp_path, kind))


def test_colours_are_averaged_and_a_gzip_is_read_to_the_slice_only(tmp_path: Path) -> None:
    data = gzip.compress(sound_bytes())
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(data[: int(len(data) * 0.8)])  # the end is gone: preflight refuses it
    assert middle_slice(path).pixels.shape == (32, 32)
