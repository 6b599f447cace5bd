"""Probes by patient: what is known is found, what is not stays at chance, and no patient helps itself."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, r2_score

from prism_ssl.config.operations import EvalConfig
from prism_ssl.eval.frozen_probe import (
    PatientScore,
    Task,
    difference,
    estimate,
    mean_over_patients,
    predicted_across_patients,
    sizes_of_curve,
)

CONFIG = EvalConfig(bootstrap=400)
RNG = np.random.default_rng(0)
PATIENTS = np.repeat([f"p{n}" for n in range(30)], 4)


def task(kind: str, y: np.ndarray) -> Task:
    return Task("label", "classes" if kind == "classes" else "regression", y, PATIENTS)


def test_scores_are_those_of_scikit_learn_and_weighting_repeats_patients() -> None:
    y, told = RNG.choice(["a", "b", "c"], 120), RNG.choice(["a", "b", "c"], 120)
    numbers, guessed = RNG.normal(size=120) + 50, RNG.normal(size=120) + 50
    twice = np.ones((1, 30))
    twice[0, :7] = 2
    again = np.concatenate([np.arange(120), np.flatnonzero(np.isin(PATIENTS, np.unique(PATIENTS)[:7]))])
    for each, said, score in (
        (task("classes", y), told, balanced_accuracy_score),
        (task("regression", numbers), guessed, r2_score),
    ):
        found = PatientScore(each, said)
        assert found.value == pytest.approx(score(each.y, said))
        assert found(twice)[0] == pytest.approx(score(each.y[again], said[again]))


def test_what_embeddings_hold_is_told_and_what_they_do_not_is_chance() -> None:
    hidden = RNG.normal(size=120)
    x = np.stack([hidden, *RNG.normal(size=(4, 120))], axis=1)
    side = task("classes", np.where(hidden > 0, "up", "down"))
    number = task("regression", 3 * hidden + 100)
    assert PatientScore(side, predicted_across_patients(x, side)).value > 0.9
    assert PatientScore(number, predicted_across_patients(x, number)).value > 0.99
    noise = x[:, 1:]
    assert abs(PatientScore(side, predicted_across_patients(noise, side)).value - side.chance) < 0.15
    assert PatientScore(number, predicted_across_patients(noise, number)).value < 0.1


def test_knowing_the_patient_does_not_help() -> None:
    whose = np.unique(PATIENTS, return_inverse=True)[1]
    label = task("classes", np.array(["a", "b"])[RNG.permutation(30) % 2][whose])
    x = RNG.normal(size=(30, 20))[whose]  # each patient has a fingerprint of its own
    assert PatientScore(label, predicted_across_patients(x, label)).value < 0.8


def test_intervals_and_paired_differences() -> None:
    y = task("regression", RNG.normal(size=120))
    good, bad = y.y + RNG.normal(0, 0.3, 120), y.y + RNG.normal(0, 1.0, 120)
    a, b = PatientScore(y, good), PatientScore(y, bad)
    found = estimate(a, CONFIG)
    assert found.low < found.value < found.high
    gain = difference(a, b, CONFIG)
    assert 0 < gain.low < gain.value < gain.high
    same = difference(a, a, CONFIG)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    one = mean_over_patients([0.5], CONFIG)
    assert one.value == 0.5
    assert np.isnan([one.low, one.high]).all()
    assert np.isnan(mean_over_patients([], CONFIG).value)


def test_more_patients_tell_more() -> None:
    hidden = RNG.normal(size=120)
    x = np.stack([hidden + RNG.normal(0, 0.5, 120), *RNG.normal(size=(10, 120))], axis=1)
    label = task("classes", np.where(hidden > 0, "up", "down"))
    assert sizes_of_curve(30) == [2, 4, 8, 16, 26]
    few, many = (
        np.mean([PatientScore(label, predicted_across_patients(x, label, size, seed)).value for seed in range(3)])
        for size in (2, 26)
    )
    assert many > few + 0.03


def test_a_fold_of_one_class_says_that_class() -> None:
    two = Task("label", "classes", np.array(["a", "a", "b", "b"]), np.array(["p", "p", "q", "q"]))
    assert predicted_across_patients(np.zeros((4, 2)), two).tolist() == ["b", "b", "a", "a"]
