"""Points of a scan to embed: a lattice over it, a covering, the rows of a table, or the labels of a mask.

Each kind of request finds the ``Places`` of an open scan, and makes the rows of a table from their vectors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prism_ssl.config.schema import ViewConfig
from prism_ssl.contracts import Float32, Float64, RobustStats, ScanRecord
from prism_ssl.data.checks import file_signature
from prism_ssl.data.scan import OpenScan, apply_affine, open_scan
from prism_ssl.data.views import on_body, room_mm, still_radius_mm
from prism_ssl.embed.field.lattice import Covering, Int64, Lattice, cover, lattice_over, on_grid, thinned
from prism_ssl.embed.scan import file_stamp
from prism_ssl.errors import ScanRejected
from prism_ssl.utils.hashing import short_id

Row = dict[str, Any]

NO_POINT = "no_point"
"""Reason for a scan in which no point is to be embedded: no foreground, no label, or all points outside."""
NO_MASK = "no_mask"
"""Reason for a scan without a label volume."""
LABELS_MAX = 1000
"""More labels than this in a mask are no labels."""

PLACE_COLUMNS = {name: pa.float64() for name in ("x_mm", "y_mm", "z_mm")}


@dataclass(frozen=True, eq=False)
class Places:
    """Points [M, 3] in RAS mm, on the grid of ``lattice``, and what they stand for.

    ``lattice`` and ``flat`` [M], their positions in it, are set for a field; ``chosen`` are those that cover the body,
    and ``share`` is how much of it; ``tags`` [M] are rows of a table or labels of a mask.
    """

    points_mm: Float64
    lattice: Lattice | None = None
    flat: Int64 = field(default_factory=lambda: np.empty(0, np.int64))
    chosen: Int64 = field(default_factory=lambda: np.empty(0, np.int64))
    share: float = math.nan
    tags: Int64 = field(default_factory=lambda: np.empty(0, np.int64))


@dataclass(frozen=True)
class FieldRequest:
    """The foreground of a lattice of ``step_mm`` (``everywhere``: all of it), and the mean over a covering of it.

    ``keep_field``: False leaves all but the covering out.
    """

    step_mm: float
    share: float
    everywhere: bool = False
    keep_field: bool = True
    columns: ClassVar[dict[str, Any]] = {"points": pa.int32(), "coverage": pa.float32()}

    def stamp(self, record: ScanRecord) -> str:
        """Changes with the files that the rows are made from; raises ``ScanRejected`` without them."""
        return file_stamp(record)

    def places(self, scan: OpenScan, record: ScanRecord, view: ViewConfig) -> Places:  # noqa: ARG002  as all requests
        """The points of the lattice, and those of them that cover the body."""
        lattice = lattice_over(scan.affine, scan.shape, self.step_mm)
        points = lattice.points_mm()
        body = on_body(scan, points)
        flat = np.flatnonzero((room_mm(scan.affine, scan.shape, points) >= 0) if self.everywhere else body)
        covering, of_body = self._covering(scan, lattice, np.flatnonzero(body), view)
        if not self.keep_field:
            flat = np.sort(of_body[covering.chosen])
        chosen = np.searchsorted(flat, np.sort(of_body[covering.chosen]))
        return Places(points[flat], lattice, flat, chosen, covering.share)

    def _covering(self, scan: OpenScan, lattice: Lattice, body: Int64, view: ViewConfig) -> tuple[Covering, Int64]:
        middle_mm = (view.radius_mm_min + view.radius_mm_max) / 2
        stride = max(1, int(middle_mm / 3 / self.step_mm))  # finer ones cover no better, and take long
        of_body = body[thinned(body, lattice.shape, stride)]
        points = lattice.points_mm(of_body)
        return cover(points, still_radius_mm(scan, points, view), self.share), of_body

    def rows(self, places: Places, vectors: Float32) -> list[Row]:
        """One row: the mean over the covering."""
        covering = np.asarray(vectors[places.chosen])
        mean = covering.mean(axis=0)
        spread = float(np.sqrt(np.square(covering - mean).sum(axis=1).mean()))
        return [{"embedding": mean, "spread": spread, "points": len(places.chosen), "coverage": places.share}]


@dataclass(frozen=True, eq=False)
class PointsRequest:
    """Points of a table: scan id -> the numbers of its rows [M] and their coordinates [M, 3].

    Coordinates are RAS mm, or the scan's voxel indices.
    """

    rows_of: dict[str, tuple[Int64, Float64]]
    in_voxels: bool
    columns: ClassVar[dict[str, Any]] = {"row": pa.int64(), **PLACE_COLUMNS}

    def stamp(self, record: ScanRecord) -> str:
        """As in ``FieldRequest``."""
        return file_stamp(record)

    def places(self, scan: OpenScan, record: ScanRecord, view: ViewConfig) -> Places:  # noqa: ARG002
        """The points that lie between the outermost voxel centres."""
        rows, given = self.rows_of[record.scan_id]
        points = on_grid(apply_affine(scan.affine, given) if self.in_voxels else given)
        inside = room_mm(scan.affine, scan.shape, points) >= 0
        return Places(points[inside], tags=rows[inside])

    def rows(self, places: Places, vectors: Float32) -> list[Row]:
        """One row for each point."""
        return [
            {"embedding": vector, "row": int(row), "x_mm": x, "y_mm": y, "z_mm": z}
            for vector, row, (x, y, z) in zip(vectors, places.tags, places.points_mm.tolist(), strict=True)
        ]


@dataclass(frozen=True)
class MasksRequest:
    """The lattice of ``step_mm`` within each label of a scan's mask in ``folder``.

    Of a label that no point of the lattice meets, it is the voxel closest to its middle.
    """

    folder: str
    step_mm: float
    columns: ClassVar[dict[str, Any]] = {"label": pa.int32(), "points": pa.int32()}

    def stamp(self, record: ScanRecord) -> str:
        """As in ``FieldRequest``."""
        mask = mask_file(Path(self.folder), record)
        return short_id(file_stamp(record), *(str(part) for part in file_signature(str(mask))))

    def places(self, scan: OpenScan, record: ScanRecord, view: ViewConfig) -> Places:  # noqa: ARG002
        """The points in each label; raises ``ScanRejected`` without a mask that can be read."""
        mask = open_mask(mask_file(Path(self.folder), record))
        lattice = lattice_over(scan.affine, scan.shape, self.step_mm)
        points = lattice.points_mm()
        points = points[room_mm(scan.affine, scan.shape, points) >= 0]
        tags = labels_at(mask, points)
        points, tags = points[tags != 0], tags[tags != 0]
        rest = sorted(set(labels_of(mask)) - set(tags.tolist()))
        middles = on_grid([middle_of(mask, label) for label in rest]).reshape(-1, 3)
        inside = room_mm(scan.affine, scan.shape, middles) >= 0
        tags = np.concatenate([tags, np.array(rest, np.int64)[inside]])
        return Places(np.concatenate([points, middles[inside]]), tags=tags)

    def rows(self, places: Places, vectors: Float32) -> list[Row]:
        """One row for each label: the mean over its points."""
        rows = []
        for label in np.unique(places.tags):
            within = np.asarray(vectors[places.tags == label])
            spread = float(np.sqrt(np.square(within - within.mean(axis=0)).sum(axis=1).mean()))
            rows.append(
                {"embedding": within.mean(axis=0), "spread": spread, "label": int(label), "points": len(within)}
            )
        return rows


Request = FieldRequest | PointsRequest | MasksRequest


def mask_file(folder: Path, record: ScanRecord) -> Path:
    """The label volume of a scan: ``<scan_id>.nii.gz`` in ``folder``, or ``<series_path>.nii.gz``, or the first NIfTI
    in a folder ``<series_path>``; raises ``ScanRejected`` where there is none."""
    bases = [folder / record.scan_id]
    if record.series_path and not Path(record.series_path).is_absolute():
        bases.append(folder / record.series_path)
    files = [base.with_name(base.name + end) for base in bases for end in (".nii.gz", ".nii")]
    files += [file for base in bases if base.is_dir() for file in sorted(base.glob("*.nii*"))]
    for file in files:
        if file.is_file():
            return file
    raise ScanRejected(NO_MASK, "no label volume of this scan is in the folder of masks")


def open_mask(file: Path) -> OpenScan:
    """A label volume, for ``labels_at``; raises as ``open_scan``."""
    return open_scan(file, RobustStats(0.0, 0.0, 1.0))


def labels_of(mask: OpenScan) -> list[int]:
    """The labels of a mask but 0; raises ``ScanRejected`` where its values are none."""
    values = np.unique(mask.voxels).astype(np.float64) * mask.slope + mask.intercept
    if len(values) > LABELS_MAX or np.abs(values - np.rint(values)).max() > 1e-3:
        found = f"{len(values)} values, {values.min():g} to {values.max():g}"
        raise ScanRejected(NO_MASK, f"the mask holds {found}; needed: at most {LABELS_MAX} whole numbers")
    return [int(value) for value in np.rint(values) if value]


def labels_at(mask: OpenScan, points_mm: Float64) -> Int64:
    """The label [M] of the voxel closest to each RAS point [M, 3]; 0 outside the mask."""
    index = np.rint(apply_affine(mask.to_voxel, points_mm)).astype(np.int64)
    inside = ((index >= 0) & (index < mask.shape)).all(axis=1)
    labels = np.zeros(len(points_mm), np.int64)
    i, j, k = index[inside].T
    labels[inside] = np.rint(mask.voxels[k, j, i] * mask.slope + mask.intercept)
    return labels


def middle_of(mask: OpenScan, label: int) -> Float64:
    """RAS centre [3] of the label's voxel closest to the mean of all of them."""
    voxels = np.argwhere(_is(mask, label))
    nearest = voxels[np.square(voxels - voxels.mean(axis=0)).sum(axis=1).argmin()]
    return apply_affine(mask.affine, nearest[::-1])


def _is(mask: OpenScan, label: int) -> npt.NDArray[np.bool_]:
    same: npt.NDArray[np.bool_] = np.rint(mask.voxels * mask.slope + mask.intercept) == label
    return same
