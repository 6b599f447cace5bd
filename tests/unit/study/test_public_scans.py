"""The public scans are laid out from clones: NIfTI is copied, DICOM converted, and what is missing is told."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest

from prism_ssl.data.scan import apply_affine, open_scan
from prism_ssl.data.scan.nifti_writer import nifti_bytes
from prism_ssl.study import public_scans
from prism_ssl.study.sources import REPOSITORIES, PublicSeries, Repository
from tests.support.dicom_files import ct, ramp_hu, save, slices_of, tilted
from tests.support.dicom_imports import values_and_places

CT = PublicSeries("P1", "CT", "CT_LEG", "CT", "leg", "dicom/P1")
MR = PublicSeries("P1", "MR", "T1W", "MRI", "leg", "nifti/p1.nii.gz")
GONE = PublicSeries("P2", "MR", "T1W", "MRI", "leg", "nifti/p2.nii.gz")
HERE = Repository("a/b", "0" * 12, "CC0", (CT, MR, GONE))
ELSEWHERE = Repository("c/d", "1" * 12, "CC0", (GONE,))
VOXELS = np.arange(12 * 10 * 14, dtype=np.int16).reshape(12, 10, 14)
"""[slice, row, column]"""
PLAN = ct(voxels=VOXELS, origin_mm=(0, 0, 0))


@pytest.fixture
def clones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One clone, with a slice that is there twice, one of another modality, and a file that is no DICOM."""
    monkeypatch.setattr(public_scans, "REPOSITORIES", (HERE, ELSEWHERE))
    folder = tmp_path / "clones" / "a+b"
    (folder / "dicom" / "P1").mkdir(parents=True)
    (folder / "nifti").mkdir()
    slices = slices_of(PLAN)
    save(slices, folder / "dicom" / "P1")
    save(slices[3:4], folder / "dicom" / "P1", "again{}")
    save(slices_of(ct(modality="SR"))[:1], folder / "dicom" / "P1", "report")
    (folder / "dicom" / "P1" / "README").write_text("no DICOM")
    (folder / "nifti" / "p1.nii.gz").write_bytes(gzip.compress(nifti_bytes(VOXELS, np.eye(4), 1.0, 0.0)))
    return tmp_path / "clones"


def test_an_archive_is_laid_out_and_what_is_missing_is_told(
    clones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert public_scans.main([str(clones), "--out", str(out)]) == 0
    with (out / "catalog.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["pmbb_id"], row["modality"], row["series_path"]) for row in rows] == [
        ("P1", "CT", "P1/ct_leg"), ("P1", "MR", "P1/t1w"),
    ]  # fmt: skip
    ct = open_scan(out / "P1" / "ct_leg" / "ct_leg.nii.gz")
    assert ct.spacing_mm == pytest.approx((1.5, 2.0, 3.0))
    values = ct.voxels * ct.slope + ct.intercept
    assert sorted(values.ravel().tolist()) == sorted((VOXELS.astype(float) - 1000).ravel().tolist())
    # LPS (3, 4, 6) is column 2, row 2, slice 2
    i, j, k = np.rint(apply_affine(ct.to_voxel, np.array([[-3.0, -4.0, 6.0]]))[0]).astype(int)
    assert values[k, j, i] == VOXELS[2, 2, 2] - 1000
    told = capsys.readouterr().err
    assert "1 series left out, a/b: not in the clone" in told
    assert f"git -C {clones / 'c+d'} checkout -q {'1' * 12}" in told
    assert not list(out.glob(".converting-*"))


@pytest.mark.parametrize("degrees", [12, -12])
def test_a_tilted_gantry_is_straightened_as_by_an_import(degrees: float, clones: Path, tmp_path: Path) -> None:
    folder = clones / "a+b" / CT.path
    for path in folder.iterdir():
        path.unlink()
    save(slices_of(tilted(degrees, tags={"GantryDetectorTilt": degrees})), folder)
    public_scans.main([str(clones), "--out", str(tmp_path / "out")])
    values, places = values_and_places(open_scan(tmp_path / "out" / "P1" / "ct_leg" / "ct_leg.nii.gz"))
    inside = values > values.min()
    assert np.mean(np.abs(values - ramp_hu(places))[inside] < 1.0) > 0.9


def test_a_series_that_is_no_volume_is_left_out_for_its_reason(
    clones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (clones / "a+b" / CT.path / "5.dcm").unlink()
    assert public_scans.main([str(clones), "--out", str(tmp_path / "out")]) == 0
    assert "1 series left out, a/b: too_few_slices" in capsys.readouterr().err
    assert not (tmp_path / "out" / "P1" / "ct_leg").exists()


def test_a_second_call_converts_nothing_again(clones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    public_scans.main([str(clones), "--out", str(out)])
    monkeypatch.setattr(public_scans, "_convert", lambda *_: pytest.fail("converted again"))
    assert public_scans.main([str(clones), "--out", str(out)]) == 0


def test_without_its_tools_or_its_clones_it_says_what_is_needed(
    clones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert public_scans.main([str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 1
    monkeypatch.setattr(public_scans, "_tools_are_here", lambda: False)
    assert public_scans.main([str(clones)]) == 2
    assert "pip install -e '.[study]'" in capsys.readouterr().err


def test_the_study_has_the_series_that_its_page_names() -> None:
    series = [each for repository in REPOSITORIES for each in repository.series]
    assert (len(series), len({each.patient for each in series})) == (166, 111)
    assert len({each.folder for each in series}) == 166
