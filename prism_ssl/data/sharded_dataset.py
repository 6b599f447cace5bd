"""Stream of chunks from sharded scans: one pool actor per shard, a few chunks in flight each."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from prism_ssl.config.schema import DataConfig
from prism_ssl.contracts import BrokenScan, PreparedScan, UncutChunk, VisitChunk
from prism_ssl.data.pool import (
    CLOSE_S,
    MIN_OPEN_SLOTS,
    ActorSettings,
    PoolActor,
    SpillWatch,
    check_broken_share,
    join_counters,
)
from prism_ssl.errors import BatchDoesNotFit, PoolActorDied, PoolStalled, PrismError
from prism_ssl.utils.fs import remove_stale_folders
from prism_ssl.utils.hashing import shard_worker, short_id
from prism_ssl.utils.time import Stopwatch

Cursors = list[dict[str, Any] | None]


def make_shards(scans: Sequence[PreparedScan], workers: int) -> list[list[PreparedScan]]:
    """The scans of each worker, by ``sha256(scan_id) mod workers`` (guide, section 6.3).

    Raises:
        BatchDoesNotFit: a worker would have fewer than two scans.
    """
    shards: list[list[PreparedScan]] = [[] for _ in range(workers)]
    for scan in sorted(scans, key=lambda scan: scan.record.scan_id):
        shards[shard_worker(scan.record.scan_id, workers)].append(scan)
    smallest = min(range(workers), key=lambda worker: len(shards[worker]))
    if len(shards[smallest]) < MIN_OPEN_SLOTS:
        raise BatchDoesNotFit(
            f"{len(scans)} training scans over {workers} workers leave worker {smallest} with "
            f"{len(shards[smallest])}; needed: {MIN_OPEN_SLOTS} each; lower data.workers or add scans"
        )
    return shards


@dataclass(frozen=True, slots=True)
class WaitCauses:
    """Time spent waiting for a batch, in ms, by cause: scans opening, sampling, or transport."""

    total_ms: float
    opening_ms: float
    sampling_ms: float
    transport_ms: float

    @classmethod
    def of(cls, waited_ms: float, chunk: VisitChunk) -> WaitCauses:
        """Attribute a wait to what the actor was doing; opening first, since a warm pool should hide it."""
        opening = min(waited_ms, chunk.blocked_ms)
        sampling = min(waited_ms - opening, chunk.sampling_ms)
        return cls(waited_ms, opening, sampling, waited_ms - opening - sampling)

    def at_most(self, limit_ms: float) -> WaitCauses:
        """The same causes, in proportion, of a wait that cost ``limit_ms`` at most."""
        share = min(1.0, limit_ms / self.total_ms) if self.total_ms > 0 else 1.0
        return WaitCauses(*(share * ms for ms in dataclasses.astuple(self)))

    def __add__(self, other: WaitCauses) -> WaitCauses:
        return WaitCauses(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

    def __sub__(self, other: WaitCauses) -> WaitCauses:
        return WaitCauses(*(a - b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))


def dashboard_name(name: str, number: int) -> str:
    """A pool actor's name in Ray: without the run's name, because it is shown at a port that is open to all."""
    return f"prism-pool-{number}-{short_id(name, length=6)}"


_CLOSE_TIMEOUT_S = CLOSE_S + 10.0  # and the time to remove its scratch files
_DEATHS = (RayActorError, OutOfMemoryError)
"""Errors of a dead actor; the second if Ray itself killed it because the node's memory was full."""

NO_WAIT = WaitCauses(0.0, 0.0, 0.0, 0.0)


