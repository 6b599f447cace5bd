"""A step on a GPU takes what the GPU takes, whenever the host looks."""

from __future__ import annotations

import math
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
        known += clock.known()
    assert 0 < len(known) < len(STEPS_MS)
    assert [step.ms for step in known + clock.settled()] == STEPS_MS
    assert clock.known() == clock.settled() == []


def test_a_device_that_still_computes_while_the_host_waits_for_data_is_idle_from_its_end_on_only() -> None:
    device = Device()
    clock = DeviceClock(device.record)
    # The device needs 300 ms a step. Data comes 320 ms after that of the step before, then 100 ms, then 900 ms.
    for data_ms, computed_ms in ((320, 620), (420, 920), (1320, 1620)):
        device.queued_ms = max(device.queued_ms, data_ms)
        clock.data_is_here()
        device.queued_ms = computed_ms
        clock.end_step()
    assert [(step.ms, step.idle_ms) for step in clock.settled()] == [(620, 320), (300, 0), (700, 400)]


def test_what_happens_in_a_pause_is_no_step_on_the_device() -> None:
    device = Device()
    clock, known = DeviceClock(device.record), []
    for step_ms, evaluation_ms in zip(STEPS_MS, (0.0, 30000.0, 0.0, 5.0, 0.0, 0.0), strict=True):
        device.queued_ms += step_ms
        clock.end_step()
        known += clock.settled()
        clock.pause()
        device.queued_ms += evaluation_ms
        clock.go_on()
    assert [step.ms for step in known] == STEPS_MS


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
    known = clock.known()
    assert [step.ms for step in known] == pytest.approx([500, 750])
    assert {step.idle_ms for step in known} == {math.inf}, "the host's wait is the device's"
    assert clock.settled() == []
