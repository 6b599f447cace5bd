"""Reading from storage that may hang, or be away for a while: a limit for every file, patience with the volume."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import TypeVar

from prism_ssl.data.reject_reason import RejectReason
from prism_ssl.errors import ArchiveUnreachable, ScanRejected

T = TypeVar("T")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 15.0
_LOOK_S = 10.0  # a folder that takes longer to be listed counts as away
_VOLUME_ERRORS = {
    errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN,
    errno.EHOSTUNREACH, errno.EREMOTEIO,
}  # fmt: skip
"""What a file system says when not the file but the storage behind it fails."""


def within(limit_s: float, function: Callable[[], T]) -> T:
    """``function()``, or ``TimeoutError`` when it has not ended after ``limit_s``.

    A read that hangs in the kernel cannot be ended: it is left to a thread that dies with the process.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except Exception as error:  # noqa: BLE001  the edge of a thread: kept, and raised below
            future.set_exception(error)

    Thread(target=run, name="bounded-read", daemon=True).start()
    if not wait([future], limit_s).done:
        raise TimeoutError(f"not done after {limit_s:g} s")
    return future.result(timeout=0)


def read_within(limit_s: float, read: Callable[[], T]) -> T:
    """As ``within``, for reading one scan: one that hangs is a ``ScanRejected`` like any other that cannot be read."""
    try:
        return within(limit_s, read)
    except TimeoutError as error:
        detail = f"not read after {limit_s:g} s (data.open_timeout_s); does its file system hang, or is it only slow?"
        raise ScanRejected(RejectReason.OPEN_TIMED_OUT, detail) from error


def archive_root(paths: Iterable[str]) -> str:
    """The deepest folder that holds all the files: gone or empty when their volume is not mounted."""
    return os.path.commonpath([Path(path).parent for path in paths])


@dataclass
class Patience:
    """How a scan of an archive is opened: no read takes longer than ``open_timeout_s``, and while the archive as a
    whole is away it is tried again, with growing pauses, for ``outage_patience_s``.

    ``closing`` ends every pause. ``retries`` counts what was tried again.
    """

    root: str
    open_timeout_s: float
    outage_patience_s: float
    closing: Event = field(default_factory=Event)
    retries: int = 0

    def read(self, read: Callable[[], T]) -> T:
        """``read()``.

        Raises:
            ScanRejected: this scan cannot be read, or not in time.
            ArchiveUnreachable: no scan could be, for ``outage_patience_s``.
        """
        deadline, pause_s = time.monotonic() + self.outage_patience_s, _FIRST_PAUSE_S
        while True:
            try:
                return read_within(self.open_timeout_s, read)
            except ScanRejected as rejected:
                if not self._away(rejected):
                    raise
                if time.monotonic() + pause_s > deadline or self.closing.wait(pause_s):
                    raise ArchiveUnreachable(
                        f"the archive was away for {self.outage_patience_s:g} s (data.outage_patience_s): the folder "
                        f"of all scans is gone, empty or fails ({rejected.detail}); is its volume mounted? No scan was "
                        "put in quarantine; the same command goes on from the last checkpoint"
                    ) from rejected
            self.retries += 1
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _away(self, rejected: ScanRejected) -> bool:
        """Whether it is the volume that failed, and not this one scan."""
        if rejected.reason == RejectReason.NOT_READABLE:
            return isinstance(rejected.__cause__, OSError) and rejected.__cause__.errno in _VOLUME_ERRORS
        return rejected.reason == RejectReason.MISSING_PATH and not self._root_holds_something()

    def _root_holds_something(self) -> bool:
        try:
            return within(_LOOK_S, lambda: _not_empty(self.root))
        except OSError:  # a TimeoutError is one
            return False


def _not_empty(folder: str) -> bool:
    with os.scandir(folder) as entries:
        return next(entries, None) is not None
