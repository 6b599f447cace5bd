"""Restart a run or sweep after a broken scan in strict mode: the scan is quarantined, and a checkpoint was written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from prism_ssl.contracts import RunSummary
from prism_ssl.errors import PrismError, ReplacementFailed
from prism_ssl.records.run_files import restarts_so_far, write_summary
from tune.core24 import DesignPoint
from tune.sweep.folder import Sweep


def is_safe_to_restart(summary: RunSummary | None) -> bool:
    """Whether the run failed only because of a broken scan, which is quarantined and left out after a restart."""
    if summary is None or summary.status != "failed":
        return False
    return (summary.cause or "").startswith(f"{ReplacementFailed.__name__}:")


def train_with_restarts(
    train: Callable[[], RunSummary], allowed: int, tell: Callable[[str], None], stopped: Callable[[], bool]
) -> RunSummary:
    """Train, and restart at most ``allowed`` times; returns the last summary. Each restart is reported by ``tell``.

    Strict mode stays strict. The summary counts all restarts, also of earlier commands. ``stopped``: whether the
    command was asked to stop meanwhile; then there is no restart.
    """
    summary, restarts = train(), 0
    while restarts < allowed and is_safe_to_restart(summary) and not stopped():
        restarts += 1
        tell(f"restart {restarts} of at most {allowed} (run.max_restarts): {summary.cause}")
        summary = dataclasses.replace(train(), restarts=summary.restarts + 1)
        write_summary(summary)
    return summary


def sweep_with_restarts(
    run: Callable[[Sequence[DesignPoint]], bool],
    sweep: Sweep,
    pending: Sequence[DesignPoint],
    tell: Callable[[str], None],
) -> bool:
    """Run the ``pending`` cells, then repeat those that failed on a broken scan, at most ``run.max_restarts`` times.

    ``run`` begins with a preflight, which leaves out quarantined scans, and returns whether it was asked to stop; so
    does this function. The summary of a cell counts its restarts. If a restart cannot begin, ``tell`` reports it, and
    the results so far stay.
    """
    interrupted, restarts, allowed = run(pending), 0, sweep.base.run.max_restarts
    while not interrupted and restarts < allowed:
        again = [point for point in pending if is_safe_to_restart(sweep.summary(point))]
        if not again:
            break
        restarts += 1
        names = ", ".join(point.name for point in again)
        tell(f"restart {restarts} of at most {allowed} (run.max_restarts), after a broken scan: {names}")
        before = [restarts_so_far(sweep.run_dir(point)) for point in again]
        try:
            interrupted = run(again)
        except KeyboardInterrupt:  # asked to stop before a trial began; finished ones are still ranked
            return True
        except PrismError as error:
            tell(f"no restart: {type(error).__name__}: {error}")
            break
        for summary, count in zip(map(sweep.summary, again), before, strict=True):
            if summary is not None:
                write_summary(dataclasses.replace(summary, restarts=count + 1))
    return interrupted
