"""Spread and rank of embeddings whose answer is known."""

from __future__ import annotations

import math

import pytest
import torch

from prism_ssl.train.record.embedding_health import KEPT, RecentEmbeddings, effective_rank


def _row(*batches: torch.Tensor) -> dict[str, float]:
    recent = RecentEmbeddings()
    for batch in batches:
        recent.add(batch)
    return recent.row()


def _normal(n: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_equal_singular_values_have_the_effective_rank_of_their_number(rank: int) -> None:
    orthogonal = torch.linalg.qr(_normal(40, rank)).Q
    directions = torch.linalg.qr(_normal(16, rank, 1)).Q
    assert effective_rank(orthogonal @ directions.T) == pytest.approx(rank, rel=1e-3)
    assert effective_rank((orthogonal @ directions.T).T) == pytest.approx(rank, rel=1e-3)


def test_unequal_singular_values_follow_the_entropy_of_their_shares() -> None:
    diagonal = torch.diag(torch.tensor([6.0, 3.0, 1.0]))
    entropy = -sum(p * math.log(p) for p in (0.6, 0.3, 0.1))
    assert effective_rank(diagonal) == pytest.approx(math.exp(entropy), rel=1e-6)
    assert effective_rank(torch.zeros(4, 3)) == 0.0


def test_one_point_for_all_has_neither_spread_nor_rank_also_where_it_moves_from_step_to_step() -> None:
    row = _row(*(_normal(1, 8, seed).expand(20, 8) for seed in range(5)))
    assert row["embedding/spread"] == pytest.approx(0.0, abs=1e-6)
    assert row["embedding/std_mean"] == pytest.approx(0.0, abs=1e-6)


def test_a_line_has_spread_and_rank_one() -> None:
    row = _row(_normal(60, 1) * torch.ones(1, 8))
    assert row["embedding/effective_rank"] == pytest.approx(1.0, abs=0.01)
    assert row["embedding/spread"] > 0.9


def test_spread_is_std_over_length_whatever_the_scale() -> None:
    embeddings = _normal(200, 16) + 2.0
    expected = math.sqrt(float(embeddings.var(0, correction=0).sum() / embeddings.square().sum(1).mean()))
    for scale in (1e-3, 1.0, 1e3):
        row = _row(scale * embeddings)
        assert row["embedding/spread"] == pytest.approx(expected, rel=1e-4)
        assert row["embedding/std_mean"] == pytest.approx(
            scale * float(embeddings.std(0, correction=0).mean()), rel=1e-4
        )


def test_a_dead_dimension_is_seen_in_the_smallest_std() -> None:
    embeddings = _normal(64, 8)
    embeddings[:, 3] = 1.0
    assert _row(embeddings)["embedding/std_min"] == pytest.approx(0.0, abs=1e-6)


def test_only_the_last_embeddings_are_looked_at() -> None:
    collapsed, healthy = torch.ones(32, 8), _normal(32, 8)
    kept = KEPT // 32
    assert _row(*[healthy] * kept, *[collapsed] * kept)["embedding/spread"] == 0.0
    assert _row(*[collapsed] * kept, *[healthy] * kept)["embedding/spread"] > 0.9


@pytest.mark.parametrize("embeddings", [_normal(6, 8), torch.full((64, 8), math.nan)], ids=["too few", "not finite"])
def test_where_nothing_can_be_said_the_numbers_are_nan(embeddings: torch.Tensor) -> None:
    assert all(math.isnan(value) for value in _row(embeddings).values())
