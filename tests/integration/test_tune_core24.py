"""A small sweep as a user starts it, with all that goes wrong in some nights: a trial loses its scans, the driver
is killed, a trial's process dies, a time limit comes; and the same command is given again. Tracked online, by a server
on the loopback."""

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

from prism_ssl.utils.stop_signals import EXIT_INTERRUPTED
from tests.support.cli_runs import REPOSITORY, CliRun, left_in_temporary_root
from tests.support.wandb_server import WandbServer

pytestmark = pytest.mark.slow

STEPS = 200
CELLS = ("b32-p16-w0.1-r2000-reg", "b32-p16-w0.1-r5000-cla", "b32-p16-w0.2-r2000-reg")
FIRST, SECOND, THIRD = CELLS


@dataclass
class Nights:
    """What the scenario below left behind; ``seen`` holds copies of what a later night has overwritten."""

    folder: Path
    server: WandbServer
    codes: list[int] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    pool_actors: list[int] = field(default_factory=list)
    left_behind: list[Path] = field(default_factory=list)
    seen: dict[str, tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=dict)

    def summary(self, cell: str) -> dict[str, Any]:
        """summary.json of a trial."""
        summary: dict[str, Any] = json.loads((self.folder / cell / "summary.json").read_text())
        return summary

    def tracked(self, cell: str) -> Any:
        """The trial's run on the server."""
        return self.server.runs[json.loads((self.folder / cell / "tracking.json").read_text())["run_id"]]

    def look(self, when: str, cell: str) -> None:
        """Remember what summary and server say of a trial."""
        self.seen[when] = (self.summary(cell), self.server.state()["runs"][self.tracked(cell).name])

    def ended(self, run: CliRun) -> None:
        """Read a night to its end."""
        self.codes.append(run.finish())
        self.outputs.append(run.output)


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory, phantom_catalog: Path) -> Iterator[Nights]:
    root = tmp_path_factory.mktemp("sweep")
    archive = Path(shutil.copytree(phantom_catalog.parent, root / "archive"))
    arguments = [
        sys.executable, str(REPOSITORY / "tune" / "tune_core24.py"), "--scale", "smoke", "--only", *CELLS,
        "--max-steps", str(STEPS), "--data.catalog-path", f"archive/{phantom_catalog.name}", "--run.name", "nights",
        "--run.root", "runs", "--run.tmp-root", "tmp", "--tracking.mode", "online",
        "--tracking.artifact-every", str(STEPS), "--data.outage-patience-s", "1",
    ]  # fmt: skip
    with WandbServer() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment(root / "wandb").items():
            patch.setenv(name, value)
        patch.chdir(root)  # paths are given as a user at work there gives them
        patch.setenv(
            "TUNE_FORCE_TRIAL_CLEANUP_S", "1"
        )  # an interrupted trial is not to end well while it is waited for
        all_nights = Nights(root / "runs" / "nights", server)
        _scans_lost_then_driver_killed(CliRun(arguments), all_nights, archive)
        _trial_process_dies_then_time_limit(CliRun(arguments), all_nights)
        all_nights.ended(CliRun(arguments))
        yield all_nights


def _scans_lost_then_driver_killed(run: CliRun, nights: Nights, archive: Path) -> None:
    run.wait_for(f"^trial 1 of 3: {FIRST} starts")
    away = archive.rename(archive.with_name("elsewhere"))
    run.wait_for(f"^trial 1 of 3: {FIRST} failed")
    away.rename(archive)
    run.wait_for(f"^trial 2 of 3: {SECOND} starts")
    nights.look("scans lost", FIRST)
    run.wait_for("^step +10 ")
    nights.pool_actors.append(len(run.descendants("PoolActor")))
    run.kill()
    nights.ended(run)
    nights.left_behind += left_in_temporary_root(nights.folder.parents[1])


def _trial_process_dies_then_time_limit(run: CliRun, nights: Nights) -> None:
    run.wait_for(f"^trial 1 of 3: {FIRST} starts")
    run.descendants("ray::ImplicitFunc")[0].kill()
    run.wait_for(f"^trial 2 of 3: {SECOND} resumes")
    nights.look("process died", FIRST)
    run.wait_for(f"^trial 3 of 3: {THIRD} starts")
    run.wait_for("^step +10 ")
    nights.pool_actors.append(len(run.descendants("PoolActor")))
    run.terminate()
    nights.ended(run)
    nights.left_behind += left_in_temporary_root(nights.folder.parents[1])
    nights.look("time limit", THIRD)


