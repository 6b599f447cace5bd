"""SIGTERM to a sweep (scancel, a time limit): its trial writes a checkpoint, and the sweep ends as on Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import psutil

from prism_ssl.train.stop_request import act_as_on_ctrl_c

_TRAINING_WORKER = "ray::RayTrainWorker"


@contextmanager
def sigterm_ends_sweep() -> Iterator[None]:
    """While the block lasts, SIGTERM asks the training workers below this process to stop, and then is Ctrl-C."""

    def end(_number: int, _frame: FrameType | None) -> None:
        ask_workers_to_stop()
        act_as_on_ctrl_c()

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def ask_workers_to_stop() -> int:
    """SIGTERM to the training workers below this process, which they heed between two steps; returns how many."""
    asked = 0
    for process in psutil.Process().children(recursive=True):
        try:
            if any(part.startswith(_TRAINING_WORKER) for part in process.cmdline()):
                process.terminate()
                asked += 1
        except psutil.NoSuchProcess:  # it has ended meanwhile
            continue
    return asked
