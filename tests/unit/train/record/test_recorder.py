"""What is written down while a run trains: an evaluation is no step, and the summary has the last of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prism_ssl.config.defaults import apply_overrides, phantom_cpu
from prism_ssl.data.sharded_dataset import NO_WAIT
from prism_ssl.model.heads import PairHeads
from prism_ssl.model.loss import LossBundle
from prism_ssl.records.run_files import read_history, read_summary
from prism_ssl.train.logging import Tracker, start_tracker
from prism_ssl.train.metrics import Aside
from prism_ssl.train.record import recorder
from prism_ssl.train.record.recorder import Recorder
from prism_ssl.train.record.step_clock import HostClock, StepTime
from tests.support.model_batches import perfect_output, random_batch

CONFIG = apply_overrides(
    phantom_cpu(), {"train.log_every": 2, "train.stall_warmup_steps": 0, "tracking.mode": "disabled"}
)
BATCH = random_batch()
HEADS = PairHeads("regression", 8, 4).by_loss()
REPORT = LossBundle(CONFIG.loss, CONFIG.view, "regression")(perfect_output(BATCH, "regression"), BATCH, 0)


@pytest.fixture
def let_pass(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that stands still until it is told how many seconds have passed."""
    now = [1000.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def passed(seconds: float) -> None:
        now[0] += seconds

    return passed


@pytest.mark.parametrize("what", ["evaluation", "checkpoint"])
def test_an_evaluation_or_a_checkpoint_counts_in_no_step_stall_or_rate(
    let_pass: Callable[[float], None], tmp_path: Path, what: Aside
) -> None:
    recorder = Recorder(CONFIG, tmp_path, 0, None, HEADS)
    for after_step_s in (30.0, 0.0, 0.0, 20.0):
        let_pass(0.5)
        recorder.step(REPORT, NO_WAIT)
        with recorder.aside(what):
            let_pass(after_step_s)
    recorder.finish("ok", None, {}, None)
    totals = recorder.summary.totals
    assert totals["total_step_time_ms_max"] == pytest.approx(500)
    assert totals["stall_steps_ge_2000ms"] == 0
    assert (totals["evaluation_s"], totals["checkpoint_s"]) == pytest.approx(
        (50, 0) if what == "evaluation" else (0, 50)
    )
    assert totals["wall_s"] == pytest.approx(52)
    patches = 4 * 2 * CONFIG.train.batch_size * CONFIG.data.n_patches
    assert totals["throughput_effective_patches_per_sec"] == pytest.approx(patches / 2.0)


def test_the_time_that_the_tracker_takes_to_start_is_in_the_first_step_and_in_the_whole(
    let_pass: Callable[[float], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(*arguments: Any) -> Tracker:
        let_pass(3.0)
        return start_tracker(*arguments)

    monkeypatch.setattr(recorder, "start_tracker", slowly)
    written = Recorder(CONFIG, tmp_path, 0, None, HEADS, clock=HostClock())
    for _ in range(2):
        let_pass(0.5)
        written.step(REPORT, NO_WAIT)
    written.finish("ok", None, {}, None)
    totals = written.summary.totals
    assert totals["first_step_ms"] == pytest.approx(3500)
    assert totals["wall_s"] == pytest.approx(4)


def test_the_summary_has_the_last_evaluation_without_what_could_not_be_said(tmp_path: Path) -> None:
    recorder = Recorder(CONFIG, tmp_path, 0, None, HEADS)
    recorder.step(REPORT, NO_WAIT)
    recorder.evaluated({"recall_at_1": 0.1, "knn_modality": 0.5})
    recorder.step(REPORT, NO_WAIT)
    recorder.evaluated({"recall_at_1": 0.2, "knn_modality": math.nan})
    recorder.row(1e-3, {})
    recorder.finish("ok", None, {}, None)
    summary = read_summary(tmp_path)
    assert summary is not None
    assert summary.probe == {"recall_at_1": 0.2}
    assert read_history(tmp_path)[:2] == [
        {"global_step": 1, "probe/recall_at_1": 0.1, "probe/knn_modality": 0.5},
        {"global_step": 2, "probe/recall_at_1": 0.2, "probe/knn_modality": None},
    ]
    assert summary.losses["distance"]["loss"] == pytest.approx(0.0, abs=1e-6)


def test_a_resumed_attempt_still_tells_the_evaluation_of_an_earlier_one(tmp_path: Path) -> None:
    first = Recorder(CONFIG, tmp_path, 0, None, HEADS)
    first.evaluated({"recall_at_1": 0.1})
    first.finish("failed", "another cause", {}, None)
    recorder = Recorder(CONFIG, tmp_path, 0, None, HEADS)
    recorder.finish("failed", "a cause", {}, None)
    assert recorder.summary.probe == {"recall_at_1": 0.1}


def test_a_run_without_held_out_scans_says_so(tmp_path: Path) -> None:
    recorder = Recorder(CONFIG, tmp_path, 0, None, HEADS)
    recorder.evaluated({})
    recorder.finish("ok", None, {}, None)
    (row,) = read_history(tmp_path)
    assert row["event"] == "evaluation"
    assert "no held-out scan could be evaluated" in row["text"]


def _trained(folder: Path, first_step: int, last_step: int, before: dict[str, Any] | None) -> tuple[Recorder, Any]:
    """An attempt from ``first_step`` to ``last_step`` whose heads learn nothing; with the state for the next one."""
    recorder = Recorder(LONG, folder, first_step, None, HEADS, before)
    for step in range(first_step + 1, last_step + 1):
        if recorder.step(REPORT, NO_WAIT):
            recorder.row(1e-3, {})
        assert recorder.steps_done == step
    state = recorder.state()
    recorder.finish("ok", None, {}, None)
    return recorder, state


LONG = apply_overrides(CONFIG, {"train.log_every": 10, "train.max_steps": 400, "loss.simclr_baseline": True})


def test_alarms_and_totals_go_on_after_a_resume_as_if_the_run_had_not_stopped(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("whole", "parts")]
    for folder in folders:
        folder.mkdir()
    whole, _ = _trained(folders[0], 0, 200, None)
    _, state = _trained(folders[1], 0, 100, None)
    parts, _ = _trained(folders[1], 100, 200, state)
    assert whole.summary.alarms != []
    assert parts.summary.alarms == whole.summary.alarms
    told, told_whole = ([row for row in read_history(f) if row.get("event") == "alarm"] for f in reversed(folders))
    assert told == told_whole
    rows, rows_whole = ([row for row in read_history(f) if "event" not in row] for f in reversed(folders))
    names = [name for name in rows_whole[-1] if name.startswith("alarm/")]
    assert [[row[name] for name in names] for row in rows] == [[row[name] for name in names] for row in rows_whole]
    assert (whole.summary.totals["steps_timed"], parts.summary.totals["steps_timed"]) == (200, 199)


def test_a_resumed_attempt_that_ends_before_its_first_row_still_tells_the_last_losses(tmp_path: Path) -> None:
    first, state = _trained(tmp_path, 0, 100, None)
    again, _ = _trained(tmp_path, 100, 103, state)
    assert str(again.summary.losses) == str(first.summary.losses) != "{}"  # a skill may be NaN


class _Queue(HostClock):
    """The clock of a device whose queue never ends, as where it waits for a worker that is gone."""

    def settled(self) -> list[StepTime]:
        raise AssertionError("waited for a device that will never be done")


def test_after_a_failure_the_end_of_a_run_does_not_wait_for_the_device(tmp_path: Path) -> None:
    recorder = Recorder(CONFIG, tmp_path, 0, None, HEADS, clock=_Queue())
    recorder.step(REPORT, NO_WAIT)
    recorder.finish("failed", "PeerLost: ...", {}, None)
    assert recorder.summary.status == "failed"
