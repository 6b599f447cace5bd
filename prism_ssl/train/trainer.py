"""Driver of a run: folder, cluster, archive, memory plan, fit, summary."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import ray
from rich.console import Console

from prism_ssl.config.schema import DataConfig, PrismConfig
from prism_ssl.config.tracking_environment import settled, tracking_words
from prism_ssl.contracts import RunSummary
from prism_ssl.data.archive import Archive, prepare_archive, select_scans
from prism_ssl.data.catalog import modalities_in_words
from prism_ssl.data.holdout import Split
from prism_ssl.data.pool import MemoryPlan, object_store_bytes, plan_memory
from prism_ssl.records.run_files import HISTORY_FILE, LocalRecord, truncate_history
from prism_ssl.train.distributed.resources import require_resources, training_cpus, workers_on_a_node
from prism_ssl.train.fit import fit
from prism_ssl.train.guards.deletable_files import Places
from prism_ssl.train.guards.stop_file import sigusr1_asks_to_stop, stop_file_of
from prism_ssl.train.logging import check_account, wait_for_tracking_clients
from prism_ssl.train.quota_guard import admit
from prism_ssl.train.record.console import LiveView
from prism_ssl.train.record.driver_summary import (
    WORKER_RESTART,
    final_summary,
    record_unfinished,
    refusals_in_summary,
    was_cut_short,
)
from prism_ssl.train.record.pictures import Pictures
from prism_ssl.train.resume.initial_weights import drop_initial_weights, keep_initial_weights
from prism_ssl.train.resume.starting_point import StartingPoint, continued, starting_point
from prism_ssl.train.run.failure_cause import cause_of
from prism_ssl.train.run.folder import RunFolder, claim_run_folder, with_absolute_paths
from prism_ssl.train.run.loop_config import LoopConfig
from prism_ssl.train.run.split_warnings import split_warnings
from prism_ssl.utils.fs import home_folder, remove_stale_folders, temporary_root
from prism_ssl.utils.gpu_check import require_usable_gpus
from prism_ssl.utils.machine import memory_limit_bytes
from prism_ssl.utils.ray_cluster.session import dashboard_words, ray_session
from prism_ssl.utils.stop_signals import ignore_stop_signals, stop_file_interrupts, stop_signals_interrupt

_TASK_CPUS = 1  # for the tasks of preflight


def train(config: PrismConfig, console: Console) -> RunSummary:
    """Run (or resume) one training and return its summary, also when the run failed while training.

    SIGUSR1, SIGTERM, Ctrl-C and the file of ``stop_file_of`` make it write a checkpoint and end as ``interrupted``.

    Raises:
        PrismError: the run could not begin: settings, catalogue, checkpoint, run folder or memory plan are bad.
            The summary in the run folder names the error too.
        KeyboardInterrupt: the run was asked to stop before it trained; its summary, if it has one, says so too.
    """
    tmp_root = temporary_root(config.run.tmp_root)
    with ExitStack() as session:
        session.enter_context(stop_signals_interrupt())
        with stop_file_interrupts(stop_file_of(tmp_root)):
            # Before the folder is created: a table that cannot be used leaves no run folder behind.
            selected = select_scans(config, tmp_root) if config.data.catalog_path is not None else None
            folder, config = session.enter_context(_claimed_run(config, console))
            check_account(config)
            start = _begin_or_resume(folder, config, console)
            selected = selected or select_scans(config, tmp_root)
            cpus = training_cpus(config) + _TASK_CPUS
            dashboard = session.enter_context(
                ray_session(cpus, object_store_bytes(config), tmp_root, config.run.dashboard)
            )
            if dashboard is not None:
                console.print(dashboard_words(dashboard), markup=False, highlight=False, soft_wrap=True)
            require_resources(config, ray.cluster_resources())
            require_usable_gpus(config.train.num_workers, config.model.compile)
            archive = prepare_archive(selected, config, folder.path.parent / ".preflight", start.split)
            archive, earlier = _with_its_patients(archive, start, folder, config, console)
            describe_archive(archive, config.data, console)
            console.print(str(check_memory(config, archive)), markup=False, highlight=False, soft_wrap=True)
        with (
            LiveView(console, folder.path, start.step, config.train.max_steps),
            _pictures(folder, config, archive),
        ):
            with sigusr1_asks_to_stop(stop_file_of(tmp_root)):
                summary = _attempt(folder, config, archive, start, earlier, console)
            ignore_stop_signals()
        return summary


def _pictures(folder: RunFolder, config: PrismConfig, archive: Archive) -> AbstractContextManager[object]:
    if not config.run.pictures:
        return nullcontext()
    return Pictures(folder.path, config, min(archive.shards[0], key=lambda scan: scan.volume_bytes))


def train_on(archive: Archive, config: PrismConfig, console: Console) -> RunSummary:
    """As ``train``, in an existing Ray session, with the archive prepared and the account checked before."""
    with _claimed_run(config, console) as (folder, config):
        start = _begin_or_resume(folder, config, console)
        archive, earlier = _with_its_patients(archive, start, folder, config, console)
        return _attempt(folder, config, archive, start, earlier, console)


@contextmanager
def _claimed_run(config: PrismConfig, console: Console) -> Iterator[tuple[RunFolder, PrismConfig]]:
    """The folder of a run, and its settings with the tracking mode resolved."""
    # Once, here: a worker's environment may differ from the driver's.
    tracking, words = settled(config.tracking), tracking_words(config.tracking)
    folder = claim_run_folder(config)
    config = dataclasses.replace(with_absolute_paths(config), tracking=tracking)
    console.print(words, markup=False, highlight=False, soft_wrap=True)
    try:
        with refusals_in_summary(folder.path, config):
            places = Places(home_folder(), temporary_root(config.run.tmp_root), folder.path.parent)
            for note in admit(config.quota, places):
                console.print(note, style="yellow", markup=False, highlight=False, soft_wrap=True)
            yield folder, config
    finally:
        remove_stale_folders(temporary_root(config.run.tmp_root) / "scratch")
        folder.release()


def _attempt(
    folder: RunFolder,
    config: PrismConfig,
    archive: Archive,
    start: StartingPoint,
    earlier: Split | None,
    console: Console,
) -> RunSummary:
    """Fit; when the machine killed a training worker, restart from the last checkpoint, as often as allowed."""
    tmp_root, restarts = temporary_root(config.run.tmp_root), 0
    while True:
        order = _work_order(folder, config, archive, start, earlier)
        failure = fit(order, tmp_root)
        drop_initial_weights(folder.path)
        if not (was_cut_short(folder.path, failure) and restarts < config.train.max_worker_restarts):
            return final_summary(order, failure, archive)
        restarts += 1
        wait_for_tracking_clients(config)
        remove_stale_folders(order.scratch_folder)
        folder.look_again()
        start = _begin_or_resume(folder, config, console)
        archive, earlier = _with_its_patients(archive, start, folder, config, console)
        record = LocalRecord(folder.path)
        again = f"restart {restarts} of {config.train.max_worker_restarts} (train.max_worker_restarts)"
        record.event(start.step, WORKER_RESTART, f"{cause_of(failure)}; {again}, from step {start.step}")
        record.close()


def _work_order(
    folder: RunFolder, config: PrismConfig, archive: Archive, start: StartingPoint, earlier: Split | None
) -> LoopConfig:
    tmp_root = temporary_root(config.run.tmp_root)
    return LoopConfig(
        config=config,
        shards=archive.shards,
        held_out=archive.held_out,
        catalog=archive.catalog,
        run_dir=folder.path,
        scratch_folder=tmp_root / "scratch",
        quarantine_file=archive.quarantine_file,
        checkpoint=start.checkpoint,
        stop_file=stop_file_of(tmp_root),
        earlier=earlier,
    )


def _begin_or_resume(folder: RunFolder, config: PrismConfig, console: Console) -> StartingPoint:
    """Find the step at which the run starts or resumes, and print it."""
    start = starting_point(folder, config)
    if start.checkpoint is None:
        lineage = keep_initial_weights(folder.path, config.model)
        text = f"run {folder.name} starts at step 0 in {folder.path}"
        text += f", from {lineage.what} of run {lineage.run}" if lineage else ""
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    else:
        drop_initial_weights(folder.path)
        text = f"run {folder.name} resumes at step {start.step} from {start.source}"
        console.print(text, style="bold", markup=False, soft_wrap=True)
    if damaged := truncate_history(folder.path, start.step):
        text = f"{damaged} lines of {folder.path / HISTORY_FILE} could not be read and were removed"
        console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
    record_unfinished(folder.path, config, "running", resumed_from=start.step or None)
    return start


def _with_its_patients(
    archive: Archive, start: StartingPoint, folder: RunFolder, config: PrismConfig, console: Console
) -> tuple[Archive, Split | None]:
    """``continued``; changes are printed and recorded in the run's history."""
    archive, earlier, told = continued(archive, start, folder, config)
    if told is not None:
        console.print(told, style="yellow", markup=False, highlight=False, soft_wrap=True)
        record = LocalRecord(folder.path)
        record.event(start.step, "archive", told)
        record.close()
    return archive, earlier


