"""The record of a run survives a kill and is JSON that anybody can read."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from prism_ssl.contracts import RunSummary
from prism_ssl.errors import RunFolderError
from prism_ssl.records.run_files import (
    HISTORY_FILE,
    SUMMARY_FILE,
    LocalRecord,
    read_history,
    read_summary,
    truncate_history,
    write_summary,
)


def _strict(text: str) -> Any:
    """As a reader in another language sees it: NaN and Infinity are no JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_a_row_is_on_disk_before_the_record_is_closed(tmp_path: Path) -> None:
    record = LocalRecord(tmp_path)
    record.row(10, {"loss/total": 0.5})
    record.event(10, "alarm", "the target 'dx' hardly varies")
    assert read_history(tmp_path) == [
        {"global_step": 10, "loss/total": 0.5},
        {"event": "alarm", "global_step": 10, "text": "the target 'dx' hardly varies"},
    ]
    record.close()
    record.close()


def test_a_second_attempt_appends(tmp_path: Path) -> None:
    for step in (1, 2):
        record = LocalRecord(tmp_path)
        record.row(step, {})
        record.close()
    assert [row["global_step"] for row in read_history(tmp_path)] == [1, 2]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_does_not_know_is_null_in_a_row(tmp_path: Path, value: float) -> None:
    record = LocalRecord(tmp_path)
    record.row(1, {"loss/total": value, "lr": 1e-3})
    record.close()
    assert _strict((tmp_path / HISTORY_FILE).read_text()) == {"global_step": 1, "loss/total": None, "lr": 1e-3}


@pytest.mark.parametrize("torn", ['{"global_step": 3, "loss/to', '{"global_step": 3}', "{", ""])
def test_a_torn_last_line_is_left_out(tmp_path: Path, torn: str) -> None:
    (tmp_path / HISTORY_FILE).write_text('{"global_step": 1}\n{"global_step": 2}\n' + torn)
    assert [row["global_step"] for row in read_history(tmp_path)] == [1, 2]


def test_a_run_without_a_history_has_no_rows(tmp_path: Path) -> None:
    assert read_history(tmp_path) == []
    assert read_summary(tmp_path) is None


def test_a_resume_drops_what_it_will_write_again(tmp_path: Path) -> None:
    lines = ['{"global_step": 10}', '{"event": "alarm", "global_step": 10, "text": "x"}', '{"global_step": 20}',
             '{"event": "alarm", "global_step": 21, "text": "y"}', '{"global_step": 30, "torn']  # fmt: skip
    (tmp_path / HISTORY_FILE).write_text("\n".join(lines))
    truncate_history(tmp_path, 20)
    assert (tmp_path / HISTORY_FILE).read_text() == "\n".join(lines[:3]) + "\n"
    record = LocalRecord(tmp_path)
    record.row(30, {})
    record.close()
    assert [row["global_step"] for row in read_history(tmp_path)] == [10, 10, 20, 30]
    truncate_history(tmp_path, 0)
    assert read_history(tmp_path) == []


def _summary(run_dir: Path, skill: float) -> RunSummary:
    return RunSummary(
        run="r", status="ok", cause=None, steps_done=4, max_steps=4, resumed_from_step=2, run_dir=str(run_dir),
        totals={"wall_s": 1.5}, losses={"distance": {"loss": 0.25}, "skill": {"dx": 0.5, "distance": skill}},
        alarms=["one"],
    )  # fmt: skip


def test_a_summary_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_summary(_summary(tmp_path, 0.125))
    assert read_summary(tmp_path) == _summary(tmp_path, 0.125)


def test_a_summary_is_json_also_where_a_skill_is_not_defined(tmp_path: Path) -> None:
    write_summary(_summary(tmp_path, math.nan))
    skill = {"dx": 0.5, "distance": None}
    assert _strict((tmp_path / SUMMARY_FILE).read_text())["losses"]["skill"] == skill
    told = read_summary(tmp_path)
    assert told is not None
    assert told.losses["skill"] == skill


def test_a_summary_that_is_not_one_is_an_error_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"run": "x"')
    with pytest.raises(RunFolderError, match=r"summary\.json cannot be read"):
        read_summary(tmp_path)


def test_on_a_full_disk_the_error_tells_how_the_run_ended(tmp_path: Path) -> None:
    (tmp_path / f".summary.json.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(RunFolderError, match=r"cannot be written \(No space left on device\).* is ok at step \d+"):
        write_summary(_summary(tmp_path, 0.125))
    assert list(tmp_path.iterdir()) == []
