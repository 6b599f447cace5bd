"""The neighbours of a view in a table: the right vector asks, and what the catalogue has is drawn."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from matplotlib.image import imread

from prism_ssl.config.defaults import phantom_cpu
from prism_ssl.contracts import ScanRecord
from prism_ssl.data.views import View
from prism_ssl.embed.search import Query, find
from prism_ssl.errors import ConfigError
from prism_ssl.explore.neighbour_picture import draw_matches, find_in_table, matches_table, records_by_id

WIDTH = 6
VIEW = View(np.array([10.0, -20.0, 30.0]), 25.0, np.zeros(3), 0.0, 1.0, np.zeros((1, 3), np.float32))


@pytest.fixture(scope="module")
def records(phantom_catalog: Path) -> dict[str, ScanRecord]:
    return records_by_id(phantom_cpu(), phantom_catalog)


def write_table(file: Path, records: dict[str, ScanRecord], **columns: list[float]) -> str:
    """A random vector for each scan, and for one that the catalogue does not have."""
    rows = [(r.scan_id, r.subject_id, r.modality) for r in records.values()] + [("gone", "nobody", "CT")]
    vectors = np.random.default_rng(3).normal(size=(len(rows), WIDTH))
    table = pl.DataFrame(rows, schema=["scan_id", "subject_id", "modality"], orient="row")
    embedding = pl.Series("embedding", vectors, dtype=pl.Array(pl.Float32, WIDTH))
    table.with_columns(embedding, **{name: pl.Series(values) for name, values in columns.items()}).write_parquet(file)
    return str(file)


def test_the_scan_of_a_view_asks_a_table_of_scans(records: dict[str, ScanRecord], tmp_path: Path) -> None:
    table, record = write_table(tmp_path / "e.parquet", records), next(iter(records.values()))
    found = find_in_table(table, record, VIEW, len(records), other_patients=True)
    oracle, _ = find(Path(table), Query(record.scan_id, None), len(records), other_patients=True)
    assert [match.scan_id for match in found.matches] == [match.scan_id for match in oracle]
    assert record.subject_id not in {match.subject_id for match in found.matches}
    told = matches_table(found.matches, records)
    assert set(told["place (RAS mm)"]) == {"whole scan"}
    assert told.filter(pl.col("in the catalogue") != "yes")["scan"].to_list() == ["gone"]
    few = find_in_table(table, record, VIEW, 5, other_patients=False)
    drawn = sum(match.scan_id in records for match in few.matches)
    picture = imread(io.BytesIO(draw_matches(record, VIEW, few, records)))
    assert picture.shape[1] == 235 * (1 + drawn)
    columns = np.array_split(picture[..., :3], 1 + drawn, axis=1)
    assert min(column.std() for column in columns) > 0.1


def test_the_place_of_a_view_asks_a_table_of_places(records: dict[str, ScanRecord], tmp_path: Path) -> None:
    record, count = next(iter(records.values())), len(records) + 1
    near = {axis: [at + 3.0] * count for axis, at in zip(("x_mm", "y_mm", "z_mm"), VIEW.center_mm, strict=True)}
    table = write_table(tmp_path / "points.parquet", records, **near)
    found = find_in_table(table, record, VIEW, 3, other_patients=False)
    assert found.in_words == f"The vector that stands for the view lies {3 * 3**0.5:.1f} mm from its centre."
    assert set(matches_table(found.matches, records)["place (RAS mm)"]) == {"13, -17, 33"}
    with pytest.raises(ConfigError, match="cannot be read"):
        find_in_table(str(tmp_path / "none.parquet"), record, VIEW, 3, other_patients=False)
