"""Rotation from the phase of a scan's voxel planes: the strongest reader without learning.

Whatever repeats from voxel plane to voxel plane (centres rounded to voxels, or the blur of interpolation, which varies
with the distance to the nearest plane) is a wave of known period along the normal of the planes. In the frame of a
turned prism the normal is turned back; the direction in which the wave is most coherent is the rotation.

Legend: M points of one view, 3 families of planes (across i, j and k).
"""

from __future__ import annotations

import math

import numpy as np

from prism_ssl.contracts import Float64
from prism_ssl.data.scan import inverse, plane_distance_mm

_GRID_MIN, _GRID_MAX = 21, 49  # directions along each of the two tilts; 0.4 of a fringe apart at the rim of the ball
_SHRINKAGE = 1.0  # about the mean score of pure chance, so that an axis without evidence is read as 0


def rotation_from_phase_deg(
    points_mm: Float64, weights: Float64, affine: Float64, rotation_max_deg: float
) -> tuple[Float64, Float64]:
    """Rotation of a prism about R, A, S in degrees [3], and how coherent each family of planes was [3].

    Args:
        points_mm: [M, 3] in the prism frame.
        weights: [M] the quantity expected to repeat with the planes; ones for the points themselves.
        affine: of the scan.
        rotation_max_deg: largest angle about any axis.

    The coherence is a periodogram's: mean 1 and exponentially distributed where nothing repeats. The rotation is
    exact to first order in the angle, which suffices for its sign.
    """
    normals = inverse(affine)[:3, :3] / np.linalg.norm(inverse(affine)[:3, :3], axis=1, keepdims=True)
    reach = 1.3 * math.sin(math.radians(rotation_max_deg))
    system, wanted = _SHRINKAGE * np.eye(3), np.zeros(3)
    coherences = np.empty(3)
    for axis, (normal, period_mm) in enumerate(zip(normals, plane_distance_mm(affine), strict=True)):
        turned, coherence = _most_coherent_normal(points_mm, weights, normal, float(period_mm), reach)
        # turned = R^T normal, to first order normal - omega x normal: only the part of omega across it can be seen
        across = np.eye(3) - np.outer(normal, normal)
        system += coherence**2 * across
        wanted += coherence**2 * np.cross(turned - normal, normal)
        coherences[axis] = coherence
    return np.degrees(np.linalg.solve(system, wanted)), coherences


def _most_coherent_normal(
    points_mm: Float64, weights: Float64, normal: Float64, period_mm: float, reach: float
) -> tuple[Float64, float]:
    """The unit vector within ``reach`` of ``normal`` along which a wave of the period fits best, and its coherence."""
    first, second = _across(normal)
    along, p, q = ((points_mm @ direction).astype(np.float32) for direction in (normal, first, second))
    wave = np.complex64(2j * math.pi / period_mm)
    n = int(np.clip(math.ceil(5 * reach * np.abs(p).max() / period_mm), _GRID_MIN, _GRID_MAX))
    tilts = np.linspace(-reach, reach, n, dtype=np.float32)
    # float32: a phase of 200 rad is right to 2e-5. sqrt(1 - a^2 - b^2) = 1 - a^2 / 2 - b^2 / 2
    # to 1e-3, so that the grid over both tilts is one matrix product.
    shortened = np.outer(tilts**2 / 2, along)
    left = np.exp(wave * (np.outer(tilts, p) - shortened))
    right = np.exp(wave * (np.outer(tilts, q) - shortened))
    power = np.square(np.abs((left * (weights.astype(np.float32) * np.exp(wave * along))) @ right.T))
    a, b = np.unravel_index(int(power.argmax()), power.shape)
    turned = normal + tilts[a] * first + tilts[b] * second
    return turned / np.linalg.norm(turned), float(power.max() / max(np.square(weights).sum(), 1e-12))


def _across(normal: Float64) -> tuple[Float64, Float64]:
    """Two unit vectors that make an orthogonal frame with ``normal``."""
    helper = np.eye(3)[int(np.abs(normal).argmin())]
    first = np.cross(normal, helper)
    first /= np.linalg.norm(first)
    return first, np.cross(normal, first)
