"""A run's last word: an end that was written stands, and what never began says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from prism_ssl.config.defaults import RECIPES, apply_overrides
from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import RunStatus, RunSummary
from prism_ssl.errors import CatalogError, NonFiniteLoss, TrainWorkerDied
from prism_ssl.records.run_files import read_summary, write_summary
from prism_ssl.train.record.driver_summary import record_unfinished, refusals_in_summary, was_cut_short


@pytest.fixture
def config(tmp_path: Path) -> PrismConfig:
    return apply_overrides(RECIPES["phantom-cpu"](), {"run.root": str(tmp_path)})


def _written(run_dir: Path, config: PrismConfig, status: RunStatus) -> RunSummary:
    summary = record_unfinished(run_dir, config, status, None)
    summary = replace(summary, totals={"wall_s": 9.0}, encoder=str(run_dir / "encoder.safetensors"))
    write_summary(summary)
    return summary


@pytest.mark.parametrize("late", [OSError(28, "No space left on device"), KeyboardInterrupt(), SystemExit(1)])
@pytest.mark.parametrize("status", ["ok", "failed", "interrupted"])
def test_an_end_that_was_written_is_not_rewritten_by_what_fails_after_it(
    tmp_path: Path, config: PrismConfig, status: RunStatus, late: BaseException
) -> None:
    record_unfinished(tmp_path, config, "failed", "CatalogError: an attempt before this one")
    written: list[RunSummary] = []

    def end_and_fail_late() -> None:
        with refusals_in_summary(tmp_path, config):
            record_unfinished(tmp_path, config, "running")
            written.append(_written(tmp_path, config, status))
            raise late

    with pytest.raises(type(late)):
        end_and_fail_late()
    assert [read_summary(tmp_path)] == written


@pytest.mark.parametrize(
    ("error", "status", "cause"),
    [
        (CatalogError("no scan"), "failed", "CatalogError: no scan"),
        (KeyboardInterrupt(), "interrupted", "RunInterrupted: the run was asked to stop"),
    ],
)
@pytest.mark.parametrize("begun", [True, False])
def test_a_run_that_could_not_begin_says_why(
    tmp_path: Path, config: PrismConfig, error: BaseException, status: str, cause: str, begun: bool
) -> None:
    record_unfinished(tmp_path, config, "interrupted", "RunInterrupted: an attempt before this one")

    def refuse() -> None:
        with refusals_in_summary(tmp_path, config):
            if begun:
                record_unfinished(tmp_path, config, "running")
            raise error

    with pytest.raises(type(error)):
        refuse()
    summary = read_summary(tmp_path)
    assert summary is not None
    assert summary.status == status
    assert summary.cause is not None
    assert summary.cause.startswith(cause)


def test_a_finished_run_that_cannot_be_extended_stays_finished(tmp_path: Path, config: PrismConfig) -> None:
    finished = _written(tmp_path, config, "ok")
    with pytest.raises(CatalogError, match="no scan"), refusals_in_summary(tmp_path, config):
        raise CatalogError("no scan")
    assert read_summary(tmp_path) == finished


@pytest.mark.parametrize(
    ("status", "cause", "cut_short"),
    [
        ("running", None, True),
        ("failed", "PeerLost: another training worker is gone", True),
        ("failed", "NonFiniteLoss: the loss was not finite", False),
        ("interrupted", "RunInterrupted: the run was asked to stop", False),
        ("ok", None, False),
    ],
)
def test_a_worker_that_is_killed_after_the_end_was_written_is_not_started_again(
    tmp_path: Path, config: PrismConfig, status: RunStatus, cause: str | None, cut_short: bool
) -> None:
    record_unfinished(tmp_path, config, status, cause)
    assert was_cut_short(tmp_path, TrainWorkerDied("killed")) is cut_short
    assert not was_cut_short(tmp_path, NonFiniteLoss("an error of its own"))
    assert not was_cut_short(tmp_path, None)


def test_a_later_start_of_the_command_keeps_the_count_of_restarts(tmp_path: Path, config: PrismConfig) -> None:
    write_summary(replace(record_unfinished(tmp_path, config, "interrupted"), restarts=2))
    assert record_unfinished(tmp_path, config, "running").restarts == 2
