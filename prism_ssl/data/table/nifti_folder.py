"""Build the table of a folder of NIfTI files, or of a BIDS data set, and say what was assumed.

The patient is the BIDS entity ``sub-``, else the first folder that is no modality. The modality is told by the BIDS
suffix, the sidecar (``.json``), a folder or a word of the file's name, else by the values: HU or not. Folders of a
split (``imagesTr``, ``test``) are no patients; what lies in one of labels (``labelsTr``) is no scan.
"""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from prism_ssl.data.scan import open_scan, stats_sample
from prism_ssl.data.table.series_file import NIFTI_SUFFIXES
from prism_ssl.errors import CatalogError, PrismError
from prism_ssl.utils.fs import folders_below

OPENED_MAX = 500
"""Most files that are opened to tell CT from MR; each takes up to a second."""
COLUMNS = ("pmbb_id", "modality", "series_path", "series_description")
_DATA_SET = "dataset_description.json"
_NOT_SCANS = ("derivatives", "sourcedata", "code")
_LABELS = ("mask", "dseg", "probseg", "label", "labels", "seg")
_LABEL_FOLDERS = (
    *("label", "labels", "labelstr", "labelsts", "labelsval", "mask", "masks", "seg", "segs", "segmentation"),
    "segmentations",
)
_SPLIT_FOLDERS = (
    *("image", "images", "imagestr", "imagests", "imagesval", "train", "training", "test", "testing", "val", "valid"),
    "validation",
)
_MR_SUFFIXES = (
    *("t1w", "t2w", "flair", "t2star", "t2starw", "pdw", "pdt2", "pd", "inplanet1", "inplanet2", "angio", "unit1"),
    *("mp2rage", "mprage", "t1map", "t2map", "t1rho", "bold", "sbref", "dwi", "asl", "m0scan", "epi", "swi", "megre"),
    *("mese", "vfa", "phase", "phasediff", "magnitude", "magnitude1", "magnitude2", "chimap"),
)
_CT_SUFFIXES = ("ct",)
_MODALITIES = {"ct": "CT", "mr": "MR", "mri": "MR", "pt": "PT", "pet": "PT"}
_AIR_HU, _AIR_SHARE = -500, 0.01


def folder_table(folder: Path) -> tuple[pl.DataFrame, str]:
    """The table (``COLUMNS``, paths relative to ``folder``), and a sentence on what was assumed.

    A file whose patient or modality cannot be known has "" there.

    Raises:
        CatalogError: no NIfTI file is below the folder, or no patient, or no modality, can be known.
    """
    bids = (folder / _DATA_SET).is_file()
    closed = list[OSError]()
    all_below = list(_nifti_below(folder, bids, closed))
    found = [file for file in all_below if not _is_label(file)]
    files = [file for file in found if not any("\udc80" <= letter <= "\udcff" for letter in str(file))]
    if not files:
        raise CatalogError(
            f"folder {folder} holds no {' or '.join(NIFTI_SUFFIXES)} file, and no catalog.parquet or catalog.csv; "
            "needed: scans, or their table; DICOM files become an archive with prism import"
        )
    patients = _patients(files)
    how, modalities = Counter[str](), list[str]()
    for file in files:
        modality, by = _modality(folder, file, may_open=how["values"] + how["no values"] < OPENED_MAX)
        how[by] += 1
        modalities.append(modality)
    for column, values in (("pmbb_id", patients), ("modality", modalities)):
        if not any(values):
            raise CatalogError(_cannot_know(folder, column, len(files)))
    names = [re.sub(r"\.nii(\.gz)?$", "", file.name) for file in files]
    columns = (patients, modalities, list(map(str, files)), names)
    table = pl.DataFrame(dict(zip(COLUMNS, columns, strict=True)), schema=dict.fromkeys(COLUMNS, pl.String))
    left_out = {
        "of unknown modality": how["nothing"] + how["no values"],
        "of an unknown patient": patients.count(""),
        "label maps by name": len(all_below) - len(found),
        "with a name that is not UTF-8": len(found) - len(files),
        "folders that cannot be listed": len(closed),
    }
    return table, _assumed(patients, how, left_out)


