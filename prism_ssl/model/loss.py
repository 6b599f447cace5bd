"""The training objective: pair losses and SupCon on its ramp, each with its chance level."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from prism_ssl.config.network import Objective
from prism_ssl.config.schema import LossConfig, ViewConfig
from prism_ssl.contracts import PairFacts, PrismOutput
from prism_ssl.model.pair_targets import (
    AxisReading,
    Head,
    HeadScore,
    HeadScorer,
    TargetScales,
    pair_targets,
    score_classification,
    score_regression,
)
from prism_ssl.model.positives import Contrast, by_label, by_place
from prism_ssl.model.schedules import supcon_weight
from prism_ssl.model.supcon import PositiveStats, contrastive_loss, distinct_labels, positive_stats


@dataclass(frozen=True)
class LossTerm:
    """One term of the total, detached: its value, its chance level (guide 9), and its weight at this step.

    Where there is nothing to normalise (signs, SupCon, hidden patches), raw and normalised are the same number.
    """

    raw: Float[Tensor, ""]
    normalized: Float[Tensor, ""]
    chance_raw: Float[Tensor, ""]
    chance_normalized: Float[Tensor, ""]
    weight: float
    optimizes_normalized: bool

    @property
    def value(self) -> Tensor:
        """The number that enters the total, before its weight."""
        return self.normalized if self.optimizes_normalized else self.raw

    @property
    def chance(self) -> Tensor:
        """``value`` of a predictor that ignores the images."""
        return self.chance_normalized if self.optimizes_normalized else self.chance_raw


@dataclass(frozen=True)
class LossReport:
    """All losses of a step. Only ``total`` carries gradients; every tensor stays on the device.

    ``terms`` has the keys distance, rotation, window_center, window_width and supcon, and masked where patches are
    hidden; ``readings`` the axes (distance,) dx, dy, dz, rx, ry, rz, wc, ww. ``embeddings`` are those of views
    a, then of views b.
    """

    total: Float[Tensor, ""]
    terms: dict[str, LossTerm]
    positives: PositiveStats
    distinct_series: Float[Tensor, ""]
    readings: dict[str, AxisReading]
    embeddings: Float[Tensor, "M D"]

    @property
    def supcon_weight(self) -> float:
        """Weight of SupCon at this step of the ramp."""
        return self.terms["supcon"].weight


def head_weights(loss: LossConfig) -> dict[Head, float]:
    """Weight of each pair head; 0 for all of them in the SimCLR baseline."""
    pairs = 0.0 if loss.simclr_baseline else 1.0
    return {
        "distance": pairs * loss.w_distance,
        "rotation": pairs * loss.w_rotation,
        "window_center": pairs * loss.w_window,
        "window_width": pairs * loss.w_window,
    }


class LossBundle:
    """The objective of a run: (output, batch, step) -> ``LossReport``.

    With ``loss.simclr_baseline`` it is NT-Xent (Chen et al. 2020, eq. 1) alone: weight 1 from the first step, every
    other view of the batch a negative, the same series included, and pair heads of weight 0.

    A term of weight 0 is computed for the record and stays outside the graph. ``Learner`` ensures that its parameters
    get no gradient at all, compiled or not, so AdamW neither decays them nor builds up moments for them.
    """

    def __init__(self, loss: LossConfig, view: ViewConfig, objective: Objective) -> None:
        self.config = loss
        self.scales = TargetScales.from_config(loss, view)
        self._score: HeadScorer = score_classification
        if objective == "regression":
            self._score = partial(score_regression, normalized_output=loss.normalize_targets)
        self._head_weights = head_weights(loss)
        self._w_masked = 0.0 if loss.simclr_baseline else loss.w_masked

    def contrast(self, batch: PairFacts) -> Contrast:
        """SupCon's positives and negatives among views a, then views b: by series or by place; for SimCLR by pair."""
        cfg, labels = self.config, batch.series_label
        if cfg.simclr_baseline:
            return by_label(torch.arange(len(labels), device=labels.device).repeat(2))
        if cfg.supcon_positives == "place":
            return by_place(batch, cfg.place_near_mm, cfg.place_apart_mm)
        return by_label(labels.repeat(2))

    def _score_heads(self, output: PrismOutput, batch: PairFacts) -> dict[Head, HeadScore]:
        outputs: dict[Head, Tensor] = {
            "distance": output.distance,
            "rotation": output.rotation,
            "window_center": output.window_center,
            "window_width": output.window_width,
        }
        targets = pair_targets(batch, self.scales)
        return {head: self._score(head, outputs[head], targets[head]) for head in outputs}

    def _supcon_weight(self, step: int) -> float:
        cfg = self.config
        if cfg.simclr_baseline:
            return 1.0
        return supcon_weight(step, cfg.supcon_warmup_steps, cfg.supcon_ramp_steps, cfg.w_supcon_target)

    def __call__(self, output: PrismOutput, batch: PairFacts, step: int) -> LossReport:
        """Losses of one batch at 0-based ``step``, without a device sync."""
        scores = self._score_heads(output, batch)
        contrast, weight = self.contrast(batch), self._supcon_weight(step)
        projections = torch.cat([output.projection_a, output.projection_b])
        supcon = contrastive_loss(projections, contrast, self.config.supcon_temperature)
        positives = positive_stats(contrast)
        normalized = self.config.normalize_targets
        total = output.embedding_a.sum() * 0.0  # a path to the encoder even when every weight is 0
        for head, score in scores.items():
            if self._head_weights[head] > 0:
                total = total + self._head_weights[head] * (score.normalized if normalized else score.raw)
        if weight > 0:
            total = total + weight * supcon
        terms: dict[str, LossTerm] = {
            head: _head_term(score, self._head_weights[head], normalized) for head, score in scores.items()
        }
        terms["supcon"] = _normalized_term(supcon, positives.chance, weight)
        if self._w_masked > 0:
            masked = output.masked_error.mean()
            total = total + self._w_masked * masked
            terms["masked"] = _normalized_term(masked, torch.ones_like(masked), self._w_masked)
        return LossReport(
            total=total,
            terms=terms,
            positives=positives,
            distinct_series=distinct_labels(batch.series_label),
            readings={name: reading for score in scores.values() for name, reading in score.readings.items()},
            embeddings=torch.cat([output.embedding_a, output.embedding_b]).detach(),
        )


def _head_term(score: HeadScore, weight: float, normalized: bool) -> LossTerm:
    return LossTerm(
        raw=score.raw.detach(),
        normalized=score.normalized.detach(),
        chance_raw=score.chance_raw,
        chance_normalized=score.chance_normalized,
        weight=weight,
        optimizes_normalized=normalized,
    )


def _normalized_term(loss: Float[Tensor, ""], chance: Float[Tensor, ""], weight: float) -> LossTerm:
    value, at_chance = loss.detach(), chance.detach()
    return LossTerm(value, value, at_chance, at_chance, weight, optimizes_normalized=True)
