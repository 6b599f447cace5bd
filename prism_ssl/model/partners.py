"""Compare views across the pairs of a series, so that the pair heads also learn where each pair shows one place.

Legend of ``contracts.py``.
"""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Int
from torch import Tensor

from prism_ssl.contracts import PairFacts


def next_of_series(series_label: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
    """For each pair, the next pair of its series in the batch, cyclically; itself where it is the only one.

    No device sync.
    """
    n_pairs = len(series_label)
    place = torch.arange(n_pairs, device=series_label.device)
    ahead = (place[None, :] - place[:, None] - 1) % n_pairs  # itself is the farthest
    same = series_label[:, None] == series_label[None, :]
    return torch.where(same, ahead, n_pairs).argmin(dim=1)


def partners(series_label: Int[Tensor, " B"], parts: int) -> Int[Tensor, " B"]:
    """``next_of_series`` within each of ``parts`` equal parts of the batch, which are encoded one after the other."""
    size = len(series_label) // parts
    found = [next_of_series(part) + number * size for number, part in enumerate(series_label.split(size))]
    return torch.cat(found)


def across(facts: PairFacts, partner: Int[Tensor, " B"]) -> PairFacts:
    """How view b of each pair's ``partner`` differs from view a of the pair; all else stays as it is.

    Pair and partner are of one series. Their windows can be compared where each pair's own two can.
    """
    displacement_mm = facts.center_b_mm[partner] - facts.center_a_mm
    rotation_b_deg = facts.rotation_a_deg + facts.rotation_delta_deg
    window_b = facts.window_a + facts.window_delta
    return dataclasses.replace(
        facts,
        center_delta_mm=displacement_mm,
        center_distance_mm=displacement_mm.norm(dim=1),
        rotation_delta_deg=rotation_b_deg[partner] - facts.rotation_a_deg,
        window_delta=window_b[partner] - facts.window_a,
        window_known=facts.window_known & facts.window_known[partner],
    )
