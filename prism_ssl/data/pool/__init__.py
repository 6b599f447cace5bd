"""Keep scans open and serve pairs from them: the warm pool, its actor, scratch and memory plan."""

from prism_ssl.data.pool.actor import ActorSettings, PoolActor
from prism_ssl.data.pool.counters import join_counters
from prism_ssl.data.pool.memory_plan import (
    OBJECT_STORE_MIN_BYTES,
    MemoryPlan,
    check_mirror_fits,
    object_store_bytes,
    plan_memory,
    require_gpu,
)
from prism_ssl.data.pool.object_store import SpillWatch, spill_note
from prism_ssl.data.pool.opener import CLOSE_S
from prism_ssl.data.pool.other_series import with_other_series
from prism_ssl.data.pool.scene_source import SceneSource
from prism_ssl.data.pool.scratch import ScratchStore
from prism_ssl.data.pool.warm_pool import MIN_OPEN_SLOTS, PoolSettings, check_broken_share

__all__ = [
    "CLOSE_S",
    "MIN_OPEN_SLOTS",
    "OBJECT_STORE_MIN_BYTES",
    "ActorSettings",
    "MemoryPlan",
    "PoolActor",
    "PoolSettings",
    "SceneSource",
    "ScratchStore",
    "SpillWatch",
    "check_broken_share",
    "check_mirror_fits",
    "join_counters",
    "object_store_bytes",
    "plan_memory",
    "require_gpu",
    "spill_note",
    "with_other_series",
]
