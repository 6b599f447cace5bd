"""Measure training on a CUDA GPU, into one file: ``prism bench gpu [--out FILE]``.

For the presets small, base and large, N = 1,024 patches and batches of 32 and 64 pairs: times of a step on a cached
batch (median, p90, p99), patches/s, MFU, peak memory beside the plan, first step (compiling from nothing), the
attention that torch took, the share of the rotary embedding. Then steps fed by a live pool over full-size phantoms,
with views cut out on the CPU and on the GPU: how long a step waits for data. ``prism plan --bench FILE`` reads it.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from prism_ssl.cli.catalog_options import EXIT_OK, EXIT_REFUSED, refused
from prism_ssl.config.defaults import apply_overrides, core24_base
from prism_ssl.config.network import Preset
from prism_ssl.config.schema import PrismConfig
from prism_ssl.errors import PrismError
from prism_ssl.model.capacity.cards import find_card
from prism_ssl.model.capacity.measured import BenchFile, FeedRow, StepRow, step_config
from prism_ssl.utils.fs import owned_folder, temporary_root, write_atomic
from prism_ssl.utils.machine import usable_cpus
from prism_ssl.utils.ray_cluster.session import ray_environment
from tune.bench.device import OUT_OF_MEMORY, bench_device, circumstances
from tune.bench.steps import measure_steps

_PIPE_COLUMNS = 150


@dataclasses.dataclass(frozen=True)
class Extent:
    """What is measured, and how often. ``shape`` is that of a phantom of the pool, ``slots`` its actors' open scans."""

    presets: tuple[Preset, ...] = ("small", "base", "large")
    batches: tuple[int, ...] = (32, 64)
    n_patches: int = 1024
    repeats: int = 50
    fed_steps: int = 150
    workers: int = 8
    slots: int = 4
    shape: tuple[int, int, int] = (512, 512, 300)

    def workers_here(self) -> int:
        """Pool actors: as many as there are cores beside the training, and a divisor of every batch."""
        room = max(1, usable_cpus() - 1)
        return max(n for n in range(1, self.workers + 1) if n <= room and all(B % n == 0 for B in self.batches))


