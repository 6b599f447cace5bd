"""Untrained features in place of an embedding: a view's pixel quantiles, and ridge predictions from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from prism_ssl.contracts import PATCH_SCALE, Float64

QUANTILES = np.linspace(0.02, 0.98, 17)
"""Of all pixels of a view, regardless of their position."""

_FOLDS_MAX = 8


def pixel_quantiles(patches: npt.NDArray[np.int16]) -> Float64:
    """[V, N, H, W] -> [V, 17]: quantiles of the pixels of each view, standardised over the views."""
    raw = [np.quantile(view, QUANTILES) for view in patches]
    return standardised(np.array(raw, np.float64).reshape(-1, len(QUANTILES)) / PATCH_SCALE)


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
    n_patients = len(set(patients))
    if n_patients < 2:
        return None
    a, b = per_view[::2], per_view[1::2]
    features = np.concatenate([a, b, b - a], axis=1)
    predicted = np.empty_like(targets)
    for train, test in GroupKFold(min(_FOLDS_MAX, n_patients)).split(features, groups=patients):
        reader = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 4, 7)))
        predicted[test] = reader.fit(features[train], targets[train]).predict(features[test])
    return predicted
