"""Does it fit? Pools, object store and scratch against what the machine may give, before the first step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import PATCH_PX, PreparedScan
from prism_ssl.errors import MemoryPlanTooBig

GIB = 2**30
OBJECT_STORE_MIN_BYTES = 128 * 2**20
_ACTOR_BASE_BYTES = 300 * 2**20  # measured: Ray worker with numba, polars and nibabel imported, no scan open
_TRAINER_BASE_BYTES = 1200 * 2**20  # measured: Ray worker with torch imported, tiny preset on CPU
_DRIVER_BASE_BYTES = 500 * 2**20  # driver, GCS, raylet


def chunk_bytes(config: PrismConfig) -> int:
    """Size of one chunk in the object store: int16 patches and float32 positions of n pairs."""
    per_view = config.data.n_patches * (PATCH_PX * PATCH_PX * 2 + 3 * 4)
    return config.train.batch_size // config.data.workers * 2 * per_view


def probe_set_bytes(config: PrismConfig) -> int:
    """What the training worker keeps of held-out scans: int16 patches and float32 positions of every view."""
    n_views = config.eval.probe_scans * config.eval.views_per_scan
    return n_views * (config.eval.n_patches or config.data.n_patches) * (PATCH_PX * PATCH_PX * 2 + 3 * 4)


def object_store_bytes(config: PrismConfig) -> int:
    """Room for workers x (chunks in flight + 1) chunks, twice: a full store spills to disk and slows tenfold."""
    wanted = config.data.workers * (config.data.chunks_in_flight + 1) * chunk_bytes(config) * 2
    return max(OBJECT_STORE_MIN_BYTES, wanted)


@dataclass(frozen=True)
class MemoryPlan:
    """What a run will need, in bytes. Mapped scratch files are page cache and count as pool."""

    pool_bytes: int
    object_store_bytes: int
    base_bytes: int
    limit_bytes: int
    limit_source: str

    @property
    def total_bytes(self) -> int:
        """Everything together."""
        return self.pool_bytes + self.object_store_bytes + self.base_bytes

    def __str__(self) -> str:
        return (
            f"memory plan: open scans {self.pool_bytes / GIB:.1f} GiB + object store "
            f"{self.object_store_bytes / GIB:.1f} GiB + processes {self.base_bytes / GIB:.1f} GiB = "
            f"{self.total_bytes / GIB:.1f} GiB of {self.limit_bytes / GIB:.1f} GiB ({self.limit_source})"
        )


def plan_memory(
    config: PrismConfig, shards: Sequence[Sequence[PreparedScan]], limit_bytes: int, limit_source: str
) -> MemoryPlan:
    """The plan for the worst case: every slot, and every scan being opened, holds the shard's largest scans.

    Raises:
        MemoryPlanTooBig: it does not fit; the message gives the numbers and the knobs.
    """
    data = config.data
    pool = 0
    # Deterministic pools keep a replacement that has landed until its slot's turn.
    beside_the_slots = data.warm_pool_size if data.deterministic else data.max_prefetch_replacements
    for shard in shards:
        largest = sorted((scan.volume_bytes for scan in shard), reverse=True)
        pool += sum(largest[: data.warm_pool_size + beside_the_slots])
    base = len(shards) * _ACTOR_BASE_BYTES + _TRAINER_BASE_BYTES + probe_set_bytes(config) + _DRIVER_BASE_BYTES
    plan = MemoryPlan(pool, object_store_bytes(config), base, limit_bytes, limit_source)
    if plan.total_bytes > limit_bytes:
        raise MemoryPlanTooBig(
            f"{plan} does not fit; lower data.warm_pool_size ({data.warm_pool_size}), data.workers "
            f"({data.workers}) or train.batch_size ({config.train.batch_size}), or ask for more memory "
            "(run.memory_limit_bytes overrides what was found)"
        )
    return plan
