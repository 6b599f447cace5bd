"""Scans with equal voxels, and whether their files are equal too."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl

from prism_ssl.data.scan import read_within
from prism_ssl.errors import PrismError

GROUPS_SHOWN, SCANS_SHOWN = 20, 4
"""Most groups of equal voxels that are listed, and most scans of each."""
FILES_COMPARED_MAX = 500
"""Most files with equal voxels that are read again and compared byte by byte."""
_CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Group:
    """``size`` scans with equal voxels, the first of them in ``scans``; ``same_file``: whether all their files are
    equal, None where that was not compared."""

    scans: tuple[str, ...]
    size: int
    modality: str
    patients: int
    same_file: bool | None


@dataclass(frozen=True)
class Duplicates:
    """The first of ``found`` groups, those with several patients before the others.

    ``surplus`` scans could go without losing a voxel; of ``across_patients`` groups the scans are of several patients
    of the table.
    """

    groups: list[Group]
    found: int
    surplus: int
    across_patients: int


def duplicates(scans: pl.DataFrame, limit_s: float) -> Duplicates:
    """The groups among scans that were read to their end (``content`` is not null)."""
    shared = (
        scans.drop_nulls("content")
        .group_by("content", maintain_order=True)
        .agg(
            pl.col("scan_id").head(SCANS_SHOWN),
            pl.col("modality").first(),
            pl.col("path").unique(maintain_order=True).head(FILES_COMPARED_MAX + 1),
            n=pl.len(),
            sizes=pl.col("size").n_unique(),
            patients=pl.col("patient").n_unique(),
        )
        .filter(pl.col("n") > 1)
        .sort("patients", descending=True, maintain_order=True)
    )
    groups, left = list[Group](), FILES_COMPARED_MAX
    for row in shared.head(GROUPS_SHOWN).iter_rows(named=True):
        paths, same = row["path"], None
        if len(paths) == 1 or row["sizes"] > 1:
            same = len(paths) == 1
        elif len(paths) <= left:
            left -= len(paths)
            same = _same_bytes(paths, limit_s)
        groups.append(Group(tuple(row["scan_id"]), row["n"], row["modality"], row["patients"], same))
    surplus = int(shared["n"].sum()) - shared.height
    return Duplicates(groups, shared.height, surplus, shared.filter(pl.col("patients") > 1).height)


def _same_bytes(paths: Iterable[str], limit_s: float) -> bool | None:
    try:
        return len({read_within(limit_s, partial(_digest, path)) for path in paths}) == 1
    except (PrismError, OSError):
        return None


def _digest(path: str) -> str:
    digest = hashlib.sha256()
    with Path(path).open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
