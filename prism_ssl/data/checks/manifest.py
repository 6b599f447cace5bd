"""Manifest: preflight's verdict on each file, kept from run to run."""

from __future__ import annotations

import io
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import polars as pl

from prism_ssl.contracts import PreparedScan, RobustStats, ScanRecord
from prism_ssl.data.scan import TRANSIENT_REASONS, within
from prism_ssl.errors import RunFolderError
from prism_ssl.utils.fs import FolderLock, private_folder, write_atomic
from prism_ssl.utils.machine import started_ticks

_log = logging.getLogger(__name__)

LOCK_LIMIT_S = 60.0
"""How long a preflight waits at its end for another one that merges its parts, which takes a second or two."""


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """The verdict on one selected row. ``reason`` is ``None`` for a scan that is kept; then every other field is given.

    ``path`` is its file; for a row without a file, the path at which one was expected, or the file that was kept
    before, with its earlier findings. ``size`` and ``mtime_ns`` are those of the file when it was checked, ``modality``
    and ``config_hash`` are the modality and the limits of the check; the verdict holds while path and these four stay
    the same. Equal ``content`` means equal voxels. Intensities are in rescaled units.
    """

    scan_id: str
    path: str
    modality: str
    size: int
    mtime_ns: int
    config_hash: str
    reason: str | None = None
    detail: str | None = None
    nx: int | None = None
    ny: int | None = None
    nz: int | None = None
    spacing_x_mm: float | None = None
    spacing_y_mm: float | None = None
    spacing_z_mm: float | None = None
    volume_bytes: int | None = None
    lowest: float | None = None
    median: float | None = None
    std: float | None = None
    content: str | None = None

    def prepared(self, record: ScanRecord) -> PreparedScan:
        """The scan in the form that the pools need; only for a row without a reason."""
        return PreparedScan(
            record=record,
            stats=RobustStats(_given(self.lowest), _given(self.median), _given(self.std)),
            volume_bytes=_given(self.volume_bytes),
            shape=(_given(self.nx), _given(self.ny), _given(self.nz)),
            spacing_mm=(_given(self.spacing_x_mm), _given(self.spacing_y_mm), _given(self.spacing_z_mm)),
            content=_given(self.content),
        )


_POLARS_TYPES = {"str": pl.String, "int": pl.Int64, "float": pl.Float64}
_KEY = ("scan_id", "modality")
_PARTS = "manifest_parts"
_LOCK_HANGS_S = 10.0
_FORGOTTEN_S = 7 * 24 * 3600.0
_SCHEMA = pl.Schema({field.name: _POLARS_TYPES[str(field.type).split(" ")[0]] for field in fields(ManifestRow)})


