"""What each end of an attempt means: whether its weights are good, its status, and the file for its traceback."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prism_ssl.contracts import RunStatus
from prism_ssl.errors import GpuOutOfMemory, PeerLost, PrismError, RunFolderError, RunInterrupted
from prism_ssl.train.distributed.ranks import describe


def leaves_good_weights(error: BaseException, update_is_whole: bool) -> bool:
    """Whether a checkpoint is to be written after ``error``, so that nothing trained so far is lost.

    Every error does, foreseen or not: the state between two steps is good whatever happens beside it. But for these:

    - ``update_is_whole`` is False: it came while the optimiser was changing weights. ``GpuOutOfMemory`` does no harm
      even there, since memory is asked for before a weight is touched;
    - ``RunFolderError``: a checkpoint is what could not be written;
    - ``PeerLost``: a checkpoint needs the words of all workers;
    - what is no ``Exception``, such as a second SIGTERM: it asks to end at once.
    """
    if not isinstance(error, Exception) or isinstance(error, (RunFolderError, PeerLost)):
        return False
    return update_is_whole or isinstance(error, GpuOutOfMemory)


@contextmanager
def whatever_happens(notes: list[str]) -> Iterator[None]:
    """A part of an end that must not keep the next part from happening: its error is added to ``notes``, in words."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  the edge of a run: said beside what ended it
        text = str(error) if isinstance(error, PrismError) else describe(error)
        notes.append(text.partition("\n")[0])


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
