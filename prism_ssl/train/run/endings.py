"""How an attempt ended: whether its weights can be saved, its status, and the file for its traceback."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prism_ssl.contracts import RunStatus
from prism_ssl.errors import PeerLost, PrismError, RunFolderError, RunInterrupted
from prism_ssl.train.distributed.ranks import describe


def leaves_good_weights(error: BaseException, update_is_whole: bool) -> bool:
    """Whether a checkpoint should be written after ``error``, so that no training is lost.

    Usually yes: the state between two steps is good, whatever fails elsewhere. The exceptions:

    - ``update_is_whole`` is False: the error came while the optimisers were changing weights, one after another;
    - ``RunFolderError``: the checkpoint itself could not be written;
    - ``PeerLost``: a checkpoint needs data of all workers;
    - errors that are no ``Exception``, such as a second SIGTERM: the process must end at once.
    """
    if not isinstance(error, Exception) or isinstance(error, (RunFolderError, PeerLost)):
        return False
    return update_is_whole


@contextmanager
def errors_into(notes: list[str]) -> Iterator[None]:
    """Run one part of the cleanup; its error is added to ``notes``, so that the next part still runs."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  edge of a run: added to the cause
        text = str(error) if isinstance(error, PrismError) else describe(error)
        notes.append(text.partition("\n")[0])


def status_after(error: BaseException) -> RunStatus:
    """The status of a run that ``error`` ended."""
    return "interrupted" if isinstance(error, RunInterrupted) else "failed"


def error_file(run_dir: Path, rank: int) -> Path:
    """File in which a training worker writes the traceback of an unexpected error."""
    return run_dir / (f"error-worker-{rank}.txt" if rank else "error.txt")


def write_traceback(error: BaseException, run_dir: Path, rank: int) -> None:
    """Write ``error_file``, unless ``error`` is a ``PrismError`` or the disk is full."""
    if not isinstance(error, PrismError):
        with suppress(OSError):
            error_file(run_dir, rank).write_text("".join(traceback.format_exception(error)))
