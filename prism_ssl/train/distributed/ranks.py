"""Communication between the training workers of a run, so that they take the same steps and end together."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TypeVar

import torch
import torch.distributed as dist

from prism_ssl.errors import PeerLost, PrismError, RunInterrupted, TrainWorkerFailed

T = TypeVar("T")


class Ranks:
    """This worker's rank, and its communication with the others.

    All workers call the same methods in the same order; each call waits for the others, and raises ``PeerLost`` when
    one is gone or late. A single worker does not wait.

    ``shared`` is the last error that all workers know of; after it they can still communicate. An error of one worker
    in a block of ``alone`` is held until all learn of it in the next block of ``together``.
    """

    def __init__(self, rank: int, size: int, control: dist.ProcessGroup | None = None) -> None:
        self.rank, self.size, self._control = rank, size, control
        self.shared: BaseException | None = None
        self._held: Exception | None = None

    @classmethod
    def here(cls, timeout_s: float) -> Ranks:
        """The ranks of Ray Train's process group; without one, this process alone."""
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return cls(0, 1)
        # Apart from the group for gradients: these messages must not wait for a GPU.
        control = dist.new_group(backend="gloo", timeout=datetime.timedelta(seconds=timeout_s))
        return cls(dist.get_rank(), dist.get_world_size(), control)

    @property
    def is_first(self) -> bool:
        """Whether this worker writes: the record, the tracked run, pictures, checkpoints, the held-out evaluation."""
        return self.rank == 0

    def share_of(self, items: Sequence[T]) -> Sequence[T]:
        """This worker's part of ``items``; all parts are equally long, and in rank order they are ``items`` again."""
        each = len(items) // self.size
        return items[self.rank * each : (self.rank + 1) * each]

    def compare(self, numbers: Sequence[float]) -> list[tuple[float, ...]]:
        """The numbers of all workers, in rank order."""
        if self.size == 1:
            return [tuple(numbers)]
        mine = torch.tensor(numbers, dtype=torch.float64)
        everyone = [torch.empty_like(mine) for _ in range(self.size)]
        with reaching_others():
            dist.all_gather(everyone, mine, group=self._control)
        return [tuple(row.tolist()) for row in everyone]

    def exchange(self, word: T) -> list[T]:
        """The objects of all workers, in rank order."""
        if self.size == 1:
            return [word]
        everyone: list[T] = [word] * self.size
        with reaching_others():
            dist.all_gather_object(everyone, word, group=self._control)
        return everyone

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A block in which this worker acts alone and does not communicate.

        With several workers, its error is held until the next block of ``together``, so that all end at the same step.
        """
        try:
            yield
        except Exception as error:
            if self.size == 1:
                raise
            self._held = self._held or error

    @contextmanager
    def alike(self) -> Iterator[None]:
        """A block that raises the same error on all workers, because all have the same data."""
        try:
            yield
        except Exception as error:
            self.shared = error
            raise

    def wait_for_first(self) -> None:
        """Wait until the first worker has reached this point too, or is gone."""
        with suppress(PeerLost):
            self.compare([0.0])

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block that succeeds for all workers or for none: when one worker raises an error, all raise it.

        Errors that are not the project's own reach the others as ``TrainWorkerFailed``. When several workers fail, the
        error of the lowest rank counts; a request to stop counts last.
        """
        error: Exception | None = None
        try:
            if self._held is not None:
                raise self._held
            yield
        except Exception as raised:  # noqa: BLE001  every worker must reach the comparison; raised again below
            error = raised
        if self.size > 1 and any(failed for (failed,) in self.compare([error is not None])):
            error = self._first_error(error)
        if error is not None:
            self.shared = error
            raise error

    def _first_error(self, mine: Exception | None) -> Exception:
        told = mine if mine is None or isinstance(mine, PrismError) else TrainWorkerFailed(self.rank, describe(mine))
        errors = {rank: error for rank, error in enumerate(self.exchange(told)) if error is not None}
        first = min(errors, key=lambda rank: (isinstance(errors[rank], RunInterrupted), rank))
        return mine if first == self.rank and mine is not None else errors[first]


def describe(error: BaseException) -> str:
    """Class and text of an error."""
    return f"{type(error).__name__}: {error}"


@contextmanager
def reaching_others() -> Iterator[None]:
    """Turn torch's error about a worker that cannot be reached into ``PeerLost``."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise PeerLost(
            f"another training worker is gone, or did not answer within train.rank_timeout_s ({str(error).strip()})"
        ) from error
