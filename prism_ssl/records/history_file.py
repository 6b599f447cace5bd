"""Read the scalars of a run folder's history as a table; whoever needs a table reads it here."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from prism_ssl.records.history_rows import STEP, as_numbers
from prism_ssl.records.run_files import HISTORY_FILE
from prism_ssl.utils.json_lines import read_lines, warn_of_damage

_EVENT = ("event", "text")
_LARGEST = 2**63


@dataclass(frozen=True)
class History:
    """``rows``: ``global_step`` and a float column for each scalar, without the events (``history_rows.as_numbers``).

    ``damaged`` of the ``lines`` are no row: no JSON object, or one without an integer step. A torn last line, which a
    kill leaves, is not counted.
    """

    rows: pl.DataFrame
    damaged: int
    lines: int

    def damage_in_words(self) -> str | None:
        """Such as "1 of 3 lines of history.jsonl cannot be read and are left out"; None without damage."""
        if not self.damaged:
            return None
        return f"{self.damaged} of {self.lines} lines of {HISTORY_FILE} cannot be read and are left out"


def read_scalars(run_dir: Path) -> History:
    """The history of a run folder; without rows where there is none. Damage is also logged, once."""
    path = run_dir / HISTORY_FILE
    history = _quickly(path) if path.is_file() else History(as_numbers(pl.DataFrame()), 0, 0)
    if history is None:
        lines = read_lines(path, STEP)
        table = pl.DataFrame([_plain(row) for row in lines.rows], infer_schema_length=None, strict=False)
        return History(_scalars(table), lines.damaged, len(lines.rows) + lines.damaged)
    warn_of_damage(path, history.damaged, history.lines)
    return history


def _quickly(path: Path) -> History | None:
    """The history where every line is a JSON object; None where one is not, or has a value of an odd kind.

    60 MB of rows take 0.3 s; ``read_lines`` and columns from lists take five times as long.
    """
    raw = path.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    try:
        rows = pl.read_ndjson(io.BytesIO(whole), infer_schema_length=None) if whole.strip() else pl.DataFrame()
    except pl.exceptions.PolarsError:
        return None
    if rows.height and rows.schema.get(STEP) != pl.Int64:
        return None
    damaged = rows[STEP].null_count() if rows.height else 0
    return History(_scalars(rows), damaged, rows.height)


def _scalars(rows: pl.DataFrame) -> pl.DataFrame:
    if _EVENT[0] in rows.columns:
        rows = rows.filter(pl.col(_EVENT[0]).is_null()).drop(*_EVENT, strict=False)
    return as_numbers(rows)


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without lists, mappings and integers of more than 64 bits, which fit no column."""
    return {
        key: float(value) if isinstance(value, int) and key != STEP else value
        for key, value in row.items()
        if not isinstance(value, (list, dict)) and not (isinstance(value, int) and abs(value) >= _LARGEST)
    }
