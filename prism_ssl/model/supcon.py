"""Supervised contrastive loss (Khosla et al. 2020), its chance level and its positives.

Legend of ``contracts.py``; here also M = 2B anchors, the projections of both views.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prism_ssl.model.positives import Contrast, by_label


def supervised_contrastive_loss(emb: Float[Tensor, "M P"], labels: Int[Tensor, " M"], temp: float) -> Float[Tensor, ""]:
    """``contrastive_loss`` with equal ``labels`` as positives of each other (guide 7.2)."""
    return contrastive_loss(emb, by_label(labels), temp)


def contrastive_loss(emb: Float[Tensor, "M P"], contrast: Contrast, temp: float) -> Float[Tensor, ""]:
    """L_out of Khosla et al. 2020 (eq. 2), averaged over the anchors that have a positive.

    0, with a gradient path, when no anchor has one. Computed in float32, also under autocast.

    Args:
        emb: embeddings of unit norm.
        contrast: the positives of each anchor, and the views in its denominator.
        temp: temperature; below 1e-6 it counts as 1e-6.
    """
    # bfloat16 resolves a similarity near 1 to 0.004, at temperature 0.1 a logit to 0.04
    with torch.autocast(emb.device.type, enabled=False):
        emb = emb.float()
        logits = ((emb @ emb.T) / max(temp, 1e-6)).masked_fill(~contrast.compared, -1e9)
        log_share = logits - torch.logsumexp(logits, dim=1, keepdim=True)
        n_positives = contrast.positive.sum(dim=1)
        per_anchor = -(contrast.positive * log_share).sum(dim=1) / n_positives.clamp(min=1)
        return per_anchor.sum() / (n_positives > 0).sum().clamp(min=1)


@dataclass(frozen=True)
class PositiveStats:
    """Positives per anchor of a batch (guide 9.5), and the range of SupCon that follows from them.

    ``cross_pair_share`` is the share of anchors with a positive from another pair. ``loss_floor`` is the lowest
    possible SupCon, the mean of ln(positives): above 0 as soon as two pairs share a series. ``chance`` is the SupCon of
    an encoder with equal logits for all views, the mean of ln(views compared): ln(2B - 1) where none is left out.
    Random embeddings cost a little more, about var(similarity) / (2 temp^2). All are 0, like the loss itself, where no
    anchor has a positive.
    """

    mean: Float[Tensor, ""]
    min: Float[Tensor, ""]
    cross_pair_share: Float[Tensor, ""]
    loss_floor: Float[Tensor, ""]
    chance: Float[Tensor, ""]


def positive_stats(contrast: Contrast) -> PositiveStats:
    """Positives of the anchors, views a before views b in the same order; no device sync."""
    n_pairs = len(contrast.positive) // 2
    positives, compared = contrast.positive.sum(dim=1).float(), contrast.compared.sum(dim=1).float()
    partner = torch.cat([contrast.positive.diagonal(n_pairs), contrast.positive.diagonal(-n_pairs)]).float()
    has_any = positives > 0
    anchors = has_any.sum().clamp(min=1)
    return PositiveStats(
        mean=positives.mean(),
        min=positives.amin(),
        cross_pair_share=(positives > partner).float().mean(),
        loss_floor=positives.clamp(min=1.0).log().sum() / anchors,
        chance=(compared.clamp(min=1.0).log() * has_any).sum() / anchors,
    )


def distinct_labels(labels: Int[Tensor, " B"]) -> Float[Tensor, ""]:
    """How many different labels there are; no device sync."""
    return (1.0 / (labels[:, None] == labels[None, :]).sum(dim=1)).sum()
