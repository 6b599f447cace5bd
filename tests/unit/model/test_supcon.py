"""SupCon against the paper written out in loops, and its behaviour at the edges."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from prism_ssl.model.positives import by_label
from prism_ssl.model.supcon import distinct_labels, positive_stats, supervised_contrastive_loss


def _oracle(emb: Tensor, labels: list[int], temp: float) -> float:
    """Khosla et al. 2020, eq. 2, one anchor and one positive at a time, in Python floats."""
    rows = emb.double().tolist()

    def logit(i: int, j: int) -> float:
        return math.fsum(x * y for x, y in zip(rows[i], rows[j], strict=True)) / temp

    per_anchor = []
    for i in range(len(rows)):
        others = [j for j in range(len(rows)) if j != i]
        positives = [p for p in others if labels[p] == labels[i]]
        if not positives:
            continue
        top = max(logit(i, j) for j in others)
        log_sum = top + math.log(math.fsum(math.exp(logit(i, j) - top) for j in others))
        per_anchor.append(math.fsum(log_sum - logit(i, p) for p in positives) / len(positives))
    return math.fsum(per_anchor) / len(per_anchor) if per_anchor else 0.0


def _unit(n: int, width: int = 8, seed: int = 0) -> Tensor:
    return normalize(torch.randn(n, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def _loss(emb: Tensor, labels: list[int], temp: float = 0.1) -> Tensor:
    return supervised_contrastive_loss(emb, torch.tensor(labels), temp)


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=12),
    temp=st.floats(0.02, 5.0),
    seed=st.integers(0, 2**16),
)
def test_equals_the_paper_written_out(labels: list[int], temp: float, seed: int) -> None:
    emb = _unit(len(labels), seed=seed)
    assert _loss(emb, labels, temp).item() == pytest.approx(_oracle(emb, labels, temp), rel=1e-4, abs=1e-4)


def test_names_of_the_labels_do_not_matter() -> None:
    emb = _unit(6)
    torch.testing.assert_close(_loss(emb, [0, 1, 2, 0, 1, 2]), _loss(emb, [907, 3, 41, 907, 3, 41]))


def test_an_anchor_is_not_its_own_positive() -> None:
    assert _loss(_unit(5), [0, 1, 2, 3, 4]).item() == 0.0


def test_anchors_without_a_positive_are_left_out_of_the_mean_but_repel() -> None:
    emb, labels = _unit(5), [0, 0, 1, 2, 3]
    assert _loss(emb, labels).item() == pytest.approx(_oracle(emb, labels, 0.1), rel=1e-5)
    assert _loss(emb, labels).item() > _loss(emb[:2], [0, 0]).item() + 0.01


def test_moving_a_positive_nearer_lowers_the_loss_and_a_negative_raises_it() -> None:
    def loss(angle_positive: float, angle_negative: float) -> float:
        angles = torch.tensor([0.0, angle_positive, angle_negative])
        return _loss(torch.stack([angles.cos(), angles.sin()], dim=1), [0, 0, 1], 0.5).item()

    assert loss(0.2, 2.0) < loss(0.8, 2.0)
    assert loss(0.8, 2.0) < loss(0.8, 1.2)


def test_no_positives_gives_zero_with_a_gradient_path() -> None:
    emb = _unit(4).requires_grad_()
    loss = _loss(emb, [0, 1, 2, 3])
    loss.backward()
    assert loss.item() == 0.0
    assert emb.grad is not None
    assert not emb.grad.any()


@pytest.mark.parametrize(
    ("emb", "labels"),
    [
        (_unit(1), [0]),
        (_unit(2), [0, 0]),
        (_unit(6), [3] * 6),
        (_unit(1).expand(6, 8), [0, 0, 1, 1, 2, 2]),
        (torch.zeros(4, 8), [0, 0, 1, 1]),
    ],
    ids=["one view", "one pair", "one series", "duplicated embeddings", "dead embeddings"],
)
@pytest.mark.parametrize("temp", [0.1, 1e-3, 0.0])
def test_edge_cases_are_finite(emb: Tensor, labels: list[int], temp: float) -> None:
    leaf = emb.clone().requires_grad_()
    loss = _loss(leaf, labels, temp)
    loss.backward()
    assert leaf.grad is not None
    assert loss.isfinite()
    assert leaf.grad.isfinite().all()


def test_a_lone_pair_costs_nothing() -> None:
    assert _loss(_unit(2), [0, 0]).item() == 0.0


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0, 0, 1, 2], [0, 0, 0, 0]])
def test_equal_embeddings_obtain_the_chance_level(labels: list[int]) -> None:
    loss = _loss(_unit(1).expand(8, 8), labels * 2)
    assert loss.item() == pytest.approx(math.log(7), rel=1e-5)
    assert positive_stats(by_label(torch.tensor(labels * 2))).chance.item() == pytest.approx(math.log(7))


def test_random_directions_cost_chance_plus_half_the_logit_variance() -> None:
    width, temp = 256, 0.1
    loss = _loss(_unit(512, width), list(range(256)) * 2, temp).item()
    assert loss == pytest.approx(math.log(511) + 1 / (2 * width * temp**2), abs=0.05)


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, 0, 1], [0, 0, 0]])
def test_perfect_embeddings_obtain_the_loss_floor(labels: list[int]) -> None:
    perfect = torch.nn.functional.one_hot(torch.tensor(labels * 2)).float()
    floor = positive_stats(by_label(torch.tensor(labels * 2))).loss_floor
    assert _loss(perfect, labels * 2, 0.02).item() == pytest.approx(floor.item(), abs=1e-5)


def test_bfloat16_embeddings_are_compared_in_float32() -> None:
    emb = _unit(12).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = _loss(emb, list(range(6)) * 2)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(_oracle(emb, list(range(6)) * 2, 0.1), rel=1e-5)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=10))
def test_positive_stats_equal_counting(labels: list[int]) -> None:
    views = labels * 2
    counts = [views.count(label) - 1 for label in views]
    stats = positive_stats(by_label(torch.tensor(views)))
    assert stats.mean.item() == pytest.approx(sum(counts) / len(counts))
    assert stats.min.item() == min(counts)
    assert stats.cross_pair_share.item() == pytest.approx(sum(count > 1 for count in counts) / len(counts))


def test_one_pair_per_series_has_only_its_partner() -> None:
    stats = positive_stats(by_label(torch.arange(5).repeat(2)))
    assert (stats.mean.item(), stats.min.item(), stats.cross_pair_share.item()) == (1.0, 1.0, 0.0)
    assert stats.loss_floor.item() == 0.0


@given(st.lists(st.integers(0, 3), min_size=2, max_size=10).filter(lambda views: len(views) % 2 == 0))
def test_positives_are_counted_by_the_labels_also_where_a_partner_is_none(views: list[int]) -> None:
    n = len(views) // 2
    counts = [views.count(label) - 1 for label in views]
    others = [views.count(label) - 1 - (label == views[(i + n) % (2 * n)]) for i, label in enumerate(views)]
    stats = positive_stats(by_label(torch.tensor(views)))
    assert stats.min.item() == min(counts)
    assert stats.cross_pair_share.item() == pytest.approx(sum(count > 0 for count in others) / len(views))
    logs = [math.log(count) for count in counts if count]
    assert stats.loss_floor.item() == pytest.approx(sum(logs) / max(1, len(logs)), abs=1e-6)


def test_without_any_positive_loss_and_chance_are_zero() -> None:
    views = [0, 1, 2, 3]
    assert positive_stats(by_label(torch.tensor(views))).chance.item() == _loss(_unit(4), views).item() == 0.0


@given(st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=10))
def test_distinct_labels_are_counted(labels: list[int]) -> None:
    assert distinct_labels(torch.tensor(labels * 2)).item() == pytest.approx(len(set(labels)))
