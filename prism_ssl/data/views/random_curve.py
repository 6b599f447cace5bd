"""Random intensity curves: what a view would look like in another contrast (pure)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from prism_ssl.contracts import PATCH_SCALE, Float64

KNOTS = 6
"""Points of a curve, evenly spaced over the window; it is straight between them."""

INVERTED_SHARE = 0.5
"""Share of the curves that make dark bright."""

Int16 = npt.NDArray[np.int16]


def random_curve(rng: np.random.Generator) -> Float64:
    """A random curve: its heights [KNOTS], in fixed point, at ``KNOTS`` values from one end of the window to the other.

    It runs from end to end and never turns; its steps are uniform on the simplex, so some differences are stretched and
    others all but vanish.
    """
    steps = rng.dirichlet(np.ones(KNOTS - 1))
    heights: Float64 = (np.concatenate([[0.0], np.cumsum(steps)]) * 2.0 - 1.0) * PATCH_SCALE
    return -heights if rng.random() < INVERTED_SHARE else heights


def apply_curve(heights: Float64, patches: Int16) -> None:
    """Replace each fixed-point value of ``patches`` by the curve's.

    For many pixels a table of all values is faster, for a few it costs more than they do.
    """
    if patches.size < 2 * PATCH_SCALE:
        patches[...] = _on_curve(heights, patches)
        return
    values = np.arange(-PATCH_SCALE, PATCH_SCALE + 1)
    # Extraction clips to +-PATCH_SCALE, so every index exists; with another mode, take would buffer its output.
    np.take(_on_curve(heights, values), patches.astype(np.int32) + PATCH_SCALE, out=patches, mode="clip")


def _on_curve(heights: Float64, values: npt.NDArray[np.integer]) -> Int16:
    knots = np.linspace(-PATCH_SCALE, PATCH_SCALE, KNOTS)
    found: Int16 = np.rint(np.interp(values, knots, heights)).astype(np.int16)
    return found
