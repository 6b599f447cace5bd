"""Scans in another pose: the copies' voxels and frame, the points that move along, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from prism_ssl.config.schema import DataConfig
from prism_ssl.data.catalog import load_records
from prism_ssl.data.scan import OpenScan, apply_affine, nifti_bytes, open_scan
from prism_ssl.embed.field.requests import IN_MM, IN_VOXELS, read_points
from prism_ssl.embed.field.tilt import main

SHAPE = (26, 28, 30)
DEGREES, SHIFT_MM = 30.0, 12.0
NAMES = ("A/t1", "A/ct", "B/t1")
GRADIENT = np.array([3.0, -2.0, 5.0])
"""Of the brightness, per mm: linear interpolation keeps a linear brightness exactly."""


def _affine(number: int) -> np.ndarray:
    """Oblique, with another spacing along each axis."""
    affine = np.eye(4)
    tilted = Rotation.from_euler("xyz", [10 * number, -20, 5], degrees=True).as_matrix()
    affine[:3, :3] = tilted @ np.diag([-1.5, 2.0, 3.0])
    affine[:3, 3] = (10 * number, -30, 200)
    return affine


def _write(folder: Path, number: int) -> None:
    """Brightness GRADIENT . x, from its lowest value on: float32, or int16 with a scaling where the folder is a CT."""
    k, j, i = np.indices(SHAPE[::-1])
    values = apply_affine(_affine(number), np.stack([i, j, k], axis=-1)) @ GRADIENT
    folder.mkdir(parents=True)
    if folder.name == "ct":
        raw = np.rint((values - values.min()) / 0.5).astype(np.int16) + np.int16(40)
        content = nifti_bytes(raw, _affine(number), slope=0.5, intercept=-1024.0)
    else:
        content = nifti_bytes((values - values.min() + 7).astype(np.float32), _affine(number))
    (folder / "scan.nii").write_bytes(content)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Three scans of two patients, one file without voxels, and six points of each in mm and in voxels, mixed."""
    rng, rows = np.random.default_rng(0), list[dict[str, object]]()
    for number, name in enumerate(NAMES):
        _write(tmp_path / name, number)
        for point, at in enumerate(rng.uniform(2, 23, (6, 3))):
            mm = apply_affine(_affine(number), at)
            rows.append({"series_path": name, "landmark": f"L{point}", **dict(zip(IN_VOXELS, at, strict=True))})
            rows[-1] |= dict(zip(IN_MM, mm, strict=True))
    (tmp_path / "C" / "t1").mkdir(parents=True)
    (tmp_path / "C" / "t1" / "t1.nii").write_bytes(b"no scan")
    rows.append(rows[0] | {"series_path": "C/t1"})
    names = [*NAMES, "C/t1"]
    modality = ["CT" if name.endswith("ct") else "MR" for name in names]
    table = {"mrn": [name[0] for name in names], "modality": modality, "series_path": names}
    pl.DataFrame(table).write_csv(tmp_path / "catalog.csv")
    points = pl.from_dicts(rows).sort("landmark")
    points.drop(IN_VOXELS).write_csv(tmp_path / "mm.csv")
    points.drop(IN_MM).write_csv(tmp_path / "voxels.csv")
    # As `prism field --points` writes a table of `prism landmarks`: with scan_id, and a column that a .csv cannot hold.
    data = DataConfig(catalog_path=str(tmp_path / "catalog.csv"), columns={"pmbb_id": "mrn"}, n_scans=10**6)
    ids = {record.series_path: record.scan_id for record in load_records(data, 0).records}
    embedded = points.drop(IN_VOXELS).with_columns(
        pl.col("series_path").replace(ids).alias("scan_id"),
        pl.Series("embedding", [[0.0, 1.0]] * points.height),
    )
    embedded.write_parquet(tmp_path / "embedded.parquet")
    return tmp_path


def _tilt(archive: Path, points: str, out: str, *more: str) -> int:
    line = [str(archive / "catalog.csv"), "--column", "pmbb_id=mrn", "--points", str(archive / points), "--out"]
    return main([*line, str(archive / out), "--degrees", str(DEGREES), "--shift", str(SHIFT_MM), *more])


def _copies(folder: Path) -> dict[str, tuple[OpenScan, np.ndarray]]:
    """Name of a scan -> its copy, and the points in it."""
    table, points = pl.read_csv(folder / "catalog.csv"), pl.read_csv(folder / "points.csv")
    return {
        row["copy_of"]: (
            open_scan(str(folder / row["series_path"] / "scan.nii.gz")),
            points.filter(pl.col("series_path") == row["series_path"]).sort("landmark").select(IN_MM).to_numpy(),
        )
        for row in table.iter_rows(named=True)
    }


def _values_at(scan: OpenScan, points_mm: np.ndarray) -> np.ndarray:
    raw = map_coordinates(scan.voxels.astype(float), apply_affine(scan.to_voxel, points_mm)[:, ::-1].T, order=1)
    values: np.ndarray = raw * scan.slope + scan.intercept
    return values


