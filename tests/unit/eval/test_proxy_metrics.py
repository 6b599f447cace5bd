"""Closed-form cases of every metric: identical views, random ones, a rank-1 collapse, perfect retrieval, ties."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest

from prism_ssl.contracts import Float64
from prism_ssl.eval import proxy_metrics as metrics

SERIES = np.repeat(np.arange(6), 4)
RNG = np.random.default_rng(0)


def _perfect(noise: float = 0.0) -> Float64:
    """One direction per series, [24, 8]."""
    return np.eye(6, 8)[SERIES] + noise * RNG.standard_normal((24, 8))


def _recall(embeddings: Float64, k: int) -> float:
    return float(metrics.hits_at(metrics.cosine_similarity(embeddings), *metrics.same_series(SERIES), k).mean())


def _relative(value: float, ceiling: int) -> float:
    """LiDAR on a scale from 0 (one direction or none) to 1 (its ceiling)."""
    return (value - 1.0) / (ceiling - 1.0)


def _lidar_relative(embeddings: Float64) -> float:
    value = metrics.lidar(metrics.discriminants(embeddings, SERIES))
    return _relative(value, metrics.lidar_ceiling(6, embeddings.shape[1]))


def test_one_direction_per_series_is_retrieved_perfectly() -> None:
    assert _recall(_perfect(0.01), 1) == 1.0
    assert _recall(_perfect(0.01), 5) == 1.0


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_a_collapsed_encoder_scores_exactly_chance(k: int, noise: float) -> None:
    collapsed = np.ones((24, 8)) + noise * RNG.standard_normal((24, 8))
    chance = metrics.chance_at(*metrics.same_series(SERIES), k)
    miss = math.comb(20, k) / math.comb(23, k)  # 20 of 23 others are of another series
    assert chance == pytest.approx(1 - miss)
    assert _recall(collapsed, k) == pytest.approx(1 - miss)


def test_random_embeddings_retrieve_by_chance() -> None:
    series = np.repeat(np.arange(100), 4)
    positive, candidate = metrics.same_series(series)
    similarity = metrics.cosine_similarity(RNG.standard_normal((400, 16)))
    for k in (1, 5):
        chance = float(metrics.chance_at(positive, candidate, k).mean())
        assert float(metrics.hits_at(similarity, positive, candidate, k).mean()) == pytest.approx(chance, abs=0.03)


def test_ties_count_as_the_mean_over_all_their_orders() -> None:
    similarity = np.array([[0.0, 0.9, 0.5, 0.5, 0.5, 0.1]])
    positive = np.array([[False, False, True, False, True, True]])
    candidate = np.array([[False, True, True, True, True, True]])
    for k in range(1, 6):
        outcomes = [positive[0, [1, *tied, 5][:k]].any() for tied in permutations([2, 3, 4])]
        hits = metrics.hits_at(similarity, positive, candidate, k)
        assert hits == pytest.approx(np.mean(outcomes)), k


def test_a_query_without_a_positive_is_unknown() -> None:
    positive, candidate = metrics.same_series(np.array([0, 0, 1]))
    assert np.isnan(metrics.hits_at(np.zeros((3, 3)), positive, candidate, 1)).tolist() == [False, False, True]


def test_the_effective_rank_of_equal_weights_is_their_number() -> None:
    assert metrics.effective_rank(np.array([2.0, 2.0, 2.0, 0.0])) == pytest.approx(3)
    assert metrics.effective_rank(np.zeros(4)) == 1.0


def test_rankme_counts_the_directions_in_use() -> None:
    assert metrics.rankme(_perfect()) == pytest.approx(6)
    assert metrics.rankme(np.outer(RNG.standard_normal(24), np.ones(8))) == pytest.approx(1)


def test_rankme_weighs_singular_values_and_not_their_squares() -> None:
    # shares 3/4 and 1/4; squared they were 9/10 and 1/10, and the answer 1.38
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert metrics.rankme(np.diag([3.0, 1.0])) == pytest.approx(expected)


def test_a_discriminant_is_in_units_of_the_scatter_within_and_a_ten_thousandth_of_the_variance() -> None:
    embeddings = np.array([[-1.1], [-0.9], [0.9], [1.1]])  # means -1 and 1, variance 0.01 within, 1.01 in all
    rows = metrics.discriminants(embeddings, np.array([0, 0, 1, 1]))
    assert np.abs(rows[:, 0]) == pytest.approx(1 / math.sqrt(0.01 + 1e-4 * 1.01))


def test_of_noise_one_set_in_twenty_has_a_telling_direction() -> None:
    series, rng = np.repeat(np.arange(16), 4), np.random.default_rng(5)
    found = [
        bool(np.linalg.matrix_rank(metrics.telling_discriminants(rng.standard_normal((64, 6)), series, seed=seed)))
        for seed in range(60)
    ]
    # binomial(60, 0.05): 3 expected, 9 or more in 1 of 300; at the median 30 were expected
    assert sum(found) <= 9


def test_lidar_reaches_its_ceiling_when_every_series_has_a_direction_of_its_own() -> None:
    assert metrics.lidar_ceiling(6, 8) == 5
    assert metrics.lidar_ceiling(6, 3) == 3
    assert _lidar_relative(_perfect()) == pytest.approx(1)


@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_lidar_of_a_collapse_is_nothing(noise: float) -> None:
    assert _lidar_relative(np.ones((24, 8)) + noise * RNG.standard_normal((24, 8))) == 0.0
    assert _lidar_relative(np.outer(SERIES, np.ones(8))) == pytest.approx(0, abs=1e-6)


def test_lidar_depends_neither_on_scale_nor_on_axes() -> None:
    embeddings = _perfect(0.3)
    turn, _ = np.linalg.qr(RNG.standard_normal((8, 8)))
    assert _lidar_relative(1e3 * embeddings @ turn + 5) == pytest.approx(_lidar_relative(embeddings))


def test_lidar_ignores_directions_that_do_not_tell_series_apart() -> None:
    # between-series scatter along x only, much wandering within a series along y
    embeddings = np.stack([SERIES.astype(float), np.tile([-9.0, 9.0, -9.0, 9.0], 6)], axis=1)
    assert metrics.rankme(embeddings) > 1.3
    assert metrics.lidar(metrics.discriminants(embeddings, SERIES)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("width", [16, 512])
@pytest.mark.parametrize(("signal", "expected"), [(0.0, 0.0), (30.0, 1.0)])
def test_telling_directions_are_none_in_noise_and_all_in_series_that_differ(
    width: int, signal: float, expected: float
) -> None:
    series = np.repeat(np.arange(16), 8)
    noise, means = RNG.standard_normal((128, width)), signal * np.eye(16, width)
    rows = metrics.telling_discriminants(means[series] + noise, series, seed=0)
    relative = _relative(metrics.lidar(rows), metrics.lidar_ceiling(16, width))
    assert relative == pytest.approx(expected, abs=0.1 if signal else 0.0)


def test_telling_directions_are_the_ones_with_signal() -> None:
    series = np.repeat(np.arange(16), 8)
    means = np.zeros((16, 12))
    means[:, :3] = 5 * RNG.standard_normal((16, 3))
    rows = metrics.telling_discriminants(means[series] + RNG.standard_normal((128, 12)), series, seed=0)
    assert np.linalg.matrix_rank(rows, tol=1e-6) == 3


def test_alignment_and_uniformity_of_known_points() -> None:
    antipodes = np.array([[1.0, 0], [1.0, 0], [-3.0, 0], [-3.0, 0]])  # distances 0 within, 2 between
    series = np.array([0, 0, 1, 1])
    assert metrics.alignment(antipodes, series) == pytest.approx(0)
    assert metrics.alignment(antipodes, np.array([0, 1, 0, 1])) == pytest.approx(4)
    assert metrics.uniformity(antipodes) == pytest.approx(math.log((2 + 4 * math.exp(-8)) / 6))
    assert metrics.uniformity(np.ones((4, 2))) == pytest.approx(0)


def test_uniformity_of_an_even_spread_in_many_dimensions() -> None:
    assert metrics.uniformity(RNG.standard_normal((200, 4096))) == pytest.approx(-4, abs=0.05)


def test_dimension_std_is_one_when_spread_evenly_and_zero_when_collapsed() -> None:
    spread = metrics.dimension_std(RNG.standard_normal((5000, 16)))
    assert spread == pytest.approx(1, abs=0.05)
    assert metrics.dimension_std(np.ones((24, 8))) == pytest.approx(0)


def test_r2_of_perfect_mean_and_useless_answers() -> None:
    target = np.array([1.0, 2.0, 3.0])
    assert metrics.r2(target, target) == 1.0
    assert metrics.r2(np.full(3, 2.0), target) == 0.0
    assert metrics.r2(target[::-1], target) == pytest.approx(-3.0)
    assert math.isnan(metrics.r2(target, np.ones(3)))
