"""Where a run goes on: every leg of the order tried with the real client and a server on the loopback."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from prism_ssl.config.defaults import apply_overrides, core24_smoke
from prism_ssl.config.schema import PrismConfig
from prism_ssl.config.tracking_environment import settled
from prism_ssl.contracts import RunStatus, RunSummary
from prism_ssl.errors import CheckpointError, TrackingError
from prism_ssl.records.run_files import write_summary
from prism_ssl.train.checkpoint import Checkpoint, checkpoint_step, rng_state, save_checkpoint
from prism_ssl.train.logging import start_tracker
from prism_ssl.train.resume.starting_point import StartingPoint, starting_point
from prism_ssl.train.run.folder import RunFolder, claim_run_folder, identity
from prism_ssl.train.tracking.identity import read_tracked_as
from tests.integration.test_tracking import end, settings
from tests.support.wandb_server import WandbServer
from tune.sweep.folder import Sweep
from tune.sweep.trial import drop_uploaded_checkpoint, drop_uploaded_checkpoints


def claimed(config: PrismConfig) -> RunFolder:
    folder = claim_run_folder(config)
    folder.release()
    return folder


def save(folder: RunFolder, config: PrismConfig, step: int) -> Path:
    return save_checkpoint(folder.path, state_after(config, step))


def state_after(config: PrismConfig, step: int) -> Checkpoint:
    state = {"network": {"w": torch.full((4,), float(step))}}
    return Checkpoint(step, state, [], rng_state(), identity(config))


def uploaded(config: PrismConfig, step: int = 10) -> RunFolder:
    """A run that was tracked, uploaded its checkpoint of ``step``, and failed."""
    folder = claimed(config)
    tracker = start_tracker(config, folder.path, 0)
    tracker.row(step, {"loss/total": 1.0})
    tracker.checkpoint(save(folder, config, step), step)
    end(tracker, folder.path, "failed", "RunInterrupted: ...")
    return claimed(config)


def artifact_file(server: WandbServer) -> str:
    (key,) = (key for key in server.blobs if key.endswith("last.ckpt"))
    return key


def test_the_local_checkpoint_comes_first(wandb_server: WandbServer, tmp_path: Path) -> None:
    config = settings(tmp_path)
    folder = uploaded(config)
    path = save(folder, config, 12)
    before = len(wandb_server.received)
    assert starting_point(folder, config) == StartingPoint(12, path, str(path))
    assert len(wandb_server.received) == before


def test_a_checkpoint_knows_its_tracked_run_when_the_folder_does_not(wandb_server: WandbServer, tmp_path: Path) -> None:
    config = settings(tmp_path)
    folder = uploaded(config)
    tracked = read_tracked_as(folder.path)
    assert tracked is not None
    save_checkpoint(folder.path, dataclasses.replace(state_after(config, 12), tracked=dataclasses.asdict(tracked)))
    (folder.path / "tracking.json").unlink()
    assert starting_point(claimed(config), config).step == 12
    assert read_tracked_as(folder.path) == tracked


@pytest.mark.parametrize(("done", "stays"), [(10, False), (12, True)])
def test_a_finished_trial_drops_its_checkpoint_only_when_the_server_has_that_very_one(
    wandb_server: WandbServer, tmp_path: Path, done: int, stays: bool
) -> None:
    config = settings(tmp_path)
    folder = uploaded(config)
    path = save(folder, config, done)
    drop_uploaded_checkpoint(
        RunSummary("mine", "ok", None, done, done, None, str(folder.path), checkpoint=str(path)), config
    )
    assert path.exists() == stays


def test_a_later_trial_drops_the_checkpoints_of_finished_ones_that_were_uploaded_meanwhile(
    wandb_server: WandbServer, tmp_path: Path
) -> None:
    tracking = {"tracking.mode": "online", "run.root": str(tmp_path / "runs"), "run.tmp_root": str(tmp_path / "tmp")}
    base = apply_overrides(core24_smoke(), tracking)
    sweep = Sweep(base, "smoke", "half", tracking=settled(base.tracking))
    ends: list[RunStatus] = ["ok", "failed", "ok"]
    kept = {}
    for point, status in zip(sweep.points[:3], ends, strict=True):
        config = sweep.config(point)
        folder = uploaded(config)
        kept[point] = save(folder, config, 10)
        write_summary(RunSummary(point.name, status, None, 10, 10, None, str(folder.path), checkpoint=str(kept[point])))
    (sweep.run_dir(sweep.points[2]) / "tracking.json").unlink()  # W&B does not have this one
    drop_uploaded_checkpoints(sweep)
    assert [path.exists() for path in kept.values()] == [False, True, True]
    summary = sweep.summary(sweep.points[0])
    assert summary is not None
    assert summary.checkpoint is None


def test_without_it_the_artifact_is_fetched_and_verified(wandb_server: WandbServer, tmp_path: Path) -> None:
    config = settings(tmp_path)
    folder = uploaded(config)
    (folder.path / "last.ckpt").unlink()
    start = starting_point(claimed(config), config)
    assert (start.step, start.checkpoint) == (10, folder.path / "last.ckpt")
    assert start.source.startswith(f"W&B artifact checkpoint-{wandb_server.run.name}:latest")
    assert checkpoint_step(folder.path / "last.ckpt") == 10
    assert not list((tmp_path / "tmp").rglob("last.ckpt"))


def test_the_artifact_is_found_again_when_the_whole_folder_was_lost(wandb_server: WandbServer, tmp_path: Path) -> None:
    config = settings(tmp_path)
    shutil.rmtree(uploaded(config).path)
    folder = claimed(config)
    assert starting_point(folder, config).step == 10
    tracker = start_tracker(config, folder.path, 10)
    tracker.row(20, {"loss/total": 0.5})
    end(tracker, folder.path)
    assert (wandb_server.run.global_steps, wandb_server.run.state) == ([10, 20], "finished")


@pytest.mark.parametrize("change", ["other settings", "finished", "still running"])
def test_a_lost_folder_is_not_taken_for_another_run(wandb_server: WandbServer, tmp_path: Path, change: str) -> None:
    config = settings(tmp_path, run__name="mine")
    shutil.rmtree(uploaded(config).path)
    if change == "other settings":
        config = settings(tmp_path, run__name="mine", train__lr=0.5)
    else:
        wandb_server.run.state = "finished" if change == "finished" else "running"
    assert starting_point(claimed(config), config) == StartingPoint()


@pytest.mark.parametrize("overrides", [{}, {"tracking__mode": "offline"}, {"tracking__mode": "disabled"}])
def test_with_neither_the_run_starts_at_step_0(wandb_server: WandbServer, tmp_path: Path, overrides: Any) -> None:
    config = settings(tmp_path, **overrides)
    assert starting_point(claimed(config), config) == StartingPoint()
    assert wandb_server.runs == {}


def test_a_tracked_run_without_an_artifact_starts_at_step_0(wandb_server: WandbServer, tmp_path: Path) -> None:
    config = settings(tmp_path)
    end(start_tracker(config, claimed(config).path, 0), claimed(config).path, "failed", "killed")
    assert starting_point(claimed(config), config) == StartingPoint()


@pytest.mark.parametrize(("mode", "hint"), [("offline", "--tracking.mode online"), ("online", "has no artifact")])
def test_a_finished_run_without_its_checkpoint_never_begins_anew(
    wandb_server: WandbServer, tmp_path: Path, mode: str, hint: str
) -> None:
    config = settings(tmp_path, run__name="mine")
    folder = claimed(config)
    end(start_tracker(config, folder.path, 0), folder.path)
    write_summary(RunSummary("mine", "ok", None, 10, 10, None, str(folder.path)))
    longer = settings(tmp_path, run__name="mine", train__max_steps=20, tracking__mode=mode)
    with pytest.raises(CheckpointError, match=f"finished 10 steps.*{hint}.*never overwritten"):
        starting_point(claimed(longer), longer)


def test_a_damaged_local_checkpoint_is_an_error_that_names_it_and_the_artifact(
    wandb_server: WandbServer, tmp_path: Path
) -> None:
    config = settings(tmp_path)
    folder = uploaded(config)
    (folder.path / "last.ckpt").write_bytes(b"half a checkp")
    match = (
        rf"{folder.path}/last\.ckpt is damaged .*; move it away to resume from the W&B artifact checkpoint-.*:latest"
    )
    with pytest.raises(CheckpointError, match=match):
        starting_point(folder, config)
    (folder.path / "last.ckpt").rename(folder.path / "last.ckpt.damaged")
    assert starting_point(claimed(config), config).step == 10


def test_a_damaged_local_checkpoint_without_tracking_names_step_0(tmp_path: Path) -> None:
    config = settings(tmp_path, tracking__mode="disabled")
    (claimed(config).path / "last.ckpt").write_bytes(b"")
    with pytest.raises(
        CheckpointError, match=r"last\.ckpt is damaged .*; move it away to start at step 0, or pass --run"
    ):
        starting_point(claimed(config), config)


@pytest.mark.parametrize("damaged", ["on the server", "before it was uploaded"])
def test_a_damaged_artifact_is_an_error_and_leaves_no_checkpoint(
    wandb_server: WandbServer, tmp_path: Path, damaged: str
) -> None:
    config = settings(tmp_path)
    if damaged == "on the server":
        folder = uploaded(config)
        other = save(folder, config, 11).read_bytes()  # a whole checkpoint, but not the one that was uploaded
        wandb_server.blobs[artifact_file(wandb_server)] = other
    else:
        folder = claimed(config)
        tracker = start_tracker(config, folder.path, 0)
        (folder.path / "last.ckpt").write_bytes(b"half a checkp")
        tracker.checkpoint(folder.path / "last.ckpt", 10)
        end(tracker, folder.path, "failed", "killed")
    (folder.path / "last.ckpt").unlink()
    with pytest.raises(CheckpointError, match=r"artifact .* is damaged .*; pass --run.name for a new run"):
        starting_point(claimed(config), config)
    assert not (folder.path / "last.ckpt").exists()


def test_a_server_that_is_away_is_no_reason_to_start_at_step_0(wandb_server: WandbServer, tmp_path: Path) -> None:
    config = settings(tmp_path, tracking__init_timeout_s=2.0)
    folder = uploaded(config)
    (folder.path / "last.ckpt").unlink()
    wandb_server.begin_failing("drop")
    with pytest.raises(TrackingError, match="W&B cannot be used"):
        starting_point(claimed(config), config)
