"""Read labels and embeddings of scans, and keep the scans that all tables have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from prism_ssl.config.schema import DataConfig
from prism_ssl.contracts import Float64
from prism_ssl.data.catalog import load_records
from prism_ssl.errors import ConfigError
from prism_ssl.eval.frozen_probe import Kind, Task

IDS = ("scan_id", "series_id", "subject_id", "series_path", "modality", "file_stamp", "checkpoint_hash")
"""Columns that are no label and no part of an embedding."""
CLASSES_MAX = 10
"""A column of numbers with more values than this is a regression."""


@dataclass(frozen=True, eq=False)
class Encoders:
    """Embeddings [S, D] of the same scans by each encoder, by name; the first is the one that is probed."""

    scans: list[str]
    patients: dict[str, str]
    x: dict[str, Float64]


def read_encoders(probed: Path, beside: Mapping[str, Path]) -> Encoders:
    """The table of ``prism embed`` at ``probed``, and those of other encoders, for the scans that are in all of them.

    Raises:
        ConfigError: a table cannot be read, holds no embedding, or they share no scan.
    """
    tables = {"embeddings": _embeddings(probed)} | {name: _embeddings(path) for name, path in beside.items()}
    first = tables["embeddings"]
    if "subject_id" not in first.columns:
        raise ConfigError(
            f"{probed} has no column subject_id; needed: a table of prism embed, or one that names patients"
        )
    common = sorted(set.intersection(*(set(table["scan_id"]) for table in tables.values())))
    if not common:
        raise ConfigError(
            f"{probed} and {', '.join(map(str, beside.values()))} share no scan_id; needed: the same scans"
        )
    x = {}
    for name, table in tables.items():
        rows = pl.DataFrame({"scan_id": common}).join(table, on="scan_id", how="left", maintain_order="left")
        x[name] = np.stack(rows["embedding"].to_list()).astype(float)
        if not np.isfinite(x[name]).all():
            raise ConfigError(f"the embeddings {name!r} hold values that are not finite; embed again")
    return Encoders(common, dict(first.select("scan_id", "subject_id").iter_rows()), x)


def read_tasks(
    path: Path, encoders: Encoders, data: DataConfig | None, label: str | None, kind: str
) -> list[LabelTask]:
    """The labels of a table by scan: ``scan_id``, or ``series_path`` of the catalogue ``data``, and columns of labels.

    Args:
        path: .csv or .parquet.
        encoders: the scans that have embeddings; the others are left out.
        label: the column to read; None: all of them.
        kind: ``classes``, ``regression``, or ``auto``: a column of numbers with many values is a regression.

    Raises:
        ConfigError: the table cannot be read, names no scan, or has no usable label.
        CatalogError: the catalogue cannot be used.
    """
    table = _read(path)
    if "scan_id" not in table.columns:
        table = _with_scan_ids(table, path, data)
    names = [name for name in table.columns if name not in IDS] if label is None else [label]
    if missing := [name for name in names if name not in table.columns]:
        raise ConfigError(f"{path} has no column {missing[0]!r}; found: {', '.join(table.columns)}")
    table = table.with_columns(pl.col("scan_id").cast(pl.String)).unique("scan_id", maintain_order=True)
    tasks = [task for name in names if (task := _task(table, name, encoders, kind)) is not None]
    if not tasks:
        raise ConfigError(
            f"{path} has no label of two patients or more among the {len(encoders.scans)} scans with embeddings "
            f"({', '.join(names) or 'no column'}); needed: their scan_id or series_path, and two classes or numbers"
        )
    return tasks


def rows_of(task_scans: list[str], encoders: Encoders) -> list[int]:
    """Rows of the embeddings of these scans."""
    at = {scan: row for row, scan in enumerate(encoders.scans)}
    return [at[scan] for scan in task_scans]


@dataclass(frozen=True, eq=False)
class LabelTask(Task):
    """A task and the scans [S] that have the label."""

    scans: list[str]


def _task(table: pl.DataFrame, name: str, encoders: Encoders, kind: str) -> LabelTask | None:
    known = table.filter(pl.col("scan_id").is_in(encoders.scans)).select("scan_id", pl.col(name).alias("label"))
    known = known.filter(pl.col("label").is_not_null() & (pl.col("label").cast(pl.String).str.strip_chars() != ""))
    number = known["label"].cast(pl.Float64, strict=False)
    numeric = number.null_count() == 0 and bool(number.is_finite().all())
    is_regression = kind == "regression" or (kind == "auto" and numeric and number.n_unique() > CLASSES_MAX)
    if is_regression and not numeric:
        raise ConfigError(f"label {name!r} holds values that are no numbers; needed: numbers, or --kind classes")
    patient = pl.col("scan_id").replace_strict(encoders.patients).alias("patient")
    known = known.with_columns(number if is_regression else pl.col("label").cast(pl.String), patient).sort("scan_id")
    if not is_regression:  # a class of one patient cannot be on both sides of a split
        known = known.filter(pl.col("patient").n_unique().over("label") > 1)
    if known["label"].n_unique() < 2 or known["patient"].n_unique() < 2:
        return None
    what: Kind = "regression" if is_regression else "classes"
    y = known["label"].to_numpy() if is_regression else known["label"].to_numpy().astype(str)
    return LabelTask(name, what, y, known["patient"].to_numpy().astype(str), known["scan_id"].to_list())


def _with_scan_ids(table: pl.DataFrame, path: Path, data: DataConfig | None) -> pl.DataFrame:
    if "series_path" not in table.columns or data is None:
        raise ConfigError(
            f"{path} has no column scan_id; needed: scan_id, or series_path and the catalogue that was embedded "
            "(prism probe CATALOG --labels ...)"
        )
    ids = {record.series_path: record.scan_id for record in load_records(data, 0).records}
    found = pl.col("series_path").cast(pl.String).str.strip_chars_end("/").replace_strict(ids, default=None)
    return table.with_columns(found.alias("scan_id")).filter(pl.col("scan_id").is_not_null())


def _embeddings(path: Path) -> pl.DataFrame:
    table = _read(path)
    if "scan_id" not in table.columns:
        raise ConfigError(f"{path} has no column scan_id; needed: a table of prism embed, or scan_id and numbers")
    if "embedding" not in table.columns:
        cast = table.select(pl.exclude(IDS).cast(pl.Float64, strict=False))
        numbers = [name for name in cast.columns if cast[name].null_count() == 0]
        if not numbers:
            raise ConfigError(f"{path} has neither a column embedding nor columns of numbers")
        table = table.with_columns(cast.select(pl.concat_list(numbers).alias("embedding")))
    if not isinstance(table["embedding"].dtype, (pl.Array, pl.List)):
        raise ConfigError(f"{path} has embeddings of type {table['embedding'].dtype}; needed: lists of numbers")
    ids = [name for name in ("scan_id", "subject_id") if name in table.columns]
    table = table.select(*(pl.col(name).cast(pl.String) for name in ids), "embedding").drop_nulls("embedding")
    if table["scan_id"].n_unique() < table.height:
        raise ConfigError(f"{path} has several rows of one scan_id; needed: one row a scan")
    if table["embedding"].list.len().n_unique() > 1 if table["embedding"].dtype == pl.List else False:
        raise ConfigError(f"{path} has embeddings of several lengths; needed: one")
    return table


def _read(path: Path) -> pl.DataFrame:
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path, glob=False)
        return pl.read_csv(path, glob=False, infer_schema=False)  # an id such as 12e3 is no number
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ConfigError(
            f"{path} cannot be read ({type(error).__name__}); needed: a .csv or .parquet table"
        ) from error
