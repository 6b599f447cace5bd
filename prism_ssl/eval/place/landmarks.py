"""Landmark test: find the same landmark in a scan of another patient (pure).

Legend: S scans of P patients; a scan has n landmarks, and D is the width of its vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prism_ssl.contracts import Float64
from prism_ssl.eval.patients import Estimate, jackknife_interval
from prism_ssl.eval.place.retrieval import centred
from prism_ssl.eval.proxy_metrics import chance_at, cross_similarity, hits_at

Bools = npt.NDArray[np.bool_]
Similarity = Callable[[Float64, Float64], Float64]
"""Vectors [n, D] and [n, D] of the landmarks that two scans share -> how alike each two of them are [n, n]."""


@dataclass(frozen=True, eq=False)
class LandmarkScan:
    """The landmarks of a scan: their names [n], places [n, 3] in RAS mm, and vectors [n, D]."""

    patient: str
    modality: str
    names: tuple[str, ...]
    points_mm: Float64
    vectors: Float64


@dataclass(frozen=True, eq=False)
class LandmarkAnswers:
    """Of each two scans [S, S], the first one asking: recall@1 and how far from the true place the found landmark lies,
    each beside that of a guess. NaN where one patient has both scans, or they share fewer than two landmarks."""

    recall: Float64
    chance: Float64
    distance_mm: Float64
    chance_mm: Float64


def less_mean(a: Float64, b: Float64) -> Float64:
    """Cosine of every two vectors, the mean of each scan's taken off first: without what all its places share."""
    return cross_similarity(centred(a), centred(b))


def closeness(a: Float64, b: Float64) -> Float64:
    """Less the distance of every two points [n, 3] and [m, 3], each from the middle of its scan's: [n, m]."""
    near: Float64 = -np.linalg.norm((a - a.mean(axis=0))[:, None] - (b - b.mean(axis=0))[None], axis=2)
    return near


def landmark_answers(scans: Sequence[LandmarkScan], similarity: Similarity = cross_similarity) -> LandmarkAnswers:
    """Ask, for each landmark of a scan, which landmark of each other patient's scan is most similar to it.

    Candidates are the landmarks that both scans have.
    """
    found = np.full((4, len(scans), len(scans)), np.nan)
    for row, asking in enumerate(scans):
        for column, asked in enumerate(scans):
            common = sorted(set(asking.names) & set(asked.names))
            if asking.patient != asked.patient and len(common) > 1:
                found[:, row, column] = _ask(asking, asked, common, similarity)
    return LandmarkAnswers(*found)


def _ask(asking: LandmarkScan, asked: LandmarkScan, common: Sequence[str], similarity: Similarity) -> tuple[float, ...]:
    of_asking, of_asked = ([scan.names.index(name) for name in common] for scan in (asking, asked))
    alike = similarity(asking.vectors[of_asking], asked.vectors[of_asked])
    positive, candidate = np.eye(len(common), dtype=bool), np.ones((len(common), len(common)), bool)
    points = asked.points_mm[of_asked]
    apart_mm = np.linalg.norm(points[:, None] - points[None], axis=2)
    best = alike == alike.max(axis=1, keepdims=True)
    distance_mm = (best * apart_mm).sum(axis=1) / best.sum(axis=1)  # ties count with their mean
    recall, chance = hits_at(alike, positive, candidate, k=1), chance_at(positive, candidate, k=1)
    return tuple(float(each.mean()) for each in (recall, chance, distance_mm, apart_mm))


def over_patients(values: Float64, patients: Sequence[str], counted: Bools | None = None) -> Estimate:
    """The mean over pairs of patients of ``values`` [S, S], and its 95 % interval over patients.

    Every pair of patients counts once, whatever its scans. Each patient is in many pairs, so they are no independent
    values: the interval is the jackknife's, which leaves out one patient with all its pairs.

    Args:
        values: NaN where nothing was asked.
        patients: of each scan [S].
        counted: the pairs of scans that count [S, S]; None: all.
    """
    names, number = np.unique(patients, return_inverse=True)
    known = np.isfinite(values) if counted is None else np.isfinite(values) & counted
    of_patient = np.eye(len(names))[number]  # [S, P]
    sums = of_patient.T @ np.where(known, values, 0.0) @ of_patient
    counts = of_patient.T @ known @ of_patient
    sums, counts = sums + sums.T, counts + counts.T  # whoever asks
    there = counts > 0
    means = np.where(there, sums / np.maximum(counts, 1), 0.0)
    takes_part = there.any(axis=1)
    means, there = means[np.ix_(takes_part, takes_part)], there[np.ix_(takes_part, takes_part)].astype(float)
    if not len(means):
        return Estimate(np.nan, np.nan, np.nan)
    total, pairs = means.sum(), there.sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        without_one = (total - 2 * means.sum(axis=1)) / (pairs - 2 * there.sum(axis=1))
    value = float(total / pairs)
    return Estimate(value, *jackknife_interval(value, without_one))
