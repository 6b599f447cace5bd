"""Non-finite losses: skip and count the steps, and end the run after too many in a row."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from prism_ssl.contracts import VisitKey
from prism_ssl.errors import NonFiniteLoss
from prism_ssl.records.run_files import write_json
from prism_ssl.train.distributed.ranks import Ranks

BATCH_FILE = "nonfinite_batch.json"


ReadLater = Callable[[], float]
"""Returns a number from the device, and waits for it if needed."""


def fetch(number: torch.Tensor) -> ReadLater:
    """Begin to copy a number from its device; only the returned function waits for it."""
    if number.device.type != "cuda":
        return number.item
    copy = number.to("cpu", non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    def read() -> float:
        copied.synchronize()  # until then the copy holds whatever was in its memory before
        return copy.item()

    return read


class NonFiniteGuard:
    """Watches whether updates were skipped, without waiting for the GPU.

    A flag is read ``lag`` steps after it was computed; by then the copy has arrived.

    Args:
        run_dir: where the batches that end a run are written.
        limit: consecutive skipped steps that end the run.
        lag: 0 on a CPU.
        ranks: workers that share a batch; they share its flag too, so that all end at the same step.
        fetch: copies a flag from its device.
    """

    def __init__(
        self,
        run_dir: Path,
        seed: int,
        limit: int,
        lag: int,
        ranks: Ranks | None = None,
        fetch: Callable[[torch.Tensor], ReadLater] = fetch,
    ) -> None:
        self._run_dir, self._seed, self._limit, self._lag = run_dir, seed, limit, lag
        self._ranks, self._fetch = ranks or Ranks(0, 1), fetch
        self._flags: deque[tuple[int, ReadLater, list[VisitKey]]] = deque()
        self._in_a_row: list[tuple[int, list[VisitKey]]] = []
        self.skipped_steps = 0

    def watch(self, step: int, finite: torch.Tensor, visits: list[VisitKey]) -> None:
        """Note the flag of ``step`` and judge those that are old enough; raises ``NonFiniteLoss``."""
        self._flags.append((step, self._fetch(finite), visits))
        while len(self._flags) > self._lag:
            self._judge(*self._flags.popleft())

    def settle(self) -> None:
        """Judge all flags; raises ``NonFiniteLoss``."""
        while self._flags:
            self._judge(*self._flags.popleft())

    def _judge(self, step: int, finite: ReadLater, visits: list[VisitKey]) -> None:
        if finite() == 1.0:
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
        where = f"their scan ids and seeds are in {path}"
        if self._ranks.is_first:
            try:
                write_json(path, {"seed": self._seed, "batches": batches})
            except OSError as error:  # it must not hide the NonFiniteLoss
                where = f"their scan ids could not be written to {path} ({error.strerror or error})"
        steps = ", ".join(str(step) for step, _ in self._in_a_row)
        return (
            f"the loss was not finite in {len(self._in_a_row)} consecutive steps ({steps}); {where}; "
            "lower train.lr or train.grad_clip, or inspect those scans"
        )
