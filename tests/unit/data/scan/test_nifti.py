from __future__ import annotations

import gzip
import inspect
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from isal import isal_zlib

from prism_ssl.config.operations import PreflightConfig
from prism_ssl.contracts import RobustStats
from prism_ssl.data.scan import nifti
from prism_ssl.data.scan.header_geometry import check_affine
from prism_ssl.data.scan.nifti import check_openable, load_voxels, open_scan, read_header
from prism_ssl.data.scan.nifti_writer import nifti_bytes
from prism_ssl.data.scan.volume_memory import VolumeMemory
from prism_ssl.errors import ScanRejected
from tests.support.broken_files import BrokenKind, patched, sound_bytes, sound_volume, write_broken

AFFINE = np.array([[-0.8, 0.1, 0, 90], [0.1, 0.8, 0.3, -110], [0, -0.3, 2.5, 40], [0, 0, 0, 1]])
STATS = RobustStats(lowest=-1.0, median=2.0, std=3.0)


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _noise(dtype: str, shape: tuple[int, int, int] = (14, 12, 16)) -> npt.NDArray[Any]:
    rng = np.random.default_rng(0)
    values = rng.normal(100, 30, shape) if np.dtype(dtype).kind == "f" else rng.integers(0, 120, shape)
    return values.astype(dtype)


def _as_nibabel_sees_it(path: Path) -> npt.NDArray[np.float64]:
    load: Any = nib.load
    values: npt.NDArray[np.float64] = load(path).get_fdata().T
    return values


def _rescaled(scan: nifti.OpenScan) -> npt.NDArray[np.float64]:
    return scan.slope * scan.voxels.astype(np.float64) + scan.intercept


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_values_equal_nibabel_in_every_type_and_byte_order(tmp_path: Path, dtype: str, order: str, suffix: str) -> None:
    data = nifti_bytes(_noise(order + dtype), AFFINE, slope=1.5, intercept=-20)
    path = _written(tmp_path / f"scan{suffix}", gzip.compress(data) if suffix.endswith("gz") else data)
    scan = open_scan(path)
    assert scan.voxels.dtype.isnative
    assert scan.voxels.dtype.itemsize == np.dtype(dtype).itemsize
    assert scan.voxels.flags.c_contiguous
    np.testing.assert_allclose(_rescaled(scan), _as_nibabel_sees_it(path))
    np.testing.assert_allclose(scan.affine, AFFINE, atol=1e-5)
    assert scan.shape == (16, 12, 14)


@pytest.mark.parametrize("slope", [0.0, np.nan, np.inf])
def test_a_slope_of_nothing_means_none(tmp_path: Path, slope: float) -> None:
    path = _written(tmp_path / "scan.nii", nifti_bytes(_noise("<i2"), AFFINE, slope=slope, intercept=7))
    scan = open_scan(path)
    assert (scan.slope, scan.intercept) == (1.0, 0.0)


