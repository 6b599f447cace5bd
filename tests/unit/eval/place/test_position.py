"""Positions told by other patients: an oracle view by view, and encoders that know nothing or everything."""

from __future__ import annotations

import numpy as np
import pytest

from prism_ssl.eval.place.position import position_skill, position_sums, relative_positions, told_positions

PATIENTS, VIEWS = 6, 10


def _views(seed: int = 0) -> tuple[np.ndarray, list[str], np.ndarray]:
    rng = np.random.default_rng(seed)
    positions = rng.normal(size=(PATIENTS * VIEWS, 3))
    patients = [f"p{n}" for n in range(PATIENTS) for _ in range(VIEWS)]
    return positions, patients, np.repeat(np.arange(PATIENTS), VIEWS)


def test_told_positions_are_those_of_asking_one_by_one() -> None:
    positions, patients, _ = _views()
    embeddings = np.random.default_rng(1).normal(size=(len(patients), 7))
    positions[3] = np.nan
    told = told_positions(embeddings, positions, patients)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    for view, patient in enumerate(patients):
        others = [other for other in range(len(patients)) if patients[other] != patient and other != 3]
        nearest = max(others, key=lambda other: float(unit[view] @ unit[other]))
        expected = np.full(3, np.nan) if view == 3 else positions[nearest] - positions[others].mean(axis=0)
        assert told[view] == pytest.approx(expected, nan_ok=True)


def test_skill_is_1_for_who_knows_0_for_who_does_not_and_needs_other_patients() -> None:
    positions, patients, series = _views()
    dense = np.tile(np.random.default_rng(2).normal(size=(VIEWS, 3)), (PATIENTS, 1))  # alike in all patients
    known = told_positions(np.concatenate([dense, np.ones((len(dense), 1))], axis=1), dense, patients)
    assert position_skill(position_sums(known, dense, series, PATIENTS).sum(axis=0)) == pytest.approx(1.0)
    found = [
        position_skill(position_sums(told_positions(noise, positions, patients), positions, series, PATIENTS).sum(0))
        for noise in np.random.default_rng(3).normal(size=(40, len(patients), 8))
    ]
    assert abs(np.mean(found)) < 0.05
    alike = told_positions(np.ones((len(patients), 4)), positions + 2.0, patients)  # collapsed: the mean of all others
    assert position_skill(position_sums(alike, positions + 2.0, series, PATIENTS).sum(axis=0)) == 0.0
    same = np.tile([0.3, -0.1, 2.0], (len(patients), 1))
    assert position_skill(position_sums(same, positions, series, PATIENTS).sum(axis=0)) == 0.0
    alone = told_positions(dense, dense, ["p"] * len(patients))
    assert np.isnan(alone).all()
    assert np.isnan(position_skill(position_sums(alone, dense, series, PATIENTS).sum(axis=0)))


def test_positions_are_relative_to_the_body() -> None:
    rng = np.random.default_rng(4)
    body = rng.normal(size=(500, 3)) * (20, 40, 60) + (5, -80, 300)
    at_middle, aside = relative_positions(body.mean(axis=0) + np.array([[0, 0, 0], [20, -40, 6000]]), body)
    assert at_middle == pytest.approx(np.zeros(3))
    assert aside == pytest.approx([1, -1, 3], abs=0.1)
    scaled = relative_positions(1.3 * body[:2] + 7, 1.3 * body + 7)
    assert scaled == pytest.approx(relative_positions(body[:2], body))
    assert np.isnan(relative_positions(body[:1], body[:20])).all()
