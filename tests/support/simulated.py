"""Simulated held-out patients and sweeps whose truth is known."""

from __future__ import annotations

import numpy as np
import polars as pl
from scipy.special import expit

from prism_ssl.config.operations import EvalConfig
from prism_ssl.contracts import Float64
from prism_ssl.eval.quality.bootstrap import POSE_AXES
from prism_ssl.eval.quality.evidence import PatientEvidence
from tune.core24 import DERIVED, LEVELS, DesignPoint, design_points

RECALL_CHANCE, PLACE_CHANCE, VIEWS = 0.05, 1 / 16, 8


def answers(rng: np.random.Generator, patients: int, series: int, pairs: int, skill: float = 0.0) -> PatientEvidence:
    """An encoder's answers about patients of whom some are easy for every question."""
    easy = rng.normal(size=patients)
    of = np.repeat(np.arange(patients), series)
    recall = rng.binomial(VIEWS, expit(skill - 0.5 + 0.9 * easy[of] + 0.4 * rng.normal(size=len(of)))) / VIEWS
    right = expit(skill + 0.6 + 0.5 * easy[of][:, None] + 0.3 * rng.normal(size=(len(of), len(POSE_AXES))))
    signs = rng.integers(3, 9, (len(of), len(POSE_AXES), 2))
    place = rng.binomial(16, expit(skill - 1.0 + 0.8 * easy[:pairs])) / 16
    return PatientEvidence(
        series=[f"s{number}" for number in range(len(of))],
        patient_of_series=[f"p{number:03}" for number in of],
        recall=recall,
        recall_chance=RECALL_CHANCE,
        axes=list(POSE_AXES),
        signs=signs.astype(float),
        right=rng.binomial(signs, right[:, :, None]).astype(float),
        pairs=[(f"s{number}", "t") for number in range(pairs)],
        patient_of_pair=[f"p{number:03}" for number in range(pairs)],
        place_recall=place,
        place_distance_mm=np.full(pairs, 30.0),
        place_chance=PLACE_CHANCE,
        telling_share=np.nan,
        position=_position(rng, easy[of], skill),
    )


def _position(rng: np.random.Generator, easy: Float64, skill: float) -> Float64:
    """Sums of positions [S, 3, 6] that correlate with the true ones, more where a patient is easy."""
    r = np.clip(0.5 + 0.1 * skill + 0.15 * easy, 0, 1)[:, None, None]
    true, noise = rng.normal(size=(2, len(easy), VIEWS, 3))
    told = r * true + np.sqrt(1 - r**2) * noise
    sums: Float64 = np.stack([np.ones_like(told), told, true, told * true, told**2, true**2], axis=3).sum(axis=1)
    return sums


def true_position() -> float:
    """Position skill over infinitely many patients."""
    return float(np.clip(0.5 + 0.15 * np.random.default_rng(3).normal(size=10**6), 0, 1).mean())


def true_skill() -> float:
    """Sign skill of every axis over infinitely many patients."""
    easy, own = np.random.default_rng(2).normal(size=(2, 10**6))
    return float(2 * expit(0.6 + 0.5 * easy + 0.3 * own).mean() - 1)


def true_quality() -> float:
    """What infinitely many patients would say."""
    rng = np.random.default_rng(1)
    easy, own = rng.normal(size=(2, 10**6))
    recall = float(expit(-0.5 + 0.9 * easy + 0.4 * own).mean())
    right = float(expit(0.6 + 0.5 * easy + 0.3 * own).mean())
    place = float(expit(-1.0 + 0.8 * easy).mean())
    recall, place = (recall - RECALL_CHANCE) / (1 - RECALL_CHANCE), (place - PLACE_CHANCE) / (1 - PLACE_CHANCE)
    config = EvalConfig()
    weights = config.w_retrieval, config.w_skill, config.w_place, config.w_position
    return float(np.average((recall, 2 * right - 1, place, true_position()), weights=weights))


FACTORS = [*LEVELS, DERIVED]


def sweep(seed: int, noise: float) -> tuple[pl.DataFrame, dict[tuple[object, ...], float]]:
    """24 runs with additive effects and noise; the truth of all 48 cells."""
    rng = np.random.default_rng(seed)
    effect = {(f, level): rng.normal(0, 0.01) for f, levels in LEVELS.items() for level in levels}
    effect |= {(DERIVED, objective): rng.normal(0, 0.01) for objective in ("regression", "classification")}
    truth = {_cell(point): 0.3 + sum(effect[f, point.levels[f]] for f in FACTORS) for point in design_points("full")}
    rows = [
        {
            "run": point.name,
            "status": "ok",
            **point.levels,
            "q": truth[tuple(point.levels[f] for f in FACTORS)] + rng.normal(0, noise),
        }
        for point in design_points("half")
    ]
    return pl.from_dicts(rows), truth


def _cell(point: DesignPoint) -> tuple[object, ...]:
    return tuple(point.levels[factor] for factor in FACTORS)


def evidence_of(recall: Float64) -> PatientEvidence:
    """As many patients of one series each as there are recalls, and nothing but recall to tell runs by."""
    series, nothing = len(recall), np.zeros((len(recall), 1, 2))
    return PatientEvidence(
        series=[f"s{number}" for number in range(series)],
        patient_of_series=[f"p{number:02}" for number in range(series)],
        recall=recall,
        recall_chance=0.0,
        axes=["dx"],
        signs=nothing + 1,
        right=nothing,
        pairs=[],
        patient_of_pair=[],
        place_recall=np.empty(0),
        place_distance_mm=np.empty(0),
        place_chance=float("nan"),
        telling_share=float("nan"),
    )
