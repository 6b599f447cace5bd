"""Pairs per second of two pool actors on full-size scans with replacement, against their parts and other loaders.

    python tests/benchmarks/bench_loader.py --seconds 60 --json

12 files of one 512 x 512 x 300 int16 CT phantom (157 MB each), 4 slots an actor, 100 visits a scan, N = 1,024, batches
of 32. The consumer lives on the same cores: it copies each batch into one host buffer, as the collator does before a
transfer, and trains nothing. A run begins to count once every slot has been replaced twice; by then the chunks that
were prepared while the consumer waited for the first batch are gone, and scratch (where it is on) knows every scan.

*Parts*: opening one scan, 100 pairs of views, one copy into the object store, one copy out, in core time, each alone
between the windows in which the loader is counted; the target is what two cores would do at that price for as many
openings as there were. The parts are measured at their best: pairs of one scan, copies of memory that was just used.
*In place* they meet what a pool has (pairs of four scans in turn, copies out of the object store); the target is not
measured by that, but ``over_parts_in_place`` tells how much of a miss it explains.
*Other loaders*: MONAI's, TorchIO's and the plain torch one, see ``ready_made_loaders.py``. Of each the best of a few
settings takes turns with the pool on the same files, and is suspended in between.
*cores_used* tells how much of the machine others had; ``per_core_s_over_parts`` is the first target by CPU time.
"""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0")  # before Ray is imported
os.environ.pop("RAY_ADDRESS", None)

import numpy as np
import psutil
import ray
from harness import Row, Timing, at_least, at_most, circumstances, parser, percentile, report
from ready_made_loaders import INSTALL, LOADERS, Apart, Counted, Task, best_setting, missing

from prism_ssl.config.schema import DataConfig, PrismConfig, TrainConfig
from prism_ssl.contracts import PATCH_PX, PairChunk, PreparedScan, ScanRecord, VisitChunk, VisitKey
from prism_ssl.data.extract.cpu import extract_view
from prism_ssl.data.phantoms.writer import full_size_ct, write_gz
from prism_ssl.data.pool.actor import ActorSettings
from prism_ssl.data.pool.memory_plan import chunk_bytes, object_store_bytes
from prism_ssl.data.pool.scratch import ScratchStore
from prism_ssl.data.pool.warm_pool import PoolSettings
from prism_ssl.data.scan.nifti import OpenScan, open_scan
from prism_ssl.data.scan.volume_memory import VolumeMemory
from prism_ssl.data.sharded_dataset import NO_WAIT, PairStream, WaitCauses
from prism_ssl.data.views.view_pairs import draw_pair, pair_targets
from prism_ssl.utils.time import Stopwatch

Shape = tuple[int, int, int]

FULL_SHAPE: Shape = (512, 512, 300)
QUICK_SHAPE: Shape = (256, 256, 150)
WORKERS = 2
SCANS_PER_WORKER = 6
CONFIG = PrismConfig(
    data=DataConfig(phantom_subjects=1, workers=WORKERS, warm_pool_size=4), train=TrainConfig(batch_size=32)
)
PAIRS_PER_CHUNK = CONFIG.train.batch_size // WORKERS

SETTINGS = {"scratch off": (0, "open"), "scratch on": (2**40, "scratch hit")}
"""Scratch bytes, and which part then stands for opening a scan."""
ROUNDS = 6
STORE_CHUNKS = object_store_bytes(CONFIG) // chunk_bytes(CONFIG)
GOALS = {"a plain DataLoader": 12, "MONAI SmartCacheDataset": 5, "MONAI CacheDataset": 2, "TorchIO": 5}
"""Times their pairs per second."""
ROUNDS_A_TURN = 3
"""Rounds of the pool after which the other loaders have their turn."""


# ---------------------------------------------------------------------- scans
def make_scans(folder: Path, shape: Shape) -> list[PreparedScan]:
    """Copies of one phantom under different names, as preflight hands them on."""
    first = write_gz(folder / "scan-00.nii.gz", full_size_ct(shape=shape))
    opened = open_scan(first)
    scans = []
    for number in range(WORKERS * SCANS_PER_WORKER):
        path = folder / f"scan-{number:02d}.nii.gz"
        if path != first:
            shutil.copyfile(first, path)
        record = ScanRecord(path.stem, f"series-{number}", "CT", str(path), str(folder), f"subject-{number}")
        x, y, z = opened.spacing_mm
        scans.append(PreparedScan(record, opened.stats, opened.voxels.nbytes, opened.shape, (x, y, z)))
    return scans


