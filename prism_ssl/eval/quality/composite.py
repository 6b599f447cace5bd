"""Proxy quality, which ranks encoders (0 chance, 1 perfect): retrieval, pose skill, place, and an interval (pure)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prism_ssl.config.operations import EvalConfig
from prism_ssl.contracts import Float64
from prism_ssl.eval.quality.evidence import PatientEvidence

POSE_AXES = ("dx", "dy", "dz", "rx", "ry", "rz")
"""The axes whose sign skill counts. A window is read from a few quantiles of the pixels: it needs no anatomy."""

_INTERVAL_PERCENT = (2.5, 97.5)


@dataclass(frozen=True)
class ProxyQuality:
    """The composite, its parts and the 95 % interval.

    Each part is (value - chance) / (1 - chance), so below 0 where it is worse than chance. NaN where a part with
    weight is unknown. ``place`` and ``directions`` are NaN, and do not count, where the scans do not allow them.
    """

    value: float
    low: float
    high: float
    retrieval: float
    skill: float
    place: float
    directions: float


def above_chance(value: Float64, chance: float) -> Float64:
    """(value - chance) / (1 - chance); NaN where nothing is above chance."""
    return (value - chance) / (1.0 - chance) if chance < 1.0 else np.full_like(value, np.nan)


def sign_counts(
    prediction: Float64, target: Float64, signed: npt.NDArray[np.bool_], series: npt.NDArray[np.int64], n_series: int
) -> tuple[Float64, Float64]:
    """``(signs, right)`` of one axis, [S, 2] each: per series the pairs with a sign (up, down), and the right ones.

    A prediction above 0 means up, as in ``sign_skill``.
    """
    up, said_up = target > 0, prediction > 0
    of_series = series[:, None] == np.arange(n_series)
    signs = [(of_series & (signed & which)[:, None]).sum(axis=0) for which in (up, ~up)]
    right = [(of_series & (signed & which)[:, None]).sum(axis=0) for which in (up & said_up, ~up & ~said_up)]
    return np.stack(signs, axis=1).astype(float), np.stack(right, axis=1).astype(float)


def proxy_quality(evidence: PatientEvidence, config: EvalConfig) -> ProxyQuality:
    """Weighted mean of recall@1 of series, mean sign skill of displacement and rotation, and recall@1 of places.

    The share of telling directions counts with weight ``eval.w_lidar``. The interval comes from
    ``eval.bootstrap`` resamples of the patients (Efron & Tibshirani 1993), candidates of retrieval held fixed: the
    deviations of the resamples from their mean are added to the value.
    """
    weights = np.array([config.w_retrieval, config.w_skill, config.w_place, config.w_lidar])
    weights[2] *= bool(evidence.pairs)
    weights[3] *= bool(np.isfinite(evidence.telling_share))
    patients = np.unique(evidence.patient_of_series + evidence.patient_of_pair)
    parts = _Parts(evidence, patients)
    whole = parts(np.ones(len(patients)))
    value = _composite(whole, weights)
    rng = np.random.default_rng(config.seed)
    counts = rng.multinomial(len(patients), np.full(len(patients), 1 / len(patients)), size=config.bootstrap)
    resampled = np.array([_composite(parts(count.astype(float)), weights) for count in counts])
    resampled = resampled[np.isfinite(resampled)]
    low = high = np.nan
    if np.isfinite(value) and len(resampled):
        low, high = value + np.percentile(resampled, _INTERVAL_PERCENT) - resampled.mean()
    return ProxyQuality(value, float(low), float(high), *(float(part) for part in whole))


def _composite(parts: Float64, weights: Float64) -> float:
    used = weights > 0
    return float((weights[used] * parts[used]).sum() / weights[used].sum()) if used.any() else np.nan


class _Parts:
    """Retrieval, skill, place and directions [4] with every patient taken ``count`` times."""

    def __init__(self, evidence: PatientEvidence, patients: npt.NDArray[np.str_]) -> None:
        self._evidence = evidence
        self._of_series = np.searchsorted(patients, evidence.patient_of_series)
        self._retrieval = above_chance(evidence.recall, evidence.recall_chance)
        of_pair = np.searchsorted(patients, evidence.patient_of_pair) if evidence.pairs else np.empty(0, int)
        self._of_pair = np.unique(of_pair)
        place = above_chance(evidence.place_recall, evidence.place_chance)
        self._place = np.array([place[of_pair == patient].mean() for patient in self._of_pair])
        pose = [axis for axis, name in enumerate(evidence.axes) if name in POSE_AXES]
        self._signs, self._right = evidence.signs[:, pose], evidence.right[:, pose]

    def __call__(self, count: Float64) -> Float64:
        series, pairs = count[self._of_series], count[self._of_pair]
        known = np.isfinite(self._retrieval)
        return np.array(
            [
                _mean(self._retrieval[known], series[known]),
                self._skill(series),
                _mean(self._place, pairs),
                self._evidence.telling_share,
            ]
        )

    def _skill(self, count: Float64) -> float:
        """Mean over the axes of 2 x balanced accuracy - 1; axes without both signs are left out."""
        signs, right = (np.tensordot(count, counted, axes=1) for counted in (self._signs, self._right))
        known = (signs > 0).all(axis=1)
        return float(((right[known] / signs[known]).sum(axis=1) - 1.0).mean()) if known.any() else np.nan


def _mean(values: Float64, weights: Float64) -> float:
    return float(np.average(values, weights=weights)) if weights.sum() > 0 else np.nan
