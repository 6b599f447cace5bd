"""The picture of a pair from a catalogue: which scan, what is said, what is kept out of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.image import imread

from prism_ssl.eval.inspect_views import main


@pytest.fixture(scope="module")
def scan_ids(phantom_catalog: Path) -> list[str]:
    from prism_ssl.eval.catalog_scans import catalog_config, catalog_records

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
    assert not list(tmp_path.iterdir())


def test_list_prints_every_id(phantom_catalog: Path, scan_ids: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(phantom_catalog), "--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == scan_ids
