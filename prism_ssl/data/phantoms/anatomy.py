"""Anatomy of the phantoms: a trunk and a head of ellipsoids in RAS mm, painted one over the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np
import numpy.typing as npt

from prism_ssl.contracts import Float32, Float64

Region = Literal["trunk", "head"]
Contrast = Literal["HU", "T1", "T2"]
Triple = tuple[float, float, float]

Coordinates = tuple[Float32, Float32, Float32]
"""R, A and S coordinate in mm of the voxels of a grid, each broadcastable to [nz, ny, nx]."""


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


INTENSITY: dict[Organ, Triple] = {
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
"""CT in HU, T1 and T2 in arbitrary units; see ``CONTRAST_COLUMN``."""

CONTRAST_COLUMN: dict[Contrast, int] = {"HU": 0, "T1": 1, "T2": 2}


@dataclass(frozen=True)
class Part:
    """An axis-aligned ellipsoid of one organ; where ``within`` is given it only replaces that organ."""

    organ: Organ
    center_mm: Triple
    half_axes_mm: Triple
    within: Organ | None = None


def paint_body(region: Region, coordinates: Coordinates, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """The organs of a body of random proportions, as ``Organ`` labels on the grid of the coordinates."""
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
    coordinates: Coordinates,
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
    x, y, z = (
        line[tuple(b if n > 1 else slice(None) for b, n in zip(box, line.shape, strict=True))] for line in scaled
    )
    inside = x * x + y * y + z * z <= 1
    block = labels[tuple(box)]
    if part.within is not None:
        inside &= block == part.within
    block[inside] = part.organ


def _cut_discs(labels: npt.NDArray[np.uint8], coordinates: Coordinates, center_mm: Float64, part: Part) -> None:
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
        yield Part(Organ.LUNG_VESSEL, center, triple(rng.choice((4.0, 5.0, 26.0), 3)), Organ.LUNG)
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
        yield Part(Organ.BOWEL, center, triple(rng.uniform(11, 24, 3)), Organ.MUSCLE)
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
        yield Part(Organ.CSF, center, triple(rng.choice((3.0, 4.0, 15.0), 3)), Organ.GREY_MATTER)
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


def triple(values: Float64) -> Triple:
    """Three numbers as a tuple."""
    return float(values[0]), float(values[1]), float(values[2])
