"""What the voxels of a scan must be like: a CT in HU whatever pads it, no labels, no integers under a wrong type."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from prism_ssl.config.operations import PreflightConfig
from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import RobustStats
from prism_ssl.data.checks.scan_checks import inspect
from prism_ssl.data.scan.nifti_writer import nifti_bytes
from prism_ssl.errors import ScanRejected
from tests.support.broken_files import patched

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
SHAPE = (40, 64, 64)


def body_hu() -> npt.NDArray[np.float32]:
    """A trunk of fat and muscle with lungs and a spine, in air of -1024 and more, [nz, ny, nx]."""
    rng = np.random.default_rng(0)
    _, j, i = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    values = np.full(SHAPE, -1000.0)
    for (x, y, width, depth), hu in {
        (0, 0, 0.85, 0.7): -100, (0, 0, 0.75, 0.6): 45, (-0.35, 0, 0.25, 0.4): -800, (0.35, 0, 0.25, 0.4): -800,
        (0, 0.4, 0.1, 0.12): 500,
    }.items():  # fmt: skip
        values[((i - x) / width) ** 2 + ((j - y) / depth) ** 2 < 1] = hu
    values += rng.normal(0, 12, SHAPE)
    clipped: npt.NDArray[np.float32] = np.maximum(np.rint(values), -1024).astype(np.float32)
    return clipped


def beyond_the_circle(radius: float = 1.0) -> npt.NDArray[np.bool_]:
    """Where a scanner with a round field of view measures nothing."""
    _, j, i = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    outside: npt.NDArray[np.bool_] = i**2 + j**2 > radius**2
    return outside


def inspected(
    folder: Path,
    stored: npt.NDArray[Any],
    modality: str = "CT",
    slope: float = 1.0,
    intercept: float = 0.0,
    **limits: Any,
) -> RobustStats:
    path = folder / "scan.nii"
    path.write_bytes(nifti_bytes(stored, AFFINE, slope, intercept))
    return inspect(str(path), modality, replace(PrismConfig(), preflight=PreflightConfig(**limits)))[1]


def stored_without_intercept(padding: float, radius: float = 1.0) -> npt.NDArray[np.int16]:
    """As scanners store a CT: air 24, water 1024; the header has lost the intercept of -1024."""
    values = body_hu() + 1024
    values[beyond_the_circle(radius)] = padding
    return values.astype(np.int16)


@pytest.mark.parametrize("padding", [-1000, -1024, -1500, -2000, -2048, -3024, -32768])
def test_padding_does_not_pass_for_the_air_of_a_ct_in_hu(tmp_path: Path, padding: int) -> None:
    with pytest.raises(ScanRejected, match=f"ct_not_in_hu: values are {padding} to .*, and .* needed: 0.10%"):
        inspected(tmp_path, stored_without_intercept(padding))


@pytest.mark.parametrize("n_voxels", [1, 30])
def test_one_extreme_voxel_does_not_make_a_ct_in_hu(tmp_path: Path, n_voxels: int) -> None:
    stored = (body_hu() + 1024).astype(np.int16)
    stored.reshape(-1)[:n_voxels] = -900 - np.arange(n_voxels)
    with pytest.raises(ScanRejected, match="ct_not_in_hu: "):
        inspected(tmp_path, stored)


@pytest.mark.parametrize("padding", [-1024, -2000, -2048, -3024, -32768])
@pytest.mark.parametrize("intercept", [0.0, -1024.0])
def test_a_padded_ct_in_hu_has_the_statistics_of_one_without_padding(
    tmp_path: Path, padding: int, intercept: float
) -> None:
    """``intercept`` -1024: the padding is in the units of the header and is rescaled like everything else."""
    whole = body_hu()
    expected = inspected(tmp_path, whole.astype(np.int16))
    padded = whole - intercept
    padded[beyond_the_circle()] = max(padding, -32768)
    found = inspected(tmp_path, padded.astype(np.int16), intercept=intercept)
    assert found.median == expected.median
    assert found.std == pytest.approx(expected.std, rel=1e-4)
    assert found.lowest == -1024


def test_a_few_padded_voxels_and_resampled_edges_leave_the_statistics_alone(tmp_path: Path) -> None:
    whole = body_hu()
    expected = inspected(tmp_path, whole)
    few = whole.copy()
    few[0, 0, :3] = -3024
    assert inspected(tmp_path, few) == expected
    padded = whole.copy()
    padded[beyond_the_circle()] = -3024
    for values in (whole, padded):
        values[:, 1:] = (values[:, 1:] + values[:, :-1]) / 2
    expected, found = (inspected(tmp_path, values) for values in (whole, padded))
    assert found.lowest == pytest.approx(-1024, abs=1)
    assert found.median == expected.median
    assert found.std == pytest.approx(expected.std, rel=1e-3)


def test_padding_has_no_part_in_a_ct_that_is_kept_without_hu(tmp_path: Path) -> None:
    padded = inspected(tmp_path, stored_without_intercept(-2000), require_hu=False)
    whole = inspected(tmp_path, stored_without_intercept(24), require_hu=False)
    assert padded.median == whole.median
    assert padded.std == pytest.approx(whole.std, rel=0.01)
    assert padded.lowest >= 0


def test_masked_air_of_one_value_is_air_where_the_body_is_in_hu(tmp_path: Path) -> None:
    masked = body_hu()
    masked[masked < -200] = -1024  # lungs too: no air is left that has noise
    assert inspected(tmp_path, masked.astype(np.int16)).lowest == -1024


def test_a_signed_image_that_is_no_ct_keeps_its_darkest_values(tmp_path: Path) -> None:
    phase = np.random.default_rng(1).uniform(-4096, 4095, SHAPE).astype(np.int16)
    found = inspected(tmp_path, phase, "MR", reject_signed_mr=False)
    assert found.lowest == phase.min()


@pytest.mark.parametrize("noise", [0.0, 4e-4])
def test_labels_stored_as_floats_are_labels(tmp_path: Path, noise: float) -> None:
    """Rescaling and resampling leave labels such as 1.9999 behind."""
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 30, SHAPE) + rng.uniform(-noise, noise, SHAPE)
    with pytest.raises(ScanRejected, match="label_map: 30 distinct values"):
        inspected(tmp_path, labels.astype(np.float32), "MR")


def test_an_image_of_small_floats_is_no_label_map(tmp_path: Path) -> None:
    image = np.random.default_rng(3).uniform(0, 4e-4, SHAPE).astype(np.float32)
    assert inspected(tmp_path, image, "MR").std > 0


@pytest.mark.parametrize(("values", "dtype"), [("CT", np.int32), ("MR", np.int32), ("MR", np.int64)])
def test_integers_that_the_header_calls_floats_are_told_as_such(tmp_path: Path, values: str, dtype: Any) -> None:
    """Negative ones are read as NaN, and "write 0 there" would be poor advice."""
    integers = (body_hu() if values == "CT" else body_hu() + 1024).astype(dtype)
    code = 16 if dtype is np.int32 else 64
    path = tmp_path / "scan.nii"
    path.write_bytes(patched(nifti_bytes(integers, AFFINE), 70, code, "<i2"))
    with pytest.raises(ScanRejected, match=r"nifti_load_failed: .* the voxels are integers, and the header calls them"):
        inspect(str(path), values, PrismConfig())
