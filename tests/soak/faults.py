"""Faults of the soak test: each is injected into a running run and states the required response."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.soak.world import SoakRun, World, copy_of, put_back

_HIT_S, _HEAL_S = 25.0, 60.0

Arrange = Callable[[World, SoakRun, Random], bool]
"""True when the fault was met by the run."""


@dataclass(frozen=True)
class Passing:
    """A fault that a lenient run outlives."""

    name: str
    arrange: Arrange


@dataclass(frozen=True)
class Ending:
    """A fault that ends a run: with this exit code, this status, and a cause that begins so."""

    name: str
    arrange: Arrange
    code: int
    status: str
    cause: str | None
    settings: tuple[tuple[str, object], ...] = ()


# ---------------------------------------------------------------------- outlived
def kill_pool_actor(_world: World, run: SoakRun, rng: Random) -> bool:
    """As the kernel does when memory is short."""
    before = run.last_row.get("actor_restarts", 0)
    actors = run.descendants("PoolActor")
    if not actors:
        return False
    rng.choice(actors).kill()
    return run.wait_until("a restart", lambda: run.last_row.get("actor_restarts", 0) > before, _HEAL_S)


def archive_away(world: World, run: SoakRun, _rng: Random) -> bool:
    """The volume is unmounted until the run has noticed."""
    before = run.last_row.get("open_retries", 0)
    world.unmount()
    try:
        return run.wait_until("a retry", lambda: run.last_row.get("open_retries", 0) > before, _HIT_S)
    finally:
        world.mount()


def damaged_scan(world: World, run: SoakRun, rng: Random) -> bool:
    """Half of a file turns to zeros behind preflight's back; held-out scans are not read, so several are tried."""
    return _spoiled(world, run, rng, _zeros)


def hanging_scan(world: World, run: SoakRun, rng: Random) -> bool:
    """A read that never returns."""
    return _spoiled(world, run, rng, _pipe)


def server_drops(world: World, run: SoakRun, _rng: Random) -> bool:
    """W&B is away for 40 steps."""
    return _while_server(world, run, "drop")


def server_stalls(world: World, run: SoakRun, _rng: Random) -> bool:
    """W&B accepts requests and does not answer for 40 steps."""
    return _while_server(world, run, "stall")


PASSING = (
    Passing("pool actor killed", kill_pool_actor),
    Passing("archive away", archive_away),
    Passing("scan damaged", damaged_scan),
    Passing("scan hangs", hanging_scan),
    Passing("W&B drops connections", server_drops),
    Passing("W&B does not answer", server_stalls),
)


# ---------------------------------------------------------------------- ending
def _signal(number: signal.Signals) -> Arrange:
    def send(_world: World, run: SoakRun, _rng: Random) -> bool:
        run.send(number)
        return True

    return send


def _signal_to_all(number: signal.Signals) -> Arrange:
    def send(_world: World, run: SoakRun, _rng: Random) -> bool:
        os.killpg(run.process.pid, number)
        return True

    return send


def kill_worker(_world: World, run: SoakRun, _rng: Random) -> bool:
    """The training worker alone."""
    workers = run.descendants("TrainWorker")
    for worker in workers:
        worker.kill()
    return bool(workers)


def kill_any_actor(_world: World, run: SoakRun, rng: Random) -> bool:
    """In strict mode."""
    actors = run.descendants("PoolActor")
    if actors:
        rng.choice(actors).kill()
    return bool(actors)


def archive_stays_away(world: World, run: SoakRun, _rng: Random) -> bool:
    """For longer than the run is patient; it is back for the next one."""
    world.unmount()
    try:
        return run.wait_until("the end", lambda: run.process.poll() is not None, _HEAL_S)
    finally:
        world.mount()


STRICT = (("data__strict", True),)
ENDING = (
    Ending("nothing", lambda *_: True, 0, "ok", None),
    Ending("SIGUSR1 to the driver", _signal(signal.SIGUSR1), 75, "interrupted", "RunInterrupted"),
    Ending("SIGTERM to the driver", _signal(signal.SIGTERM), 75, "interrupted", "RunInterrupted"),
    Ending("Ctrl-C to the driver", _signal(signal.SIGINT), 75, "interrupted", "RunInterrupted"),
    Ending("SIGKILL to the driver", _signal(signal.SIGKILL), -9, "running", None),
    Ending("SIGKILL to the training worker", kill_worker, 1, "failed", "TrainWorkerDied"),
    Ending("pool actor killed, strict", kill_any_actor, 1, "failed", "PoolActorDied", STRICT),
    Ending("scan damaged, strict", damaged_scan, 1, "failed", "ReplacementFailed", STRICT),
    Ending(
        "archive stays away", archive_stays_away, 1, "failed", "ArchiveUnreachable", (("data__outage_patience_s", 2),)
    ),
)


# ---------------------------------------------------------------------- parts
def _spoiled(world: World, run: SoakRun, rng: Random, spoil: Callable[[Path], None]) -> bool:
    def hit() -> bool:
        return run.process.poll() is not None or run.last_row.get("replacement_failed_count", 0) > before

    before = run.last_row.get("replacement_failed_count", 0)
    for path in rng.sample(world.scans, 4):
        copy = copy_of(path)
        spoil(path)
        try:
            if run.wait_until(f"a failure of {path.name}", hit, _HIT_S / 2):
                return True
        finally:
            _let_go(path)
            put_back(path, copy)
    return False


def _zeros(path: Path) -> None:
    data, times = copy_of(path)
    put_back(path, (data[: len(data) // 2] + bytes(len(data) - len(data) // 2), times))


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _let_go(path: Path) -> None:
    """Readers that hang in a pipe find its end."""
    if path.is_fifo():
        with suppress(OSError):  # nobody reads
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))


def _while_server(world: World, run: SoakRun, fault: str) -> bool:
    step = run.last_row["global_step"]
    with world.server.failing("drop" if fault == "drop" else "stall"):
        return run.wait_until("40 steps", lambda: run.last_row["global_step"] >= step + 40, _HEAL_S)
