"""Choose which views the contrastive loss draws together: those of one series, of one pair, or of one place.

Legend of ``contracts.py``; here also M = 2B views, views a before views b in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from prism_ssl.contracts import PairFacts


@dataclass(frozen=True)
class Contrast:
    """For each anchor (row), its positives and all views that it is compared with, positives included.

    A view is never compared with itself. A view that is neither a positive nor a negative is left out: whether it shows
    the same is not known, or is not asked.
    """

    positive: Bool[Tensor, "M M"]
    compared: Bool[Tensor, "M M"]


def by_label(labels: Int[Tensor, " M"]) -> Contrast:
    """Views with equal labels are positives; every other view is a negative (Khosla et al. 2020)."""
    others = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return Contrast((labels[:, None] == labels[None, :]) & others, others)


def by_place(batch: PairFacts, near_mm: float, apart_mm: float) -> Contrast:
    """Views of a patient with centres at most ``near_mm`` apart are positives, those at least ``apart_mm`` negatives.

    Views of other patients are negatives. Left out are views of a patient at a distance in between, and from another
    frame of reference, in which the distance is not known.
    """
    centers = torch.cat([batch.center_a_mm, batch.center_b_mm]).float()
    patient, frame = batch.subject_label.repeat(2), batch.series_label.repeat(2)
    others = ~torch.eye(len(patient), dtype=torch.bool, device=patient.device)
    # Not by a matrix product, which loses millimetres at coordinates of hundreds. Not as [M, M, 3] either: at B = 2,048
    # that takes 201 MB.
    distance_mm = torch.cdist(centers, centers, compute_mode="donot_use_mm_for_euclid_dist")
    same_patient, same_frame = patient[:, None] == patient[None, :], frame[:, None] == frame[None, :]
    positive = same_frame & (distance_mm <= near_mm) & others
    negative = ~same_patient | (same_frame & (distance_mm >= apart_mm))
    return Contrast(positive, positive | (negative & others))
