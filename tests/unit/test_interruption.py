"""SIGTERM to a sweep reaches the training worker below it, and no other process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tune.interruption import ask_workers_to_stop, sigterm_ends_sweep

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


def test_sigterm_asks_the_worker_and_then_is_ctrl_c(usual_ctrl_c: None) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with child("ray::RayTrainWorker") as worker:
        with pytest.raises(KeyboardInterrupt, match=r"^$"), sigterm_ends_sweep():
            os.kill(os.getpid(), signal.SIGTERM)
        assert worker.wait(timeout=30) == -signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
