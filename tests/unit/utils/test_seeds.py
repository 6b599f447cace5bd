"""Randomness follows from names alone."""

from __future__ import annotations

import numpy as np
import pytest

from prism_ssl.utils.seeds import generator_for


def _draws(*names: str | int) -> list[float]:
    first, *rest = names
    assert isinstance(first, int)
    return [float(draw) for draw in generator_for(first, *rest).random(4)]


def test_equal_names_give_equal_draws_whatever_was_drawn_before() -> None:
    before = _draws(7, "view", "scan-1", 3)
    np.random.default_rng().random(100)
    generator_for(7, "view", "scan-1", 2).random(1000)
    assert _draws(7, "view", "scan-1", 3) == before


@pytest.mark.parametrize(
    "names",
    [
        (8, "view", "scan-1", 3),
        (7, "pool", "scan-1", 3),
        (7, "view", "scan-2", 3),
        (7, "view", "scan-1", 4),
        (7, "view", "scan-1"),
        (7, "scan-1", "view", 3),
    ],
)
def test_any_other_name_gives_other_draws(names: tuple[int, str]) -> None:
    assert set(_draws(*names)).isdisjoint(_draws(7, "view", "scan-1", 3))


def test_draws_are_the_known_ones_on_every_machine() -> None:
    # Pinned: a change of these would give a resumed run other views than it would have had.
    assert generator_for(0, "scan", 1).integers(0, 2**32, 3).tolist() == [2598865151, 4059421294, 2566564848]


def test_generators_of_neighbouring_visits_are_independent() -> None:
    # 2,000 visits x 8 draws; the largest correlation of 28 pairs of columns stays within 5 standard errors
    draws = np.array([generator_for(0, "scan", visit).random(8) for visit in range(2000)])
    correlation = np.corrcoef(draws.T) - np.eye(8)
    assert np.abs(correlation).max() < 5 / np.sqrt(2000)
    assert abs(draws[:, 0].mean() - 0.5) < 5 / np.sqrt(12 * 2000)
