"""Hidden patches are predicted from seen ones and their places, and count as the share of variance that is missed."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from prism_ssl.config.defaults import apply_overrides, phantom_cpu
from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import PrismBatch
from prism_ssl.errors import ConfigError
from prism_ssl.model.backbone import PRESETS
from prism_ssl.model.masked_patches import MaskedPatches, normalized_patches, seen_patches
from prism_ssl.model.network import build_network
from prism_ssl.train.learner import Learner
from tests.support.model_batches import random_batch

MASKED = {"model.masked_share": 0.75, "loss.w_masked": 1.0, "loss.w_supcon_target": 0.0}
ALONE = MASKED | dict.fromkeys(("loss.w_distance", "loss.w_rotation", "loss.w_window"), 0.0)


def _config(**changes: object) -> PrismConfig:
    return apply_overrides(phantom_cpu(), ALONE | {"train.lr_warmup_steps": 0} | changes)


def _waves(n_pairs: int, n_patches: int, seed: int) -> PrismBatch:
    """Views whose patches all show one wave, at a phase of the view's own."""
    batch, rng = random_batch(n_pairs, seed=seed, n_patches=n_patches), np.random.default_rng(seed)
    views: dict[str, Any] = {}
    for side in ("a", "b"):
        phase = torch.from_numpy(rng.uniform(0, 2 * np.pi, (n_pairs, 1))).float()
        wave = torch.sin(2 * np.pi * torch.arange(16) / 24 + phase)
        views[f"patches_{side}"] = wave[:, None, None, :, None].expand(-1, n_patches, 16, -1, -1).contiguous()
    return dataclasses.replace(batch, **views)


def test_a_target_has_mean_0_and_variance_1_and_a_flat_one_costs_nothing() -> None:
    patches = torch.randn(2, 3, 16, 16, 1) * 0.2 + 0.4
    patches[1, 2] = -1.0
    told = normalized_patches(patches).numpy()
    pixels = patches.numpy().reshape(2, 3, 256)
    oracle = (pixels - pixels.mean(-1, keepdims=True)) / np.sqrt(pixels.var(-1, keepdims=True) + 1e-4)
    np.testing.assert_allclose(told, oracle, atol=1e-5)
    assert abs(told[1, 2]).max() == 0


def test_the_error_is_the_share_of_the_variance_that_is_missed() -> None:
    torch.manual_seed(0)
    decoder = MaskedPatches(PRESETS["tiny"])
    hidden, positions = torch.randn(2, 5, 16, 16, 1), torch.randn(2, 8, 3)
    embedding, tokens = torch.randn(2, 128), torch.randn(2, 3, 128)
    with torch.no_grad():
        decoder.pixels.weight.zero_()
        decoder.pixels.bias.zero_()
        torch.testing.assert_close(decoder(embedding, tokens, positions, hidden), torch.ones(2))
        decoder.pixels.bias.fill_(1.0)
        target = normalized_patches(hidden)
        oracle = [float(((1 - target[i]) ** 2).sum() / (target[i] ** 2).sum()) for i in (0, 1)]
        assert decoder(embedding, tokens, positions, hidden).tolist() == pytest.approx(oracle, rel=1e-5)
        black = torch.full_like(hidden, -1.0)
        assert torch.isfinite(decoder(embedding, tokens, positions, black)).all()


def test_the_encoder_never_sees_a_hidden_patch() -> None:
    network, batch = build_network(_config().model), random_batch(3, n_patches=16)
    seen = seen_patches(16, 0.75)
    assert seen == 4
    other = dataclasses.replace(batch, patches_a=batch.patches_a.clone(), patches_b=batch.patches_b.clone())
    for patches in (other.patches_a, other.patches_b):
        patches[:, seen:] = torch.rand_like(patches[:, seen:])
    first, second = (network(b.patches_a, b.positions_a, b.patches_b, b.positions_b) for b in (batch, other))
    assert torch.equal(first.embedding_a, second.embedding_a)
    assert not torch.equal(first.masked_error, second.masked_error)


def test_what_the_seen_patches_tell_of_the_hidden_ones_is_learned() -> None:
    torch.manual_seed(0)
    learner = Learner(_config(**{"train.max_steps": 200}), torch.device("cpu"))
    errors = [float(learner.step(_waves(8, 12, step), step).terms["masked"].raw) for step in range(60)]
    assert errors[0] > 0.9
    assert np.mean(errors[-10:]) < 0.2


def test_the_prediction_follows_from_places_and_not_from_the_order_of_the_patches() -> None:
    torch.manual_seed(0)
    network, batch = build_network(_config().model), random_batch(3, n_patches=16)
    order = torch.cat([torch.tensor([2, 0, 3, 1]), torch.arange(15, 3, -1)])  # seen ones stay seen

    def error(patches: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        error: torch.Tensor = network(patches, positions, batch.patches_b, batch.positions_b).masked_error
        return error

    patches, positions = batch.patches_a, batch.positions_a
    torch.testing.assert_close(error(patches[:, order], positions[:, order]), error(patches, positions))
    moved = positions.clone()
    moved[:, 4:] += 9.0
    assert not torch.allclose(error(patches, moved), error(patches, positions), atol=1e-5)


@pytest.mark.parametrize("parts", [1, 2])
def test_its_weight_alone_trains_encoder_and_decoder(parts: int) -> None:
    learner = Learner(_config(**{"train.grad_accumulation": parts}), torch.device("cpu"))
    before = {name: value.clone() for name, value in learner.network.state_dict().items()}
    report = learner.step(random_batch(4, n_patches=8), 0)
    changed = {name for name, value in learner.network.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in changed} == {"encoder", "decoder"}
    assert report.terms["masked"].chance == 1
    torch.testing.assert_close(report.total, report.terms["masked"].raw)


def test_without_it_the_network_and_the_record_are_as_before() -> None:
    learner = Learner(apply_overrides(phantom_cpu(), {}), torch.device("cpu"))
    assert not any("decoder" in name for name in learner.network.state_dict())
    assert "masked" not in learner.step(random_batch(4, n_patches=8), 0).terms


@pytest.mark.parametrize(
    "changes", [{"model.masked_share": 0.0}, {"loss.w_masked": 0.0}, {"data.n_patches": 1}, {"model.masked_share": 1.0}]
)
def test_settings_that_hide_nothing_or_everything_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"model\.masked_share"):
        _config(**changes)
