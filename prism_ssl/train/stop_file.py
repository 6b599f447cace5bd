"""A request to end early: asked by a signal to the driver or by a job script, heard by the training worker.

The request is a file, because it must reach a process that no signal is sent to. Who finds it checkpoints and ends
as ``interrupted``, so that the same command goes on from there.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EXIT_INTERRUPTED = 75
"""Exit code of a command that may simply be given again: EX_TEMPFAIL of sysexits.h."""

_SIGNALS = (signal.SIGUSR1, signal.SIGTERM)


def stop_file_of(tmp_root: Path) -> Path:
    """Where the request is made: one file for all that a SLURM job does, otherwise one for this process."""
    return tmp_root / f"stop-{os.environ.get('SLURM_JOB_ID') or os.getpid()}"


@contextmanager
def signals_ask_to_stop(stop_file: Path) -> Iterator[None]:
    """While the block lasts, SIGUSR1 and SIGTERM to this process make the request and change nothing else.

    Outside the main thread signals stay as they are. A request that this process made is gone after the block.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def ask(*_: object) -> None:
        nonlocal asked
        asked = True
        stop_file.touch()

    before = {number: signal.signal(number, ask) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if asked:
            stop_file.unlink(missing_ok=True)
