"""Supervised contrastive loss over series (Khosla et al. 2020), its chance level and its positives.

Legend of ``contracts.py``; here also M = 2B anchors, the projections of both views.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


def supervised_contrastive_loss(emb: Float[Tensor, "M P"], labels: Int[Tensor, " M"], temp: float) -> Float[Tensor, ""]:
    """L_out of Khosla et al. 2020 (eq. 2), averaged over the anchors that have a positive (guide 7.2).

    0, with a gradient path, when no anchor has one. Computed in float32, also under autocast.

    Args:
        emb: embeddings of unit norm.
        labels: equal labels are positives of each other.
        temp: temperature; below 1e-6 it counts as 1e-6.
    """
    # bfloat16 resolves a similarity near 1 to 0.004, at temperature 0.1 a logit to 0.04
    with torch.autocast(emb.device.type, enabled=False):
        emb = emb.float()
        itself = torch.eye(emb.shape[0], dtype=torch.bool, device=emb.device)
        positive = (labels[:, None] == labels[None, :]) & ~itself
        logits = ((emb @ emb.T) / max(temp, 1e-6)).masked_fill(itself, -1e9)
        log_share = logits - torch.logsumexp(logits, dim=1, keepdim=True)
        n_positives = positive.sum(dim=1)
        per_anchor = -(positive * log_share).sum(dim=1) / n_positives.clamp(min=1)
        return per_anchor.sum() / (n_positives > 0).sum().clamp(min=1)


def supcon_chance(n_pairs: int) -> float:
    """SupCon of an encoder with equal logits for all views: ln(2B - 1), for any number of positives.

    Random embeddings cost a little more, about var(similarity) / (2 temp^2).
    """
    return math.log(max(1, 2 * n_pairs - 1))


@dataclass(frozen=True)
class PositiveStats:
    """Positives per anchor of a batch (guide 9.5), and the range of SupCon that follows from them.

    ``cross_pair_share`` is the share of anchors with a positive from another pair. ``loss_floor`` is the lowest
    possible SupCon, the mean of ln(positives): above 0 as soon as two pairs share a series. ``chance`` is
    ``supcon_chance``, or 0 like the loss itself where no anchor has a positive.
    """

    mean: Float[Tensor, ""]
    min: Float[Tensor, ""]
    cross_pair_share: Float[Tensor, ""]
    loss_floor: Float[Tensor, ""]
    chance: Float[Tensor, ""]


def positive_stats(labels: Int[Tensor, " M"]) -> PositiveStats:
    """Positives of the anchors by their labels, views a before views b in the same order; no device sync."""
    n_pairs = len(labels) // 2
    positives = (labels[:, None] == labels[None, :]).sum(dim=1).float() - 1.0
    partner = (labels == labels.roll(n_pairs)).float()
    has_any = positives > 0
    return PositiveStats(
        mean=positives.mean(),
        min=positives.amin(),
        cross_pair_share=(positives > partner).float().mean(),
        loss_floor=positives.clamp(min=1.0).log().sum() / has_any.sum().clamp(min=1),
        chance=supcon_chance(n_pairs) * has_any.any().float(),
    )


def distinct_labels(labels: Int[Tensor, " B"]) -> Float[Tensor, ""]:
    """How many different labels there are; no device sync."""
    return (1.0 / (labels[:, None] == labels[None, :]).sum(dim=1)).sum()
