"""The driver's side of a run: folder, cluster, archive, memory plan, TorchTrainer, summary."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import ray
from ray.train import TrainingFailedError, UserCallback, WorkerGroupError
from ray.train.torch import TorchConfig
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.torch.torch_trainer import TorchTrainer
from rich.console import Console

from prism_ssl.config.schema import PrismConfig
from prism_ssl.config.tracking_environment import settled, tracking_words
from prism_ssl.contracts import RunStatus, RunSummary
from prism_ssl.data.archive import Archive, prepare_archive, select_scans
from prism_ssl.data.holdout import Split
from prism_ssl.data.memory_plan import MemoryPlan, object_store_bytes, plan_memory
from prism_ssl.train.console import LiveView
from prism_ssl.train.failures import cause_of, is_about_others, root_failure
from prism_ssl.train.leftovers import Places
from prism_ssl.train.local_record import (
    CHECKPOINT_FILE,
    HISTORY_FILE,
    LocalRecord,
    is_probe,
    last_probe,
    read_history,
    read_summary,
    truncate_history,
    write_summary,
)
from prism_ssl.train.logging import check_account, end_lost_run
from prism_ssl.train.pictures import Pictures
from prism_ssl.train.quota_guard import admit
from prism_ssl.train.recorder import last_losses
from prism_ssl.train.resources import require_resources, training_cpus, workers_on_a_node
from prism_ssl.train.resume import StartingPoint, continued, starting_point
from prism_ssl.train.run_folder import RunFolder, claim_run_folder, with_absolute_catalog
from prism_ssl.train.stop_file import sigusr1_asks_to_stop, stop_file_of
from prism_ssl.train.stop_request import StopBetweenSteps, sigterm_as_ctrl_c
from prism_ssl.train.train_loop import train_loop
from prism_ssl.train.work_order import WorkOrder
from prism_ssl.utils.fs import owned_folder, remove_stale_folders, temporary_root
from prism_ssl.utils.machine import memory_limit_bytes
from prism_ssl.utils.ray_session import ray_session

_TASK_CPUS = 1  # for the tasks of preflight


def train(config: PrismConfig, console: Console) -> RunSummary:
    """Run (or resume) one training and return its summary; a run that failed while training returns too.

    SIGUSR1, SIGTERM, Ctrl-C and the file of ``stop_file_of`` ask it to checkpoint and to end as ``interrupted``.

    Raises:
        PrismError: it could not begin: settings, catalogue, checkpoint, run folder or memory plan are bad.
            The summary in the run folder then says so as well.
    """
    tmp_root = temporary_root(config.run.tmp_root)
    # Before there is a folder: a table that cannot be used leaves no run behind.
    selected = select_scans(config, tmp_root) if config.data.catalog_path is not None else None
    with _claimed_run(config, console) as (folder, config):
        check_account(config)
        start = _begin_or_resume(folder, config, console)
        selected = selected or select_scans(config, tmp_root)
        session = ray_session(training_cpus(config) + _TASK_CPUS, object_store_bytes(config), tmp_root)
        with session, sigusr1_asks_to_stop(stop_file_of(tmp_root)):
            require_resources(config, ray.cluster_resources())
            archive = prepare_archive(selected, config, folder.path.parent / ".preflight", start.split)
            archive, earlier = _with_its_patients(archive, start, folder, config, console)
            describe_archive(archive, console)
            console.print(str(check_memory(config, archive)), highlight=False, soft_wrap=True)
            with (
                LiveView(console, folder.path, start.step, config.train.max_steps),
                Pictures(folder.path, config, min(archive.shards[0], key=lambda scan: scan.volume_bytes)),
            ):
                return _attempt(folder, config, archive, start, earlier)


def train_on(archive: Archive, config: PrismConfig, console: Console) -> RunSummary:
    """As ``train``, with an archive prepared and an account checked before, in the Ray session that is there."""
    with _claimed_run(config, console) as (folder, config):
        start = _begin_or_resume(folder, config, console)
        archive, earlier = _with_its_patients(archive, start, folder, config, console)
        return _attempt(folder, config, archive, start, earlier)


@contextmanager
def _claimed_run(config: PrismConfig, console: Console) -> Iterator[tuple[RunFolder, PrismConfig]]:
    """The folder of a run, and its settings with its tracking decided."""
    # Here, once: a worker's environment may tell another story than the driver's.
    tracking, words = settled(config.tracking), tracking_words(config.tracking)
    folder = claim_run_folder(config)
    config = dataclasses.replace(with_absolute_catalog(config), tracking=tracking)
    console.print(words, markup=False, highlight=False, soft_wrap=True)
    try:
        with _refusals_in_summary(folder, config):
            places = Places(Path.home(), temporary_root(config.run.tmp_root), folder.path.parent)
            for note in admit(config.quota, places):
                console.print(note, style="yellow", markup=False, highlight=False, soft_wrap=True)
            yield folder, config
    finally:
        remove_stale_folders(temporary_root(config.run.tmp_root) / "scratch")
        folder.release()


def _attempt(
    folder: RunFolder, config: PrismConfig, archive: Archive, start: StartingPoint, earlier: Split | None
) -> RunSummary:
    tmp_root = temporary_root(config.run.tmp_root)
    order = WorkOrder(
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
    return _final_summary(order, _fit(order, tmp_root), archive)


def _begin_or_resume(folder: RunFolder, config: PrismConfig, console: Console) -> StartingPoint:
    """Find out which of the two it is, and say so."""
    start = starting_point(folder, config)
    if start.checkpoint is None:
        text = f"run {folder.name} starts at step 0 in {folder.path}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    else:
        text = f"run {folder.name} resumes at step {start.step} from {start.source}"
        console.print(text, style="bold", markup=False, soft_wrap=True)
    if damaged := truncate_history(folder.path, start.step):
        text = f"{damaged} lines of {folder.path / HISTORY_FILE} could not be read and were taken out"
        console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
    record_unfinished(folder.path, config, "running", resumed_from=start.step or None)
    return start


def _with_its_patients(
    archive: Archive, start: StartingPoint, folder: RunFolder, config: PrismConfig, console: Console
) -> tuple[Archive, Split | None]:
    """``continued``; what has changed is told, and kept in the run's history."""
    archive, earlier, told = continued(archive, start, folder, config)
    if told is not None:
        console.print(told, style="yellow", markup=False, highlight=False, soft_wrap=True)
        record = LocalRecord(folder.path)
        record.event(start.step, "archive", told)
        record.close()
    return archive, earlier


