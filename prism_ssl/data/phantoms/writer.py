"""Generate CT and MR phantoms with known anatomy, for training without scans and for tests.

A phantom is a body (see ``anatomy``) imaged with a protocol: grid, contrast, storage.
Equal seeds give equal files.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from isal import igzip

from prism_ssl.contracts import Float32, Float64
from prism_ssl.data.phantoms.anatomy import (
    CONTRAST_COLUMN,
    INTENSITY,
    Contrast,
    Coordinates,
    Organ,
    Region,
    Triple,
    paint_body,
    triple,
)
from prism_ssl.data.scan import apply_affine, inverse, nifti_bytes
from prism_ssl.utils.fs import write_atomic
from prism_ssl.utils.seeds import generator_for

PHANTOM_VERSION = 2
"""Increased whenever the same seed gives other files, so that folders of earlier versions are not reused."""

MARKER_FILE = ".phantoms.json"
"""Beside the catalogue: the arguments that its phantoms were made with."""


@dataclass(frozen=True)
class Protocol:
    """How a body is imaged and stored. ``spacing_mm`` and ``extent_mm`` are along R, A, S; ``axcodes`` is the order and
    direction of the axes on disk; value = slope * raw + intercept."""

    description: str
    exam_type: str
    region: Region
    contrast: Contrast
    spacing_mm: Triple
    extent_mm: Triple
    axcodes: str
    dtype: str
    slope: float = 1.0
    intercept: float = 0.0
    center_mm: Triple = (0.0, 0.0, 0.0)

    @property
    def modality(self) -> str:
        """CT or MR."""
        return "CT" if self.contrast == "HU" else "MR"


TRUNK_EXTENT_MM = (345.0, 245.0, 330.0)
HEAD_EXTENT_MM = (172.0, 216.0, 210.0)

PROTOCOLS: dict[Region, tuple[Protocol, ...]] = {
    "trunk": (
        Protocol("CT_BODY_3MM", "CT CHEST ABDOMEN", "trunk", "HU", (2.8, 2.8, 3), TRUNK_EXTENT_MM, "LPS", "<i2"),
        Protocol("T1_BODY_AX", "MRI ABDOMEN", "trunk", "T1", (2.7, 2.7, 4), TRUNK_EXTENT_MM, "LPS", "<f4"),
        Protocol("CT_ABDOMEN_5MM", "CT ABDOMEN", "trunk", "HU", (2.4, 2.4, 5), TRUNK_EXTENT_MM, "LAS", "<u2", 1, -1024),
        Protocol("T2_BODY_COR", "MRI ABDOMEN", "trunk", "T2", (2.8, 4, 2.8), TRUNK_EXTENT_MM, "LSA", ">i2"),
        Protocol(
            "CT_HEART_1MM",
            "CTA CHEST",
            "trunk",
            "HU",
            (1, 1, 1.25),
            (125, 120, 150),
            "RAS",
            "<f4",
            center_mm=(5, 0, 55),
        ),
    ),
    "head": (
        Protocol("T1_HEAD", "MRI BRAIN", "head", "T1", (1.8, 1.8, 1.8), HEAD_EXTENT_MM, "RAS", "<u2"),
        Protocol("CT_HEAD", "CT HEAD", "head", "HU", (1.6, 1.6, 2.5), HEAD_EXTENT_MM, "LAS", ">i2"),
        Protocol("T2_HEAD_SAG", "MRI BRAIN", "head", "T2", (4, 1.6, 1.6), HEAD_EXTENT_MM, "PSR", "|u1", 4.5),
    ),
}


@dataclass(frozen=True, eq=False)
class Phantom:
    """A phantom on its grid: raw ``voxels`` and ``labels`` [nz, ny, nx]; ``affine`` maps (i, j, k) to RAS mm."""

    protocol: Protocol
    voxels: npt.NDArray[Any]
    labels: npt.NDArray[np.uint8]
    affine: Float64

    def organ_at(self, point_mm: npt.ArrayLike) -> Organ:
        """The organ at a RAS point [3]; AIR outside the grid."""
        i, j, k = np.rint(apply_affine(inverse(self.affine), point_mm)).astype(int)
        nz, ny, nx = self.labels.shape
        inside = 0 <= i < nx and 0 <= j < ny and 0 <= k < nz
        return Organ(int(self.labels[k, j, i])) if inside else Organ.AIR

    def to_bytes(self) -> bytes:
        """The phantom as an uncompressed NIfTI-1 file."""
        return nifti_bytes(self.voxels, self.affine, self.protocol.slope, self.protocol.intercept)


def make_phantom(protocol: Protocol, seed: int, subject: int = 0, shape: tuple[int, int, int] | None = None) -> Phantom:
    """One series of one subject; series of the same (seed, subject) show the same body.

    ``shape`` (voxels along R, A, S) replaces the protocol's spacing: (512, 512, 300) is a hospital CT.
    """
    if shape is not None:
        protocol = replace(protocol, spacing_mm=triple(np.array(protocol.extent_mm) / shape))
    affine, coordinates = _grid(protocol)
    labels = paint_body(protocol.region, coordinates, generator_for(seed, "body", protocol.region, subject))
    rng = generator_for(seed, "series", protocol.description, subject)
    values = _values(labels, coordinates, protocol, rng)
    raw = (values - protocol.intercept) / protocol.slope
    dtype = np.dtype(protocol.dtype)
    if dtype.kind != "f":
        limits = np.iinfo(dtype)
        raw = np.rint(raw).clip(limits.min, limits.max)
    return Phantom(protocol, raw.astype(dtype), labels, affine)


def full_size_ct(seed: int = 0, shape: tuple[int, int, int] = (512, 512, 300)) -> Phantom:
    """A CT of hospital size, int16: 157 MB of voxels in about ten seconds."""
    return make_phantom(PROTOCOLS["trunk"][0], seed, shape=shape)


def write_phantoms(folder: str | Path, n_subjects: int, seed: int) -> Path:
    """Write ``n_subjects`` (one or two series each) and return ``<folder>/catalog.csv``, with an archive's columns.

    Files appear whole or not at all; a folder that is complete for the same arguments is reused.
    """
    folder = Path(folder)
    catalog, marker = folder / "catalog.csv", folder / MARKER_FILE
    wanted = json.dumps({"version": PHANTOM_VERSION, "n_subjects": n_subjects, "seed": seed}).encode()
    if marker.exists() and marker.read_bytes() == wanted:
        return catalog
    folder.mkdir(parents=True, exist_ok=True)
    marker.unlink(missing_ok=True)
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(("pmbb_id", "modality", "series_path", "series_description", "exam_type"))
    for subject, protocol in schedule(n_subjects):
        series_path = series_folder(subject, protocol)
        write_gz(folder / series_path / f"{protocol.description.lower()}.nii.gz", make_phantom(protocol, seed, subject))
        rows.writerow((_patient(subject), protocol.modality, series_path, protocol.description, protocol.exam_type))
    write_atomic(catalog, table.getvalue().encode())
    write_atomic(marker, wanted)
    return catalog


def write_gz(path: Path, phantom: Phantom) -> Path:
    """Write a phantom as ``.nii.gz`` (fast level, no time stamp: equal phantoms are equal files)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, igzip.compress(phantom.to_bytes(), 1, mtime=0))
    return path


