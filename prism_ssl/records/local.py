"""Read runs and their histories from run folders on this machine."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from prism_ssl.records.cache import TableCache, read_columns
from prism_ssl.records.history_rows import as_numbers
from prism_ssl.records.runs_table import UNFINISHED, read_run_records, run_folders
from prism_ssl.utils.json_lines import read_lines

_TAIL_BYTES = 2**16


@dataclass(frozen=True)
class RunCollection:
    """A folder that holds run folders: a sweep, or ``runs`` itself."""

    folder: Path
    runs: int
    changed: float
    """Last time one of its runs wrote a file, in seconds since the epoch."""


def run_collections(root: Path) -> list[RunCollection]:
    """``root`` and its subfolders that hold run folders; the most recently written one comes first."""
    below = (
        sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
        if (root.is_dir())
        else []
    )
    found = []
    for folder in (root, *below):
        changed = [_last_change(run) for run in run_folders(folder)]
        if changed:
            found.append(RunCollection(folder, len(changed), max(changed)))
    return sorted(found, key=lambda collection: collection.changed, reverse=True)


def local_records(folder: Path) -> pl.DataFrame:
    """``read_run_records``; for an unfinished run, ``steps_done`` is read from its history."""
    table = read_run_records(folder)
    open_end = pl.col("status").is_in([UNFINISHED, "running"])
    reached = [_last_step(Path(run)) for run in table.filter(open_end)["run_dir"]]
    steps = iter(reached)
    rows = [
        next(steps) if status in (UNFINISHED, "running") else done
        for status, done in table.select("status", "steps_done").iter_rows()
    ]
    return table.with_columns(pl.Series("steps_done", rows, dtype=pl.Int64))


def local_history(folder: Path, keys: Sequence[str], cache: TableCache) -> pl.DataFrame:
    """``global_step`` and the available ``keys`` from the history of a run folder, one row per row of the history.

    The whole history is read once, and again only when its file has changed.
    """
    path = folder / "history.jsonl"
    try:
        status = path.stat()
    except FileNotFoundError:
        return pl.DataFrame(schema={"global_step": pl.Int64})
    version = f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"
    name = str(path.absolute())
    kept = cache.find(name, version) or cache.keep(name, version, _parsed(folder))
    return read_columns(kept, {"global_step", *keys})


def _parsed(folder: Path) -> pl.DataFrame:
    raw = (folder / "history.jsonl").read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    try:
        # 60 MB of rows in 0.3 s; json.loads and columns from lists take five times as long.
        rows = pl.read_ndjson(io.BytesIO(whole), infer_schema_length=None) if whole else pl.DataFrame()
    except pl.exceptions.PolarsError:  # a damaged line, or a key that is a number here and a text there
        lines = read_lines(folder / "history.jsonl", "global_step")
        rows = pl.DataFrame(lines.rows, infer_schema_length=None, strict=False)
    if "event" in rows.columns:
        rows = rows.filter(pl.col("event").is_null()).drop("event", "text", strict=False)
    return as_numbers(rows)


def _last_change(run: Path) -> float:
    names = ("summary.json", "history.jsonl", "config.json")
    return max(((run / name).stat().st_mtime for name in names if (run / name).exists()), default=0.0)


def _last_step(run: Path) -> int | None:
    """The step of the last complete row of a history, without reading all of it."""
    path = run / "history.jsonl"
    if not path.exists() or path.stat().st_size == 0:
        return None
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        tail = file.read()
    steps = []
    for line in tail[: tail.rfind(b"\n") + 1].split(b"\n"):
        try:
            steps.append(int(json.loads(line)["global_step"]))
        except (ValueError, KeyError, TypeError):  # the first line of the tail is cut
            continue
    return steps[-1] if steps else None
