"""Intervals over patients hold the truth as often as they promise, however many series a patient has."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from prism_ssl.config.operations import EvalConfig
from prism_ssl.contracts import Float64
from prism_ssl.eval.quality.bootstrap import (
    QualityParts,
    interval,
    patients_behind,
    patients_of,
    position_estimate,
    skill_interval,
)
from prism_ssl.eval.quality.comparison import resample_together
from prism_ssl.eval.quality.composite import proxy_quality
from prism_ssl.eval.quality.evidence import PatientEvidence
from tests.support.simulated import answers, true_position, true_quality, true_skill


@pytest.mark.parametrize(("patients", "series", "pairs"), [(8, 1, 6), (8, 8, 6), (12, 4, 6), (30, 4, 15)])
def test_nineteen_of_twenty_intervals_hold_the_truth(patients: int, series: int, pairs: int) -> None:
    truth, held = true_quality(), []
    for seed in range(500):
        found = proxy_quality(
            answers(np.random.default_rng(seed), patients, series, pairs), EvalConfig(bootstrap=200, seed=seed)
        )
        held.append(found.low <= truth <= found.high)
    assert np.mean(held) >= 0.93


@pytest.mark.parametrize(("patients", "series"), [(8, 1), (12, 4), (30, 2)])
def test_so_do_those_of_one_axis(patients: int, series: int) -> None:
    truth, held = true_skill(), []
    for seed in range(500):
        evidence = answers(np.random.default_rng(seed), patients, series, 1)
        low, high = skill_interval(evidence, "dz")
        held.append(low <= truth <= high)
    assert 0.93 <= np.mean(held) <= 0.98
    assert np.isnan(skill_interval(evidence, "ww")).all()


@pytest.mark.parametrize(("patients", "series"), [(8, 1), (12, 4), (30, 2)])
def test_and_those_of_the_position(patients: int, series: int) -> None:
    held = []
    for seed in range(500):
        _, low, high = position_estimate(answers(np.random.default_rng(seed), patients, series, 1))
        held.append(low <= true_position() <= high)
    assert 0.93 <= np.mean(held) <= 0.98


def test_each_part_takes_every_patient_as_often_as_it_is_drawn() -> None:
    evidence = PatientEvidence(
        series=["a1", "a2", "b1", "c1"],
        patient_of_series=["a", "a", "b", "c"],
        recall=np.array([1.0, 0.5, 0.0, np.nan]),
        recall_chance=0.0,
        axes=["dx", "wc"],
        signs=np.tile(4.0, (4, 2, 2)),
        right=np.stack([np.array([[4.0, 4], [4, 2], [0, 2], [2, 2]]), np.full((4, 2), 4.0)], axis=1),
        pairs=[("a1", "a2"), ("a1", "a3"), ("d1", "d2")],
        patient_of_pair=["a", "a", "d"],
        place_recall=np.array([1.0, 0.5, 0.25]),
        place_distance_mm=np.zeros(3),
        place_chance=0.0,
        telling_share=0.4,
        position=np.array([[4, 0, 0, 0.5, 1, 1], [4, 0, 0, 0, 2, 1], [4, 0, 0, 1, 1, 1], [4, 0, 0, -1, 1, 1.0]])[
            :, None
        ].repeat(3, 1),
    )
    patients = patients_of(evidence)
    assert patients == ["a", "b", "c", "d"]
    parts = QualityParts(evidence, patients)(np.array([[1.0, 1, 1, 1], [2, 0, 0, 2], [0, 3, 1, 0], [2, 1, 0, 1]]))
    assert parts == pytest.approx(
        np.array(
            [
                [1.5 / 3, 10 / 16 + 10 / 16 - 1, (0.75 + 0.25) / 2, 0.4, 0.5 / np.sqrt(5 * 4)],
                [0.75, 16 / 16 + 12 / 16 - 1, (0.75 + 0.25) / 2, 0.4, 1.0 / np.sqrt(6 * 4)],
                [0.0, 2 / 16 + 8 / 16 - 1, np.nan, 0.4, 2.0 / 4],
                [3.0 / 5, 16 / 20 + 14 / 20 - 1, (2 * 0.75 + 0.25) / 3, 0.4, 2.0 / np.sqrt(7 * 5)],
            ]
        ),
        nan_ok=True,
    )
    assert patients_behind(evidence).tolist() == [3, 3, 2, np.inf, 3]
    assert position_estimate(evidence)[0] == pytest.approx(0.5 / np.sqrt(20))


def test_an_interval_lies_about_the_value_as_resamples_lie_about_their_mean() -> None:
    off = np.linspace(-0.2, 0.2, 41)
    low, high = interval(0.5, (0.3 + off)[:, None] * np.ones(5), np.ones(5), np.full(5, 10))
    wider = np.sqrt(10 / 9) * stats.t.ppf(0.975, 9) / stats.norm.ppf(0.975)
    assert (low, high) == pytest.approx((0.5 - 0.19 * wider, 0.5 + 0.19 * wider))


def test_without_an_answer_of_two_patients_there_is_no_interval() -> None:
    parts, weights = np.random.default_rng(0).normal(size=(10, 4)), np.ones(4)
    assert np.isnan(interval(0.5, parts, weights, np.array([8, 8, 1, 8]))).all()
    assert np.isnan(interval(np.nan, parts, weights, np.full(4, 8))).all()


def test_a_part_of_few_patients_widens_the_interval_as_far_as_it_varies() -> None:
    parts, weights = np.random.default_rng(0).normal(size=(4000, 4)), np.ones(4)

    def width(scale: float, patients: float) -> float:
        low, high = interval(0.0, parts * [1, 1, scale, 1], weights, np.array([30, 30, patients, 30]))
        return high - low

    assert width(1, 2) > 1.3 * width(1, 30)
    assert width(0.01, 2) < 1.05 * width(0.01, 30)


def test_a_difference_of_two_encoders_is_known_better_than_either() -> None:
    def pair(seed: int) -> tuple[float, float, Float64]:
        a, b = (answers(np.random.default_rng(seed), 20, 4, 10, skill) for skill in (0.0, -0.4))
        together = resample_together({"a": a, "b": b}, EvalConfig(bootstrap=300), like="a")
        difference, alone = together.difference("a", "b"), proxy_quality(a, EvalConfig(bootstrap=300))
        return difference.high - difference.low, alone.high - alone.low, np.array([difference.low, difference.high])

    widths = np.array([pair(seed)[:2] for seed in range(20)])
    assert np.median(widths[:, 0] / widths[:, 1]) < 0.8


def test_an_encoder_does_not_differ_from_itself() -> None:
    same = answers(np.random.default_rng(0), 10, 2, 5)
    found = resample_together({"a": same, "b": same}, EvalConfig(bootstrap=50), like="a").difference("a", "b")
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)
