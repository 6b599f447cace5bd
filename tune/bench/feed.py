"""Training steps fed by a live pool over full-size phantoms: how long they wait for data.

Ray must have its environment before this module is imported.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import PreparedScan, ScanRecord
from prism_ssl.data.collate import Collator
from prism_ssl.data.phantoms import full_size_ct, write_gz
from prism_ssl.data.pool import object_store_bytes
from prism_ssl.data.scan import open_scan
from prism_ssl.data.sharded_dataset import PairStream, WaitCauses
from prism_ssl.model.capacity.measured import FeedRow
from prism_ssl.train.learner import Learner
from prism_ssl.train.record.step_clock import step_clock
from prism_ssl.train.run.loop_config import LoopConfig
from prism_ssl.utils.ray_cluster.session import ray_session
from prism_ssl.utils.time import Stopwatch
from tune.bench.device import forget, problem_of

Shape = tuple[int, int, int]


def phantom_scans(folder: Path, count: int, shape: Shape) -> list[PreparedScan]:
    """One CT phantom under ``count`` names, as preflight hands scans on."""
    first = write_gz(folder / "scan-000.nii.gz", full_size_ct(shape=shape))
    opened, scans = open_scan(first), []
    x_mm, y_mm, z_mm = (float(mm) for mm in opened.spacing_mm)
    for number in range(count):
        name, path = f"scan-{number:03d}", folder / f"scan-{number:03d}.nii.gz"
        if path != first:
            os.link(first, path)
        record = ScanRecord(name, f"series-{number}", "CT", str(path), str(folder), f"patient-{number}")
        scans.append(PreparedScan(record, opened.stats, opened.voxels.nbytes, opened.shape, (x_mm, y_mm, z_mm)))
    return scans


@dataclass
class _Fed:
    """What the counted steps took, in ms."""

    first_batch_ms: float = 0.0
    steps_ms: list[float] = field(default_factory=list)
    wait_ms: float = 0.0
    collate_ms: float = 0.0
    replaced: int = 0


def measure_feed(
    config: PrismConfig, scans: list[PreparedScan], folder: Path, device: torch.device, steps: int
) -> FeedRow:
    """``steps`` steps after as many as were prepared ahead; a row with ``problem`` where the run would have failed."""
    data, shape = config.data, scans[0].shape
    settings = data.extract_on, config.model.preset, config.train.batch_size, data.n_patches, data.workers, shape
    try:
        with ray_session(data.workers + 1, object_store_bytes(config), folder):
            fed = _fed(config, scans, folder, device, steps)
    except Exception as error:  # noqa: BLE001  edge of a bench: the rows before are kept
        return FeedRow(*settings, problem=problem_of(error))
    finally:
        forget(device)
    total_ms = sum(fed.steps_ms)
    return FeedRow(
        *settings,
        steps=len(fed.steps_ms),
        step_ms_median=float(np.median(fed.steps_ms)),
        step_ms_p99=float(np.percentile(fed.steps_ms, 99)),
        wait_share=fed.wait_ms / total_ms,
        collate_share=fed.collate_ms / total_ms,
        first_batch_s=fed.first_batch_ms / 1e3,
        pairs_per_s=1e3 * len(fed.steps_ms) * config.train.batch_size / total_ms,
        scans_replaced=fed.replaced,
    )


def _fed(config: PrismConfig, scans: list[PreparedScan], folder: Path, device: torch.device, steps: int) -> _Fed:
    data, pairs = config.data, config.train.batch_size
    shards = [scans[worker :: data.workers] for worker in range(data.workers)]
    order = LoopConfig(
        config=config,
        shards=shards,
        held_out=[],
        catalog=folder / "catalog.csv",
        run_dir=folder / "run",
        scratch_folder=folder / "scratch",
        quarantine_file=folder / "quarantine.jsonl",
        checkpoint=None,
    )
    fed, watch, waits = _Fed(), Stopwatch(), list[WaitCauses]()
    learner = Learner(config, device)
    collate = Collator(device, pairs, data.n_patches, data.extract_on)
    stream = PairStream(shards, order.actor_settings(), data, pairs // data.workers, name="bench-gpu")
    try:
        ahead = 2 * (data.chunks_in_flight + 1)
        for step in range(ahead):  # the first compiles, and chunks are prepared meanwhile
            batch = collate(next(stream)[0])
            fed.first_batch_ms = fed.first_batch_ms or watch.ms()
            learner.step(batch, step)
        clock = step_clock(device)
        for step in range(ahead, ahead + steps):
            chunks, wait = next(stream)
            clock.data_is_here()
            waits.append(wait)
            lap = Stopwatch()
            batch = collate(chunks)
            fed.collate_ms += lap.ms() - collate.waited_ms
            learner.step(batch, step)
            clock.end_step()
        timed = clock.settled()
        fed.steps_ms = [step.ms for step in timed]
        fed.wait_ms = sum(wait.at_most(step.idle_ms).total_ms for wait, step in zip(waits, timed, strict=True))
        fed.replaced = int(stream.counters()["replacement_completed_count"])
    finally:
        stream.stop()
    return fed
