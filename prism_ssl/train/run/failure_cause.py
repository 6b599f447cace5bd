"""The cause that ended a run, as text; with several training workers, the one that failed first."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from prism_ssl.errors import (
    ArchiveUnreachable,
    GpuUnusable,
    MachineTrouble,
    PeerLost,
    PrismError,
    RunInterrupted,
    TrackingError,
    TrainWorkerDied,
    TrainWorkerFailed,
)
from prism_ssl.train.distributed.ranks import describe

_SURROUNDINGS: Final = tuple(
    error.__name__ for error in (ArchiveUnreachable, GpuUnusable, MachineTrouble, TrackingError)
)
_CUDA: Final = re.compile(r"CUDA error|CUDA driver|No CUDA GPUs")


def root_failure(failures: Mapping[int, BaseException], workers: int) -> BaseException:
    """The error of the lowest rank that is not about the loss of another training worker."""
    by_rank = dict(sorted(failures.items()))
    rank, error = next(((rank, e) for rank, e in by_rank.items() if not isinstance(e, PeerLost)), (0, by_rank.get(0)))
    if workers == 1 and error is not None:
        return error
    if error is None or _is_silent(error):
        return _silent_death(f"training worker {rank} of {workers}")
    return error if isinstance(error, PrismError) else TrainWorkerFailed(rank, describe(error))


def cause_of(failure: BaseException | None) -> str:
    """The cause for the summary; ``failure`` is None when a run ended without an error message."""
    if isinstance(failure, KeyboardInterrupt):
        return describe(
            RunInterrupted(
                "the run was asked to stop (Ctrl-C or a signal); run the same command again to resume at its last "
                "checkpoint"
            )
        )
    if failure is None or _is_silent(failure):
        failure = _silent_death("the training worker")
    return describe(failure)


def is_death_by_machine(failure: BaseException | None) -> bool:
    """Whether a training worker's process died without an error message (killed, out of memory, its node lost).

    The same steps may then succeed when they are tried again.
    """
    return failure is not None and (isinstance(failure, TrainWorkerDied) or _is_silent(failure))


def is_of_surroundings(cause: str | None) -> bool:
    """Whether a summary's cause is the machine's or a service's, so that the next run would probably meet it too.

    A lack of memory is not: it depends on the run's settings.
    """
    told = cause or ""
    return told.split(":", 1)[0] in _SURROUNDINGS or _CUDA.search(told) is not None


def is_about_others(cause: str | None) -> bool:
    """Whether a summary's cause only says that another training worker is gone."""
    return (cause or "").startswith(PeerLost.__name__)


def _is_silent(failure: BaseException) -> bool:
    return "HealthCheck" in type(failure).__name__


def _silent_death(worker: str) -> TrainWorkerDied:
    return TrainWorkerDied(
        f"{worker} died without an error message (killed, or out of memory); look at the system's log, then "
        "run the same command again to resume at the last checkpoint"
    )