def test_nifti_2_and_its_affine_are_read(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    make_image: Any = nib.Nifti2Image
    nib.save(make_image(_noise("<i2").T, AFFINE), path)
    scan = open_scan(path)
    np.testing.assert_array_equal(_rescaled(scan), _as_nibabel_sees_it(path))
    np.testing.assert_allclose(scan.affine, AFFINE)


def test_sform_comes_before_qform_and_qform_before_spacing(tmp_path: Path) -> None:
    data = sound_bytes()
    data = patched(data, 268, [5.0, 6.0, 7.0], "<f4")  # qoffset
    both = read_header(_written(tmp_path / "both.nii", data))
    qform = read_header(_written(tmp_path / "qform.nii", patched(data, 254, 0, "<i2")))
    neither = read_header(_written(tmp_path / "neither.nii", patched(data, 252, [0, 0], "<i2")))
    np.testing.assert_allclose(both.affine, np.diag([2, 2, 2, 1]))
    np.testing.assert_allclose(qform.affine[:3, 3], [5, 6, 7])
    assert (neither.geometry.sform_code, neither.geometry.qform_code) == (0, 0)
    np.testing.assert_allclose(neither.spacing_mm, 2)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_file_that_is_cut_once_it_is_open_costs_nothing(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    """A map of the file would end the process here (SIGBUS)."""
    path = _written(tmp_path / "scan", pack(sound_bytes()))
    scan = open_scan(path)
    os.truncate(path, 0)
    np.testing.assert_array_equal(scan.voxels, sound_volume())


def test_a_file_that_is_cut_while_it_is_read_is_a_rejection(tmp_path: Path) -> None:
    path = _written(tmp_path / "scan.nii", sound_bytes())
    header = read_header(path)
    check_openable(header, 2**20)
    os.truncate(path, 20_000)
    with pytest.raises(ScanRejected, match="truncated_data: the file holds 19648 bytes of voxels; the header declares"):
        load_voxels(path, header)


def test_an_uncompressed_volume_is_put_into_the_memory_of_the_pool(tmp_path: Path) -> None:
    path, memory = _written(tmp_path / "scan.nii", sound_bytes()), VolumeMemory(keep=1)
    place = open_scan(path, memory=memory).voxels.ctypes.data
    assert open_scan(path, memory=memory).voxels.ctypes.data == place


def test_content_and_not_the_name_says_what_is_compressed(tmp_path: Path) -> None:
    plain = open_scan(_written(tmp_path / "plain.nii.gz", sound_bytes()))
    packed = open_scan(_written(tmp_path / "packed.nii", gzip.compress(sound_bytes())))
    np.testing.assert_array_equal(plain.voxels, packed.voxels)


def test_an_unaligned_offset_is_read(tmp_path: Path) -> None:
    data = patched(sound_bytes(), 108, 355.0, "<f4")
    scan = open_scan(_written(tmp_path / "scan.nii", data[:352] + b"abc" + data[352:]))
    assert scan.voxels.flags.aligned
    np.testing.assert_array_equal(scan.voxels, sound_volume())


def test_members_of_a_gzip_file_are_joined(tmp_path: Path) -> None:
    data = sound_bytes()
    cuts = [0, 100, 352, 5_000, len(data)]
    members = b"".join(gzip.compress(data[a:b]) for a, b in itertools.pairwise(cuts))
    scan = open_scan(_written(tmp_path / "scan.nii.gz", members))
    np.testing.assert_array_equal(scan.voxels, sound_volume())


def test_zeros_between_the_members_of_a_gzip_file_are_padding(tmp_path: Path) -> None:
    data = sound_bytes()
    members = gzip.compress(data[:5_000]) + bytes(600_000) + gzip.compress(data[5_000:]) + bytes(600_000)
    scan = open_scan(_written(tmp_path / "scan.nii.gz", members))
    np.testing.assert_array_equal(scan.voxels, sound_volume())


TAILS = {
    "LF": b"\n",
    "CR LF": b"\r\n",
    "zeros": bytes(4096),
    "text": b"<!-- end of download -->\n",
    "half a magic number": b"\x1f",
    "a megabyte and more": b"\xff" * 3_000_000,
}


@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS.keys())
@pytest.mark.parametrize("n_members", [1, 2])
def test_a_whole_gzip_stream_is_kept_whatever_bytes_follow_it(tmp_path: Path, tail: bytes, n_members: int) -> None:
    """As gzip does: "decompression OK, trailing garbage ignored"."""
    data = sound_bytes()
    halves = [data] if n_members == 1 else [data[:7_000], data[7_000:]]
    scan = open_scan(_written(tmp_path / "scan.nii.gz", b"".join(map(gzip.compress, halves)) + tail))
    np.testing.assert_array_equal(scan.voxels, sound_volume())


@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS.keys())
def test_bytes_that_follow_do_not_hide_what_the_stream_lacks(tmp_path: Path, tail: bytes) -> None:
    packed, rest = gzip.compress(sound_bytes()[:7_000]), gzip.compress(sound_bytes()[7_000:])
    foreign = bool(tail.strip(b"\0"))
    short = "corrupt_gzip: bytes that are no gzip stream follow the first 6648 of" if foreign else "truncated_data"
    damaged = packed[:-8] + bytes(4) + packed[-4:]
    for data, message in (
        (packed, short),
        (damaged, "corrupt_gzip"),
        (packed + rest[:-9], "truncated_gzip|corrupt_gzip"),
    ):
        with pytest.raises(ScanRejected, match=f"^({message})"):
            open_scan(_written(tmp_path / "scan.nii.gz", data + tail))


