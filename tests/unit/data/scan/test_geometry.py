"""Laws of affines, rotations and the acquisition plane."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from prism_ssl.contracts import Float64
from prism_ssl.data.scan.geometry import (
    acquisition_frame,
    apply_affine,
    euler_xyz_deg_to_matrix,
    inverse,
    plane_distance_mm,
    spacing_mm,
)

AXIAL, CORONAL, SAGITTAL = (0.7, 0.7, 3.0), (0.7, 3.0, 0.7), (3.0, 0.7, 0.7)


def scan_affine(spacing: tuple[float, ...], rotation_deg: tuple[float, ...] = (0.0, 0.0, 0.0)) -> Float64:
    affine = np.eye(4)
    affine[:3, :3] = euler_xyz_deg_to_matrix(rotation_deg) * spacing
    affine[:3, 3] = (-80.0, 30.0, 12.5)
    return affine


def stored_otherwise(affine: Float64) -> list[Float64]:
    """The same anatomy under all 48 orders and directions of its axes on disk."""
    shape = np.array([40, 50, 60])
    affines = []
    for order, flips in itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)):
        stored = np.zeros((4, 4))
        stored[3, 3] = 1.0
        for axis, (source, sign) in enumerate(zip(order, flips, strict=True)):
            stored[source, axis] = sign
            stored[source, 3] = 0 if sign > 0 else shape[source] - 1
        affines.append(affine @ stored)
    return affines


@pytest.mark.parametrize("rotation_deg", [(10, -20, 30), (0, 0, 90), (-170, 45, 5), (0, 0, 0)])
def test_euler_angles_are_extrinsic_xyz(rotation_deg: tuple[float, float, float]) -> None:
    expected = Rotation.from_euler("xyz", rotation_deg, degrees=True).as_matrix()
    np.testing.assert_allclose(euler_xyz_deg_to_matrix(rotation_deg), expected, atol=1e-15)


def test_mapping_there_and_back_is_the_identity() -> None:
    affine = scan_affine((0.5, 0.8, 4.0), (12.0, -8.0, 40.0))
    points = np.random.default_rng(0).uniform(-300, 300, (7, 5, 3))
    np.testing.assert_allclose(apply_affine(inverse(affine), apply_affine(affine, points)), points, atol=1e-9)


def test_planes_of_a_sheared_scan_are_closer_than_its_voxels() -> None:
    tilt = math.radians(25)
    affine = np.eye(4)
    affine[:3, 2] = (0.0, 5 * math.tan(tilt), 5.0)  # a CT with its gantry tilted
    np.testing.assert_allclose(spacing_mm(affine), (1, 1, 5 / math.cos(tilt)))
    np.testing.assert_allclose(plane_distance_mm(affine), (1, math.cos(tilt), 5))


@pytest.mark.parametrize(
    ("spacing", "columns"),
    [
        pytest.param(AXIAL, (0, 1, 2), id="axial"),
        pytest.param(CORONAL, (0, 2, 1), id="coronal"),
        pytest.param(SAGITTAL, (1, 2, 0), id="sagittal"),
        pytest.param((1.0, 1.49, 1.0), (0, 1, 2), id="near-isotropic-is-axial"),
        pytest.param((1.0, 1.51, 1.0), (0, 2, 1), id="anisotropic-enough-is-coronal"),
    ],
)
def test_the_plane_lies_across_the_coarsest_axis(spacing: tuple[float, ...], columns: tuple[int, ...]) -> None:
    np.testing.assert_allclose(acquisition_frame(scan_affine(spacing)), np.eye(3)[:, columns], atol=1e-12)


@pytest.mark.parametrize("spacing", [AXIAL, CORONAL, SAGITTAL, (1.0, 1.0, 1.0), (2.0, 2.0, 0.9), (0.9, 2.0, 2.0)])
@pytest.mark.parametrize("rotation_deg", [(0, 0, 0), (8, -5, 12), (0, 0, 45), (45, 0, 0), (30, 25, -40), (0, 60, 0)])
def test_the_frame_does_not_depend_on_how_the_file_stores_its_axes(
    spacing: tuple[float, ...], rotation_deg: tuple[float, ...]
) -> None:
    affine = scan_affine(spacing, rotation_deg)
    frame = acquisition_frame(affine)
    for stored in stored_otherwise(affine):
        np.testing.assert_allclose(acquisition_frame(stored), frame, atol=1e-12)


def test_spacings_equal_but_for_rounding_count_as_equal() -> None:
    last, middle = ((0.9, 2.0, 2.0 + 1e-6), (0.9, 2.0 + 1e-6, 2.0))
    np.testing.assert_array_equal(acquisition_frame(scan_affine(last)), acquisition_frame(scan_affine(middle)))


@pytest.mark.parametrize("spacing", [AXIAL, CORONAL, SAGITTAL])
def test_the_frame_turns_with_an_oblique_scan(spacing: tuple[float, ...]) -> None:
    turned = acquisition_frame(scan_affine(spacing, (8.0, -5.0, 12.0)))
    straight = acquisition_frame(scan_affine(spacing))
    np.testing.assert_allclose(turned, euler_xyz_deg_to_matrix((8, -5, 12)) @ straight, atol=1e-12)


def test_a_tilted_gantry_leaves_the_plane_where_the_slices_are() -> None:
    affine = scan_affine((0.6, 0.6, 5.0))
    affine[1, 2] = -5 * math.tan(math.radians(20))
    for stored in stored_otherwise(affine):
        np.testing.assert_allclose(acquisition_frame(stored), np.eye(3), atol=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_the_frame_of_any_affine_is_orthonormal_and_lies_in_the_plane(seed: int) -> None:
    rng = np.random.default_rng(seed)
    affine = scan_affine(AXIAL, tuple(rng.uniform(-180, 180, 3)))
    affine[:3, :3] = affine[:3, :3] @ (np.eye(3) + rng.uniform(-0.15, 0.15, (3, 3)))
    through = int(np.argmax(spacing_mm(affine)))
    in_plane = np.delete(affine[:3, :3], through, axis=1)
    frame = acquisition_frame(affine)
    np.testing.assert_allclose(frame.T @ frame, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(frame[:, 2] @ in_plane, 0, atol=1e-12)
