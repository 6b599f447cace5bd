"""Guards the home directory's quota and the temporary root's free space, beside the training."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from queue import SimpleQueue

from rich.filesize import decimal

from prism_ssl.config.operations import QuotaConfig
from prism_ssl.errors import QuotaExceeded
from prism_ssl.train.leftovers import Places
from prism_ssl.train.quota_limits import Finding, Measure, Reading, look
from prism_ssl.utils.disk_usage import DiskUsage, disk_usage
from prism_ssl.utils.time import Stopwatch

ADMISSION_S = 60.0
"""How long a start waits for the home to be measured; a larger home is measured on beside the training."""

_REST_SHARE = 9  # rest per measuring time, so that a slow shared file server is busy with us a tenth of it at most


def admit(config: QuotaConfig, places: Places, measure: Measure = disk_usage) -> list[str]:
    """Look once before a run starts, and return what a person should be told.

    Raises:
        QuotaExceeded: a hard limit is crossed, and what may be pruned did not help.
    """
    deadline = time.monotonic() + ADMISSION_S
    finding = look(config, places, lambda: time.monotonic() < deadline, measure)
    if finding.excess:
        raise QuotaExceeded(_refusal("the run does not start", finding))
    note, home = finding.note(), finding.reading.home
    notes = [note] if note is not None else []
    if home is not None and not home.complete:
        notes.append(f"the home directory was not measured whole within {ADMISSION_S:.0f} s; that goes on in training")
    return notes


class QuotaGuard:
    """Looks at the disks again and again in a thread of its own, from ``start`` to ``close``.

    No method waits for a disk; while a measurement hangs, the last finding stands.
    """

    def __init__(self, config: QuotaConfig, places: Places, measure: Measure = disk_usage) -> None:
        self._config, self._places, self._measure = config, places, measure
        self._closed = threading.Event()
        self._finding: Finding | None = None
        self._notes: SimpleQueue[str] = SimpleQueue()
        self._told: set[str] = set()
        self._error: Exception | None = None
        self._counters: dict[str, float] = {}
        # A daemon: a file server that never answers must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="quota-guard", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def poll(self) -> list[str]:
        """What a person should be told since the last call; also raises what ended the thread.

        Raises:
            QuotaExceeded: a hard limit is crossed, and what may be pruned did not help.
        """
        if self._error is not None:
            raise self._error
        notes = [self._notes.get() for _ in range(self._notes.qsize())]
        if self._finding is not None and self._finding.excess and not notes:
            raise QuotaExceeded(_refusal("the run was stopped", self._finding))
        return notes

    def counters(self) -> dict[str, float]:
        """The last reading, and what was removed so far; empty before the first."""
        return self._counters

    def close(self) -> None:
        """Stop looking and pruning."""
        self._closed.set()

    def _run(self) -> None:
        try:
            for pause_s in self._looks():
                if self._closed.wait(pause_s):
                    return
        except Exception as error:  # noqa: BLE001  the edge of a thread: kept, and raised by poll
            self._error = error

    def _looks(self) -> Iterator[float]:
        removed = DiskUsage()
        while True:
            watch = Stopwatch()
            finding = look(self._config, self._places, lambda: not self._closed.is_set(), self._measure)
            took_s = watch.ms() / 1e3
            removed = removed + finding.removed_usage
            self._counters = _counters(finding.reading, removed, took_s)
            note = finding.note()
            if note is not None and (finding.removed or set(finding.reasons) != self._told):
                self._notes.put(note)
            self._told = set(finding.reasons)
            self._finding = finding
            yield max(self._config.check_every_s, _REST_SHARE * took_s)


def _refusal(what: str, finding: Finding) -> str:
    removed = finding.removed_usage
    pruned = f" after {decimal(removed.bytes)} of this project were removed" if finding.removed else ""
    return (
        f"{what}: {'; '.join(finding.excess.values())}{pruned}. Free space there (checkpoints of finished runs are the "
        "largest that this project keeps; --run.root puts runs elsewhere), or change the limit; then the same command "
        "starts, or resumes at the last checkpoint"
    )


def _counters(reading: Reading, removed: DiskUsage, took_s: float) -> dict[str, float]:
    values: dict[str, float] = {"quota/removed_bytes": removed.bytes, "quota/removed_inodes": removed.inodes}
    if reading.home is not None:
        values |= {"quota/home_bytes": reading.home.bytes, "quota/home_inodes": reading.home.inodes}
        values |= {"quota/home_unreadable": reading.home.unreadable, "quota/measure_s": took_s}
    if reading.tmp_free_bytes is not None:
        values["quota/tmp_free_bytes"] = reading.tmp_free_bytes
    return {name: float(value) for name, value in values.items()}
