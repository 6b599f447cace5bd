"""Probe labels with several encoders on the same scans: scores, paired differences, and label-efficiency curves."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from prism_ssl.config.operations import EvalConfig
from prism_ssl.embed.probe.labels import Encoders, LabelTask, rows_of
from prism_ssl.eval.frozen_probe import (
    PatientScore,
    difference,
    estimate,
    predicted_across_patients,
    sizes_of_curve,
)
from prism_ssl.eval.patients import Estimate

CURVE_DRAWS = 3
"""Draws of the patients of each point of a curve; the point is their mean."""


@dataclass(frozen=True)
class Row:
    """One encoder's answer to a task. ``better`` is the score of the probed encoder less this one's, paired."""

    encoder: str
    score: Estimate
    better: Estimate | None
    curve: dict[int, float]
    """Patients fitted on -> score."""


@dataclass(frozen=True)
class Found:
    """A task, its chance level, and a row for each encoder; the first is the one that is probed."""

    label: str
    measure: str
    chance: float
    scans: int
    patients: int
    classes: dict[str, int]
    rows: list[Row]


def compare(task: LabelTask, encoders: Encoders, config: EvalConfig) -> Found:
    """Probe one label with every encoder."""
    at = rows_of(task.scans, encoders)
    sizes = sizes_of_curve(len(set(task.patients)))
    rows, first = list[Row](), None
    for name, x in encoders.x.items():
        score = PatientScore(task, predicted_across_patients(x[at], task))
        curve = {size: _at_size(x[at], task, size) for size in sizes[:-1]} | {sizes[-1]: score.value}
        rows.append(Row(name, estimate(score, config), difference(first, score, config) if first else None, curve))
        first = first or score
    classes = dict(Counter(task.y.tolist()).most_common()) if task.kind == "classes" else {}
    patients = len(set(task.patients))
    return Found(task.name, task.measure, task.chance, len(task.scans), patients, classes, rows)


def _at_size(x: np.ndarray, task: LabelTask, size: int) -> float:
    told = [predicted_across_patients(x, task, size, seed) for seed in range(CURVE_DRAWS)]
    return float(np.mean([PatientScore(task, each).value for each in told]))