QUICK = Extent(("tiny",), (4,), n_patches=16, repeats=3, fed_steps=3, workers=1, slots=2, shape=(128, 128, 80))
"""Whether it runs, not how fast."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the file after each row, print; 2 where there is no GPU."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    given = _parser().parse_args(words)
    console = Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS)
    try:
        device = bench_device(given.device)
        bench = _bench(given, words, device, console)
    except (PrismError, OSError) as error:
        return refused(error)
    console.print(f"written to {given.out}; prism plan --gpu NAME --bench {given.out} reads it", highlight=False)
    return EXIT_OK if any(row.problem is None for row in bench.steps) else EXIT_REFUSED


def _bench(given: argparse.Namespace, words: Sequence[str], device: torch.device, console: Console) -> BenchFile:
    extent = QUICK if given.quick else Extent()
    told = circumstances(device) | {"command": shlex.join(["prism", "bench", *words])}
    console.print(f"{told['device']}, torch {told['torch']}", highlight=False)
    if device.type == "cuda":
        torch.compiler.config.force_disable_caches = True  # so that a first step compiles from nothing
    bench = BenchFile(told, ())
    for row in _steps(extent, device, given.eager):
        bench = dataclasses.replace(bench, steps=(*bench.steps, row))
        write_atomic(given.out, bench.to_json().encode())  # each row: a job's time limit may come before the next
    console.print(steps_table(bench.steps))
    for fed in () if given.no_feed else _feeds(extent, device, bench.steps):
        bench = dataclasses.replace(bench, feeds=(*bench.feeds, fed))
        write_atomic(given.out, bench.to_json().encode())
    if bench.feeds:
        console.print(feeds_table(bench.feeds))
    return bench


def _steps(extent: Extent, device: torch.device, eager: bool) -> Iterator[StepRow]:
    card = find_card(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    for preset in extent.presets:
        for batch_size in extent.batches:
            for compiled in (True, False) if eager else (True,):
                config = _config(extent, preset, batch_size, model__compile=compiled)
                row = measure_steps(config, device, card, extent.repeats)
                yield row
                if row.problem is not None and row.problem.startswith(OUT_OF_MEMORY):
                    less = apply_overrides(config, {"model.activation_checkpointing": True})
                    yield measure_steps(less, device, card, extent.repeats)


def _config(extent: Extent, preset: Preset, batch_size: int, **others: object) -> PrismConfig:
    pool = {"data__workers": extent.workers_here(), "data__warm_pool_size": extent.slots}
    return step_config(core24_base(), preset, batch_size, extent.n_patches, **pool, **others)


def _feeds(extent: Extent, device: torch.device, steps: Sequence[StepRow]) -> Iterator[FeedRow]:
    """Fed steps at the largest size that fits, and at the smallest, which asks most of the pool."""
    fit = [row for row in steps if row.problem is None]
    chosen = list(dict.fromkeys((row.preset, row.batch_size, row.activation_checkpointing) for row in fit))
    root = temporary_root()
    with ray_environment(root), owned_folder(root / "bench") as folder:
        from tune.bench.feed import measure_feed, phantom_scans  # imports Ray

        scans = phantom_scans(folder, extent.workers_here() * (extent.slots + 2), extent.shape)
        for preset, batch_size, checkpointing in dict.fromkeys([*chosen[-1:], *chosen[:1]]):
            for where in ("cpu", "cuda"):
                config = _config(
                    extent, preset, batch_size, data__extract_on=where, model__activation_checkpointing=checkpointing
                )
                yield measure_feed(config, scans, folder, device, extent.fed_steps)


def steps_table(rows: Sequence[StepRow]) -> Table:
    """One line a row."""
    columns = "preset", "B", "N", "compiled", "ms a step", "p90", "p99/p50", "patches/s", "MFU", "memory", "of the plan"
    table = Table(*columns, "first step", "rotary", "attention", box=None)
    for row in rows:
        kind = ("yes" if row.compiled else "no") + (", checkpointing" if row.activation_checkpointing else "")
        size = row.preset, str(row.batch_size), str(row.n_patches), kind
        if row.problem is not None:
            table.add_row(*size, row.problem)
            continue
        table.add_row(
            *size, f"{row.step_ms_median:.1f}", f"{row.step_ms_p90:.1f}", f"{row.p99_over_p50:.2f}",
            f"{row.patches_per_s:,.0f}", "-" if row.mfu is None else f"{row.mfu:.3f}", decimal(row.peak_bytes),
            f"{row.peak_bytes / row.planned_bytes:.2f}", f"{row.first_step_s:.1f} s", f"{row.rotary_share:.3f}",
            row.attention,
        )  # fmt: skip
    return table


def feeds_table(rows: Sequence[FeedRow]) -> Table:
    """One line a row."""
    columns = (
        "extract_on",
        "preset",
        "B",
        "actors",
        "ms a step",
        "p99",
        "waiting",
        "collating",
        "first batch",
        "pairs/s",
    )
    table = Table(*columns, "scans replaced", box=None)
    for row in rows:
        size = row.extract_on, row.preset, str(row.batch_size), str(row.workers)
        if row.problem is not None:
            table.add_row(*size, row.problem)
            continue
        table.add_row(
            *size, f"{row.step_ms_median:.1f}", f"{row.step_ms_p99:.1f}", f"{row.wait_share:.1%}",
            f"{row.collate_share:.1%}", f"{row.first_batch_s:.1f} s", f"{row.pairs_per_s:.1f}", str(row.scans_replaced),
        )  # fmt: skip
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="prism bench", description="Measure training on this machine's CUDA GPU.")
    parser.add_argument("what", choices=["gpu"], help="gpu: steps of every preset, and steps fed by a live pool")
    parser.add_argument("--out", type=Path, default=Path("bench_gpu.json"), help="file to write (bench_gpu.json)")
    parser.add_argument("--eager", action="store_true", help="measure without torch.compile too")
    parser.add_argument("--no-feed", action="store_true", help="cached batches only: no Ray, no pool")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: to try the command itself")
    parser.add_argument("--quick", action="store_true", help="one tiny shape: does it run, not how fast")
    return parser


if __name__ == "__main__":
    sys.exit(main())
