"""Where a run goes on: at its local checkpoint, else at the tracked one, else at step 0 (guide, section 10.3)."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from prism_ssl.config.schema import PrismConfig
from prism_ssl.errors import CheckpointError, TrackingError
from prism_ssl.train.checkpoint import ADVICE, checkpoint_step, load_checkpoint
from prism_ssl.train.local_record import CHECKPOINT_FILE
from prism_ssl.train.run_folder import RunFolder
from prism_ssl.train.tracked_checkpoint import fetch_checkpoint, find_tracked
from prism_ssl.train.tracking_identity import TrackedAs, keep_tracked_as, read_tracked_as
from prism_ssl.utils.fs import atomic_file, private_folder, temporary_root


@dataclass(frozen=True)
class StartingPoint:
    """The step that is done already, the local checkpoint to load, and where it came from in words."""

    step: int = 0
    checkpoint: Path | None = None
    source: str = ""


def starting_point(folder: RunFolder, config: PrismConfig) -> StartingPoint:
    """The first that there is of: last.ckpt; the tracked run's artifact ``latest``, which becomes last.ckpt; step 0.

    Raises:
        CheckpointError: there is one, and it is damaged; the text names it and the next option.
        TrackingError: online, and the server does not answer.
    """
    if folder.checkpoint is None:
        return _from_artifact(folder.path, config)
    try:
        checkpoint = load_checkpoint(folder.checkpoint, torch.device("cpu"))
    except CheckpointError as error:
        raise CheckpointError(f"{str(error).removesuffix(ADVICE)}{_next_option(folder.path, config)}") from error
    if checkpoint.tracked is not None and read_tracked_as(folder.path) is None:
        keep_tracked_as(folder.path, TrackedAs(**checkpoint.tracked))
    return StartingPoint(checkpoint.step, folder.checkpoint, str(folder.checkpoint))


def _from_artifact(run_dir: Path, config: PrismConfig) -> StartingPoint:
    tracked = find_tracked(config, run_dir)
    if tracked is None:
        return StartingPoint()
    folder = private_folder(temporary_root(config.run.tmp_root) / "wandb" / "download" / tracked.run_id)
    try:
        fetched = fetch_checkpoint(config, tracked, folder)
        if fetched is None:
            return StartingPoint()
        step = _verified_step(fetched, tracked.artifact)
        with fetched.open("rb") as source, atomic_file(run_dir / CHECKPOINT_FILE) as target:
            shutil.copyfileobj(source, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    keep_tracked_as(run_dir, tracked)
    return StartingPoint(
        step, run_dir / CHECKPOINT_FILE, f"W&B artifact {tracked.artifact}:latest (no local last.ckpt)"
    )


def _verified_step(fetched: Path, artifact: str) -> int:
    try:
        return checkpoint_step(fetched)
    except CheckpointError as error:
        what = str(error).removesuffix(f"; {ADVICE}").replace(str(fetched), "its file")
        raise CheckpointError(f"the W&B artifact {artifact}:latest is damaged ({what}); {_NEW}") from error


def _next_option(run_dir: Path, config: PrismConfig) -> str:
    try:
        tracked = find_tracked(config, run_dir)
    except TrackingError:
        tracked = None
    if tracked is None:
        return ADVICE
    return (
        f"move it away to go on from the W&B artifact {tracked.artifact}:latest, if it was uploaded already, or {_NEW}"
    )


_NEW = "pass --run.name for a new run; it is never overwritten silently"
