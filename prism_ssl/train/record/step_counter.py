"""Count the steps of an attempt, and decide when rows and uploads are due; every training worker has one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import RunStatus, RunSummary
from prism_ssl.data.sharded_dataset import WaitCauses
from prism_ssl.model.loss import LossReport
from prism_ssl.train.logging import checkpoint_due
from prism_ssl.train.metrics import Aside
from prism_ssl.train.record.dashboard import ROW_EXPORTS, STEP_EXPORTS
from prism_ssl.train.record.device_memory import device_memory
from prism_ssl.utils.ray_cluster.metrics_port import LiveMetrics


class StepCounter:
    """Counts the steps of an attempt and writes nothing; the first worker writes, with a ``Recorder``.

    Rows and uploads are due at the same steps for all workers.
    """

    def __init__(self, config: PrismConfig, run_dir: Path, first_step: int, rank: int = 0) -> None:
        self._config, self._run_dir = config, run_dir
        self._live = LiveMetrics([*STEP_EXPORTS, *ROW_EXPORTS], ("worker", rank))
        self.steps_done = first_step
        self.alarms: list[str] = []
        self.shown: dict[str, float] = {}  # the last scalars, for Ray's own reports
        self.summary: RunSummary

    def data_is_here(self) -> None:
        """The data of the next step has come."""

    def step(self, report: LossReport, wait: WaitCauses) -> bool:  # noqa: ARG002  for the Recorder
        """Record one finished step; True when a row of the history is due."""
        self.steps_done += 1
        return self.steps_done % self._config.train.log_every == 0 or self.steps_done == self._config.train.max_steps

    @property
    def artifact_due(self) -> bool:
        """Whether the checkpoint of this step is to be uploaded."""
        return checkpoint_due(self._config, self.steps_done)

    def row(self, learning_rate: float, counters: Mapping[str, float]) -> None:  # noqa: ARG002  for the Recorder
        """Write a row of the history; here only this worker's memory goes to the dashboard."""
        self._live.show(device_memory())

    def event(self, kind: str, text: str) -> None:
        """Write an event that the user should see."""

    def state(self) -> dict[str, Any]:
        """State from which the next attempt continues the totals."""
        return {}

    def saved(self, checkpoint: Path) -> None:
        """Record that a checkpoint of this step was written."""

    @contextmanager
    def aside(self, what: Aside) -> Iterator[None]:  # noqa: ARG002  for the Recorder
        """Exclude the block from the step times: it is no training."""
        yield

    def evaluated(self, values: Mapping[str, float]) -> None:
        """Write the scalars of a held-out evaluation."""

    def finish(self, status: RunStatus, cause: str | None, counters: Mapping[str, float], encoder: Path | None) -> None:  # noqa: ARG002
        """The attempt has ended; ``summary`` says how."""
        self.summary = RunSummary(
            self._run_dir.name, status, cause, self.steps_done, self._config.train.max_steps, None, str(self._run_dir)
        )
