"""Pixel statistics of views, which need no training (quantiles, layout of the texture), and predictions from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from prism_ssl.contracts import PATCH_SCALE, Float64
from prism_ssl.eval.patients import patient_folds

QUANTILES, LAYOUT = 17, 10
"""Numbers of each kind: quantiles 0.02 to 0.98 of all pixels, and coefficients of the texture's layout."""
LAYOUT_COLUMNS: Final = slice(QUANTILES, QUANTILES + LAYOUT)

_UNIT_MM, _FLAT = 20.0, 0.02  # of a position; a patch with less spread than this counts as flat


class PixelStatistics(nn.Module):
    """In place of an encoder: 27 numbers of a view that need no training.

    17 are quantiles of its pixels, regardless of their position. 10 say where its texture lies: a quadratic polynomial
    of position, fitted (ridge 1) to the logarithm of each patch's standard deviation. Contrast hardly changes these, so
    they find a place in another modality, which quantiles do not.
    """

    def forward(self, patches: Tensor, positions_mm: Tensor) -> Tensor:
        """Patches [B, N, 16, 16, 1] in [-1, 1] and positions [B, N, 3] -> [B, 27], in float32 also under autocast."""
        pixels = patches.float().flatten(2)
        q = torch.linspace(0.02, 0.98, QUANTILES, device=patches.device)
        # one view at a time: torch.quantile refuses more than 16 million values
        quantiles = torch.stack([torch.quantile(view.flatten(), q) for view in pixels])
        with torch.autocast(patches.device.type, enabled=False):  # a system of equations is not solved in bf16
            layout = _texture_layout(pixels, positions_mm.float())
        return torch.cat([quantiles, layout], dim=1)


def _texture_layout(pixels: Tensor, positions_mm: Tensor) -> Tensor:
    """Pixels [B, N, P], positions [B, N, 3] -> coefficients of 1, x, y, z, xx, yy, zz, xy, xz, yz [B, 10]."""
    texture = torch.log(pixels.std(dim=2, correction=0) + _FLAT)
    x, y, z = (positions_mm / _UNIT_MM).unbind(dim=2)
    terms = torch.stack([torch.ones_like(x), x, y, z, x * x, y * y, z * z, x * y, x * z, y * z], dim=2)
    gram = terms.mT @ terms + torch.eye(LAYOUT, device=pixels.device)
    solved: Tensor = torch.linalg.solve(gram, terms.mT @ texture.unsqueeze(2))
    return solved.squeeze(2)


def pixel_statistics(patches: npt.NDArray[np.int16], positions_mm: npt.NDArray[np.floating]) -> Float64:
    """``PixelStatistics`` of V views, standardised over them: [V, N, H, W], [V, N, 3] -> [V, 27]."""
    read, rows = PixelStatistics(), list[Tensor]()
    for view, where in zip(patches, positions_mm, strict=True):
        pixels = torch.from_numpy(view).float()[None, ..., None] / PATCH_SCALE
        rows.append(read(pixels, torch.from_numpy(where)[None]))
    return standardised(torch.cat(rows).double().numpy()) if rows else np.empty((0, QUANTILES + LAYOUT))


def standardised(features: Float64) -> Float64:
    """Mean 0 and standard deviation 1 of each column over the rows; 0 where a column does not vary."""
    if not len(features):
        return features
    spread = features.std(axis=0)
    scaled: Float64 = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return scaled


def read_pairs(per_view: Float64, targets: Float64, patients: Sequence[str]) -> Float64 | None:
    """Predictions [Q, K] of ``targets`` from the features [2 Q, F] of both views of each pair and their difference.

    The ridge regression is fitted on other patients only (folds of ``patients`` [Q]); None with one patient.
    """
    if len(set(patients)) < 2:
        return None
    a, b = per_view[::2], per_view[1::2]
    features = np.concatenate([a, b, b - a], axis=1)
    predicted = np.empty_like(targets)
    for train, test in patient_folds(patients):
        reader = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 4, 7)))
        predicted[test] = reader.fit(features[train], targets[train]).predict(features[test])
    return predicted
