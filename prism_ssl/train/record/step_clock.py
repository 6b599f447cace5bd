"""Step times: from the host's clock on a CPU, from GPU events on CUDA."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import torch

from prism_ssl.utils.time import Stopwatch


class StepClock(Protocol):
    """Times of steps in order; the first step begins when the clock is created."""

    def end_step(self) -> None:
        """A step ends here."""

    def known_ms(self) -> list[float]:
        """Step times that have become known since the last call; never waits."""

    def settled_ms(self) -> list[float]:
        """The same for all steps so far; waits for the device."""

    def pause(self) -> None:
        """Exclude the time until ``go_on``; call ``settled_ms`` before."""

    def go_on(self) -> None:
        """The next step begins here."""


class HostClock:
    """Step times from the host's clock."""

    def __init__(self) -> None:
        self._lap, self._pause = Stopwatch(), Stopwatch()
        self._known: list[float] = []

    def end_step(self) -> None:
        """A step ends here."""
        self._known.append(self._lap.lap_ms())

    def known_ms(self) -> list[float]:
        """Times of the steps since the last call."""
        known, self._known = self._known, []
        return known

    def settled_ms(self) -> list[float]:
        """The same: every step time is known when the step has ended."""
        return self.known_ms()

    def pause(self) -> None:
        """Exclude the time until ``go_on``."""
        self._pause = Stopwatch()

    def go_on(self) -> None:
        """The step continues here."""
        self._lap.leave_out(self._pause.ms())


class DeviceClock:
    """Step times between events on the GPU, which runs some steps behind the host that queues its work.

    On the host, steps look short while the queue fills; where it drains, as at every row of the history, one step seems
    to take the time of several and would count as a stall.

    Args:
        record: queues an event (such as ``torch.cuda.Event`` with timing) behind the work queued so far.
    """

    def __init__(self, record: Callable[[], Any]) -> None:
        self._record = record
        self._last = record()
        self._ended: deque[tuple[Any, Any]] = deque()

    def end_step(self) -> None:
        """A step ends behind the work queued now."""
        begin, self._last = self._last, self._record()
        self._ended.append((begin, self._last))

    def known_ms(self) -> list[float]:
        """Times of the steps that the device finished since the last call."""
        known: list[float] = []
        while self._ended and self._ended[0][1].query():
            begin, end = self._ended.popleft()
            known.append(begin.elapsed_time(end))
        return known

    def settled_ms(self) -> list[float]:
        """Times of all remaining steps; waits until the device has finished them."""
        if self._ended:
            self._ended[-1][1].synchronize()
        return self.known_ms()

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
