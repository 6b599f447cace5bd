"""A folder of NIfTI files becomes a table, says what it assumed, and asks where it cannot know."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from prism_ssl.config.schema import DataConfig
from prism_ssl.data.catalog import load_records
from prism_ssl.data.scan.nifti_writer import nifti_bytes
from prism_ssl.data.table import nifti_folder
from prism_ssl.data.table.nifti_folder import folder_table
from prism_ssl.errors import CatalogError

_NOISE = np.random.default_rng(0).normal(0, 20, (14, 14, 14))
CT_VALUES = (np.where(np.arange(14**3).reshape(14, 14, 14) % 3 == 0, -1000, 40) + _NOISE).astype(np.int16)
MR_VALUES = np.abs(CT_VALUES)


def _scan(path: Path, values: np.ndarray = MR_VALUES) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(nifti_bytes(values, np.eye(4)))


def _rows(folder: Path) -> list[tuple[str, str, str]]:
    return sorted(folder_table(folder)[0].select("series_path", "pmbb_id", "modality").iter_rows())


def test_a_bids_tree_tells_patient_and_modality(tmp_path: Path) -> None:
    (tmp_path / "dataset_description.json").write_text("{}")
    for name in ("sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz", "sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz"):
        _scan(tmp_path / name)
    _scan(tmp_path / "sub-02/ct/sub-02_ct.nii")
    _scan(tmp_path / "sub-02/anat/sub-02_desc-brain_mask.nii.gz")
    _scan(tmp_path / "derivatives/x/sub-01/anat/sub-01_T1w.nii.gz")
    assert _rows(tmp_path) == [
        ("sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz", "sub-01", "MR"),
        ("sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz", "sub-01", "MR"),
        ("sub-02/ct/sub-02_ct.nii", "sub-02", "CT"),
    ]
    assert "3 scans of 2 patients (by sub-); modality by BIDS suffix 3" in folder_table(tmp_path)[1]


def test_folders_sidecars_and_values_tell_them_elsewhere(tmp_path: Path) -> None:
    for name in ("all/anna/a.nii", "all/anna/MRI/b.nii", "all/bert/deep/er/c.nii", "all/bert/d.nii"):
        _scan(tmp_path / name, CT_VALUES if name.endswith("c.nii") else MR_VALUES)
    (tmp_path / "all/anna/a.json").write_text(json.dumps({"Modality": "CT"}))
    assert _rows(tmp_path) == [
        ("all/anna/MRI/b.nii", "anna", "MR"),
        ("all/anna/a.nii", "anna", "CT"),
        ("all/bert/d.nii", "bert", "MR"),
        ("all/bert/deep/er/c.nii", "bert", "CT"),
    ]
    told = folder_table(tmp_path)[1]
    assert "(by folder)" in told
    assert all(words in told for words in ("values 2", "sidecar 1", "name 1"))


def test_folders_of_modalities_are_no_patients(tmp_path: Path) -> None:
    for name in ("CT/anna/1.nii", "CT/bert/1.nii", "MR/anna/1.nii", "carl/1_mr.nii"):
        _scan(tmp_path / name)
    assert [row[1:] for row in _rows(tmp_path)] == [("anna", "CT"), ("bert", "CT"), ("anna", "MR"), ("carl", "MR")]


def test_labels_are_no_scans_and_splits_no_patients(tmp_path: Path) -> None:
    for name in ("train/anna/images/ct.nii", "train/anna/segmentations/liver.nii", "test/bert/ct.nii"):
        _scan(tmp_path / "a" / name)
    assert [row[:2] for row in _rows(tmp_path / "a")] == [
        ("test/bert/ct.nii", "bert"), ("train/anna/images/ct.nii", "anna"),
    ]  # fmt: skip
    assert "1 label maps by name are left out" in folder_table(tmp_path / "a")[1]
    for name in ("imagesTr/1.nii", "imagesTr/2.nii", "labelsTr/1.nii", "labelsTr/2.nii", "imagesTs/3.nii"):
        _scan(tmp_path / "b" / name, MR_VALUES)
    with pytest.raises(CatalogError, match=r"holds 3 NIfTI files.*those of a split.*with the column pmbb_id"):
        folder_table(tmp_path / "b")


def test_a_link_that_leads_back_shows_no_scan_twice(tmp_path: Path) -> None:
    for name in ("anna/1_mr.nii", "bert/1_mr.nii"):
        _scan(tmp_path / name)
    (tmp_path / "again").symlink_to(tmp_path)
    assert [row[1] for row in _rows(tmp_path)] == ["anna", "bert"]


def test_few_files_are_opened_even_if_their_values_tell_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nifti_folder, "OPENED_MAX", 2)
    for name in ("a/1.nii", "b/1.nii", "c/1.nii"):
        _scan(tmp_path / name, CT_VALUES if name == "c/1.nii" else (CT_VALUES + 900).clip(-120, 990))
    _scan(tmp_path / "d" / "mr.nii")
    assert "3 of unknown modality are left out" in folder_table(tmp_path)[1]


def test_a_name_that_no_table_can_hold_is_left_out(tmp_path: Path) -> None:
    for name in ("anna/1_mr.nii", "bert/1_mr.nii", "bert/2_mr.nii"):
        _scan(tmp_path / name)
    os.rename(tmp_path / "bert" / "2_mr.nii", os.fsencode(tmp_path) + b"/bert/\xff.nii")  # noqa: PTH104
    assert "2 scans of 2 patients" in folder_table(tmp_path)[1]
    assert "1 with a name that is not UTF-8 are left out" in folder_table(tmp_path)[1]


def test_what_cannot_be_known_is_asked_for(tmp_path: Path) -> None:
    _scan(tmp_path / "flat" / "1.nii")
    _scan(tmp_path / "flat" / "2.nii")
    with pytest.raises(CatalogError, match=r"all lie in one folder.*needed: a table with the column pmbb_id"):
        folder_table(tmp_path / "flat")
    for name in ("a/1.nii", "b/1.nii"):
        _scan(tmp_path / "signed" / name, (CT_VALUES + 900).clip(-120, 990))
    with pytest.raises(CatalogError, match="tell CT from MR; needed: a table with the column modality"):
        folder_table(tmp_path / "signed")
    _scan(tmp_path / "signed" / "c" / "T1_mr.nii")
    _scan(tmp_path / "signed" / "mr_of_nobody.nii")
    assert "2 of unknown modality and 1 of an unknown patient are left out" in folder_table(tmp_path / "signed")[1]


def test_a_folder_is_a_catalogue(tmp_path: Path) -> None:
    _scan(tmp_path / "anna" / "one" / "ct.nii")
    _scan(tmp_path / "anna" / "one" / "other_ct.nii")
    _scan(tmp_path / "bert" / "mr.nii")
    selection = load_records(DataConfig(catalog_path=str(tmp_path)), 0)
    assert len({record.series_id for record in selection.records}) == 3
    assert len({record.subject_id for record in selection.records}) == 2
    assert all(Path(record.nifti_path).is_file() for record in selection.records)
    assert "3 scans of 2 patients" in selection.report.assumed
    (tmp_path / "catalog.csv").write_text("pmbb_id,modality,series_path\nanna,CT,anna/one/ct.nii\n")
    selection = load_records(DataConfig(catalog_path=str(tmp_path)), 0)
    assert (len(selection.records), selection.report.assumed) == (1, "")
