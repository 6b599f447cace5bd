"""Memory of two pool actors over 20,000 visits with replacement, against the memory plan.

    python tests/benchmarks/bench_memory.py --json

12 scans of 256 x 256 x 150 int16 (20 MB each), 4 slots an actor, 100 visits a scan, 32 patches a view: small views, so
that scans come and go about as often in a minute as in an hour of training. The pool breathes while it replaces
(a scan or two on the way), so medians over the first and the last 2,000 visits are compared, and the plan, which is for
the worst case, with the largest sample. *uss* is what a process has for itself, *rss* also what it shares (libraries,
mapped scratch), *pss* its part of that; the object store, which the plan counts for itself, is left out of all.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from bench_loader import CONFIG, WORKERS, actor_settings, local_ray, make_scans
from harness import Row, at_least, at_most, circumstances, parser, report

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import PreparedScan
from prism_ssl.data.pool.memory_plan import plan_memory
from prism_ssl.data.sharded_dataset import PairStream

SHAPE, QUICK_SHAPE = (256, 256, 150), (96, 96, 60)
N_PATCHES = 32
PAIRS_PER_CHUNK = 20
VISITS = 20_000
WINDOW = 2_000
SETTINGS = {"scratch off": 0, "scratch on": 2**40}


class Samples:
    """Bytes of all actors together, by kind, sample after sample."""

    def __init__(self, process_ids: list[int]) -> None:
        self._actors = [psutil.Process(pid) for pid in process_ids]
        self.bytes: dict[str, list[int]] = {"rss": [], "uss": [], "pss": []}

    def take(self) -> None:
        """One more sample."""
        infos = [actor.memory_full_info() for actor in self._actors]
        for kind, values in self.bytes.items():
            store = 0 if kind == "uss" else self._store_bytes(kind)
            values.append(sum(int(getattr(info, kind)) for info in infos) - store)

    def _store_bytes(self, kind: str) -> int:
        """Pages of the object store, which the plan counts for itself and which are touched for the first time late."""
        maps = (one for actor in self._actors for one in actor.memory_maps() if "plasma" in one.path)
        return sum(int(getattr(one, kind)) for one in maps)

    def growth(self, kind: str, window: int) -> float:
        """Last ``window`` samples over the first ones, less 1."""
        values = self.bytes[kind]
        return statistics.median(values[-window:]) / statistics.median(values[:window]) - 1


def run(scans: list[PreparedScan], folder: Path, scratch_bytes: int, visits: int) -> tuple[Samples, dict[str, float]]:
    """Samples from the first full pool on, one each batch, and the counters at the end."""
    shards = [scans[worker::WORKERS] for worker in range(WORKERS)]
    settings = replace(actor_settings(folder, scratch_bytes), n_patches=N_PATCHES)
    stream = PairStream(shards, settings, CONFIG.data, PAIRS_PER_CHUNK, f"bench-memory-{scratch_bytes > 0}")
    try:
        while stream.counters().get("opened", 0) < WORKERS * CONFIG.data.warm_pool_size:
            next(stream)
        samples, first = Samples(stream.process_ids), stream.counters()["pairs"]
        while stream.counters()["pairs"] < first + visits:
            next(stream)
            samples.take()
        return samples, stream.counters()
    finally:
        stream.stop()


def small_views(config: PrismConfig) -> PrismConfig:
    """The settings that the actors of this benchmark have."""
    train = replace(config.train, batch_size=WORKERS * PAIRS_PER_CHUNK)
    return replace(config, data=replace(config.data, n_patches=N_PATCHES), train=train)


def planned_actor_bytes(config: PrismConfig, scans: list[PreparedScan]) -> int:
    """Pools and actors of the memory plan, without its trainer, driver and object store."""
    shards = [scans[worker::WORKERS] for worker in range(WORKERS)]
    two, one, none = (plan_memory(config, shards[:count], 2**60, "no limit") for count in (2, 1, 0))
    assert two.base_bytes - one.base_bytes == one.base_bytes - none.base_bytes
    return two.pool_bytes + two.base_bytes - none.base_bytes


def main() -> dict[str, Any]:
    """Both settings of scratch, report."""
    arguments = parser(__doc__).parse_args()
    visits = VISITS // 20 if arguments.quick else VISITS
    window = min(WINDOW, visits // 4) // (WORKERS * PAIRS_PER_CHUNK)
    where, facts, rows = circumstances(), dict[str, Any](), list[Row]()
    with tempfile.TemporaryDirectory(prefix="bench_memory_") as name, local_ray():
        scans = make_scans(Path(name), QUICK_SHAPE if arguments.quick else SHAPE)
        planned = planned_actor_bytes(small_views(CONFIG), scans)
        facts |= {"volume_bytes": scans[0].volume_bytes, "visits": visits, "planned_bytes": planned}
        for setting, scratch_bytes in SETTINGS.items():
            samples, counters = run(scans, Path(name), scratch_bytes, visits)
            facts[setting] = {
                "replacements": counters["replacement_completed_count"],
                "first_bytes": {kind: round(statistics.median(s[:window])) for kind, s in samples.bytes.items()},
                "last_bytes": {kind: round(statistics.median(s[-window:])) for kind, s in samples.bytes.items()},
                "largest_bytes": {kind: max(values) for kind, values in samples.bytes.items()},
            }
            for kind in ("rss", "uss"):
                growth = 100 * samples.growth(kind, window)
                rows.append(at_most(f"{kind} of the actors, {setting}: growth", "the first full pool", 3, growth, "%"))
            share = planned / max(samples.bytes["pss"])
            rows += [
                at_most(f"memory plan, {setting}", "largest pss of the actors", 1.2, share, "x"),
                at_least(f"memory plan, {setting}", "largest pss of the actors", 0.8, share, "x"),
            ]
    return report("bench_memory", where, {}, rows, arguments.json, facts)


if __name__ == "__main__":
    main()
