"""The evaluator of a run: views drawn once, ahead or not, and what stands beside the encoder."""

from __future__ import annotations

import dataclasses
import math
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from prism_ssl.contracts import PreparedScan
from prism_ssl.errors import ArchiveUnreachable
from prism_ssl.eval import probe_set as probe_set_module
from prism_ssl.eval import run_evaluator as evaluator_module
from prism_ssl.eval.place.retrieval import build_place_set
from prism_ssl.eval.probe_set import ProbeSet, build_probe_set
from prism_ssl.eval.quality.questions import evaluation_settings
from prism_ssl.eval.run_evaluator import Evaluator
from prism_ssl.model.network import PrismNet, build_network
from tests.support.probe_sets import prepared_scans, small


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
    assert evaluator.events_of_left_out() == []
    evaluator(build_network(small().model))
    told = dict(evaluator.events_of_left_out())
    assert f"held-out scan {victim.scan_id} is left out of the probe set: ScanRejected" in told["broken_scan"]
    assert told["place_test"].startswith("pairs of series left out of the place test: 1; the first: scans ")
    assert victim.scan_id in told["place_test"]
    assert "missing_path" in told["place_test"]


@pytest.mark.parametrize("broken", ["", "sys.modules['sklearn'] = None; "])
def test_what_an_evaluation_imports_is_imported_in_the_background_and_what_fails_is_told_early(broken: str) -> None:
    program = (
        f"import sys, threading; from pathlib import Path; {broken}\n"
        "from prism_ssl.config.defaults import phantom_cpu\n"
        "from prism_ssl.eval.run_evaluator import Evaluator\n"
        "evaluator, needed = Evaluator([], phantom_cpu(), Path()), 'prism_ssl.eval.evaluate'\n"
        "before = needed in sys.modules\n"
        "evaluator.import_ahead()\n"
        "[thread.join(60) for thread in threading.enumerate() if thread.name == 'held-out-imports']\n"
        "evaluator.draw_ahead()\n"
        "print(before, needed in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    if broken:
        assert re.search(r"in draw_ahead\n(.*\n)*ModuleNotFoundError: .*sklearn", done.stderr)
    else:
        assert (done.stdout.strip(), done.stderr) == ("False True", "")
