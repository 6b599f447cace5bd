"""Opening a scan in place: path -> OpenScan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from prism_ssl.contracts import Float64, RobustStats


@dataclass(frozen=True, eq=False)
class OpenScan:
    """A scan ready to be sampled: the raw voxels as they lie on disk, and what gives them meaning.

    ``voxels`` is [nz, ny, nx], C-contiguous, native byte order, possibly a read-only memory map: voxel (i, j, k)
    is ``voxels[k, j, i]``. ``affine`` [4, 4] maps (i, j, k) to RAS mm. Rescaled value = slope * raw + intercept.
    """

    voxels: npt.NDArray[Any]
    slope: float
    intercept: float
    affine: Float64
    stats: RobustStats

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along i, j, k."""
        nz, ny, nx = self.voxels.shape
        return nx, ny, nz

    @property
    def spacing_mm(self) -> npt.NDArray[np.float64]:
        """Distance between neighbouring voxels along i, j, k."""
        spacing: npt.NDArray[np.float64] = np.linalg.norm(self.affine[:3, :3], axis=0)
        return spacing
