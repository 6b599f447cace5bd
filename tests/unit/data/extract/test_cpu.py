"""Extraction against an independent, slow oracle, and laws it must keep."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from llvmlite import binding as llvm
from scipy.ndimage import map_coordinates

from prism_ssl.contracts import PATCH_SCALE, Float64, RobustStats
from prism_ssl.data.extract import cpu
from prism_ssl.data.extract.cpu import extract_view, warm_up
from prism_ssl.data.scan.geometry import acquisition_frame, euler_xyz_deg_to_matrix
from prism_ssl.data.scan.nifti import OpenScan
from prism_ssl.data.views.view_pairs import View

SHAPE = (44, 40, 30)
DTYPES = ["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "float32", "float64"]
TOLERANCE = 5e-4  # of half the window; fixed point alone takes 1.5e-5


def centered(axes: Float64) -> Float64:
    """Affine with these voxel axes whose volume has its middle at (12, -7, 30) mm."""
    affine = np.eye(4)
    affine[:3, :3] = axes
    affine[:3, 3] = (12, -7, 30) - axes @ ((np.array(SHAPE) - 1) / 2)
    return affine


TURNED = euler_xyz_deg_to_matrix((9.0, -14.0, 31.0))
SHEAR = np.array([[1.0, 0.1, 0.0], [0.0, 1.0, 0.4], [0.0, 0.0, 1.0]])
AFFINES = {
    "straight": centered(np.diag([1.3, 1.1, 2.0])),
    "flipped": centered(np.diag([-1.3, -1.1, 2.0])),
    "coronal": centered(np.array([[1.1, 0, 0], [0, 0, -2.4], [0, 1.2, 0]])),
    "oblique": centered(TURNED * (1.2, 0.9, 2.2)),
    "sheared": centered(TURNED @ SHEAR * (1.2, 1.4, 2.6)),
}


def noise_scan(dtype: str, affine: Float64, slope: float = 1.0, intercept: float = 0.0) -> OpenScan:
    rng = np.random.default_rng(1)
    nz, ny, nx = SHAPE[::-1]
    kind = np.dtype(dtype)
    lowest, highest = (
        (-100, 100) if kind.kind == "f" else (max(np.iinfo(kind).min, -900), min(np.iinfo(kind).max, 3000))
    )
    voxels = rng.uniform(lowest, highest, (nz, ny, nx)).astype(kind)
    values = voxels.astype(np.float64) * slope + intercept
    return OpenScan(voxels, slope, intercept, affine, RobustStats(values.min(), np.median(values), values.std()))


def scattered_view(scan: OpenScan, n_patches: int = 60, rotation_deg: tuple[float, ...] = (6.0, -9.0, 4.0)) -> View:
    """Patch centres from the middle of the scan to well outside."""
    rng = np.random.default_rng(2)
    spread = np.linspace(0, 1, n_patches)[:, None] ** 2 * 60
    positions = (rng.uniform(-1, 1, (n_patches, 3)) * spread).astype(np.float32)
    rotation = np.array(rotation_deg)
    return View(np.array([12.0, -7.0, 30.0]), 60.0, rotation, scan.stats.median, 2.5 * scan.stats.std, positions)


def pixels_mm(scan: OpenScan, view: View, patch_mm: float) -> Float64:
    """RAS position of every pixel, [N, 16, 16, 3], from the definition."""
    turn = euler_xyz_deg_to_matrix(view.rotation_deg)
    u, v, _ = (turn @ acquisition_frame(scan.affine)).T
    offset = (np.arange(16) - 7.5) * patch_mm / 16
    plane = offset[None, :, None] * u + offset[:, None, None] * v
    centers = view.center_mm + view.positions_mm.astype(np.float64) @ turn.T
    pixels: Float64 = centers[:, None, None] + plane
    return pixels


def oracle(scan: OpenScan, view: View, patch_mm: float) -> Float64:
    """scipy, float64, rescaled first."""
    values = (scan.voxels.astype(np.float64) * scan.slope + scan.intercept).transpose(2, 1, 0)
    homogeneous = np.insert(pixels_mm(scan, view, patch_mm), 3, 1.0, axis=-1)
    ijk = np.linalg.solve(scan.affine, homogeneous.reshape(-1, 4).T)[:3]
    sampled = map_coordinates(values, ijk, order=1, mode="grid-constant", cval=scan.stats.lowest)
    windowed = (sampled.reshape(-1, 16, 16) - view.window_center) / (view.window_width / 2)
    clipped: Float64 = np.clip(windowed, -1, 1)
    return clipped


def extracted(scan: OpenScan, view: View, patch_mm: float = 16.0) -> Float64:
    out = np.full((len(view.positions_mm), 16, 16), 12345, np.int16)
    extract_view(scan, view, patch_mm, out)
    windowed: Float64 = out / PATCH_SCALE
    return windowed


def looking_at(center_mm: tuple[float, ...], window: tuple[float, float], n_patches: int = 1) -> View:
    positions = np.zeros((n_patches, 3), np.float32)
    return View(np.array(center_mm, dtype=np.float64), 1.0, np.zeros(3), *window, positions)


@pytest.mark.parametrize("patch_mm", [4.0, 16.0, 45.0])
@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_agrees_with_scipy_inside_on_the_border_and_outside(affine: Float64, patch_mm: float) -> None:
    scan = noise_scan("int16", affine, slope=0.5, intercept=-200.0)
    view = scattered_view(scan)
    np.testing.assert_allclose(extracted(scan, view, patch_mm), oracle(scan, view, patch_mm), atol=TOLERANCE)


def test_the_scattered_view_has_patches_inside_on_the_border_and_outside() -> None:
    for affine in AFFINES.values():
        scan = noise_scan("int16", affine)
        ijk = np.linalg.solve(affine[:3, :3], (pixels_mm(scan, scattered_view(scan), 16.0) - affine[:3, 3])[..., None])
        inside = ((ijk[..., 0] > 0) & (ijk[..., 0] < np.array(SHAPE) - 1)).all(axis=-1)
        share = inside.mean(axis=(1, 2))
        assert min((share == 1).sum(), (share == 0).sum(), ((share > 0) & (share < 1)).sum()) >= 3


@pytest.mark.parametrize("affine", ["flipped", "sheared"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (2.5, -1024.0), (-0.01, 3.0)])
def test_every_voxel_type_agrees_with_scipy(dtype: str, slope: float, intercept: float, affine: str) -> None:
    scan = noise_scan(dtype, AFFINES[affine], slope, intercept)
    view = scattered_view(scan)
    expected = oracle(scan, view, 16.0)
    assert np.abs(expected).min() < 0.01 < 0.3 < expected.std()
    np.testing.assert_allclose(extracted(scan, view), expected, atol=TOLERANCE)


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
@pytest.mark.parametrize("axis", [0, 1, 2], ids=["x", "y", "z"])
def test_a_volume_equal_to_its_own_coordinate_yields_positions(affine: Float64, axis: int) -> None:
    k, j, i = np.indices(SHAPE[::-1])
    coordinate_mm = affine[axis, 0] * i + affine[axis, 1] * j + affine[axis, 2] * k + affine[axis, 3]
    scan = OpenScan(coordinate_mm.astype(np.float32), 1.0, 0.0, affine, RobustStats(-1000.0, 0.0, 1.0))
    view = looking_at((12.0, -7.0, 30.0), (0.0, 200.0), n_patches=20)
    view.positions_mm[:] = np.random.default_rng(0).uniform(-3, 3, (20, 3))
    view.rotation_deg[:] = (5.0, -8.0, 3.0)
    np.testing.assert_allclose(100 * extracted(scan, view), pixels_mm(scan, view, 16.0)[..., axis], atol=4e-3)


def test_rotating_by_zero_changes_nothing() -> None:
    """On 1 mm voxels an unturned patch is a block of the volume: columns to the right, rows to the front."""
    scan = noise_scan("int16", np.eye(4))
    view = looking_at((19.5, 17.5, 11.0), (1000.0, 8000.0))
    expected = (scan.voxels[11, 10:26, 12:28] - 1000.0) / 4000.0
    np.testing.assert_allclose(extracted(scan, view)[0], expected, atol=2e-5)


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (-1, -1, 1), (1, -1, -1)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_the_same_anatomy_gives_the_same_patches_however_it_is_stored(
    order: tuple[int, int, int], flips: tuple[int, int, int]
) -> None:
    scan = noise_scan("int16", AFFINES["oblique"])
    stored = np.zeros((4, 4))
    stored[3, 3] = 1
    ijk_voxels = scan.voxels.transpose(2, 1, 0).transpose(order)
    for axis, (source, sign) in enumerate(zip(order, flips, strict=True)):
        stored[source, axis] = sign
        stored[source, 3] = 0 if sign > 0 else SHAPE[source] - 1
    voxels = np.ascontiguousarray(ijk_voxels[tuple(slice(None, None, sign) for sign in flips)].transpose(2, 1, 0))
    other = OpenScan(voxels, 1.0, 0.0, scan.affine @ stored, scan.stats)
    view = scattered_view(scan)
    np.testing.assert_allclose(extracted(other, view), extracted(scan, view), atol=1e-4)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float64"])
def test_outside_the_volume_is_air_not_zero(dtype: str) -> None:
    voxels = np.full(SHAPE[::-1], 90, dtype)
    scan = OpenScan(voxels, 2.0, -1000.0, AFFINES["straight"], RobustStats(-1003.0, 0.0, 1.0))
    view = looking_at((12.0, 500.0, 30.0), (-1000.0, 40.0), n_patches=3)
    np.testing.assert_allclose(extracted(scan, view), -3 / 20, atol=2e-5)


def test_values_beyond_the_window_saturate() -> None:
    scan = noise_scan("int16", AFFINES["straight"])
    above, below = (extracted(scan, looking_at((12.0, -7.0, 30.0), (level, 1.0))) for level in (-1e5, 1e5))
    assert (above == 1).all()
    assert (below == -1).all()


def test_a_read_only_memory_map_is_read_in_place(tmp_path: Path) -> None:
    scan = noise_scan("int16", AFFINES["oblique"])
    (tmp_path / "voxels.raw").write_bytes(b"header" + scan.voxels.tobytes())
    mapped = np.memmap(tmp_path / "voxels.raw", np.int16, "r", offset=6, shape=SHAPE[::-1])
    view = scattered_view(scan)
    same = extracted(OpenScan(mapped, 1.0, 0.0, scan.affine, scan.stats), view)
    np.testing.assert_array_equal(same, extracted(scan, view))
    assert scan.voxels.flags.writeable


def test_a_scan_of_one_voxel_and_a_view_of_no_patch_are_no_special_cases() -> None:
    scan = OpenScan(np.full((1, 1, 1), 7, np.int16), 1.0, 0.0, np.eye(4), RobustStats(0.0, 0.0, 1.0))
    view = looking_at((0.5, 0.5, 0.0), (0.0, 20.0))
    np.testing.assert_allclose(extracted(scan, view), oracle(scan, view, 16.0), atol=2e-5)
    assert extracted(scan, looking_at((0.0, 0.0, 0.0), (0.0, 20.0), n_patches=0)).shape == (0, 16, 16)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_not_a_number_harms_only_the_pixels_beside_it(dtype: str) -> None:
    scan = noise_scan(dtype, np.eye(4))
    view = looking_at((19.5, 17.5, 11.0), (0.0, 200.0))
    clean = extracted(scan, view)
    scan.voxels[11, 15, 20] = np.nan
    dirty = extracted(scan, view)
    beside = np.zeros((16, 16), bool)
    beside[4:7, 7:10] = True
    np.testing.assert_array_equal(dirty[0, ~beside], clean[0, ~beside])


@pytest.mark.parametrize("nowhere", [-1e30, -1e9, 1e9, 1e18])
def test_a_view_far_from_the_scan_sees_air(nowhere: float) -> None:
    scan = noise_scan("int16", np.eye(4))
    view = looking_at((nowhere, 17.5, 11.0), (scan.stats.lowest + 10, 40.0))
    np.testing.assert_allclose(extracted(scan, view), -0.5, atol=2e-5)


def test_a_volume_of_more_than_two_gigavoxels_is_reached_to_its_end() -> None:
    """Columns run down through 94 of 100 planes of 2.3e7 voxels; few of the zeros are ever touched."""
    voxels = np.zeros((100, 4800, 4800), np.uint8)
    voxels[:, 2340:2460, 2390:2410] = np.arange(100)[:, None, None]
    scan = OpenScan(voxels, 1.0, 0.0, np.eye(4), RobustStats(0.0, 0.0, 1.0))
    view = looking_at((2400.0, 2400.0, 49.5), (50.0, 100.0))
    view.rotation_deg[:] = (0.0, 90.0, 0.0)
    z_mm = 49.5 - (np.arange(16) - 7.5) * 6.25
    np.testing.assert_allclose(50 + 50 * extracted(scan, view, 100.0)[0], np.tile(z_mm, (16, 1)), atol=2e-3)


def test_patches_of_another_shape_or_type_are_refused() -> None:
    scan, view = noise_scan("int16", np.eye(4)), looking_at((0.0, 0.0, 0.0), (0.0, 1.0), n_patches=2)
    with pytest.raises(ValueError, match=r"out is int16 \(3, 16, 16\); needed: int16 \(2, 16, 16\)"):
        extract_view(scan, view, 16.0, np.empty((3, 16, 16), np.int16))
    wrong: npt.NDArray[Any] = np.empty((2, 16, 16), np.uint16)
    with pytest.raises(ValueError, match="out is uint16"):
        extract_view(scan, view, 16.0, wrong)


def test_strided_memory_is_refused_rather_than_copied() -> None:
    scan, view = noise_scan("int16", np.eye(4)), looking_at((0.0, 0.0, 0.0), (0.0, 1.0), n_patches=2)
    with pytest.raises(ValueError, match=r"out has strides .* C-contiguous"):
        extract_view(scan, view, 16.0, np.empty((4, 16, 16), np.int16)[::2])
    strided = OpenScan(scan.voxels[:, :, ::2], 1.0, 0.0, scan.affine, scan.stats)
    with pytest.raises(ValueError, match=r"scan.voxels has strides .* C-contiguous"):
        extract_view(strided, view, 16.0, np.empty((2, 16, 16), np.int16))


@pytest.mark.parametrize("given", [None, "elsewhere"])
def test_compiled_code_is_kept_under_the_temporary_root_unless_told_otherwise(
    tmp_path: Path, given: str | None
) -> None:
    code = "import prism_ssl.data.extract.cpu, numba; print(numba.config.CACHE_DIR)"
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    if given:
        environment["NUMBA_CACHE_DIR"] = str(tmp_path / given)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    folder = Path(done.stdout.strip())
    if given:
        assert folder == tmp_path / given
    else:
        assert (folder.parent.name, folder.name.partition("-")[0]) == ("prism_ssl", "numba")


_CUT_OUT = """
import sys, numpy as np
from tests.unit.data.extract.test_cpu import AFFINES, noise_scan, scattered_view
from prism_ssl.data.extract.cpu import extract_view
cut = {}
for dtype in ("int16", "float32"):
    scan = noise_scan(dtype, AFFINES["oblique"], 0.5, -3.0)
    view = scattered_view(scan)
    cut[dtype] = np.empty((len(view.positions_mm), 16, 16), np.int16)
    extract_view(scan, view, 16.0, cut[dtype])
