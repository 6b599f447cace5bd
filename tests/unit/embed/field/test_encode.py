"""A point's vector is what lies there, with the same bits whatever it is computed with."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prism_ssl.embed.field.encode import CHUNK_POINTS, PointEncoder, batch_views
from prism_ssl.model.backbone import build_encoder
from tests.support.position_encoder import PATCH_MM, PixelMean, layout_shift, settings_for, x_scan, x_told
from tests.unit.embed.field.test_lattice import SCANS

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["plain", "thick slices", "oblique"])
def test_a_vector_tells_where_its_point_is(name: str) -> None:
    affine, shape = SCANS[name]
    scan, config = x_scan(affine, shape), settings_for("none.csv")
    index = np.array(shape)[None] * np.random.default_rng(0).uniform(0.4, 0.6, (300, 3))
    points = index @ affine[:3, :3].T + affine[:3, 3]
    found = np.concatenate(list(PointEncoder(PixelMean(), config, 0, CPU, threads=2)(scan, points)))
    shift_mm = 11.0 * layout_shift()[0]  # pixels lie symmetrically about the centre of their patch
    np.testing.assert_allclose(x_told(scan, found), points[:, 0] + shift_mm, atol=0.02)
    assert PATCH_MM > 0.02


@pytest.fixture(scope="module")
def encoder() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_encoder("tiny").eval()


def test_a_vector_has_the_same_bits_alone_in_another_order_and_with_more_threads(encoder: torch.nn.Module) -> None:
    scan, config = x_scan(*SCANS["oblique"]), settings_for("none.csv")
    affine, shape = SCANS["oblique"]
    index = np.array(shape)[None] * np.random.default_rng(1).uniform(0.3, 0.7, (70, 3))
    points = index @ affine[:3, :3].T + affine[:3, 3]
    one = PointEncoder(encoder, config, 0, CPU, threads=1)
    assert one.batch == batch_views(config.data.n_patches, "cpu") > 1
    together = np.concatenate(list(one(scan, points)))
    order = np.random.default_rng(2).permutation(70)
    several = PointEncoder(encoder, config, 0, CPU, threads=3)
    assert np.array_equal(np.concatenate(list(several(scan, points[order]))), together[order])
    for number in (0, 33, 69):
        assert np.array_equal(next(several(scan, points[[number]])), together[[number]])
    assert not np.array_equal(together[0], together[1])


class _MixesViews(torch.nn.Module):
    """An encoder whose answer depends on the other views of the batch."""

    def forward(self, patches: torch.Tensor, positions_mm: torch.Tensor) -> torch.Tensor:
        mean = patches.flatten(1).mean(dim=1, keepdim=True)
        return mean + 1e-6 * mean.sum()


def test_an_encoder_that_mixes_views_gets_them_one_by_one() -> None:
    scan, config = x_scan(*SCANS["plain"]), settings_for("none.csv")
    mixing = PointEncoder(_MixesViews(), config, 0, CPU, threads=1)
    assert mixing.batch == 1
    points = np.array([[-100.0, 110.0, -975.0], [-90.0, 110.0, -975.0]])
    assert np.array_equal(np.concatenate(list(mixing(scan, points)))[1:], next(mixing(scan, points[1:])))


def test_chunks_are_whole_batches() -> None:
    for n_patches in (1, 16, 48, 64, 1024, 5000):
        for device in ("cpu", "cuda"):
            assert CHUNK_POINTS % batch_views(n_patches, device) == 0
    scan, config = x_scan(*SCANS["plain"]), settings_for("none.csv")
    points = np.tile(np.array([[-100.0, 110.0, -975.0]]), (CHUNK_POINTS + 7, 1))
    assert [len(part) for part in PointEncoder(PixelMean(), config, 0, CPU, 2)(scan, points)] == [CHUNK_POINTS, 7]
