"""The driver's summary.json of a run, where the training worker could not write it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import RunStatus, RunSummary
from prism_ssl.data.archive import Archive
from prism_ssl.errors import RunFolderError
from prism_ssl.records.run_files import (
    CHECKPOINT_FILE,
    is_probe,
    last_probe,
    read_history,
    read_summary,
    restarts_so_far,
    write_summary,
)
from prism_ssl.train.guards.unjudged_alarms import too_short_to_judge
from prism_ssl.train.logging import end_lost_run
from prism_ssl.train.record.recorder import last_losses
from prism_ssl.train.run.failure_cause import cause_of, is_about_others, is_death_by_machine
from prism_ssl.train.run.loop_config import LoopConfig

WORKER_RESTART = "worker_restart"
"""Event of the history: the machine killed a training worker, and the run resumed by itself."""


def was_cut_short(run_dir: Path, failure: BaseException | None) -> bool:
    """Whether the machine killed a training worker before the run ended, so that it may be started again.

    An end that the worker wrote (all steps done, asked to stop, an error) counts, whatever killed it afterwards.
    """
    summary = read_summary(run_dir)
    has_end = summary is not None and summary.status != "running" and not is_about_others(summary.cause)
    return is_death_by_machine(failure) and not has_end


def final_summary(order: LoopConfig, failure: BaseException | None, archive: Archive) -> RunSummary:
    """The worker's summary; where the worker could not write one, a summary made from its history.

    An end that the worker wrote counts, whatever its process died of afterwards.
    """
    summary = read_summary(order.run_dir)
    if stands := summary is not None and summary.status != "running":
        assert summary is not None
        if is_about_others(summary.cause):
            summary = dataclasses.replace(summary, cause=cause_of(failure))
    else:
        resumed_from = summary.resumed_from_step if summary else None
        summary = _unfinished(order.run_dir, order.config, _status(failure), cause_of(failure), resumed_from)
    tracking = summary.tracking or end_lost_run(order.config, order.run_dir, summary)
    unproven = {} if order.split.proven else {"held_out_unproven": 1.0}
    restarts = sum(row.get("event") == WORKER_RESTART for row in read_history(order.run_dir))
    totals = summary.totals | ({"worker_restarts": float(restarts)} if summary.totals or restarts else {})
    summary = dataclasses.replace(summary, data=archive.counts() | unproven, tracking=tracking, totals=totals)
    try:
        write_summary(summary)
    except RunFolderError:
        if not stands:
            raise
    return summary


def record_unfinished(
    run_dir: Path, config: PrismConfig, status: RunStatus, cause: str | None = None, resumed_from: int | None = None
) -> RunSummary:
    """Write the summary of a run that has not written its own, from its history."""
    summary = _unfinished(run_dir, config, status, cause, resumed_from)
    write_summary(summary)
    return summary


@contextmanager
def refusals_in_summary(run_dir: Path, config: PrismConfig) -> Iterator[None]:
    """Write a summary for a run that could not begin, or was interrupted before it trained.

    A summary that was written in the block and says how the run ended is kept, as is that of a run that had finished
    before.
    """
    before = read_summary(run_dir)
    try:
        yield
    except BaseException as error:
        now = read_summary(run_dir)
        if now is None or now.status == "running" or (now == before and now.status != "ok"):
            interrupted = isinstance(error, KeyboardInterrupt)
            cause = cause_of(error) if interrupted else f"{type(error).__name__}: {error}"
            record_unfinished(run_dir, config, _status(error), cause)
        raise


def _status(failure: BaseException | None) -> RunStatus:
    return "interrupted" if isinstance(failure, KeyboardInterrupt) else "failed"


def _unfinished(
    run_dir: Path, config: PrismConfig, status: RunStatus, cause: str | None, resumed_from: int | None
) -> RunSummary:
    history = read_history(run_dir)
    rows = [row for row in history if "event" not in row and not is_probe(row)]
    last = rows[-1] if rows else {}
    checkpoint = run_dir / CHECKPOINT_FILE
    return RunSummary(
        run=run_dir.name,
        status=status,
        cause=cause,
        steps_done=last.get("global_step", 0),
        max_steps=config.train.max_steps,
        resumed_from_step=resumed_from,
        run_dir=str(run_dir),
        checkpoint=str(checkpoint) if checkpoint.exists() else None,
        losses=last_losses(last),
        probe=last_probe(history),
        not_judged=too_short_to_judge(config, last["global_step"]) if rows else None,
        restarts=restarts_so_far(run_dir),
    )
