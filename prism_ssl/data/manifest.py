"""What preflight found out about each file, kept from run to run."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import polars as pl

from prism_ssl.contracts import PreparedScan, RobustStats, ScanRecord
from prism_ssl.utils.fs import private_folder, write_atomic


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """The verdict on one file. ``reason`` is ``None`` for a scan that is kept; then every other field is given.

    ``size`` and ``mtime_ns`` are those of the file when it was checked, ``modality`` and ``config_hash`` what it
    was checked as and against; the verdict holds as long as all four stay. Intensities are rescaled units.
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

    def prepared(self, record: ScanRecord) -> PreparedScan:
        """The scan as the pools want it; only for a row without a reason."""
        return PreparedScan(
            record=record,
            stats=RobustStats(_given(self.lowest), _given(self.median), _given(self.std)),
            volume_bytes=_given(self.volume_bytes),
            shape=(_given(self.nx), _given(self.ny), _given(self.nz)),
            spacing_mm=(_given(self.spacing_x_mm), _given(self.spacing_y_mm), _given(self.spacing_z_mm)),
        )


_POLARS_TYPES = {"str": pl.String, "int": pl.Int64, "float": pl.Float64}
_SCHEMA = pl.Schema({field.name: _POLARS_TYPES[str(field.type).split(" ")[0]] for field in fields(ManifestRow)})


class Manifest:
    """``manifest.parquet`` and the part files of a run that has not ended. Its files have mode 0600: they hold paths.

    Args:
        folder: where ``manifest.parquet`` is; parts lie in its sub-folder ``manifest_parts``.
        flush_rows: a part is written when this many rows are new ...
        flush_s: ... or when rows are new and this much time has passed since the last part.
        clock: seconds, monotonic.
    """

    def __init__(
        self, folder: Path, flush_rows: int = 500, flush_s: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "manifest.parquet"
        self._parts = private_folder(folder / "manifest_parts")
        self._flush_rows, self._flush_s, self._clock = flush_rows, flush_s, clock
        self._rows = {_key(row): row for file in (self.path, *self._part_files()) for row in _read(file)}
        self._new: list[ManifestRow] = []
        self._flushed_at = clock()

    def find(self, path: str, modality: str) -> ManifestRow | None:
        """The row of a file, whatever its age."""
        return self._rows.get((path, modality))

    def add(self, row: ManifestRow) -> None:
        """Remember a row; it survives a kill once it is flushed."""
        self._rows[_key(row)] = row
        self._new.append(row)
        if len(self._new) >= self._flush_rows or self._clock() - self._flushed_at >= self._flush_s:
            self.flush()

    def flush(self) -> None:
        """Write the new rows as a part file."""
        if self._new:
            number = 1 + max((int(file.stem.removeprefix("part-")) for file in self._part_files()), default=0)
            self._write(self._parts / f"part-{number:06d}.parquet", self._new)
            self._new = []
        self._flushed_at = self._clock()

    def close(self) -> None:
        """Fold all parts into ``manifest.parquet``."""
        self.flush()
        parts = self._part_files()
        if parts or not self.path.exists():
            self._write(self.path, self._rows.values())
        for file in parts:
            file.unlink()

    def _write(self, file: Path, rows: Iterable[ManifestRow]) -> None:
        buffer = io.BytesIO()
        pl.DataFrame([asdict(row) for row in rows], schema=_SCHEMA).write_parquet(buffer)
        staged = self._parts / "staged"  # in the private folder, so that the rows are never readable by others
        write_atomic(staged, buffer.getvalue())
        staged.chmod(0o600)
        staged.replace(file)

    def _part_files(self) -> list[Path]:
        return sorted(self._parts.glob("part-*.parquet"))


def _key(row: ManifestRow) -> tuple[str, str]:
    return row.path, row.modality


def _read(file: Path) -> Iterable[ManifestRow]:
    if not file.exists():
        return []
    table = pl.read_parquet(file)
    if table.schema != _SCHEMA:  # written by another version: its verdicts are not ours
        return []
    return (ManifestRow(**row) for row in table.iter_rows(named=True))


def _given(value: Any) -> Any:
    if value is None:
        raise ValueError("the manifest row of a kept scan lacks a value; delete manifest.parquet and run again")
    return value
