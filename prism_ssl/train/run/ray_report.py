"""Report some scalars to Ray Train's own views, at checkpoints and evaluations.

A report waits until Ray's controller next polls its workers, every RAY_TRAIN_HEALTH_CHECK_INTERVAL_S: up to 0.2 s as
``fit`` sets it, up to 2 s by Ray's default. This follows from the interval and was not timed. So there is no report at
every step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from threading import Event

import ray.train
from ray.train.v2._internal.execution.callback import WorkerCallback

SHOWN = ("loss/total", "chance/total", "lr", "patches_per_sec_interval", "data_wait_share", "probe/proxy_quality")

_somebody_listens = Event()


class ReportCallback(WorkerCallback):
    """Ray Train's hook in the worker: from here on a controller takes reports."""

    def after_init_train_context(self) -> None:
        """Called in the worker, before its loop."""
        _somebody_listens.set()


def report_to_ray(global_step: int, values: Mapping[str, float]) -> str | None:
    """Report a step to Ray; all workers must call this. Does nothing when the loop runs without Ray Train.

    Returns the error text when the report failed: an outdated view must not end a training.
    """
    if not _somebody_listens.is_set():
        return None
    told = {name: values[name] for name in SHOWN if math.isfinite(values.get(name, math.nan))}
    try:
        ray.train.report({"global_step": global_step, **told})
    except Exception as error:  # noqa: BLE001  edge of a foreign service: becomes an event
        _somebody_listens.clear()
        return f"Ray's own views are no longer updated ({type(error).__name__}: {error})"
    return None
