"""Driver of a sweep: one Ray cluster, one preflight, then every trial that is left to run."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import ray
from rich.console import Console

from prism_ssl.data.archive import Archive, SelectedScans, manifest_hash, prepare_archive, select_scans
from prism_ssl.data.pool import object_store_bytes
from prism_ssl.train.distributed.resources import require_resources, training_cpus
from prism_ssl.train.guards.stop_file import stop_file_of
from prism_ssl.train.logging import check_account
from prism_ssl.train.resume.starting_point import under_earlier
from prism_ssl.train.trainer import check_memory, describe_archive
from prism_ssl.utils.fs import OWNED_BY_PROCESSES, remove_stale_folders, temporary_root
from prism_ssl.utils.gpu_check import require_usable_gpus
from prism_ssl.utils.ray_cluster.session import dashboard_words, ray_session
from prism_ssl.utils.stop_signals import stop_file_interrupts
from prism_ssl.utils.time import format_duration
from tune.core24 import DesignPoint
from tune.sweep.console import OUTAGE_TRIALS, TrialView
from tune.sweep.folder import Sweep, largest
from tune.sweep.interruption import stop_signals_end_sweep
from tune.sweep.report import say
from tune.sweep.trial import TRIAL_CPUS, PendingCells, run_trials
from tune.sweep.wandb_callback import WandbTrials


def run_sweep(sweep: Sweep, pending: Sequence[DesignPoint], console: Console) -> bool:
    """Run the ``pending`` cells of a sweep, one at a time; returns whether it stopped before the others were tried.

    Failed trials are recorded in their run folders. A request to stop (Ctrl-C, SIGTERM, SIGUSR1, the file of
    ``stop_file_of``) ends the running trial and the sweep. An outage (``TrialView.outage``) ends the sweep.

    Raises:
        PrismError: no trial could begin: the catalogue or the W&B account is bad, or a memory plan does not fit.
        KeyboardInterrupt: the sweep was asked to stop before a trial began.
    """
    started, tmp_root = time.monotonic(), temporary_root(sweep.base.run.tmp_root)
    stop_file = stop_file_of(tmp_root)
    with ExitStack() as session:
        with stop_file_interrupts(stop_file):
            check_account(sweep.config(pending[0]))
            selected = select_scans(sweep.base, tmp_root)
            store_bytes = object_store_bytes(largest([sweep.config(point) for point in pending]))
            cpus = training_cpus(sweep.base) + TRIAL_CPUS
            dashboard = session.enter_context(ray_session(cpus, store_bytes, tmp_root, sweep.base.run.dashboard))
            if dashboard is not None:
                say(console, dashboard_words(dashboard))
            archive = _prepare(sweep, pending, selected, console)
        view, tracking = TrialView(sweep, console, len(pending)), WandbTrials(sweep, console)
        setup_s = time.monotonic() - started
        with stop_signals_end_sweep() as stop:
            try:
                cells = PendingCells(sweep, pending, lambda: stop_file.exists() or view.outage() is not None)
                run_trials(sweep, archive, cells, tmp_root, [view, tracking, stop])
            finally:
                view.close()
    for name in OWNED_BY_PROCESSES:  # Tune kills the processes of an interrupted trial before they clean up
        remove_stale_folders(tmp_root / name)
    interrupted = view.interrupted()
    if interrupted is not None:
        tracking.tell_end(interrupted)
    if view.overheads_s:
        say(
            console,
            f"{len(view.overheads_s)} trials in {format_duration(time.monotonic() - started)}: {setup_s:.1f} s before "
            f"the first one, then {median(view.overheads_s):.1f} s (median; at most {max(view.overheads_s):.1f} s) a "
            "trial in addition to its training",
        )
    outage = view.outage()
    if outage is not None:
        say(
            console,
            f"{OUTAGE_TRIALS} trials in a row failed by no fault of their own ({outage}); the sweep stops here, so "
            "that the others are not lost as well: when that is mended, run the same command again",
            "red",
        )
    return stop.requested or interrupted is not None or stop_file.exists() or outage is not None


def _prepare(sweep: Sweep, pending: Sequence[DesignPoint], selected: SelectedScans, console: Console) -> Archive:
    """Run all checks before the first trial, once for all trials."""
    require_resources(sweep.base, ray.cluster_resources())
    require_usable_gpus(sweep.base.train.num_workers, sweep.base.model.compile)
    cache_root = Path(sweep.base.run.root).absolute() / ".preflight"
    archive = prepare_archive(selected, sweep.base, cache_root, sweep.split())
    archive = _with_its_patients(sweep, archive, console)
    describe_archive(archive, sweep.base.data, console)
    say(console, _memory_plan(sweep, pending, archive))
    if sweep.note_archive(manifest_hash(itertools.chain(*archive.shards), archive.held_out), archive.counts()):
        say(console, "the scans differ from those of earlier trials; runs are not strictly comparable", "yellow")
    return archive


def _with_its_patients(sweep: Sweep, archive: Archive, console: Console) -> Archive:
    """The archive with every patient kept in training or held out as in earlier trials of the sweep.

    Raises:
        RunFolderError: the earlier trials were trained on another table.
    """
    archive, changes = under_earlier(archive, sweep.split(), f"sweep {sweep.name!r}", sweep.base)
    if changes is not None:
        say(console, changes, "yellow")
    sweep.note_split(archive.split)
    return archive


def _memory_plan(sweep: Sweep, pending: Sequence[DesignPoint], archive: Archive) -> str:
    """The largest memory plan; every cell is checked, so that none fails in the middle of the night."""
    plans = {point.name: check_memory(sweep.config(point), archive) for point in pending}
    name = max(plans, key=lambda name: plans[name].total_bytes)
    return f"largest {plans[name]}: trial {name}"
