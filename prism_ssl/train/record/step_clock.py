"""How long each step takes: by the host's clock where a step is done when it returns, else by events of the GPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import torch

from prism_ssl.utils.time import Stopwatch


class StepClock(Protocol):
    """Times of steps in their order; the first step begins when the clock is made."""

    def end_step(self) -> None:
        """A step ends here."""

    def known_ms(self) -> list[float]:
        """Times of the steps that are newly known; nothing is waited for."""

    def settled_ms(self) -> list[float]:
        """The same once all steps are known; waits for the device."""

    def pause(self) -> None:
        """What happens until ``go_on`` is no step; called after ``settled_ms``."""

    def go_on(self) -> None:
        """The next step begins here."""


class HostClock:
    """Laps of the host's clock."""

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
        """The same: every step is known when it has ended."""
        return self.known_ms()

    def pause(self) -> None:
        """What happens until ``go_on`` is no step."""
        self._pause = Stopwatch()

    def go_on(self) -> None:
        """The step goes on here."""
        self._lap.leave_out(self._pause.ms())


class DeviceClock:
    """From event to event on the device, which is some steps behind the host that queues its work.

    The host's laps are short while the queue fills, and one lap holds several steps where the queue drains, as at every
    row of the history. Timed by the host, that lap would count as a stall.

    Args:
        record: puts an event (of ``torch.cuda.Event``'s kind, with timing) behind the work that is queued so far.
    """

    def __init__(self, record: Callable[[], Any]) -> None:
        self._record = record
        self._last = record()
        self._ended: deque[tuple[Any, Any]] = deque()

    def end_step(self) -> None:
        """A step ends behind what is queued now."""
        begin, self._last = self._last, self._record()
        self._ended.append((begin, self._last))

    def known_ms(self) -> list[float]:
        """Times of the steps that the device has finished since the last call."""
        known: list[float] = []
        while self._ended and self._ended[0][1].query():
            begin, end = self._ended.popleft()
            known.append(begin.elapsed_time(end))
        return known

    def settled_ms(self) -> list[float]:
        """The same once the device has finished all of them."""
        if self._ended:
            self._ended[-1][1].synchronize()
        return self.known_ms()

    def pause(self) -> None:
        """What happens until ``go_on`` is no step."""

    def go_on(self) -> None:
        """The next step begins behind what is queued now."""
        self._last = self._record()


def step_clock(device: torch.device) -> StepClock:
    """The clock for steps that are taken on ``device``."""
    return DeviceClock(_record_event) if device.type == "cuda" else HostClock()


def _record_event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
