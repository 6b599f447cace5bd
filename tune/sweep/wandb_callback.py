"""Add design point, status and error of every trial to its W&B run, also for trials that died early.

The training worker writes a trial's rows, media and artifacts to the run that ``tracking.json`` in its folder names.
This callback adds what only the sweep knows.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from contextlib import contextmanager

from ray.tune.experiment import Trial
from ray.tune.logger import LoggerCallback
from rich.console import Console

from prism_ssl.contracts import RunSummary
from prism_ssl.errors import TrackingError
from prism_ssl.records.run_files import write_summary
from prism_ssl.records.wandb_api import open_api
from prism_ssl.train.logging import end_lost_run, start_tracker
from prism_ssl.train.tracking.identity import read_tracked_as, tracked_as
from prism_ssl.utils.fs import private_folder
from tune.core24 import DesignPoint
from tune.sweep.folder import Sweep
from tune.sweep.report import say


class WandbTrials(LoggerCallback):
    """Records the start and end of each trial in W&B; failures are printed on the console and do not end the sweep."""

    def __init__(self, sweep: Sweep, console: Console) -> None:
        self._sweep, self._console = sweep, console

    def __getstate__(self) -> dict[str, object]:
        return {}  # Tune pickles its callbacks for its own restore; a console cannot be pickled

    def log_trial_start(self, trial: Trial) -> None:
        """Fix the id of the tracked run, so that worker and sweep write to the same one, not to an earlier sweep's."""
        point = self._sweep.point(trial.config)
        if self._sweep.mode != "disabled":
            with self._telling(point):
                tracked_as(private_folder(self._sweep.run_dir(point)), self._sweep.config(point))

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:  # noqa: ARG002  the summary has it
        """Called after the trial's summary was written."""
        self.tell_end(self._sweep.point(trial.config))

    def tell_end(self, point: DesignPoint) -> None:
        """Write design point, status and error text of a trial that has ended to its tracked run."""
        summary = self._sweep.summary(point)
        if self._sweep.mode == "disabled" or summary is None:
            return
        with self._telling(point):
            if not summary.tracking.get("run_id"):
                summary = dataclasses.replace(summary, tracking=self._speak_for(point, summary))
                write_summary(summary)
            if self._sweep.mode == "online":
                self._add(point, summary)

    @contextmanager
    def _telling(self, point: DesignPoint) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001  edge of a foreign service: must not end the sweep
            say(self._console, f"trial {point.name} is not fully tracked ({type(error).__name__}: {error})", "yellow")

    def _speak_for(self, point: DesignPoint, summary: RunSummary) -> dict[str, str]:
        """End the tracked run of a trial whose worker could not do it; create the run if there is none."""
        config, run_dir = self._sweep.config(point), self._sweep.run_dir(point)
        if self._sweep.mode == "online":
            return end_lost_run(config, run_dir, summary)
        if summary.steps_done:
            return {"mode": self._sweep.mode}  # the worker's rows are on disk
        return start_tracker(config, run_dir, 0).finish(summary)

    def _add(self, point: DesignPoint, summary: RunSummary) -> None:
        tracked = read_tracked_as(self._sweep.run_dir(point))
        if tracked is None or tracked.entity is None:
            raise TrackingError(summary.tracking.get("problem", "the run was never started"))
        run = open_api(self._sweep.config(point)).run(tracked.path)
        run.config.update({f"design/{key.rpartition('.')[2]}": level for key, level in point.levels.items()})
        run.update()
        run.summary.update({"trial/status": summary.status, "trial/error": without_paths(summary.cause)})


def without_paths(text: str | None) -> str | None:
    """``text`` without the part of each line from its first to its last path: paths can contain patient names."""
    return None if text is None else re.sub(r"\S*/(.*/)?\S*", "<path>", text)
