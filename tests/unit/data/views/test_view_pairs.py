"""Laws of drawn views: where they may lie, and what their positions must not tell."""

from __future__ import annotations

import math

import numpy as np
import pytest

from prism_ssl.config.schema import ViewConfig
from prism_ssl.contracts import Float64, RobustStats, VisitKey
from prism_ssl.data.scan.geometry import apply_affine, euler_xyz_deg_to_matrix, inverse
from prism_ssl.data.views.view_pairs import Shape, View, draw_pair, draw_view, largest_radius_mm, pair_targets

STATS = RobustStats(lowest=-1000.0, median=40.0, std=200.0)
CONFIG = ViewConfig()
KEY = VisitKey("ct-0412", 0, 3)


def oblique_affine(spacing: tuple[float, float, float]) -> Float64:
    affine = np.eye(4)
    affine[:3, :3] = euler_xyz_deg_to_matrix((7.0, -11.0, 23.0)) * spacing * (-1, -1, 1)
    affine[:3, 3] = (120.0, 90.0, -340.0)
    return affine


def tilted_affine() -> Float64:
    affine = oblique_affine((0.8, 0.8, 5.0))
    affine[:3, 2] += 0.5 * 5 * affine[:3, 1]
    return affine


SCANS = [
    pytest.param(oblique_affine((0.7, 0.7, 1.0)), (512, 512, 300), id="ct"),
    pytest.param(oblique_affine((0.5, 0.5, 6.0)), (400, 400, 12), id="thick-slices"),
    pytest.param(oblique_affine((0.9, 3.0, 0.9)), (256, 15, 256), id="narrow"),
    pytest.param(oblique_affine((0.6, 0.6, 2.0)), (300, 300, 12), id="thin"),
    pytest.param(tilted_affine(), (256, 256, 20), id="tilted-gantry"),
]


def draw_many(affine: Float64, shape: Shape, n_views: int, n_patches: int) -> list[View]:
    rng = np.random.default_rng(5)
    return [draw_view(affine, shape, STATS, CONFIG, n_patches, rng) for _ in range(n_views)]


