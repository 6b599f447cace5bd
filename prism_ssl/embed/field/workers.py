"""Start the actors that embed points on the nodes of a cluster, and replace an actor that is lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from prism_ssl.embed.field.actor import PointWorker
from prism_ssl.errors import MachineTrouble


@dataclass(frozen=True)
class Seat:
    """CPUs and GPUs of a node: all of them, or those of one actor, which has a thread for each CPU."""

    node_id: str
    cpus: int
    gpus: int


@dataclass(frozen=True, eq=False)
class Worker:
    """An actor and its seat."""

    seat: Seat
    actor: Any


def seats(nodes: Sequence[Seat], scans: int) -> list[Seat]:
    """The seats of the actors for so many scans: at most one a scan, one a GPU (a CPU where no node has a GPU), and
    each within one node."""
    on_gpus = any(node.gpus for node in nodes)
    room = [min(node.gpus, node.cpus) if on_gpus else node.cpus for node in nodes]
    taken = [0] * len(nodes)
    for _ in range(min(scans, sum(room))):
        free = [number for number in range(len(nodes)) if taken[number] < room[number]]
        taken[max(free, key=lambda number: nodes[number].cpus / (taken[number] + 1))] += 1
    return [
        Seat(node.node_id, node.cpus // count, int(on_gpus))
        for node, count in zip(nodes, taken, strict=True)
        for _ in range(count)
    ]


class Workers:
    """Starts the actors of a job; needs Ray. ``arguments`` are those of ``PointWorker``, in the object store."""

    def __init__(self, arguments: Sequence[Any]) -> None:
        self._arguments = arguments

    def start(self, scans: int) -> list[Worker]:
        """The actors for so many scans; raises ``MachineTrouble`` where no node can hold one."""
        found = seats(_living_nodes(), scans)
        if scans and not found:
            raise MachineTrouble("no node of the Ray cluster has a CPU left to embed with; start one that has")
        return [self._worker(seat) for seat in found]

    def again(self, dead: Worker) -> Worker | None:
        """An actor in the place of one that is lost; None where its node is lost too."""
        ray.kill(dead.actor)  # it may live, and what it had computed be lost
        alive = any(node.node_id == dead.seat.node_id for node in _living_nodes())
        return self._worker(dead.seat) if alive else None

    def _worker(self, seat: Seat) -> Worker:
        kind: Any = ray.remote(PointWorker)
        one_thread = {"env_vars": {"OMP_NUM_THREADS": "1"}}  # the threads are ours: see encode
        here = NodeAffinitySchedulingStrategy(seat.node_id, soft=False)  # elsewhere it might wait for ever
        options = {"num_cpus": seat.cpus, "num_gpus": seat.gpus, "runtime_env": one_thread, "scheduling_strategy": here}
        return Worker(seat, kind.options(**options).remote(*self._arguments, seat.cpus))


def _living_nodes() -> list[Seat]:
    return [
        Seat(node["NodeID"], int(node["Resources"].get("CPU", 0)), int(node["Resources"].get("GPU", 0)))
        for node in ray.nodes()
        if node["Alive"]
    ]
