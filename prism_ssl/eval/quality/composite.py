"""Proxy quality, which ranks encoders (0 chance, 1 perfect): its parts and an interval (pure)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prism_ssl.config.operations import EvalConfig
from prism_ssl.contracts import Float64
from prism_ssl.eval.quality.bootstrap import (
    QualityParts,
    composite,
    draw_counts,
    interval,
    part_weights,
    patients_behind,
    patients_of,
)
from prism_ssl.eval.quality.evidence import PatientEvidence


@dataclass(frozen=True)
class ProxyQuality:
    """The composite, its parts and the 95 % interval.

    Each part is (value - chance) / (1 - chance), so below 0 where it is worse than chance. NaN where a part with
    weight is unknown. ``place``, ``directions`` and ``position`` are NaN, and do not count, where the scans do not
    allow them.
    """

    value: float
    low: float
    high: float
    retrieval: float
    skill: float
    place: float
    directions: float
    position: float


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
    """Weighted mean of recall@1 of series, mean sign skill of displacement and rotation, recall@1 of places, and
    position skill.

    The share of telling directions counts with weight ``eval.w_lidar``. The interval comes from ``eval.bootstrap``
    resamples of the patients (Efron & Tibshirani 1993), candidates of retrieval held fixed.
    """
    weights, patients = part_weights(evidence, config), patients_of(evidence)
    parts = QualityParts(evidence, patients)
    whole = parts(np.ones((1, len(patients))))
    value = float(composite(whole, weights)[0])
    resampled = parts(draw_counts(len(patients), config))
    low, high = interval(value, resampled, weights, patients_behind(evidence))
    return ProxyQuality(value, low, high, *(float(part) for part in whole[0]))
