"""The guard never makes a step wait, says what it did, and nothing that happens in its thread is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue

import pytest

from prism_ssl.config.operations import QuotaConfig
from prism_ssl.errors import QuotaExceeded
from prism_ssl.train.guards.deletable_files import Places
from prism_ssl.train.quota_guard import QuotaGuard, admit
from prism_ssl.utils.disk_usage import DiskUsage, disk_usage

LIMITS = QuotaConfig(home_soft_bytes=1000, home_hard_bytes=2000, tmp_min_free_bytes=0, check_every_s=1e-3)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path, tmp_path, tmp_path / "runs")


class Disk:
    """A home whose next readings a test hands in; measuring it waits for them."""

    def __init__(self) -> None:
        self.readings: Queue[DiskUsage | Exception] = Queue()
        self.asked: Queue[None] = Queue()

    def __call__(self, folder: Path, keep_going: Callable[[], bool]) -> DiskUsage:
        self.asked.put(None)
        reading = self.readings.get()
        if isinstance(reading, Exception):
            raise reading
        return reading

    def holds(self, reading: DiskUsage | Exception) -> None:
        """Serve a reading, and return once the guard has judged it and asks for the next."""
        self.asked.get(timeout=30)
        self.readings.put(reading)
        self.asked.get(timeout=30)
        self.asked.put(None)


def await_the_thread() -> None:
    for thread in threading.enumerate():
        if thread.name == "quota-guard":
            thread.join(30)
            assert not thread.is_alive()


@contextmanager
def guarded(places: Places, disk: Disk) -> Iterator[QuotaGuard]:
    guard = QuotaGuard(LIMITS, places, disk)
    guard.start()
    try:
        yield guard
    finally:
        guard.close()
        disk.readings.put(DiskUsage())
        await_the_thread()


def test_a_measurement_that_never_returns_blocks_neither_a_step_nor_the_end(places: Places) -> None:
    disk = Disk()
    with guarded(places, disk) as guard:
        disk.asked.get(timeout=30)  # it is measuring now, and will until the end of the block
        for _ in range(1000):
            assert guard.poll() == []
        assert guard.counters() == {}


def test_readings_become_counters(places: Places) -> None:
    disk = Disk()
    with guarded(places, disk) as guard:
        disk.holds(DiskUsage(900, 7, unreadable=2))
        counters = guard.counters()
        assert (counters["quota/home_bytes"], counters["quota/home_inodes"]) == (900, 7)
        assert (counters["quota/home_unreadable"], counters["quota/removed_bytes"]) == (2, 0)
        assert guard.poll() == []


def test_a_crossed_soft_limit_is_told_once_and_again_after_it_was_met(places: Places) -> None:
    disk = Disk()
    with guarded(places, disk) as guard:
        for size in (1500, 1600, 900, 1700):
            disk.holds(DiskUsage(size, 1))
        first, second = guard.poll()
        assert first.startswith("the home directory holds 1.5 kB, quota.home_soft_bytes is 1.0 kB: there is nothing")
        assert second.startswith("the home directory holds 1.7 kB")


def test_a_crossed_hard_limit_ends_the_run_with_the_numbers_and_what_to_do(places: Places) -> None:
    disk = Disk()
    with guarded(places, disk) as guard:
        disk.holds(DiskUsage(2500, 1))
        assert len(guard.poll()) == 1
        with pytest.raises(QuotaExceeded, match=r"holds 2\.5 kB, quota\.home_hard_bytes is 2\.0 kB\. Free space"):
            guard.poll()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(116, "Stale file handle"), "the home directory could not be measured (Stale file handle); its limits"),
        (ValueError("a defect"), "checking the disks failed (ValueError: a defect); its limits"),
    ],
)
def test_an_error_in_looking_is_told_once_counted_and_no_end_of_the_run(
    places: Places, error: Exception, told: str
) -> None:
    disk = Disk()
    with guarded(places, disk) as guard:
        for reading in (error, error, DiskUsage(900, 1)):
            disk.holds(reading)
        (note,) = guard.poll()
        assert note.startswith(told)
        assert (guard.counters()["quota/failed_looks"], guard.counters()["quota/home_bytes"]) == (2, 900)
        disk.holds(DiskUsage(2500, 1))
        assert len(guard.poll()) == 1
        with pytest.raises(QuotaExceeded, match=r"holds 2\.5 kB"):
            guard.poll()


def test_a_home_that_does_not_answer_keeps_no_run_from_starting(places: Places) -> None:
    def stale(*_: object) -> DiskUsage:
        raise OSError(116, "Stale file handle")

    (note,) = admit(LIMITS, places, stale)
    assert note == "the home directory could not be measured (Stale file handle); the run starts without this check"


def test_closing_ends_a_walk_in_its_middle(places: Places) -> None:
    entered = threading.Event()

    def endless(folder: Path, keep_going: Callable[[], bool]) -> DiskUsage:
        entered.set()
        while keep_going():
            disk_usage(folder)
        return DiskUsage(complete=False)

    guard = QuotaGuard(LIMITS, places, endless)
    guard.start()
    assert entered.wait(30)
    guard.close()
    await_the_thread()


def test_a_run_does_not_start_over_a_hard_limit(places: Places) -> None:
    with pytest.raises(QuotaExceeded, match=r"the run does not start: the home directory holds 2\.5 kB"):
        admit(LIMITS, places, lambda *_: DiskUsage(2500, 1))
    assert admit(LIMITS, places, lambda *_: DiskUsage(900, 1)) == []


def test_a_home_too_large_to_be_measured_at_the_start_is_said_and_not_waited_for(places: Places) -> None:
    (note,) = admit(LIMITS, places, lambda *_: DiskUsage(900, 1, complete=False))
    assert "takes more than 60 s" in note


def test_without_limits_no_home_is_walked(places: Places) -> None:
    def never(*_: object) -> DiskUsage:
        raise AssertionError("the home was measured")

    assert admit(QuotaConfig(), places, never) == []
