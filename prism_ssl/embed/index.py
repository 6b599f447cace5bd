"""The vectors that can be searched: a table of ``prism embed`` or ``prism field``, or a folder of fields, in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from prism_ssl.contracts import Float32, Float64
from prism_ssl.embed.field.scan_field import FIELDS_TABLE, field_file, read_field
from prism_ssl.errors import ConfigError, PrismError

BLOCK_ROWS = 8192
"""Vectors in memory at a time."""
PLACE = ("x_mm", "y_mm", "z_mm")
IDS = ("scan_id", "subject_id", "modality")


@dataclass(frozen=True, eq=False)
class Block:
    """Some vectors [M, D] of an index: their scans, patients and modalities [M], and RAS places [M, 3] or NaN."""

    ids: pl.DataFrame
    places_mm: Float64
    vectors: Float32


def blocks_of(index: Path, only: str | None = None) -> Iterator[Block]:
    """The vectors of a table of ``prism embed`` or ``prism field``, or of a folder of fields, some at a time.

    ``only`` those of this scan id.

    Raises:
        ConfigError: it is neither.
    """
    if index.is_dir():
        yield from _fields(index, only)
    else:
        yield from _rows(index, only)


def has_places(index: Path) -> bool:
    """Whether the vectors of an index stand for places of scans; raises ``ConfigError`` where it cannot be read."""
    if index.is_dir():
        return True
    try:
        return set(PLACE) <= set(pq.read_schema(index).names)
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{index} cannot be read ({type(error).__name__}); needed: a table of prism embed") from error


def _rows(path: Path, only: str | None) -> Iterator[Block]:
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if missing := [name for name in (*IDS, "embedding") if name not in names]:
                raise ConfigError(f"{path} has no column {', '.join(missing)}; needed: a table of prism embed or field")
            wanted = [*IDS, *(name for name in PLACE if name in names), "embedding"]
            if only is not None:  # polars decodes the embeddings of these rows alone
                query = pl.scan_parquet(path, glob=False).filter(pl.col("scan_id") == only).select(wanted)
                yield _block(query.collect().to_arrow())
                return
            for batch in file.iter_batches(BLOCK_ROWS, columns=wanted):
                yield _block(batch)
    except (OSError, pa.ArrowException, pl.exceptions.PolarsError) as error:
        if isinstance(error, PrismError):
            raise
        raise ConfigError(f"{path} cannot be read ({type(error).__name__}); needed: a table of prism embed") from error


def _block(rows: Any) -> Block:
    embeddings = rows.column("embedding")
    flat = (embeddings.combine_chunks() if isinstance(embeddings, pa.ChunkedArray) else embeddings).flatten()
    rest = pl.DataFrame(rows.select([name for name in rows.schema.names if name != "embedding"]))
    with_places = set(PLACE) <= set(rest.columns)
    at = rest.select(PLACE).to_numpy() if with_places else np.full((rest.height, 3), np.nan)
    vectors: Float32 = flat.to_numpy().reshape(rest.height, -1 if rest.height else 1)
    return Block(rest.select(IDS), at, vectors)


def _fields(folder: Path, only: str | None) -> Iterator[Block]:
    for whole in _rows(folder / FIELDS_TABLE, only):
        for ids in whole.ids.iter_slices(1):
            file = field_file(folder, ids["scan_id"][0])
            if not file.is_file():
                continue
            field = read_field(file)
            yield Block(pl.concat([ids] * len(field.index)), field.points_mm, field.vectors)
