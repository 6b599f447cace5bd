"""Cost of sending patches as int16 fixed point or otherwise instead of float32, and time saved by scratch.

    python tests/benchmarks/bench_transport.py --json

*Patches*: phantoms, tiny encoder, B = 16, N = 64, 50 steps. The float32 patches come from ``data.extract_on: cuda`` on
CPU tensors, which rounds nothing; the ways of sending them are simulated by rounding those. *cut by the actors* are the
int16 patches of the pool actors' own kernel. Every way trains a learner of its own on the same batches from the same
weights; to tell what a difference in loss means, float32 trains once more from other weights ("another seed").
Errors are of half a window, whose values lie in [-1, 1].

*Scratch*: one 512 x 512 x 200 int16 CT (105 MB), opened from its .nii.gz (in the page cache) and mapped from scratch.
A map reads nothing by itself, so every page of it is touched. How often a scan is found on scratch in a running loader
is in bench_loader (``scratch_hit_rate``).
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from bench_step import phantom_scans
from harness import Row, Timing, at_least, at_most, circumstances, measure, parser, report

from prism_ssl.config.defaults import apply_overrides, phantom_cpu
from prism_ssl.config.schema import DataConfig, ExtractOn, PrismConfig
from prism_ssl.contracts import PATCH_PX, PATCH_SCALE, PreparedScan, PrismBatch
from prism_ssl.data.collate import Collator
from prism_ssl.data.phantoms.writer import full_size_ct, write_gz
from prism_ssl.data.pool.actor import PoolActor
from prism_ssl.data.pool.memory_plan import chunk_bytes
from prism_ssl.data.pool.scratch import ScratchStore
from prism_ssl.data.scan.nifti import OpenScan, open_scan
from prism_ssl.train.learner import Learner
from prism_ssl.train.run.loop_config import LoopConfig

Patches = Callable[[torch.Tensor], torch.Tensor]

STEPS, LAST_STEPS = 50, 10
SETTINGS = {"data.workers": 1, "data.deterministic": True, "data.visits_per_scan": 10, "train.lr_warmup_steps": 10}
ACTORS, ANOTHER_SEED = "int16, cut by the actors", "float32, another seed"
PAGE_BYTES = 4096


def _fixed_point(scale: int) -> Patches:
    return lambda patches: patches.mul(scale).round_().div_(scale)


WAYS: dict[str, tuple[int, Patches]] = {
    "float32": (4, lambda patches: patches),
    "float16": (2, lambda patches: patches.half().float()),
    "int16": (2, _fixed_point(PATCH_SCALE)),
    "uint8": (1, lambda patches: patches.add(1).mul_(127.5).round_().div_(127.5).sub_(1)),
}
"""Bytes a pixel, and what arrives of float32 patches in [-1, 1]."""


# ---------------------------------------------------------------------- patches
@dataclass(frozen=True)
class Errors:
    """Of the patches of one way against float32, in half windows."""

    largest: float
    rms: float

    @classmethod
    def of(cls, found: Sequence[PrismBatch], exact: Sequence[PrismBatch]) -> Errors:
        """Over all batches."""
        sides = ("patches_a", "patches_b")
        pairs = [(getattr(a, side), getattr(b, side)) for a, b in zip(found, exact, strict=True) for side in sides]
        off = [(a - b).double() for a, b in pairs]
        return cls(
            largest=max(float(one.abs().max()) for one in off),
            rms=statistics.mean(float(one.square().mean()) for one in off) ** 0.5,
        )


def batches_of(config: PrismConfig, scans: list[PreparedScan], folder: Path, on: ExtractOn) -> list[PrismBatch]:
    """The first batches of a pool over the scans; the same visits wherever they are cut out."""
    order = LoopConfig(
        config=config,
        shards=[scans],
        held_out=[],
        catalog=folder / "catalog.csv",
        run_dir=folder,
        scratch_folder=folder / "scratch",
        quarantine_file=folder / "quarantine.jsonl",
        checkpoint=None,
    )
    actor = PoolActor(scans, replace(order.actor_settings(), extract_on=on), f"bench-transport-{on}")
    collate = Collator(torch.device("cpu"), config.train.batch_size, config.data.n_patches, on)
    made = [collate([actor.next_chunk(config.train.batch_size)]) for _ in range(config.train.max_steps)]
    actor.close()
    return made


def sent(batches: Sequence[PrismBatch], way: Patches) -> list[PrismBatch]:
    """The batches as they arrive."""
    return [replace(one, patches_a=way(one.patches_a), patches_b=way(one.patches_b)) for one in batches]


def losses(config: PrismConfig, batches: Sequence[PrismBatch], seed: int = 0) -> list[float]:
    """Total loss of each step of a learner that begins with the weights of ``seed``."""
    torch.manual_seed(seed)
    learner = Learner(config, torch.device("cpu"))
    return [learner.step(batch, step).total.item() for step, batch in enumerate(batches)]


def apart(some: Sequence[float], other: Sequence[float]) -> float:
    """Mean difference of two loss curves over their last steps."""
    pairs = list(zip(some, other, strict=True))[-LAST_STEPS:]
    return statistics.mean(abs(a - b) for a, b in pairs)


def compare_ways(config: PrismConfig, folder: Path) -> tuple[dict[str, Any], list[Row]]:
    """Bytes, errors and losses of all ways."""
    scans = phantom_scans(folder / "phantoms", 8)
    cut = {on: batches_of(config, scans, folder, on) for on in get_args(ExtractOn)}
    exact = cut["cuda"]
    arrived = {name: sent(exact, way) for name, (_, way) in WAYS.items()} | {ACTORS: cut["cpu"]}
    errors = {name: Errors.of(batches, exact) for name, batches in arrived.items()}
    curves = {name: losses(config, batches) for name, batches in arrived.items()}
    curves[ANOTHER_SEED] = losses(config, exact, seed=1)
    differences = {name: apart(curve, curves["float32"]) for name, curve in curves.items()}
    facts: dict[str, dict[str, Any]] = {
        name: {
            "MB a pair at N = 1,024": _pair_mb(name),
            "largest error": f"{errors[name].largest:.2e}",
            "rms error": f"{errors[name].rms:.2e}",
            **_loss_facts(curves[name], differences[name]),
        }
        for name in arrived
    }
    facts["lattices instead of patches"] = {"MB a pair at N = 1,024": _pair_mb_uncut(), "and once a stay": "the volume"}
    facts[ANOTHER_SEED] = _loss_facts(curves[ANOTHER_SEED], differences[ANOTHER_SEED])
    return facts, _rows(errors, differences)


def _pair_mb(name: str) -> float:
    bytes_a_pixel = WAYS[name.partition(",")[0]][0]
    return round(2 * 1024 * PATCH_PX * PATCH_PX * bytes_a_pixel / 1e6, 2)


def _pair_mb_uncut() -> float:
    config = PrismConfig(data=DataConfig(phantom_subjects=1, workers=1, n_patches=1024, extract_on="cuda"))
    return round(chunk_bytes(config) / config.train.batch_size / 1e6, 3)


def _loss_facts(curve: Sequence[float], difference: float) -> dict[str, str]:
    return {
        f"loss, last {LAST_STEPS} of {len(curve)} steps": f"{statistics.mean(curve[-LAST_STEPS:]):.4f}",
        "its mean distance from float32's": f"{difference:.1e}",
    }


def _rows(errors: Mapping[str, Errors], differences: Mapping[str, float]) -> list[Row]:
    share = {name: difference / differences[ANOTHER_SEED] for name, difference in differences.items()}
    half_a_step = 0.5 / PATCH_SCALE
    return [
        at_most(
            "int16 fixed point: largest error",
            "half a step of its scale",
            1.01,
            errors["int16"].largest / half_a_step,
            "x",
        ),
        *(
            at_most(f"{name}: distance from float32's loss", "that of another seed", 0.1, share[name], "x")
            for name in ("int16", ACTORS)
        ),
    ]


# ---------------------------------------------------------------------- scratch
def compare_scratch(folder: Path, quick: bool) -> tuple[dict[str, Timing], list[Row]]:
    """A full-size scan opened, kept, and seen again."""
    path = write_gz(folder / "ct.nii.gz", full_size_ct(shape=(128, 128, 60) if quick else (512, 512, 200)))
    stats = open_scan(path).stats
    store = ScratchStore(folder / "scratch-full-size", "bench", 2**40)
    store.put("scan", open_scan(path, stats))

    def mapped() -> int:
        scan = store.get("scan")
        assert isinstance(scan, OpenScan)
        return int(scan.voxels.reshape(-1)[:: PAGE_BYTES // scan.voxels.itemsize].sum())

    def kept() -> None:
        another = ScratchStore(folder / "scratch-again", "bench", 2**40)
        another.put("scan", open_scan(path, stats))
        another.close()

    ways = {"opened from .nii.gz": lambda: open_scan(path, stats), "opened and kept on scratch": kept}
    timings = measure({**ways, "mapped from scratch, all pages touched": mapped}, repeats=2 if quick else 12, warmup=1)
    store.close()
    times = [timing.median_ms for timing in timings.values()]
    what = "a scan seen again, mapped from scratch"
    return timings, [at_least(what, "opened from its .nii.gz", 5, times[0] / times[2])]


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Both parts, report."""
    options = parser(__doc__).parse_args(arguments)
    where = circumstances()
    torch.set_num_threads(1)
    config = apply_overrides(phantom_cpu(), SETTINGS | {"train.max_steps": LAST_STEPS if options.quick else STEPS})
    with tempfile.TemporaryDirectory(prefix="bench_transport_") as name:
        facts, rows = compare_ways(config, Path(name))
        timings, scratch_rows = compare_scratch(Path(name), options.quick)
    return report("bench_transport", where, timings, rows + scratch_rows, options.json, facts)


if __name__ == "__main__":
    main()
