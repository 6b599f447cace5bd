from __future__ import annotations

import numpy as np
import pytest

from prism_ssl.contracts import PATCH_SCALE, Float64
from prism_ssl.data.scan.geometry import apply_affine
from prism_ssl.data.views.pixel_transform import levels, pixel_to_voxel
from tests.unit.data.extract.test_cpu import AFFINES, noise_scan, pixels_mm, scattered_view


@pytest.mark.parametrize("patch_mm", [4.0, 16.0])
@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_the_lattice_leads_every_pixel_to_the_voxel_at_its_place(affine: Float64, patch_mm: float) -> None:
    scan = noise_scan("int16", affine)
    view = scattered_view(scan)
    row, column = np.indices((16, 16))
    pixels = np.empty((len(view.positions_mm), 16, 16, 6))
    pixels[..., :3] = view.positions_mm[:, None, None]
    pixels[..., 3], pixels[..., 4], pixels[..., 5] = column, row, 1.0
    voxels = pixels @ pixel_to_voxel(scan, view, patch_mm).T
    np.testing.assert_allclose(apply_affine(affine, voxels), pixels_mm(scan, view, patch_mm), atol=1e-9)


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (2.5, -1024.0), (-0.01, 3.0)])
def test_the_ends_of_the_window_are_the_ends_of_the_scale(slope: float, intercept: float) -> None:
    scan = noise_scan("int16", np.eye(4), slope, intercept)
    view = scattered_view(scan)
    half = view.window_width / 2
    values = np.array([view.window_center - half, view.window_center, view.window_center + half])
    found = levels(scan, view)
    raw = (values - intercept) / slope
    np.testing.assert_allclose(found.gain * raw + found.offset, [-PATCH_SCALE, 0, PATCH_SCALE], atol=1e-6)
    assert found.outside * slope + intercept == pytest.approx(scan.stats.lowest)
