"""Prometheus metrics of a training worker, for the dashboard."""

from __future__ import annotations

from typing import Final

from prism_ssl.train.metrics import STALL_LIMITS_MS
from prism_ssl.utils.ray_cluster.metrics_port import Export, Kind

_STEP_MS_BUCKETS: Final = (10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0, 30000.0)
_LOSSES: Final = {
    name: f"/{name}" for name in ("total", "distance", "rotation", "window_center", "window_width", "supcon", "masked")
}


def _labelled(name: str, text: str, key: str, sources: dict[str, str], kind: Kind = "gauge") -> list[Export]:
    """One metric made of several scalars: ``sources`` maps values of the label ``key`` to scalars."""
    return [Export(source, name, text, kind, (key, value)) for value, source in sources.items()]


STEP_EXPORTS: Final = (
    Export("step_ms", "prism_train_step_ms", "Time of a step, waiting included", "histogram", buckets=_STEP_MS_BUCKETS),
    Export("global_step", "prism_train_step", "Steps done"),
)
"""Updated after every step."""

ROW_EXPORTS: Final = (
    Export("max_steps", "prism_train_max_steps", "Steps of the run"),
    Export("patches_per_sec_interval", "prism_train_patches_per_second", "Patches of both views, of all workers"),
    Export("data_wait_share", "prism_train_data_wait_share", "Share of the time spent waiting for data"),
    *_labelled(
        "prism_train_data_wait_ms",
        "Time that steps waited for data",
        "cause",
        {cause: f"data_wait_{cause}_ms_total" for cause in ("opening", "sampling", "transport")},
        "counter",
    ),
    *_labelled(
        "prism_train_stalls",
        "Steps after the warm-up that took at least this long",
        "at_least_ms",
        {str(limit_ms): f"stall_steps_ge_{limit_ms}ms" for limit_ms in STALL_LIMITS_MS},
        "counter",
    ),
    Export("chunks_ready", "prism_train_chunks_ready", "Chunks ready for training, of all workers"),
    Export("chunks_in_flight", "prism_train_chunks_in_flight", "Chunks requested, ready ones included, of all workers"),
    *_labelled("prism_train_loss", "Loss since the last row", "objective", {n: f"loss{s}" for n, s in _LOSSES.items()}),
    *_labelled("prism_train_chance", "Its chance level", "objective", {n: f"chance{s}" for n, s in _LOSSES.items()}),
    Export("alarms_raised", "prism_train_alarms", "Raised alarms"),
    Export("nonfinite_skipped_steps", "prism_train_nonfinite_steps", "Steps skipped: loss not finite", "counter"),
    Export("actor_restarts", "prism_train_actor_restarts", "Restarts of pool actors", "counter"),
    Export("coverage", "prism_train_coverage", "Share of the training scans seen"),
    *_labelled(
        "prism_train_gpu_memory_bytes",
        "Memory of the worker's GPU",
        "kind",
        {"allocated": "gpu_allocated_bytes", "reserved": "gpu_reserved_bytes", "peak": "gpu_peak_allocated_bytes"},
    ),
    Export("trainer_rss_bytes", "prism_train_rss_bytes", "Memory of the process"),
    Export("quota/home_bytes", "prism_quota_home_bytes", "Size of the home directory"),
    Export("quota/home_hard_bytes", "prism_quota_home_hard_bytes", "Home size at which a run is stopped"),
    Export("quota/tmp_free_bytes", "prism_quota_tmp_free_bytes", "Free space for temporary files"),
)
"""Updated with every row of the history: its scalars, and some that only the dashboard has."""
