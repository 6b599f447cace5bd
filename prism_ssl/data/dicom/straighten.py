"""Put planes that dcm2niix converted where DICOM has them: right the step between them, straighten a tilted gantry.

A CT of a tilted gantry is straightened by moving each plane along itself, onto a rectangular grid. dcm2niix does that
too, but puts half of such volumes to a wrong place: in v1.0.20260724, tilts of one sign are 5 mm off at 10 degrees
(``tests/unit/data/dicom/test_geometry.py``). So its uncorrected volume is taken, and DICOM's geometry.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prism_ssl.contracts import Float64
from prism_ssl.data.dicom.stack import STEP_TOLERANCE, STEP_TOLERANCE_MM
from prism_ssl.data.scan import load_voxels, nifti_bytes, read_header
from prism_ssl.errors import ScanRejected


def straightened(volume: Path, needed: Float64) -> bytes:
    """A NIfTI file of the same planes on a rectangular grid.

    Values between pixels are interpolated linearly; what no plane covers is the lowest value.

    Args:
        volume: ``.nii`` with the planes of DICOM as they are; its axes may be turned round.
        needed: (column, row, plane) -> RAS mm of DICOM, [4, 4], with shifted planes.

    Raises:
        ScanRejected: ``conversion_disagrees``, its axes are others than DICOM's.
    """
    header = read_header(volume)
    sheared = needed @ _to_dicom(header.affine, needed, header.volume_shape)
    axes = sheared[:3, :2] / np.linalg.norm(sheared[:3, :2], axis=0)
    normal = np.cross(axes[:, 0], axes[:, 1])
    shifts = (axes.T @ sheared[:3, 2]) / np.linalg.norm(sheared[:3, :2], axis=0)
    voxels, origin = load_voxels(volume, header), np.zeros(3)
    for axis, shift in ((2, shifts[0]), (1, shifts[1])):  # of voxels [k, j, i]
        voxels, before = _moved(voxels, axis, float(shift))
        origin[2 - axis] -= before
    affine = np.eye(4)
    affine[:3, :2] = sheared[:3, :2]
    affine[:3, 2] = normal * (normal @ sheared[:3, 2])
    affine[:3, 3] = sheared[:3, :3] @ origin + sheared[:3, 3]
    return nifti_bytes(voxels, affine, header.slope, header.intercept)


def respaced(volume: Path, needed: Float64, same_mm: float) -> bytes | None:
    """A NIfTI file of the same planes where DICOM puts them, if nothing but their step is another; else None.

    dcm2niix takes the step between the first two planes for all: where positions are rounded, or a plane is a little
    out of place, the last one is millimetres off. It also leaves out a shear that is too small for a tilted gantry.

    Args:
        volume: ``.nii`` with the planes of DICOM as they are; its axes may be turned round.
        needed: (column, row, plane) -> RAS mm of DICOM, [4, 4].
        same_mm: the corners of the first or the last plane must lie where DICOM puts them, to this.

    Raises:
        ScanRejected: ``conversion_disagrees``, its axes are others than DICOM's.
    """
    header = read_header(volume)
    columns, rows, planes = header.volume_shape
    told = needed @ _to_dicom(header.affine, needed, header.volume_shape)
    away = header.affine - told
    if np.linalg.norm(away[:3, 2]) > 2 * (STEP_TOLERANCE * np.linalg.norm(told[:3, 2]) + STEP_TOLERANCE_MM):
        return None
    for plane in (0, planes - 1):
        corners = np.array([(i, j, plane, 1) for i in (0, columns - 1) for j in (0, rows - 1)]).T
        if np.linalg.norm((away @ corners)[:3], axis=0).max() <= same_mm:
            return nifti_bytes(load_voxels(volume, header), told, header.slope, header.intercept)
    return None


def _to_dicom(affine: Float64, needed: Float64, shape: tuple[int, int, int]) -> Float64:
    """Voxel of the volume -> (column, row, plane) of DICOM, where each axis is kept or turned round."""
    turns = np.eye(4)
    made, told = (matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0) for matrix in (affine, needed))
    alike = (made * told).sum(axis=0)
    if np.abs(alike[:2]).min() < 0.999 or abs(alike[2]) < 0.5:
        raise ScanRejected("conversion_disagrees", "dcm2niix turned the axes of a volume with a tilted gantry")
    for axis, sign in enumerate(np.sign(alike)):
        turns[axis, axis] = sign
        turns[axis, 3] = shape[axis] - 1 if sign < 0 else 0
    return turns


def _moved(voxels: npt.NDArray[Any], axis: int, shift: float) -> tuple[npt.NDArray[Any], int]:
    """Voxels with plane k moved by k * ``shift`` pixels along ``axis``, and by how many pixels the first was moved."""
    planes, size = len(voxels), voxels.shape[axis]
    if abs(shift) * planes < 1e-3:
        return voxels, 0
    reach = shift * (planes - 1)
    before, after = math.ceil(max(0.0, -reach)), math.ceil(max(0.0, reach))
    shape = list(voxels.shape)
    shape[axis] += before + after + 1
    lowest, moved = voxels.min(), np.full(shape, voxels.min())
    for k, plane in enumerate(np.moveaxis(voxels, axis, 1)):  # [along axis, other]
        at = before + k * shift
        first, part = math.floor(at + 1e-9), at - math.floor(at + 1e-9)
        padded = np.pad(plane.astype(np.float32), ((1, 1), (0, 0)), constant_values=float(lowest))
        mixed = (1 - part) * padded[1:] + part * padded[:-1]
        if voxels.dtype.kind in "iu":
            mixed = np.rint(mixed)
        np.moveaxis(moved, axis, 1)[k, first : first + size + 1] = mixed
    return moved, before