def _nifti_below(folder: Path, bids: bool, closed: list[OSError]) -> Iterator[Path]:
    for root, names, files in folders_below(folder, set(), closed.append):
        here = Path(root).relative_to(folder)
        left = _NOT_SCANS if bids and not here.parts else ()
        names[:] = [name for name in names if not name.startswith(".") and name not in left]
        found = (name for name in files if name.lower().endswith(NIFTI_SUFFIXES) and not name.startswith("."))
        yield from (here / name for name in found)


def _words(name: str) -> list[str]:
    return re.split(r"[^a-z0-9]+", re.sub(r"\.nii(\.gz)?$", "", name.lower()))


def _is_label(file: Path) -> bool:
    return _words(file.name)[-1] in _LABELS or any(part.lower() in _LABEL_FOLDERS for part in file.parts[:-1])


def _patients(files: Sequence[Path]) -> list[str]:
    subjects = [next((part for part in file.parts if re.fullmatch(r"sub-[A-Za-z0-9]+", part)), "") for file in files]
    if any(subjects):
        return subjects
    no_patients = {*_MODALITIES, *_SPLIT_FOLDERS}
    folders = [[part for part in file.parts[:-1] if part.lower() not in no_patients] for file in files]
    for depth in range(max(map(len, folders))):  # folders that all files share tell no patients apart
        level = [parts[depth] if len(parts) > depth else "" for parts in folders]
        if len(set(level)) > 1:
            return level
    return [""] * len(files)


def _modality(folder: Path, file: Path, may_open: bool) -> tuple[str, str]:
    """The modality ("" if unknown), and by what it is known."""
    words = _words(file.name)
    if re.match(r"sub-", file.name) and words[-1] in (*_MR_SUFFIXES, *_CT_SUFFIXES):
        return ("CT" if words[-1] in _CT_SUFFIXES else "MR"), "BIDS suffix"
    if told := _sidecar_modality(folder / file):
        return told, "sidecar"
    for word in (*reversed([part.lower() for part in file.parts[:-1]]), *words):
        if word in _MODALITIES:
            return _MODALITIES[word], "name"
    if not may_open:
        return "", "nothing"
    path = folder / file
    try:
        status = path.stat()
        told = _by_values(str(path), status.st_size, status.st_mtime_ns)
    except (PrismError, OSError):
        told = ""
    return told, "values" if told else "no values"


def _sidecar_modality(path: Path) -> str:
    sidecar = path.with_name(re.sub(r"\.nii(\.gz)?$", ".json", path.name, flags=re.IGNORECASE))
    try:
        told = json.loads(sidecar.read_text(encoding="utf-8"))
        modality = str(told.get("Modality", "")).upper()
    except (OSError, ValueError, AttributeError):
        return ""
    return modality if modality.isalpha() else ""


@functools.lru_cache(maxsize=OPENED_MAX)
def _by_values(path: str, _size: int, _mtime_ns: int) -> str:
    """CT if much of the volume is as light as air in HU, MR if nothing is negative, "" if neither."""
    scan = open_scan(path)
    values = stats_sample(scan.voxels).astype(np.float64) * scan.slope + scan.intercept
    if float(np.mean(values < _AIR_HU)) >= _AIR_SHARE:
        return "CT"
    return "MR" if scan.stats.lowest >= 0 else ""


def _cannot_know(folder: Path, column: str, files: int) -> str:
    what = {
        "pmbb_id": "all lie in one folder, or in those of a split, so nothing tells which patient each is of",
        "modality": "neither names, sidecars nor values tell CT from MR",
    }[column]
    return (
        f"folder {folder} holds {files} NIfTI files, and {what}; needed: a table with the column {column}, see "
        "docs/own-data.md, or a folder for each patient, or BIDS names"
    )


def _assumed(patients: Sequence[str], how: Counter[str], left_out: Mapping[str, int]) -> str:
    known = {patient for patient in patients if patient}
    by = "sub-" if min(known).startswith("sub-") else "folder"
    modality = ", ".join(f"{name} {count}" for name, count in how.most_common() if not name.startswith("no"))
    left = " and ".join(f"{count} {which}" for which, count in left_out.items() if count)
    return (
        f"the table is a folder, so this was assumed: {len(patients)} scans of {len(known)} patients (by {by}); "
        f"modality by {modality}{f'; {left} are left out' if left else ''}. If that is wrong, write a table"
    )
