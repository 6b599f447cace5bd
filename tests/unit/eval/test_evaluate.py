"""The scalars of a network on the probe set, and that asking leaves no trace in it."""

from __future__ import annotations

import dataclasses
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prism_ssl.config.network import Objective
from prism_ssl.contracts import Float64, PreparedScan, PrismBatch, PrismOutput
from prism_ssl.errors import ArchiveUnreachable
from prism_ssl.eval import evaluator as evaluator_module
from prism_ssl.eval import probe_set as probe_set_module
from prism_ssl.eval.evaluate import ask, evaluate
from prism_ssl.eval.evaluator import Evaluator
from prism_ssl.eval.held_out_scalars import views_hash
from prism_ssl.eval.place.retrieval import build_place_set, no_places
from prism_ssl.eval.probe_set import ProbeSet, build_probe_set
from prism_ssl.eval.quality.questions import evaluation_settings
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
    config = small(model__objective=objective)
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


def test_asking_leaves_mode_gradients_and_random_numbers_alone(phantom_catalog: Path) -> None:
    network: PrismNet = build_network(small().model)
    network.train()
    evaluator = Evaluator(prepared_scans(phantom_catalog, 4), small(), phantom_catalog)
    torch_state = torch.get_rng_state()
    first = evaluator(network)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert evaluator(network) == pytest.approx(first, nan_ok=True)


