"""What counts as a view that shows nothing, on volumes of which it is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from prism_ssl.config.schema import ViewConfig
from prism_ssl.contracts import PATCH_PX, Float64, RobustStats, VisitKey
from prism_ssl.data.extract.cpu import extract_view
from prism_ssl.data.extract.visibility import (
    LOOKED_AT_PATCHES,
    _surely_inside,
    kinds_of,
    measure_visibility,
    view_shares,
)
from prism_ssl.data.scan.nifti import OpenScan
from prism_ssl.data.views.pixel_transform import pixel_to_voxel
from prism_ssl.data.views.view_pairs import View, draw_pair
from tests.support.pool_fakes import noise_scan

PATCH_MM = 16.0


def half_and_half(low: float, high: float) -> OpenScan:
    """Left half ``low``, right half ``high``, 64 mm along each side."""
    voxels = np.empty((64, 64, 64), np.int16)
    voxels[:, :, :32], voxels[:, :, 32:] = low, high
    return OpenScan(voxels, 1.0, 0.0, np.eye(4), RobustStats(low, (low + high) / 2, 100.0))


def view_at(x_mm: float, window: tuple[float, float], radius_mm: float = 8.0, n_patches: int = 100) -> View:
    """A prism in the middle of y and z whose patches lie within a ball."""
    rng = np.random.default_rng(0)
    positions = (rng.uniform(-radius_mm, radius_mm, (n_patches, 3)) / 2).astype(np.float32)
    return View(np.array([x_mm, 31.5, 31.5]), radius_mm, np.zeros(3), *window, positions)


def found(scan: OpenScan, view: View) -> list[str]:
    return kinds_of(measure_visibility(scan, view, PATCH_MM).bits)


def test_a_view_beyond_its_window_is_saturated_and_flat_and_empty() -> None:
    scan = half_and_half(0, 1000)
    assert found(scan, view_at(16, (1000, 200))) == ["views_saturated", "views_flat", "views_empty"]
    assert measure_visibility(scan, view_at(31.5, (500, 200)), PATCH_MM).saturated_share == pytest.approx(1.0, abs=0.1)
    assert found(scan, view_at(31.5, (500, 200))) == ["views_saturated", "views_empty"]  # an edge, and no gray


def test_a_view_of_one_value_within_its_window_is_flat_and_not_saturated() -> None:
    assert found(half_and_half(0, 1000), view_at(16, (0, 2000))) == ["views_flat", "views_empty"]


def test_a_view_of_tissue_shows_something() -> None:
    assert (
        found(noise_scan(0, (64, 64, 64)), replace(view_at(0, (0, 2000)), center_mm=np.array([-48.0, 48.0, 48.0])))
        == []
    )


@pytest.mark.parametrize(("x_mm", "share"), [(31.5, 0.0), (-0.5, 0.5), (-40.0, 1.0), (63.5, 0.5)])
def test_outside_is_what_lies_beyond_the_outermost_faces(x_mm: float, share: float) -> None:
    scan = half_and_half(0, 1000)
    visibility = measure_visibility(scan, view_at(x_mm, (500, 2000), n_patches=LOOKED_AT_PATCHES), PATCH_MM)
    assert visibility.outside_share == pytest.approx(share, abs=0.1)
    assert ("views_outside" in kinds_of(visibility.bits)) == (visibility.outside_share >= 0.5)


def _all_places(scan: OpenScan, view: View) -> Float64:
    """Voxel coordinates of every pixel, [3, N, 16, 16], the plain way."""
    matrix = pixel_to_voxel(scan, view, PATCH_MM)
    column, row = np.meshgrid(np.arange(PATCH_PX), np.arange(PATCH_PX))
    offset = matrix[:, 3, None, None] * column + matrix[:, 4, None, None] * row + matrix[:, 5, None, None]
    centre: Float64 = (matrix[:, :3] @ view.positions_mm.T)[:, :, None, None]
    return centre + offset[:, None]


@pytest.mark.parametrize("shape", [(64, 64, 64), (20, 40, 50)])
def test_what_is_surely_inside_has_no_pixel_outside(shape: tuple[int, int, int]) -> None:
    scan, config = noise_scan(0, shape), ViewConfig(radius_mm_min=10.0, radius_mm_max=20.0)
    views = [
        view
        for visit in range(100)
        for view in draw_pair(scan.affine, scan.shape, scan.stats, config, 64, 0, VisitKey("scan", 0, visit))
    ]
    inside = [view for view in views if _surely_inside(scan, view.radius_mm, pixel_to_voxel(scan, view, PATCH_MM))]
    for view in inside:
        places, faces = _all_places(scan, view), np.asarray(scan.shape)[:, None, None, None] - 0.5
        assert ((places >= -0.5) & (places <= faces)).all()
    assert 0 < len(inside) < len(views)


def test_the_consumer_that_cuts_counts_what_the_actor_that_cuts_does() -> None:
    scan, view = half_and_half(0, 1000), view_at(28, (200, 900), n_patches=300)
    patches = np.empty((300, PATCH_PX, PATCH_PX), np.int16)
    extract_view(scan, view, PATCH_MM, patches)
    assert measure_visibility(scan, view, PATCH_MM) == measure_visibility(scan, view, PATCH_MM, patches)


def test_shares_are_of_the_views_since_the_row_before() -> None:
    before = {"pairs": 100.0, "views_empty": 50.0}
    assert view_shares(before, {"pairs": 200.0, "views_empty": 60.0}) == {"views_empty_share": 0.05}
    assert view_shares({}, {"pairs": 100.0, "views_empty": 50.0}) == {"views_empty_share": 0.25}
    assert view_shares(before, before) == view_shares({}, {}) == {}
