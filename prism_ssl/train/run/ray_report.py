"""What Ray Train's and Tune's own views show of a run while it goes on: some scalars at checkpoints and evaluations.

A report waits until Ray's controller next looks at its workers, every RAY_TRAIN_HEALTH_CHECK_INTERVAL_S: up to 0.2 s as
``fit`` sets it, up to 2 s by Ray's default. This follows from the interval and was not timed. Therefore none at every
step.
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
    """Ray Train's hook in the worker: from now on there is a controller to report to."""

    def after_init_train_context(self) -> None:
        """In the worker, before its loop."""
        _somebody_listens.set()


def report_to_ray(global_step: int, values: Mapping[str, float]) -> str | None:
    """Tell of a step, by all workers alike; nothing where the loop is run without Ray Train.

    Returns why it could not be told: a view that is not up to date is no reason to end a training.
    """
    if not _somebody_listens.is_set():
        return None
    told = {name: values[name] for name in SHOWN if math.isfinite(values.get(name, math.nan))}
    try:
        ray.train.report({"global_step": global_step, **told})
    except Exception as error:  # noqa: BLE001  the edge of a foreign view: told as an event
        _somebody_listens.clear()
        return f"Ray's own views are told no more ({type(error).__name__}: {error})"
    return None
