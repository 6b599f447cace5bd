"""The plane fit against rotations that are known, and where there is nothing to fit."""

from __future__ import annotations

import numpy as np
import pytest

from prism_ssl.contracts import Float64
from prism_ssl.data.scan.geometry import apply_affine, euler_xyz_deg_to_matrix, inverse
from prism_ssl.leak.slice_phase import rotation_from_phase_deg


def points_in_ball(rng: np.random.Generator, n: int) -> Float64:
    points = rng.standard_normal((n, 3))
    points *= 25 * np.cbrt(rng.random(n))[:, None] / np.linalg.norm(points, axis=1, keepdims=True)
    return points


@pytest.mark.parametrize("spacing", [(0.8, 0.8, 5.0), (1.0, 1.0, 1.0), (4.0, 1.6, 1.6)])
@pytest.mark.parametrize("rotation_deg", [(6.0, -4.0, 3.0), (-8.0, 0.5, -9.0)])
def test_points_on_a_lattice_tell_how_the_prism_was_turned(
    spacing: tuple[float, float, float], rotation_deg: tuple[float, float, float]
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = euler_xyz_deg_to_matrix((3.0, 12.0, -20.0)) * spacing
    rotation, center = euler_xyz_deg_to_matrix(rotation_deg), np.array([31.0, -14.0, 55.0])
    centers = points_in_ball(np.random.default_rng(0), 300) @ rotation.T + center
    on_lattice = apply_affine(affine, np.round(apply_affine(inverse(affine), centers)))
    read, coherence = rotation_from_phase_deg((on_lattice - center) @ rotation, np.ones(300), affine, 10.0)
    np.testing.assert_allclose(read, rotation_deg, atol=1.5)
    assert coherence.min() > 100


def test_points_anywhere_tell_nothing() -> None:
    rng = np.random.default_rng(1)
    affine = np.diag([0.8, 0.8, 5.0, 1.0])
    coherences = [rotation_from_phase_deg(points_in_ball(rng, 300), np.ones(300), affine, 10.0)[1] for _ in range(40)]
    assert np.median(coherences) < 12  # the largest of some 2,000 exponential variables is about ln 2000


def test_without_any_weight_no_rotation_is_read() -> None:
    points = points_in_ball(np.random.default_rng(2), 50)
    read, coherence = rotation_from_phase_deg(points, np.zeros(50), np.eye(4), 10.0)
    np.testing.assert_array_equal(read, 0.0)
    np.testing.assert_array_equal(coherence, 0.0)
