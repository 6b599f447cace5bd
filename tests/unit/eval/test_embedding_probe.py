"""Probes find what is there, find nothing in noise, and cannot recognise a patient."""

from __future__ import annotations

import math

import numpy as np
import pytest

from prism_ssl.data.phantoms.anatomy import Organ
from prism_ssl.data.phantoms.truth import Place
from prism_ssl.eval.embedding_probe import place_recall, probe_classes

RNG = np.random.default_rng(0)
PATIENTS = np.repeat([f"p{number}" for number in range(12)], 6).tolist()
CLASSES = np.repeat(["CT", "MR"], 36).tolist()


def test_a_class_that_is_in_the_embedding_is_read_from_it() -> None:
    x = RNG.standard_normal((72, 8))
    x[:36, 2] += 6
    score = probe_classes(x, CLASSES, PATIENTS, k=5)
    assert score.linear > 0.95
    assert score.knn > 0.8
    assert score.chance == 0.5


def test_neighbours_are_near_in_angle_not_in_length() -> None:
    # patients of growing length, the classes in turn: by distance the nearest patient is of the other class
    length = 3.0 ** np.arange(12)[:, None]
    angle = np.tile([0.0, 0.35], 6)
    x = np.repeat(length * np.stack([np.cos(angle), np.sin(angle)], axis=1), 6, axis=0)
    x *= 1 + 0.001 * RNG.standard_normal((72, 1))
    assert probe_classes(x, np.repeat(np.tile(["CT", "MR"], 6), 6).tolist(), PATIENTS, k=5).knn == 1.0


def test_each_of_the_neighbours_has_one_vote() -> None:
    # the nearest patient is of the same class, and further two of the other one outvote it
    angle = np.array([0.0, 0.01, 0.3, 0.31])
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    assert probe_classes(x, ["CT", "CT", "MR", "MR"], ["a", "b", "c", "d"], k=3).knn == 0.0


def test_recognising_the_patient_does_not_help() -> None:
    # every patient has a direction of its own, and the classes are spread over patients at random
    x = 10 * np.eye(12)[np.repeat(np.arange(12), 6)] + 0.1 * RNG.standard_normal((72, 12))
    labels = np.repeat(["CT", "MR", "MR", "CT", "MR", "CT", "CT", "MR", "MR", "CT", "CT", "MR"], 6).tolist()
    score = probe_classes(x, labels, PATIENTS, k=5)
    assert score.knn < 0.75
    assert score.linear < 0.75


def test_a_collapsed_embedding_is_at_chance() -> None:
    score = probe_classes(np.ones((72, 8)), CLASSES, PATIENTS, k=5)
    assert score.knn == pytest.approx(0.5, abs=0.17)
    assert score.linear == pytest.approx(0.5, abs=0.17)


def test_rare_classes_and_views_without_a_label_are_left_out() -> None:
    x = RNG.standard_normal((72, 8))
    x[:36, 2] += 6
    labels: list[str | None] = list(CLASSES)
    labels[0], labels[1] = None, "PET"  # one patient's
    assert probe_classes(x, labels, PATIENTS, k=5).chance == 0.5
    assert probe_classes(x, labels, PATIENTS, k=5).linear > 0.95


@pytest.mark.parametrize("labels", [["CT"] * 72, [None] * 72, ["CT"] * 66 + ["MR"] * 6])
def test_one_class_is_nothing_to_tell(labels: list[str | None]) -> None:
    score = probe_classes(RNG.standard_normal((72, 8)), labels, PATIENTS, k=5)
    assert math.isnan(score.knn)
    assert math.isnan(score.linear)


def test_two_patients_and_many_neighbours_are_no_crash() -> None:
    x = RNG.standard_normal((8, 3))
    score = probe_classes(x, ["CT", "MR"] * 4, ["a"] * 4 + ["b"] * 4, k=50)
    assert 0 <= score.knn <= 1
    assert 0 <= score.linear <= 1


def test_place_recall_asks_other_patients_in_the_same_region() -> None:
    head, trunk = Place("head", Organ.CSF), Place("trunk", Organ.LIVER)
    places = [head, head, trunk, head, None]
    centers_mm = np.array([[0.0, 0, 0], [0.0, 0, 20], [0.0, 0, 0], [0.0, 0, 90], [0.0, 0, 0]])
    x = np.array([[1.0, 0], [1.0, 0.1], [1.0, 0.3], [0.0, 1], [1.0, 0]])
    # 0 and 1 are 20 mm apart in heads of two patients and each other's nearest; 2 is a trunk, 3 is far away
    recall, chance = place_recall(x, places, centers_mm, ["a", "b", "c", "c", "d"])
    assert (recall, chance) == pytest.approx((1.0, 1 / 3))
    same_patient = place_recall(x, places, centers_mm, ["a", "a", "c", "c", "d"])
    assert np.isnan(same_patient).all()
