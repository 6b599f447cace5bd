"""Step times, and how long the device was idle for want of data: from the host's clock, or from GPU events on CUDA."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from prism_ssl.utils.time import Stopwatch


@dataclass(frozen=True)
class StepTime:
    """Time of a step in ms. ``idle_ms``: of it, how long the device had nothing to do before the step's data came.

    It is infinite where the host's own wait is the device's, as on a CPU.
    """

    ms: float
    idle_ms: float = math.inf


class StepClock(Protocol):
    """Times of steps in order; the first step begins when the clock is created."""

    def data_is_here(self) -> None:
        """The host has the data of the step; before it, the device had only what was queued."""

    def end_step(self) -> None:
        """A step ends here."""

    def known(self) -> list[StepTime]:
        """Step times that have become known since the last call; never waits."""

    def settled(self) -> list[StepTime]:
        """The same for all steps so far; waits for the device."""

    def pause(self) -> None:
        """Exclude the time until ``go_on``; call ``settled`` before."""

    def go_on(self) -> None:
        """The next step begins here."""


class HostClock:
    """Step times from the host's clock."""

    def __init__(self) -> None:
        self._lap, self._pause = Stopwatch(), Stopwatch()
        self._known: list[StepTime] = []

    def data_is_here(self) -> None:
        """Nothing: the device waits as long as the host."""

    def end_step(self) -> None:
        """A step ends here."""
        self._known.append(StepTime(self._lap.lap_ms()))

    def known(self) -> list[StepTime]:
        """Times of the steps since the last call."""
        known, self._known = self._known, []
        return known

    def settled(self) -> list[StepTime]:
        """The same: every step time is known when the step has ended."""
        return self.known()

    def pause(self) -> None:
        """Exclude the time until ``go_on``."""
        self._pause = Stopwatch()

    def go_on(self) -> None:
        """The step continues here."""
        self._lap.leave_out(self._pause.ms())


class DeviceClock:
    """Step times between events on the GPU, which runs some steps behind the host that queues its work.

    On the host, steps look short while the queue fills; where it drains, as at every row of the history, one step seems
    to take the time of several and would count as a stall. So with waits: while the host waits for data, the device
    computes what is queued, and is idle only from the end of that on.

    Args:
        record: queues an event (such as ``torch.cuda.Event`` with timing) behind the work queued so far.
    """

    def __init__(self, record: Callable[[], Any]) -> None:
        self._record = record
        self._last = record()
        self._data: Any = None
        self._ended: deque[tuple[Any, Any, Any]] = deque()

    def data_is_here(self) -> None:
        """The step's own work will be queued behind this."""
        self._data = self._record()

    def end_step(self) -> None:
        """A step ends behind the work queued now."""
        begin, self._last = self._last, self._record()
        self._ended.append((begin, self._data or begin, self._last))
        self._data = None

    def known(self) -> list[StepTime]:
        """Times of the steps that the device finished since the last call."""
        known: list[StepTime] = []
        while self._ended and self._ended[0][-1].query():
            begin, data, end = self._ended.popleft()
            known.append(StepTime(begin.elapsed_time(end), begin.elapsed_time(data)))
        return known

    def settled(self) -> list[StepTime]:
        """Times of all remaining steps; waits until the device has finished them."""
        if self._ended:
            self._ended[-1][-1].synchronize()
        return self.known()

    def pause(self) -> None:
        """Exclude the time until ``go_on``."""

    def go_on(self) -> None:
        """The next step begins behind the work queued now."""
        self._last = self._record()


def step_clock(device: torch.device) -> StepClock:
    """The clock for steps on ``device``."""
    return DeviceClock(_record_event) if device.type == "cuda" else HostClock()


def _record_event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
