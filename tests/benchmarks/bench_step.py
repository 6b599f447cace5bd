"""Training steps per second fed by the live loader, against the same steps on one cached batch, on this CPU.

    python tests/benchmarks/bench_step.py --json

The project's own stream, collator and learner: tiny encoder, 2 pool actors over phantoms with replacement, a local Ray.
Blocks of fed and of cached steps take turns on one learner. The setting is compute-bound on purpose (one torch thread,
a batch that takes the model longer than one core needs to sample it), and still the actors and the model share the
machine's cores: where there are only two, part of what the fed steps lose is the model waiting for a core.

Of each block the first steps are not counted: fed ones find chunks that were prepared while the cached block ran, and
cached ones run while the actors prepare chunks to the limit of ``data.chunks_in_flight``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from harness import Row, Timing, at_least, at_most, circumstances, parser, report

from prism_ssl.config.defaults import apply_overrides, phantom_cpu
from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import PreparedScan, PrismBatch, ScanRecord
from prism_ssl.data.collate import Collator
from prism_ssl.data.phantoms.writer import write_phantoms
from prism_ssl.data.scan.nifti import open_scan
from prism_ssl.train.learner import Learner
from prism_ssl.utils.ray_cluster.session import ray_environment, ray_session
from prism_ssl.utils.time import Stopwatch

if TYPE_CHECKING:
    from prism_ssl.train.run.loop_config import LoopConfig

SETTINGS = {"data.n_patches": 128, "data.visits_per_scan": 40, "train.batch_size": 8, "train.torch_threads": 1}
STALL_MS = 2000.0
OBJECT_STORE_BYTES = 512 * 2**20
NOT_COUNTED = 4  # steps of a block: more than data.chunks_in_flight


@dataclass
class Steps:
    """Counted milliseconds a step, and what a fed step spent before the learner had its batch."""

    step_ms: list[float] = field(default_factory=list)
    wait_ms: list[float] = field(default_factory=list)
    collate_ms: list[float] = field(default_factory=list)


def phantom_scans(folder: Path, n_subjects: int) -> list[PreparedScan]:
    """Phantoms on disk, as preflight would hand them on."""
    write_phantoms(folder, n_subjects, seed=0)
    return [_prepared(path) for path in sorted(folder.rglob("*.nii.gz"))]


def _prepared(path: Path) -> PreparedScan:
    scan = open_scan(path)
    name = f"{path.parent.parent.name}-{path.parent.name}"
    record = ScanRecord(name, name, "CT", str(path), str(path.parent), path.parent.parent.name)
    x_mm, y_mm, z_mm = (float(mm) for mm in scan.spacing_mm)
    return PreparedScan(record, scan.stats, scan.voxels.nbytes, scan.shape, (x_mm, y_mm, z_mm))


class Trainer:
    """A learner, and its two ways to get a batch."""

    def __init__(self, config: PrismConfig, order: LoopConfig) -> None:
        from prism_ssl.data.sharded_dataset import PairStream  # imports Ray, whose settings main has made by now

        torch.set_num_threads(config.train.torch_threads or 1)
        torch.manual_seed(config.train.seed)
        device = torch.device("cpu")
        pairs = config.train.batch_size // config.data.workers
        self.learner = Learner(config, device)
        self.stream = PairStream(order.shards, order.actor_settings(), config.data, pairs, name="bench-step")
        self._collate = Collator(device, config.train.batch_size, config.data.n_patches)
        self._steps_done = 0
        self._cached = self._collate(next(self.stream)[0])

    def block(self, batch: Callable[[Steps], PrismBatch], n_steps: int, steps: Steps) -> float:
        """``n_steps`` counted steps; returns their mean in ms."""
        passed = Steps()
        for number in range(NOT_COUNTED + n_steps):
            counted = steps if number >= NOT_COUNTED else passed
            watch = Stopwatch()
            self.learner.step(batch(counted), self._steps_done)
            counted.step_ms.append(watch.ms())
            self._steps_done += 1
        return sum(steps.step_ms[-n_steps:]) / n_steps

    def fed(self, steps: Steps) -> PrismBatch:
        """The next batch of the stream."""
        watch = Stopwatch()
        chunks, _ = next(self.stream)
        steps.wait_ms.append(watch.lap_ms())
        batch = self._collate(chunks)
        steps.collate_ms.append(watch.ms())
        return batch

    def cached(self, _: Steps) -> PrismBatch:
        """The first batch, again and again."""
        return self._cached


def compare(trainer: Trainer, rounds: int, block: int) -> tuple[Steps, Steps, list[float]]:
    """Fed and cached steps in turns, and the fed rate over the cached one in each round."""
    fed, cached = Steps(), Steps()
    ratios: list[float] = []
    for number in range(rounds + 1):
        if number == 1:  # one round to warm up
            fed, cached, ratios = Steps(), Steps(), []
        fed_ms = trainer.block(trainer.fed, block, fed)
        ratios.append(trainer.block(trainer.cached, block, cached) / fed_ms)
    return fed, cached, ratios


def targets(fed: Steps, cached: Steps) -> list[Row]:
    """The rows of DESIGN 4 that this benchmark answers."""
    rate = sum(cached.step_ms) / sum(fed.step_ms)
    stalls = sum(wait > STALL_MS for wait in fed.wait_ms)
    return [
        at_least("training step, compute-bound", "the same steps on a cached batch", 0.95, rate, "of its rate"),
        at_most("stalls over 2 s after warm-up", "-", 0, stalls, "stalls"),
    ]


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Writes phantoms, starts a Ray of its own, measures, prints."""
    options = parser(__doc__).parse_args(arguments)
    where = circumstances()
    config = apply_overrides(phantom_cpu(), SETTINGS)
    with tempfile.TemporaryDirectory(prefix="bench_step_") as name, ray_environment(Path(name)):
        from prism_ssl.data.sharded_dataset import make_shards
        from prism_ssl.train.run.loop_config import LoopConfig

        folder = Path(name)
        shards = make_shards(phantom_scans(folder / "phantoms", 12), config.data.workers)
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
        with ray_session(config.data.workers + 1, OBJECT_STORE_BYTES, folder):
            trainer = Trainer(config, order)
            fed, cached, ratios = compare(trainer, *((1, 3) if options.quick else (10, 15)))
            counters = trainer.stream.counters()
            trainer.stream.stop()
    waited, collated, spent = sum(fed.wait_ms), sum(fed.collate_ms), sum(fed.step_ms)
    facts = {
        "setting": f"{config.model.preset} encoder, B {config.train.batch_size}, N {config.data.n_patches}, "
        f"{config.data.workers} actors, {config.train.torch_threads} torch thread; actors and model share the cores",
        "steps counted": len(fed.step_ms),
        "data-wait share": f"{waited / spent:.2%} of the fed time ({collated / spent:.2%} more to collate)",
        "longest wait": f"{max(fed.wait_ms):.0f} ms",
        "fed over cached rate, by round": ", ".join(f"{ratio:.3f}" for ratio in ratios),
        "scans replaced": int(counters["replacement_completed_count"]),
    }
    timings = {
        "step, fed by the loader": Timing.of(fed.step_ms),
        "of it waiting for data": Timing.of(fed.wait_ms),
        "of it collating": Timing.of(fed.collate_ms),
        "step, cached batch": Timing.of(cached.step_ms),
    }
    return report("bench_step", where, timings, targets(fed, cached), options.json, facts)


if __name__ == "__main__":
    main()
