"""Detect empty views: pixels saturated by the window, flat, or outside the volume."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prism_ssl.contracts import PATCH_PX, PATCH_SCALE, Float64
from prism_ssl.data.extract.cpu import extract_view
from prism_ssl.data.scan import OpenScan
from prism_ssl.data.views import MIDDLE_PX, View, pixel_to_voxel

LOOKED_AT_PATCHES = 32
"""A view is judged by this many of its first patches: all are drawn alike. That takes 0.035 ms (Xeon with AVX-512),
2.4 % of cutting out 1,024 patches; if the consumer cuts views out, these few are cut out here too, in 0.16 ms."""

SATURATED_SHARE = 0.9
"""Share of the pixels at the ends of the window (-1 or 1) from which a view counts as saturated."""

FLAT_SPAN = 0.01
"""Difference between brightest and darkest pixel, over the whole range of the window, up to which a view is flat."""

OUTSIDE_SHARE = 0.5
"""Share of the pixels beyond the outermost voxels' faces from which a view counts as outside the volume."""

KINDS = ("views_saturated", "views_flat", "views_outside")
"""Kinds of empty view; several may apply. The index of a kind is its bit in ``Visibility.bits``."""

EMPTY = "views_empty"
"""A view of any of ``KINDS``."""

_LAST = PATCH_PX - 1
_COLUMNS_ROWS = np.array([(0, 0), (_LAST, 0), (0, _LAST), (_LAST, _LAST), (_LAST / 2, _LAST / 2)]).T
"""Pixels of a patch that are located: corners and middle, [2, 5]."""


@dataclass(frozen=True, slots=True)
class Visibility:
    """Shares of the examined pixels at an end of the window and outside the volume; span 1 is the whole window."""

    saturated_share: float
    span: float
    outside_share: float

    @property
    def bits(self) -> int:
        """Bit mask of the ``KINDS`` that apply; 0: the view is not empty."""
        found = (
            self.saturated_share >= SATURATED_SHARE,
            self.span <= FLAT_SPAN,
            self.outside_share >= OUTSIDE_SHARE,
        )
        return sum(1 << bit for bit, is_so in enumerate(found) if is_so)


def measure_visibility(
    scan: OpenScan, view: View, patch_mm: float, patches: npt.NDArray[np.int16] | None = None
) -> Visibility:
    """Judge a view. ``patches`` [N, H, W] are its pixels from ``extract_view``; None: the first ones are cut out
    here."""
    few = view.first_patches(LOOKED_AT_PATCHES)
    if patches is None:
        patches = np.empty((len(few.positions_mm), PATCH_PX, PATCH_PX), np.int16)
        extract_view(scan, few, patch_mm, patches)
    pixels = patches[:LOOKED_AT_PATCHES].reshape(-1)
    low, high = int(pixels.min()), int(pixels.max())
    at_an_end = np.count_nonzero(pixels == -PATCH_SCALE) if low == -PATCH_SCALE else 0
    at_an_end += np.count_nonzero(pixels == PATCH_SCALE) if high == PATCH_SCALE else 0
    return Visibility(at_an_end / pixels.size, (high - low) / (2 * PATCH_SCALE), _outside_share(scan, few, patch_mm))


def kinds_of(bits: int) -> list[str]:
    """The names of the kinds in ``bits``, with ``EMPTY`` if there is any."""
    return [kind for bit, kind in enumerate(KINDS) if bits >> bit & 1] + ([EMPTY] if bits else [])


def view_shares(before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    """Shares of the views drawn between two states of a pool's counters: ``views_empty_share`` and so on."""
    views = 2 * (now.get("pairs", 0.0) - before.get("pairs", 0.0))
    names = [name for name in (*KINDS, EMPTY) if name in now] if views > 0 else []
    return {f"{name}_share": (now[name] - before.get(name, 0.0)) / views for name in names}


def _outside_share(scan: OpenScan, view: View, patch_mm: float) -> float:
    matrix = pixel_to_voxel(scan, view, patch_mm)
    if _surely_inside(scan, view.radius_mm, matrix):
        return 0.0
    offset = matrix[:, 3:5] @ _COLUMNS_ROWS + matrix[:, 5:]  # [3, 5]
    voxel = (matrix[:, :3] @ view.positions_mm.T)[:, :, None] + offset[:, None]  # [3, N, 5]
    faces = np.asarray(scan.shape)[:, None, None] - 0.5
    outside = ((voxel < -0.5) | (voxel > faces)).any(axis=0)
    return int(np.count_nonzero(outside)) / int(outside.size)


def _surely_inside(scan: OpenScan, radius_mm: float, matrix: Float64) -> bool:
    """Whether the box around the ball and its outermost patches is inside: true of most views, and cheap to test."""
    for (x, y, z, column, row, first), n in zip(matrix.tolist(), scan.shape, strict=True):
        middle = first + MIDDLE_PX * (column + row)
        reach = radius_mm * math.hypot(x, y, z) + MIDDLE_PX * (abs(column) + abs(row))
        if middle - reach < -0.5 or middle + reach > n - 0.5:
            return False
    return True
