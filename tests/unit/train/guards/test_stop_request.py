"""A request to stop is heeded between two steps; another SIGTERM, 2 s later or more, ends at once."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from queue import Queue
from threading import Event, Thread
from typing import Any

import pytest

from prism_ssl.errors import RunInterrupted
from prism_ssl.train.guards import stop_request
from prism_ssl.train.guards.stop_request import StopBetweenSteps, raise_if_stop_is_requested, sigterm_as_ctrl_c


@pytest.fixture(autouse=True)
def reports(monkeypatch: pytest.MonkeyPatch) -> Iterator[Queue[Any]]:
    """Nothing is asked for yet; the queue stands for Ray's, which holds one report and whose controller takes none."""
    reports: Queue[Any] = Queue(maxsize=1)
    monkeypatch.setattr(stop_request, "_reports_to_controller", lambda: reports)
    monkeypatch.setattr(stop_request, "_requested", Event())
    monkeypatch.setattr(stop_request, "_ended", Event())
    monkeypatch.setattr(stop_request, "_begun", Event())
    before = signal.getsignal(signal.SIGTERM)
    yield reports
    signal.signal(signal.SIGTERM, before)


def test_nothing_happens_until_sigterm_which_is_heeded_at_the_next_step_and_only_a_later_one_ends_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def ends_at_once(*_: object) -> None:
        raise SystemExit(1)

    signal.signal(signal.SIGTERM, ends_at_once)
    StopBetweenSteps().after_init_train_context()
    raise_if_stop_is_requested(None)
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(RunInterrupted, match="the run was asked to stop; run the same command again"):
        raise_if_stop_is_requested(None)
    now[0] += 1.9
    signal.raise_signal(signal.SIGTERM)  # the driver passes on what the whole process group was sent
    now[0] += 0.2
    with pytest.raises(SystemExit):
        signal.raise_signal(signal.SIGTERM)


def test_whoever_asks_waits_until_the_end_is_written() -> None:
    stop_request.step_begins()
    asking = Thread(target=stop_request._stop_and_wait)
    asking.start()
    while not stop_request._requested.wait(1):
        pass
    assert asking.is_alive()
    stop_request.attempt_has_ended()
    asking.join(10)
    assert not asking.is_alive()


def test_a_loop_that_waits_to_hand_over_a_report_is_freed_and_ends(reports: Queue[Any]) -> None:
    def train() -> None:
        for number in range(3):
            reports.put(number)  # the second one waits for a controller that aborts and takes none
        stop_request.attempt_has_ended()

    stop_request.step_begins()
    loop, asking = Thread(target=train, daemon=True), Thread(target=stop_request._stop_and_wait, daemon=True)
    loop.start()
    asking.start()
    asking.join(20)
    assert not asking.is_alive()
    assert stop_request._ended.is_set()


def test_before_the_first_step_nobody_waits() -> None:
    stop_request._stop_and_wait()
    assert stop_request._requested.is_set()


@pytest.mark.parametrize("on_ctrl_c", [signal.default_int_handler, signal.SIG_IGN])
def test_sigterm_to_the_driver_is_ctrl_c_also_where_that_is_ignored_and_only_inside_the_block(on_ctrl_c: Any) -> None:
    before, interrupt = signal.getsignal(signal.SIGTERM), signal.signal(signal.SIGINT, on_ctrl_c)
    try:
        with sigterm_as_ctrl_c(), pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGINT, interrupt)
    assert signal.getsignal(signal.SIGTERM) is before


def test_outside_the_main_thread_nothing_is_changed() -> None:
    before, inside = signal.getsignal(signal.SIGTERM), []

    def enter() -> None:
        with sigterm_as_ctrl_c():
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = Thread(target=enter)
    thread.start()
    thread.join(10)
    assert inside == [before]
