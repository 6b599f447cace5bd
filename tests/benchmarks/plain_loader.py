"""Baseline loader of the same pairs: a torch DataLoader whose workers call nibabel, np.percentile and grid_sample."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch.nn.functional import grid_sample
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import PATCH_PX, Float64, RobustStats, VisitKey
from prism_ssl.data.scan.geometry import acquisition_frame
from prism_ssl.data.views.view_pairs import Shape, View, draw_pair

PERCENTILES = (0.5, 25, 50, 75, 99.5)
_nib: Any = nib  # nibabel publishes types for a part of what it offers


class PlainPairs(IterableDataset[torch.Tensor]):
    """Both views of every visit [2, N, H, W], scan after scan, without end."""

    def __init__(self, paths: tuple[str, ...], config: PrismConfig) -> None:
        self._paths, self._config = paths, config

    def __iter__(self) -> Iterator[torch.Tensor]:
        worker, config = get_worker_info(), self._config
        assert worker is not None
        for number in itertools.count(worker.id, worker.num_workers):
            image = _nib.load(self._paths[number % len(self._paths)])
            volume = image.get_fdata(dtype=np.float32)
            lowest, p25, median, p75, highest = (float(v) for v in np.percentile(volume, PERCENTILES))
            stats = RobustStats(lowest, median, max((p75 - p25) / 1.349, (highest - lowest) / 100))
            values = torch.from_numpy(volume)[None, None]
            for visit in range(config.data.visits_per_scan):
                key = VisitKey(str(number), 0, visit)
                pair = draw_pair(image.affine, volume.shape, stats, config.view, config.data.n_patches, 0, key)
                yield torch.stack([_patches(values, image.affine, view, config.data.patch_mm) for view in pair])


def pixels_from_middle(affine: Float64, shape: Shape, view: View, patch_mm: float) -> torch.Tensor:
    """The pixels of a view [3, N, H, W], float32: voxels (i, j, k) away from the middle of the volume."""
    to_voxel = np.linalg.inv(affine)
    columns, rows = (to_voxel[:3, :3] @ view.rotation @ acquisition_frame(affine)[:, :2]).T * (patch_mm / PATCH_PX)
    middles = view.patch_centers_mm() @ to_voxel[:3, :3].T + to_voxel[:3, 3] - (np.array(shape) - 1) / 2
    steps = np.arange(PATCH_PX) - (PATCH_PX - 1) / 2
    within = rows[:, None, None] * steps[:, None] + columns[:, None, None] * steps  # [3, H, W]
    # Only the sum is as large as the view; made in float64 it takes as long as sampling.
    return torch.from_numpy(middles.T.astype(np.float32))[..., None, None] + torch.from_numpy(
        within[:, None].astype(np.float32)
    )


def _patches(values: torch.Tensor, affine: Float64, view: View, patch_mm: float) -> torch.Tensor:
    """The patches of a view [N, H, W], windowed to [-1, 1]."""
    nx, ny, nz = values.shape[2:]
    pixels = pixels_from_middle(affine, (nx, ny, nz), view, patch_mm)
    grid = torch.stack([pixels[axis] * (2 / values.shape[2 + axis]) for axis in (2, 1, 0)], dim=-1)
    found = grid_sample(values, grid[None], padding_mode="border", align_corners=False)
    return ((found[0, 0] - view.window_center) * (2 / view.window_width)).clamp_(-1, 1)


def plain_batches(paths: tuple[str, ...], config: PrismConfig) -> Iterator[torch.Tensor]:
    """Batches [pairs, 2, N, H, W] without end."""
    return iter(DataLoader(PlainPairs(paths, config), config.train.batch_size, num_workers=config.data.workers))