@pytest.mark.parametrize("level", [1, 6, 9])
def test_every_cut_of_a_gzip_stream_is_called_cut_and_the_whole_is_read(tmp_path: Path, level: int) -> None:
    """The last bytes of a stream matter: an inflater may hold output back after it has taken all input."""
    voxels = np.random.default_rng(4).integers(0, 7, (12, 13, 64)).astype(np.uint8)
    packed = gzip.compress(nifti_bytes(voxels, AFFINE), level)
    np.testing.assert_array_equal(open_scan(_written(tmp_path / "scan.nii.gz", packed)).voxels, voxels)
    for missing in range(1, 30):
        with pytest.raises(ScanRejected, match="truncated_gzip"):
            open_scan(_written(tmp_path / "scan.nii.gz", packed[:-missing]))


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_another_volume_behind_the_last_voxel_is_refused(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    data = sound_bytes() + bytes(nifti.TRAILING_BYTES_MAX - 1)
    assert open_scan(_written(tmp_path / "scan", pack(data))).shape == (32, 32, 32)
    with pytest.raises(ScanRejected, match="trailing_data: 1048576 bytes or more follow"):
        open_scan(_written(tmp_path / "scan", pack(data + bytes(1))))


def test_trailing_axes_of_one_are_dropped(tmp_path: Path) -> None:
    data = patched(sound_bytes(), 40, [5, 32, 32, 32, 1, 1], "<i2")
    assert open_scan(_written(tmp_path / "scan.nii", data)).shape == (32, 32, 32)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (BrokenKind.TRUNCATED_GZIP, "truncated_gzip: the gzip stream ends early"),
        (BrokenKind.CORRUPT_DEFLATE, "corrupt_gzip: "),
        (BrokenKind.BAD_CRC, "corrupt_gzip: .*[Ii]ncorrect checksum"),
        (BrokenKind.TRUNCATED_PLAIN, "truncated_data: the header declares 65888 bytes; a file of 20000 bytes"),
        (BrokenKind.FEWER_VOXELS, "truncated_data: the file holds 65534 bytes of voxels; the header declares 65536"),
        (BrokenKind.BOMB, "trailing_data: 1048576 bytes or more follow"),
        (BrokenKind.ABSURD_SHAPE, "truncated_data: the header declares 70362301923678 bytes"),
        (BrokenKind.EMPTY, "not_a_nifti: 0 leading bytes"),
        (BrokenKind.TEXT, "not_a_nifti: "),
        (BrokenKind.FOUR_D, "not_3d: shape is 32 x 32 x 16 x 3"),
        (BrokenKind.SINGULAR_AFFINE, "affine_singular: "),
        (BrokenKind.NAN_AFFINE, "affine_not_finite: 1 of the affine's 16"),
        (BrokenKind.ALL_NAN, "nan_filled: "),
        (BrokenKind.CONSTANT, "stats_degenerate: foreground std is 0"),
    ],
)
def test_what_cannot_be_opened_is_named_without_its_path(tmp_path: Path, kind: BrokenKind, message: str) -> None:
    path = write_broken(tmp_path / "patient-jones", kind)
    with pytest.raises(ScanRejected, match=f"^{message}") as caught:
        open_scan(path)
    assert "jones" not in str(caught.value)


@pytest.mark.parametrize("part", ["header", "gzip"])
def test_no_damage_raises_anything_but_a_rejection(tmp_path: Path, part: str) -> None:
    sound = sound_bytes() if part == "header" else gzip.compress(sound_bytes(), mtime=0)
    reach = 352 if part == "header" else len(sound)
    rng = np.random.default_rng(3)
    refused = 0
    for _ in range(200):
        spoiled = patched(sound, int(rng.integers(reach - 4)), rng.integers(256, size=4), "u1")
        try:
            open_scan(_written(tmp_path / "scan", spoiled))
        except ScanRejected:
            refused += 1
    assert refused >= {"header": 10, "gzip": 195}[part]


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ScanRejected, match="missing_path: the file does not exist"):
        open_scan(tmp_path / "nothing.nii.gz")
    with pytest.raises(ScanRejected, match="not_readable: the file cannot be read: Is a directory"):
        open_scan(tmp_path)


@pytest.mark.parametrize(
    ("offset", "value", "dtype", "message"),
    [
        (40, 9, "<i2", r"nifti_load_failed: .*dim\[0\] is 9"),
        (42, -4, "<i2", "nifti_load_failed: shape is -4 x 32 x 32"),
        (70, 999, "<i2", "nifti_load_failed: .*data code 999"),
        (108, 12.0, "<f4", "nifti_load_failed: .*vox_offset is 12"),
        (108, np.inf, "<f4", "nifti_load_failed: .*infinity"),
        (116, np.nan, "<f4", "nifti_load_failed: .*scl_inter is nan"),
        (344, 0, "<i4", "not_a_nifti"),
        (70, 1536, "<i2", "unsupported_dtype: voxels are "),
        (70, 32, "<i2", "complex_dtype: voxels are complex64"),
        (70, 128, "<i2", "rgb_dtype: voxels are 3 colour channels"),
    ],
)
def test_a_header_without_meaning_is_refused(
    tmp_path: Path, offset: int, value: float, dtype: str, message: str
) -> None:
    path = _written(tmp_path / "scan.nii", patched(sound_bytes(), offset, value, dtype))
    with pytest.raises(ScanRejected, match=message):
        open_scan(path)


