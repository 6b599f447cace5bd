"""Precision: where bfloat16 is used, and that a training step in it is the same step."""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cosine_similarity, scaled_dot_product_attention

from prism_ssl.config.defaults import study
from prism_ssl.config.schema import Precision
from prism_ssl.model import precision as of_precision
from prism_ssl.model.backbone import _attend
from prism_ssl.model.precision import inference_autocast, training_autocast
from prism_ssl.train.learner import Learner
from tests.support.model_batches import random_batch

CPU = torch.device("cpu")


@pytest.fixture(params=["amx_tile amx_bf16 avx512f", "avx512f avx512_bf16", None])
def has_units(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> bool:
    """Whether the CPU has matrix units for bfloat16, by the flags of /proc/cpuinfo; None: there is no such file."""
    flags = tmp_path / "cpuinfo"
    if request.param is not None:
        flags.write_text(f"processor\t: 0\nflags\t\t: fpu {request.param}\n\n")
    monkeypatch.setattr(of_precision, "_CPU_FLAGS", flags)
    return "amx_bf16" in (request.param or "")


def _dtype(autocast: AbstractContextManager[Any]) -> torch.dtype:
    with autocast:
        return torch.nn.functional.linear(torch.ones(1, 1), torch.ones(1, 1)).dtype


def test_a_cpu_trains_in_bfloat16_only_where_asked_and_able_and_never_evaluates_in_it(has_units: bool) -> None:
    assert _dtype(training_autocast("bf16", CPU)) == (torch.bfloat16 if has_units else torch.float32)
    assert _dtype(training_autocast("fp32", CPU)) == torch.float32
    assert _dtype(inference_autocast("bf16", CPU)) == torch.float32


def test_attention_of_bfloat16_on_a_cpu_is_that_of_float32_rounded_once() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, 50, 8).bfloat16().requires_grad_() for _ in range(3))
    with torch.autocast("cpu", torch.bfloat16):
        found = _attend(query, key, value)
    exact = scaled_dot_product_attention(query.float(), key.float(), value.float()).bfloat16()
    assert torch.equal(found, exact)
    gradients = [torch.autograd.grad(out.float().square().sum(), query)[0] for out in (found, exact)]
    assert torch.equal(*gradients)


def _step(precision: Precision, masked: bool) -> tuple[float, torch.Tensor, dict[str, torch.Tensor]]:
    """Loss, embeddings and gradients of a first step on pairs of one place."""
    torch.manual_seed(0)
    config = study()
    model, loss = config.model, config.loss
    if masked:
        model, loss = dataclasses.replace(model, masked_share=0.5), dataclasses.replace(loss, w_masked=0.3)
    train = dataclasses.replace(config.train, precision=precision, grad_clip=1e9)
    learner = Learner(dataclasses.replace(config, model=model, loss=loss, train=train), CPU)
    with torch.no_grad():
        for head in learner.network.heads.parameters():
            head.mul_(5.0)  # new heads answer about 0, whatever the encoder does
    batch = random_batch(16, 16, 0, [pair // 8 for pair in range(16)])
    same_place = dataclasses.replace(batch, center_b_mm=batch.center_a_mm + 1.0)
    report = learner.step(same_place, 100)
    gradients = {name: weight.grad for name, weight in learner.network.named_parameters() if weight.grad is not None}
    return report.total.item(), report.embeddings.detach().float(), gradients


@pytest.mark.parametrize("masked", [False, True])
def test_a_step_in_bfloat16_is_that_in_float32_to_its_precision(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, masked: bool
) -> None:
    (tmp_path / "cpuinfo").write_text("flags : amx_bf16\n")
    monkeypatch.setattr(of_precision, "_CPU_FLAGS", tmp_path / "cpuinfo")
    (loss, exact, gradients), (rounded_loss, rounded, rounded_gradients) = _step("fp32", masked), _step("bf16", masked)
    assert rounded_loss == pytest.approx(loss, rel=0.02)
    assert 0.0 < (rounded - exact).norm() / exact.norm() < 0.02, "0: it was not computed in bfloat16"
    assert gradients.keys() == rounded_gradients.keys()
    in_blocks = [name for name in gradients if "encoder.blocks" in name and name.endswith("weight")]
    assert in_blocks
    for name in in_blocks:
        assert cosine_similarity(gradients[name].flatten(), rounded_gradients[name].flatten(), dim=0) > 0.98, name
