"""What a person sees of a sweep while it runs, and the list of its attempts."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from pathlib import Path

from ray.tune.experiment import Trial
from ray.tune.logger import LoggerCallback
from rich.console import Console

from prism_ssl.contracts import RunSummary
from prism_ssl.errors import CheckpointError
from prism_ssl.train.checkpoint import checkpoint_step
from prism_ssl.train.console import LiveView
from prism_ssl.train.local_record import CHECKPOINT_FILE, truncate_history
from prism_ssl.train.trainer import record_failure
from prism_ssl.utils.time import format_duration
from tune.core24 import DesignPoint
from tune.sweep import Sweep

ATTEMPTS_FILE = "attempts.jsonl"
"""One line per trial that came to an end: status, cause, wall_s, training_s, overhead_s."""


class TrialView(LoggerCallback):
    """Tells of each trial as it starts and ends; sees to it that every ended trial has a summary that says so."""

    def __init__(self, sweep: Sweep, console: Console, pending: Sequence[DesignPoint]) -> None:
        self._sweep, self._console, self._trials = sweep, console, len(pending)
        self._first_steps = {point: _rewind(sweep.run_dir(point)) for point in pending}
        self._number = 0
        self._since = time.monotonic()
        self._live: LiveView | None = None
        self.overheads_s: list[float] = []

    def __getstate__(self) -> dict[str, object]:
        return {}  # Tune saves its callbacks for a restore of its own; a console cannot be, and need not be, saved

    def log_trial_start(self, trial: Trial) -> None:
        """Show its steps from now on."""
        point = self._sweep.point(trial.config)
        self._number += 1
        step = self._first_steps[point]
        beginning = f"resumes at step {step}" if step else "starts"
        self._say(f"trial {self._number} of {self._trials}: {point.name} {beginning}", style="bold")
        self._live = LiveView(self._console, self._sweep.run_dir(point), step, self._sweep.base.train.max_steps)
        self._live.__enter__()

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        """It returned or raised, or its process died."""
        self.close()
        point, error = self._sweep.point(trial.config), trial.get_error()
        summary = self._sweep.summary(point)
        if summary is None or summary.status == "running":
            cause = f"TrialFailed: {_gist(str(error)) if failed else 'the trial returned without a summary'}"
            summary = record_failure(self._sweep.run_dir(point), self._sweep.config(point), cause)
        now = time.monotonic()
        wall_s, self._since = now - self._since, now
        self._note(point, summary, wall_s)

    def close(self) -> None:
        """The sweep ends, perhaps in the middle of a trial."""
        if self._live is not None:
            self._live.__exit__(None, None, None)
            self._live = None

    def _note(self, point: DesignPoint, summary: RunSummary, wall_s: float) -> None:
        training_s = summary.totals.get("wall_s") or 0.0
        self.overheads_s.append(wall_s - training_s)
        attempt = {
            "trial": point.name,
            "status": summary.status,
            "cause": summary.cause,
            "steps_done": summary.steps_done,
            "resumed_from_step": summary.resumed_from_step,
            "wall_s": round(wall_s, 2),
            "training_s": round(training_s, 2),
            "overhead_s": round(wall_s - training_s, 2),
        }
        with (self._sweep.folder / ATTEMPTS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(attempt) + "\n")
        said = (
            f"trial {self._number} of {self._trials}: {point.name} {summary.status} at step {summary.steps_done} "
            f"after {format_duration(wall_s)} ({wall_s - training_s:.1f} s of it beside training)"
        )
        self._say(said, style="green" if summary.status == "ok" else "red")
        if summary.cause:
            self._say(summary.cause, style="red")

    def _say(self, text: str, style: str) -> None:
        self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _rewind(run_dir: Path) -> int:
    """The step at which a trial will go on; what its history says about later ones is dropped, it comes again."""
    checkpoint = run_dir / CHECKPOINT_FILE
    if not checkpoint.exists():
        return 0
    try:
        step = checkpoint_step(checkpoint)
    except CheckpointError:
        return 0  # the trial itself will say so
    truncate_history(run_dir, step)
    return step


def _gist(traceback: str) -> str:
    """The line of a traceback that names the error."""
    lines = [line.strip() for line in traceback.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Died)\b", line)]
    return next(reversed(named or lines), "nothing is known of its end")
