"""Affines, rotations and the acquisition plane (pure, float64).

An affine is [4, 4] and maps continuous voxel indices (i, j, k) to RAS mm; its first three columns are the voxel axes.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt

from prism_ssl.contracts import Float64

NEAR_ISOTROPIC = 1.5
"""Coarsest over finest spacing below which a scan has no acquisition plane of its own: it counts as axial."""

_SAME_SPACING = 0.99
# Tilted slightly, so that an axis at exactly 45 degrees gets the same name however the file stores it.
_RAS_AXES = np.array([(1.0, 1e-4, 2e-4), (0.0, 1.0, 3e-4), (0.0, 0.0, 1.0)])
_ORDERS = np.array(list(itertools.permutations(range(3))))


def euler_xyz_deg_to_matrix(rotation_deg: npt.ArrayLike) -> Float64:
    """Rotation matrix [3, 3] of extrinsic xyz Euler angles [3]: about fixed x first, then y, then z."""
    x, y, z = (math.radians(float(angle)) for angle in np.asarray(rotation_deg))
    cx, sx, cy, sy, cz, sz = math.cos(x), math.sin(x), math.cos(y), math.sin(y), math.cos(z), math.sin(z)
    return np.array(
        [
            [cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx],
            [sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx],
            [-sy, cy * sx, cy * cx],
        ]
    )


def apply_affine(affine: Float64, points: npt.ArrayLike) -> Float64:
    """``points`` [..., 3] mapped through ``affine``."""
    mapped: Float64 = np.asarray(points, dtype=np.float64) @ affine[:3, :3].T + affine[:3, 3]
    return mapped


def inverse(affine: Float64) -> Float64:
    """RAS mm -> voxel; raises ``numpy.linalg.LinAlgError`` when the affine is singular."""
    to_voxel: Float64 = np.asarray(np.linalg.inv(affine), np.float64)
    return to_voxel


def spacing_mm(affine: Float64) -> Float64:
    """Distance [3] between neighbouring voxels along i, j, k."""
    return _lengths(affine[:3, :3].T)


def plane_distance_mm(affine: Float64) -> Float64:
    """Distance [3] between neighbouring voxel planes across i, j, k; below the spacing where the affine is sheared."""
    return 1.0 / _lengths(inverse(affine)[:3, :3])


def acquisition_frame(affine: Float64) -> Float64:
    """Columns (u, v, n) [3, 3] in RAS: an orthonormal frame of the plane the scan was acquired in.

    n is normal to the two voxel axes other than the coarsest one, or other than the one closest to S when the spacing
    is near isotropic. u follows the first in-plane voxel axis in RAS order, v lies in the plane across u. Each column
    points along the positive RAS axis closest to it, so the frame does not depend on the order and the direction in
    which a file stores its axes. It may be left-handed (a coronal scan: R, S, A).
    """
    axes, spacing = _closest_canonical_axes(affine)
    anisotropic = spacing.max() >= NEAR_ISOTROPIC * spacing.min()
    through = int(np.flatnonzero(spacing >= _SAME_SPACING * spacing.max())[-1]) if anisotropic else 2
    u, beside = (axes[:, axis] for axis in range(3) if axis != through)
    v = _unit(beside - u * (u @ beside))
    n = axes[:, through] - u * (u @ axes[:, through]) - v * (v @ axes[:, through])
    return np.stack([u, v, _unit(n)], axis=1)


def _closest_canonical_axes(affine: Float64) -> tuple[Float64, Float64]:
    """Unit voxel axes [3, 3] as columns ordered and flipped to lie closest to R, A, S, and their spacing [3]."""
    spacing = spacing_mm(affine)
    axes = affine[:3, :3] / spacing
    closeness = _RAS_AXES @ axes
    match = np.abs(closeness)[(0, 1, 2), _ORDERS].sum(axis=1)
    order = _ORDERS[int(match.argmax())]
    signs = np.where(np.diagonal(closeness[:, order]) < 0, -1.0, 1.0)
    return axes[:, order] * signs, spacing[order]


def _unit(vector: Float64) -> Float64:
    unit: Float64 = vector / math.sqrt(float(vector @ vector))
    return unit


def _lengths(rows: Float64) -> Float64:
    lengths: Float64 = np.sqrt(np.square(rows).sum(axis=1))
    return lengths
