"""Heads and the network that joins them to the encoder."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from prism_ssl.config.network import ModelConfig, Objective
from prism_ssl.config.schema import LossConfig, ViewConfig
from prism_ssl.contracts import PrismBatch, PrismOutput
from prism_ssl.model.backbone import EncoderShape, PrismEncoder
from prism_ssl.model.heads import PairHeads
from prism_ssl.model.loss import LossBundle
from prism_ssl.model.network import PrismNet, build_network
from tests.support.model_batches import random_batch

OBJECTIVES: tuple[Objective, ...] = get_args(Objective)


def _net(objective: Objective) -> PrismNet:
    torch.manual_seed(0)
    return PrismNet(PrismEncoder(EncoderShape(width=48, depth=2, heads=3)), PairHeads(objective, 48, 16))


def _answer(net: PrismNet, batch: PrismBatch) -> PrismOutput:
    output: PrismOutput = net(batch.patches_a, batch.positions_a, batch.patches_b, batch.positions_b)
    return output


@pytest.mark.parametrize(("objective", "outputs"), [("regression", 4), ("classification", 3)])
def test_outputs_have_the_shapes_of_the_contract(objective: Objective, outputs: int) -> None:
    output = _answer(_net(objective), random_batch(n_pairs=5))
    shapes = {name: tuple(getattr(output, name).shape) for name in PrismOutput.__dataclass_fields__}
    assert shapes == {
        "distance": (5, outputs),
        "rotation": (5, 3),
        "window_center": (5, 1),
        "window_width": (5, 1),
        "projection_a": (5, 16),
        "projection_b": (5, 16),
        "embedding_a": (5, 48),
        "embedding_b": (5, 48),
        "masked_error": (5,),
    }


def test_projections_have_unit_norm() -> None:
    output = _answer(_net("regression"), random_batch())
    torch.testing.assert_close(output.projection_a.norm(dim=1), torch.ones(6))
    torch.testing.assert_close(output.projection_b.norm(dim=1), torch.ones(6))


def test_a_dead_embedding_projects_to_finite_values_and_gradients() -> None:
    heads = PairHeads("regression", 48, 16)
    embedding = torch.zeros(2, 48, requires_grad=True)
    projection = heads.project(embedding)
    projection.sum().backward()
    assert embedding.grad is not None
    assert projection.isfinite().all()
    assert embedding.grad.isfinite().all()


def test_both_views_pass_through_the_same_encoder() -> None:
    net, batch = _net("regression"), random_batch()
    output = _answer(net, batch)
    torch.testing.assert_close(output.embedding_a, net.encoder(batch.patches_a, batch.positions_a))
    torch.testing.assert_close(output.embedding_b, net.encoder(batch.patches_b, batch.positions_b))


def test_heads_know_which_view_is_which() -> None:
    net, batch = _net("regression"), random_batch()
    forward = _answer(net, batch)
    backward = net(batch.patches_b, batch.positions_b, batch.patches_a, batch.positions_a)
    assert (forward.distance - backward.distance).abs().max() > 1e-4


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_parameter_learns_once_supcon_is_ramped_up(objective: Objective) -> None:
    net, batch = _net(objective), random_batch()
    loss = LossBundle(LossConfig(supcon_warmup_steps=0, supcon_ramp_steps=0), ViewConfig(), objective)
    loss(_answer(net, batch), batch, step=0).total.backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_answers_are_float32_under_autocast() -> None:
    batch = random_batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = _answer(_net("regression"), batch)
    assert {getattr(output, name).dtype for name in PrismOutput.__dataclass_fields__} == {torch.float32}


def test_network_follows_the_settings() -> None:
    net = build_network(ModelConfig(preset="tiny", objective="classification", projection_dim=24))
    output = _answer(net, random_batch(n_pairs=2))
    assert output.embedding_a.shape == (2, 128)
    assert output.projection_a.shape == (2, 24)
    assert output.distance.shape == (2, 3)
