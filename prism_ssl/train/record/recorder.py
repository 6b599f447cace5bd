"""Write a run's history, alarms, tracking and dashboard metrics while it trains, and its summary at the end."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import nn

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import RunStatus, RunSummary
from prism_ssl.data.extract import view_shares
from prism_ssl.data.sharded_dataset import WaitCauses
from prism_ssl.errors import RunFolderError
from prism_ssl.model.loss import LossReport
from prism_ssl.records.run_files import (
    PROBE_PREFIX,
    LocalRecord,
    is_probe,
    last_probe,
    read_history,
    restarts_so_far,
    write_summary,
)
from prism_ssl.train.guards.alarm_rules import alarm_rules
from prism_ssl.train.guards.alarms import AlarmChange, Alarms
from prism_ssl.train.guards.unjudged_alarms import too_short_to_judge
from prism_ssl.train.logging import start_tracker
from prism_ssl.train.metrics import Aside, StepTimes
from prism_ssl.train.record.device_memory import device_memory
from prism_ssl.train.record.diagnostics import Diagnostics
from prism_ssl.train.record.pictures import draw_plots
from prism_ssl.train.record.step_clock import HostClock, StepClock, StepTime
from prism_ssl.train.record.step_counter import StepCounter
from prism_ssl.utils.time import Stopwatch


class Recorder(StepCounter):
    """Metrics, diagnostics and history of a run, written by one attempt from ``first_step`` on.

    Totals and alarms continue from the attempts before: totals from ``before``, which ``state`` returned, alarms from
    the rows of the history.

    Args:
        checkpoint: the last one written.
        heads: the trained heads by the name of their loss.
        clock: times the steps.
    """

    def __init__(
        self,
        config: PrismConfig,
        run_dir: Path,
        first_step: int,
        checkpoint: Path | None,
        heads: Mapping[str, nn.Module],
        before: Mapping[str, Any] | None = None,
        clock: StepClock | None = None,
    ) -> None:
        super().__init__(config, run_dir, first_step)
        # Before all else: the first step's time, too, includes what follows, such as a slow start of the tracker.
        self._times = StepTimes(
            patches_per_step=2 * config.train.batch_size * config.data.n_patches,
            warmup_steps=config.train.stall_warmup_steps,
        )
        self._resumed_from, self._restarts = first_step or None, restarts_so_far(run_dir)
        self.checkpoint = checkpoint
        self._tracker = start_tracker(config, run_dir, first_step)
        self._record = LocalRecord(run_dir)
        self._diagnostics = Diagnostics(config.model.objective, heads)
        if first_step:
            self._times.go_on_from(before)
        self._last_row: dict[str, float] = {}
        self._alarms = self._alarms_of_history(first_step)
        self._clock, self._waits = clock or HostClock(), deque[WaitCauses]()
        self._told_of_metrics = False

    def _alarms_of_history(self, first_step: int) -> Alarms:
        """Judge the rows of earlier attempts again, so that alarms are as if the run had not stopped."""
        rows = [row for row in read_history(self._run_dir) if "event" not in row and not is_probe(row)]
        rows = [row for row in rows if row["global_step"] <= first_step]
        alarms = Alarms(alarm_rules(self._config), 0 if rows else first_step)
        for row in rows:
            self._last_row = {name: math.nan if value is None else value for name, value in row.items()}
            step = self._last_row.pop("global_step")
            for change in alarms.judge(int(step), self._last_row):
                self._keep(change, int(step))
        return alarms

    def data_is_here(self) -> None:
        """The data of the next step has come."""
        self._clock.data_is_here()

    def step(self, report: LossReport, wait: WaitCauses) -> bool:
        """Record one finished step; True when a row of the history is due."""
        self._clock.end_step()
        self._waits.append(wait)
        self._diagnostics.add(report)
        row_is_due = super().step(report, wait)
        self._live.show({"global_step": self.steps_done})
        self._add_times(self._clock.known())
        return row_is_due

    def _add_times(self, steps: list[StepTime]) -> None:
        for step in steps:
            self._times.add(step.ms, self._waits.popleft().at_most(step.idle_ms))
            self._live.show({"step_ms": step.ms})

    def row(self, learning_rate: float, counters: Mapping[str, float]) -> None:
        """Write a row of the history; the only place that waits for the device while training."""
        values = self._diagnostics.row() | view_shares(self._last_row, counters)
        changes = self._alarms.judge(self.steps_done, values)
        values |= self._alarms.scalars()
        self._add_times(self._clock.settled())
        values |= self._times.interval() | {"lr": learning_rate, **counters, **device_memory()}
        self._last_row = values
        self.shown |= values
        self._record.row(self.steps_done, values)
        self._tracker.row(self.steps_done, values)
        self._live.show(values | self._for_the_dashboard())
        for change in changes:
            self._tell(change)
        for problem in self._tracker.new_problems():
            self.event("tracking", problem)
        if self._live.problem is not None and not self._told_of_metrics:
            self.event("metrics", f"the dashboard is no longer updated ({self._live.problem})")
            self._told_of_metrics = True

    def _for_the_dashboard(self) -> dict[str, float]:
        told = {"alarms_raised": sum(self._alarms.scalars().values()), "max_steps": float(self._config.train.max_steps)}
        limit = self._config.quota.home_hard_bytes
        told |= {"quota/home_hard_bytes": float(limit)} if limit is not None else {}
        return told | self._times.waited() | self._times.stalls()

    def _tell(self, change: AlarmChange) -> None:
        self.event(*(("alarm_over", f"{change.name} is over") if change.over else ("alarm", change.text)))
        self._keep(change, self.steps_done)

    def _keep(self, change: AlarmChange, step: int) -> None:
        """Keep the change for the summary."""
        if change.over:
            self.alarms[self.alarms.index(change.text)] += f" (over at step {step})"
        else:
            self.alarms.append(change.text)

    def event(self, kind: str, text: str) -> None:
        """Write an event that the user should see."""
        self._record.event(self.steps_done, kind, text)

    def state(self) -> dict[str, Any]:
        """State from which the next attempt continues the totals; waits for the device."""
        self._add_times(self._clock.settled())
        return self._times.state()

    def saved(self, checkpoint: Path) -> None:
        """Record that a checkpoint of this step was written; if due, upload it in the background."""
        self.checkpoint = checkpoint
        if self.artifact_due:
            self._tracker.checkpoint(checkpoint, self.steps_done)

    @contextmanager
    def aside(self, what: Aside) -> Iterator[None]:
        """Exclude the block from step times, stalls and rates: it is no training. It has a total of its own."""
        self._add_times(self._clock.settled())  # work that is queued already belongs to its step
        self._clock.pause()
        watch = Stopwatch()
        try:
            yield
        finally:
            self._times.set_aside(what, watch.ms())
            self._clock.go_on()

    def evaluated(self, values: Mapping[str, float]) -> None:
        """Write the scalars of a held-out evaluation as a separate row."""
        if values:
            row = {f"{PROBE_PREFIX}{name}": value for name, value in values.items()}
            self._record.row(self.steps_done, row)
            self._tracker.row(self.steps_done, row)
            self.shown |= row
        else:
            self.event(
                "evaluation",
                "no held-out scan could be evaluated, so the encoder's quality is unknown; see data.holdout_*",
            )

    def finish(self, status: RunStatus, cause: str | None, counters: Mapping[str, float], encoder: Path | None) -> None:
        """Close the history and write summary.json; a failure after that does not change the run's status."""
        with suppress(RuntimeError):  # a GPU that has failed gives no more times
            # After a failure without a wait: where another worker is gone, a queued sum of gradients never ends.
            self._add_times(self._clock.known() if status == "failed" else self._clock.settled())
        with suppress(OSError):  # a full disk; the rows already written remain
            self._record.close()
        if self._config.run.pictures:
            draw_plots(self._run_dir)  # before the tracker ends, which uploads them
        self.summary = RunSummary(
            run=self._run_dir.name,
            status=status,
            cause=cause,
            steps_done=self.steps_done,
            max_steps=self._config.train.max_steps,
            resumed_from_step=self._resumed_from,
            run_dir=str(self._run_dir),
            checkpoint=str(self.checkpoint) if self.checkpoint else None,
            encoder=str(encoder) if encoder else None,
            totals={**self._times.totals(), **counters, **device_memory()},
            losses=last_losses(self._last_row),
            probe=last_probe(read_history(self._run_dir)),
            alarms=self.alarms,
            not_judged=too_short_to_judge(self._config, self.steps_done),
            restarts=self._restarts,
        )
        write_summary(self.summary)  # before the tracker ends, which may wait for a server
        try:
            tracking = self._tracker.finish(self.summary)
        except Exception as error:  # noqa: BLE001  reported in the summary; it does not change the run's status
            problem = f"the end of the run was not tracked ({type(error).__name__}: {error})"
            tracking = {"mode": self._tracker.mode, "problem": problem}
        self.summary = dataclasses.replace(self.summary, tracking=tracking)
        with suppress(RunFolderError):  # the summary before stays, which lacks only the tracking
            write_summary(self.summary)


def last_losses(row: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Of a history row: per objective its loss, its chance level and its weight; per axis its skill."""
    names = [key.removeprefix("chance/") for key in row if key.startswith("chance/")]
    losses = {
        name: {what: row[f"{what}/{name}"] for what in ("loss", "chance", "weight") if f"{what}/{name}" in row}
        for name in names
    }
    skills = {key.removeprefix("skill/"): value for key, value in row.items() if key.startswith("skill/")}
    return losses | ({"skill": skills} if skills else {})
