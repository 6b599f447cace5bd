"""Positives by place against the rule written out view by view, and what the losses make of it."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from prism_ssl.config.network import Objective
from prism_ssl.config.schema import LossConfig, ViewConfig
from prism_ssl.contracts import PrismBatch
from prism_ssl.model.loss import LossBundle
from prism_ssl.model.positives import by_place
from prism_ssl.model.supcon import contrastive_loss, positive_stats
from tests.support.model_batches import perfect_output, random_batch

NEAR_MM, APART_MM = 5.0, 12.0


def _batch(seed: int = 0) -> PrismBatch:
    """Twelve pairs of three patients, patient 1 with two series; centres lie within 20 mm, far from the origin."""
    generator = torch.Generator().manual_seed(seed)
    at = 700.0 + 20.0 * torch.rand(12, 3, generator=generator)
    delta = (4.0 * torch.randn(12, 3, generator=generator)) * (torch.arange(12) % 2).unsqueeze(1)
    return dataclasses.replace(
        random_batch(12),
        subject_label=torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2]),
        series_label=torch.tensor([0, 0, 0, 0, 1, 1, 1, 9, 9, 9, 2, 2]),
        center_a_mm=at,
        center_b_mm=at + delta,
        center_delta_mm=delta,
        center_distance_mm=delta.norm(dim=1),
    )


@pytest.mark.parametrize("seed", range(5))
def test_positives_by_place_are_those_of_the_rule_written_out(seed: int) -> None:
    batch = _batch(seed)
    centers = [*batch.center_a_mm.tolist(), *batch.center_b_mm.tolist()]
    views = list(zip(batch.subject_label.tolist() * 2, batch.series_label.tolist() * 2, centers, strict=True))
    contrast = by_place(batch, NEAR_MM, APART_MM)
    kinds = set()
    for i, (patient, series, center) in enumerate(views):
        for j, (other_patient, other_series, other_center) in enumerate(views):
            kind = "negative"
            if i == j:
                kind = "itself"
            elif patient == other_patient:
                distance = math.dist(center, other_center)
                kind = "near" if distance <= NEAR_MM else "apart" if distance >= APART_MM else "between"
                kind = "unknown" if series != other_series else kind
            kinds.add(kind)
            assert bool(contrast.positive[i, j]) == (kind == "near")
            assert bool(contrast.compared[i, j]) == (kind in ("near", "apart", "negative"))
    assert kinds == {"itself", "negative", "near", "apart", "between", "unknown"}


def test_views_that_are_left_out_do_not_enter_the_loss() -> None:
    contrast = by_place(_batch(), NEAR_MM, APART_MM)
    embeddings = torch.nn.functional.normalize(torch.randn(24, 8, generator=torch.Generator().manual_seed(1)), dim=1)
    similarity = (embeddings @ embeddings.T / 0.1).tolist()
    expected = []
    for i in range(24):
        positives = [j for j in range(24) if contrast.positive[i, j]]
        if positives:
            total = math.fsum(math.exp(similarity[i][j]) for j in range(24) if contrast.compared[i, j])
            expected.append(math.fsum(math.log(total) - similarity[i][j] for j in positives) / len(positives))
    assert contrastive_loss(embeddings, contrast, 0.1).item() == pytest.approx(
        math.fsum(expected) / len(expected), rel=1e-5
    )
    equal = contrastive_loss(torch.ones(24, 1), contrast, 0.1)
    assert positive_stats(contrast).chance.item() == pytest.approx(equal.item(), rel=1e-5)


def test_a_run_by_place_draws_places_together_and_simclr_stays_as_it_is() -> None:
    batch, view = _batch(), ViewConfig(same_place_share=0.5)
    output = perfect_output(batch, "regression")
    settings = LossConfig(supcon_positives="place", supcon_warmup_steps=0, supcon_ramp_steps=0)
    report = LossBundle(settings, view, "regression")(output, batch, 0)
    by_hand = contrastive_loss(
        torch.cat([output.projection_a, output.projection_b]), by_place(batch, 5.0, 12.0), settings.supcon_temperature
    )
    assert report.terms["supcon"].raw.item() == pytest.approx(by_hand.item())
    simclr = dataclasses.replace(settings, simclr_baseline=True)
    positives = LossBundle(simclr, view, "regression")(output, batch, 0).positives
    assert (positives.mean.item(), positives.min.item()) == (1.0, 1.0)


@pytest.mark.parametrize("objective", ["regression", "classification"])
def test_a_window_that_is_not_known_is_in_no_loss_and_no_skill(objective: Objective) -> None:
    batch = random_batch(8)
    known = torch.tensor([True] * 6 + [False] * 2)
    partly = dataclasses.replace(batch, window_known=known)
    nonsense = dataclasses.replace(partly, window_delta=torch.where(known[:, None], batch.window_delta, 1e6))
    losses = LossBundle(LossConfig(), ViewConfig(), objective)
    output = perfect_output(batch, objective)
    first, second = losses(output, partly, 0), losses(output, nonsense, 0)
    for head in ("window_center", "window_width"):
        assert first.terms[head] == second.terms[head] or torch.equal(first.terms[head].raw, second.terms[head].raw)
        assert torch.equal(first.terms[head].chance_raw, second.terms[head].chance_raw)
    for axis in ("wc", "ww"):
        assert not second.readings[axis].signed[~known].any()
        assert not second.readings[axis].valid[~known].any()
    assert second.readings["dx"].valid.any()
    nothing = losses(output, dataclasses.replace(batch, window_known=torch.zeros(8, dtype=torch.bool)), 0)
    assert nothing.terms["window_center"].raw.item() == 0.0
