"""Find the NIfTI file of a catalogue row: exactly one, or a reject reason."""

from __future__ import annotations

import re
from pathlib import Path

from prism_ssl.errors import ScanRejected

NIFTI_SUFFIXES = (".nii", ".nii.gz")


def resolve_nifti(series_path: str, catalog_folder: Path, nifti_path: str = "") -> Path:
    """The one file of a series; relative paths count from the catalogue's folder.

    A non-blank ``nifti_path`` is that file. Otherwise ``series_path`` is a folder that holds exactly one ``.nii`` or
    ``.nii.gz`` (hidden files aside), or is such a file itself.

    Raises:
        ScanRejected: ``missing_path``, ``no_file`` or ``more_than_one_file``; never a guess.
    """
    if nifti_path:
        if not _is_file(file := catalog_folder / nifti_path):
            _refuse_unreachable([file], nifti_path)
            raise ScanRejected("missing_path", "nifti_path names no file that can be reached; correct the table")
        return file
    folder = catalog_folder / series_path
    if _is_nifti(folder):
        return folder
    try:
        named = [file for file in folder.iterdir() if not file.name.startswith(".") and _is_named_nifti(file)]
        files = [file for file in named if _is_file(file)]
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        _refuse_unreachable([folder], series_path)
        raise ScanRejected(
            "missing_path",
            f"the series folder cannot be listed ({type(error).__name__}); correct series_path, or mount the archive",
        ) from None
    if not files:
        _refuse_unreachable(named, series_path)
        raise ScanRejected("no_file", "the series folder holds no .nii or .nii.gz, 1 needed; convert the series first")
    if len(files) > 1:
        raise ScanRejected(
            "more_than_one_file",
            f"the series folder holds {len(files)} NIfTI files, 1 needed; name the right one in a nifti_path column",
        )
    return files[0]


def _refuse_unreachable(places: list[Path], told: str) -> None:
    """Raise if the reason for a missing file is known: a link that leads nowhere, or a Windows path."""
    if any(_is_dangling(place) for place in places):
        raise ScanRejected(
            "missing_path",
            "the link leads nowhere: its content was not fetched (git-annex: git annex get), or its target was moved",
        )
    if told.startswith("\\\\") or re.match(r"[A-Za-z]:[\\/]", told):
        raise ScanRejected("missing_path", "this is a Windows path; write it as this machine sees it")


def _is_dangling(path: Path) -> bool:
    try:
        return path.is_symlink() and not path.exists()
    except (OSError, ValueError):
        return False


def _is_named_nifti(path: Path) -> bool:
    return path.name.lower().endswith(NIFTI_SUFFIXES)


def _is_nifti(path: Path) -> bool:
    return _is_named_nifti(path) and _is_file(path)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # no permission, or a name too long
        return False
