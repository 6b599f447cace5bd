"""Landmarks of other patients: an oracle that goes through every question, and intervals that hold the truth."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from prism_ssl.contracts import Float64
from prism_ssl.eval.place.landmarks import LandmarkScan, closeness, landmark_answers, over_patients

NAMES = tuple("abcdef")


def _scan(patient: str, rng: np.random.Generator, names: tuple[str, ...] = NAMES, noise: float = 1.0) -> LandmarkScan:
    """Landmark k lies at (10 k, 0, 0) and has the vector e_k, with noise."""
    which = [NAMES.index(name) for name in names]
    vectors = np.eye(6)[which] + noise * rng.normal(size=(len(names), 6))
    points = np.array([[10.0 * k, 0, 0] for k in which])
    return LandmarkScan(patient, "MR", names, points, vectors)


def test_answers_are_those_of_asking_one_by_one() -> None:
    rng = np.random.default_rng(0)
    scans = [_scan("p", rng), _scan("q", rng, ("f", "b", "a")), _scan("q", rng), _scan("r", rng, ("c",))]
    found = landmark_answers(scans)
    for row, asking in enumerate(scans):
        for column, asked in enumerate(scans):
            common = [name for name in asking.names if name in asked.names]
            if asking.patient == asked.patient or len(common) < 2:
                assert np.isnan(found.recall[row, column])
                continue
            hits, far, guess = [], [], []
            for name in common:
                query = asking.vectors[asking.names.index(name)]
                places = [asked.points_mm[asked.names.index(other)] for other in common]
                cosine = [
                    float(query @ vector / np.linalg.norm(query) / np.linalg.norm(vector))
                    for vector in (asked.vectors[asked.names.index(other)] for other in common)
                ]
                best = int(np.argmax(cosine))
                apart = [float(np.linalg.norm(place - places[common.index(name)])) for place in places]
                hits.append(common[best] == name)
                far.append(apart[best])
                guess.append(np.mean(apart))
            assert found.recall[row, column] == pytest.approx(np.mean(hits))
            assert found.distance_mm[row, column] == pytest.approx(np.mean(far))
            assert found.chance[row, column] == pytest.approx(1 / len(common))
            assert found.chance_mm[row, column] == pytest.approx(np.mean(guess))
    assert np.isfinite(found.recall).sum() == 4


def test_an_encoder_without_information_is_at_chance_and_a_knowing_one_finds_all() -> None:
    rng = np.random.default_rng(1)
    scans = [_scan(patient, rng, noise=0.0) for patient in "pqr"]
    patients = [scan.patient for scan in scans]
    assert over_patients(landmark_answers(scans).recall, patients).value == 1.0
    blind = [dataclasses.replace(scan, vectors=np.ones((6, 4))) for scan in scans]
    found = landmark_answers(blind)
    assert over_patients(found.recall, patients).value == pytest.approx(1 / 6)
    assert over_patients(found.distance_mm, patients).value == over_patients(found.chance_mm, patients).value


def test_position_is_compared_by_distance() -> None:
    a, b = np.array([[0.0, 0, 0], [6.0, 8.0, 0]]), np.array([[10.0, 0, 0], [16.0, 8.0, 0]])  # a shift
    assert closeness(a, b).tolist() == [[0.0, -10.0], [-10.0, 0.0]]


def test_a_patient_with_many_scans_counts_once() -> None:
    values = np.full((4, 4), np.nan)
    patients = ["p", "q", "q", "r"]
    for row, column, value in ((0, 1, 0.0), (0, 2, 0.2), (0, 3, 0.7), (1, 3, 0.9), (2, 3, 0.9)):
        values[row, column] = values[column, row] = value
    assert over_patients(values, patients).value == pytest.approx((0.1 + 0.7 + 0.9) / 3)
    counted = np.zeros((4, 4), bool)
    counted[0, 1] = True
    only = over_patients(values, patients, counted)
    assert only.value == 0.0
    assert np.isnan(only.low)
    assert np.isnan(over_patients(values, patients, np.zeros((4, 4), bool)).value)


@pytest.mark.parametrize("patients", [6, 16])
def test_intervals_over_patients_hold_the_truth(patients: int) -> None:
    """Every patient is easier or harder in all its pairs: pairs are no independent values."""
    held = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        ease = rng.normal(0, 0.1, patients)
        values: Float64 = 0.5 + ease[:, None] + ease[None] + rng.normal(0, 0.05, (patients, patients))
        np.fill_diagonal(values, np.nan)
        found = over_patients(values, [f"p{n:02}" for n in range(patients)])
        held.append(found.low <= 0.5 <= found.high)
    assert np.mean(held) >= 0.93
