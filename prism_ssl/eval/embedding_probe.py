"""Probes of frozen embeddings: kNN and linear classifiers, and retrieval across patients by place (pure).

No patient is on both sides of a split. Legend of ``contracts.py``; here also V views.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, clone
from sklearn.dummy import DummyClassifier
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from prism_ssl.contracts import Float64
from prism_ssl.data.phantoms import Place
from prism_ssl.eval.frozen_probe import linear_classifier
from prism_ssl.eval.patients import patient_folds
from prism_ssl.eval.proxy_metrics import chance_at, cosine_similarity, hits_at

PLACE_TOLERANCE_MM = 30.0
"""Centres this close, in the same region of two phantoms, show the same place: the largest radius of a prism."""


@dataclass(frozen=True)
class ProbeScore:
    """Balanced accuracy (mean recall of the classes) of both probes, and its chance level, 1 / classes."""

    knn: float
    linear: float
    chance: float


UNKNOWN = ProbeScore(math.nan, math.nan, math.nan)


def probe_classes(embeddings: Float64, labels: Sequence[str | None], patients: Sequence[str], k: int) -> ProbeScore:
    """Predict ``labels`` [V] from ``embeddings`` [V, D] of other patients: majority of the k nearest by cosine, with
    one vote each (Cover & Hart 1967; Wu et al. 2018 weight the votes by similarity, this does not), and by
    ``linear_classifier``.

    Views without a label, and classes that fewer than two patients have, are left out; NaN when fewer than two
    classes remain.
    """
    patients_of: dict[str, set[str]] = {}
    for label, patient in zip(labels, patients, strict=True):
        if label is not None:
            patients_of.setdefault(label, set()).add(patient)
    usable = [label is not None and len(patients_of[label]) > 1 for label in labels]
    x, y, groups = embeddings[usable], np.array(labels, object)[usable].astype(str), np.array(patients)[usable]
    n_classes = len(set(y))
    if n_classes < 2:
        return UNKNOWN
    knn = KNeighborsClassifier(k, metric="cosine")
    return ProbeScore(_accuracy(knn, x, y, groups), _accuracy(linear_classifier(), x, y, groups), 1.0 / n_classes)


def _accuracy(probe: BaseEstimator, x: Float64, y: npt.NDArray[np.str_], patients: npt.NDArray[np.str_]) -> float:
    """Balanced accuracy over all views, each predicted by a probe fitted on other patients."""
    told = np.empty_like(y)
    for train, test in patient_folds(patients):
        fold = clone(probe) if len(set(y[train])) > 1 else DummyClassifier()
        if isinstance(fold, KNeighborsClassifier):
            fold.n_neighbors = min(fold.n_neighbors, len(train))
        told[test] = fold.fit(x[train], y[train]).predict(x[test])
    return float(balanced_accuracy_score(y, told))


def place_recall(
    embeddings: Float64, places: Sequence[Place | None], centers_mm: Float64, patients: Sequence[str]
) -> tuple[float, float]:
    """``(recall@1, chance)`` of retrieval across patients by anatomical position, on phantoms.

    A query is answered by the most similar view of all other patients, which is right when it shows the same region
    within ``PLACE_TOLERANCE_MM``. Queries without a right candidate are left out; NaN when no query remains.
    """
    known = np.array([place is not None for place in places])
    region = np.array([place.region if place is not None else "" for place in places])[known]
    patient, centers_mm = np.array(patients)[known], centers_mm[known]
    candidate = patient[:, None] != patient[None, :]
    distance_mm = np.linalg.norm(centers_mm[:, None] - centers_mm[None, :], axis=2)
    positive = candidate & (region[:, None] == region[None, :]) & (distance_mm <= PLACE_TOLERANCE_MM)
    asked = positive.any(axis=1)
    if not asked.any():
        return math.nan, math.nan
    hits = hits_at(cosine_similarity(embeddings[known]), positive, candidate, k=1)
    return float(hits[asked].mean()), float(chance_at(positive, candidate, k=1)[asked].mean())
