"""A scan with its field: read from a folder of ``prism field``, or embedded now; and whether two share a frame."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from prism_ssl.config.schema import PrismConfig, ViewConfig
from prism_ssl.contracts import Float64, PreparedScan, ScanRecord
from prism_ssl.data.checks import inspect_and_open
from prism_ssl.data.scan import OpenScan, open_scan
from prism_ssl.data.views import on_body, shared_places
from prism_ssl.embed.field.encode import PointEncoder
from prism_ssl.embed.field.lattice import lattice_over
from prism_ssl.embed.field.places import NO_POINT
from prism_ssl.embed.field.scan_field import ScanField, field_file, read_field
from prism_ssl.errors import ConfigError, ScanRejected
from prism_ssl.utils.machine import usable_cpus
from prism_ssl.utils.seeds import generator_for


@dataclass(frozen=True, eq=False)
class ShownScan:
    """An open scan and its field."""

    record: ScanRecord
    scan: OpenScan
    field: ScanField

    @property
    def name(self) -> str:
        """Such as "CT 1a2b3c4d"."""
        return f"{self.record.modality} {self.record.scan_id[:8]}"

    @property
    def middle_mm(self) -> Float64:
        """The point [3] of the field that is closest to the middle of all."""
        points = self.field.points_mm
        middle: Float64 = points[self.field.closest(points.mean(axis=0))]
        return middle

    @property
    def reach_mm(self) -> tuple[list[int], list[int]]:
        """Whole mm along R, A and S that the points of the field lie between."""
        points = self.field.points_mm
        return np.floor(points.min(axis=0)).astype(int).tolist(), np.ceil(points.max(axis=0)).astype(int).tolist()


def with_field_of(record: ScanRecord, folder: Path) -> ShownScan:
    """A scan with its field from a folder of ``prism field``.

    Raises:
        ConfigError: the folder holds no field of it.
        ScanRejected: the scan cannot be opened.
    """
    file = field_file(folder, record.scan_id)
    if not file.is_file():
        raise ConfigError(
            f"{folder} holds no field of scan {record.scan_id}; needed: {file.name}, which prism field writes"
        )
    return ShownScan(record, open_scan(Path(record.nifti_path)), read_field(file))


def embed_field(record: ScanRecord, encoder: torch.nn.Module, config: PrismConfig, step_mm: float) -> ShownScan:
    """A scan with its field of ``step_mm``, embedded now, in this process; as ``prism field`` does with seed 0.

    Raises:
        ScanRejected: the scan cannot be used.
    """
    scan = inspect_and_open(record.nifti_path, record.modality, config)[1]
    lattice = lattice_over(scan.affine, scan.shape, step_mm)
    flat = np.flatnonzero(on_body(scan, lattice.points_mm()))
    if not len(flat):
        raise ScanRejected(NO_POINT, f"no point of a lattice of {step_mm:g} mm lies on the body")
    encode = PointEncoder(encoder, config, 0, torch.device("cpu"), usable_cpus())
    vectors = np.concatenate(list(encode(scan, lattice.points_mm(flat))))
    index = np.stack(np.unravel_index(flat, lattice.shape, order="F"), axis=-1)
    return ShownScan(record, scan, ScanField(lattice.affine, lattice.shape, index, vectors))


def shown_scans(
    records: Sequence[ScanRecord], folder: str, encoder: torch.nn.Module, config: PrismConfig, step_mm: float
) -> list[ShownScan]:
    """Scans with their fields: those in ``folder``, or, where it is "", of ``step_mm`` and embedded now.

    Raises as ``with_field_of`` and ``embed_field``.
    """
    if folder.strip():
        return [with_field_of(record, Path(folder.strip()).expanduser()) for record in records]
    return [embed_field(record, encoder, config, step_mm) for record in records]


def first_pair(scans: Sequence[PreparedScan]) -> tuple[PreparedScan, PreparedScan]:
    """The first two scans of one patient, of two modalities if there are such; else the first two of all; the only one
    twice."""
    pairs = [*itertools.combinations(scans, 2)] or [(scans[0], scans[0])]
    records = [(a.record, b.record) for a, b in pairs]
    fit = [(a.subject_id == b.subject_id, a.modality != b.modality) for a, b in records]
    return pairs[fit.index(max(fit))]


def start_place(scans: Sequence[ShownScan]) -> Float64:
    """The place [3] in the first scan to begin with: in the middle of what both show, if they are in one frame."""
    both = len(scans) > 1 and in_one_frame(*scans)
    return place_in_both(*scans) if both else scans[0].middle_mm


def in_one_frame(a: ShownScan, b: ShownScan) -> bool:
    """Whether both scans are of one patient and, plausibly, in one frame of reference; see ``shared_places``."""
    if a.record.subject_id != b.record.subject_id:
        return False
    rng = generator_for(0, "picture", *sorted((a.record.scan_id, b.record.scan_id)))
    return shared_places(a.scan, b.scan, ViewConfig().radius_mm_floor, rng).points_mm is not None


def place_in_both(a: ShownScan, b: ShownScan) -> Float64:
    """The point [3] of ``a``'s field in the middle of those that ``b``'s field covers too; the middle of all where
    there is none."""
    both = a.field.points_mm[b.field.rows_at(a.field.points_mm) >= 0]
    if not len(both):
        return a.middle_mm
    middle: Float64 = both[np.square(both - both.mean(axis=0)).sum(axis=1).argmin()]
    return middle
