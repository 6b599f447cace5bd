"""The held-out evaluation of a network: probe set in, scalars out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import BrokenScan, Float64, PreparedScan, PrismBatch, PrismOutput
from prism_ssl.eval import proxy_metrics as metrics
from prism_ssl.eval.embedding_probe import place_recall, probe_classes
from prism_ssl.eval.probe_set import ProbeSet, build_probe_set
from prism_ssl.eval.proxy_quality import SeriesEvidence, proxy_quality, sign_counts
from prism_ssl.model.network import PrismNet, build_network
from prism_ssl.model.pair_targets import (
    AxisReading,
    TargetScales,
    pair_targets,
    score_classification,
    score_regression,
    sign_skill,
)
from prism_ssl.model.precision import autocast_for

UNTRAINED = (
    "recall_at_1",
    "recall_at_5",
    "lidar_relative",
    "position_recall_at_1",
    *(f"{probe}_{what}" for what in ("modality", "organ") for probe in ("knn", "linear")),
)
"""What is also asked of the encoder before any training: all that needs no trained heads."""


@dataclass(frozen=True, eq=False)
class Answers:
    """What a network says about the probe set: embeddings [V, D], and its readings of the pairs by axis."""

    embeddings: Float64
    readings: dict[str, AxisReading]


class Evaluator:
    """Evaluates the encoders of one run on one probe set, which is drawn at the first call."""

    def __init__(self, held_out: Sequence[PreparedScan], config: PrismConfig, catalog: Path) -> None:
        self._held_out, self._config, self._catalog = held_out, config, catalog
        self._probe_set: ProbeSet | None = None
        self._untrained: dict[str, float] = {}

    @property
    def left_out(self) -> list[BrokenScan]:
        """Held-out scans that did not open; known after the first call."""
        return self._probe_set.left_out if self._probe_set else []

    def __call__(self, network: PrismNet) -> dict[str, float]:
        """``evaluate``, and beside it what the same encoder reaches untrained (``*_random_init``, see ``UNTRAINED``);
        empty without scans."""
        if self._probe_set is None:
            self._probe_set = build_probe_set(self._held_out, self._config, self._catalog)
        if not self._probe_set.scans:
            return {}
        if not self._untrained:
            self._untrained = _untrained(network, self._probe_set, self._config)
        return evaluate(network, self._probe_set, self._config) | self._untrained


def evaluate(network: PrismNet, probe_set: ProbeSet, config: PrismConfig) -> dict[str, float]:
    """The ``probe/`` scalars of ``network``, without their prefix; what cannot be said is NaN.

    ``r2/*`` is there for regression only, ``*_organ`` and ``position_*`` for phantoms only, and nothing but counts
    where an embedding is not finite: no number is better than one that leaves views out. The network's mode and
    the global random generators are as before.
    """
    answers = ask(network, probe_set, config)
    series = _series_of_view(probe_set)
    not_finite = ~np.isfinite(answers.embeddings).all(axis=1)
    counts = {
        "scans": float(len(probe_set.scans)),
        "scans_left_out": float(len(probe_set.left_out)),
        "views_not_finite": float(not_finite.sum()),
    }
    if not_finite.any():
        return counts
    values = {
        **counts,
        **_retrieval(answers.embeddings, series),
        **_skill(answers.readings),
        **(_r2(answers.readings) if config.model.objective == "regression" else {}),
        **_spread(answers.embeddings, series),
        **_probes(answers.embeddings, probe_set, config.eval.knn_k),
    }
    return values | _quality(answers, series, config)


def ask(network: PrismNet, probe_set: ProbeSet, config: PrismConfig) -> Answers:
    """Embeddings and pair answers of a network in evaluation mode, in the precision of training."""
    device = next(network.parameters()).device
    step = max(1, config.eval.batch_views // 2)
    embeddings, readings = list[torch.Tensor](), list[dict[str, AxisReading]]()
    was_training = network.training
    network.eval()
    try:
        for start in range(0, probe_set.n_pairs, step):
            batch = probe_set.pairs(start, min(start + step, probe_set.n_pairs), device)
            with torch.no_grad(), autocast_for(config.train.precision, device):
                output = network(batch.patches_a, batch.positions_a, batch.patches_b, batch.positions_b)
                readings.append(_read(output, batch, config))
            embeddings.append(torch.stack([output.embedding_a, output.embedding_b], dim=1).flatten(0, 1).cpu())
    finally:
        network.train(was_training)
    return Answers(
        embeddings=torch.cat(embeddings).double().numpy(),
        readings={axis: _joined([each[axis] for each in readings]) for axis in readings[0]},
    )


def _read(output: PrismOutput, batch: PrismBatch, config: PrismConfig) -> dict[str, AxisReading]:
    targets = pair_targets(batch, TargetScales.from_config(config.loss, config.view))
    readings: dict[str, AxisReading] = {}
    for head, target in targets.items():
        answer = getattr(output, head)
        if config.model.objective == "classification":
            readings |= score_classification(head, answer, target).readings
        else:
            readings |= score_regression(head, answer, target, config.loss.normalize_targets).readings
    return readings


def _joined(parts: list[AxisReading]) -> AxisReading:
    names = [field.name for field in dataclasses.fields(AxisReading)]
    return AxisReading(*(torch.cat([getattr(part, name) for part in parts]).cpu() for name in names))


def _untrained(network: PrismNet, probe_set: ProbeSet, config: PrismConfig) -> dict[str, float]:
    """The scalars ``UNTRAINED`` of freshly initialised weights, which follow from ``eval.seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.eval.seed)
        fresh = build_network(config.model)
    values = evaluate(fresh.to(next(network.parameters()).device), probe_set, config)
    return {f"{name}_random_init": values[name] for name in UNTRAINED if name in values}


def _series_of_view(probe_set: ProbeSet) -> npt.NDArray[np.int64]:
    _, series_of_scan = np.unique([record.series_id for record in probe_set.scans], return_inverse=True)
    series: npt.NDArray[np.int64] = series_of_scan[probe_set.scan_of_view]
    return series


def _retrieval(embeddings: Float64, series: npt.NDArray[np.int64]) -> dict[str, float]:
    similarity = metrics.cosine_similarity(embeddings)
    positive, candidate = metrics.same_series(series)
    values = {}
    for k in (1, 5):
        values[f"recall_at_{k}"] = float(metrics.hits_at(similarity, positive, candidate, k).mean())
        values[f"recall_at_{k}_chance"] = float(metrics.chance_at(positive, candidate, k).mean())
    return values


def _skill(readings: dict[str, AxisReading]) -> dict[str, float]:
    skills = {
        axis: float(sign_skill(reading.prediction, reading.target, reading.signed.bool()))
        for axis, reading in readings.items()
        if axis != "distance"
    }
    known = [skill for skill in skills.values() if math.isfinite(skill)]
    values = {f"skill/{axis}": skill for axis, skill in skills.items()}
    return values | {"skill_mean": float(np.mean(known)) if known else math.nan}


def _r2(readings: dict[str, AxisReading]) -> dict[str, float]:
    return {
        f"r2/{axis}": metrics.r2(reading.prediction.double().numpy(), reading.target.double().numpy())
        for axis, reading in readings.items()
    }


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


def _probes(embeddings: Float64, probe_set: ProbeSet, k: int) -> dict[str, float]:
    scans = [probe_set.scans[scan] for scan in probe_set.scan_of_view]
    patients = [scan.subject_id for scan in scans]
    labels: dict[str, list[str | None]] = {"modality": [scan.modality for scan in scans]}
    values: dict[str, float] = {}
    if any(place is not None for place in probe_set.places):
        labels["organ"] = [place.organ.name if place is not None else None for place in probe_set.places]
        centers_mm = np.stack([view.center_mm for view in probe_set.views])
        recall, chance = place_recall(embeddings, probe_set.places, centers_mm, patients)
        values |= {"position_recall_at_1": recall, "position_recall_at_1_chance": chance}
    for what, classes in labels.items():
        score = probe_classes(embeddings, classes, patients, k)
        values |= {f"knn_{what}": score.knn, f"linear_{what}": score.linear, f"{what}_chance": score.chance}
    return values


def _quality(answers: Answers, series: npt.NDArray[np.int64], config: PrismConfig) -> dict[str, float]:
    n_series = int(series.max()) + 1
    positive, candidate = metrics.same_series(series)
    hits = metrics.hits_at(metrics.cosine_similarity(answers.embeddings), positive, candidate, k=1)
    counts = [
        sign_counts(
            reading.prediction.numpy(), reading.target.numpy(), reading.signed.bool().numpy(), series[::2], n_series
        )
        for axis, reading in answers.readings.items()
        if axis != "distance"
    ]
    evidence = SeriesEvidence(
        hits=np.array([hits[series == each].mean() for each in range(n_series)]),
        signs=np.stack([signs for signs, _ in counts], axis=1),
        right=np.stack([right for _, right in counts], axis=1),
        discriminants=metrics.telling_discriminants(answers.embeddings, series, config.eval.seed),
        width=answers.embeddings.shape[1],
    )
    quality = proxy_quality(evidence, config.eval)
    return {
        "lidar_relative": quality.lidar,
        "proxy_quality": quality.value,
        "proxy_quality_low": quality.low,
        "proxy_quality_high": quality.high,
    }
