"""The composite is the weighted mean of its parts, unknown when a part is, and its interval holds the value."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from prism_ssl.config.operations import EvalConfig
from prism_ssl.eval.proxy_metrics import discriminants, lidar, lidar_ceiling, lidar_relative
from prism_ssl.eval.proxy_quality import SeriesEvidence, proxy_quality, sign_counts
from prism_ssl.model.pair_targets import sign_skill

RNG = np.random.default_rng(0)
S, A, D = 12, 3, 16
SERIES = np.repeat(np.arange(S), 4)
EMBEDDINGS = RNG.standard_normal((S, D))[SERIES] + 0.3 * RNG.standard_normal((4 * S, D))


def _evidence(hits: float = 0.7, right_share: float = 0.8) -> SeriesEvidence:
    signs = np.full((S, A, 2), 10.0)
    return SeriesEvidence(np.full(S, hits), signs, right_share * signs, discriminants(EMBEDDINGS, SERIES), D)


def test_quality_is_the_weighted_mean_of_recall_skill_and_relative_lidar() -> None:
    config = EvalConfig(w_retrieval=1, w_skill=2, w_lidar=3, bootstrap=20)
    rows = discriminants(EMBEDDINGS, SERIES)
    relative = lidar_relative(lidar(rows), lidar_ceiling(S, D))
    quality = proxy_quality(_evidence(), config)
    assert quality.value == pytest.approx((0.7 + 2 * 0.6 + 3 * relative) / 6)
    assert (quality.retrieval, quality.skill, quality.lidar) == pytest.approx((0.7, 0.6, relative))


def test_skill_below_chance_counts_as_none() -> None:
    assert proxy_quality(_evidence(right_share=0.2), EvalConfig(bootstrap=5)).skill == 0.0


def test_quality_is_unknown_when_a_part_with_weight_is() -> None:
    no_signs = dataclasses.replace(_evidence(), signs=np.zeros((S, A, 2)), right=np.zeros((S, A, 2)))
    assert math.isnan(proxy_quality(no_signs, EvalConfig(bootstrap=5)).value)
    assert math.isnan(proxy_quality(no_signs, EvalConfig(bootstrap=5)).low)
    assert proxy_quality(no_signs, EvalConfig(bootstrap=5, w_skill=0, w_lidar=0)).value == pytest.approx(0.7)


def test_an_axis_without_both_signs_is_left_out_of_the_mean() -> None:
    evidence = _evidence()
    evidence.signs[:, 0, 1] = evidence.right[:, 0, 1] = 0
    assert proxy_quality(evidence, EvalConfig(bootstrap=5)).skill == pytest.approx(0.6)


def test_series_that_agree_leave_no_doubt_and_others_do() -> None:
    config = EvalConfig(w_lidar=0, bootstrap=200)
    sure = proxy_quality(_evidence(), config)
    assert (sure.low, sure.high) == pytest.approx((sure.value, sure.value))
    doubtful = proxy_quality(dataclasses.replace(_evidence(), hits=np.tile([0.4, 1.0], S // 2)), config)
    assert doubtful.value == pytest.approx(sure.value)
    # half the weight is on the mean of 12 values of std 0.3
    assert doubtful.high - doubtful.low == pytest.approx(2 * 1.96 * 0.5 * 0.3 / math.sqrt(S), rel=0.25)


def test_the_interval_holds_the_value_although_resamples_have_a_lower_rank() -> None:
    perfect = dataclasses.replace(_evidence(), discriminants=np.eye(S, D))
    quality = proxy_quality(perfect, EvalConfig(w_retrieval=0, w_skill=0, bootstrap=200))
    assert quality.low < quality.value == pytest.approx(1)
    assert quality.high == pytest.approx(1)


def test_equal_seeds_give_equal_intervals() -> None:
    assert proxy_quality(_evidence(), EvalConfig(bootstrap=50)) == proxy_quality(_evidence(), EvalConfig(bootstrap=50))


def test_sign_counts_add_up_to_sign_skill() -> None:
    prediction, target = RNG.standard_normal(60), RNG.standard_normal(60)
    signed = RNG.random(60) < 0.7
    signs, right = sign_counts(prediction, target, signed, np.arange(60) % 5, 5)
    skill = sign_skill(torch.tensor(prediction), torch.tensor(target), torch.tensor(signed))
    assert float((right.sum(axis=0) / signs.sum(axis=0)).sum() - 1) == pytest.approx(float(skill))
    assert signs.sum() == signed.sum()
