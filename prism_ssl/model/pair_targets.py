"""Targets, losses, chance levels and sign skill of the pair heads.

Legend of ``contracts.py``; here also K axes of a head. Every difference is b - a. "Raw" means mm, degrees or
rescaled intensity units; "normalised" means raw divided by a constant known before the batch is seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from prism_ssl.config.schema import LossConfig, ViewConfig
from prism_ssl.contracts import PairFacts

Head = Literal["distance", "rotation", "window_center", "window_width"]

AXES: Final[dict[Head, tuple[str, ...]]] = {
    "distance": ("distance", "dx", "dy", "dz"),
    "rotation": ("rx", "ry", "rz"),
    "window_center": ("wc",),
    "window_width": ("ww",),
}
"""Names of the axes of each head; classification has no ``distance``, which has no sign."""


@dataclass(frozen=True)
class TargetScales:
    """Constants that normalise targets of different kinds, and the dead zones in which signs are masked."""

    displacement_mm: float
    rotation_deg: float
    dead_zone_mm: float
    dead_zone_deg: float
    dead_zone_std: float

    @classmethod
    def from_config(cls, loss: LossConfig, view: ViewConfig) -> TargetScales:
        """Largest radius for displacements, largest angle for rotations; windows have the scan's robust std."""
        return cls(
            displacement_mm=view.radius_mm_max,
            rotation_deg=view.rotation_max_deg,
            dead_zone_mm=loss.dead_zone_mm,
            dead_zone_deg=loss.dead_zone_deg,
            dead_zone_std=loss.dead_zone_std,
        )


@dataclass(frozen=True)
class HeadTarget:
    """True differences of one head, raw; ``unit`` is the raw size of one normalised unit."""

    delta: Float[Tensor, "B K"]
    unit: Float[Tensor, "B K"]
    signed: Bool[Tensor, "B K"]
    """Where the difference is known and outside its dead zone, so that its sign can be predicted."""
    known: Bool[Tensor, "B 1"]


@dataclass(frozen=True)
class AxisReading:
    """One axis of a batch, detached, in the same form for both objectives.

    Regression: normalised differences; times ``unit`` they are raw. Classification: the target is the sign (-1, 1),
    the prediction 2 p - 1 of the predicted probability p of a positive sign, the unit 1.
    ``valid`` marks the pairs in the loss, ``signed`` those in the sign skill (never the axis "distance").
    """

    prediction: Float[Tensor, " B"]
    target: Float[Tensor, " B"]
    unit: Float[Tensor, " B"]
    valid: Bool[Tensor, " B"]
    signed: Bool[Tensor, " B"]


@dataclass(frozen=True)
class HeadScore:
    """Losses of one head, with the losses of the best prediction that ignores the images.

    ``raw`` and ``normalized`` carry gradients. Chance is a constant predictor at the batch mean (regression;
    0 for a batch of one pair) or a coin flip, ln 2 (classification; 0 when every sign is masked).
    """

    raw: Float[Tensor, ""]
    normalized: Float[Tensor, ""]
    chance_raw: Float[Tensor, ""]
    chance_normalized: Float[Tensor, ""]
    readings: dict[str, AxisReading]


HeadScorer = Callable[[Head, Tensor, HeadTarget], HeadScore]


def _head_target(
    delta: Float[Tensor, "B K"], unit: Float[Tensor, "B 1"], dead_zone: Float[Tensor, "B 1"], known: Bool[Tensor, "B 1"]
) -> HeadTarget:
    return HeadTarget(delta, unit.expand_as(delta), (delta.abs() > dead_zone) & known, known)


def pair_targets(batch: PairFacts, scales: TargetScales) -> dict[Head, HeadTarget]:
    """Targets of every head in float32, axes as in ``AXES``. ``intensity_scale`` must be above 0."""
    std = batch.intensity_scale.float().unsqueeze(1)
    window = batch.window_delta.float()
    displacement = torch.cat([batch.center_distance_mm.unsqueeze(1), batch.center_delta_mm], dim=1).float()
    # full_like, not tensor(...): the latter copies from the host and makes the step wait for the GPU
    mm, deg = torch.full_like(std, scales.displacement_mm), torch.full_like(std, scales.rotation_deg)
    dead_mm, dead_deg = torch.full_like(std, scales.dead_zone_mm), torch.full_like(std, scales.dead_zone_deg)
    dead_window = scales.dead_zone_std * std
    window_known = batch.window_known.unsqueeze(1)
    always = torch.ones_like(window_known)
    distance = _head_target(displacement, mm, dead_mm, always)
    distance.signed[:, 0].zero_()  # an assignment of False would be a tensor made on the host
    return {
        "distance": distance,
        "rotation": _head_target(batch.rotation_delta_deg.float(), deg, dead_deg, always),
        "window_center": _head_target(window[:, :1], std, dead_window, window_known),
        "window_width": _head_target(window[:, 1:], std, dead_window, window_known),
    }


