"""embeddings.parquet: one row a scan, written whole or not at all, and the part files of an unfinished job.

Columns: scan_id, series_id, subject_id (hashes), modality, embedding [D] (mean over the views), spread (root mean
square distance of the views from it), views, checkpoint_hash, file_stamp. Rows come in no particular order. A table of
points or labels has columns of its own, and any number of rows a scan. Scans without an embedding are in
``<name>.rejected.csv`` beside it, with the reason.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from prism_ssl.data.scan import TRANSIENT_REASONS
from prism_ssl.errors import ConfigError
from prism_ssl.utils.fs import FolderLock, atomic_file, private_folder, write_atomic

_TOLD = "prism_ssl"  # key of the schema's metadata
_REJECTED = ("scan_id", "series_id", "subject_id", "modality", "file_stamp", "reason", "detail")
_BATCH_ROWS = 1000


class EmbeddingTable:
    """The table at ``out``, continued from an earlier job of equal ``settings``.

    Args:
        out: a .parquet file; parts lie beside it in ``.NAME.parts`` until the job ends.
        settings: everything that determines an embedding; ``checkpoint_hash`` and ``views``, if given, become columns.
        width: D.
        flush_rows: a part is written after this many new rows ...
        flush_s: ... or with any new row after this time since the last part; the first row at once.
        clock: seconds, monotonic.
        columns: of every row besides those of the module's text.

    Raises:
        ConfigError: the file or its parts are of other settings; another job is writing it; or its folder does not
            support locks.
    """

    def __init__(
        self,
        out: Path,
        settings: dict[str, Any],
        width: int,
        flush_rows: int = 500,
        flush_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        columns: Mapping[str, Any] | None = None,
    ) -> None:
        self.out, self._settings = out, settings
        self._told = {name: settings[name] for name in ("checkpoint_hash", "views") if name in settings}
        self._columns = dict(columns or {})
        self.rejected_file = out.with_suffix(".rejected.csv")
        self._parts = private_folder(out.with_name(f".{out.name}.parts"))
        self._lock = FolderLock(self._parts)
        try:
            free = self._lock.acquire()
        except OSError as error:
            told = f"{self._parts} cannot be locked against a second job ({error.strerror or error})"
            raise ConfigError(f"{told}; choose an --out on a file system with locks (flock)") from error
        if not free:
            raise ConfigError(f"{out} is being written by another job; wait for it, or choose another --out")
        self._schema = _schema(settings, width, self._columns)
        self._flush_rows, self._flush_s, self._clock = flush_rows, flush_s, clock
        self._new: list[dict[str, Any]] = []
        self._settled: dict[str, tuple[str, str | None]] = {}  # scan id -> stamp of the file, reason
        self._newest: dict[str, Path] = {}
        self._rejected: dict[str, dict[str, Any]] = {}
        try:
            for file in self._sources():
                self._remember(file)
        except ConfigError:
            self.close()
            raise
        self._flushed_at = -math.inf

    def settled(self, scan_id: str, file_stamp: str) -> bool:
        """Whether a scan is done: it has a final row, and its file is unchanged."""
        stamp, reason = self._settled.get(scan_id, (None, None))
        return stamp == file_stamp and reason not in TRANSIENT_REASONS

    def is_rejected(self, scan_id: str) -> bool:
        """Whether the newest row of a scan has a reason instead of an embedding."""
        return scan_id in self._rejected

    @property
    def parts_folder(self) -> Path:
        """The folder of the unfinished job; a job may keep more in it."""
        return self._parts

    def add(self, *rows: dict[str, Any]) -> None:
        """Add all rows of a scan, usually one; they survive a kill once they are flushed, together."""
        names = (*_REJECTED, "embedding", "spread", *self._columns)
        self._new += [{name: row.get(name) for name in names} for row in rows]
        if len(self._new) >= self._flush_rows or self._clock() - self._flushed_at >= self._flush_s:
            self.flush()

    def flush(self) -> None:
        """Write the new rows as a part file."""
        if self._new:
            number = 1 + max((int(file.stem.removeprefix("part-")) for file in self._part_files()), default=0)
            file = self._parts / f"part-{number:06d}.parquet"
            table = pa.Table.from_pylist([row | self._told for row in self._new], schema=self._schema)
            with atomic_file(file) as target:
                pq.write_table(table, target)
            self._remember(file)
            self._new = []
        self._flushed_at = self._clock()

    def finish(self) -> tuple[int, Counter[str]]:
        """Merge all parts into ``out`` and the list of rejected scans; returns the number of embeddings, and how many
        scans were rejected for each reason."""
        self.flush()
        rows = 0
        final = pa.schema([field for field in self._schema if field.name not in ("reason", "detail")])
        final = final.with_metadata(self._schema.metadata)
        texts = [field.name for field in final if pa.types.is_string(field.type)]  # a dictionary of mantissas: x 1.5
        with atomic_file(self.out) as target, pq.ParquetWriter(target, final, use_dictionary=texts) as writer:
            for batch in self._newest_rows():
                writer.write_table(batch.select(final.names).cast(final))
                rows += batch.num_rows
        rejected = pl.DataFrame(list(self._rejected.values()), schema=dict.fromkeys(_REJECTED, pl.String))
        write_atomic(self.rejected_file, rejected.sort("reason", "scan_id").write_csv().encode())
        shutil.rmtree(self._parts)
        return rows, Counter(rejected["reason"].to_list())

    def close(self) -> None:
        """Flush new rows and release the lock; can be repeated."""
        if self._parts.exists():
            self.flush()
            if not [path for path in self._parts.iterdir() if path.name != ".lock"]:
                shutil.rmtree(self._parts)
        self._lock.release()

    # ------------------------------------------------------------------ parts
    def _sources(self) -> list[Path]:
        return ([self.out] if self.out.exists() else []) + self._part_files()

    def _part_files(self) -> list[Path]:
        return sorted(self._parts.glob("part-*.parquet"))

    def _remember(self, file: Path) -> None:
        self._refuse_others(file)
        names = [name for name in _REJECTED if name in pq.read_schema(file).names]
        rows = pl.read_parquet(file, columns=names, glob=False)
        if file == self.out:
            rows = pl.concat([rows, self._rejected_before()], how="diagonal")
        for row in rows.iter_rows(named=True):
            scan_id, reason = row["scan_id"], row.get("reason")
            self._settled[scan_id] = row["file_stamp"], reason
            self._newest[scan_id] = file
            self._rejected.pop(scan_id, None)
            if reason is not None:
                self._rejected[scan_id] = {name: row[name] for name in _REJECTED}

    def _rejected_before(self) -> pl.DataFrame:
        if not self.rejected_file.exists():
            return pl.DataFrame(schema=dict.fromkeys(_REJECTED, pl.String))
        return pl.read_csv(self.rejected_file, schema=dict.fromkeys(_REJECTED, pl.String), glob=False)

    def _refuse_others(self, file: Path) -> None:
        try:
            told = json.loads((pq.read_schema(file).metadata or {})[_TOLD.encode()])
        except (pa.ArrowException, KeyError, ValueError) as error:
            raise ConfigError(
                f"{file} is no table of embeddings ({type(error).__name__}); choose another --out"
            ) from error
        if changed := [name for name, value in self._settings.items() if told.get(name) != value]:
            raise ConfigError(
                f"{file} holds embeddings of another {' and '.join(changed)}; choose another --out, or move it away"
            )

    def _newest_rows(self) -> Iterator[pa.Table]:
        for file in self._sources():
            for batch in pq.ParquetFile(file).iter_batches(_BATCH_ROWS):
                ids = batch.column("scan_id").to_pylist()
                wanted = [self._newest[scan_id] == file and scan_id not in self._rejected for scan_id in ids]
                yield pa.Table.from_batches([batch]).filter(pa.array(wanted, pa.bool_()))


def _schema(settings: dict[str, Any], width: int, columns: Mapping[str, Any]) -> pa.Schema:
    text = [(name, pa.string()) for name in _REJECTED]
    numbers = [("embedding", pa.list_(pa.float32(), width)), ("spread", pa.float32())]
    origin = ([("views", pa.int32())] if "views" in settings else []) + [("checkpoint_hash", pa.string())]
    schema: pa.Schema = pa.schema([*text, *numbers, *columns.items(), *origin], metadata={_TOLD: json.dumps(settings)})
    return schema
