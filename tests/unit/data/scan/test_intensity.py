from __future__ import annotations

import numpy as np
import pytest

from prism_ssl.data.scan.intensity import STATS_SAMPLE_VOXELS, robust_stats, stats_sample
from prism_ssl.errors import ScanRejected
from tests.support.broken_files import sound_volume


@pytest.mark.parametrize("background", [0.0, -1000.0])
def test_stats_describe_the_foreground(background: float) -> None:
    rng = np.random.default_rng(1)
    voxels = np.full((60, 60, 60), background, np.float32)
    voxels[:20] = rng.normal(background + 1000, 50, (20, 60, 60))
    stats = robust_stats(voxels, 1.0, 0.0)
    assert stats.lowest == background
    assert stats.median == pytest.approx(background + 1000, abs=2)
    assert stats.std == pytest.approx(50, rel=0.03)


def test_padding_below_air_does_not_make_air_foreground() -> None:
    rng = np.random.default_rng(2)
    voxels = np.full((60, 60, 60), -3024, np.int16)
    voxels[:, 5:-5, 5:-5] = -1000
    voxels[:20, 10:-10, 10:-10] = rng.normal(40, 20, (20, 40, 40))
    stats = robust_stats(voxels, 1.0, 0.0)
    assert stats.lowest == -1000
    assert stats.median == pytest.approx(40, abs=2)


def test_stats_scale_with_slope_and_intercept() -> None:
    voxels = sound_volume()
    plain, scaled = robust_stats(voxels, 1.0, 1024.0), robust_stats(voxels, 0.5, 512.0)
    assert scaled.median == pytest.approx(plain.median / 2)
    assert scaled.std == pytest.approx(plain.std / 2)


def test_a_negative_slope_turns_light_into_dark() -> None:
    voxels = sound_volume()
    assert robust_stats(voxels, -1.0, 0.0) == robust_stats(-voxels, 1.0, 0.0)


def test_stats_ignore_a_few_outliers_and_voxels_that_are_not_finite() -> None:
    voxels = sound_volume().astype(np.float32)
    clean = robust_stats(voxels, 1.0, 0.0)
    voxels[0, 0, :10] = [np.nan, np.inf, -np.inf, 3e4, 3e4, 3e4, 3e4, 3e4, 3e4, 3e4]
    spoiled = robust_stats(voxels, 1.0, 0.0)
    assert spoiled.median == pytest.approx(clean.median, abs=1)
    assert spoiled.std == pytest.approx(clean.std, rel=0.05)


def test_the_sample_visits_every_slice_and_every_row() -> None:
    nz, ny, nx = 32, 512, 512  # every 8th row would be 64 of the 512 rows of a slice
    rows = np.arange(nz * ny, dtype=np.int32).reshape(nz, ny, 1)
    sample = stats_sample(np.ascontiguousarray(np.broadcast_to(rows, (nz, ny, nx))))
    found = np.unique(sample)
    assert sample.size == pytest.approx(STATS_SAMPLE_VOXELS, rel=0.2)
    assert np.unique(found // ny).size == nz
    assert np.unique(found % ny).size == ny


@pytest.mark.parametrize(("value", "reason"), [(np.nan, "nan_filled"), (7.0, "stats_degenerate")])
def test_a_volume_without_spread_has_no_stats(value: float, reason: str) -> None:
    with pytest.raises(ScanRejected, match=f"{reason}: "):
        robust_stats(np.full((8, 8, 8), value, np.float32), 1.0, 0.0)
