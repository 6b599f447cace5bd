"""Append-only files of JSON lines: a line torn by a crash or a full disk affects no other line."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JsonLines:
    """``rows`` are the valid lines in order; ``damaged`` counts the other lines. Blank lines are neither.

    ``torn``: whether bytes follow the last line end; the next ``append`` ends that line, which then counts as damaged.
    """

    rows: list[dict[str, Any]]
    damaged: int
    torn: bool


def parse_lines(data: bytes, key: str | None = None) -> JsonLines:
    """The JSON objects of ``data``, one per line; with ``key``, only those that have an integer under it."""
    *lines, rest = data.split(b"\n")
    rows = [_row(line, key) for line in lines if line.strip()]
    return JsonLines([row for row in rows if row is not None], sum(row is None for row in rows), bool(rest))


def read_lines(path: Path, key: str | None = None) -> JsonLines:
    """``parse_lines`` of a file, which may be absent; warns once for each new number of damaged lines."""
    lines = parse_lines(path.read_bytes() if path.is_file() else b"", key)
    warn_of_damage(path, lines.damaged, len(lines.rows) + lines.damaged)
    return lines


def warn_of_damage(path: Path, damaged: int, lines: int) -> None:
    """Log, once for each new number, that ``damaged`` of a file's ``lines`` cannot be read; nothing when none is."""
    if damaged:
        _warn(str(path), damaged, lines)


class LineWriter:
    """Appends rows to a file of JSON lines (mode 0600); several processes may do so.

    Args:
        path: created if needed, with its folder.
        sync: whether ``append`` returns only once the line is on disk.
    """

    def __init__(self, path: Path, sync: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: int | None = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        self._sync = sync

    def append(self, row: Mapping[str, Any]) -> None:
        """Append one row. A torn last line is ended first, so that it does not spoil the new one.

        Raises:
            OSError: the row cannot be written, or only in part.
            ValueError: the row holds NaN or infinity, or the file is closed.
        """
        if self._file is None:
            raise ValueError("the file of JSON lines is closed")
        line = json.dumps(row, allow_nan=False).encode() + b"\n"
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            line = b"\n" + line
        while line:  # one write, which O_APPEND keeps apart from other processes' writes; more only on a full disk
            line = line[os.write(self._file, line) :]
        if self._sync:
            os.fsync(self._file)

    def close(self) -> None:
        """Close the file; may be called again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _row(line: bytes, key: str | None) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:  # no JSON, or no UTF-8
        return None
    return row if isinstance(row, dict) and (key is None or _is_int64(row.get(key))) else None


def _is_int64(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63  # type: True is an int too


@cache
def _warn(path: str, damaged: int, lines: int) -> None:
    _log.warning("%s: %d of %d lines cannot be read and were left out", path, damaged, lines)
