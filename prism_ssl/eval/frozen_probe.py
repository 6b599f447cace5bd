"""Probes of frozen embeddings by patient: fitted on some patients, asked of others, with intervals over them (pure).

Legend of ``contracts.py``; here also S scans, P patients, R resamples of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from prism_ssl.config.operations import EvalConfig
from prism_ssl.contracts import Float64
from prism_ssl.eval.patients import FOLDS_MAX, Estimate, patient_folds
from prism_ssl.eval.quality.bootstrap import draw_counts, interval

Kind = Literal["classes", "regression"]


@dataclass(frozen=True, eq=False)
class Task:
    """A label of each scan: ``y`` [S], texts for classes and numbers for a regression; ``patients`` [S]."""

    name: str
    kind: Kind
    y: npt.NDArray[Any]
    patients: npt.NDArray[np.str_]

    @property
    def chance(self) -> float:
        """Score of a probe that knows nothing: 1 / classes, or 0."""
        return 1.0 / len(set(self.y)) if self.kind == "classes" else 0.0

    @property
    def measure(self) -> str:
        """What is scored."""
        return "balanced accuracy" if self.kind == "classes" else "R2"


def linear_classifier() -> Pipeline:
    """Logistic regression on standardised features, classes balanced (Alain & Bengio 2017)."""
    return make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=2000))


def predicted_across_patients(x: Float64, task: Task, most: int | None = None, seed: int = 0) -> npt.NDArray[Any]:
    """The label [S] of each scan, told from its embedding [S, D] by a probe fitted on other patients.

    Logistic regression with balanced classes, or ridge regression, on standardised embeddings. ``most``: fit on that
    many patients only, drawn by ``seed``.
    """
    told = np.empty_like(task.y)
    rng = np.random.default_rng(seed)
    for train, test in patient_folds(task.patients):
        if most is not None:
            some = rng.permutation(np.unique(task.patients[train]))[:most]
            train = train[np.isin(task.patients[train], some)]
        told[test] = _fitted(x[train], task.y[train], task.kind).predict(x[test])
    return told


def _fitted(x: Float64, y: npt.NDArray[Any], kind: Kind) -> Any:
    if len(set(y)) < 2:
        return DummyClassifier().fit(x, y) if kind == "classes" else _Constant(float(y[0]))
    if kind == "classes":
        return linear_classifier().fit(x, y)
    return make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 5, 7))).fit(x, y)


@dataclass(frozen=True)
class _Constant:
    value: float

    def predict(self, x: Float64) -> Float64:
        return np.full(len(x), self.value)


class PatientScore:
    """The score of told labels for any weighting of the patients: balanced accuracy, or R2."""

    def __init__(self, task: Task, told: npt.NDArray[Any]) -> None:
        self._kind = task.kind
        names, patient = np.unique(task.patients, return_inverse=True)
        of_patient = (patient[None, :] == np.arange(len(names))[:, None]).astype(float)  # [P, S]
        if task.kind == "classes":
            is_class = (task.y[:, None] == np.unique(task.y)[None]).astype(float)  # [S, C]
            parts = [is_class, is_class * (told == task.y)[:, None]]
        else:
            y = task.y.astype(float)
            centred = y - y.mean()
            parts = [np.stack([np.ones_like(y), centred, centred**2, (y - told.astype(float)) ** 2], axis=1)]
        self.patients = len(names)
        self._sums = [of_patient @ part for part in parts]

    def __call__(self, counts: Float64) -> Float64:
        """Scores [R] with every patient taken ``counts`` [R, P] times; NaN where nothing can be told apart."""
        with np.errstate(invalid="ignore", divide="ignore"):
            if self._kind == "classes":
                scans, right = (counts @ sums for sums in self._sums)
                accuracy: Float64 = np.nanmean(np.where(scans > 0, right / scans, np.nan), axis=1)
                return accuracy
            n, total, squares, errors = (counts @ self._sums[0]).T
            spread = squares - total**2 / n
            return np.where(spread > 0, 1.0 - errors / spread, np.nan)

    @property
    def value(self) -> float:
        """The score with every patient once."""
        return float(self(np.ones((1, self.patients)))[0])


def estimate(score: PatientScore, config: EvalConfig) -> Estimate:
    """The score, with the interval of ``eval.quality.bootstrap.interval``."""
    return _estimate(score.value, score(draw_counts(score.patients, config)), score.patients)


def difference(a: PatientScore, b: PatientScore, config: EvalConfig) -> Estimate:
    """Score ``a`` less ``b`` of the same task, paired: every resample draws the same patients for both."""
    counts = draw_counts(a.patients, config)
    return _estimate(a.value - b.value, a(counts) - b(counts), a.patients)


def mean_over_patients(values: Sequence[float], config: EvalConfig) -> Estimate:
    """The mean of one value a patient, with its interval."""
    known = np.asarray(values, float)
    if not len(known):
        return Estimate(np.nan, np.nan, np.nan)
    counts = draw_counts(len(known), config)
    return _estimate(float(known.mean()), counts @ known / len(known), len(known))


def _estimate(value: float, resampled: Float64, patients: int) -> Estimate:
    return Estimate(value, *interval(value, resampled[:, None], np.ones(1), np.array([float(patients)])))


def sizes_of_curve(patients: int) -> list[int]:
    """Numbers of patients to fit on: 2, 4, 8 and so on, and as many as a fold leaves."""
    folds = min(FOLDS_MAX, patients)
    most = patients - -(-patients // folds)
    return [size for size in (2**power for power in range(1, 20)) if size < most] + [most]
