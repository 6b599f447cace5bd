"""What a header says about its geometry: units, and fields that contradict each other."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from prism_ssl.config.operations import PreflightConfig
from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import Float64
from prism_ssl.data.checks.scan_checks import inspect
from prism_ssl.data.scan.geometry import euler_xyz_deg_to_matrix
from prism_ssl.data.scan.nifti import ScanHeader
from prism_ssl.errors import ScanRejected
from tests.support.broken_files import sound_volume

SPACING_MM = (0.8, 0.8, 5.0)
VOXELS = sound_volume((24, 64, 64))
CONFIG = PrismConfig()


def oblique(spacing: tuple[float, float, float] = SPACING_MM) -> Float64:
    affine = np.eye(4)
    affine[:3, :3] = euler_xyz_deg_to_matrix((4.0, -7.0, 12.0)) * spacing
    affine[:3, 3] = (-25.0, -25.0, -60.0)
    return affine


def written(
    path: Path,
    sform: Float64 | None,
    pixdim: tuple[float, ...] = SPACING_MM,
    qform: Float64 | None = None,
    units: int = 2,
    qfac: float | None = None,
) -> Path:
    """A sound CT in HU whose header says exactly what is given."""
    make_header: Any = nib.Nifti1Header
    header = make_header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(VOXELS.shape[::-1])
    header.set_sform(oblique() if sform is None else sform, code=0 if sform is None else 1)
    header.set_qform(oblique() if qform is None else qform, code=0 if qform is None else 1)
    header["pixdim"][1:4], header["xyzt_units"] = pixdim, units
    header["pixdim"][0] = header["pixdim"][0] if qfac is None else qfac
    header["vox_offset"], header["magic"], header["scl_slope"] = 352, b"n+1", 1
    path.write_bytes(header.binaryblock + bytes(4) + VOXELS.tobytes())
    return path


def inspected(path: Path, **limits: Any) -> ScanHeader:
    return inspect(str(path), "CT", replace(CONFIG, preflight=PreflightConfig(**limits)))[0]


@pytest.mark.parametrize("with_qform", [False, True])
@pytest.mark.parametrize(
    ("of_sform", "of_pixdim"),
    [((1.0, 1.0, 1.0), SPACING_MM), (SPACING_MM, (1.0, 1.0, 1.0)), (SPACING_MM, (0.8, 0.8, 5.3))],
)
def test_an_sform_and_a_pixdim_that_contradict_each_other_are_refused(
    tmp_path: Path, of_sform: tuple[float, float, float], of_pixdim: tuple[float, float, float], with_qform: bool
) -> None:
    qform = oblique(of_pixdim) if with_qform else None
    path = written(tmp_path / "scan.nii", oblique(of_sform), of_pixdim, qform)
    numbers = [" x ".join(f"{mm:g}" for mm in spacing) for spacing in (of_sform, of_pixdim)]
    also = " and a qform" if with_qform else ""
    message = (
        f"conflicting_geometry: voxels are {numbers[0]} mm by the sform and {numbers[1]} mm by pixdim{also}; needed"
    )
    with pytest.raises(ScanRejected, match=message):
        inspected(path, spacing_mm_max=20.0)
    np.testing.assert_allclose(inspected(path, require_agreement=False).spacing_mm, of_sform, rtol=1e-5)


@pytest.mark.parametrize(
    "pixdim", [SPACING_MM, (0.8, 0.8, 5.2), (0.0, 0.0, 0.0), (np.nan, 0.8, 5.0), (0.8, 0.8, 0.0), (-0.8, 0.8, 5.0)]
)
def test_a_pixdim_that_says_the_same_or_nothing_is_no_contradiction(tmp_path: Path, pixdim: tuple[float, ...]) -> None:
    header = inspected(written(tmp_path / "scan.nii", oblique(), pixdim))
    np.testing.assert_allclose(header.spacing_mm, SPACING_MM, rtol=1e-5)


@pytest.mark.parametrize("pixdim_along", ["slices apart", "table"])
def test_a_tilted_gantry_is_no_contradiction_whichever_way_the_slices_are_counted(
    tmp_path: Path, pixdim_along: str
) -> None:
    tilt = math.radians(25)
    sheared = oblique()
    sheared[:3, 2] += math.tan(tilt) * 5 * sheared[:3, 1] / 0.8
    z_mm = 5.0 if pixdim_along == "slices apart" else 5.0 / math.cos(tilt)
    inspected(written(tmp_path / "scan.nii", sheared, (0.8, 0.8, z_mm)))
    with pytest.raises(ScanRejected, match="conflicting_geometry"):
        inspected(written(tmp_path / "scan.nii", sheared, (0.8, 0.8, 4.0)))


def test_an_sform_that_mirrors_what_the_qform_does_not_is_refused(tmp_path: Path) -> None:
    mirrored = oblique() * (-1, 1, 1, 1)
    inspected(written(tmp_path / "same.nii", mirrored, qform=mirrored))
    inspected(written(tmp_path / "unsaid.nii", mirrored, qform=oblique(), qfac=0.0))
    path = written(tmp_path / "scan.nii", mirrored, qform=oblique())
    with pytest.raises(ScanRejected, match="conflicting_geometry: only one of sform and qform mirrors the volume"):
        inspected(path)
    inspected(path, require_agreement=False)


@pytest.mark.parametrize(("units", "per_mm"), [(0, 1.0), (2, 1.0), (10, 1.0), (3, 1000.0), (11, 1000.0), (1, 0.001)])
@pytest.mark.parametrize("told_by", ["sform", "qform", "pixdim"])
def test_lengths_are_converted_to_mm(tmp_path: Path, units: int, per_mm: float, told_by: str) -> None:
    """Unit code 3 is micron, 1 is metre; the bits above 7 tell the unit of time."""
    in_units = oblique()
    in_units[:3] *= per_mm
    path = written(
        tmp_path / "scan.nii",
        in_units if told_by == "sform" else None,
        tuple(mm * per_mm for mm in SPACING_MM),
        in_units if told_by == "qform" else None,
        units,
    )
    header = inspected(path, require_orientation=False)
    np.testing.assert_allclose(header.spacing_mm, SPACING_MM, rtol=1e-5)
    if told_by != "pixdim":
        np.testing.assert_allclose(header.affine, oblique(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("units", "told", "found", "unit"),
    [(3, (12.0, 12.0, 12.0), "0.012 x 0.012 x 0.012", "0.001"), (1, SPACING_MM, "800 x 800 x 5000", "1000")],
)
def test_what_is_impossible_in_its_unit_is_refused_and_the_unit_named(
    tmp_path: Path, units: int, told: tuple[float, float, float], found: str, unit: str
) -> None:
    path = written(tmp_path / "scan.nii", oblique(told), told, units=units)
    message = rf"spacing_out_of_range: spacing is {found} mm \(the header counts in units of {unit} mm: xyzt_units\)"
    with pytest.raises(ScanRejected, match=message):
        inspected(path)


@pytest.mark.parametrize(("field", "offset"), [("scl_slope", 112), (r"pixdim\[3\]", 88)])
def test_an_integer_in_a_field_for_floats_is_named(tmp_path: Path, field: str, offset: int) -> None:
    path = written(tmp_path / "scan.nii", oblique())
    data = bytearray(path.read_bytes())
    data[offset : offset + 4] = np.int32(1).tobytes()
    path.write_bytes(data)
    with pytest.raises(
        ScanRejected, match=rf"nifti_load_failed: .*{field} is 1.4\d*e-45: an integer was written where"
    ):
        inspected(path)


@pytest.mark.parametrize("dims", [[4, 64, 64, 24, 0], [5, 64, 64, 24, 0, 0], [7, 64, 64, 24, 0, 1, 0, 0]])
def test_a_zero_beyond_the_third_axis_is_a_one_as_nifti_clib_reads_it(tmp_path: Path, dims: list[int]) -> None:
    path = written(tmp_path / "scan.nii", oblique())
    data = bytearray(path.read_bytes())
    data[40:56] = np.array([*dims, *[0] * (8 - len(dims))], "<i2").tobytes()
    path.write_bytes(data)
    header = inspected(path)
    assert header.volume_shape == (64, 64, 24)
    assert header.volume_bytes == VOXELS.nbytes
