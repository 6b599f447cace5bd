"""Two training workers that share a batch learn what one with the whole batch does."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from prism_ssl.config.defaults import apply_overrides, phantom_cpu
from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import PrismBatch
from prism_ssl.train.distributed.ranks import Ranks
from prism_ssl.train.learner import Learner
from tests.support.gloo_ranks import ask_ranks
from tests.support.model_batches import random_batch

WEIGHTS = ("encoder.", "heads.", "decoder.")
LABELS = [0, 1, 0, 2, 1, 0, 3, 2]
"""Series with positives in the same half of the batch, in the other one, and in neither."""

CASES: dict[str, dict[str, Any]] = {
    "regression": {"model.objective": "regression"},
    "classification": {"model.objective": "classification"},
    "simclr": {"loss.simclr_baseline": True},
    "masked": {"model.masked_share": 0.5, "loss.w_masked": 1.0},
    "stage a": {"loss.supcon_warmup_steps": 10},
}


def a_config(case: str) -> PrismConfig:
    always = {"loss.supcon_warmup_steps": 0, "loss.supcon_ramp_steps": 0, "train.lr_warmup_steps": 0}
    return apply_overrides(phantom_cpu(), always | CASES[case])


def unequal_halves() -> PrismBatch:
    """Eight pairs; of the first half nearly every sign lies in its dead zone, and one axis has none at all there."""
    batch = random_batch(8, seed=3, labels=LABELS)
    batch.center_delta_mm[:3] *= 0.01
    batch.rotation_delta_deg[1:4] *= 0.01
    batch.window_delta[:4, 0] *= 0.001
    return batch


def part_of(batch: PrismBatch, ranks: Ranks) -> PrismBatch:
    """The rows of one worker."""
    each = len(LABELS) // ranks.size
    rows = slice(ranks.rank * each, (ranks.rank + 1) * each)
    return PrismBatch(**{name: value[rows] for name, value in _fields(batch)})


def _fields(value: Any) -> list[tuple[str, Any]]:
    return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]


def after_a_step(ranks: Ranks) -> dict[str, dict[str, Any]]:
    """Of every case: losses, diagnostics, gradients and weights after a step, and whether a bad pixel is skipped."""
    return {case: _after_a_step(case, ranks) for case in CASES}


def _after_a_step(case: str, ranks: Ranks) -> dict[str, Any]:
    torch.manual_seed(0)
    learner = Learner(a_config(case), torch.device("cpu"), ranks)
    report = learner.step(part_of(unequal_halves(), ranks), 0)
    told: dict[str, Any] = {"total": report.total.detach(), "distinct": report.distinct_series}
    for name, term in report.terms.items():
        told |= {f"{name} {what}": value for what, value in _fields(term) if isinstance(value, torch.Tensor)}
    told |= {f"positives {what}": value for what, value in _fields(report.positives)}
    told |= {f"{axis} {what}": value for axis, reading in report.readings.items() for what, value in _fields(reading)}
    told["embeddings"] = report.embeddings
    parameters = dict(learner.network.named_parameters())
    told |= {f"gradient of {name}": each.grad for name, each in parameters.items()}
    told |= {name: each.detach().clone() for name, each in parameters.items()}
    broken = unequal_halves()
    broken.patches_b[-1, 0, 3, 3, 0] = torch.nan  # in the part of the last worker
    learner.step(part_of(broken, ranks), 1)
    untouched = all(torch.equal(told[name], each) for name, each in parameters.items())
    return told | {"bad batch skipped": (1.0 - learner.last_update_finite) * float(untouched)}


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Any]]]:
    return ask_ranks(2, after_a_step, tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def of_one() -> dict[str, dict[str, Any]]:
    return after_a_step(Ranks(0, 1))


@pytest.mark.parametrize("case", CASES)
def test_two_workers_learn_what_one_learns_of_the_joint_batch(of_two: Any, of_one: Any, case: str) -> None:
    wanted = {name: value for name, value in of_one[case].items() if not name.startswith(WEIGHTS)}
    for answer in (each[case] for each in of_two):
        without = {name for name, value in wanted.items() if value is None}
        assert {name for name, value in answer.items() if value is None} == without
        off = {name: distance(answer[name], wanted[name]) for name in wanted.keys() - without}
        assert {name: by for name, by in off.items() if by > 1e-6} == {}


def distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest difference, over the largest value where that is above 1."""
    scale = wanted.float().abs().max().clamp(min=1.0)
    return float((found.float() - wanted.float()).abs().max() / scale)


@pytest.mark.parametrize("case", CASES)
def test_the_weights_of_two_workers_stay_bitwise_equal(of_two: Any, case: str) -> None:
    one, other = (each[case] for each in of_two)
    weights = [name for name in one if name.startswith(WEIGHTS)]
    assert weights
    assert [name for name in weights if not torch.equal(one[name], other[name])] == []


def test_a_bad_pixel_of_one_worker_is_skipped_by_all(of_two: Any, of_one: Any) -> None:
    assert all(bool(each[case]["bad batch skipped"]) for each in (of_one, *of_two) for case in CASES)


def test_terms_of_weight_0_leave_no_gradient_at_all(of_two: Any) -> None:
    without = {case: [name for name, value in of_two[1][case].items() if value is None] for case in CASES}
    assert without["regression"] == without["classification"] == []
    assert without["stage a"]
    assert all(name.startswith("gradient of heads.projection") for name in without["stage a"])
    assert without["simclr"]
    assert not any("projection" in name for name in without["simclr"])


def test_the_halves_alone_have_other_losses_than_their_batch(of_one: Any) -> None:
    """What the first test would not notice otherwise: the mean over the workers is not the mean over the batch."""
    torch.manual_seed(0)
    learner = Learner(a_config("classification"), torch.device("cpu"))
    halves = [learner.step(part_of(unequal_halves(), Ranks(rank, 2)), 0).terms for rank in (0, 1)]
    for name in ("distance", "rotation", "supcon"):
        mean = (halves[0][name].value + halves[1][name].value) / 2
        assert abs(mean - of_one["classification"][f"{name} raw"]) > 1e-3