def _readings(
    head: Head, prediction: Float[Tensor, "B K"], target: Tensor, unit: Tensor, valid: Tensor, signed: Tensor
) -> dict[str, AxisReading]:
    columns = (column.detach().unbind(1) for column in (prediction, target, unit, valid, signed))
    names = AXES[head][-prediction.shape[1] :]
    return {name: AxisReading(*axis) for name, axis in zip(names, zip(*columns, strict=True), strict=True)}


def constant_loss(delta: Float[Tensor, "B K"], known: Bool[Tensor, "B 1"]) -> Float[Tensor, ""]:
    """Smooth L1 of predicting, for every pair whose difference is known, the mean of these.

    The mean of few pairs overfits them: over B pairs this is about 1 / B lower than over many.
    """
    mean = (delta * known).sum(0) / known.sum().clamp(min=1)
    return _smooth_l1(mean.expand_as(delta), delta, known)


def _smooth_l1(prediction: Float[Tensor, "B K"], wanted: Float[Tensor, "B K"], known: Bool[Tensor, "B 1"]) -> Tensor:
    """Mean over axes and the pairs whose difference is known; 0 when there is none."""
    each = nn.functional.smooth_l1_loss(prediction, wanted, reduction="none") * known
    return each.sum() / (known.sum().clamp(min=1) * wanted.shape[1])


def score_regression(
    head: Head, output: Float[Tensor, "B K"], target: HeadTarget, normalized_output: bool
) -> HeadScore:
    """Smooth L1 (Girshick 2015, beta 1 in raw and in normalised units), averaged over pairs and axes.

    Not MSE: displacements reach many times their scale, and bounded gradients keep them from drowning the
    other heads.
    """
    output = output.float()
    raw_output = output * target.unit if normalized_output else output
    normalized = output if normalized_output else output / target.unit
    wanted = target.delta / target.unit
    return HeadScore(
        raw=_smooth_l1(raw_output, target.delta, target.known),
        normalized=_smooth_l1(normalized, wanted, target.known),
        chance_raw=constant_loss(target.delta, target.known),
        chance_normalized=constant_loss(wanted, target.known),
        readings=_readings(head, normalized, wanted, target.unit, target.known.expand_as(target.signed), target.signed),
    )


def _sign_loss(
    logits: Float[Tensor, "B K"], positive: Float[Tensor, "B K"], signed: Bool[Tensor, "B K"]
) -> Float[Tensor, ""]:
    """Cross entropy of the signs: mean per axis over its signed pairs, then over the axes that have any."""
    each = nn.functional.binary_cross_entropy_with_logits(logits, positive, reduction="none") * signed
    per_axis = each.sum(0) / signed.sum(0).clamp(min=1)
    return per_axis.sum() / signed.any(0).sum().clamp(min=1)


def score_classification(head: Head, output: Float[Tensor, "B K"], target: HeadTarget) -> HeadScore:
    """Binary cross entropy of each axis' sign, dead zones masked; raw and normalised are the same number."""
    logits = output.float()
    axes = slice(target.delta.shape[1] - logits.shape[1], None)  # the distance has no sign: its column is skipped
    signed, positive = target.signed[:, axes], (target.delta[:, axes] > 0).float()
    loss = _sign_loss(logits, positive, signed)
    coin = _sign_loss(torch.zeros_like(logits), positive, signed)
    return HeadScore(
        raw=loss,
        normalized=loss,
        chance_raw=coin,
        chance_normalized=coin,
        readings=_readings(head, torch.tanh(logits / 2), 2.0 * positive - 1.0, torch.ones_like(logits), signed, signed),
    )


def sign_skill(
    prediction: Float[Tensor, " n"], target: Float[Tensor, " n"], signed: Bool[Tensor, " n"]
) -> Float[Tensor, ""]:
    """2 x balanced accuracy - 1 of the predicted sign: 1 perfect, 0 chance or any constant, -1 always wrong.

    NaN when either sign is missing among ``signed``.
    """
    up, said_up = target > 0, prediction > 0
    recall_up = (said_up & up & signed).sum() / (up & signed).sum()
    recall_down = (~said_up & ~up & signed).sum() / (~up & signed).sum()
    return recall_up + recall_down - 1.0