def test_spacing_must_be_positive_where_it_is_all_there_is(tmp_path: Path) -> None:
    data = patched(patched(sound_bytes(), 252, [0, 0], "<i2"), 88, 0.0, "<f4")
    with pytest.raises(ScanRejected, match="spacing_not_positive: pixdim is 2 x 2 x 0 mm"):
        read_header(_written(tmp_path / "scan.nii", data))


def test_the_memory_limit_is_asked_before_inflating(tmp_path: Path, inflated: list[int]) -> None:
    path = _written(tmp_path / "scan.nii.gz", gzip.compress(sound_bytes()))
    with pytest.raises(ScanRejected, match=r"too_large: .* declares 65888 bytes; the limit .* is 60000"):
        open_scan(path, max_volume_bytes=60_000)
    assert sum(inflated) <= 540


def test_a_bomb_is_inflated_no_further_than_declared_and_a_little(tmp_path: Path, inflated: list[int]) -> None:
    path = write_broken(tmp_path, BrokenKind.BOMB)
    with pytest.raises(ScanRejected, match="trailing_data"):
        open_scan(path)
    assert sum(inflated) <= 540 + 352 + sound_volume().nbytes + nifti.TRAILING_BYTES_MAX


def test_reading_a_header_inflates_only_the_header(tmp_path: Path, inflated: list[int]) -> None:
    header = read_header(_written(tmp_path / "scan.nii.gz", gzip.compress(sound_bytes())))
    assert header.gz
    assert header.volume_bytes == sound_volume().nbytes
    assert sum(inflated) <= 540


class CountingInflater:
    """An inflater that notes how much comes out of it."""

    def __init__(self, inflater: Any, sizes: list[int]) -> None:
        self._inflater, self._sizes = inflater, sizes

    def decompress(self, data: bytes, max_length: int) -> bytes:
        inflated: bytes = self._inflater.decompress(data, max_length)
        self._sizes.append(len(inflated))
        return inflated

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inflater, name)


@pytest.fixture
def inflated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of everything that is inflated."""
    sizes: list[int] = []
    real: Any = isal_zlib.decompressobj
    monkeypatch.setattr(isal_zlib, "decompressobj", lambda wbits: CountingInflater(real(wbits=wbits), sizes))
    return sizes


def test_given_stats_are_taken_as_they_are(tmp_path: Path) -> None:
    path = _written(tmp_path / "scan.nii", sound_bytes(np.zeros((16, 16, 16), np.int16)))
    assert open_scan(path, stats=STATS).stats is STATS


def test_a_sheared_affine_can_be_opened_and_a_flat_one_not() -> None:
    sheared = np.array([[0.5, 0, 0, 0], [0, 0.5, 1.2, 0], [0, 0, 3.6, 0], [0, 0, 0, 1.0]])
    check_affine(sheared)
    sheared[:, 2] = sheared[:, 1]
    with pytest.raises(ScanRejected, match=r"affine_singular: a voxel of 0\.5 x 0\.5 x 0\.5 mm has a volume of 0 mm3"):
        check_affine(sheared)


def test_a_scan_tells_what_a_radiologist_would_ask(tmp_path: Path) -> None:
    affine = np.array([[-0.8, 0, 0, 90], [0, -0.8, 0, -110], [0, 0, 2.5, 40], [0, 0, 0, 1.0]])
    path = _written(tmp_path / "scan.nii", nifti_bytes(sound_volume((30, 40, 50)), affine, 1, -24))
    text = repr(open_scan(path, stats=STATS))
    assert text == (
        "OpenScan(50 x 40 x 30 voxels of 0.80 x 0.80 x 2.50 mm, LPS, int16, value = 1 * raw + -24, "
        "median 2, std 3, lowest -1)"
    )


def test_header_and_voxels_are_enough_to_open(tmp_path: Path) -> None:
    path = _written(tmp_path / "scan.nii.gz", gzip.compress(sound_bytes()))
    header = read_header(path)
    check_openable(header, 2**20)
    np.testing.assert_array_equal(load_voxels(path, header), sound_volume())


def test_the_limit_has_the_default_of_preflight() -> None:
    default = inspect.signature(open_scan).parameters["max_volume_bytes"].default
    assert default == PreflightConfig().max_volume_bytes
