"""Asynchronous copies from host memory to a device, with marks that tell when that memory may be written again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch


class Mark(Protocol):
    """A place in the device's queue of work."""

    def record(self) -> None:
        """Put the mark behind the work queued now."""

    def synchronize(self) -> None:
        """Wait until the device has come to the mark; at once where it was never recorded."""


class _AlreadyThere:
    """On a CPU a copy is done when it is queued."""

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass


def mark_on(device: torch.device) -> Mark:
    """A mark in the queue of ``device``."""
    # blocking: a wait that spins takes a core from the pool actors for most of every step
    return torch.cuda.Event(blocking=True) if device.type == "cuda" else _AlreadyThere()


_STAGES: Final = 2  # one is filled while the other is transferred


class Uploader:
    """Copies arrays to a device through page-locked memory, beside the work that the device has queued.

    Args:
        stage_bytes: size of that memory.
        mark: makes a mark in the device's queue.
    """

    def __init__(self, device: torch.device, stage_bytes: int, mark: Callable[[torch.device], Mark] = mark_on) -> None:
        self._device, on_gpu = device, device.type == "cuda"
        sizes = [stage_bytes // _STAGES] * _STAGES
        self._stages = [torch.empty(size, dtype=torch.uint8, pin_memory=on_gpu) for size in sizes]
        self._sent = [mark(device) for _ in sizes]
        self._turn = 0
        self._stream = torch.cuda.Stream(device) if on_gpu else None

    def __call__(self, array: npt.NDArray[Any]) -> torch.Tensor:
        """The bytes of ``array`` on the device, uint8; work that is queued from now on waits for them."""
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        # Allocated and filled on a stream of its own: on the current one, each piece would wait for the queued steps.
        with self._beside():
            target = torch.empty(raw.size, dtype=torch.uint8, device=self._device)
            start = 0
            while start < raw.size:
                stage, sent = self._stages[self._turn], self._sent[self._turn]
                self._turn = (self._turn + 1) % _STAGES
                piece = raw[start : start + len(stage)]
                sent.synchronize()
                staged = stage[: piece.size]
                staged.numpy()[:] = piece
                target[start : start + piece.size].copy_(staged, non_blocking=True)
                sent.record()
                start += piece.size
        if self._stream is not None:
            here = torch.cuda.current_stream(self._device)
            here.wait_stream(self._stream)
            target.record_stream(here)  # freed memory must not be filled again before the last step has read it
        return target

    def _beside(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)
