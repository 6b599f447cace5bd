"""Throughput from elapsed time, percentiles of step times, stalls, and data waits by cause.

All totals cover the whole run, steps 1 to ``steps_done``. Steps that an attempt did after its last checkpoint are done
again after the resume and count once. A resumed attempt must open its pools and compile again before its first step is
done; that time says nothing about the settings, so it is counted as ``resume_s``: part of ``wall_s``, but of no rate,
step time, wait or stall. Evaluating and writing checkpoints count likewise, as ``evaluation_s`` and ``checkpoint_s``.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from prism_ssl.data.sharded_dataset import NO_WAIT, WaitCauses

STALL_LIMITS_MS = (2000, 10000)

Aside = Literal["evaluation", "checkpoint"]
"""What happens between steps and is no training."""


@dataclass
class StepTimes:
    """Times of the steps of a run, since its start or since the state that it continues from.

    ``patches_per_step`` counts both views: 2 x B x N. Stalls are counted after the ``warmup_steps`` of each attempt.
    """

    patches_per_step: int
    warmup_steps: int
    _started: float = field(default_factory=lambda: time.perf_counter())
    _steps_ms: array[float] = field(default_factory=lambda: array("f"))
    _stalls: dict[int, int] = field(default_factory=lambda: dict.fromkeys(STALL_LIMITS_MS, 0))
    _waits: WaitCauses = NO_WAIT
    _aside_s: dict[Aside, float] = field(default_factory=lambda: {"evaluation": 0.0, "checkpoint": 0.0})
    _resume_s: float = 0.0
    _wall_before_s: float = 0.0
    _first_step_ms: float | None = None
    _of_attempt: int = 0
    _resumed: bool = False
    _row_ms: list[float] = field(default_factory=list)
    _row_waits: WaitCauses = NO_WAIT

    def go_on_from(self, state: Mapping[str, Any] | None) -> None:
        """Continue from ``state()``, before the first step of a resumed attempt; None when there is no state."""
        self._resumed = True
        if state is None:
            return
        self._steps_ms = array("f", state["steps_ms"].tolist())
        self._stalls |= {limit_ms: int(state["stalls"].get(limit_ms, 0)) for limit_ms in STALL_LIMITS_MS}
        self._waits = WaitCauses(*state["waits_ms"])
        # An earlier version counted the time of checkpoints in their next steps.
        self._aside_s = {"evaluation": state["aside_s"], "checkpoint": state.get("checkpoint_s", 0.0)}
        self._resume_s = state["resume_s"]
        self._wall_before_s, self._first_step_ms = state["wall_s"], state["first_step_ms"]

    def state(self) -> dict[str, Any]:
        """State for a checkpoint: tensors and plain values."""
        waits = self._waits
        return {
            "steps_ms": torch.tensor(self._steps_ms, dtype=torch.float32),
            "stalls": dict(self._stalls),
            "waits_ms": [waits.total_ms, waits.opening_ms, waits.sampling_ms, waits.transport_ms],
            "aside_s": self._aside_s["evaluation"],
            "checkpoint_s": self._aside_s["checkpoint"],
            "resume_s": self._resume_s,
            "wall_s": self._wall_s(),
            "first_step_ms": self._first_step_ms,
        }

    def add(self, step_ms: float, wait: WaitCauses) -> None:
        """Add one step: its whole time, waiting for data included, and the waiting part.

        The first step of an attempt includes the time since the attempt's start.
        """
        self._of_attempt += 1
        self._row_ms.append(step_ms)
        self._row_waits += wait
        if self._of_attempt == 1 and self._resumed:
            self._resume_s += step_ms / 1e3
            return
        if self._of_attempt == 1:
            self._first_step_ms = step_ms
        self._steps_ms.append(step_ms)
        self._waits += wait
        if self._of_attempt > self.warmup_steps:
            for limit_ms in STALL_LIMITS_MS:
                self._stalls[limit_ms] += step_ms >= limit_ms

    def stalls(self) -> dict[str, float]:
        """Number of stalls so far by limit, without those of the warm-up."""
        return {f"stall_steps_ge_{limit_ms}ms": float(count) for limit_ms, count in self._stalls.items()}

    def waited(self) -> dict[str, float]:
        """Time spent waiting for data so far, by cause."""
        return {
            "data_wait_ms_total": self._waits.total_ms,
            "data_wait_opening_ms_total": self._waits.opening_ms,
            "data_wait_sampling_ms_total": self._waits.sampling_ms,
            "data_wait_transport_ms_total": self._waits.transport_ms,
        }

    def set_aside(self, what: Aside, ms: float) -> None:
        """Exclude time between steps that was no training from all rates."""
        self._aside_s[what] += ms / 1e3

    def interval(self) -> dict[str, float]:
        """Rates since the last call, for a row of the history; a resumed attempt's first step is in them."""
        steps, waited = np.asarray(self._row_ms), self._row_waits
        self._row_ms, self._row_waits = [], NO_WAIT
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
        """The scalars of the guide's section 8, over the ``steps_timed`` steps of the whole run."""
        if not self._steps_ms:
            return {}
        steps = np.asarray(self._steps_ms, dtype=np.float64)
        wall_s = self._wall_s()
        training_s = wall_s - sum(self._aside_s.values()) - self._resume_s
        totals = {
            "throughput_effective_patches_per_sec": self.patches_per_step * len(steps) / training_s,
            "steps_timed": float(len(steps)),
            "wall_s": wall_s,
            **{f"{what}_s": seconds for what, seconds in self._aside_s.items()},
            "resume_s": self._resume_s,
            "total_step_time_ms_mean": float(steps.mean()),
            "total_step_time_ms_max": float(steps.max()),
            "data_wait_share": self._waits.total_ms / float(steps.sum()),
            **self.waited(),
        }
        if self._first_step_ms is not None:
            totals["first_step_ms"] = self._first_step_ms
        totals |= {f"total_step_time_ms_p{q}": float(np.percentile(steps, q)) for q in (50, 95, 99)}
        return totals | self.stalls()

    def _wall_s(self) -> float:
        return self._wall_before_s + time.perf_counter() - self._started
