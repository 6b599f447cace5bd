"""The picture of a pair from a catalogue: which scan, what is said, what is kept out of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from matplotlib.image import imread

from prism_ssl.data.scan.nifti_writer import nifti_bytes
from prism_ssl.inspect.command import main


@pytest.fixture(scope="module")
def scan_ids(phantom_catalog: Path) -> list[str]:
    from prism_ssl.data.checks.catalog_scans import catalog_config, catalog_records

    return [record.scan_id for record in catalog_records(catalog_config(str(phantom_catalog), 100))]


def test_a_scan_is_drawn_and_its_targets_are_said(
    phantom_catalog: Path, scan_ids: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "view.png"
    assert main([str(phantom_catalog), "--scan", scan_ids[2], "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert scan_ids[2] in said
    assert "b lies " in said
    assert " mm in all" in said
    picture = imread(out)
    assert picture.shape[:2] == (960, 1700)
    assert picture[..., :3].std() > 0.1
    for private in (b"PH0", b"subjects", str(phantom_catalog.parent).encode()):
        assert private not in out.read_bytes()


def test_visits_are_different_pairs_and_the_same_visit_is_the_same_picture(
    phantom_catalog: Path, scan_ids: list[str], tmp_path: Path
) -> None:
    pictures = []
    for name, visit in (("one", 0), ("again", 0), ("next", 1)):
        out = tmp_path / f"{name}.png"
        assert main([str(phantom_catalog), "--scan", scan_ids[0], "--out", str(out), "--visit", str(visit)]) == 0
        pictures.append(out.read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]


def test_an_unknown_scan_names_the_nearest_one(
    phantom_catalog: Path, scan_ids: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    misspelt = scan_ids[1][:-1] + "z"
    assert main([str(phantom_catalog), "--scan", misspelt, "--out", str(tmp_path / "v.png")]) == 1
    told = capsys.readouterr().err
    assert f"the nearest is {scan_ids[1]!r}" in told
    assert "--list" in told
    assert main([str(phantom_catalog), "--scan", "the second one", "--out", str(tmp_path / "v.png")]) == 1
    assert "nearest" not in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_list_prints_every_id(phantom_catalog: Path, scan_ids: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(phantom_catalog), "--list"]) == 0
    told = capsys.readouterr()
    assert [line.split()[0] for line in told.out.splitlines()] == scan_ids
    patients = len(set(pl.read_csv(phantom_catalog)["pmbb_id"]))
    assert f"{len(scan_ids)} scans of {patients} patients" in told.err


def test_list_tells_shape_and_description_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.nii").write_bytes(nifti_bytes(np.zeros((12, 11, 10), np.int16), np.eye(4)))
    (tmp_path / "b.nii").write_bytes(b"an error page")
    rows = [
        "mrn,modality,series_path,series_description",
        "1,CT,a.nii,Chest [lab 7] W/O",
        "2,MR,b.nii,",
        "2,MR,c.nii,gone",
    ]
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    for columns in (["--data.columns", "pmbb_id", "mrn"], ["--column", "pmbb_id=mrn"]):
        assert main([str(tmp_path / "t.csv"), "--list", *columns]) == 0
        lines = {line.split()[1]: line for line in capsys.readouterr().out.splitlines()}
        assert lines["CT"].endswith("10 x 11 x 12  Chest [lab 7] W/O")
        assert lines["MR"].endswith("  not_a_nifti")
        assert len(lines) == 2
