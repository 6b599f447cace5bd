"""Pixel statistics against NumPy: quantiles, and the least-squares fit of the texture over a view."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prism_ssl.contracts import PATCH_SCALE, Float64
from prism_ssl.eval.pixel_statistics import LAYOUT_COLUMNS, QUANTILES, PixelStatistics, pixel_statistics

RNG = np.random.default_rng(3)
POSITIONS_MM = RNG.uniform(-25.0, 25.0, (2, 40, 3)).astype(np.float32)
PATCHES = (RNG.normal(0.0, 1.0, (2, 40, 16, 16)) * RNG.uniform(0.01, 0.3, (2, 40, 1, 1))).clip(-1, 1)


def read(patches: Float64) -> Float64:
    pixels = torch.from_numpy(patches.astype(np.float32))[..., None]
    return np.asarray(PixelStatistics()(pixels, torch.from_numpy(POSITIONS_MM)).double().numpy())


def test_they_are_quantiles_and_a_ridge_fit_of_each_patchs_spread_over_the_view() -> None:
    told = read(PATCHES)
    for view in (0, 1):
        quantiles = np.quantile(PATCHES[view], np.linspace(0.02, 0.98, 17))
        assert told[view, :QUANTILES] == pytest.approx(quantiles, abs=1e-5)
        x, y, z = (POSITIONS_MM[view].astype(np.float64) / 20).T
        terms = np.stack([x**0, x, y, z, x * x, y * y, z * z, x * y, x * z, y * z], axis=1)
        spread = np.log(PATCHES[view].std(axis=(1, 2)) + 0.02)
        with_ridge = np.concatenate([terms, np.eye(10)]), np.concatenate([spread, np.zeros(10)])
        fitted = np.linalg.lstsq(*with_ridge, rcond=None)[0]
        assert told[view, LAYOUT_COLUMNS] == pytest.approx(fitted, abs=1e-4)


def test_they_are_the_same_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = read(PATCHES)
    assert under == pytest.approx(read(PATCHES), abs=1e-6)


def test_the_layout_does_not_see_an_inverted_contrast_and_quantiles_do() -> None:
    told, inverted = read(PATCHES), read(-PATCHES)
    assert inverted[:, LAYOUT_COLUMNS] == pytest.approx(told[:, LAYOUT_COLUMNS], abs=1e-5)
    assert inverted[:, :QUANTILES] == pytest.approx(-told[:, :QUANTILES][:, ::-1], abs=1e-5)


def test_of_fixed_point_patches_they_are_standardised_over_the_views() -> None:
    fixed = np.round(PATCHES * PATCH_SCALE).astype(np.int16)
    told = pixel_statistics(fixed, POSITIONS_MM)
    assert told.mean(axis=0) == pytest.approx(0.0, abs=1e-9)
    assert np.sign(told[0]).tolist() == np.sign(read(PATCHES)[0] - read(PATCHES)[1]).tolist()
    assert pixel_statistics(fixed[:0], POSITIONS_MM[:0]).shape == (0, 27)
