"""A step on a GPU takes what the GPU takes, whenever the host looks."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest

from prism_ssl.train.record.step_clock import DeviceClock, HostClock

STEPS_MS = [600.0, 650.0, 700.0, 600.0, 640.0, 610.0]


@dataclass
class Event:
    """As ``torch.cuda.Event``: at ``ms`` of the device's time, which has come as far as it was waited for."""

    device: Device
    ms: float

    def query(self) -> bool:
        return self.ms <= self.device.now_ms

    def synchronize(self) -> None:
        self.device.now_ms = max(self.device.now_ms, self.ms)

    def elapsed_time(self, end: Event) -> float:
        assert end.query()
        return end.ms - self.ms


@dataclass
class Device:
    """A device behind its host: work is queued at once and done ``now_ms`` later."""

    queued_ms: float = 0.0
    now_ms: float = 0.0

    def record(self) -> Event:
        return Event(self, self.queued_ms)


def test_times_are_those_of_the_device_however_far_the_host_runs_ahead() -> None:
    device = Device()
    clock, known = DeviceClock(device.record), []
    for step_ms in STEPS_MS:
        device.queued_ms += step_ms
        clock.end_step()
        device.now_ms = max(device.now_ms, device.queued_ms - 2000)  # the host is two seconds ahead
        known += clock.known_ms()
    assert 0 < len(known) < len(STEPS_MS)
    assert known + clock.settled_ms() == STEPS_MS
    assert clock.known_ms() == clock.settled_ms() == []


def test_what_happens_in_a_pause_is_no_step_on_the_device() -> None:
    device = Device()
    clock, known = DeviceClock(device.record), []
    for step_ms, evaluation_ms in zip(STEPS_MS, (0.0, 30000.0, 0.0, 5.0, 0.0, 0.0), strict=True):
        device.queued_ms += step_ms
        clock.end_step()
        known += clock.settled_ms()
        clock.pause()
        device.queued_ms += evaluation_ms
        clock.go_on()
    assert known == STEPS_MS


def test_what_happens_in_a_pause_is_no_step_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now_s[0])
    clock = HostClock()
    now_s[0] += 0.5
    clock.end_step()
    now_s[0] += 0.25  # the host's own work after a step is the next one's
    clock.pause()
    now_s[0] += 30
    clock.go_on()
    now_s[0] += 0.5
    clock.end_step()
    assert clock.known_ms() == pytest.approx([500, 750])
    assert clock.settled_ms() == []
