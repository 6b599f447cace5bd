"""Pixel features without anatomy: traces of interpolation, padding and the scanner.

Views are cut with the kernel of training. Noise on the scan's own grid replaces its voxels where only interpolation
and padding are tested. Legend: N patches, M = 16 N blocks of 4 x 4 pixels, V views, F features.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt

from prism_ssl.contracts import PATCH_PX, PATCH_SCALE, Float32, Float64, RobustStats
from prism_ssl.data.extract import extract_view
from prism_ssl.data.scan import OpenScan, acquisition_frame
from prism_ssl.data.views import View
from prism_ssl.leak.views import ScanGeometry
from prism_ssl.utils.seeds import generator_for

_BLOCK_PX = 4
_PER_SIDE = PATCH_PX // _BLOCK_PX
_BRIGHTEST = 255.0
_PADDED = -1.0 + 1e-3
HISTOGRAM_BINS = 16


def noise_scan(scan: ScanGeometry, seed: int) -> OpenScan:
    """White noise (uniform, 0 to 255) on the grid of a scan; what lies outside is far darker than any voxel."""
    nx, ny, nz = scan.shape
    noise = np.frombuffer(generator_for(seed, "noise", scan.scan_id).bytes(nx * ny * nz), np.uint8)
    stats = RobustStats(lowest=-8 * _BRIGHTEST, median=_BRIGHTEST / 2, std=_BRIGHTEST / math.sqrt(12))
    return OpenScan(noise.reshape(nz, ny, nx), 1.0, 0.0, scan.affine, stats)


def unclipped(view: View) -> View:
    """The view with a window that shows all of ``noise_scan``, so that no window hides the signal."""
    return dataclasses.replace(view, window_center=_BRIGHTEST / 2, window_width=_BRIGHTEST + 3)


def cut(scan: OpenScan, view: View, patch_mm: float) -> Float32:
    """The patches of a view [N, H, W] in [-1, 1]."""
    fixed = np.empty((len(view.positions_mm), PATCH_PX, PATCH_PX), np.int16)
    extract_view(scan, view, patch_mm, fixed)
    return fixed.astype(np.float32) / np.float32(PATCH_SCALE)


def block_energies(patches: Float32, view: View, affine: Float64, patch_mm: float) -> tuple[Float64, Float64]:
    """Where the blocks lie in the prism frame [M, 3], and how much their pixels vary [M].

    The variation is the logarithm of the variance, less its mean over the view; 0 for a block with a clipped or padded
    pixel.
    """
    N = len(patches)
    blocks = patches.reshape(N, _PER_SIDE, _BLOCK_PX, _PER_SIDE, _BLOCK_PX).transpose(0, 1, 3, 2, 4)
    blocks = blocks.reshape(N, _PER_SIDE**2, _BLOCK_PX**2)
    middles = (np.arange(_PER_SIDE) - (_PER_SIDE - 1) / 2) * _BLOCK_PX * patch_mm / PATCH_PX
    row, column = (grid.ravel()[:, None] for grid in np.meshgrid(middles, middles, indexing="ij"))
    frame = acquisition_frame(affine)
    points = view.positions_mm[:, None, :].astype(np.float64) + (column * frame[:, 0] + row * frame[:, 1])
    whole = (blocks.min(axis=2) > -1.0) & (blocks.max(axis=2) < 1.0)
    energy = np.log(blocks.var(axis=2) + 1e-9).astype(np.float64)
    energy = np.where(whole, energy - energy[whole].mean() if whole.any() else 0.0, 0.0)
    return points.reshape(-1, 3), energy.ravel()


def blur_features(patches: Float32, positions_mm: Float32) -> Float64:
    """[F]: distribution of gradient energy and variance over the unpadded patches, and its dependence on position."""
    kept = patches.min(axis=(1, 2)) > _PADDED
    if kept.sum() < 8:
        return np.zeros(4 * 4 + 6 + 4 * 4 + 1)
    inside, where = patches[kept].astype(np.float64), positions_mm[kept].astype(np.float64) / 30.0
    across, down = np.diff(inside, axis=2), np.diff(inside, axis=1)
    diagonals = across[:, 1:] * down[:, :, 1:]
    powers = (np.square(across).mean((1, 2)), np.square(down).mean((1, 2)), inside.var((1, 2)))
    energies = np.stack([*(np.log(power + 1e-9) for power in powers), diagonals.mean((1, 2))], axis=1)
    centered = energies - energies.mean(axis=0)
    slopes = centered.T @ np.concatenate([where, np.ones((len(where), 1))], axis=1) / len(where)
    quantiles = np.quantile(energies, (0.1, 0.5, 0.9), axis=0)
    spread = np.cov(energies.T)[np.triu_indices(3)]
    return np.concatenate([energies.mean(axis=0), quantiles.ravel(), spread, slopes.ravel(), [kept.mean()]])


def padding_features(patches: Float32, positions_mm: Float32) -> Float64:
    """[F]: the share of padded pixels, and on which side of the ball they are."""
    share = (patches <= _PADDED).mean(axis=(1, 2)).astype(np.float64)
    where = positions_mm.astype(np.float64) / 30.0
    moments = (where[:, :, None] * where[:, None, :])[:, *np.triu_indices(3)]
    total = max(float(share.sum()), 1e-9)
    sides = np.concatenate([share @ np.maximum(where, 0), share @ np.maximum(-where, 0)]) / len(share)
    return np.concatenate([[share.mean(), share.max()], share @ where / total, share @ moments / total, sides])


def histogram_features(patches: Float32) -> Float64:
    """[F]: histogram of the pixels of a view, regardless of their position, each bin as its square root."""
    counts, _ = np.histogram(patches, bins=HISTOGRAM_BINS, range=(-1.0, 1.0))
    shares: Float64 = np.sqrt(counts / patches.size)
    return shares


def mean_std_features(patches: Float32) -> Float64:
    """[2]: mean and standard deviation of all pixels of a view."""
    return np.array([patches.mean(), patches.std()], np.float64)


def recall_at_1(features: Float64, series: npt.NDArray[np.int64]) -> Float64:
    """[V] 1 where the nearest other view (Euclidean, standardised features) is of the same series."""
    scaled = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-9)
    distance = np.square(scaled[:, None] - scaled[None]).sum(axis=2)
    np.fill_diagonal(distance, np.inf)
    hits: Float64 = (series[distance.argmin(axis=1)] == series).astype(np.float64)
    return hits


def recall_within_group(group: npt.NDArray[np.int64], series: npt.NDArray[np.int64]) -> Float64:
    """[V] probability that another view drawn at random from the same group is of the same series."""
    same_group = group[:, None] == group[None]
    same_series = series[:, None] == series[None]
    np.fill_diagonal(same_group, val=False)
    hits = (same_group & same_series).sum(axis=1)
    probability: Float64 = hits / np.maximum(same_group.sum(axis=1), 1)
    return probability
