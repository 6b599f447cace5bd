"""Lattices lie on the grid and in the scan, whatever its axes are, and coverings cover what they say."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from prism_ssl.data.scan import euler_xyz_deg_to_matrix
from prism_ssl.data.views import room_mm
from prism_ssl.embed.field.lattice import GRID_MM, cover, lattice_over, on_grid, thinned

Matrix = npt.NDArray[np.float64]


def affine_of(spacing: tuple[float, float, float], rotation: tuple[float, float, float], shear: float = 0.0) -> Matrix:
    affine = np.eye(4)
    affine[:3, :3] = euler_xyz_deg_to_matrix(np.array(rotation)) * spacing
    affine[:3, 2] += shear * affine[:3, 1]
    affine[:3, 3] = (-123.456, 78.9, -1001.7)
    return affine


SCANS = {
    "plain": (affine_of((1.0, 1.0, 1.0), (0, 0, 0)), (64, 60, 50)),
    "thick slices": (affine_of((0.7, 0.7, 7.0), (0, 0, 0)), (128, 100, 20)),
    "oblique": (affine_of((0.9, 0.9, 3.0), (21, -33, 140)), (80, 90, 30)),
    "sheared": (affine_of((1.0, 1.0, 2.0), (5, 0, 0), shear=0.3), (80, 90, 40)),
}


@pytest.mark.parametrize("name", SCANS)
def test_a_lattice_lies_on_the_grid_inside_the_scan_and_fills_it(name: str) -> None:
    affine, shape = SCANS[name]
    lattice = lattice_over(affine, shape, 8.0)
    points = lattice.points_mm()
    assert len(points) == np.prod(lattice.shape)
    assert np.array_equal(points, on_grid(points))
    assert np.array_equal(points, points.astype(np.float32))  # what a NIfTI header holds
    assert np.array_equal(lattice.affine, lattice.affine.astype(np.float32))
    assert room_mm(affine, shape, points).min() > -0.1
    lengths = np.linalg.norm(lattice.affine[:3, :3], axis=0)
    assert lengths == pytest.approx([8.0] * 3, abs=0.01)
    extents = np.linalg.norm(affine[:3, :3], axis=0) * (np.array(shape) - 1)
    assert (extents - 8.0 * (np.array(lattice.shape) - 1) < 8.0).all()


def test_points_have_one_value_however_they_are_computed() -> None:
    lattice = lattice_over(*SCANS["oblique"], 8.0)
    points = lattice.points_mm()
    near = points + np.random.default_rng(0).uniform(-0.45, 0.45, points.shape) * GRID_MM
    assert np.array_equal(on_grid(near), points)
    assert np.array_equal(on_grid(np.round(points, 3)), points)  # three decimals of a csv


def test_the_flat_position_is_that_of_the_file() -> None:
    lattice = lattice_over(*SCANS["oblique"], 8.0)
    nx, ny, _ = lattice.shape
    (point,) = lattice.points_mm(np.array([2 + nx * (3 + ny * 1)]))
    assert point.tolist() == (lattice.affine @ [2, 3, 1, 1])[:3].tolist()


def test_a_covering_holds_the_share_that_it_says() -> None:
    rng = np.random.default_rng(1)
    points, radius = rng.uniform(0, 100, (3000, 3)), rng.uniform(12, 18, 3000)
    for share in (0.5, 0.95, 1.0):
        found = cover(points, radius, share)
        distance = np.linalg.norm(points[:, None] - points[found.chosen][None], axis=2)
        assert (distance <= radius[found.chosen]).any(axis=1).mean() == pytest.approx(found.share)
        assert found.share >= share
    fewest = 0.95 * 100**3 / (4 / 3 * np.pi * 15**3)  # balls that neither overlap nor reach out
    assert fewest < len(cover(points, np.full(3000, 15.0), 0.95).chosen) < 4 * fewest
    assert len(cover(points[:0], radius[:0], 0.9).chosen) == 0


def test_a_covering_takes_the_ball_that_gains_most() -> None:
    line = np.zeros((9, 3))
    line[:, 0] = np.arange(9)
    assert cover(line, np.full(9, 1.0), 1.0).chosen.tolist() == [1, 4, 7]
    assert cover(line, np.full(9, 4.0), 1.0).chosen.tolist() == [4]


def test_a_thinned_lattice_is_a_part_of_it() -> None:
    flat = np.arange(6 * 6 * 6)
    assert len(thinned(flat, (6, 6, 6), 3)) == 8
    assert thinned(flat[:1], (6, 6, 6), 3).tolist() == [0]  # a body between the places keeps all of its points
