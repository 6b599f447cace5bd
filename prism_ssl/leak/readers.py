"""Readers that try the pretext task without anatomy, from features, point sets and blanked views.

Legend: Q pairs, K targets, F features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from prism_ssl.contracts import PATCH_PX, Float32, Float64
from prism_ssl.model.backbone import PrismEncoder
from prism_ssl.utils.machine import usable_cpus

Z = 3.9
"""Half width of an interval in standard errors: 5e-5 beyond it on one side, below 1 % for all rows of a report."""

_FOLDS = 4
_ENCODED_AT_ONCE = 64


@dataclass(frozen=True)
class Skill:
    """Sign skill (0 chance, 1 perfect) on pairs the reader was not fitted on, and its interval."""

    value: float
    low: float
    high: float


def skill_of(prediction: Float64, target: Float64) -> Skill:
    """2 x balanced accuracy - 1 of the predicted sign, with a normal interval of ``Z`` standard errors."""
    up, said_up = target > 0, prediction > 0
    counts = max(int(up.sum()), 1), max(int((~up).sum()), 1)
    recalls = float((said_up & up).sum()) / counts[0], float((~said_up & ~up).sum()) / counts[1]
    # half a count each way: a recall of exactly 0 or 1 is uncertain too
    variance = sum((r * (1 - r) + 0.5 / n) / n for r, n in zip(recalls, counts, strict=True))
    value, half = sum(recalls) - 1, Z * math.sqrt(variance)
    return Skill(value, max(value - half, -1.0), min(value + half, 1.0))


def ridge(features: Float64, targets: Float64) -> Float64:
    """Predictions [Q, K] of a ridge regression on features [Q, F], each for pairs outside its training folds."""
    return _cross_validated(lambda: make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 4, 7))), features, targets)


def trees(features: Float64, targets: Float64) -> Float64:
    """The same of extremely randomised trees (Geurts et al. 2006)."""
    return _cross_validated(
        lambda: ExtraTreesRegressor(150, min_samples_leaf=5, max_features=0.5, n_jobs=usable_cpus(), random_state=0),
        features,
        targets,
    )


def set_network(positions_mm: Float32, targets: Float64) -> Float64:
    """Predictions [Q, K] of a permutation-invariant network (Zaheer et al. 2017) on point sets [Q, 2, N, 3]."""
    views = torch.from_numpy(positions_mm / 30.0)
    return _two_halves(lambda: _SetReader(targets.shape[1]), views, targets, steps=300)


def blanked_features(encoder: PrismEncoder, positions_mm: Float32) -> Float64:
    """[Q, 2, N, 3] -> [Q, 2, D]: embeddings of constant patches at the true positions."""
    views = torch.from_numpy(positions_mm).flatten(0, 1)
    # not zeros: with fresh biases they become zero tokens, between which attention moves nothing
    blank = torch.ones(_ENCODED_AT_ONCE, positions_mm.shape[2], PATCH_PX, PATCH_PX, 1)
    with torch.inference_mode():
        embedded = torch.cat([encoder(blank[: len(some)], some) for some in views.split(_ENCODED_AT_ONCE)])
    features: Float64 = embedded.double().numpy().reshape(*positions_mm.shape[:2], -1)
    return features


READERS: Mapping[str, Callable[[Float64, Float64], Float64]] = {"ridge": ridge, "trees": trees}
"""Readers of features."""


def pair_features(per_view: Float64) -> Float64:
    """[Q, 2, F] -> [Q, 3 F]: both views and their difference, as the heads see embeddings."""
    a, b = per_view[:, 0], per_view[:, 1]
    return np.concatenate([a, b, b - a], axis=1)


def position_features(positions_mm: Float32) -> Float64:
    """[Q, 2, N, 3] -> [Q, 2, F]: moments, extents, radii, angles and nearest neighbours of each point set."""
    flat = positions_mm.reshape(-1, *positions_mm.shape[2:]).astype(np.float64)
    features = np.array([_of_points(points) for points in flat])
    return features.reshape(*positions_mm.shape[:2], -1)


def _of_points(points: Float64) -> Float64:
    radii = np.linalg.norm(points, axis=1)
    directions = points / np.maximum(radii, 1e-9)[:, None]
    upper = np.triu_indices(3)
    near = points[:64]
    gaps = np.square(near[:, None] - near[None]).sum(axis=2)
    np.fill_diagonal(gaps, np.inf)
    closest = np.sqrt(gaps.min(axis=1))
    third = (points**3).mean(axis=0)
    return np.concatenate(
        [
            points.mean(axis=0),
            np.cov(points.T)[upper],
            (directions.T @ directions / len(points))[upper],
            third,
            points.min(axis=0),
            points.max(axis=0),
            np.quantile(radii, (0.1, 0.5, 0.9, 1.0)),
            (closest.min(), closest.mean(), closest.std()),
            np.abs(points).min(axis=0),
        ]
    )


def _cross_validated(make: Callable[[], ExtraTreesRegressor], features: Float64, targets: Float64) -> Float64:
    predicted = np.empty_like(targets)
    for train, test in KFold(_FOLDS, shuffle=True, random_state=0).split(features):
        predicted[test] = make().fit(features[train], targets[train]).predict(features[test])
    return predicted


class _SetReader(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.point = nn.Sequential(nn.Linear(12, 48), nn.GELU(), nn.Linear(48, 48), nn.GELU())
        self.pair = nn.Sequential(nn.LayerNorm(288), nn.Linear(288, 64), nn.GELU(), nn.Linear(64, outputs))

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        x = torch.cat([views, views.square(), torch.sin(9.0 * views), torch.cos(9.0 * views)], dim=-1)
        each = self.point(x)
        pooled = torch.cat([each.mean(dim=2), each.amax(dim=2)], dim=-1)
        a, b = pooled.unbind(1)
        said: torch.Tensor = self.pair(torch.cat([a, b, b - a], dim=-1))
        return said


def _two_halves(make: Callable[[], nn.Module], views: torch.Tensor, targets: Float64, steps: int) -> Float64:
    """Train on either half of the pairs and predict the other."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        order = torch.randperm(len(views))
        halves = order[: len(order) // 2], order[len(order) // 2 :]
        wanted = torch.from_numpy(targets).float()
        wanted = (wanted - wanted.mean(dim=0)) / wanted.std(dim=0).clamp(min=1e-6)
        predicted = torch.empty_like(wanted)
        for train, test in (halves, halves[::-1]):
            reader = make()
            _fit(reader, views[train], wanted[train], steps)
            with torch.no_grad():
                predicted[test] = torch.cat([reader(batch) for batch in views[test].split(64)])
    return predicted.double().numpy()


def _fit(reader: nn.Module, views: torch.Tensor, wanted: torch.Tensor, steps: int, batch: int = 32) -> None:
    optimizer = torch.optim.AdamW(reader.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(views), (batch,))
        optimizer.zero_grad()
        nn.functional.mse_loss(reader(views[rows]), wanted[rows]).backward()
        optimizer.step()
        schedule.step()
