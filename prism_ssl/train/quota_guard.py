"""Watch the home directory's quota and the temporary root's free space while a run trains."""

from __future__ import annotations

import threading
import time
from queue import SimpleQueue

from rich.filesize import decimal

from prism_ssl.config.operations import QuotaConfig
from prism_ssl.errors import QuotaExceeded
from prism_ssl.train.guards.deletable_files import Places
from prism_ssl.train.guards.quota_limits import Finding, Measure, Reading, find_crossed
from prism_ssl.utils.disk_usage import DiskUsage, disk_usage
from prism_ssl.utils.time import Stopwatch

ADMISSION_S = 60.0
"""How long a start waits for the home to be measured; a larger home is measured further during the training."""

_REST_SHARE = 9  # pause per measuring time: a slow shared file server serves us at most a tenth of the time


def admit(config: QuotaConfig, places: Places, measure: Measure = disk_usage) -> list[str]:
    """Check the limits once before a run starts; returns messages for the user.

    Raises:
        QuotaExceeded: a hard limit is crossed, even after pruning.
    """
    deadline = time.monotonic() + ADMISSION_S
    finding = find_crossed(config, places, lambda: time.monotonic() < deadline, measure)
    if finding.excess:
        raise QuotaExceeded(_refusal("the run does not start", finding))
    note, home = finding.note(), finding.reading.home
    notes = [note] if note is not None else []
    notes += [f"{text}; the run starts without this check" for text in finding.unknown]
    if home is not None and not home.complete:
        notes.append(f"measuring the home directory takes more than {ADMISSION_S:.0f} s; it continues during training")
    return notes


class QuotaGuard:
    """Checks the disks repeatedly in its own thread, from ``start`` to ``close``.

    No method waits for a disk; while a measurement hangs, the last finding is used. A failed check never ends a run: it
    is counted (``quota/failed_looks``), and each error text is reported once.
    """

    def __init__(self, config: QuotaConfig, places: Places, measure: Measure = disk_usage) -> None:
        self._config, self._places, self._measure = config, places, measure
        self._closed = threading.Event()
        self._finding: Finding | None = None
        self._notes: SimpleQueue[str] = SimpleQueue()
        self._told: set[str] = set()
        self._told_failures: set[str] = set()
        self._failed_looks = 0
        self._counters: dict[str, float] = {}
        # A daemon: a file server that never answers must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="quota-guard", daemon=True)

    def start(self) -> None:
        """Start checking."""
        self._thread.start()

    def poll(self) -> list[str]:
        """New messages for the user since the last call.

        Raises:
            QuotaExceeded: a hard limit is crossed, even after pruning.
        """
        notes = [self._notes.get() for _ in range(self._notes.qsize())]
        if self._finding is not None and self._finding.excess and not notes:
            raise QuotaExceeded(_refusal("the run was stopped", self._finding))
        return notes

    def counters(self) -> dict[str, float]:
        """The last reading, the size removed so far and the number of failed checks; empty before the first check."""
        return self._counters

    def close(self) -> None:
        """Stop checking and pruning."""
        self._closed.set()

    def _run(self) -> None:
        removed = DiskUsage()
        while not self._closed.is_set():
            watch = Stopwatch()
            try:
                finding = find_crossed(self._config, self._places, lambda: not self._closed.is_set(), self._measure)
            except Exception as error:  # noqa: BLE001  edge of a thread: counted and reported
                self._tell_failures(f"checking the disks failed ({type(error).__name__}: {error})")
                self._counters = self._counters | {"quota/failed_looks": float(self._failed_looks)}
            else:
                removed = removed + finding.removed_usage
                self._tell_failures(*finding.unknown)
                self._note(finding, removed, watch.ms() / 1e3)
            self._closed.wait(max(self._config.check_every_s, _REST_SHARE * watch.ms() / 1e3))

    def _note(self, finding: Finding, removed: DiskUsage, took_s: float) -> None:
        self._counters = _counters(finding.reading, removed, took_s)
        if self._failed_looks:
            self._counters["quota/failed_looks"] = float(self._failed_looks)
        note = finding.note()
        if note is not None and (finding.removed or set(finding.reasons) != self._told):
            self._notes.put(note)
        self._told = set(finding.reasons)
        self._finding = finding

    def _tell_failures(self, *texts: str) -> None:
        self._failed_looks += bool(texts)
        for text in texts:
            if text not in self._told_failures:
                self._told_failures.add(text)
                self._notes.put(f"{text}; its limits are checked again later")


def _refusal(what: str, finding: Finding) -> str:
    removed = finding.removed_usage
    pruned = f" after {decimal(removed.bytes)} of this project were removed" if finding.removed else ""
    return (
        f"{what}: {'; '.join(finding.excess.values())}{pruned}. Free space there (checkpoints of finished runs are the "
        "largest files of this project; --run.root puts runs elsewhere), or change the limit; then run the same "
        "command again: it starts, or resumes at the last checkpoint"
    )


def _counters(reading: Reading, removed: DiskUsage, took_s: float) -> dict[str, float]:
    values: dict[str, float] = {"quota/removed_bytes": removed.bytes, "quota/removed_inodes": removed.inodes}
    if reading.home is not None:
        values |= {"quota/home_bytes": reading.home.bytes, "quota/home_inodes": reading.home.inodes}
        values |= {"quota/home_unreadable": reading.home.unreadable, "quota/measure_s": took_s}
    if reading.tmp_free_bytes is not None:
        values["quota/tmp_free_bytes"] = reading.tmp_free_bytes
    return {name: float(value) for name, value in values.items()}