@pytest.mark.parametrize(("affine", "shape"), SCANS)
def test_the_ball_always_fits_inside_the_scan(affine: Float64, shape: Shape) -> None:
    directions = np.random.default_rng(0).standard_normal((400, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    for view in draw_many(affine, shape, 200, 1):
        surface = apply_affine(inverse(affine), view.center_mm + view.radius_mm * directions)
        assert surface.min() > -1e-6
        assert (surface - shape).max() < -1 + 1e-6


@pytest.mark.parametrize(("affine", "shape"), SCANS)
def test_no_larger_ball_than_the_largest_fits(affine: Float64, shape: Shape) -> None:
    """Oracle: the distance of the scan's middle to each of its six faces, from the corners of the scan."""
    corners = apply_affine(affine, np.stack(np.meshgrid(*([0, n - 1] for n in shape), indexing="ij"), axis=-1))
    middle = corners.mean(axis=(0, 1, 2))
    distances = []
    for face in (corners[0], corners[1], corners[:, 0], corners[:, 1], corners[:, :, 0], corners[:, :, 1]):
        normal = np.cross(face[0, 1] - face[0, 0], face[1, 0] - face[0, 0])
        distances.append(abs((middle - face[0, 0]) @ normal) / np.linalg.norm(normal))
    assert largest_radius_mm(affine, shape) == pytest.approx(min(distances))


def test_centres_reach_every_place_where_the_ball_fits() -> None:
    affine, shape = tilted_affine(), (256, 256, 40)
    config = ViewConfig(radius_mm_min=20.0, radius_mm_max=20.0)
    rng = np.random.default_rng(0)
    centers = [draw_view(affine, shape, STATS, config, 1, rng).center_mm for _ in range(4000)]
    voxels = apply_affine(inverse(affine), centers)
    margin = 20.0 * np.linalg.norm(inverse(affine)[:3, :3], axis=1)
    places = (voxels - margin) / (np.array(shape) - 1 - 2 * margin)
    for along_axis in places.T:
        counts, _ = np.histogram(along_axis, bins=8, range=(0, 1))
        assert counts.sum() == 4000
        assert np.abs(counts - 500).max() < 5 * math.sqrt(500)


@pytest.mark.parametrize("largest_mm", [10.0, 11.0, 20.0, 20.1, 25.0, 29.9, 30.0, 45.0])
@pytest.mark.parametrize("limits_mm", [(20.0, 30.0), (20.0, 20.0)])
def test_centres_differ_along_the_thinnest_axis_of_every_scan(
    largest_mm: float, limits_mm: tuple[float, float]
) -> None:
    """The radius is uniform up to the largest ball that fits, and small enough often enough for the centre to move."""
    shape = (100, 100, 13)
    affine = np.diag([2.0, 2.0, 2 * largest_mm / (shape[2] - 1), 1.0])
    config = ViewConfig(radius_mm_min=limits_mm[0], radius_mm_max=limits_mm[1])
    rng = np.random.default_rng(5)
    views = [draw_view(affine, shape, STATS, config, 1, rng) for _ in range(2000)]
    radii_mm = np.array([view.radius_mm for view in views])
    lowest_mm, highest_mm = min(limits_mm[0], largest_mm * 2 / 3), min(limits_mm[1], largest_mm)
    if lowest_mm < highest_mm:
        share = (radii_mm - lowest_mm) / (highest_mm - lowest_mm)
        assert 0 <= share.min() < 0.01
        assert 0.99 < share.max() <= 1
        assert share.mean() == pytest.approx(0.5, abs=5 * math.sqrt(1 / 12 / 2000))
    offset_mm = np.array([view.center_mm[2] for view in views]) - largest_mm
    assert np.all(np.abs(offset_mm) <= largest_mm - radii_mm + 1e-9)
    assert np.abs(offset_mm).max() > 0.9 * (largest_mm - lowest_mm)
    assert offset_mm.std() > largest_mm / 10


def test_radius_rotation_and_window_fill_their_ranges() -> None:
    views = draw_many(np.diag([0.7, 0.7, 1.0, 1.0]), (512, 512, 300), 2000, 1)
    drawn = {
        (20.0, 30.0): [view.radius_mm for view in views],
        (-10.0, 10.0): np.concatenate([view.rotation_deg for view in views]),
        (-160.0, 240.0): [view.window_center for view in views],
        (400.0, 1200.0): [view.window_width for view in views],
    }
    for (lowest, highest), values in drawn.items():
        share = (np.asarray(values) - lowest) / (highest - lowest)
        assert 0 <= share.min() < 0.01
        assert 0.99 < share.max() <= 1
        assert share.mean() == pytest.approx(0.5, abs=5 * math.sqrt(1 / 12 / len(share)))


def test_positions_are_uniform_in_the_ball() -> None:
    """The share of a ball within r is (r / R)^3, and the same in every direction."""
    affine, shape = np.diag([0.7, 0.7, 1.0, 1.0]), (512, 512, 300)
    views = draw_many(affine, shape, 40, 1024)
    positions = np.concatenate([view.positions_mm / view.radius_mm for view in views])
    distance = np.linalg.norm(positions, axis=1)
    assert distance.max() <= 1 + 1e-6
    counts, _ = np.histogram(distance**3, bins=16, range=(0, 1 + 1e-6))
    assert np.abs(counts - len(distance) / 16).max() < 5 * math.sqrt(len(distance) / 16)
    np.testing.assert_allclose(positions.T @ positions / len(positions), np.eye(3) / 5, atol=5 * 0.17 / 200)
    np.testing.assert_allclose(positions.mean(axis=0), 0, atol=5 * 0.45 / 200)


def test_positions_in_the_prism_frame_do_not_depend_on_the_rotation() -> None:
    """The same draws under other settings of the rotation give the same positions, and turned centres in RAS."""
    affine, shape = np.diag([0.7, 0.7, 1.0, 1.0]), (512, 512, 300)
    slight, strong = (
        draw_view(affine, shape, STATS, ViewConfig(rotation_max_deg=deg), 64, np.random.default_rng(3))
        for deg in (0.5, 45.0)
    )
    np.testing.assert_array_equal(slight.positions_mm, strong.positions_mm)
    np.testing.assert_array_equal(slight.center_mm, strong.center_mm)
    for view in (slight, strong):
        relative = view.patch_centers_mm() - view.center_mm
        np.testing.assert_allclose(relative @ euler_xyz_deg_to_matrix(view.rotation_deg), view.positions_mm, atol=1e-5)


@pytest.mark.parametrize(("affine", "shape"), SCANS[:2])
def test_positions_reveal_neither_rotation_nor_window(affine: Float64, shape: Shape) -> None:
    """A ridge probe on what a lattice or a slab would leave in the positions stays at chance (R^2 <= 0)."""
    views = draw_many(affine, shape, 1200, 128)
    features = np.array([_features(view) for view in views])
    targets = np.array([(*view.rotation_deg, view.window_center, view.window_width) for view in views])
    assert _explained(features, targets).max() < 0.03


def test_the_probe_would_see_centres_rounded_to_voxels() -> None:
    """The probe above can fail: positions of a thick-slice scan on its lattice give the rotation away."""
    affine, shape = np.diag([0.7, 0.7, 6.0, 1.0]), (512, 512, 40)
    features, targets = [], []
    for view in draw_many(affine, shape, 1200, 128):
        on_lattice = apply_affine(affine, np.round(apply_affine(inverse(affine), view.patch_centers_mm())))
        features.append(_lattice_features((on_lattice - view.center_mm) @ view.rotation))
        targets.append(view.rotation_deg)
    assert _explained(np.array(features), np.array(targets))[:2].min() > 0.2


def _features(view: View) -> Float64:
    return _lattice_features(view.positions_mm.astype(np.float64))


def _lattice_features(positions_mm: Float64) -> Float64:
    """Moments, extents, and how well 11 x 11 tilted planes 6 mm apart hold the positions."""
    tilts = np.radians(np.linspace(-10, 10, 11))
    x, y = (grid.ravel() for grid in np.meshgrid(tilts, tilts))
    normals = np.stack([-np.sin(y), np.sin(x) * np.cos(y), np.cos(x) * np.cos(y)])
    planes = np.abs(np.exp(2j * np.pi / 6.0 * (positions_mm @ normals)).mean(axis=0))
    moments = np.cov(positions_mm.T)[np.triu_indices(3)]
    extents = [*positions_mm.min(axis=0), *positions_mm.max(axis=0), np.linalg.norm(positions_mm, axis=1).max()]
    return np.concatenate([planes, moments, positions_mm.mean(axis=0), extents])


def _explained(features: Float64, targets: Float64) -> Float64:
    """R^2 on held-out rows of a ridge regression, per target."""
    features = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-9)
    targets = (targets - targets.mean(axis=0)) / targets.std(axis=0)
    half = len(features) // 2
    gram = features[:half].T @ features[:half] + 300.0 * np.eye(features.shape[1])
    weights = np.linalg.solve(gram, features[:half].T @ targets[:half])
    residual = targets[half:] - features[half:] @ weights
    explained: Float64 = 1 - np.square(residual).sum(axis=0) / np.square(targets[half:]).sum(axis=0)
    return explained


def test_seed_and_visit_alone_fix_a_pair() -> None:
    affine, shape = oblique_affine((0.7, 0.7, 1.0)), (512, 512, 300)
    first = draw_pair(affine, shape, STATS, CONFIG, 16, 7, KEY)
    draw_pair(affine, shape, STATS, CONFIG, 16, 7, VisitKey("another", 0, 0))
    again = draw_pair(affine, shape, STATS, CONFIG, 16, 7, KEY)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.positions_mm, other.positions_mm)
        np.testing.assert_array_equal(one.center_mm, other.center_mm)
        np.testing.assert_array_equal(one.rotation_deg, other.rotation_deg)
        assert (one.window_center, one.window_width) == (other.window_center, other.window_width)