np.savez(sys.argv[1], **cut)
"""


def test_every_processor_cuts_out_the_same_pixels(tmp_path: Path) -> None:
    """Machines that load lanes in turn or by one instruction, in vectors of any width."""
    features = llvm.get_host_cpu_features()
    narrow = ",".join(f"{'+' if on and 'avx512' not in name else '-'}{name}" for name, on in features.items())
    for name, extra in {"wide": {}, "narrow": {"NUMBA_CPU_FEATURES": narrow}}.items():
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / name), **extra}
        command = [sys.executable, "-c", _CUT_OUT, str(tmp_path / f"{name}.npz")]
        subprocess.run(command, env=environment, cwd=Path(__file__).parents[4], check=True)
    wide, narrow_cut = np.load(tmp_path / "wide.npz"), np.load(tmp_path / "narrow.npz")
    for dtype in ("int16", "float32"):
        difference = np.abs(wide[dtype].astype(np.int32) - narrow_cut[dtype].astype(np.int32))
        assert difference.max() <= TOLERANCE * PATCH_SCALE
        assert (difference > 1).mean() < 0.01  # where a lane lies is rounded from another place


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
def test_after_warming_up_nothing_is_left_to_compile(dtype: str) -> None:
    kernel: Any = cpu._fill_patches
    warm_up(dtype)
    compiled = list(kernel.signatures)
    scan = noise_scan(dtype, AFFINES["sheared"])
    extracted(scan, scattered_view(scan))
    scan.voxels.flags.writeable = False
    extracted(scan, scattered_view(scan))
    assert kernel.signatures == compiled