BOTH_MODALITIES_FROM = 16
"""From this subject on, each has a CT and an MR, so that held-out subjects have both too."""


def schedule(n_subjects: int) -> Iterator[tuple[int, Protocol]]:
    """Yield (subject, protocol) of every series: trunks and heads in turn.

    Every third subject has a second series; from ``BOTH_MODALITIES_FROM`` on every subject has one, of the other
    modality. All series of a subject share one frame of reference.
    """
    for subject in range(n_subjects):
        protocols = PROTOCOLS["head" if subject % 2 else "trunk"]
        first = subject // 2 % len(protocols)
        in_turn = [*protocols[first:], *protocols[:first]]
        yield subject, in_turn[0]
        if subject >= BOTH_MODALITIES_FROM:
            yield subject, next(other for other in in_turn if other.modality != in_turn[0].modality)
        elif subject % 3 == 0:
            yield subject, in_turn[1]


def phantom_folder(root: Path, n_subjects: int, seed: int) -> Path:
    """Folder of a run's phantoms below ``root``: one for each version, so that none is rewritten."""
    return root / "phantoms" / f"v{PHANTOM_VERSION}-{n_subjects}-subjects-seed-{seed}"


def series_folder(subject: int, protocol: Protocol) -> Path:
    """Folder of a series, relative to the catalogue."""
    return Path("subjects") / _patient(subject) / protocol.description.lower()


