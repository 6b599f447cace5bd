"""Labels of a table, told by several encoders: joined by scan, compared by patient, written to a page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from prism_ssl.embed.probe.command import main
from prism_ssl.embed.probe.labels import read_encoders, read_tasks
from prism_ssl.errors import ConfigError

SCANS, PATIENTS = 36, 9


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """e.parquet holds ``side`` and ``age``, random.parquet neither, other.csv (without two scans) ``side``."""
    rng = np.random.default_rng(0)
    ids = [f"{n:x}e{n:03}" for n in range(SCANS)]  # an id that looks like a number
    hidden = rng.normal(size=SCANS)
    x, noise = rng.normal(size=(2, SCANS, 5)).astype(np.float32)
    x[:, 0] = 3 * hidden

    def table(values: np.ndarray) -> pl.DataFrame:
        subjects = [f"p{n % PATIENTS}" for n in range(SCANS)]
        known = {"scan_id": ids, "subject_id": subjects, "modality": ["CT"] * SCANS}
        return pl.DataFrame(known | {"embedding": pl.Series(values, dtype=pl.Array(pl.Float32, 5))})

    table(x).write_parquet(tmp_path / "e.parquet")
    table(noise).write_parquet(tmp_path / "random.parquet")
    columns = {"scan_id": ids, "a": hidden + rng.normal(0, 0.3, SCANS), "b": noise[:, 0]}
    pl.DataFrame(columns).sample(fraction=1, shuffle=True, seed=1)[2:].write_csv(tmp_path / "other.csv")
    labels = {"scan_id": ids, "side": np.where(hidden > 0, "up", "down"), "age": 50 + 10 * hidden, "one": ["x"] * SCANS}
    pl.DataFrame(labels).reverse().write_csv(tmp_path / "labels.csv")
    return tmp_path


def test_a_page_compares_encoders_on_the_same_scans(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    beside = ["--beside", f"random={folder}/random.parquet", "--beside", f"other={folder}/other.csv"]
    line = ["--labels", f"{folder}/labels.csv", "--embeddings", f"{folder}/e.parquet", "--out", f"{folder}/p", *beside]
    assert main([*line, "--json"]) == 0
    told = {each["label"]: each for each in json.loads(capsys.readouterr().out)["labels"]}
    assert set(told) == {"side", "age"}  # one class is nothing to tell
    side, age = told["side"], told["age"]
    assert (side["measure"], age["measure"], side["chance"]) == ("balanced accuracy", "R2", 0.5)
    assert side["scans"] == SCANS - 2
    rows = {row["encoder"]: row for row in side["rows"]}
    assert rows["embeddings"]["score"]["value"] > 0.85
    assert rows["random"]["better"]["low"] > 0
    assert rows["embeddings"]["better"] is None
    assert rows["other"]["score"]["value"] > 0.75
    assert list(rows["other"]["curve"]) == ["2", "4", "7"]
    page = (folder / "p" / "probe.md").read_text()
    assert "with `--weights pixels`, and add `--beside pixels=FILE`." in page
    assert "--beside-fields" not in page
    assert str(folder) not in page
    assert (folder / "p" / "probe.png").read_bytes().startswith(b"\x89PNG")
    assert main(line) == 0
    assert "by chance" in capsys.readouterr().out


def test_what_cannot_be_probed_is_refused(folder: Path) -> None:
    encoders = read_encoders(folder / "e.parquet", {})
    with pytest.raises(ConfigError, match="no column 'colour'; found: scan_id, side, age, one"):
        read_tasks(folder / "labels.csv", encoders, None, "colour", "auto")
    with pytest.raises(ConfigError, match="label 'side' holds values that are no numbers"):
        read_tasks(folder / "labels.csv", encoders, None, "side", "regression")
    with pytest.raises(ConfigError, match="no label of two patients or more"):
        read_tasks(folder / "labels.csv", encoders, None, "one", "auto")
    pl.DataFrame({"series_path": ["a"], "x": ["b"]}).write_csv(folder / "paths.csv")
    with pytest.raises(ConfigError, match="series_path and the catalogue"):
        read_tasks(folder / "paths.csv", encoders, None, None, "auto")
    pl.DataFrame({"scan_id": ["zz"], "a": [1.0]}).write_csv(folder / "none.csv")
    with pytest.raises(ConfigError, match="share no scan_id"):
        read_encoders(folder / "e.parquet", {"none": folder / "none.csv"})
    with pytest.raises(ConfigError, match="has no column subject_id"):
        read_encoders(folder / "other.csv", {})
    pl.concat([pl.read_csv(folder / "other.csv")] * 2).write_csv(folder / "twice.csv")
    with pytest.raises(ConfigError, match="several rows of one scan_id"):
        read_encoders(folder / "e.parquet", {"twice": folder / "twice.csv"})
    assert main(["--labels", "x.csv", "--embeddings", f"{folder}/e.parquet", "--beside", "nameless"]) == 2
