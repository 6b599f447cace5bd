"""A column of the catalogue read from embeddings that hold it, or that do not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from prism_ssl.config.schema import DataConfig
from prism_ssl.data.catalog import load_records
from prism_ssl.embed.probe.column import probe_table
from prism_ssl.embed.probe.command import main
from prism_ssl.errors import CatalogError, ConfigError


@pytest.fixture
def embedded(phantom_catalog: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A catalogue whose column ``part`` lies in the first direction of the embeddings, and ``noise`` in none."""
    table = pl.read_csv(phantom_catalog)
    rng = np.random.default_rng(0)
    part = ["head" if number % 2 else "trunk" for number in range(table.height)]
    table = table.with_columns(pl.Series("part", part), pl.Series("noise", rng.choice(["a", "b"], table.height)))
    catalog = phantom_catalog.parent / f"labelled-{tmp_path.name}.csv"
    table.write_csv(catalog)
    part_of = dict(zip(table["series_path"], table["part"], strict=True))
    records = load_records(DataConfig(catalog_path=str(catalog)), seed=0).records
    x = rng.normal(size=(len(records), 4)).astype(np.float32)
    x[:, 0] = [3.0 if part_of[record.series_path] == "head" else -3.0 for record in records]
    file = tmp_path / "embeddings.parquet"
    pl.DataFrame(
        {
            "scan_id": [record.scan_id for record in records],
            "subject_id": [record.subject_id for record in records],
            "modality": [record.modality for record in records],
            "embedding": pl.Series(x, dtype=pl.Array(pl.Float32, 4)),
        }
    ).write_parquet(file)
    return catalog, file


def test_a_column_that_the_embeddings_hold_is_read_and_another_is_not(embedded: tuple[Path, Path]) -> None:
    catalog, file = embedded
    data = DataConfig(catalog_path=str(catalog))
    assert probe_table(file, data, "part").score.linear > 0.95
    assert probe_table(file, data, "noise").score.linear < 0.8
    assert set(probe_table(file, data, "modality").classes) == {"CT", "MR"}


def test_the_command_prints_what_it_found(embedded: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    catalog, file = embedded
    assert main([str(catalog), "--embeddings", str(file), "--label", "part", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["score"]["chance"] == 0.5
    assert main([str(catalog), "--embeddings", str(file), "--label", "part"]) == 0
    assert "balanced accuracy on patients that the probe has not seen" in capsys.readouterr().out


def test_a_column_or_a_table_that_is_not_there_is_refused(
    embedded: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    catalog, file = embedded
    data = DataConfig(catalog_path=str(catalog))
    with pytest.raises(CatalogError, match="nothing"):
        probe_table(file, data, "nothing")
    with pytest.raises(ConfigError, match="cannot be read"):
        probe_table(tmp_path / "none.parquet", data, "part")
    assert main([str(catalog), "--embeddings", str(tmp_path / "none.parquet")]) == 2
    assert "needed: a table of prism embed" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="--k is 0"):
        probe_table(file, data, "part", k=0)
    for bad, told in (
        (pl.read_parquet(file).clear(), "no row"),
        (pl.read_parquet(file).with_columns(pl.lit("x").alias("embedding")), "embeddings of type String"),
        (pl.read_parquet(file).with_columns(pl.col("embedding") * float("nan")), "not finite"),
    ):
        bad.write_parquet(tmp_path / "bad.parquet")
        with pytest.raises(ConfigError, match=told):
            probe_table(tmp_path / "bad.parquet", data, "part")
    pl.read_parquet(file).with_columns(pl.lit("x").alias("scan_id")).write_parquet(tmp_path / "other.parquet")
    with pytest.raises(ConfigError, match="the catalogue that was embedded"):
        probe_table(tmp_path / "other.parquet", data, "part")
