"""The lattice of a field over a scan, and coverings of the body by balls (pure).

Every coordinate is a multiple of ``GRID_MM``, which float32 and float64 hold exactly. So a point of a lattice, however
it is computed from the file's affine, has one value, and a point of a table that lies within half of ``GRID_MM`` of it
along each axis has the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from prism_ssl.contracts import Float64
from prism_ssl.data.scan import apply_affine, spacing_mm

GRID_MM = 1 / 256
"""Points of fields lie on multiples of this, in RAS."""

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Lattice:
    """Points at ``affine`` [4, 4] of (i, j, k), RAS mm, ``shape`` of them along i, j and k."""

    affine: Float64
    shape: tuple[int, int, int]

    def points_mm(self, flat: Int64 | None = None) -> Float64:
        """RAS points [M, 3] at flat positions [M], i + nx (j + ny k); None: all of them, i running fastest."""
        flat = np.arange(np.prod(self.shape)) if flat is None else flat
        return apply_affine(self.affine, np.stack(np.unravel_index(flat, self.shape, order="F"), axis=-1))


@dataclass(frozen=True, eq=False)
class Covering:
    """Points ``chosen`` [K] of those that were to be covered, and the ``share`` of them within a chosen one's ball."""

    chosen: Int64
    share: float


def on_grid(points_mm: npt.ArrayLike) -> Float64:
    """The multiples of ``GRID_MM`` closest to coordinates in mm."""
    snapped: Float64 = np.rint(np.asarray(points_mm, np.float64) / GRID_MM) * GRID_MM
    return snapped


def lattice_over(affine: Float64, shape: tuple[int, int, int], step_mm: float) -> Lattice:
    """The lattice along a scan's voxel axes, in the middle between its outermost voxel centres.

    Its steps are ``step_mm`` long within 0.01 mm: their components are on the grid.
    """
    spacing = spacing_mm(affine)
    counts = np.floor(spacing * (np.asarray(shape) - 1) / step_mm + 1e-6).astype(int) + 1
    steps = on_grid(affine[:3, :3] / spacing * step_mm)
    middle = apply_affine(affine, (np.asarray(shape) - 1) / 2)
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = steps, on_grid(middle - steps @ (counts - 1) / 2)
    nx, ny, nz = counts.tolist()
    return Lattice(matrix, (nx, ny, nz))


def thinned(flat: Int64, shape: tuple[int, int, int], stride: int) -> Int64:
    """Those of the ``flat`` positions of a lattice that lie on every ``stride``-th place along each axis, as positions
    [T] in ``flat``; all of them where none does."""
    index = np.stack(np.unravel_index(flat, shape, order="F"), axis=-1)
    kept = np.flatnonzero((index % stride == stride // 2).all(axis=1))
    return kept if len(kept) else np.arange(len(flat))


def cover(points_mm: Float64, radius_mm: Float64, share: float) -> Covering:
    """Choose points [M, 3] until their balls of ``radius_mm`` [M] hold this ``share`` of all points.

    Greedy: next comes the point whose ball holds most of what is not covered yet, the first of equals (Chvatal 1979:
    within ln M of the fewest).
    """
    near = cKDTree(points_mm).query_ball_point(points_mm, radius_mm)
    holds = [np.asarray(each, np.int64) for each in near]  # ball -> points in it
    sizes = np.array([len(each) for each in holds], np.int64)
    ball_of, point_of = np.repeat(np.arange(len(holds)), sizes), np.concatenate([*holds, np.empty(0, np.int64)])
    by_point = np.argsort(point_of, kind="stable")
    ends = np.searchsorted(point_of[by_point], np.arange(len(holds) + 1))
    gain, bare, chosen = sizes.copy(), np.ones(len(holds), bool), list[int]()
    while bare.mean() > 1 - share if len(bare) else False:
        best = int(gain.argmax())
        chosen.append(best)
        for point in holds[best][bare[holds[best]]]:
            gain[ball_of[by_point[ends[point] : ends[point + 1]]]] -= 1
            bare[point] = False
    return Covering(np.array(chosen, np.int64), float(1 - bare.mean()) if len(bare) else 0.0)
