"""A request to stop, heeded between two steps: SIGTERM to the training worker, Ctrl-C or SIGTERM to the driver."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, current_thread, main_thread
from types import FrameType
from typing import Any

import ray
from ray.train.v2._internal.execution.callback import WorkerCallback, WorkerGroupCallback

from prism_ssl.errors import RunInterrupted

GRACE_S = 240.0
"""Most time for the last step, the checkpoint and the end of the record; nobody waits once they are written.

The largest preset writes 3.6 GB, 180 s at 20 MB/s. Where SLURM kills sooner (KillWait, 30 s), it does so by itself."""

_requested, _begun, _ended = Event(), Event(), Event()


def raise_if_stop_is_requested(stop_file: Path | None) -> None:
    """To be called between two steps; raises ``RunInterrupted`` when asked by a signal or by a file that is there."""
    if _requested.is_set() or (stop_file is not None and _is_there(stop_file)):
        raise RunInterrupted("the run was asked to stop; the same command goes on from its checkpoint, if it has one")


def stop_is_requested() -> bool:
    """Whether a signal has asked for the end; Ray's controller then waits for it, and takes no report meanwhile."""
    return _requested.is_set()


def _is_there(file: Path) -> bool:
    try:
        return file.exists()
    except OSError:  # a disk that does not answer asks for nothing
        return False


def step_begins() -> None:
    """From now on there is something to lose: whoever asks for the end waits until it is written."""
    _begun.set()


def attempt_has_ended() -> None:
    """Tell those who wait for the end that everything is written."""
    _ended.set()


class StopBetweenSteps(WorkerCallback, WorkerGroupCallback):
    """Ray Train's hooks: in the worker SIGTERM becomes a request, and an aborted fit waits until it was heeded."""

    def __init__(self) -> None:
        self._workers: list[Any] = []

    def after_worker_group_start(self, worker_group: Any) -> None:
        """In the controller: remember whom to ask."""
        self._workers = worker_group.get_workers()

    def after_init_train_context(self) -> None:
        """In the worker's main thread, where alone a handler can be set; a second SIGTERM ends at once."""
        before = signal.getsignal(signal.SIGTERM)

        def request(_number: int, _frame: FrameType | None) -> None:
            _requested.set()
            signal.signal(signal.SIGTERM, before)

        signal.signal(signal.SIGTERM, request)

    def before_worker_group_abort(self, worker_group_context: Any) -> None:  # noqa: ARG002  Ray's signature
        """In the controller: ask, and wait for the checkpoint."""
        asked = [worker.execute_async(_stop_and_wait) for worker in self._workers]
        ray.wait(asked, num_returns=len(asked), timeout=GRACE_S + 5)


def _stop_and_wait() -> None:
    _requested.set()
    if _begun.is_set():  # before the first step nothing is lost, and the start may take minutes
        _ended.wait(GRACE_S)


def act_as_on_ctrl_c() -> None:
    """What SIGINT would do here; ``KeyboardInterrupt`` where it is ignored, as in what a job script runs with ``&``."""
    if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, signal.SIG_DFL):
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[Event]:
    """While the block lasts, SIGTERM to this process is what Ctrl-C is; nothing changes outside the main thread.

    After it Ctrl-C is what it was before, too: Ray Train sets an answer of its own, and leaves it there. The event that
    is given is set once SIGTERM has come.
    """
    asked = Event()
    if current_thread() is not main_thread():
        yield asked
        return

    def answer(*_: object) -> None:
        asked.set()
        act_as_on_ctrl_c()

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, answer)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
