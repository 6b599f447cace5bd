"""Map a catalogue's columns to ours, with a hint for columns under other names."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from prism_ssl.config.schema import DataConfig
from prism_ssl.errors import CatalogError

REQUIRED = ("pmbb_id", "modality", "series_path")
OPTIONAL = ("series_description", "exam_type", "nifti_path", "series_id")

_PLACES = {"series_path", "nifti_path"}
"""Both locate a file, so one column may serve as both; any other column has one meaning."""
_OTHER_WORDS = {
    "pmbb_id": ("patient_id", "patientid", "patient", "subject_id", "subject", "participant_id", "mrn", "person_id"),
    "modality": ("modality", "mod"),
    "series_path": ("path", "folder", "dir", "directory", "series_dir", "file", "filename", "nifti"),
    "series_description": ("description", "seriesdescription", "protocol_name"),
    "nifti_path": ("file", "filename", "path", "nifti"),
    "series_id": ("series_uid", "seriesinstanceuid", "series_instance_uid"),
    "exam_type": ("exam", "study_description", "studydescription"),
}
"""Names of these columns in archives."""
_NEAR = 0.6


def column_names(found: Sequence[str], path: Path, config: DataConfig, with_text: bool = False) -> dict[str, str]:
    """Our name -> the table's, for every column to be read; ``with_text``: also the description columns, where present.

    Raises:
        CatalogError: a column is missing, or one has two meanings.
    """
    if unknown := sorted(set(config.columns) - {*REQUIRED, *OPTIONAL}):
        raise CatalogError(f"data.columns names {', '.join(unknown)}; known: {', '.join(REQUIRED + OPTIONAL)}")
    names = {ours: config.columns.get(ours, ours) for ours in REQUIRED + OPTIONAL}
    reads_text = config.drop_time_series or config.drop_localizers or config.drop_derived
    needed = [*REQUIRED, *config.columns, *(["series_description"] if reads_text else [])]
    if missing := [ours for ours in dict.fromkeys(needed) if names[ours] not in found]:
        _refuse_rows_as_names(found, path)
        raise CatalogError(
            f"catalogue {path} has no column {', '.join(names[ours] for ours in missing)}; "
            f"found: {', '.join(found)}; needed: {', '.join(dict.fromkeys(needed))}; {_hint(missing, names, found)}"
        )
    unread = () if reads_text or with_text else ("series_description", "exam_type")
    read = {ours: theirs for ours, theirs in names.items() if theirs in found and ours not in unread}
    _refuse_two_meanings(read, path)
    return read


def _refuse_rows_as_names(found: Sequence[str], path: Path) -> None:
    """Raise if the first line holds values, or is no line of fields; the message quotes nothing of the table."""
    text = "".join(found)
    if "\0" in text or "\ufeff" in text:
        what = "is not in UTF-8 (UTF-16?)"
    elif "\r" in text or "\n" in text:
        what = "has line ends of an old Macintosh (CR)"
    elif len(found) == 1 and (mark := next((mark for mark in (";", "\t", "|") if mark in text), None)):
        what = f"separates its fields by {mark!r}"
    elif any(re.search(r"\d{3}|[/\\@]", name) or not name.strip() for name in found):
        what = f"has no header row: its first line of {len(found)} fields holds values, which are not shown here"
    else:
        return
    raise CatalogError(
        f"catalogue {path} {what}; needed: a header row, fields separated by commas, UTF-8, lines that end in LF or "
        "CR LF, or parquet; export it again"
    )


def _refuse_two_meanings(read: Mapping[str, str], path: Path) -> None:
    meanings: dict[str, list[str]] = {}
    for ours, theirs in read.items():
        meanings.setdefault(theirs, []).append(ours)
    for theirs, ours_of in meanings.items():
        if len(ours_of) > 1 and not _PLACES.issuperset(ours_of):
            raise CatalogError(
                f"column {theirs!r} of catalogue {path} is to be {' and '.join(ours_of)} at once; needed: a column of "
                "its own for each of them; correct --data.columns"
            )


def _hint(missing: Sequence[str], names: Mapping[str, str], found: Sequence[str]) -> str:
    """The option to pass, with the columns that are likely meant; never one that already has a meaning."""
    known = {ours: theirs for ours, theirs in names.items() if theirs in found}
    free = [column for column in found if column not in known.values()]
    if not free:
        return "no unused column is left"
    mapping = {ours: theirs for ours, theirs in known.items() if theirs != ours}
    for ours in missing:
        near = _nearest(ours, names[ours], free)
        mapping[ours] = near or "COLUMN"
        free = [column for column in free if column != near]
    told = " ".join(shlex.quote(word) for pair in mapping.items() for word in pair)
    which = f" (COLUMN: one of {', '.join(free)})" if "COLUMN" in mapping.values() and free else ""
    return f"if another column holds it, say --data.columns {told}{which}"


def _nearest(ours: str, wanted: str, free: Sequence[str]) -> str | None:
    by_lower = {theirs.lower(): theirs for theirs in free}
    words = [wanted.lower(), *_OTHER_WORDS.get(ours, ())]
    for word in words:
        if word in by_lower:
            return by_lower[word]
    near = [match for word in words for match in difflib.get_close_matches(word, by_lower, n=1, cutoff=_NEAR)]
    return by_lower[near[0]] if near else None
