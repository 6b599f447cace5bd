"""Scans in another pose: the copies' voxels, their affine, the points that move along, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.spatial.transform import Rotation

from prism_ssl.config.schema import DataConfig
from prism_ssl.data.scan import OpenScan, apply_affine, inverse, open_scan
from prism_ssl.embed.field.requests import IN_MM, IN_VOXELS, read_points
from prism_ssl.study.tilt import main
from tests.support.position_encoder import write_scan

SHAPE = (26, 28, 30)
DEGREES, SHIFT_MM = 30.0, 12.0
NAMES = ("A/t1", "B/t2")


def _affine(number: int) -> np.ndarray:
    """Oblique, with another spacing along each axis."""
    affine = np.eye(4)
    turned = Rotation.from_euler("xyz", [10 * number, -20, 5], degrees=True).as_matrix()
    affine[:3, :3] = turned @ np.diag([-1.5, 2.0, 3.0])
    affine[:3, 3] = (40 * number, -30, 200)
    return affine


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two scans, one without voxels, and six points of each in mm and in voxels."""
    rng, rows = np.random.default_rng(0), list[dict[str, object]]()
    for number, name in enumerate(NAMES):
        voxels = rng.normal(300, 90, SHAPE[::-1]).astype(np.float32)
        write_scan(tmp_path / name, voxels, _affine(number))
        for point, at in enumerate(rng.uniform(2, 23, (6, 3))):
            mm = apply_affine(_affine(number), at)
            rows.append({"series_path": name, "landmark": f"L{point}", **dict(zip(IN_VOXELS, at, strict=True))})
            rows[-1] |= dict(zip(IN_MM, mm, strict=True))
    (tmp_path / "C" / "t1").mkdir(parents=True)
    (tmp_path / "C" / "t1" / "t1.nii").write_bytes(b"no scan")
    rows.append(rows[0] | {"series_path": "C/t1"})
    names = [*NAMES, "C/t1"]
    table = {"mrn": [name[0] for name in names], "modality": ["MR"] * 3, "series_path": names}
    pl.DataFrame(table).write_csv(tmp_path / "catalog.csv")
    points = pl.from_dicts(rows)
    points.drop(IN_VOXELS).write_csv(tmp_path / "mm.csv")
    points.drop(IN_MM).write_csv(tmp_path / "voxels.csv")
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


def test_a_copy_shows_at_its_points_what_the_scan_shows(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _tilt(archive, "mm.csv", "out") == 0
    given = pl.read_csv(archive / "mm.csv")
    copies = _copies(archive / "out")
    assert set(copies) == set(NAMES)
    motions = []
    for number, name in enumerate(NAMES):
        copy, moved = copies[name]
        scan = open_scan(str(next((archive / name).iterdir())))
        at = given.filter(pl.col("series_path") == name).sort("landmark").select(IN_MM).to_numpy()
        np.testing.assert_array_equal(copy.voxels, scan.voxels)
        # float32 in the header: a hundredth of a millimetre is far below a voxel
        np.testing.assert_allclose(
            apply_affine(copy.to_voxel, moved), apply_affine(inverse(_affine(number)), at), atol=0.01
        )
        motion = copy.affine @ inverse(scan.affine)
        angle = Rotation.from_matrix(motion[:3, :3]).magnitude()
        assert np.rad2deg(angle) == pytest.approx(DEGREES, abs=0.01)
        shift = moved.mean(axis=0) - at.mean(axis=0)  # the turn is about the middle, so only the shift moves that
        assert 0 < np.abs(shift).max() <= SHIFT_MM
        motions.append(motion)
    assert not np.allclose(motions[0][:3, :3], motions[1][:3, :3], atol=0.1)  # each about an axis of its own
    assert "1 scans left out: not_a_nifti" in capsys.readouterr().out


def test_points_in_voxels_move_as_those_in_mm_and_the_tables_can_be_read_again(archive: Path) -> None:
    assert _tilt(archive, "mm.csv", "a") == 0
    assert _tilt(archive, "voxels.csv", "b") == 0
    a, b = (read_points(archive / out / "points.csv", _data(archive / out)) for out in "ab")
    assert set(a.rows_of) == set(b.rows_of)
    for scan in a.rows_of:
        np.testing.assert_allclose(a.rows_of[scan][1], b.rows_of[scan][1], atol=0.01)


def _data(folder: Path) -> DataConfig:
    return DataConfig(catalog_path=str(folder / "catalog.csv"), n_scans=10**6)


def test_the_seed_decides_the_poses(archive: Path) -> None:
    for out, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        assert _tilt(archive, "mm.csv", out, "--seed", seed) == 0
    a, b, c = ((archive / out / "points.csv").read_bytes() for out in "abc")
    assert a == b != c


def test_a_folder_with_files_and_odd_angles_are_refused(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _tilt(archive, "mm.csv", ".") == 2
    assert "is not empty" in capsys.readouterr().err
    assert _tilt(archive, "mm.csv", "out", "--degrees", "400") == 2
    assert "needed: 0 to 180 degrees" in capsys.readouterr().err
    assert not (archive / "out").exists()
