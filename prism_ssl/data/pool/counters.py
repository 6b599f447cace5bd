"""Sum all actors' counters; recompute coverage and turnover."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def join_counters(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Sums of the running totals, with coverage and turnover recomputed from the sums."""
    names = {name for part in parts for name in part}
    total = {name: sum(part.get(name, 0.0) for part in parts) for name in sorted(names)}
    total["coverage"] = total.get("scans_seen", 0.0) / max(total.get("scans_in_shard", 0.0), 1.0)
    total["pool_turnover"] = total.get("replacement_completed_count", 0.0) / max(total.get("slots", 0.0), 1.0)
    return total
