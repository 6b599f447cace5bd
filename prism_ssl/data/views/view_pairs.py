"""Draw views: centre, rotation, window, patch positions; and how two views differ (pure)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from prism_ssl.config.schema import ViewConfig
from prism_ssl.contracts import Float32, Float64, RobustStats, VisitKey
from prism_ssl.data.scan import apply_affine, euler_xyz_deg_to_matrix, inverse, plane_distance_mm
from prism_ssl.utils.seeds import generator_for

Shape = tuple[int, int, int]

ROOM_SHARE = 1 / 3
"""Share of the way from a scan's middle to its nearest face that the smallest ball leaves free for its centre."""


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One prism. ``positions_mm`` are the patch centres in the prism frame; the window is in rescaled units."""

    center_mm: Float64  # [3] RAS
    radius_mm: float
    rotation_deg: Float64  # [3] extrinsic xyz
    window_center: float
    window_width: float
    positions_mm: Float32  # [N, 3]

    @property
    def rotation(self) -> Float64:
        """Prism frame -> RAS, [3, 3]."""
        return euler_xyz_deg_to_matrix(self.rotation_deg)

    def patch_centers_mm(self) -> Float64:
        """Patch centres in RAS, [N, 3]."""
        centers: Float64 = self.positions_mm @ self.rotation.T + self.center_mm
        return centers

    def first_patches(self, n: int) -> View:
        """The same view with its first ``n`` patches only."""
        return replace(self, positions_mm=self.positions_mm[:n])


@dataclass(frozen=True, slots=True, eq=False)
class PairTargets:
    """How view b differs from view a."""

    center_delta_mm: Float32  # [3] RAS
    rotation_delta_deg: Float32  # [3]
    window_delta: Float32  # [2] centre, width


def largest_radius_mm(affine: Float64, shape: Shape) -> float:
    """Radius of the largest ball between the outermost voxel centres of a scan, sheared ones included."""
    return _largest_radius_mm(plane_distance_mm(affine), shape)


def draw_view(
    affine: Float64, shape: Shape, stats: RobustStats, config: ViewConfig, n_patches: int, rng: np.random.Generator
) -> View:
    """One prism within a scan, fixed by the state of ``rng``.

    The ball lies between the outermost voxel centres. Its radius is uniform between ``config``'s limits; where the scan
    is too small for them, up to the largest ball and down to two thirds of it, so that centres differ along every axis.
    Preflight checks that the scan holds a ball of ``radius_mm_floor``; see ``largest_radius_mm``.
    """
    distance_mm = plane_distance_mm(affine)
    radius_mm = _draw_radius_mm(_largest_radius_mm(distance_mm, shape), config, rng)
    return _draw_rest(
        lambda: _draw_center_mm(affine, shape, radius_mm / distance_mm, rng), radius_mm, stats, config, n_patches, rng
    )


def draw_view_at(
    center_mm: Float64,
    affine: Float64,
    shape: Shape,
    stats: RobustStats,
    config: ViewConfig,
    n_patches: int,
    rng: np.random.Generator,
) -> View:
    """``draw_view`` with a given centre (RAS [3]): the ball shrinks near the faces of the scan."""
    radius_mm = _draw_radius_mm(float(room_mm(affine, shape, center_mm[None])[0]), config, rng)
    return _draw_rest(lambda: center_mm, radius_mm, stats, config, n_patches, rng)


def room_mm(affine: Float64, shape: Shape, points_mm: Float64) -> Float64:
    """Radius of the largest ball about each RAS point [M, 3] between the outermost voxel centres; below 0 outside."""
    voxels = apply_affine(inverse(affine), points_mm)
    to_face = np.minimum(voxels, np.asarray(shape) - 1 - voxels) * plane_distance_mm(affine)
    room: Float64 = to_face.min(axis=1)
    return room


def draw_pair(
    affine: Float64, shape: Shape, stats: RobustStats, config: ViewConfig, n_patches: int, seed: int, key: VisitKey
) -> tuple[View, View]:
    """The two independent views (a, b) of one visit; ``seed`` and ``key`` alone fix the draws."""
    rng_a, rng_b = (generator_for(seed, key.scan_id, key.epoch, key.visit, side) for side in (0, 1))
    a = draw_view(affine, shape, stats, config, n_patches, rng_a)
    b = draw_view(affine, shape, stats, config, n_patches, rng_b)
    return a, b


def pair_targets(a: View, b: View) -> PairTargets:
    """b - a, in the units of the views."""
    window_delta = (b.window_center - a.window_center, b.window_width - a.window_width)
    return PairTargets(
        center_delta_mm=(b.center_mm - a.center_mm).astype(np.float32),
        rotation_delta_deg=(b.rotation_deg - a.rotation_deg).astype(np.float32),
        window_delta=np.array(window_delta, dtype=np.float32),
    )


def _draw_rest(
    center_mm: Callable[[], Float64],
    radius_mm: float,
    stats: RobustStats,
    config: ViewConfig,
    n_patches: int,
    rng: np.random.Generator,
) -> View:
    width_std = rng.uniform(config.window_width_std_min, config.window_width_std_max)
    return View(
        center_mm=center_mm(),  # drawn here, since the order of the draws fixes every view of a seed
        radius_mm=radius_mm,
        rotation_deg=rng.uniform(-config.rotation_max_deg, config.rotation_max_deg, 3),
        window_center=stats.median + stats.std * rng.uniform(-1.0, 1.0),
        window_width=stats.std * width_std,
        positions_mm=draw_in_ball(n_patches, radius_mm, rng),
    )


def _largest_radius_mm(distance_mm: Float64, shape: Shape) -> float:
    return float((distance_mm * (np.asarray(shape) - 1)).min() / 2)


def _draw_radius_mm(largest_mm: float, config: ViewConfig, rng: np.random.Generator) -> float:
    # The range shrinks; the draw is not clipped. The range never shrinks to the largest ball alone: along a thin axis
    # that ball fits in one place only, and all centres would have the same coordinate.
    smallest_mm = min(config.radius_mm_min, (1 - ROOM_SHARE) * largest_mm)
    return float(rng.uniform(smallest_mm, min(config.radius_mm_max, largest_mm)))


def _draw_center_mm(affine: Float64, shape: Shape, radius_voxels: Float64, rng: np.random.Generator) -> Float64:
    """Uniform over the points whose distance to every face of the scan is at least the radius, given across i, j, k."""
    middle = (np.asarray(shape) - 1) / 2
    room = np.maximum(middle - radius_voxels, 0.0)
    return apply_affine(affine, middle + room * rng.uniform(-1.0, 1.0, 3))


def draw_in_ball(n_points: int, radius_mm: float, rng: np.random.Generator) -> Float32:
    """Uniform in the ball, [N, 3]. Never rounded to voxels: the voxel grid would reveal the rotation."""
    points = rng.standard_normal((n_points, 3), dtype=np.float32)
    distance_mm = radius_mm * np.cbrt(rng.random(n_points, dtype=np.float32))
    squares = np.square(points)
    # Column by column: numpy's sum over an axis of 3 takes four times as long, and gives the same bits.
    points *= (distance_mm / np.sqrt(squares[:, 0] + squares[:, 1] + squares[:, 2]))[:, None]
    return points
