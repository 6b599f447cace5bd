"""Begin again after a scan that broke in strict mode: it is quarantined by then, and a checkpoint was written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from prism_ssl.contracts import RunSummary
from prism_ssl.errors import ReplacementFailed
from prism_ssl.train.local_record import write_summary


def is_safe_to_restart(summary: RunSummary | None) -> bool:
    """Whether the run failed on a scan that a new start leaves out, by its quarantine, and on nothing else."""
    if summary is None or summary.status != "failed":
        return False
    return (summary.cause or "").startswith(f"{ReplacementFailed.__name__}:")


def train_with_restarts(train: Callable[[], RunSummary], allowed: int, tell: Callable[[str], None]) -> RunSummary:
    """The summary of the last start of at most ``1 + allowed``; strict mode stays strict, and each restart is told.

    How often it was begun again is counted in the summary, of its folder too.
    """
    summary, restarts = train(), 0
    while restarts < allowed and is_safe_to_restart(summary):
        restarts += 1
        tell(f"restart {restarts} of at most {allowed} (run.max_restarts): {summary.cause}")
        summary = dataclasses.replace(train(), restarts=restarts)
        write_summary(summary)
    return summary
