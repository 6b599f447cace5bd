"""The command imports over a Ray cluster, tells what it found, and one command trains on the result."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.support.dicom_files import ct, mr, phantom, save, slices_of
from tests.support.dicom_imports import catalog, planted_in

pytestmark = pytest.mark.slow


def _prism(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "prism_ssl.cli.main", *map(str, words)]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200", "HOME": str(cwd)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=300)


def test_an_export_becomes_an_archive_and_its_table_is_checked(tmp_path: Path) -> None:
    large = phantom(30, 48, 48)
    for number in range(3):
        save(slices_of(ct(voxels=large - 1000, intercept=0.0)), tmp_path / "in" / str(number))
        save(slices_of(mr(voxels=large, tags={"PatientID": f"MRN{number}"})), tmp_path / "in" / f"mr{number}")
    save(slices_of(ct())[:1], tmp_path / "in" / "scout")
    words = ("import", tmp_path / "in", "--out", tmp_path / "out", "--tmp-root", tmp_path / "tmp")
    told = _prism(*words, cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert told.stderr == ""
    assert "single_slice" in told.stdout
    assert "6 series of 4 patients; 181 files read and 6 series converted now" in told.stdout
    assert f"next: prism check --data.catalog-path {tmp_path / 'out' / 'catalog.parquet'}" in told.stdout
    assert planted_in(tmp_path / "out") == []
    assert catalog(tmp_path).height == 6
    again = _prism(*words, cwd=tmp_path)
    assert "0 files read and 0 series converted now" in again.stdout
    assert list((tmp_path / "tmp").rglob("volume-*")) == []
    table = ("--data.catalog-path", tmp_path / "out" / "catalog.parquet", "--tracking.mode", "disabled")
    checked = _prism("check", "phantom-cpu", *table, "--run.tmp-root", tmp_path / "tmp", cwd=tmp_path)
    assert "6 of 6 rows selected" in checked.stdout, checked.stdout


def test_nothing_to_import_is_told(tmp_path: Path) -> None:
    told = _prism("import", tmp_path / "none", "--out", tmp_path / "out", cwd=tmp_path)
    assert told.returncode == 2
    assert "does not exist; needed: folders" in told.stderr
    told = _prism("import", tmp_path, "--out", tmp_path / "out", "--private", tmp_path / "out" / "salt", cwd=tmp_path)
    assert "needed: a folder that is not given away with it" in told.stderr
