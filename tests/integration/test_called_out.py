"""Runs that learn nothing are called out by name within 80 steps, each with its own alarm and no other.

Real learner and recorder in this process, on synthetic pairs whose window shows in their pixels, with an encoder of
one block; no Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from prism_ssl.config.defaults import apply_overrides, phantom_cpu
from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import PrismBatch
from prism_ssl.data.sharded_dataset import NO_WAIT
from prism_ssl.model.backbone import PRESETS, EncoderShape
from prism_ssl.model.loss import LossBundle
from prism_ssl.model.positives import by_label
from prism_ssl.records.run_files import read_history, read_summary
from prism_ssl.train.learner import Learner
from prism_ssl.train.record.recorder import Recorder
from tests.support.model_batches import random_batch

B, N, SERIES, STEPS = 8, 4, 4, 80
Arrange = Callable[[PrismBatch], PrismBatch]


@pytest.fixture(autouse=True)
def small_and_alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A tenth of the tiny encoder; and small tensors on two threads wait for each other on a busy machine."""
    monkeypatch.setitem(PRESETS, "tiny", EncoderShape(width=32, depth=1, heads=2))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _config(**overrides: Any) -> PrismConfig:
    settings = {"train__max_steps": STEPS, "train__batch_size": B, "loss__supcon_warmup_steps": 20}
    settings |= {"tracking__mode": "disabled"} | overrides
    return apply_overrides(phantom_cpu(), {key.replace("__", "."): value for key, value in settings.items()})


def _batch(step: int) -> PrismBatch:
    """Pairs of which some are of one series, and whose window centre is their brightness."""
    g = torch.Generator().manual_seed(step)
    batch = random_batch(B, N, seed=step, labels=torch.randint(SERIES, (B,), generator=g).tolist())
    brightness = (batch.window_delta[:, 0] / batch.intensity_scale)[:, None, None, None, None]
    return replace(batch, patches_b=(batch.patches_a + 0.3 * brightness).clamp(-1, 1))


def _train(
    run_dir: Path, config: PrismConfig, arrange: Arrange = lambda batch: batch, learner: Learner | None = None
) -> tuple[list[dict[str, Any]], list[str]]:
    """Trains; returns the history, and the alarms of the summary."""
    learner = learner or _learner(config)
    recorder = Recorder(config, run_dir, 0, None, learner.network.heads.by_loss())
    for step in range(config.train.max_steps):
        report = learner.step(arrange(_batch(step)), step)
        if recorder.step(report, NO_WAIT):
            recorder.row(learner.learning_rate(step), {})
    recorder.finish("ok", None, {}, None)
    summary = read_summary(run_dir)
    assert summary is not None
    return read_history(run_dir), summary.alarms


def _alarms(run_dir: Path, config: PrismConfig, *arranged: Any, **kwargs: Any) -> dict[str, int]:
    """Trains, and returns the alarms told in the history with their steps; summary and rows must say the same."""
    history, in_summary = _train(run_dir, config, *arranged, **kwargs)
    alarms = {row["text"].split(":")[0]: row["global_step"] for row in history if row.get("event") == "alarm"}
    last = [row for row in history if "event" not in row][-1]
    assert {key.removeprefix("alarm/") for key, value in last.items() if "alarm/" in key and value} == set(alarms)
    assert {text.split(":")[0] for text in in_summary} == set(alarms)
    return alarms


def _learner(config: PrismConfig) -> Learner:
    torch.manual_seed(0)
    return Learner(config, torch.device("cpu"))


def test_a_run_with_nothing_wrong_raises_nothing(tmp_path: Path) -> None:
    assert _alarms(tmp_path, _config(train__max_steps=200)) == {}


@pytest.mark.parametrize("objective", ["regression", "classification"])
def test_a_constant_window_target_is_called_out(tmp_path: Path, objective: str) -> None:
    def constant(batch: PrismBatch) -> PrismBatch:
        return replace(batch, window_delta=0.5 * batch.intensity_scale[:, None].expand(B, 2))

    alarms = _alarms(tmp_path, _config(model__objective=objective), constant)
    assert alarms == {"flat_target/wc": 60, "flat_target/ww": 60}


@pytest.mark.parametrize("objective", ["regression", "classification"])
def test_a_window_that_never_changes_is_called_out(tmp_path: Path, objective: str) -> None:
    def unchanged(batch: PrismBatch) -> PrismBatch:
        return replace(batch, window_delta=torch.zeros(B, 2))

    alarms = _alarms(tmp_path, _config(model__objective=objective), unchanged)
    assert alarms == {"flat_target/wc": 60, "flat_target/ww": 60}


