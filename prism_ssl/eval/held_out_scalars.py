"""Held-out scalars of one set of view embeddings, made by an encoder or from pixel statistics.

Legend: V views, S series, E exams of the place test, D the width of an embedding.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import Float64
from prism_ssl.eval import proxy_metrics as metrics
from prism_ssl.eval.embedding_probe import place_recall, probe_classes
from prism_ssl.eval.patients import by_patient
from prism_ssl.eval.place.position import position_sums, told_positions
from prism_ssl.eval.place.retrieval import (
    CHANCE,
    PlaceAnswers,
    PlaceSet,
    centred,
    place_answers,
    place_scalars,
)
from prism_ssl.eval.probe_set import ProbeSet
from prism_ssl.eval.quality.bootstrap import POSE_AXES, position_estimate
from prism_ssl.eval.quality.composite import proxy_quality, sign_counts
from prism_ssl.eval.quality.evidence import PatientEvidence
from prism_ssl.eval.quality.questions import evaluation_settings
from prism_ssl.model.pair_targets import AxisReading, sign_skill
from prism_ssl.utils.hashing import content_hash

TELLING_SERIES_MIN = 16
"""Fewest series for ``telling_directions``: with fewer, shuffled labels do as well too often."""


@dataclass(frozen=True, eq=False)
class Answers:
    """Embeddings of the probe set's views [V, D] and of the place test's [E, 2, K, D], and the predictions for the
    pairs by axis; empty where there are none."""

    embeddings: Float64
    place: Float64
    readings: Mapping[str, AxisReading]


def held_out_scalars(
    answers: Answers, probe_set: ProbeSet, place_set: PlaceSet, config: PrismConfig
) -> tuple[dict[str, float], PatientEvidence]:
    """The scalars, without the prefix ``probe/``, and their evidence by patient; undefined scalars are NaN."""
    series = series_of_view(probe_set)
    telling = telling_directions(answers.embeddings, series, config.eval.seed)
    place = place_answers(answers.place, place_set)
    position = _position_sums(answers.embeddings, probe_set, series)
    evidence = dataclasses.replace(
        _evidence(answers, place, probe_set, place_set, series, telling["telling_directions"]),
        settings=evaluation_settings(config),
        drawn=views_hash(probe_set, place_set),
        position=position,
    )
    quality = proxy_quality(evidence, config.eval)
    values = {
        **retrieval(answers.embeddings, series),
        **_skill(answers.readings),
        **_spread(answers.embeddings, series),
        **telling,
        **class_probes(answers.embeddings, probe_set, config.eval.knn_k),
        **_places(answers.embeddings, probe_set),
        **_position(evidence),
        **place_scalars(place, place_set),
        **_centred_recall(answers.place, place_set),
        "proxy_quality": quality.value,
        "proxy_quality_low": quality.low,
        "proxy_quality_high": quality.high,
    }
    if config.eval.w_lidar > 0:
        values["proxy_quality_directions"] = quality.directions
    return values, evidence


def _centred_recall(embeddings: Float64, place_set: PlaceSet) -> dict[str, float]:
    if not place_set.pairs:
        return {}
    recall = place_answers(centred(embeddings), place_set).recall
    return {"place_recall_at_1_centred": float(by_patient(recall, place_set.patients).mean())}


def series_of_view(probe_set: ProbeSet) -> npt.NDArray[np.int64]:
    """Index of the series of each view [V], series sorted by id."""
    _, series_of_scan = np.unique([record.series_id for record in probe_set.scans], return_inverse=True)
    series: npt.NDArray[np.int64] = series_of_scan[probe_set.scan_of_view]
    return series


def retrieval(embeddings: Float64, series: npt.NDArray[np.int64]) -> dict[str, float]:
    """Recall of views of the same series, and its chance level."""
    similarity = metrics.cosine_similarity(embeddings)
    positive, candidate = metrics.same_series(series)
    values = {}
    for k in (1, 5):
        values[f"recall_at_{k}"] = float(metrics.hits_at(similarity, positive, candidate, k).mean())
        values[f"recall_at_{k}_chance"] = float(metrics.chance_at(positive, candidate, k).mean())
    return values


def telling_directions(embeddings: Float64, series: npt.NDArray[np.int64], seed: int) -> dict[str, float]:
    """Number of directions in which series differ by more than shuffled labels do, and its largest possible value."""
    most = metrics.lidar_ceiling(int(series.max()) + 1, embeddings.shape[1])
    enough = int(series.max()) + 1 >= TELLING_SERIES_MIN
    rows = metrics.telling_discriminants(embeddings, series, seed) if enough else None
    count = float(np.linalg.matrix_rank(rows)) if rows is not None else math.nan
    return {"telling_directions": count, "telling_directions_max": float(most)}


def class_probes(features: Float64, probe_set: ProbeSet, k: int) -> dict[str, float]:
    """kNN and linear probes of modality and, on phantoms, of the organ, with their chance levels."""
    patients = patients_of_views(probe_set)
    scans = [probe_set.scans[scan] for scan in probe_set.scan_of_view]
    labels: dict[str, list[str | None]] = {"modality": [scan.modality for scan in scans]}
    if any(place is not None for place in probe_set.places):
        labels["organ"] = [place.organ.name if place is not None else None for place in probe_set.places]
    values: dict[str, float] = {}
    for what, classes in labels.items():
        score = probe_classes(features, classes, patients, k)
        values |= {f"knn_{what}": score.knn, f"linear_{what}": score.linear, f"{what}_chance": score.chance}
    return values


def patients_of_views(probe_set: ProbeSet) -> list[str]:
    """Hashed id of the patient of each view [V]."""
    return [probe_set.scans[scan].subject_id for scan in probe_set.scan_of_view]


def _places(embeddings: Float64, probe_set: ProbeSet) -> dict[str, float]:
    if not any(place is not None for place in probe_set.places):
        return {}
    centers_mm = np.stack([view.center_mm for view in probe_set.views])
    recall, chance = place_recall(embeddings, probe_set.places, centers_mm, patients_of_views(probe_set))
    return {"position_recall_at_1": recall, "position_recall_at_1_chance": chance}


def _position_sums(embeddings: Float64, probe_set: ProbeSet, series: npt.NDArray[np.int64]) -> Float64:
    told = told_positions(embeddings, probe_set.positions, patients_of_views(probe_set))
    return position_sums(told, probe_set.positions, series, int(series.max()) + 1)


def _position(evidence: PatientEvidence) -> dict[str, float]:
    """``position_skill`` and its interval; nothing where no position is known, or there is one patient only."""
    value, low, high = position_estimate(evidence)
    return {"position_skill": value, "position_skill_low": low, "position_skill_high": high} if value == value else {}


def _skill(readings: Mapping[str, AxisReading]) -> dict[str, float]:
    skills = {
        axis: float(sign_skill(reading.prediction, reading.target, reading.signed.bool()))
        for axis, reading in readings.items()
        if axis != "distance"
    }
    pose = [skills[axis] for axis in POSE_AXES if axis in skills]
    means = {"skill_mean": list(skills.values()), "pose_skill_mean": pose}
    return {f"skill/{axis}": skill for axis, skill in skills.items()} | {
        name: _mean_of_known(values) for name, values in means.items()
    }


def _mean_of_known(values: list[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return float(np.mean(known)) if known else math.nan


def _spread(embeddings: Float64, series: npt.NDArray[np.int64]) -> dict[str, float]:
    std = metrics.dimension_std(embeddings)
    return {
        "lidar": metrics.lidar(metrics.discriminants(embeddings, series)),
        "rankme": metrics.rankme(embeddings),
        "alignment": metrics.alignment(embeddings, series),
        "uniformity": metrics.uniformity(embeddings),
        "std_mean": float(std.mean()),
        "std_min": float(std.min()),
    }


def views_hash(probe_set: ProbeSet, place_set: PlaceSet) -> str:
    """Hash of all views and points of pairs, rounded: processors differ in the last digits."""
    rows = [(*view.center_mm, *view.rotation_deg, view.window_center, view.window_width) for view in probe_set.views]
    return content_hash([np.round(each, 3).tolist() for each in (rows, place_set.points_mm)])


def _evidence(
    answers: Answers,
    place: PlaceAnswers,
    probe_set: ProbeSet,
    place_set: PlaceSet,
    series: npt.NDArray[np.int64],
    telling: float,
) -> PatientEvidence:
    names, first = np.unique([record.series_id for record in probe_set.scans], return_index=True)
    n_series = len(names)
    positive, candidate = metrics.same_series(series)
    hits = metrics.hits_at(metrics.cosine_similarity(answers.embeddings), positive, candidate, k=1)
    axes = [axis for axis in answers.readings if axis != "distance"]
    counts = [
        sign_counts(r.prediction.numpy(), r.target.numpy(), r.signed.bool().numpy(), series[::2], n_series)
        for r in (answers.readings[axis] for axis in axes)
    ]
    signs, right = (
        np.stack([pair[which] for pair in counts], axis=1) if counts else np.empty((n_series, 0, 2)) for which in (0, 1)
    )
    return PatientEvidence(
        series=[str(name) for name in names],
        patient_of_series=[probe_set.scans[scan].subject_id for scan in first],
        recall=np.array([hits[series == each].mean() for each in range(n_series)]),
        recall_chance=float(metrics.chance_at(positive, candidate, k=1).mean()),
        axes=axes,
        signs=signs,
        right=right,
        pairs=[(a.record.series_id, b.record.series_id) for a, b in place_set.pairs],
        patient_of_pair=place_set.patients,
        place_recall=place.recall,
        place_distance_mm=place.distance_mm,
        place_chance=CHANCE,
        telling_share=telling / max(metrics.lidar_ceiling(n_series, answers.embeddings.shape[1]), 1),
    )