@pytest.mark.parametrize(
    ("seed", "key"),
    [(8, KEY), (7, VisitKey("ct-0413", 0, 3)), (7, VisitKey("ct-0412", 1, 3)), (7, VisitKey("ct-0412", 0, 4))],
)
def test_another_seed_scan_epoch_or_visit_gives_another_pair(seed: int, key: VisitKey) -> None:
    affine, shape = oblique_affine((0.7, 0.7, 1.0)), (512, 512, 300)
    pairs = [draw_pair(affine, shape, STATS, CONFIG, 1, *names) for names in ((7, KEY), (seed, key))]
    centers = np.array([view.center_mm for pair in pairs for view in pair])
    assert len(np.unique(centers, axis=0)) == 4


def test_targets_are_b_minus_a() -> None:
    a, b = draw_pair(np.eye(4), (100, 100, 100), STATS, CONFIG, 4, 0, KEY)
    targets, reverse = pair_targets(a, b), pair_targets(b, a)
    np.testing.assert_allclose(targets.center_delta_mm, b.center_mm - a.center_mm, rtol=1e-6)
    np.testing.assert_allclose(targets.rotation_delta_deg, b.rotation_deg - a.rotation_deg, rtol=1e-6)
    expected = [b.window_center - a.window_center, b.window_width - a.window_width]
    np.testing.assert_allclose(targets.window_delta, expected, rtol=1e-6)
    np.testing.assert_array_equal(reverse.window_delta, -targets.window_delta)
    assert {targets.center_delta_mm.dtype, targets.rotation_delta_deg.dtype, targets.window_delta.dtype} == {
        np.dtype(np.float32)
    }
