"""The composite counts every part from its chance, is unknown when a part is, and its interval holds the value."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from prism_ssl.config.operations import EvalConfig
from prism_ssl.contracts import Float64
from prism_ssl.eval.quality.composite import proxy_quality, sign_counts
from prism_ssl.eval.quality.evidence import EVIDENCE_FILE, PatientEvidence, read_evidence, write_evidence
from prism_ssl.model.pair_targets import sign_skill

RNG = np.random.default_rng(0)
S, Q = 12, 6
POSE = ["dx", "dy", "dz", "rx", "ry", "rz"]


def _evidence(recall: float | Float64 = 0.7, right_share: float = 0.8, place: float = 0.25) -> PatientEvidence:
    """12 patients of one series each, the first 6 with a pair; chance of recall 0.1, of place 1/16."""
    signs = np.full((S, 8, 2), 10.0)
    return PatientEvidence(
        series=[f"s{s}" for s in range(S)],
        patient_of_series=[f"p{s:02}" for s in range(S)],
        recall=np.broadcast_to(recall, S).astype(float),
        recall_chance=0.1,
        axes=[*POSE, "wc", "ww"],
        signs=signs,
        right=right_share * signs,
        pairs=[(f"s{q}", f"t{q}") for q in range(Q)],
        patient_of_pair=[f"p{q:02}" for q in range(Q)],
        place_recall=np.full(Q, place),
        place_distance_mm=np.full(Q, 30.0),
        place_chance=1 / 16,
        telling_share=math.nan,
    )


def _without_pairs(evidence: PatientEvidence) -> PatientEvidence:
    return dataclasses.replace(
        evidence, pairs=[], patient_of_pair=[], place_recall=np.empty(0), place_distance_mm=np.empty(0)
    )


def test_quality_is_the_weighted_mean_of_what_lies_above_chance() -> None:
    quality = proxy_quality(_evidence(), EvalConfig(w_retrieval=1, w_skill=2, w_place=3, bootstrap=20))
    retrieval, skill, place = 0.6 / 0.9, 0.6, 0.1875 / 0.9375
    assert (quality.retrieval, quality.skill, quality.place) == pytest.approx((retrieval, skill, place))
    assert quality.value == pytest.approx((retrieval + 2 * skill + 3 * place) / 6)


def test_chance_in_every_part_is_a_quality_of_nothing() -> None:
    quality = proxy_quality(_evidence(recall=0.1, right_share=0.5, place=1 / 16), EvalConfig(bootstrap=5))
    assert quality.value == pytest.approx(0)


def test_what_is_worse_than_chance_counts_below_nothing() -> None:
    quality = proxy_quality(_evidence(recall=0.0, right_share=0.2, place=0.0), EvalConfig(bootstrap=10, w_skill=1))
    assert (quality.retrieval, quality.skill, quality.place) == pytest.approx((-1 / 9, -0.6, -1 / 15))
    assert quality.low == pytest.approx(quality.value) == pytest.approx((-1 / 9 - 0.6 - 8 / 15) / 10)


def test_a_window_that_is_read_perfectly_counts_nothing() -> None:
    evidence = _evidence()
    evidence.right[:, 6:] = evidence.signs[:, 6:]
    assert (
        proxy_quality(evidence, EvalConfig(bootstrap=5)).value
        == proxy_quality(_evidence(), EvalConfig(bootstrap=5)).value
    )


def test_a_part_that_the_scans_cannot_offer_does_not_count() -> None:
    quality = proxy_quality(_without_pairs(_evidence()), EvalConfig(bootstrap=5, w_skill=1, w_lidar=1))
    assert quality.value == pytest.approx((0.6 / 0.9 + 0.6) / 2)
    assert math.isnan(quality.place)
    with_directions = proxy_quality(
        dataclasses.replace(_evidence(), telling_share=0.5), EvalConfig(bootstrap=5, w_skill=1, w_lidar=1)
    )
    assert with_directions.value == pytest.approx((0.6 / 0.9 + 0.6 + 8 * 0.2 + 0.5) / 11)


def test_quality_is_unknown_when_a_part_with_weight_is() -> None:
    no_signs = dataclasses.replace(_evidence(), signs=np.zeros((S, 8, 2)), right=np.zeros((S, 8, 2)))
    assert math.isnan(proxy_quality(no_signs, EvalConfig(bootstrap=5)).value)
    assert math.isnan(proxy_quality(no_signs, EvalConfig(bootstrap=5)).low)
    without = EvalConfig(bootstrap=5, w_skill=0, w_place=0)
    assert proxy_quality(no_signs, without).value == pytest.approx(0.6 / 0.9)


def test_an_axis_without_both_signs_is_left_out_of_the_mean() -> None:
    evidence = _evidence()
    evidence.signs[:, 0, 1] = evidence.right[:, 0, 1] = 0
    assert proxy_quality(evidence, EvalConfig(bootstrap=5)).skill == pytest.approx(0.6)


def _half_width(evidence: PatientEvidence) -> float:
    quality = proxy_quality(evidence, EvalConfig(w_skill=0, w_place=0, bootstrap=1000))
    assert quality.low - 1e-9 <= quality.value <= quality.high + 1e-9
    return (quality.high - quality.low) / 2


def _student_half_width(values: Float64) -> float:
    """Of the 95 % interval of a mean, by Student's t."""
    return float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))


