"""The training objective: pair losses, SupCon on its ramp, and everything needed to judge their values."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from prism_ssl.config.schema import LossConfig, Objective, ViewConfig
from prism_ssl.contracts import PrismBatch, PrismOutput
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
from prism_ssl.model.schedules import supcon_weight
from prism_ssl.model.supcon import PositiveStats, positive_stats, supcon_chance, supervised_contrastive_loss


@dataclass(frozen=True)
class LossTerm:
    """One term of the total, detached: its value, what chance would give (guide 9), and its weight this step.

    Where there is nothing to normalise (signs, SupCon), raw and normalised are the same number.
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
        """What ``value`` would be without looking at the images."""
        return self.chance_normalized if self.optimizes_normalized else self.chance_raw


@dataclass(frozen=True)
class LossReport:
    """All losses of a step. Only ``total`` carries gradients; nothing here has left the device.

    ``terms`` has the keys distance, rotation, window_center, window_width and supcon; ``readings`` the axes
    (distance,) dx, dy, dz, rx, ry, rz, wc, ww.
    """

    total: Float[Tensor, ""]
    terms: dict[str, LossTerm]
    positives: PositiveStats
    readings: dict[str, AxisReading]

    @property
    def supcon_weight(self) -> float:
        """Weight of SupCon at this step of the ramp."""
        return self.terms["supcon"].weight

    @property
    def chance_total(self) -> Tensor:
        """What ``total`` would be with every term at its chance level."""
        return torch.stack([term.weight * term.chance for term in self.terms.values()]).sum()


class LossBundle:
    """The objective of a run: (output, batch, step) -> ``LossReport``.

    A term of weight 0 is computed for the record and stays outside the graph: its parameters get no gradient
    at all (``grad is None``), so AdamW neither decays them nor builds up moments for them.
    """

    def __init__(self, loss: LossConfig, view: ViewConfig, objective: Objective) -> None:
        self.config = loss
        self.scales = TargetScales.from_config(loss, view)
        self._score: HeadScorer = score_classification
        if objective == "regression":
            self._score = partial(score_regression, normalized_output=loss.normalize_targets)
        self._head_weights: dict[Head, float] = {
            "distance": loss.w_distance,
            "rotation": loss.w_rotation,
            "window_center": loss.w_window,
            "window_width": loss.w_window,
        }

    def _score_heads(self, output: PrismOutput, batch: PrismBatch) -> dict[Head, HeadScore]:
        outputs: dict[Head, Tensor] = {
            "distance": output.distance,
            "rotation": output.rotation,
            "window_center": output.window_center,
            "window_width": output.window_width,
        }
        targets = pair_targets(batch, self.scales)
        return {head: self._score(head, outputs[head], targets[head]) for head in outputs}

    def _supcon(self, output: PrismOutput, batch: PrismBatch) -> Float[Tensor, ""]:
        projections = torch.cat([output.projection_a, output.projection_b])
        return supervised_contrastive_loss(projections, batch.series_label.repeat(2), self.config.supcon_temperature)

    def _supcon_weight(self, step: int) -> float:
        cfg = self.config
        return supcon_weight(step, cfg.supcon_warmup_steps, cfg.supcon_ramp_steps, cfg.w_supcon_target)

    def __call__(self, output: PrismOutput, batch: PrismBatch, step: int) -> LossReport:
        """Losses of one batch at 0-based ``step``, without a device sync."""
        scores = self._score_heads(output, batch)
        supcon, weight = self._supcon(output, batch), self._supcon_weight(step)
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
        terms["supcon"] = _supcon_term(supcon, len(batch.series_label), weight)
        readings = {name: reading for score in scores.values() for name, reading in score.readings.items()}
        return LossReport(total, terms, positive_stats(batch.series_label), readings)


def _head_term(score: HeadScore, weight: float, normalized: bool) -> LossTerm:
    return LossTerm(
        raw=score.raw.detach(),
        normalized=score.normalized.detach(),
        chance_raw=score.chance_raw,
        chance_normalized=score.chance_normalized,
        weight=weight,
        optimizes_normalized=normalized,
    )


def _supcon_term(supcon: Float[Tensor, ""], n_pairs: int, weight: float) -> LossTerm:
    loss = supcon.detach()
    chance = torch.full_like(loss, supcon_chance(n_pairs))
    return LossTerm(loss, loss, chance, chance, weight, optimizes_normalized=True)