# ---------------------------------------------------------------------- the loader
@dataclass
class LoaderRun:
    """What a loader did while it was counted. ``totals`` are the actors' counters and CPU seconds by process."""

    actors_up_s: float
    first_batch_s: float = 0.0
    seconds: float = 0.0
    wait_ms: list[float] = field(default_factory=list)
    copy_ms: list[float] = field(default_factory=list)
    causes: WaitCauses = NO_WAIT
    totals: dict[str, float] = field(default_factory=dict)
    memory_bytes: dict[str, int] = field(default_factory=dict)

    @property
    def pairs(self) -> int:
        """Pairs that reached the consumer's buffer."""
        return len(self.wait_ms) * CONFIG.train.batch_size

    @property
    def pairs_per_s(self) -> float:
        """By the clock."""
        return self.pairs / self.seconds

    @property
    def pairs_per_core_s(self) -> float:
        """By the CPU time of actors and consumer: what a neighbour on the same cores hardly changes."""
        return self.pairs / sum(self.totals[f"{name} cpu_s"] for name in ("actor 0", "actor 1", "consumer"))

    @property
    def pairs_per_open(self) -> float:
        """Above data.visits_per_scan: a slot serves on until its replacement has landed."""
        return self.pairs / max(self.totals["opened"], 1.0)

    def facts(self) -> dict[str, Any]:
        """The run in numbers."""
        opened = max(self.totals["opened"], 1)
        causes_ms = (self.causes.opening_ms, self.causes.sampling_ms, self.causes.transport_ms)
        return {
            "seconds": round(self.seconds, 1),
            "pairs_per_s": round(self.pairs_per_s, 1),
            "pairs_per_core_s": round(self.pairs_per_core_s, 1),
            "patches_per_s": round(self.pairs_per_s * 2 * CONFIG.data.n_patches),
            "object_store_bytes_per_s": round(self.pairs_per_s / PAIRS_PER_CHUNK * chunk_bytes(CONFIG)),
            "wait_ms": {f"p{percent}": round(percentile(self.wait_ms, percent), 1) for percent in (50, 95, 99, 100)},
            "wait_share": {
                name: round(ms / self.causes.total_ms, 3)
                for name, ms in zip(("opening", "sampling", "transport"), causes_ms, strict=True)
            },
            "copy_out_ms_median": round(statistics.median(self.copy_ms), 1),
            "actors_up_s": round(self.actors_up_s, 2),
            "first_batch_s": round(self.first_batch_s, 2),
            "pairs_per_open": round(self.pairs_per_open, 1),
            "replacements": round(self.totals["replacement_completed_count"]),
            "open_ms_mean": round(self.totals["open_time_ms_total"] / opened, 1),
            "scratch_hit_rate": round(self.totals["scratch_hits"] / opened, 3),
            "cores_used": {
                name.removesuffix(" cpu_s"): round(value / self.seconds, 2)
                for name, value in self.totals.items()
                if name.endswith(" cpu_s")
            },
            "memory_bytes": self.memory_bytes,
        }


class HostBuffer:
    """Memory of one batch that is written again and again; the only copy that a consumer with a GPU makes."""

    def __init__(self) -> None:
        pairs, n = CONFIG.train.batch_size, CONFIG.data.n_patches
        self.patches = np.zeros((pairs, 2, n, PATCH_PX, PATCH_PX), np.int16)
        self.positions_mm = np.zeros((pairs, 2, n, 3), np.float32)

    def fill(self, chunks: Sequence[VisitChunk]) -> None:
        """Copy a batch in."""
        for number, chunk in enumerate(chunks):
            assert isinstance(chunk, PairChunk), "the actors cut the views out"
            rows = slice(number * PAIRS_PER_CHUNK, (number + 1) * PAIRS_PER_CHUNK)
            self.patches[rows] = chunk.patches
            self.positions_mm[rows] = chunk.positions_mm


def actor_settings(folder: Path, scratch_bytes: int) -> ActorSettings:
    """As a run with CONFIG would give them."""
    data = CONFIG.data
    pool = PoolSettings(data.warm_pool_size, data.visits_per_scan, data.max_prefetch_replacements, True, False, seed=0)
    return ActorSettings(
        pool=pool,
        view=CONFIG.view,
        n_patches=data.n_patches,
        patch_mm=data.patch_mm,
        max_volume_bytes=CONFIG.preflight.max_volume_bytes,
        scratch_bytes=scratch_bytes,
        scratch_folder=str(folder / "scratch"),
        stall_timeout_s=data.stall_timeout_s,
    )


