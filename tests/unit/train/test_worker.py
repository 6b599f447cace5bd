"""When an attempt prepares its evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from prism_ssl.train.worker import Attempt


@contextmanager
def a_block() -> Iterator[None]:
    yield


def at_record(row_is_due: bool, is_first: bool) -> list[str]:
    """What an attempt does, in order, when it records a step."""
    done: list[str] = []
    attempt: Any = Attempt.__new__(Attempt)
    attempt._recorder = SimpleNamespace(step=lambda *_: row_is_due, steps_done=1, row=lambda *_: done.append("row"))
    attempt._ranks = SimpleNamespace(alike=a_block, alone=a_block, is_first=is_first)
    attempt._guard = SimpleNamespace(watch=lambda *_: None)
    attempt._learner = SimpleNamespace(last_update_finite=None, learning_rate=lambda _: 1.0)
    attempt._quota = SimpleNamespace(poll=list)
    attempt._evaluator = SimpleNamespace(draw_ahead=lambda: done.append("draw ahead"))
    attempt._visits, attempt._counters_of_all, attempt._tell_spill = [], dict, lambda _: None
    attempt.record(None, None)
    return done


@pytest.mark.parametrize(
    ("row_is_due", "is_first", "done"),
    [(False, True, []), (True, True, ["row", "draw ahead"]), (True, False, ["row"])],
)
def test_held_out_views_are_drawn_beside_the_steps_after_the_first_row_by_the_worker_that_evaluates(
    row_is_due: bool, is_first: bool, done: list[str]
) -> None:
    assert at_record(row_is_due, is_first) == done
