"""Warnings about the split of an archive: few patients, repeated scans, too many or none held out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from prism_ssl.config.schema import DataConfig
from prism_ssl.contracts import PreparedScan
from prism_ssl.data.archive import Archive
from prism_ssl.data.holdout import listed_patients

FEW_PATIENTS = 8
_LARGE_SHARE = 0.2


def split_warnings(archive: Archive, data: DataConfig) -> list[str]:
    """Warnings as sentences; none for an ordinary split."""
    training, held_out = list(itertools.chain(*archive.shards)), archive.held_out
    patients = len({scan.record.subject_id for scan in (*training, *held_out)})
    scans, share = len(training) + len(held_out), len(held_out) / max(len(training) + len(held_out), 1)
    notes = []
    if patients < FEW_PATIENTS and data.catalog_path is not None:
        column = data.columns.get("pmbb_id", "pmbb_id")
        notes.append(
            f"{scans} scans of only {patients} patients: scans are held out by patient. Does the column {column!r} "
            "tell patients apart? If another one does: --data.columns pmbb_id COLUMN"
        )
    if archive.repeated:
        notes.append(
            f"{archive.repeated} scans are not trained on: a held-out patient has the same voxels under another id. Is "
            "one patient in the table twice?"
        )
    if again := _repeats([*training, *held_out]):
        notes.append(f"{again} scans have the voxels of another patient's scan, and count as scans of their own")
    if data.holdout_file is not None and Path(data.holdout_file).exists():
        listed = listed_patients(Path(data.holdout_file))
        missing = len(listed - {scan.record.subject_id for scan in held_out})
        if missing:
            notes.append(
                f"{missing} of the {len(listed)} patients in data.holdout_file have no scan that is held out: they are "
                "not in the table, were rejected, or were trained on before"
            )
    if not held_out:
        notes.append("no scan is held out, so the quality of the encoder will be unknown")
    elif data.holdout_file is None and share > max(_LARGE_SHARE, 2 * data.holdout_fraction):
        notes.append(
            f"{len(held_out)} of {scans} scans ({share:.0%}) are held out and not trained on: whole patients, until "
            f"there are {data.holdout_min_series} series (data.holdout_min_series); lower it to train on more, "
            "with a less certain evaluation"
        )
    return notes


def _repeats(scans: Sequence[PreparedScan]) -> int:
    """How many scans have the same voxels as an earlier scan of another patient."""
    first: dict[str, str] = {}
    return sum(
        first.setdefault(scan.content, scan.record.subject_id) != scan.record.subject_id
        for scan in scans
        if scan.content
    )
