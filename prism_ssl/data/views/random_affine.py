"""Random affine: a scan as if its patient were taller, broader or mirrored (pure)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from prism_ssl.config.schema import ViewConfig
from prism_ssl.contracts import Float64
from prism_ssl.data.scan import OpenScan
from prism_ssl.utils.seeds import generator_for


def random_affine(config: ViewConfig, seed: int, scan_id: str, epoch: int) -> Float64 | None:
    """Map [4, 4] from RAS mm to the changed patient's RAS mm, the same for all pairs of an epoch; None: no change.

    A factor within exp(+- ``config.random_scale``) for all axes, one of half that range for each axis, and with the
    probability ``config.mirrored_share`` left for right.
    """
    if not config.random_scale and not config.mirrored_share:
        return None
    rng = generator_for(seed, scan_id, epoch, "affine")
    mirrored = rng.random() < config.mirrored_share
    common, each = rng.uniform(-1.0, 1.0), rng.uniform(-0.5, 0.5, 3)
    factors = np.exp(config.random_scale * (common + each))
    return np.diag([-factors[0] if mirrored else factors[0], factors[1], factors[2], 1.0])


def changed(scan: OpenScan, change: Float64) -> OpenScan:
    """The scan of the changed patient: the same voxels under another affine."""
    return replace(scan, affine=change @ scan.affine)
