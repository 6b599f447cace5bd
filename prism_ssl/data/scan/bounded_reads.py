"""Time-limited reads, with retries while the archive is unreachable."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import TypeVar

from prism_ssl.data.scan.read_errors import read_failure
from prism_ssl.data.scan.reject_reasons import RejectReason
from prism_ssl.errors import ArchiveUnreachable, MachineTrouble, PrismError, ScanRejected

T = TypeVar("T")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 15.0
_LOOK_S = 10.0  # a folder that takes longer to be listed counts as away


def within(limit_s: float, function: Callable[[], T]) -> T:
    """``function()``, or ``TimeoutError`` when it has not ended after ``limit_s``.

    A read that hangs in the kernel cannot be ended: it is left to a thread that dies with the process. Raises
    ``MachineTrouble`` if no thread can be started.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except Exception as error:  # noqa: BLE001  the edge of a thread: kept, and raised below
            future.set_exception(error)

    try:
        Thread(target=run, name="bounded-read", daemon=True).start()
    except RuntimeError as error:  # the limit on processes and threads, or on memory
        raise MachineTrouble(f"this machine has no thread to read a scan ({error}); see ulimit -u") from error
    if not wait([future], limit_s).done:
        raise TimeoutError(f"not done after {limit_s:g} s")
    return future.result(timeout=0)


def read_within(limit_s: float, read: Callable[[], T]) -> T:
    """``within`` for reading one scan: a read that hangs raises ``ScanRejected``, as for any unreadable scan.

    Errors of the storage raise ``ArchiveUnreachable``, those of this machine ``MachineTrouble``.
    """
    try:
        return within(limit_s, read)
    except PrismError:
        raise
    except TimeoutError as error:
        detail = f"not read after {limit_s:g} s (data.open_timeout_s); does its file system hang, or is it only slow?"
        raise ScanRejected(RejectReason.OPEN_TIMED_OUT, detail) from error
    except (OSError, MemoryError) as error:
        raise read_failure(error) from error


def archive_root(paths: Iterable[str]) -> str:
    """The deepest folder that holds all the files: missing or empty when their volume is not mounted."""
    return os.path.commonpath([Path(path).parent for path in paths])


@dataclass
class ReadLimits:
    """Limits for opening the scans of an archive: no read takes longer than ``open_timeout_s``. Failures that are no
    scan's fault (archive unreachable, storage error, no memory or file handle on this machine) are retried, with
    growing pauses, for ``outage_patience_s``.

    ``closing`` ends every pause. ``retries`` counts the retries, ``reads`` the successful reads.
    """

    root: str
    open_timeout_s: float
    outage_patience_s: float
    closing: Event = field(default_factory=Event)
    retries: int = 0
    reads: int = 0

    def read(self, read: Callable[[], T]) -> T:
        """Call ``read`` within these limits.

        Raises:
            ScanRejected: this scan cannot be read, or not in time.
            ArchiveUnreachable: no scan could be read for ``outage_patience_s``.
            MachineTrouble, HostOutOfMemory: this machine could read no scan for as long.
        """
        deadline, pause_s, reads_before = time.monotonic() + self.outage_patience_s, _FIRST_PAUSE_S, self.reads
        while True:
            trouble: PrismError
            try:
                found = read_within(self.open_timeout_s, read)
            except (ArchiveUnreachable, MachineTrouble) as error:
                trouble = error
            except ScanRejected as rejected:
                if not self._away(rejected):
                    raise
                trouble = rejected
            else:
                self.reads += 1
                return found
            if time.monotonic() + pause_s > deadline or self.closing.wait(pause_s):
                others_were_read = self.reads > reads_before and not self.closing.is_set()
                raise self._end(trouble, others_were_read) from trouble
            self.retries += 1
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _end(self, trouble: PrismError, others_were_read: bool) -> PrismError:
        """The error to raise for trouble that lasted."""
        if isinstance(trouble, MachineTrouble):
            return trouble
        if others_were_read and isinstance(trouble, ArchiveUnreachable):  # a bad block, not a volume that is away
            detail = f"reading it failed for {self.outage_patience_s:g} s while other scans were read: {trouble}"
            return ScanRejected(RejectReason.NOT_READABLE, detail)
        told = trouble.detail if isinstance(trouble, ScanRejected) else trouble
        return ArchiveUnreachable(
            f"the archive was away for {self.outage_patience_s:g} s (data.outage_patience_s): the folder of all scans "
            f"is gone, empty or fails ({told}); is its volume mounted? No scan was put in quarantine; the same command "
            "resumes from the last checkpoint"
        )

    def _away(self, rejected: ScanRejected) -> bool:
        """Whether the archive as a whole is gone or closed to this user, and not just this scan."""
        in_doubt = rejected.reason in (RejectReason.MISSING_PATH, RejectReason.NOT_READABLE)
        return in_doubt and not is_not_empty(self.root)


def is_not_empty(folder: str) -> bool:
    """Whether a folder is there, can be listed in reasonable time, and is not empty."""
    try:
        return within(_LOOK_S, lambda: _not_empty(folder))
    except OSError:  # a TimeoutError is one
        return False


def _not_empty(folder: str) -> bool:
    with os.scandir(folder) as entries:
        return next(entries, None) is not None
