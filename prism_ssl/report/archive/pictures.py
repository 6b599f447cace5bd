"""Small pictures of scans for a page, each as a data URI."""

from __future__ import annotations

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from prism_ssl.contracts import PATCH_PX, PATCH_SCALE, Float32
from prism_ssl.data.scan import RejectReason, middle_slice, read_within
from prism_ssl.errors import PrismError, ScanRejected

SLICE_PX = 128
"""Longer side of a slice's picture: 2 to 4 kB each."""
MOSAIC_SIDE = 4
"""Patches along each side of a mosaic."""
_CT_WINDOW = (-300.0, 400.0)  # HU: lung is dark, bone is white, soft tissue in between
_WHITE = np.uint8(255)


def slice_picture(path: str, limit_s: float, in_hu: bool = False) -> str:
    """The middle slice of a file in its true proportions; the window is the soft tissue's of a CT ``in_hu``, else from
    the slice itself.

    Raises:
        ScanRejected: as ``middle_slice``, or no pixel is finite.
        ArchiveUnreachable, MachineTrouble: the file is not to blame.
    """
    found = read_within(limit_s, lambda: middle_slice(path))
    finite = found.pixels[np.isfinite(found.pixels)]
    if not finite.size:
        raise ScanRejected(RejectReason.NAN_FILLED, "no pixel of the middle slice is finite")
    low, high = _CT_WINDOW if in_hu else (float(end) for end in np.percentile(finite, (0.5, 99.5)))
    height_mm, width_mm = (n * mm for n, mm in zip(found.pixels.shape, found.pixel_mm, strict=True))
    scale = SLICE_PX / max(height_mm, width_mm)
    size = max(1, round(width_mm * scale)), max(1, round(height_mm * scale))
    picture = Image.fromarray(_gray(found.pixels, low, high)).resize(size, Image.Resampling.BOX)
    return _data_uri(picture, "JPEG", quality=80)


def slice_picture_or_none(path: str, limit_s: float, in_hu: bool = False) -> str | None:
    """None where there is none, whatever the reason."""
    try:
        return slice_picture(path, limit_s, in_hu)
    except (PrismError, OSError, ValueError, ArithmeticError):
        return None


def mosaic_picture(patches: npt.NDArray[np.int16]) -> str:
    """The first patches [N, H, W] of a view as the encoder sees them; those that are missing are white."""
    tile, n = PATCH_PX + 1, MOSAIC_SIDE
    mosaic = np.full((n * tile - 1, n * tile - 1), _WHITE)
    for place, patch in enumerate(patches[: n * n]):
        row, column = place // n * tile, place % n * tile
        # Flipped as slices are: v leads upwards, u to the left.
        mosaic[row : row + PATCH_PX, column : column + PATCH_PX] = _gray(
            patch[::-1, ::-1].astype(np.float32), -PATCH_SCALE, PATCH_SCALE
        )
    return _data_uri(Image.fromarray(mosaic), "PNG", optimize=True)


def svg_picture(svg: str) -> str:
    """A drawing as an image of its own, so that the ids of several do not meet."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def _gray(values: Float32, low: float, high: float) -> npt.NDArray[np.uint8]:
    shown = np.nan_to_num((values - low) * (255.0 / max(high - low, 1e-30)), nan=0.0)
    return np.ascontiguousarray(np.clip(shown, 0, 255).astype(np.uint8))


def _data_uri(picture: Image.Image, kind: str, **options: object) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
