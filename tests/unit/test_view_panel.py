"""Which way is left: slices of volumes that are equal to their own coordinates."""

from __future__ import annotations

import numpy as np
import pytest

from prism_ssl.contracts import RobustStats
from prism_ssl.data.geometry import apply_affine
from prism_ssl.data.nifti import OpenScan
from prism_ssl.eval.view_panel import PLANES, bounding_box_mm, slice_mm

ENDS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
"""RAS axis of a letter, and whether the coordinate grows towards it."""


def coordinate_scan(axis: int) -> OpenScan:
    """A thick-slice scan stored as L, P, S whose voxels are their R, A or S coordinate in mm."""
    affine = np.diag([-1.0, -1.5, 4.0, 1.0])
    affine[:3, 3] = (60.0, 70.0, -30.0)
    k, j, i = np.meshgrid(np.arange(20), np.arange(90), np.arange(100), indexing="ij")
    values = apply_affine(affine, np.stack([i, j, k], axis=-1))[..., axis]
    return OpenScan(np.rint(values).astype(np.int16), 1.0, 0.0, affine, RobustStats(-1000.0, 0.0, 30.0))


@pytest.mark.parametrize("number", range(3), ids=[plane.name for plane in PLANES])
def test_the_letters_stand_where_the_patient_lies(number: int) -> None:
    plane = PLANES[number]
    left, right, bottom, top = plane.letters
    for first, last, direction in ((left, right, 1), (bottom, top, 0)):
        axis, sign = ENDS[last]
        assert ENDS[first] == (axis, -sign)
        scan = coordinate_scan(axis)
        image = slice_mm(scan, plane, np.array([10.0, 5.0, 8.0]), bounding_box_mm(scan))
        middle = image[len(image) // 2] if direction else image[:, image.shape[1] // 2]
        steps = np.diff(middle)
        assert (steps * sign >= 0).all()
        assert np.ptp(middle) > 70


def test_a_slice_lies_at_its_centre_and_keeps_the_proportions_of_the_body() -> None:
    scan = coordinate_scan(2)
    box = bounding_box_mm(scan)
    np.testing.assert_allclose(box[1] - box[0], (100, 135, 80))
    image = slice_mm(scan, PLANES[0], np.array([10.0, 5.0, 10.0]), box)
    np.testing.assert_array_equal(np.unique(image), [10.0])
    assert image.shape[1] / image.shape[0] == pytest.approx(100 / 135, abs=0.02)
