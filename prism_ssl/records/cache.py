"""Cache of tables that are expensive to read, as parquet files on local disk.

A table is stored under a name and the version of its source (its size, its number of rows, the state of its run).
Another version is not found, so a run that has continued is never shown in an old state.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import polars as pl

from prism_ssl.utils.fs import private_folder, temporary_root
from prism_ssl.utils.hashing import short_id

TTL_S = 24 * 3600.0
BYTES_MAX = 2 * 2**30


def read_columns(file: Path, wanted: Collection[str]) -> pl.DataFrame:
    """The columns of ``wanted`` that a parquet file has; brackets in its path are not glob patterns."""
    table = pl.scan_parquet(file, glob=False)
    return table.select([column for column in table.collect_schema().names() if column in wanted]).collect()


def read_notes(file: Path) -> dict[str, str]:
    """The notes that a table was kept with."""
    return {key: value for key, value in pl.read_parquet_metadata(file).items() if key != "ARROW:schema"}


class TableCache:
    """Parquet files (in a folder of mode 0700), each dropped ``ttl_s`` after it was written.

    Args:
        kind: tables of different kinds are in different folders.
        root: None: the temporary root.
        bytes_max: above this size, the oldest tables are deleted.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        kind: str,
        root: Path | None = None,
        ttl_s: float = TTL_S,
        bytes_max: int = BYTES_MAX,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = private_folder((root or temporary_root()) / "explore" / kind)
        self._ttl_s, self._bytes_max, self._clock = ttl_s, bytes_max, clock

    def find(self, name: str, version: str) -> Path | None:
        """The parquet file of a table; None when this version is missing or too old."""
        path = self._path(name, version)
        try:
            age_s = self._clock() - path.stat().st_mtime
        except FileNotFoundError:
            return None
        if age_s > self._ttl_s:
            path.unlink(missing_ok=True)
            return None
        return path

    def keep(self, name: str, version: str, table: pl.DataFrame, notes: Mapping[str, str] | None = None) -> Path:
        """Write a table, with ``notes`` for ``read_notes``, and delete its other versions."""
        path = self._path(name, version)
        staged = path.with_suffix(f".{os.getpid()}-{id(table)}.tmp")
        table.write_parquet(staged, compression="lz4", metadata=dict(notes or {}))
        now = self._clock()
        os.utime(staged, (now, now))
        for other in self._folder.glob(f"{short_id(name)}-*.parquet"):
            other.unlink(missing_ok=True)
        staged.replace(path)
        self._prune(path)
        return path

    def _path(self, name: str, version: str) -> Path:
        return self._folder / f"{short_id(name)}-{short_id(version)}.parquet"

    def _prune(self, newest: Path) -> None:
        found = []
        for path in self._folder.iterdir():
            try:
                found.append((path.stat().st_mtime, path.stat().st_size, path))
            except FileNotFoundError:  # another process has pruned it
                continue
        total = 0
        for written, size, path in sorted(found, reverse=True):
            total += size
            too_old = self._clock() - written > self._ttl_s
            if path != newest and (too_old or total > self._bytes_max):
                path.unlink(missing_ok=True)
