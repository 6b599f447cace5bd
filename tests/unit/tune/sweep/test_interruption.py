"""SIGTERM to a sweep reaches the training worker below it, and no other process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tune.sweep.interruption import ask_workers_to_stop, stop_signals_end_sweep

WAITS = "import signal, sys; print(flush=True); sys.stdin.read()"


def child(title: str) -> subprocess.Popen[bytes]:
    """A process that waits, under a title as Ray gives them."""
    process = subprocess.Popen(
        [title, "-c", WAITS], executable=sys.executable, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_training_workers_are_asked_and_pool_actors_are_not() -> None:
    with child("ray::RayTrainWorker") as worker, child("ray::PoolActor") as actor:
        assert ask_workers_to_stop() == 1
        assert worker.wait(timeout=30) == -signal.SIGTERM
        assert actor.poll() is None


@pytest.fixture
def usual_ctrl_c() -> Iterator[None]:
    """Python's own answer to SIGINT, whatever an earlier test's Ray has left in its place."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_stop_signal_asks_the_worker_and_then_is_ctrl_c(usual_ctrl_c: None, number: signal.Signals) -> None:
    before, went_on = signal.getsignal(number), False
    with child("ray::RayTrainWorker") as worker:
        with stop_signals_end_sweep() as stop:
            signal.signal(signal.SIGUSR1, signal.default_int_handler)  # as Tune does
            stop.on_trial_start(iteration=0, trials=[], trial=None)
            os.kill(os.getpid(), number)
            went_on = True
        assert worker.wait(timeout=30) == -signal.SIGTERM
    assert stop.requested
    assert not went_on
    assert signal.getsignal(number) is before
