"""Label-free measures of embeddings on the views of the probe set: retrieval, rank, spread (pure).

Legend of ``contracts.py``; here also V views, S series. Every function takes float arrays; undefined values are NaN.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from prism_ssl.contracts import Float64

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

COLLAPSED = 1e-10
"""Variance over mean square below which embeddings differ by rounding only (float32: 1e-14) and count as one point."""

LIDAR_DELTA = 1e-4
"""Regulariser of the within-series scatter (Thilak et al. 2024), relative to the mean variance of a dimension."""

NULL_SHUFFLES, NULL_PERCENT = 40, 95.0
"""Label shuffles that a direction between series is compared with, and the percentile it must exceed."""

_SIMILARITY_DECIMALS = 9  # float32 embeddings that mean the same differ by 1e-13 in cosine


# ---------------------------------------------------------------------- retrieval
def cosine_similarity(embeddings: Float64) -> Float64:
    """Cosine of every two views, [V, V], rounded so that views which differ by float32 noise alone are equal."""
    return cross_similarity(embeddings, embeddings)


def cross_similarity(queries: Float64, candidates: Float64) -> Float64:
    """Cosine of every query [V, D] with every candidate [W, D], [V, W]; rounded as ``cosine_similarity``."""
    similarity: Float64 = np.round(_unit(queries) @ _unit(candidates).T, _SIMILARITY_DECIMALS)
    return similarity


def same_series(series: Ints) -> tuple[Bools, Bools]:
    """``(positive, candidate)`` [V, V] of retrieval among all other views: positives are those of the same series."""
    candidate = ~np.eye(len(series), dtype=bool)
    return (series[:, None] == series[None, :]) & candidate, candidate


def hits_at(similarity: Float64, positive: Bools, candidate: Bools, k: int) -> Float64:
    """For each query (row) the probability that the ``k`` most similar candidates hold a positive, [V].

    Ties are broken at random and the expectation is returned: an encoder that gives every view the same embedding
    scores exactly chance. NaN for a query without a positive. Their mean is recall@k as metric learning counts it
    (Jegou et al. 2011; Musgrave et al. 2020).
    """
    best = np.where(positive, similarity, -np.inf).max(axis=1, keepdims=True)
    before = (candidate & (similarity > best)).sum(axis=1)
    tied, tied_positives = ((which & (similarity == best)).sum(axis=1) for which in (candidate, positive))
    hits = 1.0 - _miss(tied, tied_positives, np.clip(k - before, 0, tied))
    return np.where(positive.any(axis=1), hits, np.nan)


def chance_at(positive: Bools, candidate: Bools, k: int) -> Float64:
    """``hits_at`` of candidates in random order (hypergeometric), [V]."""
    total = candidate.sum(axis=1)
    hits = 1.0 - _miss(total, positive.sum(axis=1), np.minimum(k, total))
    return np.where(positive.any(axis=1), hits, np.nan)


def _miss(total: Ints, positives: Ints, draws: Ints) -> Float64:
    """Probability that ``draws`` without replacement from ``total`` meet none of the ``positives``."""
    probability = np.ones(len(total))
    for drawn in range(int(draws.max(initial=0))):
        left = np.maximum(total - drawn, 1)
        share = np.maximum(total - positives - drawn, 0) / left
        probability *= np.where(drawn < draws, share, 1.0)
    return probability


# ---------------------------------------------------------------------- rank
def rankme(embeddings: Float64) -> float:
    """RankMe (Garrido et al. 2023, eq. 1): exp of the entropy of the singular values of [V, D], not centred.

    1 for a rank-1 collapse, at most min(V, D).
    """
    return effective_rank(np.asarray(np.linalg.svd(embeddings, compute_uv=False), np.float64))


def effective_rank(weights: Float64) -> float:
    """exp of the Shannon entropy of non-negative weights (Roy & Vetterli 2007); 1 when all of them are 0."""
    total = weights.sum()
    if total <= 0:
        return 1.0
    shares = weights[weights > 0] / total
    return float(np.exp(-(shares * np.log(shares)).sum()))


def discriminants(embeddings: Float64, series: Ints) -> Float64:
    """Series means about their mean, in units of the scatter within series: rows of Sigma_w^(-1/2) (mu - mean), [S, d].

    As in LiDAR (Thilak et al. 2024, section 4): Sigma_w is the covariance of the views about the mean of their
    series, plus ``LIDAR_DELTA`` times the mean variance of a dimension (the paper adds 1e-4 as it is; relative, LiDAR
    does not depend on the scale of the embedding). d <= D are the dimensions that the views span. All 0 for a collapse.
    """
    return _whitened_means(_spanned(embeddings), series, _floor(embeddings))


def telling_discriminants(embeddings: Float64, series: Ints, seed: int) -> Float64:
    """``discriminants`` in the directions that separate series better than shuffled labels do.

    A direction stays when its scatter exceeds the 95th percentile of the largest that ``NULL_SHUFFLES`` shuffled
    labels reach (parallel analysis, Horn 1965).
    """
    spanned, floor = _spanned(embeddings), _floor(embeddings)
    rows = _whitened_means(spanned, series, floor)
    rng = np.random.default_rng(seed)
    largest = [
        np.linalg.norm(_whitened_means(spanned, rng.permutation(series), floor), ord=2) for _ in range(NULL_SHUFFLES)
    ]
    left, scatter, right = np.linalg.svd(rows, full_matrices=False)
    stays = scatter > np.percentile(largest, NULL_PERCENT)
    return np.asarray((left[:, stays] * scatter[stays]) @ right[stays])


def lidar(discriminant_rows: Float64) -> float:
    """LiDAR (Thilak et al. 2024, eq. 4): effective rank of the between-series scatter after whitening within series.

    Between 1 (collapse) and ``lidar_ceiling``. On all directions it does not show whether series are told apart: with 8
    views a series (64 series, D 1024, isotropic noise) it is 0.95 of its ceiling without any signal and with signal
    three times the noise. On ``telling_discriminants`` the same cases give 0.00 and 0.95.
    """
    return effective_rank(np.square(np.linalg.svd(discriminant_rows, compute_uv=False).astype(np.float64)))


def _spanned(embeddings: Float64) -> Float64:
    """The embeddings in coordinates of the space that they span about their mean, [V, at most min(V, D)]."""
    left, scale, _ = np.linalg.svd(embeddings - embeddings.mean(axis=0), full_matrices=False)
    return np.asarray(left * (0.0 if is_collapsed(embeddings) else scale))


def _floor(embeddings: Float64) -> float:
    return LIDAR_DELTA * float(embeddings.var(axis=0).mean()) or 1.0


def _whitened_means(spanned: Float64, series: Ints, floor: float) -> Float64:
    _, index, counts = np.unique(series, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), spanned.shape[1]))
    np.add.at(sums, index, spanned)
    means = sums / counts[:, None]
    within = spanned - means[index]
    values, vectors = np.linalg.eigh(within.T @ within / len(spanned))
    centered = means - means.mean(axis=0)
    return np.asarray(centered @ (vectors / np.sqrt(np.maximum(values, 0.0) + floor)) @ vectors.T)


def lidar_ceiling(n_series: int, width: int) -> int:
    """The largest rank that S means about their own mean can have in D dimensions: min(S - 1, D)."""
    return min(n_series - 1, width)


# ---------------------------------------------------------------------- spread
def alignment(embeddings: Float64, series: Ints) -> float:
    """Mean squared distance of two views of a series on the unit sphere (Wang & Isola 2020, alpha 2).

    0 when all are alike, 2 for unrelated views.
    """
    positive, _ = same_series(series)
    return float(_squared_distances(embeddings)[positive].mean()) if positive.any() else math.nan


def uniformity(embeddings: Float64) -> float:
    """log of the mean of exp(-2 d^2) over all pairs of views on the unit sphere (Wang & Isola 2020, t 2).

    0 for a collapse, the lower the more evenly spread (-4 for uniform points in many dimensions).
    """
    above = np.triu_indices(len(embeddings), k=1)
    distances = _squared_distances(embeddings)[above]
    return float(np.log(np.exp(-2.0 * distances).mean())) if len(distances) else math.nan


def dimension_std(embeddings: Float64) -> Float64:
    """Standard deviation of each dimension on the unit sphere, times sqrt(D) (Chen & He 2021, section 4.1), [D].

    1 in every dimension for evenly spread embeddings, 0 for a collapse.
    """
    spread: Float64 = _unit(embeddings).std(axis=0) * math.sqrt(embeddings.shape[1])
    return spread


def is_collapsed(embeddings: Float64) -> bool:
    """Whether all views have the same embedding up to rounding."""
    return bool(embeddings.var(axis=0).sum() <= COLLAPSED * np.square(embeddings).sum(axis=1).mean())


def _squared_distances(embeddings: Float64) -> Float64:
    squared: Float64 = np.maximum(2.0 - 2.0 * cosine_similarity(embeddings), 0.0)
    return squared


def _unit(embeddings: Float64) -> Float64:
    unit: Float64 = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    return unit


# ---------------------------------------------------------------------- answers
def r2(prediction: Float64, target: Float64) -> float:
    """Share of the target's variance that the prediction explains: 1 perfect, 0 the mean, below 0 worse than that."""
    variation = float(np.square(target - target.mean()).sum()) if len(target) else 0.0
    return 1.0 - float(np.square(target - prediction).sum()) / variation if variation > 0 else math.nan
