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

FILES_COMPARED_MAX = 500
"""Most files with equal voxels that are read again and compared byte by byte."""
_CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Group:
    """Scans with equal voxels; ``same_file``: whether all their files are equal, None where that was not compared."""

    scans: tuple[str, ...]
    modality: str
    patients: int
    same_file: bool | None


@dataclass(frozen=True)
class Duplicates:
    """``groups``, those with several patients first; ``surplus`` scans could go without losing a voxel."""

    groups: list[Group]

    @property
    def surplus(self) -> int:
        """Scans beyond the first one of each group."""
        return sum(len(group.scans) - 1 for group in self.groups)

    @property
    def across_patients(self) -> int:
        """Groups whose scans are of several patients of the table."""
        return sum(group.patients > 1 for group in self.groups)


def duplicates(scans: pl.DataFrame, limit_s: float) -> Duplicates:
    """The groups among scans that were read to their end (``content`` is not null)."""
    shared = (
        scans.drop_nulls("content")
        .group_by("content", maintain_order=True)
        .agg("scan_id", "path", "size", pl.col("modality").first(), patients=pl.col("patient").n_unique())
        .filter(pl.col("scan_id").list.len() > 1)
        .sort("patients", descending=True, maintain_order=True)
    )
    groups, left = list[Group](), FILES_COMPARED_MAX
    for row in shared.iter_rows(named=True):
        paths, same = set(row["path"]), None
        if len(paths) == 1 or len(set(row["size"])) > 1:
            same = len(paths) == 1
        elif len(paths) <= left:
            left -= len(paths)
            same = _same_bytes(paths, limit_s)
        groups.append(Group(tuple(row["scan_id"]), row["modality"], row["patients"], same))
    return Duplicates(groups)


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
