"""The loaders that the pool is compared with give its product: all in shape and range, MONAI the very patches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("monai")
from monai.transforms.io.array import LoadImage
from monai.transforms.utility.array import EnsureChannelFirst
from plain_loader import pixels_from_middle
from ready_made_loaders import LOADERS, MonaiPairs, Task

from prism_ssl.config.schema import DataConfig, PrismConfig, TrainConfig
from prism_ssl.contracts import PATCH_PX, PATCH_SCALE, VisitKey
from prism_ssl.data.extract.cpu import extract_view
from prism_ssl.data.phantoms.writer import full_size_ct, write_gz
from prism_ssl.data.scan.nifti import open_scan
from prism_ssl.data.views.view_pairs import draw_pair

pytestmark = pytest.mark.filterwarnings("ignore")  # they warn as they like

N_PATCHES, PAIRS = 24, 8
LARGEST_DIFFERENCE = 0.02
"""Of values in [-1, 1]: grid_sample's float32 coordinates move a noisy image by as much (see bench_view)."""


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    path = write_gz(tmp_path_factory.mktemp("scans") / "ct.nii.gz", full_size_ct(shape=(96, 96, 80)))
    data = DataConfig(phantom_subjects=1, workers=2, warm_pool_size=4, n_patches=N_PATCHES, visits_per_scan=8)
    config = PrismConfig(data=data, train=TrainConfig(batch_size=PAIRS))
    return Task((str(path),) * 10, open_scan(path).stats, config)


@pytest.mark.parametrize(
    ("name", "setting"), [(name, setting) for name, settings in LOADERS.items() for setting in settings]
)
def test_each_gives_pairs_of_patches_in_the_range_of_the_network(task: Task, name: str, setting: str) -> None:
    if name == "TorchIO":
        pytest.importorskip("torchio", reason="not installed: pip install -e '.[bench]'")
    batches = LOADERS[name][setting](task)
    for _ in range(3):  # SmartCacheDataset replaces scans after the second
        pairs = next(batches)
        assert pairs.shape == (PAIRS, 2, N_PATCHES, PATCH_PX, PATCH_PX)
        assert bool(pairs.isfinite().all())
        assert float(pairs.abs().max()) <= 1
        views = pairs.flatten(2)
        assert bool((views.std(dim=2) > 0.01).any()), "there is nothing to see"
        assert not bool((views[:, 0] == views[:, 1]).all(dim=1).any()), "both views are the same"


def test_patches_of_monai_are_those_of_the_pool(task: Task) -> None:
    config, scan = task.config, open_scan(task.paths[0], task.stats)
    loaded: Any = EnsureChannelFirst(channel_dim="no_channel")(LoadImage()(task.paths[0]))
    monai, ours = MonaiPairs(task, pairs=1), np.empty((N_PATCHES, PATCH_PX, PATCH_PX), np.int16)
    for visit in range(4):
        views = draw_pair(scan.affine, scan.shape, scan.stats, config.view, N_PATCHES, 0, VisitKey("scan", 0, visit))
        for view in views:
            extract_view(scan, view, config.data.patch_mm, ours)
            difference = np.abs(monai.patches(loaded, view).numpy() - ours / PATCH_SCALE)
            pixels = pixels_from_middle(scan.affine, scan.shape, view, config.data.patch_mm).numpy()
            inside = (np.abs(pixels.T) <= (np.array(scan.shape) - 1) / 2).all(axis=-1).T
            assert inside.mean() > 0.8
            # Outside the volume, where a corner of a few patches lies, they repeat its border.
            assert difference[inside].max() <= LARGEST_DIFFERENCE