class LoaderUnderTest:
    """Two actors over the scans, warmed up as the module's docstring says; ``count`` adds to ``run``."""

    def __init__(self, scans: Sequence[PreparedScan], folder: Path, scratch_bytes: int) -> None:
        shards = [scans[worker::WORKERS] for worker in range(WORKERS)]
        settings, name = actor_settings(folder, scratch_bytes), f"bench-{scratch_bytes > 0}"
        starting = Stopwatch()
        self._stream = PairStream(shards, settings, CONFIG.data, PAIRS_PER_CHUNK, name)
        self._buffer = HostBuffer()
        self._processes = {
            f"actor {number}": psutil.Process(pid) for number, pid in enumerate(self._stream.process_ids)
        }
        self._processes["consumer"] = psutil.Process()
        self.run = LoaderRun(actors_up_s=starting.lap_ms() / 1e3)
        self._next()
        self.run.first_batch_s = starting.ms() / 1e3
        while self._stream.counters()["replacement_completed_count"] < 2 * WORKERS * CONFIG.data.warm_pool_size:
            self._next()

    def count(self, seconds: float) -> None:
        """Take batches for ``seconds``; those that were prepared while nobody asked are taken first, uncounted."""
        for _ in range(CONFIG.data.chunks_in_flight + 1):
            self._next()
        before = self._totals()
        watch = Stopwatch()
        while watch.ms() < seconds * 1e3:
            waited, copy_ms = self._next()
            self.run.causes += waited
            self.run.wait_ms.append(waited.total_ms)
            self.run.copy_ms.append(copy_ms)
        self.run.seconds += watch.ms() / 1e3
        for name, value in self._totals().items():
            self.run.totals[name] = self.run.totals.get(name, 0.0) + value - before.get(name, 0.0)
        self.run.memory_bytes = {f"{name} rss": process.memory_info().rss for name, process in self._processes.items()}

    def stop(self) -> None:
        """End the actors."""
        self._stream.stop()

    def _next(self) -> tuple[WaitCauses, float]:
        chunks, waited = next(self._stream)
        watch = Stopwatch()
        self._buffer.fill(chunks)
        return waited, watch.ms()

    def _totals(self) -> dict[str, float]:
        return {**self._stream.counters(), **_cpu_s(self._processes)}


def _cpu_s(processes: Mapping[str, psutil.Process]) -> dict[str, float]:
    """CPU seconds used so far by the given processes, and by everything else on the machine."""
    times = {name: process.cpu_times() for name, process in processes.items()}
    used = {f"{name} cpu_s": float(one.user + one.system) for name, one in times.items()}
    machine = psutil.cpu_times()
    busy = float(machine.user + machine.nice + machine.system + machine.irq + machine.softirq)
    return {**used, "everything else cpu_s": busy - sum(used.values())}


