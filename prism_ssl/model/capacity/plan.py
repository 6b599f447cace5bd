"""Hours, jobs and GPU memory of runs on a card, from measured or assumed speed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from prism_ssl.config.schema import PrismConfig
from prism_ssl.errors import ConfigError
from prism_ssl.model.capacity.cards import Card
from prism_ssl.model.capacity.flops import step_flops
from prism_ssl.model.capacity.measured import BenchFile
from prism_ssl.model.capacity.memory import GpuMemory, gpu_memory

ASSUMED_MFU: Final = 0.35
"""Share of a card's peak that the plan assumes when nothing was measured: a guess below the goal of 0.45."""
BESIDE_TRAINING_S: Final = 60.0
"""Seconds of a run besides its steps: start, compiling, evaluations, end. Assumed: 22 s on a CPU, without compiling."""


@dataclass(frozen=True)
class RunPlan:
    """One run on a card. ``basis`` says where ``step_s`` comes from."""

    config: PrismConfig
    card: Card
    memory: GpuMemory
    peak_bytes: int
    step_s: float
    basis: str

    @property
    def fits(self) -> bool:
        """Whether the card has enough memory for the run."""
        return self.peak_bytes <= self.card.memory_bytes

    @property
    def hours(self) -> float:
        """Duration of the run: all steps, and ``BESIDE_TRAINING_S``."""
        return (self.step_s * self.config.train.max_steps + BESIDE_TRAINING_S) / 3600


def plan_run(config: PrismConfig, card: Card, mfu: float | None = None, bench: BenchFile | None = None) -> RunPlan:
    """The plan of one run: as measured with its settings, else by the MFU measured with its preset, else by ``mfu``.

    Computing again (``model.activation_checkpointing``, ``train.grad_accumulation``) costs a forward pass each.

    Raises:
        ConfigError: ``mfu`` is no share, or the file is of another card.
    """
    if mfu is not None and not 0 < mfu <= 1:
        raise ConfigError(f"--mfu is {mfu}; needed: a share of the card's peak above 0, at most 1")
    measured_on = bench.circumstances.get("card") if bench else None
    if bench is not None and measured_on != card.name:
        raise ConfigError(f"the bench was run on {measured_on or 'an unknown card'}, and --gpu is {card.name}")
    memory = gpu_memory(config)
    row = bench.row_of(config) if bench and mfu is None else None
    if row is not None:
        return RunPlan(config, card, memory, row.peak_bytes, row.step_ms_median / 1e3, "measured")
    reached = bench.best_mfu(config.model.preset) if bench and mfu is None else mfu
    basis = "MFU measured with this preset" if bench and reached and mfu is None else "MFU given"
    if reached is None:
        reached, basis = ASSUMED_MFU, "MFU assumed, not measured"
    again = 1 + (config.model.activation_checkpointing + (config.train.grad_accumulation > 1)) / 3
    step_s = step_flops(config) / config.train.num_workers * again / (reached * card.peak_flops)
    return RunPlan(config, card, memory, memory.total, step_s, f"{basis}: {reached:.2f}")


def jobs_needed(runs: Sequence[RunPlan], job_hours: float) -> int:
    """Jobs of ``job_hours`` for all runs one after another; a run that a job's end interrupts goes on in the next."""
    return math.ceil(sum(run.hours for run in runs) / job_hours)
