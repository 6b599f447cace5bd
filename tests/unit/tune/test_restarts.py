"""A run that ended on a broken scan begins again, as often as is allowed; any other end stands."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from prism_ssl.config.defaults import apply_overrides, core24_smoke
from prism_ssl.contracts import RunSummary
from prism_ssl.errors import BatchDoesNotFit
from prism_ssl.records.run_files import read_summary, write_summary
from prism_ssl.utils.stop_signals import ignore_stop_signals, stop_signals_interrupt, stop_was_asked
from tune.core24 import DesignPoint
from tune.restarts import sweep_with_restarts, train_with_restarts
from tune.sweep.folder import Sweep

BROKEN = "ReplacementFailed: scan 1 failed at stage 'open': ..."


def starts(tmp_path: Path, *ends: str | None) -> tuple[RunSummary, list[str], int]:
    """The last summary, what was told, and how many starts were not needed; None: it ended ok. Two restarts allowed."""
    ok = RunSummary("run", "ok", None, 10, 10, None, str(tmp_path))
    left = [dataclasses.replace(ok, status="failed", cause=cause) if cause else ok for cause in ends]
    told: list[str] = []
    return train_with_restarts(lambda: left.pop(0), 2, told.append, lambda: False), told, len(left)


def test_a_broken_scan_is_survived_by_a_restart_that_is_told_and_counted(tmp_path: Path) -> None:
    summary, told, left = starts(tmp_path, BROKEN, None, None)
    assert (summary.status, summary.restarts, left) == ("ok", 1, 1)
    assert told == [f"restart 1 of at most 2 (run.max_restarts): {BROKEN}"]
    assert read_summary(tmp_path) == summary


def test_restarts_are_bounded_and_the_run_then_stays_failed(tmp_path: Path) -> None:
    summary, told, left = starts(tmp_path, BROKEN, BROKEN, BROKEN, None)
    assert (summary.status, summary.cause, summary.restarts, len(told), left) == ("failed", BROKEN, 2, 2, 1)


def test_restarts_of_an_earlier_start_of_the_command_are_counted_with_the_new_ones(tmp_path: Path) -> None:
    requeued = RunSummary("run", "failed", BROKEN, 10, 10, 5, str(tmp_path), restarts=2)
    left = [requeued, dataclasses.replace(requeued, status="ok", cause=None)]
    assert train_with_restarts(lambda: left.pop(0), 1, lambda _: None, lambda: False).restarts == 3


def test_a_run_that_was_asked_to_stop_while_a_start_came_to_its_end_is_not_begun_again(tmp_path: Path) -> None:
    broken = RunSummary("run", "failed", BROKEN, 10, 20, None, str(tmp_path))

    def fails_and_is_asked_to_stop_while_it_cleans_up() -> RunSummary:
        with stop_signals_interrupt():
            ignore_stop_signals()
            signal.raise_signal(signal.SIGTERM)
        return broken

    with stop_signals_interrupt():
        summary = train_with_restarts(fails_and_is_asked_to_stop_while_it_cleans_up, 2, lambda _: None, stop_was_asked)
    assert summary == broken


@pytest.mark.parametrize("cause", ["ArchiveUnreachable: ...", "TooManyBrokenScans: ...", "NonFiniteLoss: ...", None])
def test_no_other_end_is_begun_again(tmp_path: Path, cause: str | None) -> None:
    summary, told, left = starts(tmp_path, cause, None)
    assert (summary.cause, summary.restarts, told, left) == (cause, 0, [], 1)


class Night:
    """A sweep of three cells, each of whose starts ends with the next of its causes; None: ok."""

    def __init__(self, root: Path, *ends: Sequence[str | None], stopped_in: int | None = None) -> None:
        settings = {"run.root": str(root), "run.max_restarts": 2}
        self.sweep = Sweep(apply_overrides(core24_smoke(), settings), "smoke", "half", ("b32-p16-*-r2000-*",))
        self._ends = {point: list(causes) for point, causes in zip(self.sweep.points, ends, strict=True)}
        self._stopped_in = stopped_in
        self.ran: list[int] = []
        self.told: list[str] = []
        self.interrupted = sweep_with_restarts(self._run, self.sweep, self.sweep.points, self.told.append)

    def _run(self, cells: Sequence[DesignPoint]) -> bool:
        self.ran.append(len(cells))
        for point in cells:
            cause, folder = self._ends[point].pop(0), self.sweep.run_dir(point)
            if cause == "stopped early":
                raise KeyboardInterrupt
            if cause == "unusable":
                raise BatchDoesNotFit("too few scans are left")
            folder.mkdir(parents=True, exist_ok=True)
            write_summary(RunSummary(point.name, "failed" if cause else "ok", cause, 12, 12, None, str(folder)))
        return len(self.ran) == self._stopped_in

    @property
    def restarts(self) -> list[int]:
        """What the summaries count."""
        return [summary.restarts for summary in map(self.sweep.summary, self.sweep.points) if summary]


def test_trials_that_failed_on_a_broken_scan_are_tried_again_and_no_others(tmp_path: Path) -> None:
    night = Night(tmp_path, (BROKEN, BROKEN, None), (BROKEN, None), ("NonFiniteLoss: ...",))
    assert (night.ran, night.restarts, night.interrupted) == ([3, 2, 1], [2, 1, 0], False)
    assert night.told[1].startswith("restart 2 of at most 2 (run.max_restarts), after a broken scan: b32-p16-w0.1-")
    assert night.sweep.pending() == night.sweep.points[2:]


def test_restarts_of_trials_are_bounded_and_a_stopped_sweep_begins_none(tmp_path: Path) -> None:
    bounded = Night(tmp_path / "a", (BROKEN,) * 3, (None,), (None,))
    assert (bounded.ran, bounded.restarts, len(bounded.sweep.pending())) == ([3, 1, 1], [2, 0, 0], 1)
    stopped = Night(tmp_path / "b", (BROKEN,) * 2, (BROKEN, None), (None,), stopped_in=2)
    assert (stopped.ran, stopped.interrupted) == ([3, 2], True)


def test_a_restart_that_cannot_begin_is_told_and_the_sweep_is_ranked_as_it_is(tmp_path: Path) -> None:
    night = Night(tmp_path, (BROKEN, "unusable"), (None,), (None,))
    assert (night.ran, night.interrupted) == ([3, 1], False)
    assert night.told[-1] == "no restart: BatchDoesNotFit: too few scans are left"


def test_a_sweep_that_is_stopped_before_the_first_trial_of_a_restart_keeps_what_it_has(tmp_path: Path) -> None:
    night = Night(tmp_path, [BROKEN, "stopped early"], [None], [None])
    assert (night.ran, night.restarts, night.interrupted) == ([3, 1], [0, 0, 0], True)
