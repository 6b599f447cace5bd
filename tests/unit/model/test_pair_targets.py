"""Targets, their units, and closed-form values of the losses on them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from prism_ssl.config.schema import LossConfig, ViewConfig
from prism_ssl.model.pair_targets import (
    HeadTarget,
    TargetScales,
    pair_targets,
    score_classification,
    score_regression,
    sign_skill,
)
from tests.support.model_batches import random_batch

SCALES = TargetScales.from_config(LossConfig(), ViewConfig())


def _target(delta: Tensor, unit: float = 1.0, dead_zone: float = 0.0) -> HeadTarget:
    return HeadTarget(
        delta, torch.full_like(delta, unit), delta.abs() > dead_zone, torch.ones(len(delta), 1, dtype=torch.bool)
    )


def _rotation(*rows: list[float]) -> Tensor:
    return torch.tensor(rows)


def test_targets_are_the_differences_of_the_batch() -> None:
    batch = random_batch()
    targets = pair_targets(batch, SCALES)
    assert torch.equal(targets["distance"].delta[:, 0], batch.center_distance_mm)
    assert torch.equal(targets["distance"].delta[:, 1:], batch.center_delta_mm)
    assert torch.equal(targets["rotation"].delta, batch.rotation_delta_deg)
    assert torch.equal(targets["window_center"].delta, batch.window_delta[:, :1])
    assert torch.equal(targets["window_width"].delta, batch.window_delta[:, 1:])


def test_units_are_the_constants_of_the_settings_and_of_the_scan() -> None:
    view = ViewConfig(radius_mm_max=42.0, rotation_max_deg=7.0)
    batch = random_batch()
    targets = pair_targets(batch, TargetScales.from_config(LossConfig(), view))
    assert targets["distance"].unit.unique().tolist() == [42.0]
    assert targets["rotation"].unit.unique().tolist() == [7.0]
    assert torch.equal(targets["window_width"].unit[:, 0], batch.intensity_scale)


def test_signs_inside_the_dead_zone_are_masked() -> None:
    batch = replace(
        random_batch(n_pairs=3),
        center_delta_mm=torch.tensor([[4.9, -5.1, 0.0]]).expand(3, 3),
        rotation_delta_deg=torch.tensor([[0.9, -1.1, 0.0]]).expand(3, 3),
        window_delta=torch.tensor([[9.0, -9.0]]).expand(3, 2),
        intensity_scale=torch.tensor([10.0, 80.0, 100.0]),
    )
    targets = pair_targets(batch, SCALES)
    assert targets["distance"].signed.tolist() == [[False, False, True, False]] * 3  # the distance has no sign
    assert targets["rotation"].signed.tolist() == [[False, True, False]] * 3
    assert targets["window_center"].signed.tolist() == [[True], [True], [False]]  # 0.1 std is 1, 8 and 10 units


def test_smooth_l1_of_known_errors_in_both_units() -> None:
    target = _target(_rotation([0.0, 10.0, 30.0]), unit=10.0)
    output = _rotation([0.05, 3.0, 3.0])  # normalised: errors 0.05, 2, 0; raw: 0.5, 20, 0
    score = score_regression("rotation", output, target, normalized_output=True)
    assert score.normalized.item() == pytest.approx((0.5 * 0.05**2 + 1.5 + 0.0) / 3)
    assert score.raw.item() == pytest.approx((0.5 * 0.5**2 + 19.5 + 0.0) / 3)


def test_output_in_raw_units_scores_as_the_same_output_normalised() -> None:
    delta, output = torch.randn(5, 3) * 10, torch.randn(5, 3)
    normalized = score_regression("rotation", output, _target(delta, 10.0), normalized_output=True)
    raw = score_regression("rotation", output * 10.0, _target(delta, 10.0), normalized_output=False)
    torch.testing.assert_close(raw.raw, normalized.raw)
    torch.testing.assert_close(raw.normalized, normalized.normalized)


def test_regression_chance_is_what_the_constant_mean_obtains() -> None:
    target = _target(torch.randn(7, 3) * 10, unit=10.0)
    constant = (target.delta.mean(0) / 10.0).expand(7, 3)
    score = score_regression("rotation", constant, target, normalized_output=True)
    torch.testing.assert_close(score.normalized, score.chance_normalized)
    torch.testing.assert_close(score.raw, score.chance_raw)


def test_cross_entropy_of_known_probabilities_counts_only_what_has_a_sign() -> None:
    target = _target(_rotation([3.0, -3.0, 0.2], [-3.0, -3.0, 0.2]), dead_zone=1.0)
    logit = math.log(0.8 / 0.2)
    score = score_classification("rotation", _rotation([logit, logit, 99.0], [logit, -logit, -99.0]), target)
    rx = (-math.log(0.8) - math.log(0.2)) / 2
    ry = (-math.log(0.2) - math.log(0.8)) / 2
    assert score.normalized.item() == pytest.approx((rx + ry) / 2, rel=1e-5)
    assert score.raw.item() == score.normalized.item()


def test_masked_signs_send_no_gradient() -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    target = _target(torch.tensor([[5.0, 0.1, -5.0]]).repeat(4, 1), dead_zone=1.0)
    score_classification("rotation", logits, target).normalized.backward()
    assert logits.grad is not None
    assert logits.grad.ne(0).all(dim=0).tolist() == [True, False, True]


def test_a_head_without_any_sign_is_zero_with_a_gradient_path() -> None:
    logits = torch.randn(4, 1, requires_grad=True)
    score = score_classification("window_center", logits, _target(torch.zeros(4, 1)))
    score.normalized.backward()
    assert (score.normalized.item(), score.chance_normalized.item()) == (0.0, 0.0)
    assert logits.grad is not None
    assert not logits.grad.any()


def test_the_coin_obtains_ln_2_also_when_an_axis_has_no_sign() -> None:
    target = _target(_rotation([3.0, -3.0, 0.2], [-3.0, -3.0, 0.2]), dead_zone=1.0)
    score = score_classification("rotation", torch.zeros(2, 3), target)
    assert score.normalized.item() == pytest.approx(math.log(2))
    assert score.chance_normalized.item() == pytest.approx(math.log(2))


def test_classification_skips_the_distance_and_names_the_displacements() -> None:
    target = pair_targets(random_batch(), SCALES)["distance"]
    score = score_classification("distance", torch.randn(6, 3), target)
    assert list(score.readings) == ["dx", "dy", "dz"]
    assert torch.equal(score.readings["dy"].target, target.delta[:, 2].sign())


def test_readings_of_regression_are_normalised_and_unit_brings_them_back() -> None:
    target = pair_targets(random_batch(), SCALES)["window_width"]
    output = torch.randn(6, 1, requires_grad=True)
    reading = score_regression("window_width", output, target, normalized_output=False).readings["ww"]
    torch.testing.assert_close(reading.target * reading.unit, target.delta[:, 0])
    torch.testing.assert_close(reading.prediction * reading.unit, output[:, 0].detach())
    assert not reading.prediction.requires_grad


def test_skill_of_perfect_wrong_and_constant_predictions() -> None:
    target, everywhere = torch.tensor([3.0, 1.0, 2.0, -1.0]), torch.ones(4, dtype=torch.bool)
    assert sign_skill(target * 0.01, target, everywhere).item() == 1.0
    assert sign_skill(-target, target, everywhere).item() == -1.0
    for constant in (-1.0, 0.0, 1.0):
        assert sign_skill(torch.full((4,), constant), target, everywhere).item() == 0.0


def test_skill_looks_only_at_signed_pairs() -> None:
    target, prediction = torch.tensor([3.0, -3.0, 0.1]), torch.tensor([1.0, -1.0, -1.0])
    assert sign_skill(prediction, target, torch.tensor([True, True, False])).item() == 1.0


def test_skill_without_one_of_the_signs_is_not_a_number() -> None:
    target = torch.tensor([3.0, 1.0])
    assert sign_skill(target, target, torch.ones(2, dtype=torch.bool)).isnan()