def test_patients_that_agree_leave_no_doubt_and_others_do() -> None:
    assert _half_width(_evidence()) == pytest.approx(0, abs=1e-9)
    spread = np.linspace(0.4, 1.0, S)
    assert _half_width(_evidence(spread)) == pytest.approx(_student_half_width(spread / 0.9), rel=0.1)


def recall_of(low: float, high: float) -> Float64:
    return np.tile([low, high], S // 2)


def test_series_of_one_patient_are_not_independent() -> None:
    by_series = _evidence(np.repeat(np.linspace(0.4, 1.0, S // 2), 2))
    # two equal series of each of 6 patients, who are all that a resample can choose from
    no_pairs = _without_pairs(by_series)
    by_two = dataclasses.replace(no_pairs, patient_of_series=[f"p{s // 2:02}" for s in range(S)])
    assert _half_width(by_two) == pytest.approx(_student_half_width(np.linspace(0.4, 1.0, S // 2) / 0.9), rel=0.1)
    assert _half_width(by_two) > 1.5 * _half_width(no_pairs)


def test_equal_seeds_give_equal_intervals() -> None:
    evidence = _evidence(recall_of(0.4, 1.0))
    config = EvalConfig(bootstrap=50)
    assert dataclasses.astuple(proxy_quality(evidence, config)) == pytest.approx(
        dataclasses.astuple(proxy_quality(evidence, config)), nan_ok=True
    )


def test_sign_counts_add_up_to_sign_skill() -> None:
    prediction, target = RNG.standard_normal(60), RNG.standard_normal(60)
    signed = RNG.random(60) < 0.7
    signs, right = sign_counts(prediction, target, signed, np.arange(60) % 5, 5)
    skill = sign_skill(torch.tensor(prediction), torch.tensor(target), torch.tensor(signed))
    assert float((right.sum(axis=0) / signs.sum(axis=0)).sum() - 1) == pytest.approx(float(skill))
    assert signs.sum() == signed.sum()


def test_evidence_comes_back_from_the_run_folder_as_it_was(tmp_path: Path) -> None:
    evidence = _evidence(recall_of(0.4, math.nan))
    write_evidence(tmp_path, evidence)
    again = read_evidence(tmp_path)
    assert again is not None
    assert json.dumps(again.to_dict()) == json.dumps(evidence.to_dict())
    assert (
        proxy_quality(again, EvalConfig(bootstrap=20)).value == proxy_quality(evidence, EvalConfig(bootstrap=20)).value
    )
    (tmp_path / EVIDENCE_FILE).write_text("{")
    assert read_evidence(tmp_path) is None
    write_evidence(tmp_path, None)
    assert not (tmp_path / EVIDENCE_FILE).exists()
