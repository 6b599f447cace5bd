"""Targets in words against views whose difference is known."""

from __future__ import annotations

import numpy as np
import pytest

from prism_ssl.data.views.view_pairs import View
from prism_ssl.inspect.view_words import (
    displacement_in_words,
    pair_in_words,
    rotation_in_words,
    view_window_in_words,
    window_in_words,
)


def view(
    center: tuple[float, float, float] = (0, 0, 0),
    rotation: tuple[float, float, float] = (0, 0, 0),
    window: tuple[float, float] = (40, 400),
) -> View:
    return View(np.array(center), 25.0, np.array(rotation), *window, np.zeros((1, 3), np.float32))


@pytest.mark.parametrize(
    ("center", "words"),
    [
        ((-23, 4, 0), "b lies 23 mm left of and 4 mm in front of a (23 mm in all)"),
        ((3, -6, -20), "b lies 20 mm below, 6 mm behind and 3 mm right of a (21 mm in all)"),
        ((0, 0, 9), "b lies 9 mm above a (9 mm in all)"),
        ((0.2, 0, 0), "b lies on a (0 mm in all)"),
    ],
)
def test_left_is_the_patients_left(center: tuple[float, float, float], words: str) -> None:
    assert displacement_in_words(view(), view(center)) == words


def test_rotation_is_b_minus_a() -> None:
    words = rotation_in_words(view(rotation=(1, 2, 3)), view(rotation=(4, 0, 3)))
    assert words == "turned +3.0 deg about R, -2.0 deg about A, +0.0 deg about S"


def test_a_higher_window_is_a_darker_picture() -> None:
    assert window_in_words(view(), view(window=(85, 200)), "HU") == (
        "window 45 HU higher (darker picture), 200 HU narrower (2.0 times, harder contrast)"
    )
    assert window_in_words(view(window=(85, 200)), view(), "HU") == (
        "window 45 HU lower (brighter picture), 200 HU wider (2.0 times, softer contrast)"
    )


def test_a_pair_is_three_lines() -> None:
    assert len(pair_in_words(view(), view((1, 2, 3)), "HU").splitlines()) == 3


def test_a_window_is_told_by_its_ends_with_their_unit() -> None:
    assert view_window_in_words(view(window=(322.2, 1254.8)), "HU") == "black -305, white 950 HU"
    assert view_window_in_words(view(window=(0.0012, 0.002)), "units") == "black 0.0002, white 0.0022 units"