def _patient(subject: int) -> str:
    return f"PH{subject:04d}"


def _grid(protocol: Protocol) -> tuple[Float64, Coordinates]:
    """Affine, and the R, A and S coordinate of the voxels, each broadcastable to [nz, ny, nx]."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    coordinates: list[Float32] = [np.empty(0, np.float32)] * 3
    for axis, code in enumerate(protocol.axcodes):
        ras = next(row for row, ends in enumerate(("LR", "PA", "IS")) if code in ends)
        step = protocol.spacing_mm[ras] * (1 if code in "RAS" else -1)
        n = round(protocol.extent_mm[ras] / protocol.spacing_mm[ras])
        affine[ras, axis], affine[ras, 3] = step, protocol.center_mm[ras] - step * (n - 1) / 2
        line = (affine[ras, 3] + step * np.arange(n)).astype(np.float32)
        coordinates[ras] = line.reshape([n if axis == other else 1 for other in (2, 1, 0)])
    return affine, (coordinates[0], coordinates[1], coordinates[2])


def _values(
    labels: npt.NDArray[np.uint8],
    coordinates: Coordinates,
    protocol: Protocol,
    rng: np.random.Generator,
) -> Float32:
    """Rescaled values: the organ's intensity, partial volume at the borders, texture, MR bias field, noise."""
    column = CONTRAST_COLUMN[protocol.contrast]
    table = np.array([INTENSITY[organ][column] for organ in Organ], dtype=np.float32)
    values = _blurred(table[labels])
    wave = _waves(coordinates, rng, wavelengths_mm=(12, 30), count=3)
    values += (8 if protocol.modality == "CT" else 12) * wave * (labels != Organ.AIR)
    noise = rng.standard_normal(values.shape, dtype=np.float32)
    if protocol.modality == "CT":
        values += 10 * noise
        return np.maximum(values, -1024)
    values *= 1 + 0.12 * _waves(coordinates, rng, wavelengths_mm=(400, 900), count=2)
    magnitude: Float32 = np.abs(values + 9 * noise)
    return magnitude


def _waves(
    coordinates: Coordinates,
    rng: np.random.Generator,
    wavelengths_mm: tuple[float, float],
    count: int,
) -> Float32:
    """A smooth random field of about unit size."""
    shape = np.broadcast_shapes(*(line.shape for line in coordinates))
    field = np.zeros(shape, dtype=np.float32)
    for _ in range(count):
        x, y, z = (
            np.sin(2 * np.pi / rng.uniform(*wavelengths_mm) * line + rng.uniform(0, 2 * np.pi), dtype=np.float32)
            for line in coordinates
        )
        field += x * y * z
    return field


def _blurred(values: Float32) -> Float32:
    """Partial volume: each voxel shares a quarter with its neighbours along each axis."""
    for axis in range(3):
        along = np.moveaxis(values, axis, 0)
        inner = 0.25 * (along[:-2] + along[2:])
        along[1:-1] *= 0.5
        along[1:-1] += inner
    return values
