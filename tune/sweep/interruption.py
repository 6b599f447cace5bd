"""Stop signals to a sweep (scancel, a time limit): its trial writes a checkpoint, and the sweep ends as on Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import ray.tune

from prism_ssl.train.guards.stop_request import act_as_on_ctrl_c

_TRAINING_WORKER = "ray::RayTrainWorker"


class SweepStop(ray.tune.Callback):
    """Answers SIGTERM and SIGUSR1: asks the training workers below this process to stop, then acts as on Ctrl-C.

    A callback of Tune, because Tune sets an answer of its own to SIGUSR1, under which no checkpoint is written.
    """

    def __init__(self) -> None:
        self.requested = False

    def __getstate__(self) -> dict[str, object]:
        return {}  # Tune saves its callbacks for a restore of its own

    def answer(self, *_: Any) -> None:
        """Of a signal handler."""
        self.requested = True
        ask_workers_to_stop()
        act_as_on_ctrl_c()

    def on_trial_start(self, *_: Any, **__: Any) -> None:
        """Tune has set its handlers by now."""
        signal.signal(signal.SIGUSR1, self.answer)


@contextmanager
def stop_signals_end_sweep() -> Iterator[SweepStop]:
    """While the block lasts, a stop signal ends the sweep as ``SweepStop`` says, and is no exception."""
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
