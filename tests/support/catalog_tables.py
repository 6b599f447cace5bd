"""Catalogues of archives that do not exist, and how the tests read them."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import polars as pl

from prism_ssl.config.schema import DataConfig
from prism_ssl.contracts import ScanRecord
from prism_ssl.data.catalog import Selection, load_records

COLUMNS = ("pmbb_id", "modality", "series_path", "series_description", "exam_type")

Row = dict[str, str | None]


def archive_rows(patients: int, series_each: int = 3) -> list[Row]:
    """A phantom archive: patients with CT and MR series by turns."""
    return [
        {
            "pmbb_id": f"PMBB{patient:06}",
            "modality": ("CT", "MR")[series % 2],
            "series_path": f"archive/PMBB{patient:06}/series_{series}",
            "series_description": "AX_T1",
            "exam_type": "MRI BRAIN",
        }
        for patient in range(patients)
        for series in range(series_each)
    ]


def write(path: Path, rows: list[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pl.DataFrame(rows, schema=dict.fromkeys(rows[0] if rows else COLUMNS, pl.String))
    if path.name.endswith(".parquet"):
        frame.write_parquet(path)
    elif path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(frame.write_csv().encode()))
    else:
        frame.write_csv(path)
    return path


def load(path: Path, seed: int = 0, **settings: Any) -> Selection:
    return load_records(DataConfig(catalog_path=str(path), **settings), seed)


def chosen(selection: Selection) -> list[ScanRecord]:
    """The selected records; none of a phantom archive's folders exists."""
    assert selection.records == []
    return [row.record for row in selection.unresolved]


def ids(path: Path, **settings: Any) -> list[str]:
    return [record.scan_id for record in chosen(load(path, **settings))]


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
