"""Which way is left: slices of volumes that are equal to their own coordinates."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from matplotlib.text import Text

from prism_ssl.contracts import PreparedScan, RobustStats, ScanRecord
from prism_ssl.data.scan.geometry import apply_affine
from prism_ssl.data.scan.nifti import OpenScan
from prism_ssl.data.views.view_pairs import View
from prism_ssl.inspect.view_panel import PLANES, bounding_box_mm, panel_figure, slice_mm

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


@pytest.mark.parametrize(("modality", "scale"), [("CT", 1.0), ("MR", 100.0)])
def test_every_caption_stays_in_the_picture_and_out_of_the_others(modality: str, scale: float) -> None:
    affine = np.diag([-0.43, 0.43, 1.25, 1.0])
    voxels = np.zeros((200, 512, 512), np.int16)
    scan = OpenScan(voxels, scale, 0.0, affine, RobustStats(-1024.0 * scale, -322.2 * scale, 627.4 * scale))
    prepared = PreparedScan(
        ScanRecord("0123456789abcdef", "s", modality, "", "", "p"), scan.stats, 10**8, scan.shape, (0.43, 0.43, 1.25)
    )
    positions = np.random.default_rng(0).uniform(-12, 12, (64, 3)).astype(np.float32)
    a, b = (
        View(np.array(center), 25.0, np.array(turn), level * scale, width * scale, positions)
        for center, turn, level, width in (
            ((-110.0, 110.0, 125.0), (-9.9, 9.9, -9.9), -949.6, 1254.8),
            ((-80.0, 160.0, 60.0), (9.9, -9.9, 9.9), 305.2, 3764.4),
        )
    )
    figure = panel_figure(scan, prepared, (a, b), 16.0)
    figure.canvas.draw()
    texts = [text for text in figure.findobj(Text) if text.get_text().strip() and len(text.get_text()) > 1]
    boxes = {text.get_text(): text.get_window_extent() for text in texts}
    whole = figure.bbox
    assert [
        text for text, box in boxes.items() if box.x0 < 0 or box.x1 > whole.x1 or box.y0 < 0 or box.y1 > whole.y1
    ] == []
    assert [(one, two) for one, two in combinations(boxes, 2) if boxes[one].overlaps(boxes[two])] == []
    said = "black -1577, white -322 HU" if modality == "CT" else "black -157700, white -32220 units"
    assert any(said in text for text in boxes)
