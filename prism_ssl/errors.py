"""Exception classes for every deliberate error of the project.

A message says what was found, what was needed, where, and what to do. All of these
survive pickling, because most of them cross a Ray boundary: their arguments are plain
strings and numbers, and ``__reduce__`` rebuilds them from those arguments.
"""

from __future__ import annotations

from typing import Any


class PrismError(Exception):
    """Base of all deliberate errors; ``str(error)`` is meant for the user."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self._args: tuple[Any, ...] = (message,)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return type(self), self._args


class ConfigError(PrismError, ValueError):
    """A setting is unknown, of the wrong type, or out of its range."""


class CatalogError(PrismError, ValueError):
    """The catalogue is missing, unreadable, lacks a column, or leaves no scan."""


class ScanRejected(PrismError, ValueError):
    """One scan cannot be used; carries the reason under which preflight counts it.

    Args:
        reason: a ``RejectReason`` value such as ``"affine_singular"``.
        detail: what was found and what was needed, without any path.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail
        self._args = (reason, detail)


class BatchDoesNotFit(PrismError, ValueError):
    """The batch size, the number of workers and the number of scans do not match."""


class MemoryPlanTooBig(PrismError, RuntimeError):
    """Pools, object store and scratch together need more than the machine may give."""


class RunFolderError(PrismError, OSError):
    """The run folder cannot be written, is in use, or belongs to another configuration."""


class CheckpointError(PrismError, RuntimeError):
    """A checkpoint is there but cannot be used; the run must not restart silently at step 0."""


class ReplacementFailed(PrismError, RuntimeError):
    """A scan could not be opened for a pool slot, and strict mode is on.

    Args:
        scan_id: hashed id of the scan.
        stage: ``"open"``, ``"scratch"`` or ``"extract"``.
        cause: class and text of the original error.
    """

    def __init__(self, scan_id: str, stage: str, cause: str) -> None:
        super().__init__(
            f"scan {scan_id} failed at stage {stage!r}: {cause}; "
            "run preflight again to drop it, or set data.strict=False to quarantine such scans and go on"
        )
        self.scan_id, self.stage, self.cause = scan_id, stage, cause
        self._args = (scan_id, stage, cause)


class ArchiveUnreachable(PrismError, OSError):
    """The volume that holds the scans stayed unreachable for the whole waiting time."""


class MachineTrouble(PrismError, RuntimeError):
    """This machine, not the scan, prevented a read or Ray's start: too many open files or processes, for example."""


class HostOutOfMemory(MachineTrouble):
    """The machine, or the job on it, has no memory left to open a scan or to cut views out of one."""


class ClusterUnreachable(PrismError, ConnectionError):
    """``RAY_ADDRESS`` names a Ray head that does not answer."""


class TooManyBrokenScans(PrismError, RuntimeError):
    """Lenient mode gave up because too large a share of the opened scans was broken."""


class PoolActorDied(PrismError, RuntimeError):
    """The process of a pool actor ended while the run waited for its chunks."""


class PoolStalled(PrismError, RuntimeError):
    """No chunk arrived within ``data.stall_timeout_s``."""


class QuotaExceeded(PrismError, OSError):
    """The home directory or the temporary root is over a hard limit, and pruning did not help."""


class TrialFailed(PrismError, RuntimeError):
    """One trial of a sweep did not end ok.

    Args:
        trial: its name.
        cause: class and text of what ended it.
    """

    def __init__(self, trial: str, cause: str) -> None:
        super().__init__(f"trial {trial} failed: {cause}")
        self.trial, self.cause = trial, cause
        self._args = (trial, cause)


class NonFiniteLoss(PrismError, ArithmeticError):
    """The loss was not finite in several consecutive steps."""


class GpuUnusable(PrismError, RuntimeError):
    """There is a GPU, but torch cannot compute on it."""


class GpuOutOfMemory(PrismError, RuntimeError):
    """A step, or an evaluation, did not fit into the memory of the GPU."""


class TrainWorkerDied(PrismError, RuntimeError):
    """The training worker ended without an error message (killed, out of memory)."""


class TrainWorkerFailed(PrismError, RuntimeError):
    """One of several training workers ended with an unexpected error.

    Args:
        worker: its rank.
        cause: class and text of the error.
    """

    def __init__(self, worker: int, cause: str) -> None:
        super().__init__(f"training worker {worker}: {cause}")
        self.worker, self.cause = worker, cause
        self._args = (worker, cause)


class PeerLost(PrismError, RuntimeError):
    """A training worker lost contact with the others: one of them ended or timed out."""


class TrackingError(PrismError, RuntimeError):
    """W&B is switched on but cannot be used: no key, a refused key, no server, or a requested item is not there."""


class RunInterrupted(PrismError, RuntimeError):
    """The run was asked to stop (SIGTERM, Ctrl-C) and stopped between two steps."""
