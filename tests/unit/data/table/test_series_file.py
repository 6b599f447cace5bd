from __future__ import annotations

from pathlib import Path

import pytest

from prism_ssl.data.table.series_file import resolve_nifti
from prism_ssl.errors import ScanRejected
from tests.support.catalog_tables import touch


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ"])
def test_the_one_file_of_a_folder_is_the_scan(tmp_path: Path, name: str) -> None:
    touch(tmp_path / "s" / name, tmp_path / "s" / "a.json", tmp_path / "s" / "._a.nii.gz")
    (tmp_path / "s" / "folder.nii").mkdir()
    assert resolve_nifti("s", tmp_path) == tmp_path / "s" / name
    assert resolve_nifti(str(tmp_path / "s"), Path("/elsewhere")) == tmp_path / "s" / name
    assert resolve_nifti(f"s/{name}", tmp_path) == tmp_path / "s" / name


def test_a_given_file_is_taken_instead_of_the_folder(tmp_path: Path) -> None:
    touch(tmp_path / "s" / "a.nii", tmp_path / "s" / "b.nii")
    assert resolve_nifti("s", tmp_path, "s/b.nii") == tmp_path / "s" / "b.nii"
    assert resolve_nifti("s", Path("/elsewhere"), str(tmp_path / "s/b.nii")) == tmp_path / "s" / "b.nii"


@pytest.mark.parametrize(
    ("series_path", "nifti_path", "reason"),
    [
        ("gone", "", "missing_path"),
        ("notes.txt", "", "missing_path"),
        ("nul\0", "", "missing_path"),
        ("x" * 300, "", "missing_path"),
        ("one", "one/gone.nii", "missing_path"),
        ("one", "one", "missing_path"),
        ("one", "x" * 300, "missing_path"),
        ("none", "", "no_file"),
        ("two", "", "more_than_one_file"),
        ("both", "", "more_than_one_file"),
    ],
)
def test_anything_but_one_file_is_rejected_without_naming_a_path(
    tmp_path: Path, series_path: str, nifti_path: str, reason: str
) -> None:
    touch(tmp_path / "one" / "a.nii", tmp_path / "none" / "README.txt", tmp_path / "notes.txt")
    touch(tmp_path / "two" / "a.nii.gz", tmp_path / "two" / "b.nii.gz", tmp_path / "both" / "a.nii")
    touch(tmp_path / "both" / "a.nii.gz")
    with pytest.raises(ScanRejected, match=f"^{reason}: ") as caught:
        resolve_nifti(series_path, tmp_path, nifti_path)
    assert caught.value.reason == reason
    assert str(tmp_path) not in caught.value.detail
    assert "README" not in caught.value.detail


@pytest.mark.parametrize(
    ("series_path", "nifti_path"), [("s", ""), ("s/a.nii.gz", ""), ("s", "s/a.nii.gz"), ("gone", "")]
)
def test_a_link_that_leads_nowhere_says_that_its_content_was_not_fetched(
    tmp_path: Path, series_path: str, nifti_path: str
) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "a.nii.gz").symlink_to("../.git/annex/objects/aa/MD5E-s123--0123.nii.gz")
    (tmp_path / "gone").symlink_to("nowhere")
    with pytest.raises(ScanRejected, match="the link leads nowhere: its content was not fetched"):
        resolve_nifti(series_path, tmp_path, nifti_path)


@pytest.mark.parametrize("told", ["\\\\pacs\\export\\p1", "D:\\scans\\p1", "d:/scans/p1"])
def test_a_path_of_windows_is_named_as_one(tmp_path: Path, told: str) -> None:
    with pytest.raises(ScanRejected, match="missing_path: this is a Windows path"):
        resolve_nifti(told, tmp_path)
    with pytest.raises(ScanRejected, match="missing_path: this is a Windows path"):
        resolve_nifti("x", tmp_path, told)
