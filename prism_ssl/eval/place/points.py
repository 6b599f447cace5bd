"""Points of the body that two series of one patient both show (pure)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prism_ssl.contracts import PLACE_POINTS, Float64
from prism_ssl.data.scan import AIR_VALUE_MIN, OpenScan, apply_affine, stats_sample
from prism_ssl.data.views import room_mm

APART_MM = 12.0
"""Two points of a pair are at least this far apart."""

OVERLAP_MIN = 0.5
"""Least Dice of the two foregrounds in the shared box for series in one frame of reference."""

WITHIN_MIN = 0.5
"""At least this share of the foreground of one series lies within the other."""

_CANDIDATES = 6000
_NEIGHBOURS_MM = 4.0 * np.stack(np.meshgrid(*[[-1.0, 0.0, 1.0]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)


@dataclass(frozen=True, eq=False)
class SharedPoints:
    """``points_mm`` [PLACE_POINTS, 3] RAS; or None, with the reason in ``why``."""

    points_mm: Float64 | None
    why: str = ""


def shared_points(
    a: OpenScan, b: OpenScan, ball_mm: float, ball_floor_mm: float, rng: np.random.Generator
) -> SharedPoints:
    """``PLACE_POINTS`` points, ``APART_MM`` apart, that lie in the foreground of both scans with a ball around each.

    The ball has the radius ``ball_mm``, or ``ball_floor_mm`` where too few points allow that, and lies between the
    outermost voxel centres of both. A point is foreground when ``robust_stats`` calls half or more of the 27 points
    of a 4 mm lattice around it so. NIfTI does not name a frame of reference; two checks make a shared one plausible:
    one series lies mostly within the other (``WITHIN_MIN``), and there both show foreground at the same points
    (``OVERLAP_MIN``).
    """
    box = [_bounds_mm(scan) for scan in (a, b)]
    low_mm, high_mm = np.max([low for low, _ in box], axis=0), np.min([high for _, high in box], axis=0)
    if not (high_mm - low_mm > 2 * ball_floor_mm).all():
        return SharedPoints(None, "their boxes do not overlap")
    within = max(_share_within(a, b, rng), _share_within(b, a, rng))
    if within < WITHIN_MIN:
        return SharedPoints(None, f"they share {within:.2f} of the smaller one's foreground, needed: {WITHIN_MIN}")
    candidates = rng.uniform(low_mm, high_mm, (_CANDIDATES, 3))
    room = np.minimum(*(room_mm(scan.affine, scan.shape, candidates) for scan in (a, b)))
    candidates, room = candidates[room > 0], room[room > 0]
    inside_a, inside_b = (_foreground(scan, candidates) for scan in (a, b))
    overlap = 2 * (inside_a & inside_b).sum() / max(int(inside_a.sum() + inside_b.sum()), 1)
    if overlap < OVERLAP_MIN:
        return SharedPoints(None, f"their foregrounds overlap by {overlap:.2f} (Dice), needed: {OVERLAP_MIN}")
    for radius_mm in (ball_mm, ball_floor_mm):
        points = _apart(candidates[inside_a & inside_b & (room >= radius_mm)])
        if len(points) == PLACE_POINTS:
            return SharedPoints(points)
    return SharedPoints(None, f"they share {len(points)} points {APART_MM:g} mm apart, needed: {PLACE_POINTS}")


def _bounds_mm(scan: OpenScan) -> tuple[Float64, Float64]:
    """Lowest and highest RAS coordinates of the outermost voxel centres."""
    ends = np.array(np.meshgrid(*[(0, n - 1) for n in scan.shape], indexing="ij")).reshape(3, -1).T
    corners = apply_affine(scan.affine, ends)
    return corners.min(axis=0), corners.max(axis=0)


def _share_within(scan: OpenScan, other: OpenScan, rng: np.random.Generator) -> float:
    """Share of a scan's foreground that lies between the outermost voxel centres of the other."""
    points = rng.uniform(*_bounds_mm(scan), (_CANDIDATES // 3, 3))
    points = points[room_mm(scan.affine, scan.shape, points) > 0]
    body = points[_foreground(scan, points)]
    return float((room_mm(other.affine, other.shape, body) > 0).mean()) if len(body) else 0.0


def _foreground(scan: OpenScan, points_mm: Float64) -> npt.NDArray[np.bool_]:
    """Whether half or more of the 27 points about each point [M, 3] is brighter than a tenth of the scan's range."""
    sample = stats_sample(scan.voxels).astype(np.float64) * scan.slope + scan.intercept
    low, high = np.percentile(sample, (0.5, 99.5))
    low = max(float(low), AIR_VALUE_MIN)
    around = apply_affine(scan.to_voxel, points_mm[:, None] + _NEIGHBOURS_MM)
    i, j, k = np.clip(np.rint(around), 0, np.asarray(scan.shape) - 1).astype(int).transpose(2, 0, 1)
    values = scan.voxels[k, j, i].astype(np.float64) * scan.slope + scan.intercept
    bright: npt.NDArray[np.bool_] = (values > low + 0.1 * (high - low)).mean(axis=1) >= 0.5
    return bright


def _apart(candidates_mm: Float64) -> Float64:
    """The first ``PLACE_POINTS`` of [M, 3], each ``APART_MM`` from all chosen before it; fewer if there are no more."""
    chosen = np.empty((0, 3))
    for point in candidates_mm:
        if len(chosen) == PLACE_POINTS:
            break
        if (np.linalg.norm(chosen - point, axis=1) >= APART_MM).all():
            chosen = np.vstack([chosen, point])
    return chosen
