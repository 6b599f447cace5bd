"""Held-out evaluation of a network, and of what needs no training, on the probe set and the place test."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import (
    PATCH_PX,
    PATCH_SCALE,
    PLACE_POINTS,
    Float64,
    PreparedScan,
    PrismBatch,
    PrismOutput,
)
from prism_ssl.eval import proxy_metrics as metrics
from prism_ssl.eval.baselines import PIXELS, RANDOM, compared, pixel_evaluation, scanner_scalars
from prism_ssl.eval.held_out_scalars import Answers, held_out_scalars
from prism_ssl.eval.place.retrieval import PlaceSet, no_places, place_gain
from prism_ssl.eval.probe_set import ProbeSet
from prism_ssl.eval.quality.evidence import PatientEvidence
from prism_ssl.model.network import PrismNet, build_network
from prism_ssl.model.pair_targets import (
    AxisReading,
    TargetScales,
    pair_targets,
    score_classification,
    score_regression,
)
from prism_ssl.model.precision import inference_autocast


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The ``probe/`` scalars without their prefix; ``evidence`` is None where an embedding is not finite."""

    values: dict[str, float]
    evidence: PatientEvidence | None
    answers: Answers


def evaluate_untrained(
    network: PrismNet,
    asked: Answers,
    probe_set: ProbeSet,
    place_set: PlaceSet,
    held_out: Sequence[PreparedScan],
    config: PrismConfig,
) -> tuple[dict[str, float], dict[str, Float64]]:
    """The baselines: random weights, pixel statistics, the scanner. Scalars, and place recall [Q] by ending.

    Args:
        network: the random weights come to its device; they follow from ``eval.seed``.
        asked: its answers; they hold the questions' targets.
        probe_set, place_set: the views.
        held_out: all held-out scans.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.eval.seed)  # of the CPU alone
        fresh = build_network(config.model)
    fresh = fresh.to(next(network.parameters()).device)
    untrained = evaluate(fresh, probe_set, config, place_set)
    pixels, of_pixels = pixel_evaluation(asked, probe_set, place_set, config)
    evidence = {RANDOM: untrained.evidence, PIXELS: of_pixels}
    values = (
        compared(untrained.values, RANDOM) | compared(pixels, PIXELS) | scanner_scalars(held_out, probe_set, config)
    )
    return values, {ending: each.place_recall for ending, each in evidence.items() if each is not None}


def place_gains(evidence: PatientEvidence | None) -> dict[str, float]:
    """``place_gain*``: place recall less that of each baseline, with its interval over patients."""
    if evidence is None or not evidence.pairs:
        return {}
    return {
        f"place_gain{ending}{end}": value
        for ending, recall in evidence.untrained_place.items()
        for end, value in zip(
            ("", "_low", "_high"), place_gain(evidence.place_recall, recall, evidence.patient_of_pair), strict=True
        )
    }


def evaluate(
    network: PrismNet, probe_set: ProbeSet, config: PrismConfig, place_set: PlaceSet | None = None
) -> Evaluation:
    """Evaluate ``network``; undefined scalars are NaN.

    ``r2/*`` is there for regression only, ``*_organ`` and ``position_*`` for phantoms only, ``place_*`` where there are
    pairs. Where an embedding is not finite, only counts are returned, because scalars over the remaining views would
    mislead. The network's mode and the global random generators are restored.
    """
    place_set = place_set or no_places()
    answers = ask(network, probe_set, config, place_set)
    not_finite = [~np.isfinite(each).all(axis=-1) for each in (answers.embeddings, answers.place)]
    counts = {
        "scans": float(len(probe_set.scans)),
        "scans_left_out": float(len(probe_set.left_out)),
        "views_not_finite": float(sum(int(each.sum()) for each in not_finite)),
    }
    if counts["views_not_finite"]:
        return Evaluation(counts, None, answers)
    values, evidence = held_out_scalars(answers, probe_set, place_set, config)
    r2 = _r2(answers) if config.model.objective == "regression" else {}
    return Evaluation(counts | values | r2, evidence, answers)


def ask(network: PrismNet, probe_set: ProbeSet, config: PrismConfig, place_set: PlaceSet | None = None) -> Answers:
    """Embeddings and pair predictions of a network in evaluation mode, under ``inference_autocast``."""
    was_training = network.training
    network.eval()
    try:
        embeddings, readings = _ask_pairs(network, probe_set, config)
        place = _embed_places(network, place_set or no_places(), config)
    finally:
        network.train(was_training)
    return Answers(embeddings, place, readings)


def _ask_pairs(network: PrismNet, probe_set: ProbeSet, config: PrismConfig) -> tuple[Float64, dict[str, AxisReading]]:
    device = next(network.parameters()).device
    step = max(1, config.eval.batch_views // 2)
    embeddings, readings = list[torch.Tensor](), list[dict[str, AxisReading]]()
    for start in range(0, probe_set.n_pairs, step):
        batch = probe_set.pairs(start, min(start + step, probe_set.n_pairs), device)
        with torch.no_grad(), inference_autocast(config.train.precision, device):
            output = network(batch.patches_a, batch.positions_a, batch.patches_b, batch.positions_b)
            readings.append(_read(output, batch, config))
            sides = output.embedding_a, output.embedding_b
            if config.eval.pooling == "mean":
                a = _embedded(network, batch.patches_a, batch.positions_a, config)
                sides = a, _embedded(network, batch.patches_b, batch.positions_b, config)
        embeddings.append(torch.stack(sides, dim=1).flatten(0, 1).cpu())
    joined = {axis: _joined([each[axis] for each in readings]) for axis in readings[0]}
    return torch.cat(embeddings).double().numpy(), joined


def _embed_places(network: PrismNet, place_set: PlaceSet, config: PrismConfig) -> Float64:
    """Embeddings of the views of the place test, [E, 2, K, D]."""
    device = next(network.parameters()).device
    shape, N = place_set.patches.shape[:3], place_set.patches.shape[3]
    patches = torch.from_numpy(place_set.patches).reshape(-1, N, PATCH_PX, PATCH_PX, 1)
    positions = torch.from_numpy(place_set.positions_mm).reshape(-1, N, 3)
    embeddings = list[torch.Tensor]()
    for some, where in zip(
        patches.split(config.eval.batch_views), positions.split(config.eval.batch_views), strict=True
    ):
        if len(some):
            with torch.no_grad(), inference_autocast(config.train.precision, device):
                pixels = some.to(device).float().mul_(1.0 / PATCH_SCALE)
                embeddings.append(_embedded(network, pixels, where.to(device), config).float().cpu())
    if not embeddings:
        return np.empty((0, 2, PLACE_POINTS, 0))
    return torch.cat(embeddings).double().numpy().reshape(*shape, -1)


def _embedded(
    network: PrismNet, patches: torch.Tensor, positions_mm: torch.Tensor, config: PrismConfig
) -> torch.Tensor:
    """Embeddings [B, D] as ``eval.pooling`` has them."""
    if config.eval.pooling == "cls":
        cls: torch.Tensor = network.encoder(patches, positions_mm)
        return cls
    tokens: torch.Tensor = network.encoder(patches, positions_mm, return_patches=True)[1]
    return tokens.mean(dim=1)


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


def _r2(answers: Answers) -> dict[str, float]:
    return {
        f"r2/{axis}": metrics.r2(reading.prediction.double().numpy(), reading.target.double().numpy())
        for axis, reading in answers.readings.items()
    }
