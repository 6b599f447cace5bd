"""What happens when a loss is not finite: skip and count, and end the run before it wastes a night."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict
from pathlib import Path

import torch

from prism_ssl.contracts import VisitKey
from prism_ssl.errors import NonFiniteLoss
from prism_ssl.train.local_record import write_json
from prism_ssl.train.ranks import Ranks

BATCH_FILE = "nonfinite_batch.json"


class NonFiniteGuard:
    """Watches whether updates were skipped, without making the GPU wait.

    A flag is read ``lag`` steps after it was computed; by then it is known.

    Args:
        run_dir: where the batch that ends a run is written.
        limit: consecutive skipped steps that end the run.
        lag: 0 on a CPU.
        ranks: workers that share a batch; they share its flag too, so that all end at the same step.
    """

    def __init__(self, run_dir: Path, seed: int, limit: int, lag: int, ranks: Ranks | None = None) -> None:
        self._run_dir, self._seed, self._limit, self._lag = run_dir, seed, limit, lag
        self._ranks = ranks or Ranks(0, 1)
        self._flags: deque[tuple[int, torch.Tensor, list[VisitKey]]] = deque()
        self._in_a_row: list[tuple[int, list[VisitKey]]] = []
        self.skipped_steps = 0

    def watch(self, step: int, finite: torch.Tensor, visits: list[VisitKey]) -> None:
        """Note the flag of ``step`` and judge those that are old enough; raises ``NonFiniteLoss``."""
        self._flags.append((step, finite.to("cpu", non_blocking=True), visits))
        while len(self._flags) > self._lag:
            self._judge(*self._flags.popleft())

    def settle(self) -> None:
        """Judge all flags; raises ``NonFiniteLoss``."""
        while self._flags:
            self._judge(*self._flags.popleft())

    def _judge(self, step: int, finite: torch.Tensor, visits: list[VisitKey]) -> None:
        if finite.item() == 1.0:
            self._in_a_row.clear()
            return
        self.skipped_steps += 1
        self._in_a_row.append((step, visits))
        if len(self._in_a_row) >= self._limit:
            raise NonFiniteLoss(self._write_batches())

    def _write_batches(self) -> str:
        path = self._run_dir / BATCH_FILE
        parts = self._ranks.exchange([[asdict(visit) for visit in visits] for _, visits in self._in_a_row])
        batches = [
            {"step": step, "visits": [visit for part in parts for visit in part[index]]}
            for index, (step, _) in enumerate(self._in_a_row)
        ]
        if self._ranks.is_first:
            write_json(path, {"seed": self._seed, "batches": batches})
        steps = ", ".join(str(step) for step, _ in self._in_a_row)
        return (
            f"the loss was not finite in {len(self._in_a_row)} consecutive steps ({steps}); "
            f"their scan ids and seeds are in {path}; lower train.lr or train.grad_clip, or look at those scans"
        )
