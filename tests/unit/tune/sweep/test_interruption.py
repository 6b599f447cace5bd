"""SIGTERM to a sweep reaches the training worker below it, and no other process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tune.sweep.interruption import ask_workers_to_stop, stop_signals_end_sweep

WAITS = "import signal, sys; print(flush=True); sys.stdin.read()"
COUNTS = """
import signal, sys
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
print(flush=True)
sys.stdin.read()
sys.exit(len(asked))
"""


def child(title: str, does: str = WAITS) -> subprocess.Popen[bytes]:
    """A process that waits, under a title as Ray gives them."""
    process = subprocess.Popen(
        [title, "-c", does], executable=sys.executable, stdin=subprocess.PIPE, stdout=subprocess.PIPE
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


def test_signals_of_one_request_are_one_and_the_worker_is_asked_once(
    usual_ctrl_c: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, ends = [100.0], 0
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with child("ray::RayTrainWorker", COUNTS) as worker, stop_signals_end_sweep():
        for later_s in (0.0, 1.9, 0.2):
            now[0] += later_s
            try:
                signal.raise_signal(signal.SIGTERM)
            except KeyboardInterrupt:
                ends += 1
        worker.communicate()
    assert (ends, worker.returncode) == (2, 1)
