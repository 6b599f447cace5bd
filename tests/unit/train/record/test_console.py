"""What a person reads: losses beside their chance levels, and an end that never sounds better than it was."""

from __future__ import annotations

import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from prism_ssl.contracts import RunSummary
from prism_ssl.records.run_files import HISTORY_FILE
from prism_ssl.train.record.console import HistoryFollower, LiveView, show_summary, step_line

ROW = {
    "global_step": 40, "loss/total": 0.00012345, "chance/total": 2.5, "loss/supcon": None, "chance/supcon": 3.434,
    "weight/total": 1.0, "patches_per_sec_interval": 123456.7, "data_wait_share": 0.123,
}  # fmt: skip

OK = RunSummary(
    run="phantom-cpu-1234abcd", status="ok", cause=None, steps_done=400, max_steps=400, resumed_from_step=200,
    run_dir="/runs/phantom-cpu-1234abcd", checkpoint="/runs/last.ckpt", encoder="/runs/encoder.safetensors",
    totals={"wall_s": 3723.0, "resume_s": 5.0,
            "throughput_effective_patches_per_sec": 98765.4, "stall_steps_ge_2000ms": 2.0,
            "total_step_time_ms_p50": 151.0, "data_wait_share": 0.25, "data_wait_ms_total": 100.0,
            "data_wait_opening_ms_total": 75.0, "data_wait_sampling_ms_total": 25.0, "replacement_failed_count": 0.0},
    losses={"total": {"loss": 1.0, "chance": 2.0}, "distance": {"loss": 0.00123, "chance": 0.25, "weight": 1.0},
            "supcon": {"loss": 0.5, "chance": 3.434, "weight": 0.2},
            "skill": {"dx": 0.5, "dy": -0.25, "dz": math.nan}},
    data={"scans_training": 20.0, "scans_held_out": 8.0, "scans_rejected": 3.0, "rejected/label_map": 3.0},
)  # fmt: skip

FAILED = replace(
    OK, status="failed", steps_done=37, encoder=None, alarms=["the target 'rx' hardly varies"],
    cause="ReplacementFailed: scan ab12 failed at stage 'open': FileNotFoundError: [Errno 2] No such file",
)  # fmt: skip


def _shown(summary: RunSummary) -> str:
    console = Console(file=io.StringIO(), width=100)
    show_summary(console, summary)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# ---------------------------------------------------------------------- step lines
def test_a_step_line_gives_every_loss_in_scientific_notation_beside_its_chance() -> None:
    assert step_line(ROW) == (
        "step     40  total 1.23e-04/2.50e+00  supcon -/3.43e+00  123,457 patches/s  wait 12%"
    )  # fmt: skip


# ---------------------------------------------------------------------- summaries
def test_new_starts_after_broken_scans_are_told_where_there_were_any() -> None:
    assert "2 after a broken scan, each without that scan" in _shown(replace(OK, restarts=2))
    assert "after a broken scan" not in _shown(OK)


def test_a_good_end_says_ok_and_explains_its_numbers() -> None:
    text = _shown(OK)
    assert "phantom-cpu-1234abcd: ok at step 400 of 400" in text
    assert re.search(r"distance .* 1\.23e-03 .* 2\.50e-01 .* dx \+0\.50  dy -0\.25 ", text)
    assert re.search(r"supcon .* 5\.00e-01 .* 3\.43e\+00 .* 0\.2 ", text)
    assert "1:02:03 over all attempts, 0:05 of it spent resuming" in text
    assert "98,765 patches/s (wall clock)" in text
    assert "25% of the time, of which opening 75%, sampling 25%, transport 0%" in text
    assert "20 train, 8 held out, 3 rejected (label_map 3)" in text
    assert "checkpoint  /runs/last.ckpt" in text
    assert "encoder     /runs/encoder.safetensors" in text
    assert "nan" not in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_failed_end_says_so_with_its_cause_and_never_ok() -> None:
    text = _shown(FAILED)
    assert "phantom-cpu-1234abcd: failed at step 37 of 400" in text
    assert "FileNotFoundError: [Errno 2] No such file" in text
    assert "alarm: the target 'rx' hardly varies" in text
    assert "encoder  " not in text
    assert not re.search(r"\bok\b", text)


def test_an_end_before_the_first_log_step_is_shown_without_tables() -> None:
    text = _shown(replace(FAILED, losses={}, totals={}, data={}, checkpoint=None, alarms=[]))
    assert "failed at step 37 of 400" in text
    assert "run folder  /runs/phantom-cpu-1234abcd" in text
    assert "chance" not in text


