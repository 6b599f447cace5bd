"""Landmarks found by the vectors of ``prism field --points``: through the command, with a page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from prism_ssl.embed.probe.command import main

PATIENTS, LANDMARKS = 5, 6


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A table of landmarks, and points whose vectors know them (``good``) or are noise (``random``)."""
    rng = np.random.default_rng(0)
    rows = [
        {"scan_id": f"s{patient}", "landmark": f"L{k}", "x_mm": 20.0 * k, "y_mm": 3.0 * patient, "z_mm": -1.5}
        for patient in range(PATIENTS)
        for k in range(LANDMARKS)
    ]
    table = pl.DataFrame(rows)
    table.write_csv(tmp_path / "landmarks.csv")
    told = table.drop("landmark").with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))
    patient = pl.col("scan_id").str.replace("s", "p").alias("subject_id")
    modality = pl.when(pl.col("scan_id") == "s0").then(pl.lit("CT")).otherwise(pl.lit("MR")).alias("modality")
    for name, signal in (("good", 3.0), ("random", 0.0)):
        vectors = rng.normal(size=(len(rows), LANDMARKS)) * 0.2 + signal * np.tile(np.eye(LANDMARKS), (PATIENTS, 1))
        kept = told.with_columns(patient, modality, pl.Series("embedding", vectors.astype(np.float32)))
        (tmp_path / name).mkdir()
        kept.write_parquet(tmp_path / name / "points.parquet")
    return tmp_path


def _line(folder: Path) -> list[str]:
    return ["--landmarks", f"{folder}/landmarks.csv", "--points", f"{folder}/good", "--out", f"{folder}/probe"]


def test_an_encoder_that_knows_the_landmarks_finds_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*_line(folder), "--beside-points", f"random={folder}/random", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["landmarks"]
    assert (told["scans"], told["patients"], told["landmarks"]) == (PATIENTS, PATIENTS, LANDMARKS)
    assert told["chance"] == pytest.approx(1 / LANDMARKS)
    good, random, position = told["rows"]
    assert good["recall"]["value"] == 1.0
    assert good["distance_mm"]["value"] == 0.0
    assert good["across"]["value"] == 1.0
    assert random["recall"]["value"] < 0.4
    assert random["better"]["low"] > 0
    assert position["encoder"] == "position alone"
    assert position["recall"]["value"] == 1.0  # the patients differ by a shift
    page = (folder / "probe" / "probe.md").read_text()
    assert "## Landmarks in other patients" in page
    assert "| chance | 0.17 | | 39 | | |" in page
    assert "add `--beside-points pixels=FOLDER`" in page
    assert (folder / "probe" / "probe.png").stat().st_size > 0


def test_what_does_not_belong_to_the_table_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(_line(folder)[:2]) == 2
    assert "--landmarks is given without --points" in capsys.readouterr().err
    assert main(_line(folder)[2:]) == 2
    assert "--points is given without --landmarks" in capsys.readouterr().err
    table = pl.read_csv(folder / "landmarks.csv")
    table.with_columns(x_mm=pl.col("x_mm") + 5).write_csv(folder / "landmarks.csv")
    assert main(_line(folder)) == 2
    assert "was made from other points than" in " ".join(capsys.readouterr().err.split())
    table.drop("landmark").write_csv(folder / "landmarks.csv")
    assert main(_line(folder)) == 2
    assert "needed: a column landmark" in " ".join(capsys.readouterr().err.split())
    table.with_columns(landmark=pl.lit("L0")).write_csv(folder / "landmarks.csv")
    assert main(_line(folder)) == 2
    assert "more than once: 'L0', data rows 1 and 2" in " ".join(capsys.readouterr().err.split())
    blank = table.with_columns(landmark=pl.lit(None, pl.String))
    blank.write_csv(folder / "landmarks.csv")
    assert main(_line(folder)) == 2
    assert "gives no two landmarks" in " ".join(capsys.readouterr().err.split())
    other = table.with_columns(scan_id=pl.lit("s1"))
    other.write_csv(folder / "landmarks.csv")
    assert main(_line(folder)) == 2
    assert "was made from other points than" in " ".join(capsys.readouterr().err.split())
    unlike = table.with_columns(landmark=pl.col("scan_id") + pl.col("landmark"))
    unlike.write_csv(folder / "landmarks.csv")
    assert main(_line(folder)) == 2
    assert "gives no two landmarks" in " ".join(capsys.readouterr().err.split())
