"""Memory plan: pools, object store and scratch against the machine's limit, before the first step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import PATCH_PX, PLACE_POINTS, PreparedScan
from prism_ssl.errors import ConfigError, MemoryPlanTooBig

T = TypeVar("T")
GIB = 2**30
OBJECT_STORE_MIN_BYTES = 128 * 2**20
_ACTOR_BASE_BYTES = 170 * 2**20  # measured: a pool actor without its scans, shared pages split (rss: twice that)
_TRAINER_BASE_BYTES = 1200 * 2**20  # measured: Ray worker with torch imported, tiny preset on CPU
_DRIVER_BASE_BYTES = 500 * 2**20  # driver, GCS, raylet
_VOLUME_UNDER_WAY_BYTES = 512 * 512 * 512 * 2  # a large CT; the store is made before the scans are known


def chunk_bytes(config: PrismConfig) -> int:
    """Size of one chunk in the object store: float32 positions of n pairs, and int16 patches or float64 lattices."""
    n_patches, cut = config.data.n_patches, config.data.extract_on == "cpu"
    per_view = n_patches * 3 * 4 + (n_patches * PATCH_PX * PATCH_PX * 2 if cut else 3 * 6 * 8 + 3 * 4)
    return config.train.batch_size // config.data.workers * 2 * per_view


def probe_set_bytes(config: PrismConfig) -> int:
    """Size of the probe set in the training worker: int16 patches and float32 positions of every view."""
    asked = config.eval
    n_views = asked.probe_scans * asked.views_per_scan + asked.place_pairs * asked.place_draws * 2 * PLACE_POINTS
    return n_views * config.held_out_patches * (PATCH_PX * PATCH_PX * 2 + 3 * 4)


def object_store_bytes(config: PrismConfig) -> int:
    """Room for workers x (chunks in flight + 1) chunks, twice: a full store spills to disk and slows tenfold.

    With ``data.extract_on: cuda`` also for volumes that scratch cannot hold, in transit to the device.
    """
    data = config.data
    wanted = data.workers * (data.chunks_in_flight + 1) * chunk_bytes(config) * 2
    if data.extract_on == "cuda":
        wanted += data.workers * data.max_prefetch_replacements * _VOLUME_UNDER_WAY_BYTES
    return max(OBJECT_STORE_MIN_BYTES, wanted)


@dataclass(frozen=True)
class MemoryPlan:
    """Memory that a run will need, in bytes. Mapped scratch files are page cache and count as pool.

    ``mirror_bytes`` (``data.extract_on: cuda``) is memory of the GPU and no part of the total.
    """

    pool_bytes: int
    object_store_bytes: int
    base_bytes: int
    limit_bytes: int
    limit_source: str
    mirror_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """Pools, object store and processes together."""
        return self.pool_bytes + self.object_store_bytes + self.base_bytes

    def __str__(self) -> str:
        return (
            f"memory plan: open scans {self.pool_bytes / GIB:.1f} GiB + object store "
            f"{self.object_store_bytes / GIB:.1f} GiB + processes {self.base_bytes / GIB:.1f} GiB = "
            f"{self.total_bytes / GIB:.1f} GiB of {self.limit_bytes / GIB:.1f} GiB ({self.limit_source})"
            + (f"; on the GPU: volumes {self.mirror_bytes / GIB:.1f} GiB" if self.mirror_bytes else "")
        )


def plan_memory(
    config: PrismConfig,
    shards: Sequence[Sequence[PreparedScan]],
    limit_bytes: int,
    limit_source: str,
    workers_on_a_node: int | None = None,
) -> MemoryPlan:
    """The plan for the worst case: every slot, and every scan being opened, holds the shard's largest scans.

    With several training workers it is the plan of the node with the largest need, with ``workers_on_a_node`` of them
    (None: all) and their pool actors; ``mirror_bytes`` is that of the GPU with the largest need.

    Raises:
        MemoryPlanTooBig: it does not fit; the message gives the numbers and the settings to change.
    """
    data, workers = config.data, config.train.num_workers
    here = workers_on_a_node or workers
    nodes = _parts(shards, here, workers)
    # Deterministic pools keep a replacement that has landed until its slot's turn.
    beside_the_slots = data.warm_pool_size if data.deterministic else data.max_prefetch_replacements
    pool = max(sum(_largest_bytes(shard, data.warm_pool_size + beside_the_slots) for shard in node) for node in nodes)
    base = (
        len(nodes[0]) * (_ACTOR_BASE_BYTES + chunk_bytes(config))
        + here * _TRAINER_BASE_BYTES
        + probe_set_bytes(config)
        + _DRIVER_BASE_BYTES
    )
    store = object_store_bytes(config) * here // workers
    mirror = max(mirror_bytes(config, part) for part in _parts(shards, 1, workers))
    plan = MemoryPlan(pool, store, base, limit_bytes, limit_source, mirror)
    if plan.total_bytes > limit_bytes:
        raise MemoryPlanTooBig(
            f"{plan} does not fit; lower data.warm_pool_size ({data.warm_pool_size}), data.workers "
            f"({data.workers}) or train.batch_size ({config.train.batch_size}), or ask for more memory "
            "(run.memory_limit_bytes overrides what was found)"
        )
    return plan


def mirror_bytes(config: PrismConfig, shards: Sequence[Sequence[PreparedScan]]) -> int:
    """Volumes on the GPU in the worst case; 0 when views are cut out on the CPU.

    Every slot holds the shard's largest scans, and so do the slots that one chunk replaces.
    """
    data = config.data
    if data.extract_on == "cpu":
        return 0
    pairs_per_chunk = config.train.batch_size // data.workers
    slots = sum(_largest_bytes(shard, data.warm_pool_size) for shard in shards)
    return slots + max((_largest_bytes(shard, pairs_per_chunk) for shard in shards), default=0)


def check_mirror_fits(
    config: PrismConfig, shards: Sequence[Sequence[PreparedScan]], device_bytes: int, model_bytes: int
) -> None:
    """Raises ``MemoryPlanTooBig`` when volumes and model do not fit a GPU with ``device_bytes``."""
    volumes = mirror_bytes(config, shards)
    if volumes + model_bytes > device_bytes:
        raise MemoryPlanTooBig(
            f"data.extract_on is 'cuda': the volumes of all slots need {volumes / GIB:.1f} GiB of GPU memory and the "
            f"model {model_bytes / GIB:.1f} GiB (estimated), the GPU has {device_bytes / GIB:.1f} GiB; lower "
            f"data.warm_pool_size ({config.data.warm_pool_size}), data.workers ({config.data.workers}) or "
            f"train.batch_size ({config.train.batch_size}), set model.activation_checkpointing, or data.extract_on to "
            "'cpu'"
        )


def require_gpu(config: PrismConfig, gpus: float) -> None:
    """Raises ``ConfigError`` when views are to be cut out on a GPU and there is none."""
    if config.data.extract_on == "cuda" and not gpus:
        raise ConfigError(
            "data.extract_on is 'cuda' and there is no CUDA device for the training worker; "
            "ask for a GPU, or set data.extract_on to 'cpu'"
        )


def _parts(shards: Sequence[T], some: int, workers: int) -> list[Sequence[T]]:
    """The shards, grouped by ``some`` training workers each."""
    each = max(1, len(shards) * some // workers)
    return [shards[first : first + each] for first in range(0, len(shards), each)] or [[]]


def _largest_bytes(shard: Sequence[PreparedScan], count: int) -> int:
    return sum(sorted(map(_held_bytes, shard), reverse=True)[:count])


def _held_bytes(scan: PreparedScan) -> int:
    """A scan with the largest of the other series that may be open beside it."""
    return scan.volume_bytes + max((other.volume_bytes for other in scan.others), default=0)
