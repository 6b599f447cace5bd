"""An encoder with a known answer: the mean of a view's pixels, and scans whose voxels are their own x coordinate."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from prism_ssl.config.defaults import config_from_dict
from prism_ssl.config.schema import DataConfig, PrismConfig
from prism_ssl.contracts import RobustStats
from prism_ssl.data.scan import OpenScan, apply_affine, nifti_bytes
from prism_ssl.data.views import still_layout

N_PATCHES, PATCH_MM = 16, 4.0


class PixelMean(torch.nn.Module):
    """Patches [B, N, 16, 16, 1] -> [B, 3]: their mean, twice the mean, and how often it was asked."""

    def forward(self, patches: torch.Tensor, positions_mm: torch.Tensor) -> torch.Tensor:
        mean = patches.flatten(1).mean(dim=1)
        return torch.stack([mean, 2 * mean, torch.ones_like(mean)], dim=1)


@dataclass(frozen=True)
class PixelMeanFiles:
    """In place of an exported encoder."""

    description: dict[str, Any] = field(default_factory=dict)
    sha256: str = "pixel mean" * 6

    def build(self) -> PixelMean:
        return PixelMean().eval()


def settings_for(catalog: Path | str) -> PrismConfig:
    """Few small patches in small balls."""
    view = {"radius_mm_min": 10.0, "radius_mm_max": 12.0, "radius_mm_floor": 6.0}
    config = config_from_dict({"view": view, "preflight": {"require_hu": False, "min_slices": 8}})
    data = DataConfig(catalog_path=str(catalog), n_patches=N_PATCHES, patch_mm=PATCH_MM, n_scans=10**6)
    return dataclasses.replace(config, data=data)


def x_volume(affine: npt.NDArray[np.float64], shape: tuple[int, int, int]) -> npt.NDArray[np.float32]:
    """Voxels [nz, ny, nx] that hold their own RAS x in mm."""
    k, j, i = np.indices(shape[::-1])
    volume: npt.NDArray[np.float32] = apply_affine(affine, np.stack([i, j, k], axis=-1))[..., 0].astype(np.float32)
    return volume


def x_scan(affine: npt.NDArray[np.float64], shape: tuple[int, int, int]) -> OpenScan:
    """``x_volume`` as an open scan; a window of 4 std holds all of it."""
    voxels = x_volume(affine, shape)
    middle = float(voxels.min() + voxels.max()) / 2
    stats = RobustStats(float(voxels.min()), middle, float(voxels.max() - middle))
    return OpenScan(voxels, 1.0, 0.0, affine, stats)


def x_told(scan: OpenScan, embedding: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The RAS x that ``PixelMean`` found in views of an x scan, whose window is 4 std wide."""
    return embedding[..., 0].astype(float) * 2 * scan.stats.std + scan.stats.median


def layout_shift(seed: int = 0) -> npt.NDArray[np.float64]:
    """Mean [3] of the layout of the patches, in radii."""
    shift: npt.NDArray[np.float64] = still_layout(N_PATCHES, seed).astype(float).mean(axis=0)
    return shift


def write_scan(folder: Path, voxels: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> Path:
    """A series folder with one .nii file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{folder.name}.nii"
    path.write_bytes(nifti_bytes(voxels, affine))
    return path
