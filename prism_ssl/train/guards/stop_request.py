"""Stop between two steps on SIGTERM to the training worker, or Ctrl-C or SIGTERM to the driver."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, Queue
from threading import Event, current_thread, main_thread
from types import FrameType
from typing import Any

import ray
from ray.train.v2._internal.execution.callback import WorkerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.context import get_train_context

from prism_ssl.errors import RunInterrupted

GRACE_S = 240.0
"""Longest wait for the last step, the checkpoint and the end of the record; it ends as soon as they are written.

The largest preset writes 3.6 GB, 180 s at 20 MB/s. SLURM may kill the processes sooner (KillWait, 30 s)."""

SAME_REQUEST_S = 2.0
"""Stop signals that follow the first one sooner belong to its request: SLURM, shell and driver may each send one."""

_DISCARD_EVERY_S = 0.1
_requested, _begun, _ended = Event(), Event(), Event()


def raise_if_stop_is_requested(stop_file: Path | None) -> None:
    """Call between two steps; raises ``RunInterrupted`` after a stop signal, or when the stop file exists."""
    if _requested.is_set() or (stop_file is not None and _is_there(stop_file)):
        raise RunInterrupted("the run was asked to stop; run the same command again to resume at its last checkpoint")


def stop_is_requested() -> bool:
    """Whether a signal has asked the run to stop; Ray's controller then waits for its end and takes no reports."""
    return _requested.is_set()


def _is_there(file: Path) -> bool:
    try:
        return file.exists()
    except OSError:  # a disk that does not answer is no request
        return False


def step_begins() -> None:
    """From now on, a stop waits until the checkpoint is written."""
    _begun.set()


def attempt_has_ended() -> None:
    """Signal that everything is written."""
    _ended.set()


class StopBetweenSteps(WorkerCallback, WorkerGroupCallback):
    """Ray Train hooks: SIGTERM asks the worker to stop, and an aborted fit waits until it has stopped."""

    def __init__(self) -> None:
        self._workers: list[Any] = []

    def after_worker_group_start(self, worker_group: Any) -> None:
        """In the controller: remember the workers to ask."""
        self._workers = worker_group.get_workers()

    def after_init_train_context(self) -> None:
        """In the worker's main thread, the only one that can set a handler; a second request ends it at once."""
        before, asked_s = signal.getsignal(signal.SIGTERM), list[float]()

        def request(_number: int, _frame: FrameType | None) -> None:
            asked_s.append(time.monotonic())
            _requested.set()
            if asked_s[-1] - asked_s[0] > SAME_REQUEST_S:
                signal.signal(signal.SIGTERM, before)
                signal.raise_signal(signal.SIGTERM)

        signal.signal(signal.SIGTERM, request)

    def before_worker_group_abort(self, worker_group_context: Any) -> None:  # noqa: ARG002  Ray's signature
        """In the controller: ask the workers to stop, and wait for the checkpoint."""
        asked = [worker.execute_async(_stop_and_wait) for worker in self._workers]
        ray.wait(asked, num_returns=len(asked), timeout=GRACE_S + 5)


def _stop_and_wait() -> None:
    """In the worker's main thread, while its loop runs in another one."""
    _requested.set()
    if not _begun.is_set():  # before the first step there is nothing to save, and the start may take minutes
        return
    reports, deadline = _reports_to_controller(), time.monotonic() + GRACE_S
    while not _ended.wait(_DISCARD_EVERY_S) and time.monotonic() < deadline:
        # The controller that aborts takes no reports any more. The loop may be waiting to hand one over, and only its
        # next step notices the request.
        with suppress(Empty):
            reports.get_nowait()


def _reports_to_controller() -> Queue[Any]:
    """Ray's queue of one report, into which the loop's thread puts and from which the controller takes."""
    try:
        reports: Queue[Any] = get_train_context().get_result_queue()
    except Exception:  # noqa: BLE001  a foreign private interface: without it the end is waited for all the same
        return Queue()
    return reports


def act_as_on_ctrl_c() -> None:
    """Do what SIGINT does; raise ``KeyboardInterrupt`` where it is ignored, as in a command that a script starts with
    ``&``."""
    if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, signal.SIG_DFL):
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[Event]:
    """Inside the block, SIGTERM to this process acts like Ctrl-C; outside the main thread nothing changes.

    The block also restores the Ctrl-C handler, which Ray Train replaces and does not put back. The yielded event is set
    once SIGTERM has arrived.
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
