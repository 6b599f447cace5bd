"""The driver's side of a sweep: one cluster, one preflight, then every trial that is left."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from types import FrameType

from rich.console import Console

from prism_ssl.data.archive import Archive, prepare_archive, select_scans
from prism_ssl.data.memory_plan import object_store_bytes
from prism_ssl.train.cluster import ray_session
from prism_ssl.train.trainer import check_memory, describe_archive, record_failure
from prism_ssl.utils.fs import temporary_root
from prism_ssl.utils.hashing import content_hash
from prism_ssl.utils.time import format_duration
from tune.core24 import DesignPoint
from tune.sweep import Sweep, largest
from tune.sweep_report import say
from tune.trial import TRIAL_CPUS, run_trials
from tune.trial_view import TrialView

_TRAINING_CPUS = 1


def run_sweep(sweep: Sweep, pending: Sequence[DesignPoint], console: Console) -> None:
    """Run the ``pending`` cells of a sweep, one at a time.

    Trials that fail are recorded as failed in their run folders; an interruption (Ctrl-C, SIGTERM) ends the sweep
    and the trial that runs.

    Raises:
        PrismError: no trial could begin: the catalogue is bad, or a trial's memory plan does not fit.
    """
    started, tmp_root = time.monotonic(), temporary_root(sweep.base.run.tmp_root)
    selected = select_scans(sweep.base, tmp_root)
    largest_config = largest([sweep.config(point) for point in pending])
    cpus = sweep.base.data.workers + _TRAINING_CPUS + TRIAL_CPUS
    with ray_session(cpus, object_store_bytes(largest_config), tmp_root), _terminated_is_interrupted():
        archive = prepare_archive(selected, sweep.base, Path(sweep.base.run.root).absolute() / ".preflight")
        describe_archive(archive, console)
        say(console, _memory_plan(sweep, pending, archive))
        if sweep.note_archive(_fingerprint(archive), archive.counts()):
            say(console, "the scans differ from those of earlier trials; runs do not strictly compare", "yellow")
        view = TrialView(sweep, console, pending)
        setup_s = time.monotonic() - started
        try:
            run_trials(sweep, pending, archive, tmp_root, [view])
        finally:
            view.close()
    _end_the_unfinished(sweep, pending)
    if view.overheads_s:
        say(
            console,
            f"{len(view.overheads_s)} trials in {format_duration(time.monotonic() - started)}: {setup_s:.1f} s before "
            f"the first one, then {median(view.overheads_s):.1f} s (median; at most {max(view.overheads_s):.1f} s) a "
            "trial beside its training",
        )


def _memory_plan(sweep: Sweep, pending: Sequence[DesignPoint], archive: Archive) -> str:
    """The largest plan; every cell is checked, so that none is refused in the middle of the night."""
    plans = {point.name: check_memory(sweep.config(point), archive) for point in pending}
    name = max(plans, key=lambda name: plans[name].total_bytes)
    return f"largest {plans[name]}: trial {name}"


def _fingerprint(archive: Archive) -> str:
    return content_hash(
        {
            "training": sorted(scan.record.scan_id for shard in archive.shards for scan in shard),
            "held_out": sorted(scan.record.scan_id for scan in archive.held_out),
        }
    )


def _end_the_unfinished(sweep: Sweep, pending: Sequence[DesignPoint]) -> None:
    for point in pending:
        summary = sweep.summary(point)
        if summary is not None and summary.status == "running":
            cause = "interrupted; the same command goes on from the trial's last checkpoint, if there is one yet"
            record_failure(sweep.run_dir(point), sweep.config(point), cause)


@contextmanager
def _terminated_is_interrupted() -> Iterator[None]:
    """SIGTERM (scancel, a time limit) as Ctrl-C, which Ray Tune ends well on."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
