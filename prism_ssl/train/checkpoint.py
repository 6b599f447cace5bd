"""Write, read and verify last.ckpt, which holds everything a run needs to resume."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prism_ssl.errors import CheckpointError
from prism_ssl.records.run_files import CHECKPOINT_FILE
from prism_ssl.utils.fs import atomic_file

_FORMAT = 1
_ZIP_FOLDER = 0x10
_PLAIN_VALUES = "data.pkl"


@dataclass
class Checkpoint:
    """State after ``step`` steps. ``learner`` is ``Learner.state``; ``cursors`` has one entry per pool actor.

    ``config_hash`` covers the settings that must not change between an interruption and its resume. ``tracked`` is the
    tracked run that the training belongs to, as in ``tracking.json``; None without one. ``split`` is ``holdout.Split``
    in plain values: the patients trained on so far, and those held out. ``totals`` are the run's totals so far:
    ``counters`` (see ``train.run.totals``) and ``times`` (``StepTimes.state``). Both are None in checkpoints of
    versions that did not keep them; the totals then begin at the resume.
    """

    step: int
    learner: dict[str, Any]
    cursors: list[dict[str, Any] | None]
    rng: dict[str, Any]
    config_hash: str
    tracked: dict[str, Any] | None = None
    split: dict[str, Any] | None = None
    totals: dict[str, Any] | None = None


def rng_state() -> dict[str, Any]:
    """State of the global generators that training draws from; views have their own generators, seeded by name."""
    # only the worker's own GPU: reading the state of other GPUs would allocate memory on each
    return {"cpu": torch.get_rng_state(), "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []}


def restore_rng(state: dict[str, Any]) -> None:
    """The inverse of ``rng_state``."""
    # Loading may have moved the states to the GPU; torch takes them from host memory only.
    torch.set_rng_state(state["cpu"].cpu())
    if torch.cuda.is_available() and state["cuda"]:
        torch.cuda.set_rng_state(state["cuda"][0].cpu())


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write last.ckpt atomically, so that a failure keeps the previous one; returns its path."""
    path = folder / CHECKPOINT_FILE
    with atomic_file(path) as file:
        torch.save({"format": _FORMAT, **vars(checkpoint)}, file)
    return path


def load_checkpoint(path: Path, device: torch.device) -> Checkpoint:
    """Read last.ckpt: tensors and plain values only; no code in it is run.

    Raises:
        CheckpointError: the file is damaged, of another format, or holds code.
    """
    verify_checkpoint_file(path)  # torch ignores the checksums: a flipped bit would become a weight
    return _read(path, map_location=device)


@dataclass(frozen=True)
class CheckpointNote:
    """The fields of a checkpoint that can be read without its tensors; see ``Checkpoint``."""

    step: int
    tracked: dict[str, Any] | None
    split: dict[str, Any] | None


def verified_note(path: Path) -> CheckpointNote:
    """Verify the whole file and return its ``CheckpointNote``; raises as ``load_checkpoint``."""
    verify_checkpoint_file(path)
    return _note(path)


def checkpoint_step(path: Path) -> int:
    """The step at which a checkpoint was written. Its tensors are not read, so they may be damaged.

    Raises as ``load_checkpoint``, except for damaged tensors.
    """
    with _damage_named(path), zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.filename.endswith(_PLAIN_VALUES):
                archive.read(entry)  # checks its checksum
    return _note(path).step


def verify_checkpoint_file(path: Path) -> None:
    """Check the file's own checksums without torch; raises ``CheckpointError``."""
    with _damage_named(path), zipfile.ZipFile(path) as archive:
        # torch takes an entry marked as a folder for empty, and returns uninitialised memory
        folders = (entry.filename for entry in archive.infolist() if entry.external_attr & _ZIP_FOLDER)
        damaged = archive.testzip() or next(folders, None)
    if damaged:
        raise CheckpointError(f"{path} is damaged: the checksum or the header of {damaged} is wrong; {ADVICE}")


def _note(path: Path) -> CheckpointNote:
    told = _read(path, map_location="cpu", mmap=True)  # maps the tensors without reading them
    return CheckpointNote(told.step, told.tracked, told.split)


def _read(path: Path, **how: Any) -> Checkpoint:
    try:
        with warnings.catch_warnings():
            # Of a damaged file; it is refused below, or says the right step.
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            state = torch.load(path, weights_only=True, **how)
        if state.pop("format") != _FORMAT:
            raise CheckpointError(f"{path} has another format than this version writes ({_FORMAT}); {ADVICE}")
        return Checkpoint(**state)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and plain values, and code in it is never run; {ADVICE}"
        ) from error
    except (RuntimeError, EOFError, KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} does not load ({type(error).__name__}: {error}); {ADVICE}") from error


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is damaged ({type(error).__name__}: {error}); {ADVICE}") from error


ADVICE = "move it away to start at step 0, or pass --run.name for a new run; it is never overwritten silently"
"""The end of every error text about a checkpoint."""
