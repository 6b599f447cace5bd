"""Folds keep a patient together; means and intervals are over patients."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from prism_ssl.eval.patients import FOLDS_MAX, by_patient, patient_folds, student_interval


@pytest.mark.parametrize("n_patients", [2, 5, 40])
def test_every_row_is_predicted_once_and_by_other_patients_only(n_patients: int) -> None:
    patients = np.random.default_rng(0).permutation([f"p{n}" for n in range(n_patients) for _ in range(1 + n % 3)])
    folds = list(patient_folds(patients))
    assert len(folds) == min(n_patients, FOLDS_MAX)
    assert sorted(np.concatenate([test for _, test in folds]).tolist()) == list(range(len(patients)))
    assert all(not set(patients[train]) & set(patients[test]) for train, test in folds)


def test_a_patient_with_many_values_counts_as_one() -> None:
    assert by_patient([1.0, 0.0, 0.5, 0.0], ["b", "a", "b", "a"]).tolist() == [0.0, 0.75]


def test_the_interval_is_students_and_unknown_for_one_value() -> None:
    values = np.array([0.2, 0.4, 0.9])
    expected = stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values))
    assert student_interval(values) == pytest.approx(expected)
    assert np.isnan(student_interval(values[:1])).all()
