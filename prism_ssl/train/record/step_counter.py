"""What every training worker keeps about an attempt: how far it is, and what is due."""

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
from prism_ssl.train.record.dashboard import ROW_EXPORTS, STEP_EXPORTS
from prism_ssl.train.record.device_memory import device_memory
from prism_ssl.utils.ray_cluster.metrics_port import LiveMetrics


class StepCounter:
    """Counts the steps of an attempt, and writes nothing: one worker of a run does, with a ``Recorder``.

    What is due at a step is the same for all workers.
    """

    def __init__(self, config: PrismConfig, run_dir: Path, first_step: int, rank: int = 0) -> None:
        self._config, self._run_dir = config, run_dir
        self._live = LiveMetrics([*STEP_EXPORTS, *ROW_EXPORTS], ("worker", rank))
        self.steps_done = first_step
        self.alarms: list[str] = []
        self.shown: dict[str, float] = {}  # the last scalars, for Ray's own views
        self.summary: RunSummary

    def step(self, report: LossReport, wait: WaitCauses) -> bool:  # noqa: ARG002  for those who write
        """Note one finished step; True when a row of the history is due."""
        self.steps_done += 1
        return self.steps_done % self._config.train.log_every == 0 or self.steps_done == self._config.train.max_steps

    @property
    def artifact_due(self) -> bool:
        """Whether the state of this step is to be uploaded."""
        return checkpoint_due(self._config, self.steps_done)

    def row(self, learning_rate: float, counters: Mapping[str, float]) -> None:  # noqa: ARG002  for those who write
        """Write a row of the history; the dashboard is shown this worker's memory."""
        self._live.show(device_memory())

    def event(self, kind: str, text: str) -> None:
        """Note something that a person should be told."""

    def state(self) -> dict[str, Any]:
        """What the next attempt must know to go on with the totals."""
        return {}

    def saved(self, checkpoint: Path) -> None:
        """A checkpoint of this step was written."""

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What happens in the block is no training."""
        yield

    def evaluated(self, values: Mapping[str, float]) -> None:
        """Write the scalars of a held-out evaluation."""

    def finish(self, status: RunStatus, cause: str | None, counters: Mapping[str, float], encoder: Path | None) -> None:  # noqa: ARG002
        """The attempt has ended; ``summary`` says how."""
        self.summary = RunSummary(
            self._run_dir.name, status, cause, self.steps_done, self._config.train.max_steps, None, str(self._run_dir)
        )
