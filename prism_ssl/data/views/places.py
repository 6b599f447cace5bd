"""Places of the body in a scan, and the places that two series of one patient both show (pure)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prism_ssl.contracts import Float64
from prism_ssl.data.scan import AIR_VALUE_MIN, OpenScan, apply_affine, stats_sample
from prism_ssl.data.views.view_pairs import room_mm

OVERLAP_MIN = 0.5
"""Least Dice of the two foregrounds in the shared box for series in one frame of reference."""

WITHIN_MIN = 0.5
"""At least this share of the foreground of one series lies within the other."""

_CANDIDATES = 6000
_NEIGHBOURS_MM = 4.0 * np.stack(np.meshgrid(*[[-1.0, 0.0, 1.0]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)


@dataclass(frozen=True, eq=False)
class SharedPlaces:
    """``points_mm`` [M, 3] RAS with ``room_mm`` [M], the largest ball about each; or None, with the reason in ``why``.

    A ball lies between the outermost voxel centres of both series.
    """

    points_mm: Float64 | None
    room_mm: Float64
    why: str = ""


def body_places(scan: OpenScan, ball_mm: float, rng: np.random.Generator) -> Float64:
    """Random points [M, 3] in the foreground with a ball of ``ball_mm`` about each between the outermost voxel centres.

    A point is foreground when half or more of the 27 points of a 4 mm lattice around it are brighter than a tenth of
    the scan's range, as ``robust_stats`` has it.
    """
    points = rng.uniform(*bounds_mm(scan), (_CANDIDATES, 3))
    points = points[room_mm(scan.affine, scan.shape, points) >= ball_mm]
    return points[_foreground(scan, points, _foreground_level(scan))]


def on_body(scan: OpenScan, points_mm: Float64) -> npt.NDArray[np.bool_]:
    """Whether each RAS point [M, 3] lies between the outermost voxel centres and in the foreground of ``body_places``.

    Memory does not grow with M.
    """
    level, inside = _foreground_level(scan), room_mm(scan.affine, scan.shape, points_mm) >= 0
    for start in range(0, len(points_mm), _CANDIDATES):
        part = slice(start, start + _CANDIDATES)
        inside[part] &= _foreground(scan, points_mm[part], level)
    return inside


def shared_places(a: OpenScan, b: OpenScan, ball_floor_mm: float, rng: np.random.Generator) -> SharedPlaces:
    """Random points that lie in the foreground of both scans, see ``body_places``.

    NIfTI does not name a frame of reference; two checks make a shared one plausible: one series lies mostly within the
    other (``WITHIN_MIN``), and there both show foreground at the same points (``OVERLAP_MIN``).
    """
    box = [bounds_mm(scan) for scan in (a, b)]
    low_mm, high_mm = np.max([low for low, _ in box], axis=0), np.min([high for _, high in box], axis=0)
    if not (high_mm - low_mm > 2 * ball_floor_mm).all():
        return _none("their boxes do not overlap")
    levels = _foreground_level(a), _foreground_level(b)
    within = max(_share_within(a, levels[0], b, rng), _share_within(b, levels[1], a, rng))
    if within < WITHIN_MIN:
        return _none(f"they share {within:.2f} of the smaller one's foreground, needed: {WITHIN_MIN}")
    points = rng.uniform(low_mm, high_mm, (_CANDIDATES, 3))
    room = np.minimum(*(room_mm(scan.affine, scan.shape, points) for scan in (a, b)))
    points, room = points[room > 0], room[room > 0]
    inside_a, inside_b = (_foreground(scan, points, level) for scan, level in zip((a, b), levels, strict=True))
    overlap = 2 * (inside_a & inside_b).sum() / max(int(inside_a.sum() + inside_b.sum()), 1)
    if overlap < OVERLAP_MIN:
        return _none(f"their foregrounds overlap by {overlap:.2f} (Dice), needed: {OVERLAP_MIN}")
    return SharedPlaces(points[inside_a & inside_b], room[inside_a & inside_b])


def _none(why: str) -> SharedPlaces:
    return SharedPlaces(None, np.empty(0), why)


def bounds_mm(scan: OpenScan) -> tuple[Float64, Float64]:
    """Lowest and highest RAS coordinates of the outermost voxel centres."""
    ends = np.array(np.meshgrid(*[(0, n - 1) for n in scan.shape], indexing="ij")).reshape(3, -1).T
    corners = apply_affine(scan.affine, ends)
    return corners.min(axis=0), corners.max(axis=0)


def _share_within(scan: OpenScan, level: float, other: OpenScan, rng: np.random.Generator) -> float:
    """Share of a scan's foreground that lies between the outermost voxel centres of the other."""
    points = rng.uniform(*bounds_mm(scan), (_CANDIDATES // 3, 3))
    points = points[room_mm(scan.affine, scan.shape, points) > 0]
    body = points[_foreground(scan, points, level)]
    return float((room_mm(other.affine, other.shape, body) > 0).mean()) if len(body) else 0.0


def _foreground_level(scan: OpenScan) -> float:
    """Rescaled value above which a voxel is foreground: a tenth of the scan's range above its lower end."""
    sample = stats_sample(scan.voxels).astype(np.float64) * scan.slope + scan.intercept
    low, high = np.percentile(sample, (0.5, 99.5))
    low = max(float(low), AIR_VALUE_MIN)
    return low + 0.1 * (float(high) - low)


def _foreground(scan: OpenScan, points_mm: Float64, level: float) -> npt.NDArray[np.bool_]:
    around = apply_affine(scan.to_voxel, points_mm[:, None] + _NEIGHBOURS_MM)
    i, j, k = np.clip(np.rint(around), 0, np.asarray(scan.shape) - 1).astype(int).transpose(2, 0, 1)
    values = scan.voxels[k, j, i].astype(np.float64) * scan.slope + scan.intercept
    bright: npt.NDArray[np.bool_] = (values > level).mean(axis=1) >= 0.5
    return bright
