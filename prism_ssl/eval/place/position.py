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

_SAME = 1e-12  # variance below which positions are all alike
_BODY_MIN = 50  # points; fewer do not tell where the middle is


def relative_positions(centers_mm: Float64, body_mm: Float64) -> Float64:
    """Positions of RAS points [n, 3] of a scan relative to points of its body [M, 3]; NaN where these are too few."""
    if len(body_mm) < _BODY_MIN:
        return np.full(centers_mm.shape, np.nan)
    spread = np.maximum(body_mm.std(axis=0), 1.0)
    relative: Float64 = np.clip((centers_mm - body_mm.mean(axis=0)) / spread, -FARTHEST, FARTHEST)
    return relative


def told_positions(embeddings: Float64, positions: Float64, patients: Sequence[str]) -> Float64:
    """For each view, the position of the most similar view of another patient, from the mean of all of them, [V, 3].

    Their mean is subtracted. It leans away from the patient's own positions, so an encoder that tells nothing would
    count as worse than chance. One neighbour, not several: so it ordered trained encoders as landmarks of brains did.
    Ties count with their mean. NaN for a view without a position of its own, or without a view of another patient.
    """
    known = np.asarray(np.isfinite(positions).all(axis=1))
    _, patient = np.unique(patients, return_inverse=True)
    allowed = np.not_equal.outer(patient, patient) & known
    similarity = np.where(allowed, cosine_similarity(embeddings), -np.inf)
    best = allowed & (similarity == similarity.max(axis=1, keepdims=True))
    told: Float64 = _means(best, positions, known) - _means(allowed, positions, known)
    told[~known | ~allowed.any(axis=1)] = np.nan
    return told


def _means(chosen: npt.NDArray[np.bool_], positions: Float64, known: npt.NDArray[np.bool_]) -> Float64:
    """Mean position of the views that each row chooses; 0 where it chooses none."""
    sums = chosen.astype(float) @ np.where(known[:, None], positions, 0.0)
    means: Float64 = sums / np.maximum(chosen.sum(axis=1, keepdims=True), 1)
    return means


def position_sums(told: Float64, positions: Float64, series: npt.NDArray[np.int64], n_series: int) -> Float64:
    """Sums by series and axis over its views of 1, told, true, told x true, told x told and true x true: [S, 3, 6]."""
    known = np.isfinite(told).all(axis=1)
    parts = (np.ones_like(told), told, positions, told * positions, told**2, positions**2)
    sums = np.zeros((n_series, 3, len(parts)))
    np.add.at(sums, series[known], np.stack(parts, axis=2)[known])
    return sums


def position_skill(sums: Float64) -> Float64:
    """Pearson's correlation of told and true positions, mean over the axes: [..., 3, 6] -> [...].

    0 for positions told at random, or all alike; 1 where all are right; NaN where nothing is known.
    """
    n, told, true, both, told_2, true_2 = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread_told, spread_true = told_2 - told**2 / n, true_2 - true**2 / n
        varies = (spread_told > _SAME * n) & (spread_true > _SAME * n)
        by_axis = np.where(varies, (both - told * true / n) / np.sqrt(spread_told * spread_true), 0.0)
    skill: Float64 = np.where((n > 0).all(axis=-1), by_axis.mean(axis=-1), np.nan)
    return skill
