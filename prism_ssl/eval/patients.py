"""Statistics over patients: folds that keep a patient together, means of each patient, intervals over them (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student_t

from prism_ssl.contracts import Float64

FOLDS_MAX = 8
"""Most folds of patients; with fewer patients, each is a fold of its own."""

Rows = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval over patients; the ends are NaN for fewer than two patients."""

    value: float
    low: float
    high: float


def patient_folds(patients: Sequence[str] | npt.NDArray[Any]) -> Iterator[tuple[Rows, Rows]]:
    """Rows to fit on and rows to predict, for each fold; ``patients`` [n] is the patient of each row, two or more."""
    from sklearn.model_selection import GroupKFold  # late: it takes a second, and means do not need it

    rows = np.zeros((len(patients), 1))
    folds: Iterator[tuple[Rows, Rows]] = GroupKFold(min(FOLDS_MAX, len(set(patients)))).split(rows, groups=patients)
    return folds


def by_patient(values: Sequence[float] | Float64, patients: Sequence[str]) -> Float64:
    """Mean of the values of each patient, patients in sorted order."""
    _, index = np.unique(patients, return_inverse=True)
    means: Float64 = np.bincount(index, weights=np.asarray(values, np.float64)) / np.bincount(index)
    return means


def student_interval(values: Float64) -> tuple[float, float]:
    """95 % interval of a mean; NaN for fewer than two values."""
    if len(values) < 2:
        return np.nan, np.nan
    half = float(student_t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return float(values.mean()) - half, float(values.mean()) + half


def jackknife_interval(value: float, without_one: Sequence[float] | Float64) -> tuple[float, float]:
    """95 % interval of ``value`` from the values without each patient in turn: Student's, n - 1 degrees of freedom.

    NaN for fewer than two patients, or where a value without one of them is unknown.
    """
    left = np.asarray(without_one, np.float64)
    if len(left) < 2 or not np.isfinite(left).all():
        return np.nan, np.nan
    half = float(student_t.ppf(0.975, len(left) - 1) * left.std() * np.sqrt(len(left) - 1))
    return value - half, value + half
