"""Console output of a sweep while it runs, and attempts.jsonl, the list of its attempts."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ray.tune.experiment import Trial
from ray.tune.logger import LoggerCallback
from rich.console import Console

from prism_ssl.contracts import RunStatus, RunSummary
from prism_ssl.errors import CheckpointError
from prism_ssl.records.run_files import CHECKPOINT_FILE, CONFIG_FILE, truncate_history, write_json
from prism_ssl.train.checkpoint import checkpoint_step
from prism_ssl.train.record.console import LiveView
from prism_ssl.train.record.driver_summary import record_unfinished
from prism_ssl.train.run.failure_cause import is_of_surroundings
from prism_ssl.utils.fs import private_folder
from prism_ssl.utils.json_lines import LineWriter
from prism_ssl.utils.time import format_duration
from tune.core24 import DesignPoint
from tune.sweep.folder import Sweep

ATTEMPTS_FILE = "attempts.jsonl"
"""One line per trial that ended: status, cause, wall_s, training_s, overhead_s."""

OUTAGE_TRIALS = 2
"""So many trials in a row that fail by no fault of their own end a sweep for now."""


class TrialView(LoggerCallback):
    """Prints the start and end of each trial, and makes sure that every trial has a summary."""

    def __init__(self, sweep: Sweep, console: Console, trials: int) -> None:
        self._sweep, self._console, self._trials = sweep, console, trials
        self._number = 0
        self._since = time.monotonic()
        self._running: DesignPoint | None = None
        self._live: LiveView | None = None
        self.overheads_s: list[float] = []
        self._causes: list[str | None] = []

    def __getstate__(self) -> dict[str, object]:
        return {}  # Tune pickles its callbacks for its own restore; a console cannot be pickled

    def log_trial_start(self, trial: Trial) -> None:
        """Before the trial starts: mark its folder as running, and show its steps from now on."""
        point = self._sweep.point(trial.config)
        self._running, self._number = point, self._number + 1
        with self._telling(point):
            self._start(point)

    def _start(self, point: DesignPoint) -> None:
        run_dir, config = private_folder(self._sweep.run_dir(point)), self._sweep.config(point)
        step = _rewind(run_dir)
        write_json(run_dir / CONFIG_FILE, config.to_dict())
        record_unfinished(run_dir, config, "running", resumed_from=step or None)
        beginning = f"resumes at step {step}" if step else "starts"
        self._say(f"trial {self._number} of {self._trials}: {point.name} {beginning}", style="bold")
        self._live = LiveView(self._console, run_dir, step, config.train.max_steps)
        self._live.__enter__()

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        """The trial returned, raised an error, or its process died."""
        point, told = self._sweep.point(trial.config), ""
        with self._telling(point):
            # Not trial.get_error(): it reads a copy that does not exist yet.
            told = Path(trial.error_file).read_text() if failed and trial.error_file else ""
        with self._telling(point):
            self._end(point, f"TrialFailed: {error_line(told)}")

    def interrupted(self) -> DesignPoint | None:
        """Call when all processes have ended; returns the trial that was running when the sweep was stopped, if any."""
        point = self._running
        if point is not None:
            cause = "the sweep was asked to stop; run the same command again to resume at the trial's last checkpoint"
            with self._telling(point):
                self._end(point, f"RunInterrupted: {cause}", "interrupted")
        return point

    def outage(self) -> str | None:
        """The cause of the last trial, if neither it nor the trial before is to blame for its own: a sweep then waits.

        One such trial is no proof, and a third would be lost as well.
        """
        last = self._causes[-OUTAGE_TRIALS:]
        return last[-1] if len(last) == OUTAGE_TRIALS and all(map(is_of_surroundings, last)) else None

    def close(self) -> None:
        """Stop showing steps."""
        if self._live is not None:
            self._live.__exit__(None, None, None)
            self._live = None

    @contextmanager
    def _telling(self, point: DesignPoint) -> Iterator[None]:
        """Report an error in recording a trial on the console, so that it ends neither the trial nor the sweep."""
        try:
            yield
        except (OSError, ValueError) as error:
            self._say(f"trial {point.name} is not fully recorded ({type(error).__name__}: {error})", style="yellow")

    def _end(self, point: DesignPoint, unsaid: str, status: RunStatus = "failed") -> None:
        self.close()
        summary = self._sweep.summary(point)
        if summary is None or summary.status == "running" or self._running != point:
            resumed_from = summary.resumed_from_step if summary else None
            run_dir, config = self._sweep.run_dir(point), self._sweep.config(point)
            summary = record_unfinished(run_dir, config, status, unsaid, resumed_from)
        self._running = None
        self._causes.append(summary.cause)
        now = time.monotonic()
        wall_s, self._since = now - self._since, now
        self._note(point, summary, wall_s)

    def _note(self, point: DesignPoint, summary: RunSummary, wall_s: float) -> None:
        training_s = summary.totals.get("wall_s") or 0.0
        self.overheads_s += [wall_s - training_s] if summary.status == "ok" else []
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
        said = (
            f"trial {self._number} of {self._trials}: {point.name} {summary.status} at step {summary.steps_done} "
            f"after {format_duration(wall_s)} ({wall_s - training_s:.1f} s of it not training)"
        )
        self._say(said, style="green" if summary.status == "ok" else "red")
        if summary.cause:
            self._say(summary.cause, style="red")
        attempts = LineWriter(self._sweep.folder / ATTEMPTS_FILE)
        attempts.append(attempt)
        attempts.close()

    def _say(self, text: str, style: str) -> None:
        self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _rewind(run_dir: Path) -> int:
    """The step at which a trial will resume; later rows of its history are dropped, because they are written again."""
    checkpoint = run_dir / CHECKPOINT_FILE
    if not checkpoint.exists():
        return 0
    try:
        step = checkpoint_step(checkpoint)
    except CheckpointError:
        return 0  # the trial itself will report this
    truncate_history(run_dir, step)
    return step


def error_line(told: str) -> str:
    """The line of Ray Tune's error file that names the error: the end of a traceback, or Ray's report of a death."""
    lines = [line.strip() for line in told.splitlines() if line.strip() and not line.startswith("Failure #")]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Failed)\b", line)]
    return next(iter([*reversed(named), *lines]), "the trial died without an error message")
