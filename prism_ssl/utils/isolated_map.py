"""Crash-isolated Ray Data map: a task that dies loses only its own items, and so does a node.

Rows stream out as they are found. Needs a Ray session, and uses the whole cluster of that session.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray.data
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.util.annotations import RayDeprecationWarning

from prism_ssl.errors import MachineTrouble
from prism_ssl.utils.machine import usable_cpus

Item = dict[str, Any]
Pipeline = Callable[[ray.data.Dataset, int], ray.data.Dataset]
"""Maps a dataset of items to rows, with at most that many tasks at a time."""

_RESTARTS = 3
_STANDSTILL_S = 900.0  # of a job that has lost a node: longer than a task that reads from a slow archive
_LOOK_S = 5.0


def survey(items: Sequence[Item], key: str, pipeline: Pipeline, per_task: int, at_once: int) -> Iterator[Item]:
    """One row per item, in the order in which they are found; ``key`` matches rows to items.

    When a task or its node dies, its items are retried alone, one after another. An item that kills its task again has
    no row.

    Args:
        items: plain values.
        key: a field of items and rows, different for each item.
        pipeline: built from ``map_rows`` and ``map_in_actors``.
        per_task: items of one task.
        at_once: tasks at the same time.

    Raises:
        MachineTrouble: nodes were lost, and what is left of the cluster cannot go on.
    """
    left = {item[key]: item for item in items}
    for each, width in ((per_task, at_once), (1, 1)):
        for row in _one_pass(list(left.values()), pipeline, each, width):
            left.pop(row[key])
            yield row


def map_rows(dataset: ray.data.Dataset, function: Callable[[Item], Item], at_once: int) -> ray.data.Dataset:
    """Apply ``function`` to every row, in tasks of one CPU that are not retried when they die."""
    return _mapped(dataset, function, compute=ray.data.TaskPoolStrategy(size=at_once), num_cpus=1, max_retries=0)


def map_in_actors(
    dataset: ray.data.Dataset, kind: type, arguments: tuple[Any, ...], actors: int, gpus: float
) -> ray.data.Dataset:
    """Call ``kind(*arguments)`` with every row, in ``actors`` actors of so many GPUs, spread over the nodes; one that
    dies is restarted a few times, elsewhere if its node is lost.

    They hold no CPU: where a node is lost, those that move would take the CPUs that the tasks before them need.
    """
    again = {"max_restarts": _RESTARTS, "max_task_retries": _RESTARTS}
    strategy = ray.data.ActorPoolStrategy(size=actors)
    where = {"num_gpus": gpus, "num_cpus": 0, "scheduling_strategy": "SPREAD"}
    return _mapped(dataset, kind, fn_constructor_args=arguments, compute=strategy, **where, **again)


def _mapped(dataset: ray.data.Dataset, function: Any, **options: Any) -> ray.data.Dataset:
    with warnings.catch_warnings():
        # By default Ray Data retries a dead task forever. The parameters that prevent it are deprecated in 2.60 without
        # a successor; Ray is pinned.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        mapped: ray.data.Dataset = dataset.map(function, **options)
    return mapped


def tasks_at_once() -> int:
    """One for each CPU of the cluster; on this machine alone at most one for each core that there is.

    A local cluster may have more CPUs than cores: a run declares one for each of its processes.
    """
    cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
    return cpus if len(_living_nodes()) > 1 else min(cpus, usable_cpus())


def items_per_task(n_items: int, at_once: int, most: int) -> int:
    """Items per task: at most ``most``, and few enough that every task slot gets several tasks."""
    return min(most, max(1, n_items // (4 * at_once)))


def _one_pass(items: list[Item], pipeline: Pipeline, per_task: int, at_once: int) -> Iterator[Item]:
    if items:
        blocks = -(-len(items) // per_task)
        with _quiet_ray_data():
            yield from pipeline(
                ray.data.from_items(items, override_num_blocks=blocks), min(at_once, blocks)
            ).iter_rows()


@contextmanager
def _quiet_ray_data() -> Iterator[None]:
    """Ray Data without its own progress bars and plans; tasks may die without ending the job."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the context warns about its own defaults
        context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1
    context.custom_execution_callback_classes = [*context.custom_execution_callback_classes, _NodeWatch]
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with ray.data.DataContext.current(context), warnings.catch_warnings():
            # Ray warns of idle actors when every task died
            warnings.filterwarnings("ignore", "The minimum number of concurrent actors", UserWarning)
            yield
    finally:
        logger.setLevel(level)


class _NodeWatch(ExecutionCallback):
    """Ends a job that stands still after the loss of a node: Ray waits for ever for what only that node had."""

    def before_execution_starts(self, executor: Any) -> None:  # noqa: ARG002
        self._nodes, self._done = _living_nodes(), -1
        self._moved_at = self._looked_at = time.monotonic()

    def on_execution_step(self, executor: Any) -> None:
        now = time.monotonic()
        if now - self._looked_at < _LOOK_S:
            return
        self._looked_at = now
        done = sum(operator.metrics.num_tasks_finished for operator in executor._topology)
        if done != self._done:
            self._done, self._moved_at = done, now
        elif now - self._moved_at > _STANDSTILL_S and (lost := len(self._nodes - _living_nodes())):
            raise MachineTrouble(
                f"{lost} of {len(self._nodes)} nodes of the Ray cluster are lost, and the others have finished nothing "
                f"for {_STANDSTILL_S:g} s; run the same command again on a working cluster: it does what is left"
            )


def _living_nodes() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}
