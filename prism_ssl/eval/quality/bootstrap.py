"""Bootstrap over held-out patients: what each part of the quality is when patients are drawn anew (pure)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from prism_ssl.config.operations import EvalConfig
from prism_ssl.contracts import Float64
from prism_ssl.eval.patients import jackknife_interval
from prism_ssl.eval.place.position import position_skill
from prism_ssl.eval.quality.evidence import PatientEvidence

POSE_AXES = ("dx", "dy", "dz", "rx", "ry", "rz")
"""Axes whose sign skill counts. The window does not: a few quantiles of the pixels tell it, without anatomy."""

CONFIDENCE = 0.95
RESAMPLES_MIN = 10
"""Fewer resamples give no interval."""


def above_chance(value: Float64, chance: float) -> Float64:
    """(value - chance) / (1 - chance); NaN where nothing is above chance."""
    return (value - chance) / (1.0 - chance) if chance < 1.0 else np.full_like(value, np.nan)


def part_weights(evidence: PatientEvidence, config: EvalConfig) -> Float64:
    """Weights [5] of retrieval, skill, place, directions and position; 0 for what the held-out scans cannot offer."""
    weights = np.array([config.w_retrieval, config.w_skill, config.w_place, config.w_lidar, config.w_position], float)
    weights[2] *= bool(evidence.pairs)
    weights[3] *= bool(np.isfinite(evidence.telling_share))
    weights[4] *= bool(np.isfinite(position_estimate(evidence)[0]))
    return weights


def composite(parts: Float64, weights: Float64) -> Float64:
    """Weighted mean [...] of ``parts`` [..., 5]; NaN where a part with weight is unknown, or none has any."""
    used = weights > 0
    if not used.any():
        return np.full(parts.shape[:-1], np.nan)
    mean: Float64 = parts[..., used] @ weights[used] / weights[used].sum()
    return mean


def patients_of(evidence: PatientEvidence) -> list[str]:
    """All patients that say anything, in order."""
    return sorted({*evidence.patient_of_series, *evidence.patient_of_pair})


def draw_counts(n_patients: int, config: EvalConfig) -> Float64:
    """How often each patient is drawn in each of ``eval.bootstrap`` resamples, [B, P]; follows from ``eval.seed``."""
    rng = np.random.default_rng(config.seed)
    return rng.multinomial(n_patients, np.full(n_patients, 1 / n_patients), size=config.bootstrap).astype(float)


class QualityParts:
    """Retrieval, skill, place, directions and position of one encoder, for any weighting of the patients.

    Candidates of retrieval stay as they are: a patient drawn twice does not become its own neighbour.
    """

    def __init__(self, evidence: PatientEvidence, patients: Sequence[str]) -> None:
        number = {patient: index for index, patient in enumerate(patients)}
        self._of_series = np.array([number[patient] for patient in evidence.patient_of_series], int)
        self._retrieval = above_chance(evidence.recall, evidence.recall_chance)
        of_pair = np.array([number[patient] for patient in evidence.patient_of_pair], int)
        self._of_pair = np.unique(of_pair)
        place = above_chance(evidence.place_recall, evidence.place_chance)
        # A patient counts once, however many pairs it has.
        self._place = np.array([place[of_pair == patient].mean() for patient in self._of_pair])
        pose = [axis for axis, name in enumerate(evidence.axes) if name in POSE_AXES]
        self._signs, self._right = evidence.signs[:, pose], evidence.right[:, pose]
        self._telling_share = evidence.telling_share
        self._position = evidence.position

    def __call__(self, counts: Float64) -> Float64:
        """Parts [B, 5] with every patient taken ``counts`` [B, P] times."""
        series, pairs = counts[:, self._of_series], counts[:, self._of_pair]
        known = np.isfinite(self._retrieval)
        return np.stack(
            [
                _means(self._retrieval[known], series[:, known]),
                _mean_skill(series, self._signs, self._right),
                _means(self._place, pairs),
                np.full(len(counts), self._telling_share),
                _position(series, self._position),
            ],
            axis=1,
        )


def _mean_skill(counts: Float64, signs: Float64, right: Float64) -> Float64:
    """Mean over the axes of 2 x balanced accuracy - 1 [B], each series taken ``counts`` [B, S] times.

    Axes without both signs are left out.
    """
    signs, right = (np.tensordot(counts, counted, axes=1) for counted in (signs, right))  # [B, A, 2]
    with np.errstate(invalid="ignore", divide="ignore"):
        skill = (right / signs).sum(axis=2) - 1.0
    known = (signs > 0).all(axis=2)
    axes = known.sum(axis=1)
    total = np.where(known, skill, 0.0).sum(axis=1)
    return np.where(axes > 0, total / np.maximum(axes, 1), np.nan)


def _position(counts: Float64, sums: Float64 | None) -> Float64:
    """Position skill [B], each series taken ``counts`` [B, S] times; NaN where it was not measured."""
    return np.full(len(counts), np.nan) if sums is None else position_skill(np.tensordot(counts, sums, axes=1))


def position_estimate(evidence: PatientEvidence) -> tuple[float, float, float]:
    """Position skill and its 95 % interval: jackknife over patients, what each view was told by held fixed; NaN where
    it was not measured."""
    counts, _ = _without_each(evidence)
    value, *without_one = _position(counts, evidence.position).tolist()
    return value, *jackknife_interval(value, without_one)


def _without_each(evidence: PatientEvidence) -> tuple[Float64, int]:
    """How often each series counts [1 + P, S]: all of them, then all but those of each patient; and P."""
    patients, of_series = np.unique(evidence.patient_of_series, return_inverse=True)
    counts = np.concatenate([np.ones((1, len(patients))), 1.0 - np.eye(len(patients))])[:, of_series]
    return counts, len(patients)


def skill_interval(evidence: PatientEvidence, axis: str) -> tuple[float, float]:
    """95 % interval of the sign skill of one axis: jackknife over patients, Student's t; NaN without evidence."""
    counts, patients = _without_each(evidence)
    if axis not in evidence.axes or patients < 2:
        return np.nan, np.nan
    one = [evidence.axes.index(axis)]
    value, *without_one = _mean_skill(counts, evidence.signs[:, one], evidence.right[:, one]).tolist()
    return jackknife_interval(value, without_one)


