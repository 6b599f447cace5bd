"""Points of the body that two series of one patient both show, well apart from each other (pure)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prism_ssl.contracts import PLACE_POINTS, Float64
from prism_ssl.data.scan import OpenScan
from prism_ssl.data.views import shared_places

APART_MM = 12.0
"""Two points of a pair are at least this far apart."""


@dataclass(frozen=True, eq=False)
class SharedPoints:
    """``points_mm`` [PLACE_POINTS, 3] RAS; or None, with the reason in ``why``."""

    points_mm: Float64 | None
    why: str = ""


def shared_points(
    a: OpenScan, b: OpenScan, ball_mm: float, ball_floor_mm: float, rng: np.random.Generator
) -> SharedPoints:
    """``PLACE_POINTS`` of the ``shared_places`` of two scans, ``APART_MM`` apart, with a ball around each.

    The ball has the radius ``ball_mm``, or ``ball_floor_mm`` where too few points allow that.
    """
    places = shared_places(a, b, ball_floor_mm, rng)
    if places.points_mm is None:
        return SharedPoints(None, places.why)
    for radius_mm in (ball_mm, ball_floor_mm):
        points = _apart(places.points_mm[places.room_mm >= radius_mm])
        if len(points) == PLACE_POINTS:
            return SharedPoints(points)
    return SharedPoints(None, f"they share {len(points)} points {APART_MM:g} mm apart, needed: {PLACE_POINTS}")


def _apart(candidates_mm: Float64) -> Float64:
    """The first ``PLACE_POINTS`` of [M, 3], each ``APART_MM`` from all chosen before it; fewer if there are no more."""
    chosen = np.empty((0, 3))
    for point in candidates_mm:
        if len(chosen) == PLACE_POINTS:
            break
        if (np.linalg.norm(chosen - point, axis=1) >= APART_MM).all():
            chosen = np.vstack([chosen, point])
    return chosen
