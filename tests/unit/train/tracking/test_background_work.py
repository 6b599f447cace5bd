"""Work beside the training is never waited for, one at a time, and its errors are read."""

from __future__ import annotations

import threading

from prism_ssl.train.tracking.background_work import BackgroundWork


def test_a_second_job_is_refused_while_the_first_is_at_work() -> None:
    work, go = BackgroundWork("upload"), threading.Event()
    done: list[int] = []

    def first() -> None:
        assert go.wait(10)
        done.append(1)

    assert work.offer(first)
    assert not work.offer(lambda: done.append(2))
    assert not work.wait(0.0)
    go.set()
    assert work.wait(10)
    assert work.offer(lambda: done.append(3))
    assert work.wait(10)
    assert done == [1, 3]


def test_what_a_job_raises_is_told_once_and_the_next_job_runs() -> None:
    work = BackgroundWork("upload")

    def fails() -> None:
        raise ValueError("no space left")

    for _ in range(2):
        assert work.offer(fails)
        assert work.wait(10)
    assert work.errors() == ["ValueError: no space left"] * 2
    assert work.errors() == []


def test_no_job_is_nothing_to_wait_for() -> None:
    assert BackgroundWork("upload").wait(0.0)


def test_a_job_never_keeps_the_process_alive() -> None:
    work, go = BackgroundWork("upload"), threading.Event()
    work.offer(lambda: _wait(go))
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "upload")
    assert thread.daemon
    go.set()
    assert work.wait(10)


def _wait(event: threading.Event) -> None:
    event.wait(10)
