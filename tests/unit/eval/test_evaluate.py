"""The scalars of a network on the probe set, and that asking leaves no trace in it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from prism_ssl.config.network import Objective
from prism_ssl.contracts import Float64, PrismBatch, PrismOutput
from prism_ssl.eval.evaluate import ask, evaluate
from prism_ssl.eval.held_out_scalars import views_hash
from prism_ssl.eval.place.retrieval import no_places
from prism_ssl.eval.probe_set import ProbeSet, build_probe_set
from prism_ssl.model.network import PrismNet, build_network
from tests.support.model_batches import perfect_output
from tests.support.probe_sets import prepared_scans, small

ALWAYS = {
    "recall_at_1", "recall_at_5", "recall_at_1_chance", "skill_mean", "pose_skill_mean", "lidar", "rankme", "alignment",
    "uniformity", "std_mean", "std_min", "knn_modality", "linear_modality", "telling_directions_max",
    "proxy_quality", "proxy_quality_low", "proxy_quality_high",
    *(f"skill/{axis}" for axis in ("dx", "dy", "dz", "rx", "ry", "rz", "wc", "ww")),
}  # fmt: skip


class Oracle(PrismNet):
    """Answers every pair of the probe set perfectly; embeddings are one direction per series."""

    def __init__(self, probe_set: ProbeSet, objective: Objective) -> None:
        torch.nn.Module.__init__(self)
        self.dummy = torch.nn.Parameter(torch.zeros(()))
        self._probe_set, self._objective, self._next = probe_set, objective, 0

    def forward(
        self,
        patches_a: torch.Tensor,
        positions_a: torch.Tensor,
        patches_b: torch.Tensor,
        positions_b: torch.Tensor,
        partner: torch.Tensor | None = None,
    ) -> PrismOutput:
        start, self._next = self._next, self._next + len(patches_a)
        batch: PrismBatch = self._probe_set.pairs(start, self._next, torch.device("cpu"))
        scans = torch.from_numpy(self._probe_set.scan_of_view[2 * start : 2 * self._next : 2])
        directions = torch.nn.functional.one_hot(scans, len(self._probe_set.scans)).float()
        return dataclasses.replace(
            perfect_output(dataclasses.replace(batch, series_label=scans), self._objective),
            embedding_a=directions,
            embedding_b=directions,
        )


@pytest.fixture(scope="module")
def probe_set(phantom_catalog: Path) -> ProbeSet:
    return build_probe_set(prepared_scans(phantom_catalog, 8), small(eval__probe_scans=8), phantom_catalog)


@pytest.mark.parametrize("objective", ["regression", "classification"])
def test_perfect_answers_have_perfect_scores(probe_set: ProbeSet, objective: Objective) -> None:
    config = small(model__objective=objective, eval__w_position=0)  # the oracle knows the series, not the place
    values = evaluate(Oracle(probe_set, objective), probe_set, config).values
    perfect = {key: values[key] for key in values if key.startswith(("skill/", "r2/")) or key == "recall_at_1"}
    assert perfect == pytest.approx(dict.fromkeys(perfect, 1.0), abs=1e-5)
    assert len(perfect) == 1 + 8 + (9 if objective == "regression" else 0)
    assert math.isnan(values["telling_directions"]), "8 series are too few to tell"
    assert values["telling_directions_max"] == 7
    assert values["proxy_quality"] == pytest.approx(1.0)
    assert values["proxy_quality_low"] == pytest.approx(1.0, abs=0.05)
    assert values["rankme"] == pytest.approx(8)
    assert values["alignment"] == pytest.approx(0)
    assert values["scans"] == 8


@pytest.mark.parametrize("objective", ["regression", "classification"])
def test_both_objectives_report_the_same_scalars_but_for_r2(probe_set: ProbeSet, objective: Objective) -> None:
    config = small(model__objective=objective)
    values = evaluate(build_network(config.model), probe_set, config).values
    assert values.keys() >= ALWAYS
    assert "proxy_quality_directions" not in values, "without a weight they do not count"
    assert any(key.startswith("r2/") for key in values) == (objective == "regression")
    assert all(math.isfinite(values[key]) for key in ALWAYS)


def test_a_collapsed_encoder_gets_nothing_for_it(probe_set: ProbeSet) -> None:
    config = small()
    network = build_network(config.model)
    for parameter in network.encoder.norm.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.ones_(network.encoder.norm.bias)
    values = evaluate(network, probe_set, config).values
    assert values["recall_at_1"] == pytest.approx(values["recall_at_1_chance"])
    assert values["rankme"] == pytest.approx(1, abs=1e-3)
    assert values["std_mean"] == pytest.approx(0, abs=1e-6)
    assert values["skill_mean"] == 0
    assert values["proxy_quality"] == pytest.approx(0, abs=1e-6)


def test_embeddings_that_are_not_finite_are_counted_and_nothing_else_is_said(probe_set: ProbeSet) -> None:
    network = build_network(small().model)
    torch.nn.init.constant_(network.encoder.norm.bias, math.nan)
    values = evaluate(network, probe_set, small()).values
    assert values == {"scans": 8, "scans_left_out": 0, "views_not_finite": 32}


def test_answers_do_not_depend_on_how_many_views_are_encoded_at_once(probe_set: ProbeSet) -> None:
    network = build_network(small().model)
    one, other = (ask(network, probe_set, small(eval__batch_views=views)) for views in (2, 32))
    assert one.embeddings == pytest.approx(other.embeddings, abs=1e-4)
    assert torch.equal(one.readings["dx"].target, other.readings["dx"].target)


def test_embeddings_are_in_the_order_of_the_views(probe_set: ProbeSet) -> None:
    network = build_network(small().model).eval()
    batch = probe_set.pairs(5, 6, torch.device("cpu"))
    with torch.no_grad():
        b = network.encoder(batch.patches_b, batch.positions_b)[0]
    assert ask(network, probe_set, small()).embeddings[11] == pytest.approx(b.numpy(), abs=1e-4)


def test_the_mean_of_patch_tokens_is_evaluated_where_it_is_asked_for(probe_set: ProbeSet) -> None:
    network: PrismNet = build_network(small().model)
    batch = probe_set.pairs(5, 6, torch.device("cpu"))
    with torch.no_grad():
        tokens = network.encoder(batch.patches_b, batch.positions_b, return_patches=True)[1][0]
    asked = ask(network, probe_set, small(eval__pooling="mean"))
    assert asked.embeddings[11] == pytest.approx(tokens.mean(dim=0).numpy(), abs=1e-4)
    assert asked.readings["dx"].prediction.equal(ask(network, probe_set, small()).readings["dx"].prediction)


def test_a_network_that_learned_from_hidden_patches_is_asked_with_all_of_them(phantom_catalog: Path) -> None:
    config = small(model__masked_share=0.5, loss__w_masked=1.0)
    network = build_network(config.model)
    probe_set = build_probe_set(prepared_scans(phantom_catalog, 4), config, phantom_catalog)
    batch = probe_set.pairs(0, 4, torch.device("cpu"))
    network.train()
    embeddings = ask(network, probe_set, config).embeddings
    assert network.training
    with torch.no_grad():
        expected = network.encoder(batch.patches_a, batch.positions_a)
    np.testing.assert_allclose(embeddings[0:8:2], expected.numpy(), rtol=1e-4, atol=1e-5)


def test_the_hash_of_views_tells_other_views_and_points_and_no_other_processor(probe_set: ProbeSet) -> None:
    def with_center(center_mm: Float64) -> ProbeSet:
        view = dataclasses.replace(probe_set.views[5], center_mm=center_mm)
        return dataclasses.replace(probe_set, views=[*probe_set.views[:5], view, *probe_set.views[6:]])

    first, center_mm = views_hash(probe_set, no_places()), probe_set.views[5].center_mm
    assert views_hash(with_center(center_mm * (1 + 1e-13)), no_places()) == first
    assert views_hash(with_center(center_mm + np.array([0.0, 0.01, 0.0])), no_places()) != first
    assert views_hash(probe_set, dataclasses.replace(no_places(), points_mm=np.zeros((1, 16, 3)))) != first
