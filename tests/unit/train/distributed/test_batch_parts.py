"""A batch that is encoded in parts, or whose activations are dropped, has the losses and gradients of the whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import jaxtyping
import pytest
import torch

from prism_ssl.config.defaults import apply_overrides
from prism_ssl.contracts import PrismBatch
from prism_ssl.errors import ConfigError
from prism_ssl.model.loss import LossReport
from prism_ssl.train import learner as of_learner
from prism_ssl.train.learner import Learner
from tests.support.model_batches import random_batch
from tests.unit.train.distributed.test_joint_batch import CASES, a_config, unequal_halves

CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _after_a_step(
    case: str, batch: PrismBatch | None = None, **settings: Any
) -> tuple[LossReport, dict[str, torch.Tensor | None]]:
    torch.manual_seed(0)
    config = apply_overrides(a_config(case), {key.replace("__", "."): value for key, value in settings.items()})
    learner = Learner(config, CPU)
    report = learner.step(batch or unequal_halves(), 0)
    return report, {name: weight.grad for name, weight in learner.network.named_parameters()}


def _assert_same_step(one: tuple[LossReport, Any], other: tuple[LossReport, Any], rtol: float, atol: float) -> None:
    for name, term in one[0].terms.items():
        torch.testing.assert_close(other[0].terms[name].raw, term.raw, rtol=rtol, atol=atol)
    assert dataclasses.astuple(other[0].positives) == dataclasses.astuple(one[0].positives)
    assert [name for name in one[1] if (one[1][name] is None) != (other[1][name] is None)] == []
    for name, gradient in one[1].items():
        if gradient is not None:
            torch.testing.assert_close(other[1][name], gradient, rtol=rtol, atol=atol, msg=name)


@pytest.mark.parametrize("parts", [2, 8])
@pytest.mark.parametrize("case", CASES)
def test_parts_of_a_batch_have_the_losses_and_gradients_of_the_whole(case: str, parts: int) -> None:
    whole = _after_a_step(case)
    assert any(gradient is not None and gradient.any() for gradient in whole[1].values())
    _assert_same_step(whole, _after_a_step(case, train__grad_accumulation=parts), rtol=1e-4, atol=1e-6)


def test_pairs_compared_across_each_other_have_their_partner_in_their_part() -> None:
    labels = [0, 0, 0, 0, 1, 1, 1, 1]  # so in the whole batch the partners are the same
    settings = {"loss__heads_across_pairs": True, "train__batch_size": 8}
    whole, halves = (
        _after_a_step("regression", random_batch(8, labels=labels), train__grad_accumulation=parts, **settings)
        for parts in (1, 2)
    )
    _assert_same_step(whole, halves, rtol=1e-4, atol=1e-6)


def test_parts_have_the_gradients_of_the_whole_in_bfloat16_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def autocast(*_: Any) -> AbstractContextManager[Any]:
        return torch.autocast("cpu", torch.bfloat16)

    monkeypatch.setattr(of_learner, "training_autocast", autocast)
    whole, parts = (_after_a_step("regression", train__grad_accumulation=number) for number in (1, 4))
    _assert_same_step(whole, parts, rtol=0.1, atol=0.01)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", ["regression", "stage a"])
def test_activations_that_are_computed_again_give_the_same_step(
    monkeypatch: pytest.MonkeyPatch, case: str, precision: str
) -> None:
    if precision == "bfloat16":
        monkeypatch.setattr(of_learner, "training_autocast", lambda *_: torch.autocast("cpu", torch.bfloat16))
    kept, again = _after_a_step(case), _after_a_step(case, model__activation_checkpointing=True)
    _assert_same_step(kept, again, rtol=0.0, atol=0.0)


def _bytes_for_backward(**settings: Any) -> int:
    learner, batch, seen = Learner(apply_overrides(a_config("regression"), settings), CPU), random_batch(), {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        seen[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        learner._encode(batch.patches_a, batch.positions_a, batch.patches_b, batch.positions_b, batch.series_label)
    weights = sum(weight.nbytes for weight in learner.network.parameters())
    return sum(seen.values()) - weights


def test_activations_that_are_computed_again_are_not_kept() -> None:
    assert _bytes_for_backward(**{"model.activation_checkpointing": True}) < 0.5 * _bytes_for_backward()


def test_a_network_that_drops_activations_compiles_without_a_break() -> None:
    jaxtyping.config.update("jaxtyping_disable", True)  # the checker of shapes cannot be compiled
    try:
        network = Learner(
            apply_overrides(a_config("regression"), {"model.activation_checkpointing": True}), CPU
        ).network
        batch = random_batch()
        told = torch._dynamo.explain(network)(batch.patches_a, batch.positions_a, batch.patches_b, batch.positions_b)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    assert (told.graph_count, told.graph_break_count) == (1, 0)


def test_parts_that_are_not_equal_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"grad_accumulation is 3 and each training worker has 8 pairs"):
        apply_overrides(a_config("regression"), {"train.grad_accumulation": 3, "train.num_workers": 2})