# ---------------------------------------------------------------------- its parts
class Parts:
    """Core time of the loader's parts, each alone, over all rounds of ``measure``."""

    def __init__(self, scan: PreparedScan, folder: Path) -> None:
        self._path, self._stats, self._folder = Path(scan.record.nifti_path), scan.stats, folder / "parts"
        self._memory = VolumeMemory(keep=1)  # an actor's: that of the scan before
        self._chunk, self._buffer = _full_chunk(), HostBuffer()
        self._scans = [self._open() for _ in range(CONFIG.data.warm_pool_size)]
        self._visits, self._turns = itertools.count(), itertools.count()
        self._samples_ms: dict[str, list[float]] = {}
        for _ in range(STORE_CHUNKS):  # the object store's memory is slow to write the first time
            ray.put(self._chunk)
        self._stored: list[PairChunk] = ray.get([ray.put(self._chunk) for _ in range(CONFIG.data.chunks_in_flight + 1)])
        self._pair()

    def measure(self, opens: int, pairs: int) -> None:
        """One more round."""
        scratch = ScratchStore(self._folder, "parts", 2**40)
        self._time("open", opens, self._open)
        self._time("open and keep on scratch", 1, lambda: scratch.put("scan", self._open()))
        self._time("scratch hit", opens, lambda: scratch.get("scan"))
        self._time("pair", pairs, self._pair)
        self._time("copy in", pairs // PAIRS_PER_CHUNK, lambda: ray.put(self._chunk))
        self._time("copy out", pairs // PAIRS_PER_CHUNK, lambda: self._buffer.fill([self._chunk]))
        self._time("pair, scans in turn", pairs, lambda: self._pair(next(self._turns)))
        self._time("copy out of the store", pairs // PAIRS_PER_CHUNK, self._copy_out_of_the_store)
        scratch.close()

    def timings(self) -> dict[str, Timing]:
        """Over all rounds."""
        return {f"{name}, alone": Timing.of(samples) for name, samples in self._samples_ms.items()}

    def pairs_per_s(self, opening: str, visits: float, in_place: bool = False) -> float:
        """What all cores would do if nothing were lost between the parts, with ``visits`` pairs for each opening."""
        median = {name: statistics.median(samples) for name, samples in self._samples_ms.items()}
        pair, copy_out = ("pair, scans in turn", "copy out of the store") if in_place else ("pair", "copy out")
        copies_ms = (median["copy in"] + median[copy_out]) / PAIRS_PER_CHUNK
        return WORKERS * visits / (median[opening] + visits * (median[pair] + copies_ms)) * 1e3

    def _open(self) -> OpenScan:
        return open_scan(self._path, self._stats, memory=self._memory)

    def _pair(self, turn: int = 0) -> None:
        key = VisitKey("scan", 0, next(self._visits))
        scan, data, row = self._scans[turn % len(self._scans)], CONFIG.data, key.visit % PAIRS_PER_CHUNK
        pair = draw_pair(scan.affine, scan.shape, scan.stats, CONFIG.view, data.n_patches, 0, key)
        for side, view in enumerate(pair):
            extract_view(scan, view, data.patch_mm, self._chunk.patches[row, side])
            self._chunk.positions_mm[row, side] = view.positions_mm
        pair_targets(*pair)

    def _copy_out_of_the_store(self) -> None:
        self._buffer.fill([self._stored[next(self._turns) % len(self._stored)]])

    def _time(self, name: str, repeats: int, call: Callable[[], object]) -> None:
        # Core time, not the clock: the same on a quiet machine, and a neighbour must not make the parts look slow.
        for _ in range(repeats):
            start = time.process_time()
            result = call()
            self._samples_ms.setdefault(name, []).append((time.process_time() - start) * 1e3)
            del result


def _full_chunk() -> PairChunk:
    pairs, n = PAIRS_PER_CHUNK, CONFIG.data.n_patches
    return PairChunk(
        patches=np.zeros((pairs, 2, n, PATCH_PX, PATCH_PX), np.int16),
        positions_mm=np.zeros((pairs, 2, n, 3), np.float32),
        center_delta_mm=np.zeros((pairs, 3), np.float32),
        rotation_delta_deg=np.zeros((pairs, 3), np.float32),
        window_delta=np.zeros((pairs, 2), np.float32),
        intensity_scale=np.zeros(pairs, np.float32),
        series_label=np.zeros(pairs, np.int64),
        subject_label=np.zeros(pairs, np.int64),
        center_a_mm=np.zeros((pairs, 3), np.float32),
        rotation_a_deg=np.zeros((pairs, 3), np.float32),
        window_a=np.zeros((pairs, 2), np.float32),
        window_known=np.ones(pairs, np.bool_),
        series_id=["series"] * pairs,
        visits=[VisitKey("scan", 0, 0)] * pairs,
        sight_bits=np.zeros((pairs, 2), np.uint8),
        blocked_ms=0.0,
        sampling_ms=0.0,
        counters={},
        cursor={},
        broken=[],
    )


# ---------------------------------------------------------------------- the whole
def rows_of(name: str, run: LoaderRun, parts_pairs_per_s: float, others_pairs_per_s: Mapping[str, float]) -> list[Row]:
    """The targets for one setting of the pool."""
    what, rate = f"loader, {name}", run.pairs_per_s
    rows = [at_least(what, "its parts alone on 2 cores", 0.85, rate / parts_pairs_per_s, "of their pairs/s")]
    for other, other_rate in others_pairs_per_s.items():
        rows.append(at_least(what, other, GOALS[other], rate / other_rate, "x its pairs/s"))
    spread = percentile(run.wait_ms, 99) / percentile(run.wait_ms, 50)
    return [
        *rows,
        at_most(f"{what}: p99 of the wait", "its p50", 3, spread, "x"),
        at_most(f"{what}: first batch", "actors up", 2, run.first_batch_s, "s"),
    ]


def main() -> dict[str, Any]:
    """Make the scans; choose the others' settings; loader, parts and others in turns, for each setting; report."""
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=60.0, help="counted seconds of the loader in each setting")
    options.add_argument(
        "--others", nargs="*", choices=LOADERS, default=list(LOADERS), help="these other loaders alone"
    )
    arguments = options.parse_args()
    shape, seconds, rounds = (QUICK_SHAPE, 4.0, 2) if arguments.quick else (FULL_SHAPE, arguments.seconds, ROUNDS)
    where, facts, rows, timings = circumstances(), dict[str, Any](), list[Row](), dict[str, Timing]()
    with tempfile.TemporaryDirectory(prefix="bench_loader_") as name, ExitStack() as running:
        folder = Path(name)
        scans = make_scans(folder, shape)
        task = Task(tuple(scan.record.nifti_path for scan in scans), scans[0].stats, CONFIG)
        facts["volume"] = f"{' x '.join(map(str, shape))} int16"
        with local_ray():
            others = start_others(arguments.others, task, None if arguments.quick else seconds / rounds, facts, running)
            for setting, (scratch_bytes, opening) in SETTINGS.items():
                run, parts, counted = in_turns(scans, folder, scratch_bytes, seconds / rounds, rounds, others)
                parts_rate = parts.pairs_per_s(opening, run.pairs_per_open)
                in_place = parts.pairs_per_s(opening, run.pairs_per_open, in_place=True)
                facts[setting] = {
                    **run.facts(),
                    "parts_pairs_per_s": round(parts_rate, 1),
                    "over_parts_in_place": round(run.pairs_per_s / in_place, 3),
                    "per_core_s_over_parts": round(WORKERS * run.pairs_per_core_s / parts_rate, 3),
                    "load_average": round(os.getloadavg()[0], 2),
                    "others_pairs_per_s": {name: round(one.pairs_per_s, 1) for name, one in counted.items()},
                    "others_pairs_per_core_s": {name: round(one.pairs_per_core_s, 1) for name, one in counted.items()},
                }
                # In its turns a loader has to fill its queue again, so it may do better alone.
                best = {name: max(one.pairs_per_s, others[name].alone_pairs_per_s) for name, one in counted.items()}
                rows += rows_of(setting, run, parts_rate, best)
                timings[f"wait per batch, {setting}"] = Timing.of(run.wait_ms)
                timings |= {f"{part} ({setting})": timing for part, timing in parts.timings().items()}
                del run, parts  # open scans: 0.6 GB
    return report("bench_loader", where, timings, rows, arguments.json, facts)


def start_others(
    names: Sequence[str], task: Task, seconds: float | None, facts: dict[str, Any], running: ExitStack
) -> dict[str, Apart]:
    """The named loaders, started and suspended, each at its best setting of those tried for ``seconds`` (None: one)."""
    absent, others = missing(), dict[str, Apart]()
    if absent:
        facts["not compared"] = f"{' and '.join(absent)}: not installed; {INSTALL}"
    for name in names:
        if name.startswith(tuple(absent)):
            continue
        settings = LOADERS[name]
        setting, reached = next(iter(settings)), dict[str, float]()
        if seconds is not None and len(settings) > 1:
            setting, reached = best_setting(settings, task, seconds)
        others[name] = Apart(settings[setting], task, alone_pairs_per_s=max(reached.values(), default=0.0))
        running.callback(others[name].stop)
        first = f"first batch after {others[name].first_batch_s:.1f} s"
        tried = f"; pairs/s when tried: {reached}" if reached else ""
        facts[f"{name} with"] = f"{setting}, {first}{tried}"
    return others


def in_turns(
    scans: Sequence[PreparedScan],
    folder: Path,
    scratch_bytes: int,
    seconds: float,
    rounds: int,
    others: Mapping[str, Apart],
) -> tuple[LoaderRun, Parts, dict[str, Counted]]:
    """Loader, parts and others, one after the other ``rounds`` times, so that a busy machine slows all of them."""
    loader, counted = LoaderUnderTest(scans, folder, scratch_bytes), defaultdict[str, Counted](Counted)
    try:
        parts = Parts(scans[0], folder)
        for turn in range(rounds):
            loader.count(seconds)
            parts.measure(opens=2, pairs=64)
            for name, other in others.items() if turn % ROUNDS_A_TURN == 0 else ():
                counted[name] += other.count(seconds)
    finally:
        loader.stop()
    return loader.run, parts, counted


@contextmanager
def local_ray() -> Iterator[None]:
    """A cluster of its own, its object store as large as a run with CONFIG would have it."""
    ray.init(
        address="local",
        num_cpus=WORKERS + 1,
        include_dashboard=False,
        object_store_memory=object_store_bytes(CONFIG),
        logging_level=logging.WARNING,
        log_to_driver=False,
    )
    try:
        yield
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