def test_a_copy_shows_at_its_points_what_the_scan_shows(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _tilt(archive, "mm.csv", "out") == 0
    given = pl.read_csv(archive / "mm.csv")
    copies = _copies(archive / "out")
    assert set(copies) == set(NAMES)
    motions = dict[str, np.ndarray]()
    for name, (copy, moved) in copies.items():
        scan = open_scan(str(archive / name / "scan.nii"))
        at = given.filter(pl.col("series_path") == name).sort("landmark").select(IN_MM).to_numpy()
        assert (copy.voxels.dtype, copy.slope, copy.intercept) == (scan.voxels.dtype, scan.slope, scan.intercept)
        # int16: two roundings of half a step of 0.5; float32 in the header moves a voxel by less than 0.001 mm
        np.testing.assert_allclose(_values_at(copy, moved), _values_at(scan, at), atol=0.6)
        np.testing.assert_allclose(
            copy.affine[:3, :3], scan.affine[:3, :3], atol=1e-5
        )  # axes of the scanner, not turned
        motions[name] = _motion(at, moved)
        angle = Rotation.from_matrix(motions[name][:3, :3]).magnitude()
        assert np.rad2deg(angle) == pytest.approx(DEGREES, abs=0.01)
        # Every corner of the scan lies within the copy, and air is as dark as the darkest voxel.
        corners = np.array([[i, j, k] for i in (0, 25) for j in (0, 27) for k in (0, 29)], float)
        there = apply_affine(copy.to_voxel @ motions[name] @ scan.affine, corners)
        assert np.all((there > -0.01) & (there < np.array(copy.shape) - 0.99))
        assert copy.voxels[0, 0, 0] == copy.voxels.min() == scan.voxels.min()
    np.testing.assert_allclose(motions["A/t1"], motions["A/ct"], atol=1e-3)  # one frame, as before
    assert not np.allclose(motions["A/t1"][:3, :3], motions["B/t1"][:3, :3], atol=0.1)
    shift = np.subtract(copies["B/t1"][1], given.filter(pl.col("series_path") == "B/t1").select(IN_MM)).mean(axis=0)
    assert 0 < np.abs(shift).max() <= SHIFT_MM  # the turn is about the middle of the points
    assert "1 scans left out: not_a_nifti" in capsys.readouterr().out
    assert (archive / "out").stat().st_mode & 0o777 == 0o700


def _motion(at: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """The rigid motion [4, 4] that takes points to points, by Kabsch's algorithm."""
    turn = Rotation.align_vectors(moved - moved.mean(axis=0), at - at.mean(axis=0))[0].as_matrix()
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = turn, moved.mean(axis=0) - turn @ at.mean(axis=0)
    return motion


def test_points_in_voxels_move_as_those_in_mm_and_the_tables_can_be_read_again(archive: Path) -> None:
    for out, points in (("a", "mm.csv"), ("b", "voxels.csv"), ("c", "embedded.parquet")):
        assert _tilt(archive, points, out) == 0
    a, b, c = (read_points(archive / out / "points.csv", _data(archive / out)) for out in "abc")
    assert set(a.rows_of) == set(b.rows_of) == set(c.rows_of)
    for scan in a.rows_of:
        np.testing.assert_allclose(a.rows_of[scan][1], b.rows_of[scan][1], atol=0.01)
        np.testing.assert_allclose(a.rows_of[scan][1], c.rows_of[scan][1], atol=0.01)


def test_the_copies_keep_patient_and_modality(archive: Path) -> None:
    assert _tilt(archive, "mm.csv", "out") == 0
    data = DataConfig(catalog_path=str(archive / "catalog.csv"), columns={"pmbb_id": "mrn"}, n_scans=10**6)
    before = {record.scan_id: (record.subject_id, record.modality) for record in load_records(data, 0).records}
    names = pl.read_csv(archive / "out" / "catalog.csv")
    of = dict(zip(names["series_path"], names["copy_of_scan"], strict=True))
    for record in load_records(_data(archive / "out"), 0).records:
        assert (record.subject_id, record.modality) == before[of[record.series_path]]


def _data(folder: Path) -> DataConfig:
    return DataConfig(catalog_path=str(folder / "catalog.csv"), n_scans=10**6)


def test_the_seed_decides_the_poses(archive: Path) -> None:
    for out, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        assert _tilt(archive, "mm.csv", out, "--seed", seed) == 0
    a, b, c = ((archive / out / "points.csv").read_bytes() for out in "abc")
    assert a == b != c


def test_used_folders_and_odd_angles_are_refused(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _tilt(archive, "mm.csv", ".") == 2
    assert "is there already" in capsys.readouterr().err
    assert _tilt(archive, "mm.csv", "out", "--degrees", "400") == 2
    assert "needed: 0 to 180 degrees" in capsys.readouterr().err
    (archive / "catalog.csv").unlink()  # now the folder itself is the archive
    folder = [str(archive), "--points", str(archive / "mm.csv"), "--out", str(archive / "out")]
    assert main(folder) == 2
    assert "lies in the archive" in capsys.readouterr().err
    assert not (archive / "out").exists()
