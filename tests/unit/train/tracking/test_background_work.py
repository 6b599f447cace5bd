"""Work beside the training is never waited for, one at a time, and its errors are read."""

from __future__ import annotations

import threading
from functools import partial

from prism_ssl.train.tracking.background_work import BackgroundWork


def test_of_the_jobs_offered_meanwhile_the_newest_runs_and_the_others_are_released() -> None:
    work, go = BackgroundWork("upload"), threading.Event()
    done: list[int] = []
    released: list[int] = []

    def first() -> None:
        assert go.wait(10)
        done.append(1)

    work.offer(first, lambda: released.append(1))
    for number in (2, 3):
        work.offer(partial(done.append, number), partial(released.append, number))
    assert not work.wait(0.0)
    assert released == [2]
    go.set()
    assert work.wait(10)
    work.offer(lambda: done.append(4), lambda: released.append(4))
    assert work.wait(10)
    assert (done, released) == ([1, 3, 4], [2])


def test_what_a_job_raises_is_told_once_and_the_next_job_runs() -> None:
    work = BackgroundWork("upload")

    def fails() -> None:
        raise ValueError("no space left")

    for _ in range(2):
        work.offer(fails, lambda: None)
        assert work.wait(10)
    assert work.errors() == ["ValueError: no space left"] * 2
    assert work.errors() == []


def test_no_job_is_nothing_to_wait_for() -> None:
    assert BackgroundWork("upload").wait(0.0)


def test_a_job_never_keeps_the_process_alive() -> None:
    work, go = BackgroundWork("upload"), threading.Event()
    work.offer(lambda: _wait(go), lambda: None)
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "upload")
    assert thread.daemon
    go.set()
    assert work.wait(10)


def _wait(event: threading.Event) -> None:
    event.wait(10)
