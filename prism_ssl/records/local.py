"""Read runs and their histories from run folders on this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from prism_ssl.records.cache import TableCache, read_columns, read_notes
from prism_ssl.records.history_file import read_scalars
from prism_ssl.records.run_files import CONFIG_FILE, HISTORY_FILE, SUMMARY_FILE, read_history
from prism_ssl.records.runs_table import UNFINISHED, read_run_records, run_folders
from prism_ssl.utils.json_lines import parse_lines

_TAIL_BYTES = 2**16
_DAMAGE = "damage"


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
    kept = _kept(folder, cache)
    return (
        pl.DataFrame(schema={"global_step": pl.Int64}) if kept is None else read_columns(kept, {"global_step", *keys})
    )


def damage_in_words(folder: Path, cache: TableCache) -> str | None:
    """How many lines of a run folder's history cannot be read; None where all can. Read as ``local_history`` reads."""
    kept = _kept(folder, cache)
    return None if kept is None else read_notes(kept).get(_DAMAGE)


def _kept(folder: Path, cache: TableCache) -> Path | None:
    """The cached table of a history; None where there is no history."""
    path = folder / HISTORY_FILE
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    version = f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"
    name = str(path.absolute())
    return cache.find(name, version) or _keep(folder, name, version, cache)


def _keep(folder: Path, name: str, version: str, cache: TableCache) -> Path:
    history = read_scalars(folder)
    damage = history.damage_in_words()
    return cache.keep(name, version, history.rows, {} if damage is None else {_DAMAGE: damage})


def _last_change(run: Path) -> float:
    names = (SUMMARY_FILE, HISTORY_FILE, CONFIG_FILE)
    return max(((run / name).stat().st_mtime for name in names if (run / name).exists()), default=0.0)


def _last_step(run: Path) -> int | None:
    """The step of the last row of a history; a long history is read only where its last rows are damaged."""
    path = run / HISTORY_FILE
    if not path.exists():
        return None
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        tail = parse_lines(file.read(), "global_step").rows  # its first line is cut, and no row
    rows = tail or read_history(run)
    return int(rows[-1]["global_step"]) if rows else None
