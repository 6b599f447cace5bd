"""Where a run starts: at its local checkpoint, else at the one in W&B, else at step 0 (guide, section 10.3)."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import dataclass
from pathlib import Path

from prism_ssl.config.schema import PrismConfig
from prism_ssl.data.archive import Archive
from prism_ssl.data.holdout import Split
from prism_ssl.errors import CheckpointError, RunFolderError, TrackingError
from prism_ssl.records.run_files import CHECKPOINT_FILE, read_summary
from prism_ssl.train.checkpoint import ADVICE, CheckpointNote, verified_note
from prism_ssl.train.resume.tracked_checkpoint import fetch_checkpoint, find_tracked
from prism_ssl.train.run.folder import RunFolder, refuse_unknown_table
from prism_ssl.train.tracking.identity import TrackedAs, keep_tracked_as, read_tracked_as
from prism_ssl.utils.fs import atomic_file, private_folder, temporary_root


@dataclass(frozen=True)
class StartingPoint:
    """The number of steps done, the local checkpoint to load, and its origin in words.

    ``split`` is that of the checkpoint; None when an earlier version wrote the checkpoint without one.
    """

    step: int = 0
    checkpoint: Path | None = None
    source: str = ""
    split: Split | None = None


def starting_point(folder: RunFolder, config: PrismConfig) -> StartingPoint:
    """The first that exists of: last.ckpt; the tracked run's artifact ``latest``, which becomes last.ckpt; step 0.

    Raises:
        CheckpointError: the checkpoint is damaged, or that of a finished run is gone; the text names the next option.
        TrackingError: online, and the server does not answer.
    """
    if folder.checkpoint is None:
        return _from_artifact(folder.path, config)
    try:
        checkpoint = verified_note(folder.checkpoint)
    except CheckpointError as error:
        raise CheckpointError(f"{str(error).removesuffix(ADVICE)}{_next_option(folder.path, config)}") from error
    if checkpoint.tracked is not None and read_tracked_as(folder.path) is None:
        keep_tracked_as(folder.path, TrackedAs(**checkpoint.tracked))
    return StartingPoint(checkpoint.step, folder.checkpoint, str(folder.checkpoint), _split_of(checkpoint))


def _from_artifact(run_dir: Path, config: PrismConfig) -> StartingPoint:
    tracked = find_tracked(config, run_dir)
    if tracked is None:
        return _at_the_beginning(run_dir, "a run that tracks online (--tracking.mode online) also looks in W&B")
    folder = private_folder(temporary_root(config.run.tmp_root) / "wandb" / "download" / tracked.run_id)
    try:
        fetched = fetch_checkpoint(config, tracked, folder)
        if fetched is None:
            return _at_the_beginning(run_dir, f"W&B has no artifact {tracked.artifact}")
        checkpoint = _verified(fetched, tracked.artifact)
        with fetched.open("rb") as source, atomic_file(run_dir / CHECKPOINT_FILE) as target:
            shutil.copyfileobj(source, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    keep_tracked_as(run_dir, tracked)
    told = f"W&B artifact {tracked.artifact}:latest (no local last.ckpt)"
    return StartingPoint(checkpoint.step, run_dir / CHECKPOINT_FILE, told, _split_of(checkpoint))


def _at_the_beginning(run_dir: Path, why: str) -> StartingPoint:
    """Step 0; refused for a run that has finished, whose record the first step would erase."""
    summary = read_summary(run_dir)
    if summary is not None and summary.status == "ok" and summary.steps_done:
        raise CheckpointError(
            f"run {run_dir.name} has finished {summary.steps_done} steps, and to train on it needs the checkpoint of "
            f"the last one, which is not in {run_dir}; {why}; {_NEW}"
        )
    return StartingPoint()


def continued(
    archive: Archive, start: StartingPoint, folder: RunFolder, config: PrismConfig
) -> tuple[Archive, Split | None, str | None]:
    """The archive with every patient kept in training or held out as before, the run's split so far, and a message.

    The message says how the table has changed, or that this is unknown; None: it has not changed.

    Raises:
        RunFolderError: the run was trained on another table.
        BatchDoesNotFit: too few training scans are left for the workers.
    """
    if start.checkpoint is None:
        return archive, None, None
    if start.split is None:
        refuse_unknown_table(folder.path, folder.before, archive.catalog)
        return archive, Split({}, {}, proven=False), _UNPROVEN
    archive, changes = under_earlier(archive, start.split, f"run {folder.name!r}", config)
    return archive, start.split, changes


def under_earlier(
    archive: Archive, earlier: Split | None, what: str, config: PrismConfig
) -> tuple[Archive, str | None]:
    """The archive with every patient kept in training or held out as in ``earlier``; a message if the table changed.

    ``what`` names the run or sweep, such as "run 'mine'". Raises as ``continued``.
    """
    if earlier is None:
        return archive, None
    records = [scan.record for scan in itertools.chain(*archive.shards, archive.held_out)]
    if not earlier.shares_training_with(records):
        raise RunFolderError(
            f"{what} was trained on {len(earlier.training)} patients, and none of them is in {archive.catalog}: it is "
            "another table; pass the table that it began with, or choose another --run.name"
        )
    archive = archive.under(earlier, config)
    changes = archive.split.changes_since(earlier)
    return archive, changes and f"the scans have changed since {what} began: {changes}. {_KEPT}"


_KEPT = "Training patients stay in training, and held-out patients stay held out"
_UNPROVEN = (
    "an earlier version began this run and did not record its split; the held-out patients now follow from the present "
    "table. If the table has changed since, the run may have been trained on some of them"
)


def _split_of(checkpoint: CheckpointNote) -> Split | None:
    return None if checkpoint.split is None else Split.from_plain(checkpoint.split)


def _verified(fetched: Path, artifact: str) -> CheckpointNote:
    try:
        return verified_note(fetched)
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
        f"move it away to resume from the W&B artifact {tracked.artifact}:latest, if it was uploaded already, or {_NEW}"
    )


_NEW = "pass --run.name for a new run; it is never overwritten silently"