def describe_archive(archive: Archive, console: Console) -> None:
    """Say how many scans there are, and what became of the others."""
    counts, reasons = archive.counts(), archive.preflight.reasons
    rejected = f" ({', '.join(f'{reason} {n}' for reason, n in reasons.items())})" if reasons else ""
    console.print(
        f"scans: {counts['scans_selected']:.0f} of {counts['catalog_rows']:.0f} catalogue rows selected, "
        f"{counts['scans_rejected']:.0f} rejected by preflight{rejected}, {counts['scans_training']:.0f} to train on, "
        f"{counts['scans_held_out']:.0f} held out; details in {archive.preflight_dir}",
        highlight=False,
        soft_wrap=True,
    )


def check_memory(config: PrismConfig, archive: Archive) -> MemoryPlan:
    """The run's memory plan; raises ``MemoryPlanTooBig`` when it does not fit."""
    limit, source = memory_limit_bytes()
    if config.run.memory_limit_bytes is not None:
        limit, source = config.run.memory_limit_bytes, "run.memory_limit_bytes"
    gpus = [node["Resources"].get("GPU", 0.0) for node in ray.nodes() if node["Alive"]]
    return plan_memory(config, archive.shards, limit, source, workers_on_a_node(config, gpus))


def _fit(order: WorkOrder, tmp_root: Path) -> BaseException | None:
    """Train in a Ray Train worker; returns what ended it early."""
    # A name of its own for every attempt: an equal one would make Ray resume by rules that are not ours. Without the
    # run's name, for Ray shows this one at a port that is open to all.
    name = f"prism-train-{os.getpid()}-{time.time_ns()}"
    try:
        with owned_folder(tmp_root / "ray_train") as storage, sigterm_as_ctrl_c():
            TorchTrainer(
                _in_worker,
                train_loop_config={"order": order},
                scaling_config=ScalingConfig(
                    num_workers=order.config.train.num_workers, use_gpu=ray.cluster_resources().get("GPU", 0) > 0
                ),
                torch_config=TorchConfig(timeout_s=round(order.config.train.rank_timeout_s)),
                run_config=RunConfig(
                    name=name,
                    storage_path=str(storage),
                    # A retry would hide the first failure.
                    failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
                    callbacks=cast(list[UserCallback], [StopBetweenSteps()]),  # Ray takes all its kinds, and names one
                ),
            ).fit()
    except WorkerGroupError as error:
        return root_failure(error.worker_failures, order.config.train.num_workers)
    except TrainingFailedError as error:
        return error
    except (KeyboardInterrupt, SystemExit):  # Ray Train turns Ctrl-C into the latter
        return KeyboardInterrupt()
    return None


def _in_worker(settings: dict[str, Any]) -> None:
    train_loop(settings["order"])


def _final_summary(order: WorkOrder, failure: BaseException | None, archive: Archive) -> RunSummary:
    """The worker's summary; where the worker could not write one, what its history still tells."""
    summary = read_summary(order.run_dir)
    if summary is None or summary.status == "running" or (failure is not None and summary.status == "ok"):
        resumed_from = summary.resumed_from_step if summary else None
        summary = _unfinished(order.run_dir, order.config, "failed", cause_of(failure), resumed_from)
    elif is_about_others(summary.cause):
        summary = dataclasses.replace(summary, cause=cause_of(failure))
    tracking = summary.tracking or end_lost_run(order.config, order.run_dir, summary)
    unproven = {} if order.split.proven else {"held_out_unproven": 1.0}
    summary = dataclasses.replace(summary, data=archive.counts() | unproven, tracking=tracking)
    write_summary(summary)
    return summary


def _unfinished(
    run_dir: Path, config: PrismConfig, status: Any, cause: str | None, resumed_from: int | None
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
    )


def record_unfinished(
    run_dir: Path, config: PrismConfig, status: RunStatus, cause: str | None = None, resumed_from: int | None = None
) -> RunSummary:
    """The summary of a run that has not written its own, for its folder; from what its history tells."""
    summary = _unfinished(run_dir, config, status, cause, resumed_from)
    write_summary(summary)
    return summary


@contextmanager
def _refusals_in_summary(folder: RunFolder, config: PrismConfig) -> Iterator[None]:
    """A run that could not begin says so in its folder too."""
    try:
        yield
    except BaseException as error:
        record_unfinished(folder.path, config, "failed", f"{type(error).__name__}: {error}")
        raise
