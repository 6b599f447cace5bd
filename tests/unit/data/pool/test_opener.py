from __future__ import annotations

from threading import Event

import numpy as np

from prism_ssl.data.pool.opener import Opened, ScanOpener
from prism_ssl.data.pool.warm_pool import Load
from prism_ssl.data.views import Scene
from tests.support.pool_fakes import noise_scan

LONG_S = 60.0
"""A limit that is never reached unless the test fails."""


class Shelf:
    """Scans by name: ``broken`` raises, ``slow`` waits for its gate, ``last`` tells that it is being opened."""

    def __init__(self) -> None:
        self.gate, self.reached_last = Event(), Event()
        self.opened = Opened(Scene(noise_scan(0), np.empty((0, 3)), None, np.empty((0, 3))))

    def open(self, scan_id: str) -> Opened:
        if scan_id == "broken":
            raise EOFError("the stream ends early")
        if scan_id == "slow":
            assert self.gate.wait(LONG_S)
        if scan_id == "last":
            self.reached_last.set()
        return self.opened


def test_an_open_scan_comes_back_with_its_order() -> None:
    shelf = Shelf()
    opener = ScanOpener(shelf.open, threads=2)
    opener.start(Load(3, "sound"))
    (landing,) = opener.finished(block_s=LONG_S)
    assert (landing.load, landing.opened, landing.error) == (Load(3, "sound"), shelf.opened, None)
    assert opener.busy == 0
    assert opener.finished() == opener.close() == []


def test_an_error_in_a_thread_is_returned_once_with_its_order() -> None:
    opener = ScanOpener(Shelf().open, threads=1)
    opener.start(Load(1, "broken"))
    (landing,) = opener.finished(block_s=LONG_S)
    assert (landing.load, landing.opened, repr(landing.error)) == (
        Load(1, "broken"),
        None,
        "EOFError('the stream ends early')",
    )
    assert opener.finished() == opener.close() == []


def test_scans_on_the_way_do_not_hold_up_those_that_landed() -> None:
    shelf = Shelf()
    opener = ScanOpener(shelf.open, threads=2)
    opener.start(Load(0, "slow"))
    assert opener.finished() == []
    opener.start(Load(1, "sound"))
    assert [landing.load.slot for landing in opener.finished(block_s=LONG_S)] == [1]
    assert opener.busy == 1
    shelf.gate.set()
    assert [landing.load.slot for landing in opener.finished(block_s=LONG_S)] == [0]
    opener.close()


def test_what_landed_together_is_reported_in_the_order_of_the_slots() -> None:
    shelf = Shelf()
    opener = ScanOpener(shelf.open, threads=1)
    for load in (Load(2, "sound"), Load(0, "broken"), Load(1, "sound"), Load(9, "last")):
        opener.start(load)
    assert shelf.reached_last.wait(LONG_S)  # one thread: the others have landed
    slots = [landing.load.slot for landing in opener.finished()]
    assert slots[:3] == [0, 1, 2]
    opener.close()


def test_closing_returns_the_errors_that_nobody_has_read() -> None:
    shelf = Shelf()
    opener = ScanOpener(shelf.open, threads=1)
    opener.start(Load(0, "broken"))
    opener.start(Load(1, "last"))
    assert shelf.reached_last.wait(LONG_S)  # one thread: the first has failed
    ends = {landing.load.slot: repr(landing.error) for landing in opener.close()}
    assert ends == {0: "EOFError('the stream ends early')", 1: "None"}
    assert opener.busy == 0


def test_closing_gives_up_a_scan_that_hangs() -> None:
    shelf = Shelf()
    opener = ScanOpener(shelf.open, threads=2)
    opener.start(Load(0, "slow"))
    opener.start(Load(1, "broken"))
    assert [landing.load.slot for landing in opener.close(limit_s=0.2)] == [1]
    shelf.gate.set()
