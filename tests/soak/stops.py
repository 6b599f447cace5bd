"""Stop a run at random moments, while it starts and while it trains, and compare it with an unbroken twin."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from tests.soak.world import LOG_EVERY, SoakRun, World, steps_of

EQUAL = ("pairs",)
"""Totals that follow from the number of steps."""
ALIKE = {
    "opened": 1.5,
    "steps_timed": 1.2,
    "wall_s": 3.0,
    "throughput_effective_patches_per_sec": 3.0,
    "total_step_time_ms_p50": 2.0,
}
"""Totals that depend on time, and by what factor they may differ on a machine that others use too."""
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGKILL)
_UP_TO_S, _STEPS_AFTER, _START_LIMIT_S, _END_LIMIT_S = 30.0, 100, 180.0, 300.0

Check = Callable[[bool, str], None]


def stop_and_go(world: World, stops: int, rng: Random, check: Check) -> Iterator[str]:
    """Stop the run ``stopped`` so many times, let it end, and compare its totals with those of the run ``unbroken``.

    A stop falls within ``_UP_TO_S``: stops of odd number after the start of the process, those of even number after
    the first row of steps that this process has trained. All signals but SIGKILL must end the run as ``interrupted``
    with exit code 75, whatever it is at.

    Yields:
        What happened, a line for each stop and one for the comparison.
    """
    for number in range(1, stops + 1):
        yield _stopped_once(world, number, rng, check)
    steps = max(_steps_done(world), LOG_EVERY) + _STEPS_AFTER
    totals = {name: _to_the_end(world, name, steps, check) for name in ("stopped", "unbroken")}
    yield _compare(totals["stopped"], totals["unbroken"], steps, check)


def _stopped_once(world: World, number: int, rng: Random, check: Check) -> str:
    after_s, sent = rng.uniform(0.1, _UP_TO_S), rng.choice(STOPS)
    before = _steps_done(world)
    run = SoakRun(world, "stopped", train__max_steps=10**7, tracking__mode="offline")
    status_before, training = _status(run), number % 2 == 0
    if training:
        trains = run.wait_until("a row of steps", lambda: len(run.steps) > len(run.before), _START_LIMIT_S)
        check(trains, f"stop {number}: no step within {_START_LIMIT_S:.0f} s; {_last_words(world)}")
    time.sleep(after_s)
    run.send(sent)
    sent_at = time.monotonic()
    code = run.end()
    took_s = time.monotonic() - sent_at
    expected = -signal.SIGKILL if sent == signal.SIGKILL else 75
    status = _status(run)
    what = f"stop {number}: {sent.name} {after_s:.1f} s after its {'first row' if training else 'start'}"
    check(code == expected, f"{what}: exit code {code}, not {expected}; {_last_words(world)}")
    if sent != signal.SIGKILL:
        # One that comes before the run is taken up again leaves the folder as the stop before has left it.
        check(status in ("interrupted", status_before), f"{what}: status {status}")
    check(_steps_done(world) >= before - 50, f"{what}: step {before} became {_steps_done(world)}")
    for left in world.left_behind():
        check(False, f"{what}: left behind: {left}")
    return f"{what} at step {_steps_done(world)}: {status}, exit code {code}, ended in {took_s:.0f} s"


def _status(run: SoakRun) -> str:
    return str(run.summary["status"]) if (run.folder / "summary.json").exists() else "no run folder yet"


def _to_the_end(world: World, name: str, steps: int, check: Check) -> dict[str, Any]:
    run = SoakRun(world, name, train__max_steps=steps, tracking__mode="offline")
    code = run.end(_END_LIMIT_S)
    summary = run.summary
    check((code, summary["status"]) == (0, "ok"), f"{name}: exit code {code}, {summary['status']}: {summary['cause']}")
    rows = run.steps
    check(rows == sorted(set(rows)), f"{name}: rows are repeated or out of order")
    return summary


def _compare(stopped: dict[str, Any], unbroken: dict[str, Any], steps: int, check: Check) -> str:
    """Counts of steps and pairs are equal; what depends on time and on luck is of the same size."""
    a, b = stopped["totals"], unbroken["totals"]
    check(stopped["steps_done"] == unbroken["steps_done"] == steps, "steps differ")
    check(set(a) == set(b), f"totals of one only: {sorted(set(a) ^ set(b))}")
    for name in EQUAL:
        check(name in a and a.get(name) == b.get(name), f"{name}: {a.get(name)} stopped, {b.get(name)} unbroken")
    for name, factor in ALIKE.items():
        x, y = a.get(name, 0.0), b.get(name, 0.0)
        check(x <= factor * y and y <= factor * x, f"{name}: {x:g} stopped, {y:g} unbroken")
    return f"totals after {steps} steps: " + ", ".join(
        f"{n} {a.get(n, 0):g} / {b.get(n, 0):g}" for n in (*EQUAL, *ALIKE)
    )


def _steps_done(world: World) -> int:
    return max(steps_of(world.root / "runs" / "stopped"), default=0)


def _last_words(world: World) -> str:
    return (world.root / "output.log").read_text()[-400:].replace("\n", " / ")