def test_supcon_without_positives_from_other_pairs_is_called_out(tmp_path: Path) -> None:
    alarms = _alarms(tmp_path, _config(), lambda batch: replace(batch, series_label=torch.arange(B)))
    assert alarms == {"supcon_no_other_pairs": 60}


def test_that_is_no_news_for_simclr_which_wants_it_so(tmp_path: Path) -> None:
    config = _config(loss__simclr_baseline=True)
    assert _alarms(tmp_path, config, lambda batch: replace(batch, series_label=torch.arange(B))) == {}


def test_an_alarm_whose_cause_has_gone_is_over_in_history_rows_and_summary(tmp_path: Path) -> None:
    steps = iter(range(160))

    def at_first(batch: PrismBatch) -> PrismBatch:
        return replace(batch, series_label=torch.arange(B)) if next(steps) < 80 else batch

    history, in_summary = _train(tmp_path, _config(train__max_steps=160), at_first)
    told = [(row["event"], row["global_step"]) for row in history if row.get("event", "").startswith("alarm")]
    assert told == [("alarm", 60), ("alarm_over", 100)]
    raised = {row["global_step"]: row["alarm/supcon_no_other_pairs"] for row in history if "event" not in row}
    assert raised == {20: 0, 40: 0, 60: 1, 80: 1, 100: 0, 120: 0, 140: 0, 160: 0}
    assert len(in_summary) == 1
    assert in_summary[0].startswith(
        "supcon_no_other_pairs: SupCon has no positives from other pairs (steps 0 to 60, 8.0"
    )
    assert in_summary[0].endswith(" (over at step 100)")


def test_supcon_without_any_positive_is_called_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LossBundle, "contrast", lambda bundle, batch: by_label(torch.arange(2 * B)))
    assert _alarms(tmp_path, _config()) == {"supcon_no_positives": 60}


def test_supcon_without_negatives_is_called_out(tmp_path: Path) -> None:
    alarms = _alarms(tmp_path, _config(), lambda batch: replace(batch, series_label=torch.zeros(B, dtype=torch.int64)))
    assert alarms == {"supcon_one_series": 60}


@pytest.mark.parametrize("name", ["rotation", "window_center", "supcon"])
def test_a_frozen_head_is_called_out(tmp_path: Path, name: str) -> None:
    config = _config()
    learner = _learner(config)
    learner.network.heads.by_loss()[name].requires_grad_(False)
    alarms = _alarms(tmp_path, config, learner=learner)
    assert list(alarms) == [f"frozen_head/{name}"]
    assert alarms[f"frozen_head/{name}"] <= 100  # SupCon's has no weight in its 20 steps of warm-up


def test_a_head_without_weight_is_not_frozen_but_unwanted(tmp_path: Path) -> None:
    assert _alarms(tmp_path, _config(loss__w_rotation=0.0)) == {}


def test_an_encoder_that_collapsed_is_called_out(tmp_path: Path) -> None:
    config = _config()
    learner = _learner(config)
    norm = learner.network.encoder.norm
    nn.init.constant_(norm.weight, 1e-4)
    nn.init.normal_(norm.bias)
    norm.requires_grad_(False)
    assert _alarms(tmp_path, config, learner=learner) == {"collapsed_embeddings": 60}


def test_an_encoder_that_says_a_single_number_is_called_out(tmp_path: Path) -> None:
    def line(norm: nn.Module, inputs: tuple[torch.Tensor], embedding: torch.Tensor) -> torch.Tensor:
        return embedding[:, :1].expand_as(embedding) + 1.0

    config = _config()
    learner = _learner(config)
    learner.network.encoder.norm.register_forward_hook(line)
    assert _alarms(tmp_path, config, learner=learner) == {"low_rank_embeddings": 60}


@pytest.mark.parametrize("objective", ["regression", "classification"])
def test_a_head_that_has_not_learned_is_told_from_a_frozen_one(tmp_path: Path, objective: str) -> None:
    def unrelated(batch: PrismBatch) -> PrismBatch:
        return replace(batch, rotation_delta_deg=batch.rotation_delta_deg[torch.randperm(B)].roll(1, 0))

    only_rotation = {"loss__w_distance": 0.0, "loss__w_window": 0.0, "loss__w_supcon_target": 0.0}
    config = _config(model__objective=objective, train__max_steps=320, train__lr_warmup_steps=0, **only_rotation)
    alarms = _alarms(tmp_path, config, unrelated)
    text = next(row["text"] for row in read_history(tmp_path) if row.get("event") == "alarm")
    assert list(alarms) == ["at_chance/rotation"]
    assert "rotation is at chance" in text
    assert "predicts nearly the same for every pair" in text
    assert "not frozen; it has not learned yet" in text
