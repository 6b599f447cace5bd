"""A run with two training workers, started as a user starts it: it learns what one learns, and they end together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.cli_runs import CliRun, command, history_of, run_to_end, summary_of

pytestmark = pytest.mark.slow

STEPS = 120
SAME = {"data__deterministic": True, "train__torch_threads": 1, "train__max_steps": STEPS, "train__log_every": 1}


def holder_of(file: str, run: CliRun, kind: str) -> psutil.Process:
    """The process of a kind that has a file open whose path has ``file``."""
    (holder,) = (p for p in run.descendants(kind) if any(file in each.path for each in p.open_files()))
    return holder


def second_worker(run: CliRun) -> psutil.Process:
    """The training worker that does not have the history open."""
    first = holder_of("history.jsonl", run, "TrainWorker")
    (second,) = (worker for worker in run.descendants("TrainWorker") if worker != first)
    return second


def losses_of(root: Path) -> dict[int, dict[str, Any]]:
    kinds = ("loss/", "chance/", "supcon/")
    return {
        row["global_step"]: {name: value for name, value in row.items() if name.startswith(kinds)}
        for row in history_of(root)
    }


def test_two_workers_learn_what_one_does_also_over_a_killed_pool_and_a_killed_worker(
    tmp_path: Path, phantom_catalog: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    code, output = run_to_end(command(one, data__catalog_path=phantom_catalog, **SAME))
    assert code == 0, output

    settings = {"train__num_workers": 2, "train__max_worker_restarts": 0}  # so that a killed worker ends the run
    arguments = command(two, data__catalog_path=phantom_catalog, **settings, **SAME)
    run = CliRun(arguments)
    run.wait_for(r"^step +15 ")
    holder_of("-pool-1-", run, "PoolActor").kill()  # of the second worker
    assert run.finish() == 1, run.output
    summary = summary_of(two)
    assert summary["status"] == "failed"
    assert summary["cause"].startswith("PoolActorDied: pool actor 1 ")

    run = CliRun(arguments)
    resumed = summary["steps_done"]
    run.wait_for(rf"resumes at step {resumed} ")  # with what both had learned until then
    run.wait_for(r"^step +\d+ ")
    second_worker(run).kill()
    assert run.finish() == 1, run.output
    summary = summary_of(two)
    assert summary["status"] == "failed"
    assert summary["cause"].startswith("TrainWorkerDied: training worker 1 of 2 died without an error message")
    assert resumed <= summary["steps_done"] < STEPS
    assert summary["resumed_from_step"] == resumed

    code, output = run_to_end(arguments)
    assert code == 0, output
    summary = summary_of(two)
    assert summary["status"] == "ok"
    assert summary["resumed_from_step"] >= 15
    assert summary["totals"]["slots"] == summary_of(one)["totals"]["slots"]  # those of both workers
    wanted, found = losses_of(one), losses_of(two)
    assert list(found) == list(wanted) == list(range(1, STEPS + 1))
    for step in range(1, 61):  # later, rounding has grown
        assert found[step] == pytest.approx(wanted[step], rel=0.02, abs=0.02), step
