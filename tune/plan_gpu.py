"""Plan the runs of the ablation, or one run, on a GPU before they begin: ``prism plan --gpu b200``."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from prism_ssl.cli.catalog_options import EXIT_NO, EXIT_OK, refused
from prism_ssl.config.defaults import RECIPES, apply_overrides
from prism_ssl.config.schema import PrismConfig
from prism_ssl.config.tracking_environment import tracking_mode
from prism_ssl.errors import PrismError
from prism_ssl.model.capacity.cards import CARDS, Card, card_named
from prism_ssl.model.capacity.measured import read_bench
from prism_ssl.model.capacity.memory import gpu_memory
from prism_ssl.model.capacity.plan import BESIDE_TRAINING_S, RunPlan, jobs_needed, plan_run
from prism_ssl.train.guards.space_plan import (
    BYTES_EXPORTED,
    ROW_BYTES,
    checkpoint_bytes,
    drops_checkpoints,
    parameters,
    plan_space,
)
from prism_ssl.utils.disk_usage import DiskUsage
from tune.command_line import read_settings
from tune.tune_core24 import parse as parse_sweep

_PROG = "prism plan"
_PIPE_COLUMNS = 150


@dataclass(frozen=True)
class WandbBytes:
    """What runs send to W&B, and what stays there: of a run's checkpoints the last one, its encoder, its rows."""

    sent: int
    kept: int


def wandb_bytes(configs: Sequence[PrismConfig]) -> WandbBytes:
    """Of runs that end ok; nothing is sent unless the mode is online."""
    sent = kept = 0
    for config in configs:
        if tracking_mode(config.tracking) != "online":
            continue
        rows = ROW_BYTES * (config.train.max_steps // config.train.log_every)
        every = config.tracking.artifact_every
        checkpoint, encoder = checkpoint_bytes(config), parameters(config.model)[0] * BYTES_EXPORTED
        uploads = 0 if every is None else math.ceil(config.train.max_steps / every)
        sent += rows + uploads * checkpoint + (encoder if uploads else 0)
        kept += rows + min(uploads, 1) * (checkpoint + encoder)
    return WandbBytes(sent, kept)


def plan_lines(plans: Sequence[RunPlan], job_hours: float, in_sweep: bool) -> list[str]:
    """The answers below the table."""
    configs = [plan.config for plan in plans]
    hours, jobs = sum(plan.hours for plan in plans), jobs_needed(plans, job_hours)
    space, sent = plan_space(configs, DiskUsage(), in_sweep), wandb_bytes(configs)
    many = f"{len(plans)} runs one after another" if len(plans) > 1 else "one run"
    lines = [
        f"{many}: {hours:.1f} h on one {plans[0].card.name}, that is {jobs} job{'s' if jobs > 1 else ''} of "
        f"{job_hours:g} h ({BESIDE_TRAINING_S:.0f} s a run besides its steps are assumed)",
        str(space),
        f"W&B: {decimal(sent.sent)} sent, {decimal(sent.kept)} kept there"
        if sent.sent
        else f"W&B: nothing is sent (tracking.mode {tracking_mode(configs[0].tracking)})",
    ]
    if in_sweep and not any(map(drops_checkpoints, configs)):
        lines.append("with --tracking.mode online W&B keeps the checkpoints of finished trials, and the disk does not")
    return [*lines, *_too_big(plans)]


def _too_big(plans: Sequence[RunPlan]) -> list[str]:
    lines = []
    for plan in {_key(plan): plan for plan in plans if not plan.fits}.values():
        dropping = apply_overrides(plan.config, {"model.activation_checkpointing": True})
        less = decimal(gpu_memory(dropping).total)
        lines.append(
            f"B {plan.config.train.batch_size} needs {decimal(plan.peak_bytes)} of {plan.card.name}'s "
            f"{decimal(plan.card.memory_bytes)}; with --model.activation-checkpointing {less}"
        )
    return lines


def _key(plan: RunPlan) -> tuple[object, ...]:
    config = plan.config
    return config.model.preset, config.train.batch_size, config.data.n_patches, plan.basis


def plan_table(plans: Sequence[RunPlan]) -> Table:
    """One row for the runs of equal size."""
    columns = "runs", "preset", "B", "N", "GPU memory", "fits", "ms a step", "steps/s", "hours a run", "speed"
    table = Table(*columns, box=None)
    groups: dict[tuple[object, ...], list[RunPlan]] = {}
    for plan in plans:
        groups.setdefault(_key(plan), []).append(plan)
    for group in groups.values():
        plan, config = group[0], group[0].config
        table.add_row(
            str(len(group)), config.model.preset, str(config.train.batch_size), str(config.data.n_patches),
            decimal(plan.peak_bytes), "yes" if plan.fits else "NO", f"{1e3 * plan.step_s:.0f}",
            f"{1 / plan.step_s:.2f}", f"{plan.hours:.1f}", plan.basis,
        )  # fmt: skip
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the plan; 1 when a run does not fit the GPU's memory, 2 when there is nothing to plan."""
    given, settings = _parser().parse_known_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS)
    try:
        card, bench = card_named(given.gpu), read_bench(given.bench) if given.bench else None
        configs, in_sweep = _configs(settings)
        plans = [plan_run(config, card, given.mfu, bench) for config in configs]
    except (PrismError, OSError) as error:
        return refused(error)
    console.print(f"{card.name}: {_words(card)}", highlight=False)
    console.print(plan_table(plans))
    for line in plan_lines(plans, given.job_hours, in_sweep):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return EXIT_OK if all(plan.fits for plan in plans) else EXIT_NO


def _configs(settings: Sequence[str]) -> tuple[list[PrismConfig], bool]:
    """One run where a recipe is named, else the cells of the ablation; and whether they are a sweep's."""
    if settings and settings[0] in RECIPES:
        return [read_settings(settings, _PROG)], False
    sweep = parse_sweep(settings)
    return [sweep.config(point) for point in sweep.points], True


def _words(card: Card) -> str:
    peak, memory = card.peak_flops / 1e12, decimal(card.memory_bytes)
    return f"{peak:.0f} TFLOP/s in dense bf16, {memory} ({card.source})"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROG,
        usage=f"{_PROG} --gpu NAME [--bench FILE | --mfu SHARE] [RECIPE | options of prism sweep]",
        description="GPU memory, steps/s, hours, jobs, disk and W&B bytes of the 24 runs of the ablation, or of one "
        "run where a RECIPE is named. Nothing is started.",
        allow_abbrev=False,
    )
    names = ", ".join(card.name.lower().replace(" ", "-") for card in CARDS)
    parser.add_argument("--gpu", required=True, metavar="NAME", help=f"one of {names}")
    speed = parser.add_mutually_exclusive_group()
    speed.add_argument("--bench", type=Path, metavar="FILE", help="what prism bench gpu measured on such a GPU")
    speed.add_argument("--mfu", type=float, metavar="SHARE", help="share of the peak to expect (default: 0.35)")
    parser.add_argument("--job-hours", type=float, default=24.0, metavar="H", help="length of a job (default: 24)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
