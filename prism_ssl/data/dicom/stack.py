"""The geometry of a stack of planes: order, step, gaps, shear; pure, in mm and in DICOM's patient frame (LPS)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prism_ssl.contracts import Float64
from prism_ssl.data.dicom.instance import Frame
from prism_ssl.data.dicom.reasons import LeftOut, Refusal

SAME_PLACE_MM = 0.01
"""Planes that are closer than this, along their normal, lie at one place."""
STATION_MM = 50.0
"""Planes at one distance whose places are further apart than this are of stations beside each other; less may be a
drift of the patient, or the tilt of a gantry."""
STEP_TOLERANCE, STEP_TOLERANCE_MM = 0.1, 0.05
"""A plane may be away from its place by this share of the step and this length: scanners round positions."""
GAP_FACTOR = 1.5
SHEAR_DEG = 0.2
UNIT_TOLERANCE = 1e-3
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Stack:
    """Planes in the order of their distance along the normal.

    ``order`` are indices into the frames, ``step_mm`` [3] leads from one plane to the next (LPS), ``tilt_deg`` is the
    angle between it and the normal: 0 but for a tilted gantry.
    """

    order: tuple[int, ...]
    origin_mm: Float64
    along_row: Float64
    along_column: Float64
    spacing_mm: tuple[float, float, float]
    step_mm: Float64
    tilt_deg: float

    def affine(self) -> Float64:
        """(column, row, plane) -> RAS mm, [4, 4]."""
        matrix = np.eye(4)
        columns = (self.along_row * self.spacing_mm[0], self.along_column * self.spacing_mm[1], self.step_mm)
        matrix[:3, :3] = _LPS_TO_RAS @ np.stack(columns, axis=1)
        matrix[:3, 3] = _LPS_TO_RAS @ self.origin_mm
        return matrix

    @property
    def plane_name(self) -> str:
        """axial, coronal or sagittal, whichever is nearest; oblique if it is more than 30 degrees away."""
        normal = np.abs(np.cross(self.along_row, self.along_column))
        name = ("sagittal", "coronal", "axial")[int(np.argmax(normal))]
        return name if normal.max() > math.cos(math.radians(30)) else "oblique"


def has_geometry(frame: Frame) -> bool:
    """Whether a plane has a place, two perpendicular directions of length 1, and a spacing above 0."""
    if frame.position is None or frame.orientation is None or frame.spacing is None or min(frame.spacing) <= 0:
        return False
    row, column = np.array(frame.orientation[:3]), np.array(frame.orientation[3:])
    lengths = np.abs(np.array([row @ row, column @ column]) - 1)
    return bool(max(lengths.max(), abs(row @ column)) < 10 * UNIT_TOLERANCE)


def same_grid(a: Frame, b: Frame) -> bool:
    """Whether two planes have one orientation and one spacing, but for rounding."""
    apart = np.abs(np.array(a.orientation) - np.array(b.orientation)).max()
    spacing = np.abs(np.array(a.spacing) - np.array(b.spacing)).max()
    return bool(apart < UNIT_TOLERANCE and spacing < UNIT_TOLERANCE)


def distances_mm(frames: Sequence[Frame]) -> Float64:
    """Distance of each plane along the normal of the first one."""
    return np.array([frame.position for frame in frames], float) @ _normal(frames[0])


def doubled(frames: Sequence[Frame]) -> int:
    """How many planes lie where another one does."""
    return int(np.count_nonzero(np.diff(np.sort(distances_mm(frames))) < SAME_PLACE_MM))


def stations(frames: Sequence[Frame]) -> dict[str, list[int]]:
    """Indices of the planes of each station, by its place in mm along a row and a column; "" for a single one.

    Stations are told apart only where planes at one distance lie beside each other.
    """
    whole = {"": list(range(len(frames)))}
    positions, distances = np.array([frame.position for frame in frames], float), distances_mm(frames)
    order = np.argsort(distances)
    apart = np.linalg.norm(np.diff(positions[order], axis=0), axis=1)
    if not np.any((np.diff(distances[order]) < SAME_PLACE_MM) & (apart > STATION_MM)):
        return whole
    places = positions @ np.array(frames[0].orientation, float).reshape(2, 3).T
    found = list[list[int]]()
    for i, place in enumerate(places):
        near = next((each for each in found if np.linalg.norm(places[each[0]] - place) <= STATION_MM), None)
        if near is None:
            found.append(near := [])
        near.append(i)
    if min(map(len, found)) == 1:
        return whole
    return {" ".join(str(round(value)) for value in places[each[0]].tolist()): each for each in found}


def stacked(frames: Sequence[Frame], tilt_allowed: bool) -> Stack | Refusal:
    """The stack that planes of one grid form, or why they form none.

    Args:
        frames: two or more, see ``same_grid``.
        tilt_allowed: whether planes may be shifted evenly against each other, as with a tilted gantry.
    """
    if twice := doubled(frames):
        return Refusal(LeftOut.DOUBLED_SLICES, f"{twice} of {len(frames)} slices lie where another one does")
    distances = distances_mm(frames)
    order = np.argsort(distances)
    along = distances[order]
    steps = np.diff(along)
    usual = float(np.median(steps))
    if refusal := _gaps(steps, usual) or _unevenness(along, usual):
        return refusal
    positions = np.array([frames[i].position for i in order], float)
    step = (positions[-1] - positions[0]) / (len(order) - 1)
    away = positions - (positions[0] + np.arange(len(order))[:, None] * step)
    allowed = STEP_TOLERANCE * usual + STEP_TOLERANCE_MM
    normal = _normal(frames[0])
    tilt = math.degrees(math.acos(min(1.0, float(step @ normal) / float(np.linalg.norm(step)))))
    if float(np.linalg.norm(away, axis=1).max()) > 2 * allowed:
        return Refusal(LeftOut.SHEARED_STACK, f"slices are shifted by up to {np.abs(away).max():.2g} mm, not evenly")
    if tilt > SHEAR_DEG and not tilt_allowed:
        return Refusal(LeftOut.SHEARED_STACK, f"the slices are shifted: {tilt:.1f} degrees from their normal")
    orientation, spacing = np.array(frames[0].orientation, float), frames[0].spacing
    assert spacing is not None
    return Stack(
        order=tuple(int(i) for i in order),
        origin_mm=positions[0],
        along_row=orientation[:3],
        along_column=orientation[3:],
        spacing_mm=(spacing[1], spacing[0], float(step @ normal)),
        step_mm=step,
        tilt_deg=tilt if tilt > SHEAR_DEG else 0.0,
    )


def _normal(frame: Frame) -> Float64:
    orientation = np.array(frame.orientation, float)
    normal = np.cross(orientation[:3], orientation[3:])
    return np.asarray(normal / np.linalg.norm(normal), float)


def _gaps(steps: Float64, usual: float) -> Refusal | None:
    wide = steps[steps > GAP_FACTOR * usual] / usual
    if not len(wide):
        return None
    whole = np.rint(wide)
    if np.abs(wide - whole).max() <= STEP_TOLERANCE * 2:
        missing = int((whole - 1).sum())
        return Refusal(
            LeftOut.MISSING_SLICES, f"{missing} missing between {len(steps) + 1} slices, {usual:.3g} mm apart"
        )
    return Refusal(
        LeftOut.UNEVEN_SPACING, f"the slices are {steps.min():.3g} to {steps.max():.3g} mm apart; needed: evenly"
    )


def _unevenness(along: Float64, usual: float) -> Refusal | None:
    even = np.linspace(along[0], along[-1], len(along))
    away = float(np.abs(along - even).max())
    if away <= STEP_TOLERANCE * usual + STEP_TOLERANCE_MM:
        return None
    steps = np.diff(along)
    return Refusal(
        LeftOut.UNEVEN_SPACING,
        f"the slices are {steps.min():.3g} to {steps.max():.3g} mm apart, up to {away:.2g} mm out of place",
    )
