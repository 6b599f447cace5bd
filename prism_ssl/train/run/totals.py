"""Counters of a run that has been resumed: what its attempts counted, together (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

SUMMED: Final = (
    "actor_restarts", "nonfinite_skipped_steps", "quota/removed_bytes", "quota/removed_inodes", "quota/failed_looks",
)  # fmt: skip
"""Counters that begin at 0 in every attempt. Those of the pools go on by themselves, see ``PoolActor``."""

LARGEST: Final = ("object_store_spilled_bytes",)
"""Counters of which the run has the largest that an attempt saw."""


def whole_run(before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    """The counters ``now`` of an attempt, with those that the run had ``before`` it; the others are what they are."""
    values = dict(now)
    values |= {name: before.get(name, 0.0) + now.get(name, 0.0) for name in SUMMED if name in before or name in now}
    values |= {name: max(before.get(name, 0.0), now.get(name, 0.0)) for name in LARGEST if name in before}
    return values


def carried(counters: Mapping[str, float]) -> dict[str, float]:
    """What of the counters of a whole run the next attempt must know."""
    return {name: counters[name] for name in (*SUMMED, *LARGEST) if name in counters}