@pytest.mark.parametrize("missing", [None, math.nan])
def test_numbers_that_never_came_are_dashes(missing: Any) -> None:
    losses: dict[str, dict[str, Any]] = {"distance": {"loss": missing, "chance": missing, "weight": 1.0},
                                         "skill": {"dx": missing}}  # fmt: skip
    text = _shown(replace(FAILED, losses=losses))
    assert re.search(r"distance +│ +- +│ +- +│ +1 ", text)
    assert "nan" not in text


def test_brackets_in_names_and_texts_are_shown_as_they_are() -> None:
    text = _shown(replace(FAILED, run="a[b]", alarms=["axis [/x] of [red]"]))
    assert "a[b]: failed" in text
    assert "alarm: axis [/x] of [red]" in text


# ---------------------------------------------------------------------- following a history
def _append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_a_follower_reads_what_is_new_and_waits_for_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / HISTORY_FILE
    _append(path, '{"global_step": 1}\n')
    follower = HistoryFollower(path)
    assert follower.new_rows() == []
    _append(path, '{"global_step": 2}\n{"global_')
    assert follower.new_rows() == [{"global_step": 2}]
    assert follower.new_rows() == []
    _append(path, 'step": 3}\n')
    assert follower.new_rows() == [{"global_step": 3}]


def test_a_follower_goes_on_in_a_history_that_was_cut_back(tmp_path: Path) -> None:
    path = tmp_path / HISTORY_FILE
    path.write_text('{"global_step": 2}\n{"global_step": 4}\n')
    follower = HistoryFollower(path)
    path.write_text('{"global_step": 2}\n')
    assert follower.new_rows() == [{"global_step": 2}]
    _append(path, '{"global_step": 4}\n')
    assert follower.new_rows() == [{"global_step": 4}]


def test_a_follower_waits_for_a_history_that_is_not_there_yet(tmp_path: Path) -> None:
    follower = HistoryFollower(tmp_path / HISTORY_FILE)
    assert follower.new_rows() == []
    _append(tmp_path / HISTORY_FILE, '{"global_step": 1}\n')
    assert follower.new_rows() == [{"global_step": 1}]


def _live(tmp_path: Path, appended: str) -> str:
    console = Console(file=io.StringIO(), width=100)
    with LiveView(console, tmp_path, first_step=0, max_steps=400):
        _append(tmp_path / HISTORY_FILE, appended)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_everything_logged_is_shown_before_the_view_closes(tmp_path: Path) -> None:
    event = {"event": "broken_scan", "global_step": 41, "text": "OSError: [Errno 5] I/O of [/x]; quarantined"}
    text = _live(tmp_path, "".join(json.dumps(row) + "\n" for row in (ROW, event)))
    assert step_line(ROW) in text
    assert "broken_scan at step 41: OSError: [Errno 5] I/O of [/x]; quarantined" in text


def test_an_evaluation_is_a_line_of_its_own(tmp_path: Path) -> None:
    row = {
        "global_step": 50,
        "probe/recall_at_1": 0.5,
        "probe/recall_at_1_chance": 0.125,
        "probe/pose_skill_mean": None,
    }
    text = _live(tmp_path, json.dumps(row) + "\n")
    assert "step     50  held out: recall@1 0.50 (chance 0.12, untrained -)  shift and rotation -" in text


def test_an_error_in_showing_is_told_and_ends_nothing(tmp_path: Path) -> None:
    text = json.dumps({"event": "alarm", "global_step": 9}) + "\n"  # no text to show
    assert "the progress view ended early (KeyError: 'text'); the run's rows are in history.jsonl" in _live(
        tmp_path, text
    )


class _NoConsole(io.StringIO):
    """A terminal whose every write fails."""

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")

    def isatty(self) -> bool:
        return True


def test_a_console_that_fails_ends_neither_the_progress_view_nor_the_summary(tmp_path: Path) -> None:
    console = Console(file=_NoConsole(), force_terminal=True)
    with LiveView(console, tmp_path, first_step=0, max_steps=400):
        _append(tmp_path / HISTORY_FILE, json.dumps(ROW) + "\n")
    show_summary(console, OK)


def test_a_summary_that_cannot_be_shown_as_a_table_is_named() -> None:
    text = _shown(replace(OK, data={"scans_training": 20.0}))
    assert "phantom-cpu-1234abcd: ok at step 400; its summary cannot be shown here (KeyError: 'scans_held_out')" in text
