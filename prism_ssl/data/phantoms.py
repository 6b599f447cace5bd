"""CT and MR phantoms with known anatomy: what a newcomer without scans trains on, and what tests ask questions of.

A phantom is a body of ellipsoids in RAS mm, painted one over the other, seen by a protocol (grid, contrast, storage).
Equal seeds give equal files.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import numpy.typing as npt
from isal import igzip

from prism_ssl.contracts import Float32, Float64
from prism_ssl.data.geometry import apply_affine, inverse
from prism_ssl.utils.fs import write_atomic
from prism_ssl.utils.seeds import generator_for

PHANTOM_VERSION = 1
"""Raised whenever the same seed gives other files, so that folders of earlier versions are not reused."""

Region = Literal["trunk", "head"]
Contrast = Literal["HU", "T1", "T2"]
Triple = tuple[float, float, float]


class Organ(IntEnum):
    """The label of a voxel."""

    AIR = 0
    SKIN = 1
    FAT = 2
    MUSCLE = 3
    BONE = 4
    DISC = 5
    CSF = 6
    LUNG = 7
    LUNG_VESSEL = 8
    HEART = 9
    BLOOD = 10
    LIVER = 11
    SPLEEN = 12
    KIDNEY = 13
    URINE = 14
    STOMACH = 15
    BOWEL = 16
    GAS = 17
    GREY_MATTER = 18
    WHITE_MATTER = 19
    CEREBELLUM = 20
    BRAINSTEM = 21
    EYE = 22


# Organ: (CT in HU, T1 and T2 in arbitrary units)
_INTENSITY: dict[Organ, Triple] = {
    Organ.AIR: (-1000, 0, 0),
    Organ.SKIN: (30, 260, 120),
    Organ.FAT: (-100, 800, 500),
    Organ.MUSCLE: (55, 280, 130),
    Organ.BONE: (600, 180, 90),
    Organ.DISC: (90, 240, 420),
    Organ.CSF: (5, 90, 900),
    Organ.LUNG: (-820, 25, 20),
    Organ.LUNG_VESSEL: (40, 200, 150),
    Organ.HEART: (60, 320, 200),
    Organ.BLOOD: (180, 110, 60),
    Organ.LIVER: (110, 460, 150),
    Organ.SPLEEN: (125, 300, 320),
    Organ.KIDNEY: (170, 330, 400),
    Organ.URINE: (8, 80, 880),
    Organ.STOMACH: (20, 150, 600),
    Organ.BOWEL: (40, 240, 380),
    Organ.GAS: (-950, 0, 0),
    Organ.GREY_MATTER: (38, 400, 430),
    Organ.WHITE_MATTER: (28, 560, 310),
    Organ.CEREBELLUM: (34, 450, 390),
    Organ.BRAINSTEM: (30, 520, 330),
    Organ.EYE: (12, 120, 850),
}
_CONTRAST_COLUMN: dict[Contrast, int] = {"HU": 0, "T1": 1, "T2": 2}


@dataclass(frozen=True)
class Part:
    """An axis-aligned ellipsoid of one organ; where ``within`` is given it only replaces that organ."""

    organ: Organ
    center_mm: Triple
    half_axes_mm: Triple
    within: Organ | None = None


@dataclass(frozen=True)
class Protocol:
    """How a body is seen and stored. ``spacing_mm`` and ``extent_mm`` are along R, A, S; ``axcodes`` is the order and
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
        Protocol(
            "CT_ABDOMEN_5MM", "CT ABDOMEN", "trunk", "HU", (2.4, 2.4, 5), TRUNK_EXTENT_MM, "LAS", "<u2", 1, -1024
        ),
        Protocol("T2_BODY_COR", "MRI ABDOMEN", "trunk", "T2", (2.8, 4, 2.8), TRUNK_EXTENT_MM, "LSA", ">i2"),
        Protocol(
            "CT_HEART_1MM", "CTA CHEST", "trunk", "HU", (1, 1, 1.25), (125, 120, 150), "RAS", "<f4", center_mm=(5, 0, 55)
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
        spacing = tuple(extent / n for extent, n in zip(protocol.extent_mm, shape, strict=True))
        protocol = replace(protocol, spacing_mm=spacing)
    affine, coordinates = _grid(protocol)
    labels = _labels(protocol.region, coordinates, generator_for(seed, "body", protocol.region, subject))
    rng = generator_for(seed, "series", protocol.description, subject)
    values = _values(labels, coordinates, protocol, rng)
    raw = (values - protocol.intercept) / protocol.slope
    dtype = np.dtype(protocol.dtype)
    if dtype.kind != "f":
        limits = np.iinfo(dtype)
        raw = np.rint(raw).clip(limits.min, limits.max)
    return Phantom(protocol, raw.astype(dtype), labels, affine)


def full_size_ct(seed: int = 0, shape: tuple[int, int, int] = (512, 512, 300)) -> Phantom:
    """A CT of the size of a hospital's, int16: 157 MB of voxels in about ten seconds."""
    return make_phantom(PROTOCOLS["trunk"][0], seed, shape=shape)


def write_phantoms(folder: str | Path, n_subjects: int, seed: int) -> Path:
    """Write ``n_subjects`` (one or two series each) and return ``<folder>/catalog.csv`` in the columns of an archive.

    Files appear whole or not at all; a folder that is complete for the same arguments is reused.
    """
    folder = Path(folder)
    catalog, marker = folder / "catalog.csv", folder / ".phantoms.json"
    wanted = json.dumps({"version": PHANTOM_VERSION, "n_subjects": n_subjects, "seed": seed}).encode()
    if marker.exists() and marker.read_bytes() == wanted:
        return catalog
    folder.mkdir(parents=True, exist_ok=True)
    marker.unlink(missing_ok=True)
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(("pmbb_id", "modality", "series_path", "series_description", "exam_type"))
    for subject, protocol in _schedule(n_subjects):
        patient = f"PH{subject:04d}"
        series_path = Path("subjects") / patient / protocol.description.lower()
        write_gz(folder / series_path / f"{protocol.description.lower()}.nii.gz", make_phantom(protocol, seed, subject))
        rows.writerow((patient, protocol.modality, series_path, protocol.description, protocol.exam_type))
    write_atomic(catalog, table.getvalue().encode())
    write_atomic(marker, wanted)
    return catalog


def write_gz(path: Path, phantom: Phantom) -> Path:
    """Write a phantom as ``.nii.gz`` (fast level, no time stamp: equal phantoms are equal files)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, igzip.compress(phantom.to_bytes(), 1, mtime=0))
    return path


def nifti_bytes(voxels: npt.NDArray[Any], affine: Float64, slope: float = 1.0, intercept: float = 0.0) -> bytes:
    """A NIfTI-1 file of raw ``voxels`` [nz, ny, nx], in their type and byte order."""
    header = nib.Nifti1Header(endianness=">" if voxels.dtype.str.startswith(">") else "<")
    header.set_data_dtype(voxels.dtype)
    header.set_data_shape(voxels.shape[::-1])
    header.set_sform(affine, code=1)
    header.set_qform(affine, code=1, strip_shears=True)
    header["scl_slope"], header["scl_inter"] = slope, intercept
    header["vox_offset"], header["magic"] = 352, b"n+1"
    return bytes(header.binaryblock) + bytes(4) + voxels.tobytes()


def _schedule(n_subjects: int) -> Iterator[tuple[int, Protocol]]:
    """Trunks and heads in turn; every third subject has a second series."""
    for subject in range(n_subjects):
        protocols = PROTOCOLS["head" if subject % 2 else "trunk"]
        for series in range(2 if subject % 3 == 0 else 1):
            yield subject, protocols[(subject // 2 + series) % len(protocols)]


def _grid(protocol: Protocol) -> tuple[Float64, tuple[Float32, Float32, Float32]]:
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


def _labels(
    region: Region, coordinates: tuple[Float32, Float32, Float32], rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    labels = np.zeros(np.broadcast_shapes(*(line.shape for line in coordinates)), dtype=np.uint8)
    size = rng.uniform(0.93, 1.07, 3)
    for part in _trunk(rng) if region == "trunk" else _head(rng):
        moved = size * np.array(part.center_mm) + rng.normal(0, 0.01, 3) * np.array(part.half_axes_mm)
        _paint(labels, coordinates, part, moved, size * np.array(part.half_axes_mm))
        if part.organ is Organ.BONE and region == "trunk":
            _cut_discs(labels, coordinates, moved, part)
    return labels


def _paint(
    labels: npt.NDArray[np.uint8],
    coordinates: tuple[Float32, Float32, Float32],
    part: Part,
    center_mm: Float64,
    half_axes_mm: Float64,
) -> None:
    """Label the voxels of one ellipsoid, looking only at its bounding box."""
    box = [slice(0, 0)] * 3
    scaled = [(line - c) / h for line, c, h in zip(coordinates, center_mm, half_axes_mm, strict=True)]
    for line in scaled:
        axis = int(np.argmax(line.shape))
        hit = np.flatnonzero(np.abs(line) <= 1)
        box[axis] = slice(int(hit[0]), int(hit[-1]) + 1) if hit.size else slice(0, 0)
    x, y, z = (line[tuple(b if n > 1 else slice(None) for b, n in zip(box, line.shape, strict=True))] for line in scaled)
    inside = x * x + y * y + z * z <= 1
    block = labels[tuple(box)]
    if part.within is not None:
        inside &= block == part.within
    block[inside] = part.organ


def _cut_discs(
    labels: npt.NDArray[np.uint8], coordinates: tuple[Float32, Float32, Float32], center_mm: Float64, part: Part
) -> None:
    """Turn bone at regular heights of the spine into discs, and leave gaps between the ribs."""
    x, y, z = coordinates
    if part.half_axes_mm[0] < 30:
        labels[(labels == Organ.BONE) & (np.mod(z, 30) < 7) & (np.abs(x - center_mm[0]) < 25)] = Organ.DISC
    elif part.half_axes_mm[0] > 120:
        gap = (np.mod(z + 0.35 * y, 26) > 9) | (z < -20)
        labels[(labels == Organ.BONE) & gap] = Organ.MUSCLE


def _trunk(rng: np.random.Generator) -> Iterator[Part]:
    """A trunk from pelvis to neck; R is +x, A is +y, S is +z."""
    tall = 600.0
    fat = rng.uniform(10, 24)
    yield Part(Organ.SKIN, (0, 0, -20), (164, 112, tall))
    yield Part(Organ.FAT, (0, 0, -20), (161, 109, tall))
    yield Part(Organ.MUSCLE, (0, -2, -20), (161 - fat, 109 - fat, tall))
    yield Part(Organ.BONE, (0, -2, 20), (132, 84, 300))
    yield Part(Organ.MUSCLE, (0, -2, 20), (125, 77, 300))
    yield Part(Organ.LUNG, (66, 2, 80), (50, 66, 92))
    yield Part(Organ.LUNG, (-68, 2, 80), (46, 64, 90))
    for _ in range(40):
        side = rng.choice((-1.0, 1.0))
        center = (side * 66 + rng.normal(0, 18), rng.normal(0, 25), 80 + rng.normal(0, 35))
        yield Part(Organ.LUNG_VESSEL, center, _triple(rng.choice((4.0, 5.0, 26.0), 3)), Organ.LUNG)
    yield Part(Organ.FAT, (-5, 25, 55), (38, 42, 70))
    yield Part(Organ.HEART, (-22, 28, 42), (46, 40, 50))
    yield Part(Organ.BLOOD, (-36, 26, 36), (20, 18, 30))
    yield Part(Organ.BLOOD, (2, 30, 44), (17, 20, 28))
    yield Part(Organ.LIVER, (66, 4, -28), (72, 68, 58))
    yield Part(Organ.BLOOD, (60, 4, -25), (40, 5, 5), Organ.LIVER)
    yield Part(Organ.STOMACH, (-58, 26, -22), (36, 38, 34))
    yield Part(Organ.GAS, (-58, 46, -16), (22, 14, 20), Organ.STOMACH)
    yield Part(Organ.SPLEEN, (-98, -28, -22), (26, 36, 38))
    for x, z in ((56.0, -82.0), (-58.0, -72.0)):
        yield Part(Organ.KIDNEY, (x, -42, z), (25, 22, 44))
        yield Part(Organ.URINE, (x * 0.85, -40, z), (10, 8, 20))
    yield Part(Organ.URINE, (0, 30, -158), (34, 30, 26))
    for _ in range(14):
        center = (rng.uniform(-80, 80), rng.uniform(0, 55), rng.uniform(-140, -85))
        yield Part(Organ.BOWEL, center, _triple(rng.uniform(11, 24, 3)), Organ.MUSCLE)
        yield Part(Organ.GAS, (center[0], center[1] + 6, center[2]), (9, 6, 9), Organ.BOWEL)
    for x in (-1.0, 1.0):
        yield Part(Organ.BONE, (x * 84, -24, -150), (36, 42, 46))
        yield Part(Organ.MUSCLE, (x * 78, -12, -146), (32, 38, 44))
    yield Part(Organ.BLOOD, (-16, -34, 0), (11, 11, tall))
    yield Part(Organ.BONE, (0, -62, 0), (23, 19, tall))
    yield Part(Organ.BONE, (0, -88, 0), (14, 12, tall))
    yield Part(Organ.CSF, (0, -84, 0), (8, 7, tall))


def _head(rng: np.random.Generator) -> Iterator[Part]:
    """A head and the upper neck."""
    yield Part(Organ.MUSCLE, (0, -12, -120), (52, 56, 90))
    yield Part(Organ.BONE, (0, -28, -130), (17, 16, 80))
    yield Part(Organ.GAS, (0, 18, -120), (10, 8, 50))
    yield Part(Organ.SKIN, (0, 0, 0), (80, 101, 102))
    yield Part(Organ.FAT, (0, 0, 0), (77, 98, 99))
    yield Part(Organ.BONE, (0, 0, 0), (73, 94, 95))
    yield Part(Organ.CSF, (0, 0, 0), (67, 88, 89))
    yield Part(Organ.GREY_MATTER, (0, 0, 5), (65, 86, 82))
    yield Part(Organ.WHITE_MATTER, (0, 0, 5), (54, 74, 69))
    for _ in range(60):  # sulci, about as deep as the cortex is thick
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        center = (61 * direction[0], 81 * direction[1], 5 + 76 * direction[2])
        yield Part(Organ.CSF, center, _triple(rng.choice((3.0, 4.0, 15.0), 3)), Organ.GREY_MATTER)
    for x in (-1.0, 1.0):
        yield Part(Organ.GREY_MATTER, (x * 24, 6, -4), (9, 22, 12))
        yield Part(Organ.CSF, (x * 11, -4, 14), (7, 36, 13))
        yield Part(Organ.CSF, (x * 22, -34, 2), (8, 12, 14))
    yield Part(Organ.CSF, (0, 0, 4), (3, 15, 12))
    yield Part(Organ.MUSCLE, (0, 62, -68), (50, 34, 42))
    yield Part(Organ.GAS, (0, 72, -52), (17, 20, 26))
    for x in (-1.0, 1.0):
        yield Part(Organ.FAT, (x * 32, 76, -22), (19, 22, 18))
        yield Part(Organ.EYE, (x * 32, 84, -22), (12, 12, 12))
        yield Part(Organ.GAS, (x * 30, 68, -50), (13, 14, 15))
        yield Part(Organ.BONE, (x * 52, -18, -50), (16, 18, 14))
    yield Part(Organ.CSF, (0, -50, -48), (50, 38, 30))
    yield Part(Organ.CEREBELLUM, (0, -52, -48), (47, 35, 27))
    yield Part(Organ.BRAINSTEM, (0, -16, -62), (14, 14, 46))
    yield Part(Organ.CSF, (0, -30, -46), (7, 5, 12))


def _triple(values: Float64) -> Triple:
    return float(values[0]), float(values[1]), float(values[2])


def _values(
    labels: npt.NDArray[np.uint8],
    coordinates: tuple[Float32, Float32, Float32],
    protocol: Protocol,
    rng: np.random.Generator,
) -> Float32:
    """Rescaled values: the organ's intensity, partial volume at the borders, texture, MR bias field, noise."""
    column = _CONTRAST_COLUMN[protocol.contrast]
    table = np.array([_INTENSITY[organ][column] for organ in Organ], dtype=np.float32)
    values = _blurred(table[labels])
    wave = _waves(coordinates, rng, wavelengths_mm=(12, 30), count=3)
    values += (8 if protocol.modality == "CT" else 12) * wave * (labels != Organ.AIR)
    noise = rng.standard_normal(values.shape, dtype=np.float32)
    if protocol.modality == "CT":
        values += 10 * noise
        return np.maximum(values, -1024)
    values *= 1 + 0.12 * _waves(coordinates, rng, wavelengths_mm=(400, 900), count=2)
    return np.abs(values + 9 * noise)


def _waves(
    coordinates: tuple[Float32, Float32, Float32],
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
