"""A run that ended on a broken scan begins again, as often as is allowed; any other end stands."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from prism_ssl.contracts import RunSummary
from prism_ssl.train.local_record import read_summary
from tune.restarts import train_with_restarts

BROKEN = "ReplacementFailed: scan 1 failed at stage 'open': ..."


def starts(tmp_path: Path, *ends: str | None) -> tuple[RunSummary, list[str], int]:
    """The last summary, what was told, and how many starts were not needed; None: it ended ok. Two restarts allowed."""
    ok = RunSummary("run", "ok", None, 10, 10, None, str(tmp_path))
    left = [dataclasses.replace(ok, status="failed", cause=cause) if cause else ok for cause in ends]
    told: list[str] = []
    return train_with_restarts(lambda: left.pop(0), 2, told.append), told, len(left)


def test_a_broken_scan_is_survived_by_a_restart_that_is_told_and_counted(tmp_path: Path) -> None:
    summary, told, left = starts(tmp_path, BROKEN, None, None)
    assert (summary.status, summary.restarts, left) == ("ok", 1, 1)
    assert told == [f"restart 1 of at most 2 (run.max_restarts): {BROKEN}"]
    assert read_summary(tmp_path) == summary


def test_restarts_are_bounded_and_the_run_then_stays_failed(tmp_path: Path) -> None:
    summary, told, left = starts(tmp_path, BROKEN, BROKEN, BROKEN, None)
    assert (summary.status, summary.cause, summary.restarts, len(told), left) == ("failed", BROKEN, 2, 2, 1)


@pytest.mark.parametrize("cause", ["ArchiveUnreachable: ...", "TooManyBrokenScans: ...", "NonFiniteLoss: ...", None])
def test_no_other_end_is_begun_again(tmp_path: Path, cause: str | None) -> None:
    summary, told, left = starts(tmp_path, cause, None)
    assert (summary.cause, summary.restarts, told, left) == (cause, 0, [], 1)