class PairStream(Iterator[tuple[list[VisitChunk], WaitCauses]]):
    """Chunks of all pool actors, one of each per step, always in the order of the workers.

    Args:
        shards: scans of each worker.
        settings: for the actors; the scratch budget is divided among them.
        config: strictness, back-pressure and limits.
        pairs_per_chunk: pairs in a chunk (B / workers).
        name: prefix of the actors' names in Ray.
        cursors: per worker, where to continue (``cursors()`` of an earlier stream).
        on_broken: called with every scan that failed at run time (lenient mode).
        first_worker: number of the first of these workers, if others serve another stream of the same run.

    Raises (from ``next``):
        ReplacementFailed, PoolActorDied: strict mode.
        TooManyBrokenScans: lenient mode, past ``data.abort_broken_share``.
        ArchiveUnreachable, MachineTrouble, HostOutOfMemory: no scan is to blame.
        PoolStalled: no chunk for ``data.stall_timeout_s``.
    """

    def __init__(
        self,
        shards: Sequence[Sequence[PreparedScan]],
        settings: ActorSettings,
        config: DataConfig,
        pairs_per_chunk: int,
        name: str,
        cursors: Cursors | None = None,
        on_broken: Callable[[BrokenScan], None] | None = None,
        first_worker: int = 0,
    ) -> None:
        self._config, self._pairs, self._name, self._on_broken = config, pairs_per_chunk, name, on_broken
        self._first = first_worker
        self._settings = dataclasses.replace(settings, scratch_bytes=settings.scratch_bytes // len(shards))
        self._shards = [ray.put(list(shard)) for shard in shards]
        self._cursors: Cursors = list(cursors) if cursors else [None] * len(shards)
        self._counters: list[dict[str, float]] = [{} for _ in shards]
        self._restarts = [0] * len(shards)
        self._spill = SpillWatch()
        self._queues: list[deque[Any]] = [deque() for _ in shards]
        remove_stale_folders(Path(settings.scratch_folder))
        self._actors = [self._start_actor(worker) for worker in range(len(shards))]
        self.process_ids = [self._await_ready(worker) for worker in range(len(shards))]
        for worker in range(len(shards)):
            self._refill(worker)

    def __next__(self) -> tuple[list[VisitChunk], WaitCauses]:
        waits, chunks = NO_WAIT, []
        for worker in range(len(self._actors)):
            chunk, waited = self._take(worker)
            chunks.append(chunk)
            waits += waited
        self._check_broken()
        return chunks, waits

    def cursors(self) -> Cursors:
        """Per worker, the state after the last chunk that ``next`` returned."""
        return list(self._cursors)

    def counters(self) -> dict[str, float]:
        """Sums of the actors' running totals, with coverage and turnover."""
        told = {
            "actor_restarts": float(sum(self._restarts)),
            "object_store_spilled_bytes": float(self._spill.most_bytes()),
        }
        return join_counters([*self._counters, told])

    def queue(self) -> dict[str, float]:
        """How many chunks are in flight, and how many of them are ready."""
        asked = [reference for queue in self._queues for reference in queue]
        ready = ray.wait(asked, num_returns=len(asked), timeout=0, fetch_local=False)[0] if asked else []
        return {"chunks_in_flight": float(len(asked)), "chunks_ready": float(len(ready))}

    def stop(self) -> tuple[list[BrokenScan], list[str]]:
        """End the actors; returns the failures that no chunk had reported: broken scans, and actors that died."""
        broken: list[BrokenScan] = []
        died: list[str] = []
        goodbyes = [actor.close.remote() for actor in self._actors]
        for queue in self._queues:
            queue.clear()
        ray.wait(goodbyes, num_returns=len(goodbyes), timeout=_CLOSE_TIMEOUT_S)
        for worker, goodbye in enumerate(goodbyes):
            try:
                broken += ray.get(goodbye, timeout=0)
            except (*_DEATHS, RayTaskError, GetTimeoutError) as error:
                died.append(f"{self._called(worker)} did not close: {type(error).__name__}")
        for actor in self._actors:
            ray.kill(actor)
        return broken, died

    # ------------------------------------------------------------------ one worker
    def _take(self, worker: int) -> tuple[VisitChunk, WaitCauses]:
        watch = Stopwatch()
        while True:
            try:
                chunk = self._get(worker)
                break
            except (*_DEATHS, FileNotFoundError) as error:
                self._revive(worker, error)
        waited = WaitCauses.of(watch.ms(), chunk)
        self._queues[worker].popleft()
        self._refill(worker)
        self._cursors[worker], self._counters[worker] = chunk.cursor, chunk.counters
        if self._on_broken is not None:
            for broken in chunk.broken:
                self._on_broken(broken)
        return chunk, waited

    def _get(self, worker: int) -> VisitChunk:
        reference, limit_s = self._queues[worker][0], self._config.stall_timeout_s
        try:
            chunk: VisitChunk = ray.get(reference, timeout=limit_s)
        except GetTimeoutError:
            message = f"{self._called(worker)} gave no chunk for {limit_s:.0f} s (data.stall_timeout_s)"
            raise PoolStalled(message) from None
        except RayTaskError as error:
            if isinstance(error.cause, PrismError):
                raise error.cause from None
            raise
        if isinstance(chunk, UncutChunk):
            chunk.map_volumes()  # map now: if the actor dies after this, its files are removed
        return chunk

    def _refill(self, worker: int) -> None:
        while len(self._queues[worker]) < self._config.chunks_in_flight:
            self._queues[worker].append(self._actors[worker].next_chunk.remote(self._pairs))

    def _start_actor(self, worker: int) -> Any:
        remote = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(PoolActor)
        restarts = f"-r{self._restarts[worker]}" if self._restarts[worker] else ""
        name = f"{self._name}-pool-{self._first + worker}{restarts}"
        shown = dashboard_name(name, self._first + worker)
        return remote.options(scheduling_strategy=self._beside_me(), name=shown).remote(
            self._shards[worker], self._settings, name, self._cursors[worker], self._first + worker
        )

    def _beside_me(self) -> NodeAffinitySchedulingStrategy:
        """Schedule on the consumer's node, where chunks pass through memory and not the network.

        Explicit, because the placement group of a Tune trial would otherwise keep the actor pending forever.
        """
        # Volumes are passed as file names, which another node cannot open.
        elsewhere = self._config.extract_on == "cpu"
        return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=elsewhere)

    def _called(self, worker: int) -> str:
        return f"pool actor {self._first + worker}"

    def _await_ready(self, worker: int) -> int:
        try:
            process_id: int = ray.get(self._actors[worker].ready.remote(), timeout=self._config.stall_timeout_s)
        except GetTimeoutError:
            raise PoolStalled(
                f"{self._called(worker)} did not start within {self._config.stall_timeout_s:.0f} s; it needs 1 CPU, "
                f"available: {ray.available_resources().get('CPU', 0):.0f}; lower data.workers or free CPUs"
            ) from None
        except _DEATHS as error:
            raise PoolActorDied(f"{self._called(worker)} could not be started: {error}") from None
        return process_id

    def _revive(self, worker: int, error: RayError | FileNotFoundError) -> None:
        """Start a new actor that continues after the last chunk that was consumed.

        Only in lenient mode, or if the actor lives but a file that it had handed over is gone.
        """
        what = f"{self._called(worker)} (process {self.process_ids[worker]}) died"
        if self._config.strict and not isinstance(error, FileNotFoundError):
            raise PoolActorDied(
                f"{what} (killed, or out of memory?) and data.strict is on; "
                "look at the system's log, lower data.warm_pool_size, or set data.strict=False to restart it"
            ) from error
        if self._restarts[worker] == self._config.max_actor_restarts:
            raise PoolActorDied(f"{what} after {self._restarts[worker]} restarts (data.max_actor_restarts)") from error
        self._restarts[worker] += 1
        ray.kill(self._actors[worker])  # it still lives if only its files are gone
        remove_stale_folders(Path(self._settings.scratch_folder))
        self._queues[worker].clear()
        self._actors[worker] = self._start_actor(worker)
        self.process_ids[worker] = self._await_ready(worker)
        self._refill(worker)

    def _sum(self, name: str) -> float:
        return sum(counters.get(name, 0.0) for counters in self._counters)

    def _check_broken(self) -> None:
        check_broken_share(
            self._sum("opened"),
            self._sum("replacement_failed_count"),
            self._config.abort_broken_share,
            self._config.abort_after_opens,
        )
