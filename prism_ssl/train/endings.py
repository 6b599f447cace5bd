"""What each end of an attempt means: whether its weights are good, its status, and the file for its traceback."""

from __future__ import annotations

import traceback
from contextlib import suppress
from pathlib import Path

from prism_ssl.contracts import RunStatus
from prism_ssl.errors import (
    ArchiveUnreachable,
    GpuOutOfMemory,
    PoolActorDied,
    PoolStalled,
    PrismError,
    ReplacementFailed,
    RunInterrupted,
    TooManyBrokenScans,
)

_GOOD_WEIGHTS = (
    ReplacementFailed, PoolActorDied, PoolStalled, TooManyBrokenScans, ArchiveUnreachable, GpuOutOfMemory,
    RunInterrupted,
)  # fmt: skip


def leaves_good_weights(error: BaseException) -> bool:
    """Whether the weights are good after ``error``: a checkpoint is then written, so that nothing trained is lost."""
    return isinstance(error, _GOOD_WEIGHTS)


def status_after(error: BaseException) -> RunStatus:
    """How a run has ended that ``error`` ended."""
    return "interrupted" if isinstance(error, RunInterrupted) else "failed"


def error_file(run_dir: Path, rank: int) -> Path:
    """Where a training worker writes the traceback of an error that nobody foresaw."""
    return run_dir / (f"error-worker-{rank}.txt" if rank else "error.txt")


def write_traceback(error: BaseException, run_dir: Path, rank: int) -> None:
    """Write ``error_file``, unless ``error`` is one of the project's own or the disk is full."""
    if not isinstance(error, PrismError):
        with suppress(OSError):
            error_file(run_dir, rank).write_text("".join(traceback.format_exception(error)))
