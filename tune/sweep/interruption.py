"""Stop signals to a sweep (scancel, time limit): the running trial writes a checkpoint, then the sweep ends."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import ray.tune

from prism_ssl.train.guards.stop_request import SAME_REQUEST_S, act_as_on_ctrl_c

_TRAINING_WORKER = "ray::RayTrainWorker"


class SweepStop(ray.tune.Callback):
    """On SIGTERM and SIGUSR1, asks the training workers below this process to stop, then acts as on Ctrl-C.

    The workers are asked once. A later request acts as a second Ctrl-C, which ends the sweep at once.

    It is a callback of Tune, because Tune sets its own handler for SIGUSR1, which writes no checkpoint.
    """

    def __init__(self) -> None:
        self.requested = False
        self._asked_s: float | None = None

    def __getstate__(self) -> dict[str, object]:
        return {}  # Tune pickles its callbacks for its own restore

    def answer(self, *_: Any) -> None:
        """The signal handler."""
        now = time.monotonic()
        if self._asked_s is None:
            self.requested, self._asked_s = True, now
            ask_workers_to_stop()
        elif now - self._asked_s <= SAME_REQUEST_S:
            return
        act_as_on_ctrl_c()

    def on_trial_start(self, *_: Any, **__: Any) -> None:
        """Replace Tune's handler, which is set by now."""
        signal.signal(signal.SIGUSR1, self.answer)


@contextmanager
def stop_signals_end_sweep() -> Iterator[SweepStop]:
    """Inside the block, a stop signal ends the sweep as in ``SweepStop``, without an exception."""
    stop = SweepStop()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, stop.answer)
    try:
        yield stop
    except KeyboardInterrupt:
        stop.requested = True
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ask_workers_to_stop() -> int:
    """Send SIGTERM to the training workers below this process, which then stop between two steps; returns how many."""
    asked = 0
    for process in psutil.Process().children(recursive=True):
        try:
            if any(part.startswith(_TRAINING_WORKER) for part in process.cmdline()):
                process.terminate()
                asked += 1
        except psutil.NoSuchProcess:  # it has ended meanwhile
            continue
    return asked
