"""Position test: tell where in its scan a view lies from the most similar view of another patient (pure).

Needs no label and no second series. A position is relative: from the middle of the scan's body, in units of the body's
spread along each axis, so that patients of other sizes compare. It takes scans of one kind to be framed alike.

Legend: V views, S series.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from prism_ssl.contracts import Float64
from prism_ssl.eval.proxy_metrics import cosine_similarity

FARTHEST = 3.0
"""Positions are cut off here: one odd scan must not outweigh the others."""

_BODY_MIN = 50  # points; fewer do not tell where the middle is


def relative_positions(centers_mm: Float64, body_mm: Float64) -> Float64:
    """Positions of RAS points [n, 3] of a scan relative to points of its body [M, 3]; NaN where these are too few."""
    if len(body_mm) < _BODY_MIN:
        return np.full(centers_mm.shape, np.nan)
    spread = np.maximum(body_mm.std(axis=0), 1.0)
    relative: Float64 = np.clip((centers_mm - body_mm.mean(axis=0)) / spread, -FARTHEST, FARTHEST)
    return relative


def told_positions(embeddings: Float64, positions: Float64, patients: Sequence[str]) -> Float64:
    """For each view, the position of the most similar view of another patient, [V, 3].

    One neighbour, not several: on registered brains it then orders encoders as their landmarks do.

    NaN for a view without a position of its own, or without a view of another patient.
    """
    known = np.isfinite(positions).all(axis=1)
    _, patient = np.unique(patients, return_inverse=True)
    allowed = np.not_equal.outer(patient, patient) & known
    similarity = np.where(allowed, cosine_similarity(embeddings), -np.inf)
    told: Float64 = positions[similarity.argmax(axis=1)]
    told[~known | ~allowed.any(axis=1)] = np.nan
    return told


def position_sums(told: Float64, positions: Float64, series: npt.NDArray[np.int64], n_series: int) -> Float64:
    """By series and axis, the sums over its views of told x true, told x told and true x true: [S, 3, 3]."""
    known = np.isfinite(told).all(axis=1)
    products = np.stack([told * positions, told**2, positions**2], axis=2)[known]
    sums = np.zeros((n_series, 3, 3))
    np.add.at(sums, series[known], products)
    return sums


def position_skill(sums: Float64) -> Float64:
    """Correlation about the middle of the body, mean over the axes: [..., 3, 3] -> [...].

    0 for positions told at random, 1 where all are right; NaN where nothing is known.
    """
    told_true, told, true = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        by_axis = np.where(told > 0, told_true / np.sqrt(told * true), 0.0)
    skill: Float64 = np.where((true > 0).all(axis=-1), by_axis.mean(axis=-1), np.nan)
    return skill
