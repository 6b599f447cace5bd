"""Honest throughput: wall-clock rates, the tail of the step times, and what was waited for."""

from __future__ import annotations

import time
from array import array
from dataclasses import dataclass, field

import numpy as np

from prism_ssl.data.sharded_dataset import NO_WAIT, WaitCauses

STALL_LIMITS_MS = (2000, 10000)


@dataclass
class StepTimes:
    """Times of the steps of one attempt (since its start or resume).

    ``patches_per_step`` counts both views: 2 x B x N. Stalls are counted after ``warmup_steps``.
    """

    patches_per_step: int
    warmup_steps: int
    _started: float = field(default_factory=lambda: time.perf_counter())
    _steps_ms: array[float] = field(default_factory=lambda: array("d"))
    _stalls: dict[int, int] = field(default_factory=lambda: dict.fromkeys(STALL_LIMITS_MS, 0))
    _waits: WaitCauses = NO_WAIT
    _aside_s: float = 0.0
    _marked_steps: int = 0
    _marked_waits: WaitCauses = NO_WAIT

    def add(self, step_ms: float, wait: WaitCauses) -> None:
        """One step: its whole time, waiting for data included, and the part that was waiting."""
        self._steps_ms.append(step_ms)
        self._waits += wait
        if len(self._steps_ms) > self.warmup_steps:
            for limit_ms in STALL_LIMITS_MS:
                self._stalls[limit_ms] += step_ms >= limit_ms

    def stalls(self) -> dict[str, float]:
        """Steps so far that took long, without those of the warm-up."""
        return {f"stall_steps_ge_{limit_ms}ms": float(count) for limit_ms, count in self._stalls.items()}

    def waited(self) -> dict[str, float]:
        """How long data was waited for so far, by cause."""
        return {
            "data_wait_ms_total": self._waits.total_ms,
            "data_wait_opening_ms_total": self._waits.opening_ms,
            "data_wait_sampling_ms_total": self._waits.sampling_ms,
            "data_wait_transport_ms_total": self._waits.transport_ms,
        }

    def set_aside(self, ms: float) -> None:
        """Time between steps that was no training: it counts in no rate."""
        self._aside_s += ms / 1e3

    def interval(self) -> dict[str, float]:
        """Rates since the last call, for a row of the history."""
        steps = np.asarray(self._steps_ms[self._marked_steps :])
        waited = self._waits - self._marked_waits
        self._marked_steps, self._marked_waits = len(self._steps_ms), self._waits
        elapsed_ms = max(float(steps.sum()), 1e-9)
        return {
            "patches_per_sec_step": self.patches_per_step * 1e3 / max(float(steps[-1]), 1e-9),
            "patches_per_sec_interval": self.patches_per_step * len(steps) * 1e3 / elapsed_ms,
            "step_time_ms": elapsed_ms / len(steps),
            "data_wait_share": waited.total_ms / elapsed_ms,
            "data_wait_ms": waited.total_ms / len(steps),
            "data_wait_opening_ms": waited.opening_ms / len(steps),
            "data_wait_sampling_ms": waited.sampling_ms / len(steps),
            "data_wait_transport_ms": waited.transport_ms / len(steps),
        }

    def totals(self) -> dict[str, float]:
        """The scalars of the guide's section 8, over the whole attempt."""
        if not self._steps_ms:
            return {}
        steps = np.asarray(self._steps_ms)
        wall_s = time.perf_counter() - self._started
        totals = {
            "throughput_effective_patches_per_sec": self.patches_per_step * len(steps) / (wall_s - self._aside_s),
            "wall_s": wall_s,
            "evaluation_s": self._aside_s,
            "total_step_time_ms_mean": float(steps.mean()),
            "total_step_time_ms_max": float(steps.max()),
            "first_step_ms": float(steps[0]),
            "data_wait_share": self._waits.total_ms / float(steps.sum()),
            **self.waited(),
        }
        totals |= {f"total_step_time_ms_p{q}": float(np.percentile(steps, q)) for q in (50, 95, 99)}
        return totals | self.stalls()
