"""Pixel-to-voxel transform [3, 6], and the window as gain and offset (pure, float64)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prism_ssl.contracts import PATCH_PX, PATCH_SCALE, Float64
from prism_ssl.data.scan import OpenScan, apply_affine
from prism_ssl.data.views.view_pairs import View

MIDDLE_PX = (PATCH_PX - 1) / 2
"""Row and column of a patch's centre."""


@dataclass(frozen=True, slots=True)
class Levels:
    """Fixed-point value = ``gain`` * raw + ``offset``; ``outside`` is the raw value of everything outside the volume.

    A fixed-point value of +-``PATCH_SCALE`` is an end of the window.
    """

    gain: float
    offset: float
    outside: float


def pixel_to_voxel(scan: OpenScan, view: View, patch_mm: float) -> Float64:
    """Pixel-to-voxel transform of a view, [3, 6]: voxel (i, j, k) = matrix @ (x, y, z, column, row, 1).

    (x, y, z) is the patch's centre in mm, prism frame, as in ``view.positions_mm``. Pixel (r, c) of a patch lies at
    its centre + (c - 7.5) p u + (r - 7.5) p v with p = patch_mm / 16 and u, v the first two columns of the scan's
    acquisition frame turned by the view's rotation.
    """
    matrix = np.empty((3, 6))
    prism_to_voxel = scan.to_voxel[:3, :3] @ view.rotation
    steps = (prism_to_voxel @ scan.acquisition_frame[:, :2]) * (patch_mm / PATCH_PX)
    matrix[:, :3], matrix[:, 3:5] = prism_to_voxel, steps
    matrix[:, 5] = apply_affine(scan.to_voxel, view.center_mm) - MIDDLE_PX * steps.sum(axis=1)
    return matrix


def levels(scan: OpenScan, view: View) -> Levels:
    """The scan's rescaling and the view's window, combined to one gain and one offset."""
    gain = 2.0 * PATCH_SCALE / view.window_width
    return Levels(
        gain=scan.slope * gain,
        offset=(scan.intercept - view.window_center) * gain,
        outside=(scan.stats.lowest - scan.intercept) / scan.slope,
    )