def describe_archive(archive: Archive, data: DataConfig, console: Console) -> None:
    """Print how many scans are used, left out, rejected and held out."""
    counts, reasons = archive.counts(), archive.preflight.reasons
    rejected = f" ({', '.join(f'{reason} {n}' for reason, n in reasons.items())})" if reasons else ""
    left_out = archive.selection.left_out()
    why = f" ({', '.join(f'{reason} {n}' for reason, n in left_out.items())} left out)" if left_out else ""
    if "modality" in left_out:
        why += f"; modalities in the table: {modalities_in_words(archive.selection.modalities)}"
    generated = "generated phantoms, " if data.catalog_path is None else ""
    console.print(
        f"scans: {generated}{counts['scans_selected']:.0f} of {counts['catalog_rows']:.0f} catalogue rows selected"
        f"{why}, "
        f"{counts['scans_rejected']:.0f} rejected by preflight{rejected}, {counts['scans_training']:.0f} to train on, "
        f"{counts['scans_held_out']:.0f} held out; details in {archive.preflight_dir}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    assumed = [archive.selection.assumed] if archive.selection.assumed else []
    for note in (*assumed, *split_warnings(archive, data)):
        console.print(note, style="yellow", markup=False, highlight=False, soft_wrap=True)


def check_memory(config: PrismConfig, archive: Archive) -> MemoryPlan:
    """The run's memory plan; raises ``MemoryPlanTooBig`` when it does not fit."""
    limit, source = memory_limit_bytes()
    if config.run.memory_limit_bytes is not None:
        limit, source = config.run.memory_limit_bytes, "run.memory_limit_bytes"
    gpus = [node["Resources"].get("GPU", 0.0) for node in ray.nodes() if node["Alive"]]
    return plan_memory(config, archive.shards, limit, source, workers_on_a_node(config, gpus))
