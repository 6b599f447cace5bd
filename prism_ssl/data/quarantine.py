"""Scans that failed at run time, remembered until their file changes."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from prism_ssl.contracts import BrokenScan
from prism_ssl.data.patience import within

_STAT_S = 10.0


@dataclass(frozen=True)
class QuarantinedScan:
    """One failure: ``size`` and ``mtime_ns`` are those of the file that failed, 0 where it could not be asked."""

    scan_id: str
    stage: str
    cause: str
    size: int
    mtime_ns: int


class Quarantine:
    """A file of JSON lines (mode 0600) that several processes may append to.

    Args:
        path: the file; it and its folder are made by the first ``append``.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)

    def append(self, scan_id: str, stage: str, cause: str, size: int, mtime_ns: int) -> None:
        """Remember a scan; returns once the line is on disk."""
        line = json.dumps(asdict(QuarantinedScan(scan_id, stage, cause, size, mtime_ns))) + "\n"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, line.encode())  # one write: O_APPEND keeps lines of several processes apart
            os.fsync(file)
        finally:
            os.close(file)

    def load(self) -> dict[str, QuarantinedScan]:
        """The latest entry of each scan; a last line torn by a crash counts as not written."""
        text = self._path.read_text() if self._path.is_file() else ""
        whole = text[: text.rfind("\n") + 1]
        entries = (QuarantinedScan(**json.loads(line)) for line in whole.splitlines())
        return {entry.scan_id: entry for entry in entries}


def quarantine_scan(path: Path, broken: BrokenScan, nifti_path: Path) -> None:
    """Append a scan that failed at run time, with its file's present size and modification time."""
    try:
        status = within(_STAT_S, nifti_path.stat)
        size, mtime_ns = status.st_size, status.st_mtime_ns
    except OSError:  # gone, or on a file system that hangs
        size = mtime_ns = 0
    Quarantine(path).append(broken.scan_id, broken.stage, broken.cause, size, mtime_ns)
