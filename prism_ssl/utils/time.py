"""Clocks and durations."""

from __future__ import annotations

import time


class Stopwatch:
    """Milliseconds since creation or the last lap."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def ms(self) -> float:
        """Elapsed time; the watch runs on."""
        return (time.perf_counter() - self._start) * 1e3

    def lap_ms(self) -> float:
        """Elapsed time; the watch starts anew."""
        now = time.perf_counter()
        elapsed, self._start = (now - self._start) * 1e3, now
        return elapsed

    def leave_out(self, ms: float) -> None:
        """Exclude the last ``ms`` from the elapsed time."""
        self._start += ms / 1e3


def format_duration(seconds: float) -> str:
    """``"1:02:03"`` or ``"2:03"``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
