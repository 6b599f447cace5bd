"""The request that a command line makes, and the words that determine it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from prism_ssl.config.schema import DataConfig
from prism_ssl.data.catalog import load_records
from prism_ssl.embed.field.places import FieldRequest, MasksRequest, PointsRequest, Request
from prism_ssl.errors import ConfigError
from prism_ssl.utils.hashing import content_hash

IN_MM, IN_VOXELS = ("x_mm", "y_mm", "z_mm"), ("i", "j", "k")
"""Columns of a table of points: RAS in mm, or continuous voxel indices of the scan."""


def request_for(given: argparse.Namespace, data: DataConfig) -> tuple[Request, dict[str, Any]]:
    """What ``prism field`` was asked; raises ``ConfigError`` for a table of points that cannot be used."""
    if given.points:
        request = read_points(Path(given.points), data)
        rows = {scan: [rows.tolist(), at.tolist()] for scan, (rows, at) in request.rows_of.items()}
        return request, {"points": content_hash([request.in_voxels, rows])}
    if given.masks:
        folder = Path(given.masks).absolute()
        if not folder.is_dir():
            raise ConfigError(f"--masks {folder} is no folder; needed: one with a label volume for each scan")
        return MasksRequest(str(folder), given.spacing), {"spacing_mm": given.spacing}
    field = FieldRequest(given.spacing, given.coverage, given.everywhere, not given.volume)
    words = {"spacing_mm": given.spacing, "coverage": given.coverage}
    return field, words | {"everywhere": given.everywhere, "field": not given.volume}


def read_points(path: Path, data: DataConfig) -> PointsRequest:
    """The points of a table, by scan.

    Raises:
        ConfigError: it cannot be read, lacks a column, holds a coordinate that is no number, or names an unknown scan.
        CatalogError: the catalogue cannot be used.
    """
    table = read_table(path)
    axes = next((axes for axes in (IN_MM, IN_VOXELS) if set(axes) <= set(table.columns)), None)
    scan = next((name for name in ("scan_id", "series_path") if name in table.columns), None)
    if axes is None or scan is None or table.is_empty():
        raise ConfigError(
            f"{path} has {table.height} rows and the columns {', '.join(table.columns)}; needed: scan_id or "
            f"series_path, and {', '.join(IN_MM)} (RAS) or {', '.join(IN_VOXELS)} (voxels)"
        )
    records = load_records(data, data.selection_seed).records
    ids = {record.scan_id if scan == "scan_id" else record.series_path: record.scan_id for record in records}
    names = [str(name).rstrip("/") for name in table[scan]]
    if unknown := sorted({name for name in names if name not in ids}):
        raise ConfigError(
            f"{path} names {len(unknown)} scans that the catalogue has no file of, such as {unknown[0]!r}"
        )
    at = table.select(pl.col(axes).cast(pl.Float64, strict=False)).to_numpy()
    if not np.isfinite(at).all():
        row = int(np.flatnonzero(~np.isfinite(at).all(axis=1))[0])
        raise ConfigError(f"{path}: a coordinate of data row {row + 1} is no number")
    owner = np.array([ids[name] for name in names])
    rows = {scan_id: np.flatnonzero(owner == scan_id) for scan_id in dict.fromkeys(owner.tolist())}
    return PointsRequest({scan_id: (row, at[row]) for scan_id, row in rows.items()}, axes is IN_VOXELS)


def read_table(path: Path) -> pl.DataFrame:
    """A table of points, .csv (all columns as text) or .parquet; raises ``ConfigError`` where it cannot be read."""
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path, glob=False)
        return pl.read_csv(path, infer_schema=False, glob=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ConfigError(
            f"{path} cannot be read ({type(error).__name__}); needed: a .csv or .parquet table"
        ) from error
