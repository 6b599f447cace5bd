"""Trials that could not speak for themselves, in front of the real client and a server on the loopback."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console

from prism_ssl.config.defaults import apply_overrides, core24_smoke
from prism_ssl.config.operations import TrackingMode
from prism_ssl.records.run_files import read_summary
from prism_ssl.train.record.driver_summary import record_unfinished
from prism_ssl.utils.fs import private_folder
from tests.support.wandb_server import WandbServer
from tune.sweep.folder import Sweep
from tune.sweep.wandb_callback import WandbTrials

CAUSE = "ActorDiedError: the process of the trial died; see /tmp/logs/worker 1.err"


def dead_trial(root: Path, mode: TrackingMode, timeout_s: float = 90.0) -> Sweep:
    """A sweep whose first trial died before its worker was there."""
    places = {"run.root": str(root / "runs"), "run.tmp_root": str(root / "tmp"), "tracking.init_timeout_s": timeout_s}
    base = apply_overrides(core24_smoke(), places)
    sweep = Sweep(base, "smoke", "half", tracking=dataclasses.replace(base.tracking, mode=mode))
    record_unfinished(private_folder(sweep.run_dir(sweep.points[0])), sweep.config(sweep.points[0]), "failed", CAUSE)
    return sweep


def tell(sweep: Sweep) -> str:
    """What the callback says on the console."""
    output = io.StringIO()
    WandbTrials(sweep, Console(file=output, width=400)).tell_end(sweep.points[0])
    return output.getvalue()


def test_a_trial_that_never_spoke_gets_a_run_of_its_own_marked_failed(
    wandb_server: WandbServer, tmp_path: Path
) -> None:
    sweep = dead_trial(tmp_path, "online")
    assert tell(sweep) == ""
    run, point = wandb_server.run, sweep.points[0]
    assert (run.state, run.exit_code) == ("failed", 1)
    assert run.fields["displayName"] == point.name
    assert run.fields["groupName"] == sweep.name
    assert run.fields["tags"] == ["core24", "smoke", "regression"]
    assert run.settings["train.batch_size"] == 4
    assert {key: run.settings[f"design/{key.rpartition('.')[2]}"] for key in point.levels} == point.levels
    assert run.summary["trial/status"] == "failed"
    assert run.summary["trial/error"] == "ActorDiedError: the process of the trial died; see <path> 1.err"
    summary = read_summary(sweep.run_dir(point))
    assert summary is not None
    assert summary.tracking["run_id"] == run.name
    assert not wandb_server.holding(str(tmp_path))


def test_telling_the_end_again_makes_no_second_run(wandb_server: WandbServer, tmp_path: Path) -> None:
    sweep = dead_trial(tmp_path, "online")
    tell(sweep)
    assert tell(sweep) == ""
    assert len(wandb_server.runs) == 1
    assert wandb_server.run.state == "failed"


def test_offline_it_is_written_to_disk_and_nothing_is_sent(wandb_server: WandbServer, tmp_path: Path) -> None:
    sweep = dead_trial(tmp_path, "offline")
    assert tell(sweep) == ""
    summary = read_summary(sweep.run_dir(sweep.points[0]))
    assert summary is not None
    assert list(Path(summary.tracking["files"]).glob("*.wandb"))
    assert wandb_server.received == []


def test_a_server_that_does_not_answer_is_said_and_ends_nothing(
    wandb_server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    sweep = dead_trial(tmp_path, "online", timeout_s=3.0)
    assert f"trial {sweep.points[0].name} is not fully tracked (TrackingError: W&B cannot be used" in tell(sweep)
