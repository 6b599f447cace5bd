"""Random generators derived from a seed and names, independent of earlier draws."""

from __future__ import annotations

import numpy as np

from prism_ssl.utils.hashing import stable_int


def generator_for(seed: int, *names: str | int) -> np.random.Generator:
    """The generator of (seed, names...): equal arguments give equal draws, on any machine."""
    return np.random.Generator(np.random.PCG64(stable_int(seed, *names)))
