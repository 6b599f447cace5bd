"""Combine the counters of all attempts of a resumed run (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

SUMMED: Final = (
    "actor_restarts", "nonfinite_skipped_steps", "quota/removed_bytes", "quota/removed_inodes", "quota/failed_looks",
)  # fmt: skip
"""Counters that begin at 0 in every attempt. Those of the pools continue by themselves, see ``PoolActor``."""

LARGEST: Final = ("object_store_spilled_bytes",)
"""Counters whose value for the run is the largest of its attempts."""


def whole_run(before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    """The counters ``now`` of an attempt combined with those ``before`` it; other counters stay as in ``now``."""
    values = dict(now)
    values |= {name: before.get(name, 0.0) + now.get(name, 0.0) for name in SUMMED if name in before or name in now}
    values |= {name: max(before.get(name, 0.0), now.get(name, 0.0)) for name in LARGEST if name in before}
    return values


def carried(counters: Mapping[str, float]) -> dict[str, float]:
    """The counters of a whole run that the next attempt needs."""
    return {name: counters[name] for name in (*SUMMED, *LARGEST) if name in counters}
