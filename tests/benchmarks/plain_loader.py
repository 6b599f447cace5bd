"""Baseline loader of the same pairs: a torch DataLoader whose workers call nibabel, np.percentile and grid_sample."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch.nn.functional import grid_sample
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import PATCH_PX, Float64, RobustStats, VisitKey
from prism_ssl.data.scan.geometry import acquisition_frame
from prism_ssl.data.views.view_pairs import View, draw_pair

PERCENTILES = (0.5, 25, 50, 75, 99.5)
_nib: Any = nib  # nibabel publishes types for a part of what it offers


class PlainPairs(IterableDataset[torch.Tensor]):
    """Both views of every visit [2, N, H, W], scan after scan."""

    def __init__(self, paths: list[str], scans_per_worker: int, config: PrismConfig) -> None:
        self._paths, self._scans, self._config = paths, scans_per_worker, config

    def __iter__(self) -> Iterator[torch.Tensor]:
        worker, config = get_worker_info(), self._config
        assert worker is not None
        for number in range(self._scans):
            image = _nib.load(self._paths[(number * worker.num_workers + worker.id) % len(self._paths)])
            volume = image.get_fdata(dtype=np.float32)
            lowest, p25, median, p75, highest = (float(v) for v in np.percentile(volume, PERCENTILES))
            stats = RobustStats(lowest, median, max((p75 - p25) / 1.349, (highest - lowest) / 100))
            values = torch.from_numpy(volume)[None, None]
            for visit in range(config.data.visits_per_scan):
                key = VisitKey(str(number), 0, visit)
                pair = draw_pair(image.affine, volume.shape, stats, config.view, config.data.n_patches, 0, key)
                yield torch.stack([_patches(values, image.affine, view, config.data.patch_mm) for view in pair])


def _patches(values: torch.Tensor, affine: Float64, view: View, patch_mm: float) -> torch.Tensor:
    """The patches of a view [N, H, W], windowed to [-1, 1]."""
    offsets = (np.arange(PATCH_PX) - (PATCH_PX - 1) / 2) * (patch_mm / PATCH_PX)
    u, v = (view.rotation @ acquisition_frame(affine)[:, :2]).T
    inside = offsets[:, None, None] * v + offsets[None, :, None] * u  # [H, W, 3]
    points = view.patch_centers_mm()[:, None, None, :] + inside  # [N, H, W, 3]
    voxels = (points - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    grid = voxels / (np.array(values.shape[2:]) - 1) * 2 - 1
    found = grid_sample(values, torch.from_numpy(grid[None, ..., ::-1].astype(np.float32)), align_corners=True)
    return ((found[0, 0] - view.window_center) * (2 / view.window_width)).clamp_(-1, 1)


def plain_pairs_per_s(folder: Path, config: PrismConfig, scans_per_worker: int) -> float:
    """Pairs per second over whole scans, in a process of its own (workers are forked, as torch does by default)."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_rate, folder, config, scans_per_worker).result()


def _rate(folder: Path, config: PrismConfig, scans_per_worker: int) -> float:
    paths = sorted(str(path) for path in folder.glob("*.nii.gz"))
    pairs = PlainPairs(paths, scans_per_worker, config)
    start, received = time.perf_counter(), 0
    for batch in DataLoader(pairs, batch_size=config.train.batch_size, num_workers=config.data.workers):
        received += len(batch)
    return received / (time.perf_counter() - start)
