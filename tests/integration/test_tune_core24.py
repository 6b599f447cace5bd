"""A small sweep as a user starts it, with everything that goes wrong in a night: one trial loses its scans, the driver
is killed in the next one, and the same command is given again. Tracked online, by a server on the loopback."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.cli_runs import REPOSITORY, CliRun
from tests.wandb_server import WandbServer

pytestmark = pytest.mark.slow

STEPS = 60
CELLS = ("b32-p16-w0.1-r2000-reg", "b32-p16-w0.1-r5000-cla", "b32-p16-w0.2-r2000-reg")
LOSES_ITS_SCANS, IS_KILLED, IS_SPARED = CELLS


@dataclass
class Night:
    """What the scenario below left behind."""

    folder: Path
    server: WandbServer
    codes: list[int] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    pool_actors: dict[str, int] = field(default_factory=dict)
    after_failure: dict[str, Any] = field(default_factory=dict)
    tracked_after_failure: dict[str, Any] = field(default_factory=dict)

    def summary(self, cell: str) -> dict[str, Any]:
        """summary.json of a trial."""
        summary: dict[str, Any] = json.loads((self.folder / cell / "summary.json").read_text())
        return summary

    def tracked(self, cell: str) -> Any:
        """The trial's run on the server."""
        return self.server.runs[json.loads((self.folder / cell / "tracking.json").read_text())["run_id"]]


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory, phantom_catalog: Path) -> Iterator[Night]:
    root = tmp_path_factory.mktemp("sweep")
    archive = Path(shutil.copytree(phantom_catalog.parent, root / "archive"))
    away = root / "elsewhere"
    arguments = [
        sys.executable, str(REPOSITORY / "tune" / "tune_core24.py"), "--scale", "smoke", "--only", *CELLS,
        "--max-steps", str(STEPS), "--data.catalog-path", str(archive / phantom_catalog.name), "--run.name", "night",
        "--run.root", str(root / "runs"), "--run.tmp-root", str(root / "tmp"), "--tracking.mode", "online",
    ]  # fmt: skip
    with WandbServer() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment(root / "wandb").items():
            patch.setenv(name, value)
        it = Night(root / "runs" / "night", server)
        run = CliRun(arguments)
        run.wait_for(f"^trial 1 of 3: {LOSES_ITS_SCANS} starts")
        archive.rename(away)
        run.wait_for(f"^trial 1 of 3: {LOSES_ITS_SCANS} failed")
        away.rename(archive)
        run.wait_for(f"^trial 2 of 3: {IS_KILLED} starts")
        it.after_failure = it.summary(LOSES_ITS_SCANS)
        it.tracked_after_failure = server.state()["runs"][it.tracked(LOSES_ITS_SCANS).name]
        run.wait_for("^step +10 ")
        it.pool_actors[IS_KILLED] = len(run.descendants("PoolActor"))
        run.kill()
        it.codes.append(run.finish())
        it.outputs.append(run.output)

        again = CliRun(arguments)
        again.wait_for(f"^trial 2 of 3: {IS_KILLED} resumes")
        again.wait_for("^step +")
        it.pool_actors["resumed"] = len(again.descendants("PoolActor"))
        it.codes.append(again.finish())
        it.outputs.append(again.output)
        yield it


def test_a_trial_that_loses_its_scans_fails_with_its_cause_and_the_next_one_starts(night: Night) -> None:
    assert night.after_failure["status"] == "failed"
    assert re.match(r"ReplacementFailed: scan [0-9a-f]+ failed at stage 'open'", night.after_failure["cause"])
    tracked = night.tracked_after_failure
    assert (tracked["state"], tracked["exit_code"]) == ("failed", 1)
    assert tracked["summary"]["trial/status"] == "failed"
    assert tracked["summary"]["trial/error"].startswith("ReplacementFailed: scan")
    assert not night.server.holding("elsewhere") + night.server.holding("archive/")


def test_the_same_command_runs_what_had_not_ended_ok_and_resumes_the_killed_trial(night: Night) -> None:
    assert night.codes == [-9, 0]
    assert "3 trials, 3 to run" in night.outputs[1]
    resumed = night.summary(IS_KILLED)["resumed_from_step"]
    assert resumed >= 8
    assert f"{IS_KILLED} resumes at step {resumed}" in night.outputs[1]
    assert [night.summary(cell)["status"] for cell in CELLS] == ["ok"] * 3


def test_no_step_is_recorded_twice_and_none_is_missing(night: Night) -> None:
    for cell in CELLS:
        lines = (night.folder / cell / "history.jsonl").read_text().splitlines()
        rows = [row for row in map(json.loads, lines) if "loss/total" in row]
        assert [row["global_step"] for row in rows] == list(range(2, STEPS + 1, 2)), cell
        tracked = [row["global_step"] for row in night.tracked(cell).history if "loss/total" in row]
        assert tracked == list(range(2, STEPS + 1, 2)), cell


def test_every_trial_is_one_tracked_run_with_its_design_point_and_its_end(night: Night) -> None:
    assert len(night.server.runs) == 3
    for cell in CELLS:
        run = night.tracked(cell)
        assert (run.state, run.exit_code, run.fields["groupName"]) == ("finished", 0, "night")
        assert run.settings["design/batch_size"] == 32
        assert {"core24", "smoke", run.settings["design/objective"]} <= set(run.fields["tags"])
        assert run.summary["trial/status"] == "ok"
        assert 0 <= run.summary["probe/proxy_quality"] <= 1


def test_a_trials_actors_and_scratch_are_gone_when_the_next_one_trains(night: Night) -> None:
    assert night.pool_actors == {IS_KILLED: 2, "resumed": 2}
    assert not list((night.folder.parents[1] / "tmp" / "prism_ssl" / "scratch").iterdir())


def test_attempts_are_listed_with_what_they_cost_beside_training(night: Night) -> None:
    attempts = [json.loads(line) for line in (night.folder / "attempts.jsonl").read_text().splitlines()]
    assert [(a["trial"], a["status"]) for a in attempts] == [
        (LOSES_ITS_SCANS, "failed"), *((cell, "ok") for cell in CELLS)]  # fmt: skip
    assert all(0 < a["overhead_s"] <= a["wall_s"] for a in attempts)
    assert re.search(r"3 trials in \d+:\d\d: [\d.]+ s before the first one, then [\d.]+ s \(median", night.outputs[1])


def test_the_ranking_has_all_trials_and_says_that_the_quarantined_scan_changed_the_archive(night: Night) -> None:
    ranked = pl.read_parquet(night.folder / "ranking.parquet")
    assert set(ranked["run"]) == set(CELLS)
    assert ranked["proxy_quality"].null_count() == 0
    assert ranked["proxy_quality"].to_list() == sorted(ranked["proxy_quality"], reverse=True)
    text = (night.folder / "ranking.md").read_text()
    assert "python tune/train_single.py core24-smoke" in text
    assert "The scans changed between attempts" in text
    assert (night.folder / "ranking.png").exists()
