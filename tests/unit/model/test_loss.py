"""The whole objective: what enters the total, what a report tells, and the edges."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import pytest
import torch

from prism_ssl.config.network import Objective
from prism_ssl.config.schema import LossConfig, ViewConfig
from prism_ssl.contracts import PrismBatch, PrismOutput
from prism_ssl.model.loss import LossBundle, LossReport
from prism_ssl.model.pair_targets import sign_skill
from tests.support.model_batches import one_hot_projection, output_of, perfect_output, random_batch

OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
HEADS = ["distance", "rotation", "window_center", "window_width"]
RAMPED = LossConfig(supcon_warmup_steps=0, supcon_ramp_steps=0, w_supcon_target=0.3)


def _bundle(objective: Objective, config: LossConfig = RAMPED) -> LossBundle:
    return LossBundle(config, ViewConfig(), objective)


def _leaf_output(batch: PrismBatch, objective: Objective) -> PrismOutput:
    """Random answers, each a leaf of its own."""
    perfect = perfect_output(batch, objective)
    names = PrismOutput.__dataclass_fields__
    return PrismOutput(**{name: torch.randn_like(getattr(perfect, name)).requires_grad_() for name in names})


def _chance_total(report: LossReport) -> float:
    return sum(term.weight * term.chance.item() for term in report.terms.values())


def _all_numbers(report: LossReport) -> torch.Tensor:
    terms = [(t.raw, t.normalized, t.chance_raw, t.chance_normalized) for t in report.terms.values()]
    stats = (report.positives.mean, report.positives.min, report.positives.cross_pair_share)
    return torch.stack([report.total.detach(), *stats, *(x for term in terms for x in term)])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_perfect_predictor_has_no_loss_and_full_skill(objective: Objective) -> None:
    batch = random_batch()
    report = _bundle(objective, replace(RAMPED, supcon_temperature=0.02))(perfect_output(batch, objective), batch, 0)
    assert report.total.item() == pytest.approx(0.0, abs=1e-5)
    skills = {n: sign_skill(r.prediction, r.target, r.signed).item() for n, r in report.readings.items()}
    skills.pop("distance", None)
    assert skills == dict.fromkeys(["dx", "dy", "dz", "rx", "ry", "rz", "wc", "ww"], 1.0)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_total_is_the_weighted_sum_of_its_terms(objective: Objective) -> None:
    config = replace(RAMPED, w_distance=2.0, w_rotation=0.5, w_window=3.0)
    batch = random_batch()
    report = _bundle(objective, config)(_leaf_output(batch, objective), batch, 0)
    weights = {"distance": 2.0, "rotation": 0.5, "window_center": 3.0, "window_width": 3.0, "supcon": 0.3}
    assert {name: term.weight for name, term in report.terms.items()} == weights
    expected = sum(weights[name] * term.value.item() for name, term in report.terms.items())
    assert report.total.item() == pytest.approx(expected, rel=1e-5)


def test_the_constant_mean_predictor_obtains_the_chance_total() -> None:
    batch = random_batch()
    perfect = perfect_output(batch, "regression")
    constant = output_of(
        perfect.distance.mean(0).expand(6, 4),
        perfect.rotation.mean(0).expand(6, 3),
        (batch.window_delta / batch.intensity_scale.unsqueeze(1)).mean(0).expand(6, 2),
        torch.ones(12, 4) / 2.0,
    )
    report = _bundle("regression")(constant, batch, 0)
    assert report.total.item() == pytest.approx(_chance_total(report), rel=1e-5)


def test_the_coin_obtains_the_chance_total() -> None:
    batch = random_batch()
    coin = output_of(torch.zeros(6, 3), torch.zeros(6, 3), torch.zeros(6, 2), torch.ones(12, 4) / 2.0)
    report = _bundle("classification")(coin, batch, 0)
    assert report.total.item() == pytest.approx(_chance_total(report), rel=1e-5)
    assert _chance_total(report) == pytest.approx(4 * math.log(2) + 0.3 * math.log(11), rel=1e-5)


def test_targets_not_normalised_are_optimised_in_raw_units() -> None:
    batch = random_batch()
    bundle = _bundle("regression", replace(RAMPED, normalize_targets=False))
    perfect = bundle(perfect_output(batch, "regression", normalized=False), batch, 0)
    assert [perfect.terms[head].value.item() for head in HEADS] == pytest.approx([0.0] * 4, abs=1e-6)
    report = bundle(_leaf_output(batch, "regression"), batch, 0)
    assert [report.terms[head].value for head in HEADS] == [report.terms[head].raw for head in HEADS]
    assert report.terms["window_width"].chance > 5.0  # rescaled units, not standard deviations


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_supcon_is_reported_in_stage_a_and_gives_no_gradient(objective: Objective) -> None:
    batch, config = random_batch(), LossConfig(supcon_warmup_steps=5, supcon_ramp_steps=10, w_supcon_target=0.2)
    output = _leaf_output(batch, objective)
    report = _bundle(objective, config)(output, batch, step=4)
    report.total.backward()
    assert report.supcon_weight == 0.0
    assert report.terms["supcon"].value.item() > 0.0
    assert output.projection_a.grad is None
    assert output.distance.grad is not None


def test_supcon_enters_the_gradient_on_the_ramp() -> None:
    batch, config = random_batch(), LossConfig(supcon_warmup_steps=5, supcon_ramp_steps=10, w_supcon_target=0.2)
    output = _leaf_output(batch, "regression")
    report = _bundle("regression", config)(output, batch, step=10)
    report.total.backward()
    assert report.supcon_weight == pytest.approx(0.1)
    assert output.projection_a.grad is not None


def test_supcon_takes_the_other_view_of_a_pair_as_positive() -> None:
    batch = random_batch(labels=[0, 0, 1, 2, 3, 4])
    matched = replace(RAMPED, supcon_temperature=0.02)
    report = _bundle("regression", matched)(perfect_output(batch, "regression"), batch, 0)
    assert report.terms["supcon"].value.item() == pytest.approx(report.positives.loss_floor.item(), abs=1e-5)
    assert report.positives.cross_pair_share.item() == pytest.approx(2 / 6)


# ---------------------------------------------------------------------- the SimCLR baseline
SIMCLR = LossConfig(simclr_baseline=True)


def _nt_xent(z: torch.Tensor, temp: float) -> torch.Tensor:
    """Chen et al. 2020, eq. 1 and algorithm 1, as cross entropy over the other 2B - 1 views."""
    n = len(z) // 2
    z = torch.nn.functional.normalize(z, dim=1)
    logits = z @ z.T / temp
    logits = logits - torch.diag(torch.full((2 * n,), math.inf))
    partner = torch.cat([torch.arange(n) + n, torch.arange(n)])
    return torch.nn.functional.cross_entropy(logits, partner)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_simclr_baseline_is_nt_xent_and_nothing_else(objective: Objective) -> None:
    batch = random_batch(labels=[0, 0, 0, 1, 1, 2])  # series that come twice are negatives all the same
    output = _leaf_output(batch, objective)
    z = torch.nn.functional.normalize(torch.cat([output.projection_a, output.projection_b]), dim=1)
    output = replace(output, projection_a=z[:6], projection_b=z[6:])
    report = _bundle(objective, SIMCLR)(output, batch, step=0)  # no warm-up, no ramp
    assert report.total.item() == pytest.approx(_nt_xent(z, 0.1).item(), rel=1e-5)
    assert {name: term.weight for name, term in report.terms.items()} == dict.fromkeys(HEADS, 0.0) | {"supcon": 1.0}
    report.total.backward()
    assert output.rotation.grad is None


def test_the_simclr_baseline_reports_the_positives_that_it_uses() -> None:
    batch = random_batch(labels=[0, 0, 0, 1, 1, 2])
    report = _bundle("regression", SIMCLR)(perfect_output(batch, "regression"), batch, 0)
    positives = report.positives
    assert (positives.mean.item(), positives.min.item(), positives.cross_pair_share.item()) == (1.0, 1.0, 0.0)
    assert positives.loss_floor.item() == 0.0
    assert positives.chance.item() == pytest.approx(math.log(11))
    assert report.distinct_series.item() == pytest.approx(3.0)


def test_only_the_total_carries_gradients() -> None:
    batch = random_batch()
    report = _bundle("regression")(_leaf_output(batch, "regression"), batch, 0)
    assert report.total.requires_grad
    assert not any(t.raw.requires_grad or t.normalized.requires_grad for t in report.terms.values())
    assert not any(r.prediction.requires_grad for r in report.readings.values())


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_with_every_weight_zero_the_total_is_zero_and_still_differentiable(objective: Objective) -> None:
    config = replace(RAMPED, w_distance=0.0, w_rotation=0.0, w_window=0.0, w_supcon_target=0.0)
    batch = random_batch()
    output = _leaf_output(batch, objective)
    report = _bundle(objective, config)(output, batch, 0)
    report.total.backward()
    assert report.total.item() == 0.0
    assert output.distance.grad is None


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(
    "batch",
    [
        random_batch(n_pairs=1),
        random_batch(labels=[7] * 6),
        replace(
            random_batch(),
            center_distance_mm=torch.zeros(6),
            center_delta_mm=torch.zeros(6, 3),
            rotation_delta_deg=torch.zeros(6, 3),
            window_delta=torch.zeros(6, 2),
        ),
    ],
    ids=["one pair", "one series", "no differences"],
)
def test_edge_batches_are_finite_in_value_and_gradient(objective: Objective, batch: PrismBatch) -> None:
    output = _leaf_output(batch, objective)
    report = _bundle(objective)(output, batch, 0)
    report.total.backward()
    assert _all_numbers(report).isfinite().all()
    assert output.rotation.grad is not None
    assert output.rotation.grad.isfinite().all()


def test_regression_and_classification_answers_of_equal_sign_have_equal_skill() -> None:
    batch = random_batch(n_pairs=40, seed=3)
    regression = _leaf_output(batch, "regression")
    classification = output_of(
        regression.distance[:, 1:],
        regression.rotation,
        torch.cat([regression.window_center, regression.window_width], dim=1),
        one_hot_projection(batch.series_label),
    )
    by_regression = _bundle("regression")(regression, batch, 0).readings
    by_classification = _bundle("classification")(classification, batch, 0).readings
    for name, other in by_classification.items():
        mine = by_regression[name]
        assert sign_skill(mine.prediction, mine.target, mine.signed) == sign_skill(
            other.prediction, other.target, other.signed
        )


def test_a_network_answering_in_bfloat16_is_scored_in_float32() -> None:
    batch = random_batch()
    perfect = perfect_output(batch, "regression")
    rounded = PrismOutput(**{n: getattr(perfect, n).bfloat16() for n in PrismOutput.__dataclass_fields__})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        report = _bundle("regression")(rounded, batch, 0)
    assert {term.value.dtype for term in report.terms.values()} == {torch.float32}
    assert all(r.prediction.dtype == torch.float32 for r in report.readings.values())
