"""Landmarks by registration: bodies that differ by a known map, in another contrast, through the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.ndimage import gaussian_filter

from prism_ssl.study.landmarks import main
from tests.support.position_encoder import write_scan

SIZE, SPACING = 40, 4.0
SHIFT_MM, SCALE = np.array([9.0, -7.0, 5.0]), 1.08


def _body(points_mm: np.ndarray) -> np.ndarray:
    """Brightness of an ellipsoid with blobs in it, at RAS points [..., 3] of the reference."""
    inside: np.ndarray = (np.square(points_mm / (50, 60, 45)).sum(axis=-1) < 1).astype(float)
    rng = np.random.default_rng(0)
    for centre in rng.uniform(-30, 30, (12, 3)):
        inside += inside * rng.uniform(0.3, 1.0) * np.exp(-np.square((points_mm - centre) / 14).sum(axis=-1))
    return inside


def _series(folder: Path, patient: str, shift_mm: np.ndarray, scale: float, inverted: bool) -> None:
    affine = np.diag([SPACING, SPACING, SPACING, 1.0])
    affine[:3, 3] = -SPACING * (SIZE - 1) / 2 + shift_mm
    k, j, i = np.indices((SIZE, SIZE, SIZE))
    points = np.stack([i, j, k], axis=-1) * SPACING + affine[:3, 3]
    values = _body((points - shift_mm) / scale)
    values = np.where(values > 0, 3.5 - values, 0.0) - 1.0 if inverted else values  # dark air, as in a CT
    noise = np.random.default_rng(len(patient)).normal(0, 0.02, values.shape)
    write_scan(folder / patient / "mr", (1000 * (gaussian_filter(values, 0.7) + noise)).astype(np.float32), affine)


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    """The reference, one that lies elsewhere and is larger, one of another contrast, and a broken one."""
    _series(tmp_path, "A", np.zeros(3), 1.0, inverted=False)
    _series(tmp_path, "BB", SHIFT_MM, SCALE, inverted=False)
    _series(tmp_path, "CCC", -SHIFT_MM, 1.0, inverted=True)
    (tmp_path / "D" / "mr").mkdir(parents=True)
    (tmp_path / "D" / "mr" / "mr.nii").write_bytes(b"no scan")
    patients = ["A", "BB", "CCC", "D", "E"]
    table = {
        "pmbb_id": patients,
        "modality": ["MR", "MR", "CT", "MR", "MR"],
        "series_path": [f"{name}/mr" for name in patients],
    }
    body = pl.Series("body_part", ["brain"] * 4 + ["leg"])
    pl.DataFrame(table).with_columns(body).write_csv(tmp_path / "catalog.csv")
    return tmp_path / "catalog.csv"


def test_landmarks_lie_where_the_map_takes_them(catalog: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = catalog.parent / "landmarks.csv"
    line = [str(catalog), "--where", "body_part=brain", "--reference", "A/mr", "--out", str(out)]
    assert main(line) == 0
    found = pl.read_csv(out)
    of = {name: found.filter(pl.col("series_path") == f"{name}/mr") for name in ("A", "BB", "CCC")}
    assert found["series_path"].n_unique() == 3
    for name, shift, scale in (("A", 0 * SHIFT_MM, 1.0), ("BB", SHIFT_MM, SCALE), ("CCC", -SHIFT_MM, 1.0)):
        both = of["A"].join(of[name], on="landmark", suffix="_there")
        assert both.height > 20
        at, there = (both.select(f"{axis}_mm{end}" for axis in "xyz").to_numpy() for end in ("", "_there"))
        away = np.linalg.norm(at * scale + shift - there, axis=1)
        assert np.median(away) < 3
        assert np.percentile(away, 90) < 6
    told = capsys.readouterr().out
    assert "1 scans without landmarks: not_a_nifti" in told
    assert list(catalog.parent.glob("landmarks.csv.parts-*/*"))  # kept: the broken one may be there the next time


def test_a_second_route_tells_how_far_the_places_can_be_trusted(
    catalog: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = catalog.parent / "landmarks.csv"
    line = [str(catalog), "--where", "body_part=brain", "--reference", "A/mr", "--second", "BB/mr", "--out", str(out)]
    assert main([*line, "--agree", "0.01", "--spacing", "30"]) == 1  # no two routes agree so well
    told = capsys.readouterr().out
    assert "the two routes differ by" in told
    assert " 0 landmarks in 0 scans" in told


def test_only_held_out_patients_may_be_asked_for(catalog: Path) -> None:
    (catalog.parent / "held_out.txt").write_text("BB\nCCC\n")
    out = catalog.parent / "landmarks.csv"
    line = [str(catalog), "--patients", f"{catalog.parent}/held_out.txt", "--reference", "A/mr", "--out", str(out)]
    assert main([*line, "--spacing", "30"]) == 0
    assert set(pl.read_csv(out)["series_path"]) == {"BB/mr", "CCC/mr"}

    assert not list(catalog.parent.glob("landmarks.csv.parts-*"))


def test_what_cannot_be_registered_is_refused(catalog: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(catalog), "--reference", "X/mr"]) == 2
    assert "'X/mr' names 0 of the" in capsys.readouterr().err
    assert main([str(catalog), "--reference", "A/mr", "--where", "body_part"]) == 2
    assert "needed: COLUMN=VALUE" in " ".join(capsys.readouterr().err.split())
    assert main([str(catalog), "--reference", "D/mr", "--where", "body_part=brain"]) == 2
    assert "D/mr cannot be used" in " ".join(capsys.readouterr().err.split())
