"""Pairs of one series are compared across each other: checked against views written out one by one."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from prism_ssl.config.defaults import apply_overrides, study
from prism_ssl.config.schema import PrismConfig
from prism_ssl.errors import ConfigError
from prism_ssl.model.network import build_network
from prism_ssl.model.partners import across, next_of_series, partners
from prism_ssl.train.learner import Learner
from tests.support.model_batches import random_batch

LABELS = [7, 3, 7, 5, 3, 7]
PARTNER = [2, 4, 5, 3, 1, 0]
"""The next pair with the same label, from the end back to the beginning; pair 3 is alone."""


def _config(**more: object) -> PrismConfig:
    return apply_overrides(study(), {"loss.heads_across_pairs": True, **more})


def test_the_partner_is_the_next_pair_of_the_series() -> None:
    assert next_of_series(torch.tensor(LABELS)).tolist() == PARTNER
    assert next_of_series(torch.arange(4)).tolist() == [0, 1, 2, 3]
    assert next_of_series(torch.zeros(4, dtype=torch.int64)).tolist() == [1, 2, 3, 0]
    assert partners(torch.tensor(LABELS), 2).tolist() == [2, 1, 0, 3, 4, 5], "each half for itself"


def test_differences_are_those_of_the_views_that_are_compared() -> None:
    known = torch.tensor([True, True, False, True, True, True])
    batch = dataclasses.replace(random_batch(6, labels=LABELS), window_known=known)
    found = across(batch, torch.tensor(PARTNER))
    for i, j in enumerate(PARTNER):
        shift = batch.center_a_mm[j] + batch.center_delta_mm[j] - batch.center_a_mm[i]
        torch.testing.assert_close(found.center_delta_mm[i], shift)
        torch.testing.assert_close(found.center_distance_mm[i], shift.norm())
        turn = batch.rotation_a_deg[j] + batch.rotation_delta_deg[j] - batch.rotation_a_deg[i]
        torch.testing.assert_close(found.rotation_delta_deg[i], turn)
        window = batch.window_a[j] + batch.window_delta[j] - batch.window_a[i]
        torch.testing.assert_close(found.window_delta[i], window)
        assert bool(found.window_known[i]) == (bool(known[i]) and bool(known[j]))
    assert found.center_a_mm is batch.center_a_mm
    assert found.center_b_mm is batch.center_b_mm, "the places of the contrastive loss stay"


def test_a_batch_whose_pairs_are_alone_is_what_it_was() -> None:
    batch = random_batch(5)
    found = across(batch, next_of_series(batch.series_label))
    for name in ("center_delta_mm", "rotation_delta_deg", "window_delta", "center_distance_mm"):
        torch.testing.assert_close(getattr(found, name), getattr(batch, name), atol=1e-3, rtol=1e-4)


def test_the_heads_see_the_partner_and_the_projections_do_not() -> None:
    torch.manual_seed(0)
    network, partner = build_network(study().model), torch.tensor(PARTNER)
    batch = random_batch(6, labels=LABELS)
    views = batch.patches_a, batch.positions_a, batch.patches_b, batch.positions_b
    own, other = network(*views), network(*views, partner)
    moved = network(*views[:2], batch.patches_b[partner], batch.positions_b[partner])
    torch.testing.assert_close(other.distance, moved.distance)
    torch.testing.assert_close(other.rotation, moved.rotation)
    assert not torch.allclose(other.distance, own.distance)
    torch.testing.assert_close(other.projection_b, own.projection_b)


def test_a_step_reports_the_differences_across_pairs() -> None:
    batch, config = random_batch(6, labels=LABELS), _config()
    torch.manual_seed(0)
    target = Learner(config, torch.device("cpu")).step(batch, 0).readings["dx"].target
    wanted = across(batch, torch.tensor(PARTNER)).center_delta_mm[:, 0] / config.view.radius_mm_max
    torch.testing.assert_close(target, wanted)


def test_without_a_second_pair_of_a_series_the_setting_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"loss.heads_across_pairs is set and data.pairs_per_turn is 1"):
        _config(**{"data.pairs_per_turn": 1})
