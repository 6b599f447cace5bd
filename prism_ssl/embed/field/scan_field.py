"""The field of a scan: where its file is, and its points and vectors in memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from prism_ssl.contracts import Float32, Float64
from prism_ssl.data.scan import apply_affine, inverse, read_volume
from prism_ssl.embed.field.lattice import Int64

FIELDS_TABLE, POINTS_TABLE, MASKS_TABLE = "volumes.parquet", "points.parquet", "masks.parquet"
"""Tables in the folder of a job: the volume vectors of fields, the rows of points, the labels of masks."""


def field_file(folder: Path, scan_id: str) -> Path:
    """Where the field of a scan is."""
    return folder / f"{scan_id}.nii.gz"


@dataclass(frozen=True, eq=False)
class ScanField:
    """Vectors [M, D] at the places ``index`` [M, 3] of a lattice of ``shape``; ``affine`` [4, 4] maps those to RAS."""

    affine: Float64
    shape: tuple[int, int, int]
    index: Int64
    vectors: Float32

    @cached_property
    def points_mm(self) -> Float64:
        """RAS points [M, 3]."""
        return apply_affine(self.affine, self.index)

    def closest(self, place_mm: Float64) -> int:
        """The row of the point closest to a RAS place [3]."""
        return int(np.square(self.points_mm - place_mm).sum(axis=1).argmin())

    def rows_at(self, points_mm: Float64) -> Int64:
        """The row [...] whose cell of the lattice holds each RAS point [..., 3]; -1 where none does."""
        row_of = np.full(self.shape, -1, np.int64)
        row_of[tuple(self.index.T)] = np.arange(len(self.index))
        at = np.rint(apply_affine(inverse(self.affine), points_mm)).astype(np.int64)
        inside = ((at >= 0) & (at < self.shape)).all(axis=-1)
        rows = np.full(at.shape[:-1], -1, np.int64)
        rows[inside] = row_of[tuple(at[inside].T)]
        return rows


def read_field(file: Path) -> ScanField:
    """The field in a file of ``prism field``, without the points that have no vector; raises ``ConfigError`` where the
    file cannot be read."""
    affine, voxels = read_volume(file)
    index = np.argwhere(voxels.any(axis=-1))
    nx, ny, nz, _ = voxels.shape
    return ScanField(affine, (nx, ny, nz), index, voxels[tuple(index.T)])
