"""Metrics that a pool actor exports to the dashboard."""

from __future__ import annotations

from typing import Final

from prism_ssl.utils.ray_cluster.metrics_port import Export

POOL_EXPORTS: Final = (
    Export("replacement_completed_count", "prism_pool_replacements_completed", "Scans that took a slot", "counter"),
    Export("replacement_failed_count", "prism_pool_replacements_failed", "Scans that could not be opened", "counter"),
    Export(
        "replacement_wait_time_ms_total",
        "prism_pool_replacement_wait_ms",
        "Time in which no slot could serve, because scans were being opened",
        "counter",
    ),
    Export("open_time_ms_total", "prism_pool_opening_ms", "Time spent opening scans, in the background", "counter"),
    Export("pool_turnover", "prism_pool_turnover", "Replacements over slots: how often the pool was renewed"),
    Export("open_scans", "prism_pool_open_scans", "Scans that are open"),
    Export("scans_opening", "prism_pool_scans_opening", "Scans being opened by the background threads"),
    Export("scratch_bytes", "prism_pool_scratch_bytes", "Decoded volumes kept as files"),
    Export("rss_bytes", "prism_pool_rss_bytes", "Memory of the process"),
)
"""The sources are the actor's counters."""
