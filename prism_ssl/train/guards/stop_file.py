"""Stop file: created by a job script or by SIGUSR1 to the driver; the run stops between two steps.

A file reaches the training workers of a run, or of a whole sweep, without a signal to any of them.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prism_ssl.utils.stop_signals import note_stop


def stop_file_of(tmp_root: Path) -> Path:
    """Path of the stop file: one for everything in a SLURM job, otherwise one for this process."""
    return tmp_root / f"stop-{os.environ.get('SLURM_JOB_ID') or os.getpid()}"


@contextmanager
def sigusr1_asks_to_stop(stop_file: Path) -> Iterator[None]:
    """Inside the block, SIGUSR1 to this process creates the stop file and does nothing else.

    Outside the main thread, signals stay as they are. A stop file that this process created is removed after the block.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def ask(*_: object) -> None:
        nonlocal asked
        asked = True
        note_stop()
        stop_file.touch()

    before = signal.signal(signal.SIGUSR1, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)
        if asked:
            stop_file.unlink(missing_ok=True)