def test_views_drawn_ahead_are_those_of_the_first_call_and_are_drawn_once(
    phantom_catalog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans, network = prepared_scans(phantom_catalog, 16), build_network(small().model)
    first = Evaluator(scans, small(), phantom_catalog)(network)
    drawn: list[ProbeSet] = []
    begun, go_on = threading.Event(), threading.Event()

    def build(*arguments: Any) -> ProbeSet:
        begun.set()
        assert go_on.wait(60)
        drawn.append(build_probe_set(*arguments))
        return drawn[-1]

    monkeypatch.setattr(probe_set_module, "build_probe_set", build)
    evaluator = Evaluator(scans, small(), phantom_catalog)
    evaluator.draw_ahead()
    assert begun.wait(60)  # while the caller goes on
    evaluator.draw_ahead()
    go_on.set()
    assert evaluator(network) == pytest.approx(first, nan_ok=True, rel=0, abs=0)
    assert evaluator(network) == pytest.approx(first, nan_ok=True, rel=0, abs=0)
    assert len(drawn) == 1


def test_views_that_are_drawn_too_late_do_not_change_the_questions(
    phantom_catalog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans, network, go_on = prepared_scans(phantom_catalog, 4), build_network(small().model), threading.Event()

    def build(held_out: list[PreparedScan], *arguments: Any) -> ProbeSet:
        if threading.current_thread().name == "held-out-views":
            assert go_on.wait(60)
            held_out = held_out[:2]  # as if the others did not open this time
        return build_probe_set(held_out, *arguments)

    monkeypatch.setattr(probe_set_module, "build_probe_set", build)
    monkeypatch.setattr(evaluator_module, "_AHEAD_S", 0.05)
    evaluator = Evaluator(scans, small(), phantom_catalog)
    evaluator.draw_ahead()
    first = evaluator(network)
    go_on.set()
    assert evaluator._ahead is not None
    evaluator._ahead.join(60)
    assert first["scans"] == 4
    assert evaluator(network) == pytest.approx(first, nan_ok=True, rel=0, abs=0)


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


@pytest.mark.parametrize("comes_back", [True, False])
def test_an_archive_that_was_away_while_views_were_drawn_ahead_is_asked_again(
    phantom_catalog: Path, monkeypatch: pytest.MonkeyPatch, comes_back: bool
) -> None:
    tries: list[None] = []

    def build(*arguments: Any) -> ProbeSet:
        tries.append(None)
        if len(tries) == 1 or not comes_back:
            raise ArchiveUnreachable("the archive was away for 1 s")
        return build_probe_set(*arguments)

    monkeypatch.setattr(probe_set_module, "build_probe_set", build)
    evaluator = Evaluator(prepared_scans(phantom_catalog, 4), small(), phantom_catalog)
    evaluator.draw_ahead()
    if comes_back:
        assert evaluator(build_network(small().model))["scans"] == 4
    else:
        with pytest.raises(ArchiveUnreachable, match="was away"):
            evaluator(build_network(small().model))
    assert len(tries) == 2


def test_the_untrained_encoder_is_the_same_for_every_run(phantom_catalog: Path) -> None:
    scans = prepared_scans(phantom_catalog, 4)
    untrained = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        values = Evaluator(scans, small(train__seed=seed), phantom_catalog)(build_network(small().model))
        untrained.append({key: value for key, value in values.items() if key.endswith("_random_init")})
    assert untrained[0].keys() >= {"recall_at_1_random_init", "linear_modality_random_init"}
    assert untrained[0] == pytest.approx(untrained[1], nan_ok=True)


def test_places_and_baselines_stand_beside_the_encoder_and_the_evidence_says_the_same(phantom_catalog: Path) -> None:
    config = small(eval__probe_scans=16, eval__w_lidar=1.0)
    evaluator = Evaluator(prepared_scans(phantom_catalog, 16), config, phantom_catalog)
    values = evaluator(build_network(small().model))
    assert (values["place_pairs"], values["place_patients"], values["scans"]) == (4, 4, 16)
    for ending in ("", "_random_init", "_pixels"):
        known = [
            f"{name}{ending}" for name in ("place_recall_at_1", "place_distance_mm", "proxy_quality", "recall_at_1")
        ]
        assert all(math.isfinite(values[name]) for name in known), ending
    assert values["recall_at_1_spacing"] > values["recall_at_1_modality_alone"] > values["recall_at_1_chance"]
    # the guess of who knows the modality alone: among 4 n - 1 views of n series of it, 3 are right
    modalities = [scan.record.modality for scan in prepared_scans(phantom_catalog, 16)]
    wanted = sum(3 / (4 * modalities.count(modality) - 1) for modality in modalities) / 16
    assert values["recall_at_1_modality_alone"] == pytest.approx(wanted)
    assert 0 <= values["telling_directions"] <= values["telling_directions_max"] == 15
    assert values["proxy_quality_directions"] == values["telling_directions"] / 15
    evidence = evaluator.evidence
    assert evidence is not None
    assert evidence.settings == evaluation_settings(config)
    assert evidence.drawn
    assert evidence.recall.mean() == pytest.approx(values["recall_at_1"])
    assert evidence.place_recall.mean() == pytest.approx(values["place_recall_at_1"]), "one pair each"
    assert len(set(evidence.patient_of_series)) == 12
    for ending in ("_random_init", "_pixels"):
        assert evidence.untrained_place[ending].mean() == pytest.approx(values[f"place_recall_at_1{ending}"])
        gain = values["place_recall_at_1"] - values[f"place_recall_at_1{ending}"]
        assert values[f"place_gain{ending}"] == pytest.approx(gain)
        assert values[f"place_gain{ending}_low"] < gain < values[f"place_gain{ending}_high"]


def test_the_hash_of_views_tells_other_views_and_points_and_no_other_processor(probe_set: ProbeSet) -> None:
    def with_center(center_mm: Float64) -> ProbeSet:
        view = dataclasses.replace(probe_set.views[5], center_mm=center_mm)
        return dataclasses.replace(probe_set, views=[*probe_set.views[:5], view, *probe_set.views[6:]])

    first, center_mm = views_hash(probe_set, no_places()), probe_set.views[5].center_mm
    assert views_hash(with_center(center_mm * (1 + 1e-13)), no_places()) == first
    assert views_hash(with_center(center_mm + np.array([0.0, 0.01, 0.0])), no_places()) != first
    assert views_hash(probe_set, dataclasses.replace(no_places(), points_mm=np.zeros((1, 16, 3)))) != first


def test_without_held_out_scans_there_is_nothing_to_say(phantom_catalog: Path) -> None:
    assert Evaluator([], small(), phantom_catalog)(build_network(small().model)) == {}


def test_a_single_series_leaves_unknown_what_needs_two(phantom_catalog: Path) -> None:
    values = Evaluator(prepared_scans(phantom_catalog, 1), small(), phantom_catalog)(build_network(small().model))
    assert math.isnan(values["proxy_quality"])
    assert math.isnan(values["linear_modality"])


def test_scans_and_pairs_that_are_left_out_are_told_with_the_reason(phantom_catalog: Path, tmp_path: Path) -> None:
    scans = prepared_scans(phantom_catalog, 16)
    victim = build_place_set(scans, small()).pairs[0][0].record
    gone = dataclasses.replace(victim, nifti_path=str(tmp_path / "gone.nii.gz"))
    evaluator = Evaluator(
        [dataclasses.replace(scan, record=gone) if scan.record == victim else scan for scan in scans],
        small(eval__probe_scans=16),
        phantom_catalog,
    )
    assert evaluator.left_out() == []
    evaluator(build_network(small().model))
    told = dict(evaluator.left_out())
    assert f"held-out scan {victim.scan_id} is left out of the probe set: ScanRejected" in told["broken_scan"]
    assert told["place_test"].startswith("pairs of series left out of the place test: 1; the first: scans ")
    assert victim.scan_id in told["place_test"]
    assert "missing_path" in told["place_test"]
