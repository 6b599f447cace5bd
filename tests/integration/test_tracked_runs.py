"""Whole tracked runs, started as a user starts them: interrupted, killed, cut off from their server."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import pytest

from prism_ssl.train.checkpoint import checkpoint_step
from prism_ssl.utils.stop_signals import EXIT_INTERRUPTED
from tests.support.cli_runs import (
    LOST_DRIVER,
    CliRun,
    command,
    history_of,
    left_in_temporary_root,
    only_run,
    run_to_end,
    summary_of,
)
from tests.support.wandb_server import API_KEY, WandbServer

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WandbServer:
    """Started by each test's ``with``; its clients have an empty home and working directory."""
    server = WandbServer()
    for name in ("home", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name, value in server.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    for name in ("DIR", "CACHE_DIR", "DATA_DIR", "ARTIFACT_DIR", "CONFIG_DIR"):
        monkeypatch.delenv(f"WANDB_{name}")
    return server


def tracked(root: Path, catalog: Path, **overrides: Any) -> list[str]:
    """A small online run with an artifact every 20 steps."""
    settings = {"tracking__mode": "online", "tracking__artifact_every": 20, "tracking__finish_timeout_s": 20}
    return command(root, data__catalog_path=catalog, **(settings | overrides))


def left_behind(root: Path) -> list[Path]:
    return [path for name in ("home", "here") for path in (root / name).rglob("*")]


def test_sigterm_to_the_training_worker_saves_a_checkpoint_and_the_run_is_interrupted(
    server: WandbServer, tmp_path: Path, phantom_catalog: Path
) -> None:
    arguments = tracked(tmp_path, phantom_catalog, train__max_steps=5000, train__checkpoint_every=4000)
    with server:
        run = CliRun(arguments)
        run.wait_for(r"^step +15 ")
        run.descendants("TrainWorker")[0].send_signal(signal.SIGTERM)
        assert run.finish() == EXIT_INTERRUPTED
        assert (server.run.state, server.run.exit_code) == ("failed", 143)
        summary = summary_of(tmp_path)
        assert summary["status"] == "interrupted"
        assert summary["cause"].startswith("RunInterrupted: ")
        assert summary["steps_done"] >= 15
    assert (only_run(tmp_path) / "last.ckpt").exists()
    assert checkpoint_step(only_run(tmp_path) / "last.ckpt") == summary["steps_done"]


def test_a_killed_run_leaves_nothing_and_resumes_from_the_artifact_as_the_same_tracked_run(
    server: WandbServer, tmp_path: Path, phantom_catalog: Path
) -> None:
    arguments = tracked(tmp_path, phantom_catalog, train__max_steps=400)
    with server:
        first = CliRun(arguments)
        first.wait_for(r"^step +55 ")
        first.kill()
        first.finish()
        assert summary_of(tmp_path)["status"] in LOST_DRIVER
        assert left_in_temporary_root(tmp_path) == []
        (only_run(tmp_path) / "last.ckpt").unlink()

        code, output = run_to_end(arguments)
        assert code == 0, output
        resumed = re.search(r"resumes at step (\d+) from W&B artifact checkpoint-phantom-cpu-\S+:latest", output)
        assert resumed is not None, output
        assert int(resumed[1]) in range(20, 400, 20)  # an artifact every 20 steps
        assert server.run.global_steps == list(range(5, 401, 5))
        assert (server.run.state, server.run.exit_code) == ("finished", 0)
        kept = {a.type: a.metadata["global_step"] for a in server.artifacts.values() if a.state == "COMMITTED"}
        assert kept == {"checkpoint": 400, "encoder": 400}
        for secret in (str(tmp_path), str(phantom_catalog.parent), API_KEY, "PH000"):  # the last: every patient's id
            assert server.holding(secret) == []
        # How many there were, in words and as the scalar probe/place_patients.
        speak_of_patients = {Path(key).name for key in server.holding("patient")}
        assert speak_of_patients == {"encoder.json", "model_card.md", "wandb-summary.json", "file_stream"}
        assert left_behind(tmp_path) == []
        assert "wandb:" not in output
    assert [row["global_step"] for row in history_of(tmp_path)] == list(range(5, 401, 5))
    summary = summary_of(tmp_path)
    assert (summary["status"], summary["resumed_from_step"]) == ("ok", int(resumed[1]))
    assert summary["tracking"]["run_id"] == server.run.name


def test_a_killed_training_worker_is_a_failed_run_there_too_with_all_its_rows(
    server: WandbServer, tmp_path: Path, phantom_catalog: Path
) -> None:
    with server:
        run = CliRun(tracked(tmp_path, phantom_catalog, train__max_steps=5000, train__max_worker_restarts=0))
        run.wait_for(r"^step +25 ")
        run.descendants("TrainWorker")[0].kill()
        assert run.finish() == 1
        assert (server.run.state, server.run.exit_code) == ("failed", 1)
        assert server.run.global_steps == [row["global_step"] for row in history_of(tmp_path)]
        assert server.run.summary["cause"] == "TrainWorkerDied"
    summary = summary_of(tmp_path)
    assert summary["status"] == "failed"
    assert "TrainWorkerDied" in summary["cause"]
    assert summary["checkpoint"] is not None
    assert (only_run(tmp_path) / "last.ckpt").exists()


def test_a_server_that_goes_away_costs_neither_the_run_nor_its_end(
    server: WandbServer, tmp_path: Path, phantom_catalog: Path
) -> None:
    with server:
        run = CliRun(tracked(tmp_path, phantom_catalog, train__max_steps=60, tracking__finish_timeout_s=6))
        run.wait_for(r"^step +15 ")
        server.begin_failing("drop")
        assert run.finish() == 0, run.output
        assert server.run.state == "running"
    summary = summary_of(tmp_path)
    assert (summary["status"], summary["steps_done"]) == ("ok", 60)
    assert "was not tracked (TimeoutError" in summary["tracking"]["problem"]
    assert "tracking: " in run.output
    assert [row["global_step"] for row in history_of(tmp_path)] == list(range(5, 61, 5))


def test_without_a_key_nothing_begins(
    server: WandbServer, tmp_path: Path, phantom_catalog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    with server:
        code, output = run_to_end(tracked(tmp_path, phantom_catalog))
        assert (code, server.runs) == (1, {})
    assert "TrackingError: no W&B key was found; set WANDB_API_KEY, or pass --tracking.mode offline" in output
    assert "Traceback" not in output
    assert summary_of(tmp_path)["cause"].startswith("TrackingError")