def _means(values: Float64, weights: Float64) -> Float64:
    """Weighted means [B] of ``values`` [n]; NaN where all weights are 0."""
    total = weights.sum(axis=1)
    return np.where(total > 0, weights @ values / np.maximum(total, 1), np.nan)


def interval(value: float, parts: Float64, weights: Float64, patients: Float64) -> tuple[float, float]:
    """95 % interval around the composite ``value`` from its resampled ``parts`` [B, 5].

    The deviations of the resampled composites from their mean, widened for few patients by sqrt((f + 1) / f) t / z for
    f ``degrees_of_freedom``: the expanded percentile interval (Hesterberg 2015). Plain percentiles of few patients
    hold the truth too rarely. NaN where the value is unknown, a part rests on a single patient, or there are
    fewer than ``RESAMPLES_MIN`` resamples.
    """
    total, freedom = composite(parts, weights), degrees_of_freedom(parts, weights, patients)
    known = total[np.isfinite(total)]
    if not np.isfinite(value) or not freedom > 0 or len(known) < RESAMPLES_MIN:
        return np.nan, np.nan
    tail = (1 - CONFIDENCE) / 2
    wider = np.sqrt((freedom + 1) / freedom) * stats.t.ppf(1 - tail, freedom) / stats.norm.ppf(1 - tail)
    low, high = np.percentile(known, (100 * tail, 100 * (1 - tail))) - known.mean()
    return float(value + wider * low), float(value + wider * high)


def degrees_of_freedom(parts: Float64, weights: Float64, patients: Float64) -> float:
    """Of a composite from its resampled ``parts`` [B, 5] and the number of ``patients`` [5] behind each.

    The harmonic mean of the parts' own (patients less 1), weighted by how much each part varies; NaN where a part rests
    on a single patient.
    """
    used = (weights > 0) & np.isfinite(patients)
    own = patients[used] - 1
    if not used.any() or (own < 1).any():
        return np.nan
    share = parts[:, used] * weights[used]
    known = share[np.isfinite(share).all(axis=1)]
    spread = known.std(axis=0) if len(known) else np.zeros(1)
    return float(spread.sum() / (spread / own).sum()) if (spread > 1e-12).any() else float(own.min())


def patients_behind(evidence: PatientEvidence) -> Float64:
    """How many patients each part [5] rests on; the share of telling directions does not vary over them."""
    of_series = len(set(evidence.patient_of_series))
    placed = of_series if evidence.position is None else _patients_with_position(evidence, evidence.position)
    return np.array([of_series, of_series, len(set(evidence.patient_of_pair)), np.inf, placed])


def _patients_with_position(evidence: PatientEvidence, sums: Float64) -> int:
    views = sums[:, 0, 0]
    return len({patient for patient, n in zip(evidence.patient_of_series, views, strict=True) if n})
