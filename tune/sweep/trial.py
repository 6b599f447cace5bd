"""Train one trial under Ray Tune, and schedule all trials of a sweep one after another."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray.tune
from ray.tune.experiment import Trial
from ray.tune.search.basic_variant import BasicVariantGenerator
from rich.console import Console

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import RunSummary
from prism_ssl.data.archive import Archive
from prism_ssl.errors import TrackingError, TrialFailed
from prism_ssl.records.run_files import CHECKPOINT_FILE, write_summary
from prism_ssl.train.resume.tracked_checkpoint import uploaded_step
from prism_ssl.train.trainer import train_on
from prism_ssl.utils.fs import owned_folder
from tune.core24 import DERIVED, LEVELS, OBJECTIVES, DesignPoint, design_points, objective_rule
from tune.sweep.folder import Sweep

TRIAL_CPUS = 1
"""CPUs of a trial's own process, in addition to its training worker and pool actors."""

_TUNE_SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # its banner ignores verbose=0
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the run folders are the record
}


def run_trial(levels: dict[str, Any], sweep: Sweep, archive: Archive) -> dict[str, float]:
    """Train one cell, from its checkpoint if it has one; returns its final metrics.

    Raises:
        TrialFailed: the run did not end ok; its summary has the cause.
    """
    point = sweep.point(levels)
    drop_uploaded_checkpoints(sweep)
    config = sweep.config(point)
    summary = train_on(archive, config, Console(quiet=True))
    if summary.status != "ok":
        raise TrialFailed(point.name, summary.cause or "no cause was recorded")
    drop_uploaded_checkpoint(summary, config)
    return {"steps_done": summary.steps_done, **summary.totals, **summary.probe}


def drop_uploaded_checkpoint(summary: RunSummary, config: PrismConfig) -> None:
    """Delete the local checkpoint of a finished trial if W&B has it: 24 of a ViT-L do not fit a home of 50 GB.

    The encoder stays. If more steps are requested, the trial resumes from the artifact.
    """
    try:
        uploaded = uploaded_step(config, Path(summary.run_dir))
    except TrackingError:  # keep the checkpoint
        return
    if summary.checkpoint and uploaded == summary.steps_done:
        Path(summary.checkpoint).unlink()
        write_summary(dataclasses.replace(summary, checkpoint=None))


def drop_uploaded_checkpoints(sweep: Sweep) -> None:
    """Delete the checkpoints of the sweep's finished trials that W&B did not have yet when they ended."""
    for point in design_points(sweep.design):
        if (sweep.run_dir(point) / CHECKPOINT_FILE).exists():
            summary = sweep.summary(point)
            if summary is not None and summary.status == "ok":
                drop_uploaded_checkpoint(summary, sweep.config(point))


class PendingCells(BasicVariantGenerator):
    """The grid variants that are pending; no more variants once the sweep ``is_over``."""

    def __init__(self, sweep: Sweep, pending: Sequence[DesignPoint], is_over: Callable[[], bool]) -> None:
        super().__init__(max_concurrent=1)  # as TuneConfig(max_concurrent_trials=1) does
        self._sweep, self._pending, self._is_over = sweep, frozenset(pending), is_over

    def next_trial(self) -> Trial | None:
        """The next variant to run; None when none is left, or while another is running."""
        if self._is_over():
            BasicVariantGenerator.set_finished(self)
            return None
        while True:
            trial: Trial | None = BasicVariantGenerator.next_trial(self)
            if trial is None or self._sweep.point(trial.config) in self._pending:
                return trial
            self.on_trial_complete(trial.trial_id)


def run_trials(
    sweep: Sweep, archive: Archive, cells: PendingCells, tmp_root: Path, callbacks: list[ray.tune.Callback]
) -> None:
    """Run ``cells`` of a sweep, one at a time; a failed trial does not stop the others.

    Needs a Ray session. Results are in the run folders, and ``callbacks`` are notified.
    """
    for name, value in _TUNE_SETTINGS.items():
        os.environ.setdefault(name, value)
    trainable = ray.tune.with_resources(
        ray.tune.with_parameters(run_trial, sweep=sweep, archive=archive), {"CPU": TRIAL_CPUS}
    )
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # run folders and callbacks report failures
    with owned_folder(tmp_root / "ray_tune") as storage:
        _tuner(sweep, cells, trainable, storage, callbacks).fit()


def _tuner(
    sweep: Sweep, cells: PendingCells, trainable: Any, storage: Path, callbacks: list[ray.tune.Callback]
) -> ray.tune.Tuner:
    return ray.tune.Tuner(
        trainable,
        param_space=_param_space(sweep),
        tune_config=ray.tune.TuneConfig(
            search_alg=cells,
            reuse_actors=True,  # the trial's own process, which only waits; training begins in fresh ones
            trial_name_creator=lambda trial: sweep.point(trial.config).name,
            trial_dirname_creator=lambda trial: sweep.point(trial.config).name,
        ),
        run_config=ray.tune.RunConfig(
            # In a temporary folder: the run folders decide which trials are finished, not Tune's state.
            name=sweep.name,
            storage_path=str(storage),
            failure_config=ray.tune.FailureConfig(max_failures=0),
            callbacks=callbacks,
            verbose=0,
        ),
    )


def _param_space(sweep: Sweep) -> dict[str, Any]:
    grid: dict[str, Any] = {factor: ray.tune.grid_search(list(levels)) for factor, levels in LEVELS.items()}
    rule = objective_rule(sweep.design)
    if rule is None:
        return grid | {DERIVED: ray.tune.grid_search(list(OBJECTIVES))}
    return grid | {DERIVED: ray.tune.sample_from(lambda config: rule(config))}
