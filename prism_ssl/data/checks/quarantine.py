"""Quarantine: scans that failed at run time, kept until their file changes or is reachable again."""

from __future__ import annotations

import builtins
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from prism_ssl.contracts import BrokenScan
from prism_ssl.data.scan import TRANSIENT_REASONS, within
from prism_ssl.errors import MachineTrouble, ScanRejected
from prism_ssl.utils.json_lines import LineWriter, read_lines

_STAT_S = 10.0


@dataclass(frozen=True)
class QuarantinedScan:
    """One failure: ``size`` and ``mtime_ns`` are those of the file that failed, 0 where it was unreachable."""

    scan_id: str
    stage: str
    cause: str
    size: int
    mtime_ns: int

    @property
    def condemns(self) -> bool:
        """Whether the file's content is to blame, and not the storage or the machine, which may recover."""
        kind, _, told = self.cause.partition(": ")
        reason = told.partition(": ")[0] if kind == ScanRejected.__name__ else kind
        error = getattr(builtins, kind, Exception)  # earlier versions quarantined scans for system errors too
        return reason not in TRANSIENT_REASONS and not issubclass(error, (OSError, MemoryError, RuntimeError))


_FIELDS = tuple(field.name for field in fields(QuarantinedScan))


class Quarantine:
    """A file of JSON lines (mode 0600) that several processes may append to.

    Args:
        path: the file; the first ``append`` creates it and its folder.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)

    def append(self, scan_id: str, stage: str, cause: str, size: int, mtime_ns: int) -> None:
        """Add a scan; returns once the line is on disk."""
        file = LineWriter(self._path, sync=True)
        try:
            file.append(asdict(QuarantinedScan(scan_id, stage, cause, size, mtime_ns)))
        finally:
            file.close()

    def load(self) -> dict[str, QuarantinedScan]:
        """The latest entry of each scan; a last line torn by a crash is left out."""
        entries = map(_entry, read_lines(self._path).rows)
        return {entry.scan_id: entry for entry in entries if entry is not None}

    def damaged_lines(self) -> int:
        """Number of lines that are no valid entries; their scans are unknown."""
        lines = read_lines(self._path)
        return lines.damaged + sum(_entry(row) is None for row in lines.rows)


def _entry(row: dict[str, Any]) -> QuarantinedScan | None:
    try:
        return QuarantinedScan(**{name: row[name] for name in _FIELDS})
    except KeyError:
        return None


def quarantine_scan(path: Path, broken: BrokenScan, nifti_path: Path) -> None:
    """Append a scan that failed at run time, with its file's present size and modification time."""
    try:
        status = within(_STAT_S, nifti_path.stat)
        size, mtime_ns = status.st_size, status.st_mtime_ns
    except (OSError, MachineTrouble):  # gone, or on a file system that hangs
        size = mtime_ns = 0
    Quarantine(path).append(broken.scan_id, broken.stage, broken.cause, size, mtime_ns)
