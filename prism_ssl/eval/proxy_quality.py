"""One number in [0, 1] to rank encoders by: retrieval, skill and LiDAR, with an interval over series (pure)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prism_ssl.config.operations import EvalConfig
from prism_ssl.contracts import Float64
from prism_ssl.eval.proxy_metrics import effective_rank, lidar_ceiling, lidar_relative

_INTERVAL_PERCENT = (2.5, 97.5)


@dataclass(frozen=True, eq=False)
class SeriesEvidence:
    """What each of S series contributes, so that series can be resampled. A axes of skill.

    ``signs`` counts, per series and axis, pairs whose true sign is (up, down), ``right`` those told rightly.
    """

    hits: Float64  # [S] recall@1 of the series' own views
    signs: Float64  # [S, A, 2]
    right: Float64  # [S, A, 2]
    discriminants: Float64  # [S, d] the telling ones
    width: int  # D


@dataclass(frozen=True)
class ProxyQuality:
    """The composite, its parts (each in [0, 1]) and the 95 % interval; NaN where a part with weight is unknown."""

    value: float
    low: float
    high: float
    retrieval: float
    skill: float
    lidar: float


def sign_counts(
    prediction: Float64, target: Float64, signed: npt.NDArray[np.bool_], series: npt.NDArray[np.int64], n_series: int
) -> tuple[Float64, Float64]:
    """``(signs, right)`` of one axis, [S, 2] each: per series the pairs with a sign (up, down), and those told rightly.

    A prediction above 0 says up, as in ``sign_skill``.
    """
    up, said_up = target > 0, prediction > 0
    of_series = series[:, None] == np.arange(n_series)
    signs = [(of_series & (signed & which)[:, None]).sum(axis=0) for which in (up, ~up)]
    right = [(of_series & (signed & which)[:, None]).sum(axis=0) for which in (up & said_up, ~up & ~said_up)]
    return np.stack(signs, axis=1).astype(float), np.stack(right, axis=1).astype(float)


def proxy_quality(evidence: SeriesEvidence, config: EvalConfig) -> ProxyQuality:
    """Weighted mean of recall@1, mean skill (below 0 counts as 0) and LiDAR of the telling directions over its ceiling.

    The interval comes from ``eval.bootstrap`` resamples of the series (Efron & Tibshirani 1993), candidates of
    retrieval and scatter within series held as they are. A resample holds some series twice and so has a lower rank:
    its deviations from the mean of the resamples are what is laid around the value, not the resamples themselves.
    """
    n_series = len(evidence.hits)
    weights = np.array([config.w_retrieval, config.w_skill, config.w_lidar])
    retrieval, skill, lidar = parts = _parts(evidence, np.ones(n_series))
    value = _composite(parts, weights)
    rng = np.random.default_rng(config.seed)
    counts = rng.multinomial(n_series, np.full(n_series, 1 / n_series), size=config.bootstrap)
    resampled = np.array([_composite(_parts(evidence, count.astype(float)), weights) for count in counts])
    resampled = resampled[np.isfinite(resampled)]
    low = high = np.nan
    if np.isfinite(value) and len(resampled):
        low, high = np.clip(value + np.percentile(resampled, _INTERVAL_PERCENT) - resampled.mean(), 0.0, 1.0)
    return ProxyQuality(value, float(low), float(high), float(retrieval), float(skill), float(lidar))


def _composite(parts: Float64, weights: Float64) -> float:
    used = weights > 0
    return float((weights[used] * parts[used]).sum() / weights.sum())


def _parts(evidence: SeriesEvidence, count: Float64) -> Float64:
    """Retrieval, skill and LiDAR, each in [0, 1] or NaN, with every series taken ``count`` times."""
    known = np.isfinite(evidence.hits) & (count > 0)
    retrieval = np.average(evidence.hits[known], weights=count[known]) if known.any() else np.nan
    skill = _mean_skill(evidence, count)
    return np.array(
        [retrieval, np.clip(skill, 0.0, 1.0), _relative_lidar(evidence.discriminants, evidence.width, count)]
    )


def _mean_skill(evidence: SeriesEvidence, count: Float64) -> float:
    """Mean over the axes of 2 x balanced accuracy - 1; axes without both signs are left out."""
    signs = np.tensordot(count, evidence.signs, axes=1)
    right = np.tensordot(count, evidence.right, axes=1)
    known = (signs > 0).all(axis=1)
    return float(((right[known] / signs[known]).sum(axis=1) - 1.0).mean()) if known.any() else np.nan


def _relative_lidar(discriminants: Float64, width: int, count: Float64) -> float:
    taken = count > 0
    rows, shares = discriminants[taken], count[taken] / count.sum()
    rows = (rows - shares @ rows) * np.sqrt(shares)[:, None]
    rank = effective_rank(np.maximum(np.linalg.eigvalsh(rows @ rows.T), 0.0))
    return float(np.clip(lidar_relative(rank, lidar_ceiling(len(rows), width)), 0.0, 1.0))