def test_an_outage_costs_two_trials_and_not_the_whole_sweep(
    tmp_path: Path, phantom_catalog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [
        sys.executable, str(REPOSITORY / "tune" / "tune_core24.py"), "--scale", "smoke", "--only", *CELLS,
        "--data.catalog-path", str(phantom_catalog), "--run.name", "night", "--run.root", str(tmp_path / "runs"),
        "--run.tmp-root", str(tmp_path / "tmp"), "--tracking.mode", "online", "--tracking.init-timeout-s", "2",
    ]  # fmt: skip
    with WandbServer() as server:
        for name, value in server.environment(tmp_path / "wandb").items():
            monkeypatch.setenv(name, value)
        run = CliRun(arguments)
        run.wait_for(f"^trial 1 of 3: {FIRST} starts")
        server.begin_failing("drop")
        assert run.finish() == EXIT_INTERRUPTED, run.output
    assert "2 trials in a row failed by no fault of their own (TrackingError: W&B cannot be used" in run.output
    assert "3 of 3 trials have not ended ok" in run.output
    assert not (tmp_path / "runs" / "night" / THIRD).exists()


def test_a_trial_that_fails_leaves_its_cause_and_the_next_one_starts(nights: Nights) -> None:
    causes = {when: summary["cause"] for when, (summary, _) in nights.seen.items()}
    assert causes["scans lost"].startswith("ArchiveUnreachable: the archive was away for 1 s")
    assert re.match(r"TrialFailed: .*actor died", causes["process died"])
    assert causes["time limit"].startswith("RunInterrupted")
    assert [summary["status"] for summary, _ in nights.seen.values()] == ["failed", "failed", "interrupted"]


def test_a_failed_trial_is_marked_failed_in_tracking_with_its_error_and_no_path(nights: Nights) -> None:
    for when, (summary, tracked) in nights.seen.items():
        assert tracked["state"] == "failed", when
        assert tracked["summary"]["trial/status"] == summary["status"]
        assert tracked["summary"]["trial/error"].split(":")[0] == summary["cause"].split(":")[0]
    for place in ("elsewhere", nights.folder.parents[1]):  # where the scans were moved to, and where all the rest is
        assert nights.server.holding(str(place)) == []


def test_the_same_command_runs_what_had_not_ended_ok_and_resumes_at_checkpoints(nights: Nights) -> None:
    assert nights.codes == [-9, EXIT_INTERRUPTED, 0]
    assert ["3 to run" in nights.outputs[1], "2 to run" in nights.outputs[2]] == [True, True]
    stopped_at = nights.seen["time limit"][0]["steps_done"]
    assert nights.summary(THIRD)["resumed_from_step"] == stopped_at  # not a step is lost to a time limit
    for night, cell in ((1, SECOND), (2, THIRD)):
        resumed = nights.summary(cell)["resumed_from_step"]
        assert resumed >= 8
        assert f"{cell} resumes at step {resumed}" in nights.outputs[night]
    assert [nights.summary(cell)["status"] for cell in CELLS] == ["ok"] * 3


def test_no_step_is_recorded_twice_and_none_is_missing(nights: Nights) -> None:
    for cell in CELLS:
        lines = (nights.folder / cell / "history.jsonl").read_text().splitlines()
        rows = [row for row in map(json.loads, lines) if "loss/total" in row]
        assert [row["global_step"] for row in rows] == list(range(2, STEPS + 1, 2)), cell
        tracked = [row["global_step"] for row in nights.tracked(cell).history if "loss/total" in row]
        assert tracked == list(range(2, STEPS + 1, 2)), cell


def test_every_trial_is_one_tracked_run_with_its_design_point_and_its_end(nights: Nights) -> None:
    assert len(nights.server.runs) == 3
    for cell in CELLS:
        run = nights.tracked(cell)
        assert (run.state, run.exit_code, run.fields["groupName"]) == ("finished", 0, "nights")
        assert run.settings["design/batch_size"] == 32
        assert {"core24", "smoke", run.settings["design/objective"]} <= set(run.fields["tags"])
        assert run.summary["trial/status"] == "ok"
        assert -1 <= run.summary["probe/proxy_quality"] <= 1


def test_a_finished_trial_leaves_its_checkpoint_to_the_server_and_keeps_its_encoder(nights: Nights) -> None:
    kept = [(a.type, a.metadata["global_step"]) for a in nights.server.artifacts.values() if a.state == "COMMITTED"]
    assert sorted(kept) == [("checkpoint", STEPS)] * 3 + [("encoder", STEPS)] * 3
    for cell in CELLS:
        assert not (nights.folder / cell / "last.ckpt").exists()
        assert nights.summary(cell)["checkpoint"] is None
        assert (nights.folder / cell / "encoder.safetensors").exists()


def test_a_trials_actors_and_scratch_are_gone_when_the_next_one_trains(nights: Nights) -> None:
    assert nights.pool_actors == [2, 2]
    assert not list((nights.folder.parents[1] / "tmp" / "prism_ssl" / "scratch").iterdir())


def test_a_killed_driver_and_an_interrupted_sweep_leave_no_folder(nights: Nights) -> None:
    assert nights.left_behind == []


def test_attempts_are_listed_with_what_they_cost_beside_training(nights: Nights) -> None:
    attempts = [json.loads(line) for line in (nights.folder / "attempts.jsonl").read_text().splitlines()]
    ends = [(FIRST, "failed"), (FIRST, "failed"), (SECOND, "ok"), (THIRD, "interrupted"), (FIRST, "ok"), (THIRD, "ok")]
    assert [(a["trial"], a["status"]) for a in attempts] == ends
    assert all(0 < a["overhead_s"] <= a["wall_s"] for a in attempts)
    assert re.search(r"2 trials in \d+:\d\d: [\d.]+ s before the first one, then [\d.]+ s \(median", nights.outputs[2])


def test_the_ranking_has_all_trials_once_and_recommends_a_command(nights: Nights) -> None:
    ranked = pl.read_parquet(nights.folder / "ranking.parquet")
    assert set(ranked["run"]) == set(CELLS)
    assert ranked["proxy_quality"].null_count() == 0
    assert ranked["proxy_quality"].to_list() == sorted(ranked["proxy_quality"], reverse=True)
    text = (nights.folder / "ranking.md").read_text()
    assert "prism train core24-smoke" in text
    assert (nights.folder / "ranking.png").exists()
