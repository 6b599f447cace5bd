"""Random intensity curves: what a view would look like in another contrast (pure)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from prism_ssl.contracts import PATCH_SCALE

KNOTS = 6
"""Points of a curve, evenly spaced over the window."""

INVERTED_SHARE = 0.5
"""Share of the curves that make dark bright."""

Int16 = npt.NDArray[np.int16]


def random_curve(rng: np.random.Generator) -> Int16:
    """A random curve as a table [2 x PATCH_SCALE + 1] of fixed-point values: value v becomes table[v + PATCH_SCALE].

    It runs from one end of the window to the other through ``KNOTS`` points and never turns; its steps are uniform on
    the simplex, so some differences are stretched and others all but vanish.
    """
    steps = rng.dirichlet(np.ones(KNOTS - 1))
    heights = np.concatenate([[0.0], np.cumsum(steps)]) * 2.0 - 1.0
    if rng.random() < INVERTED_SHARE:
        heights = -heights
    values = np.arange(-PATCH_SCALE, PATCH_SCALE + 1)
    table = np.interp(values, np.linspace(-PATCH_SCALE, PATCH_SCALE, KNOTS), heights * PATCH_SCALE)
    curve: Int16 = np.rint(table).astype(np.int16)
    return curve


def apply_curve(curve: Int16, patches: Int16) -> None:
    """Replace each fixed-point value of ``patches`` by the curve's."""
    # Extraction clips to +-PATCH_SCALE, so every index exists; with another mode, take would buffer its output.
    np.take(curve, patches.astype(np.int32) + PATCH_SCALE, out=patches, mode="clip")
