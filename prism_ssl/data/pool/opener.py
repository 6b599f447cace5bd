"""Open scans in background threads; each ends as a scene to draw pairs from, or as its error."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from prism_ssl.contracts import BrokenScan
from prism_ssl.data.pool.warm_pool import Load
from prism_ssl.data.views import Scene
from prism_ssl.utils.time import Stopwatch

CLOSE_S = 10.0
"""How long a pool that closes waits for scans that are being opened."""


@dataclass(frozen=True)
class Opened:
    """The scene of a scan; ``broken``: other series of the patient that would not open."""

    scene: Scene
    broken: tuple[BrokenScan, ...] = ()


@dataclass(frozen=True)
class Landing:
    """Result of a ``Load``: what was opened, or the error that it ended with."""

    load: Load
    opened: Opened | None
    error: BaseException | None
    open_ms: float


class ScanOpener:
    """Threads that open scans. Every future is read: an error is returned by ``finished``, never lost.

    Args:
        open_scan: scan id -> Opened; runs in a thread.
        threads: scans opened at the same time.
    """

    def __init__(self, open_scan: Callable[[str], Opened], threads: int) -> None:
        self._open = open_scan
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="open-scan")
        self._futures: dict[Future[tuple[Opened, float]], Load] = {}

    def start(self, load: Load) -> None:
        """Begin to open a scan; returns at once."""
        self._futures[self._pool.submit(self._timed, load.scan_id)] = load

    def finished(self, block_s: float = 0.0) -> list[Landing]:
        """Landings since the last call; if there are none, waits up to ``block_s`` for the first."""
        done, _ = wait(self._futures, timeout=block_s, return_when=FIRST_COMPLETED)
        return [self._landing(future) for future in sorted(done, key=lambda f: self._futures[f].slot)]

    @property
    def busy(self) -> int:
        """Scans being opened."""
        return len(self._futures)

    def close(self, limit_s: float = CLOSE_S) -> list[Landing]:
        """Stop, and return the unread landings; scans that are not open after ``limit_s`` are given up."""
        for future in [future for future in self._futures if future.cancel()]:
            del self._futures[future]
        self._pool.shutdown(wait=False, cancel_futures=True)
        ended, _ = wait(self._futures, timeout=limit_s)
        return [self._landing(future) for future in list(self._futures) if future in ended]

    def _landing(self, future: Future[tuple[Opened, float]]) -> Landing:
        load = self._futures.pop(future)
        error = future.exception()
        if error is not None:
            return Landing(load, None, error, 0.0)
        opened, open_ms = future.result(timeout=0)
        return Landing(load, opened, None, open_ms)

    def _timed(self, scan_id: str) -> tuple[Opened, float]:
        watch = Stopwatch()
        return self._open(scan_id), watch.ms()