class Manifest:
    """``manifest.parquet`` and the part files of unfinished preflights. Its files have mode 0600, because they hold
    paths. Several processes may share a folder; each writes and removes its own parts.

    Args:
        folder: where ``manifest.parquet`` is; parts lie in its sub-folder ``manifest_parts``.
        flush_rows: a part is written when this many rows are new ...
        flush_s: ... or when rows are new and this much time has passed since the last part.
        clock: seconds, monotonic.
        lock_limit_s: how long ``close`` waits for another process that holds the folder.
    """

    def __init__(
        self,
        folder: Path,
        flush_rows: int = 500,
        flush_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        lock_limit_s: float = LOCK_LIMIT_S,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self.path = folder, folder / "manifest.parquet"
        self._parts = private_folder(folder / _PARTS)
        self._owner = _this_process()
        self._flush_rows, self._flush_s, self._clock, self._lock_limit_s = flush_rows, flush_s, clock, lock_limit_s
        self._rows = read_manifest(folder)
        self._new: list[ManifestRow] = []
        self._flushed_at = clock()

    def find(self, record: ScanRecord) -> ManifestRow | None:
        """The findings of the last read of a record's file, of any age, even if the file was unreachable since then."""
        return find_row(self._rows, record)

    def add(self, row: ManifestRow) -> None:
        """Add a row; it survives a kill once it is flushed.

        A row that says that the file is unreachable keeps the earlier findings: a volume that is unmounted for an hour
        must not cost the verdicts on all its files.
        """
        earlier = self._rows.get((row.scan_id, row.modality))
        if earlier is not None and _was_kept(earlier) and row.size == 0 and row.reason in TRANSIENT_REASONS:
            row = replace(earlier, reason=row.reason, detail=row.detail)
        if row == earlier:
            return
        self._rows[row.scan_id, row.modality] = row
        self._new.append(row)
        if len(self._new) >= self._flush_rows or self._clock() - self._flushed_at >= self._flush_s:
            self.flush()

    def flush(self) -> None:
        """Write the new rows as a part file."""
        if self._new:
            own = [int(file.stem.rpartition("-")[2]) for file in _part_files(self._parts) if self._is_own(file)]
            number = 1 + max(own, default=0)
            part = pl.DataFrame([asdict(row) for row in self._new], schema=_SCHEMA)
            self._write(self._parts / f"part-{self._owner}-{number:06d}.parquet", part)
            self._new = []
        self._flushed_at = self._clock()

    def close(self) -> None:
        """Merge all parts into ``manifest.parquet``, keeping what other processes have put there meanwhile.

        Raises:
            RunFolderError: another process holds the folder for too long, or its file system has no locks.
        """
        self.flush()
        with self._locked():
            # Parts that another process writes from now on are merged by that process, once it gets the lock.
            files = sorted(self._parts.iterdir())
            parts = _part_files(self._parts)
            if parts or not self.path.exists():
                self._write(self.path, _folded([self.path, *sorted(parts, key=self._is_own)]))
            folder_changed_s = self._parts.stat().st_mtime  # by the clock that dates its files, such as a file server's
            for file in files:
                if self._is_own(file) or _is_left_behind(file, folder_changed_s):
                    file.unlink(missing_ok=True)

    def _write(self, file: Path, table: pl.DataFrame) -> None:
        buffer = io.BytesIO()
        table.write_parquet(buffer)
        # In the private folder, so that the rows are never readable by others.
        staged = self._parts / f"staged-{self._owner}-0"
        write_atomic(staged, buffer.getvalue())
        staged.chmod(0o600)
        staged.replace(file)

    def _is_own(self, file: Path) -> bool:
        return f"-{self._owner}-" in file.name

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = FolderLock(self._folder)
        try:
            # The call may hang if the lock daemon is down; then the time limit of the whole call applies.
            free = within(self._lock_limit_s + _LOCK_HANGS_S, lambda: lock.acquire(self._lock_limit_s))
        except OSError as error:  # a TimeoutError is one
            raise RunFolderError(
                f"{self._folder} cannot be locked ({error.strerror or error}), which is needed where several runs may "
                "check one catalogue; set --run.root to a folder whose file system has locks (flock)"
            ) from error
        if not free:
            raise RunFolderError(
                f"{self._folder} is held by another process for more than {self._lock_limit_s:g} s; see which one "
                f"(fuser {self._folder / '.lock'}), or set --run.root to another folder. The verdicts are kept there"
            )
        try:
            yield
        finally:
            lock.release()


def read_manifest(folder: Path) -> dict[tuple[str, str], ManifestRow]:
    """(scan id, modality) -> row, from a folder that others may be writing; takes no lock and creates nothing."""
    parts = [row for file in _part_files(folder / _PARTS) for row in _rows(file)]
    # Read after the parts: a part that vanished meanwhile was merged into it.
    return {(row.scan_id, row.modality): row for row in (*_rows(folder / "manifest.parquet"), *parts)}


def find_row(rows: dict[tuple[str, str], ManifestRow], record: ScanRecord) -> ManifestRow | None:
    """The findings of the last read of a record's file, of any age, even if the file was unreachable since then."""
    row = rows.get((record.scan_id, record.modality))
    if row is None or row.path != record.nifti_path:
        return None
    return replace(row, reason=None, detail=None) if _was_kept(row) else row


def _was_kept(row: ManifestRow) -> bool:
    """Whether a file was kept when it was read; it may be unreachable since then."""
    return row.content is not None and (row.reason is None or row.reason in TRANSIENT_REASONS)


def _part_files(parts: Path) -> list[Path]:
    found = parts.iterdir() if parts.is_dir() else ()
    return sorted(file for file in found if re.fullmatch(r"part-.*-\d+\.parquet", file.name))


def _folded(files: list[Path]) -> pl.DataFrame:
    """The last row of each scan and modality."""
    tables = [table for file in files if (table := _table(file)) is not None]
    return pl.concat([pl.DataFrame(schema=_SCHEMA), *tables]).unique(_KEY, keep="last", maintain_order=True)


def _table(file: Path) -> pl.DataFrame | None:
    try:
        table = pl.read_parquet(io.BytesIO(file.read_bytes()))  # bytes, because polars may read a path as a pattern
    except FileNotFoundError:
        return None
    except pl.exceptions.PolarsError as error:
        _log.warning("%s cannot be read (%s); its files are checked again", file, type(error).__name__)
        return None
    return table if table.schema == _SCHEMA else None  # written by another version: its verdicts do not hold


def _rows(file: Path) -> Iterator[ManifestRow]:
    table = _table(file)
    if table is not None:
        yield from (ManifestRow(**row) for row in table.iter_rows(named=True))


def _this_process() -> str:
    return f"{_host()}-{os.getpid()}-{started_ticks(os.getpid())}"


def _host() -> str:
    return re.sub("[^A-Za-z0-9.]", "_", socket.gethostname())


def _is_left_behind(file: Path, now_s: float) -> bool:
    """Whether the process that wrote a part has gone: it is dead, or on another host and silent for a week."""
    _, *owner, _ = file.name.split("-") if file.name.count("-") == 4 else ("", "", "", "", "")
    if owner[0] == _host():
        return str(started_ticks(int(owner[1]))) != owner[2]
    try:
        return now_s - file.stat().st_mtime > _FORGOTTEN_S
    except FileNotFoundError:
        return False


def _given(value: Any) -> Any:
    if value is None:
        raise ValueError("the manifest row of a kept scan lacks a value; delete manifest.parquet and run again")
    return value
