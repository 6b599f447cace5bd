"""An alarm comes after a prolonged time, once, and goes when its cause has clearly gone."""

from __future__ import annotations

import math

import pytest

from prism_ssl.train.guards.alarms import AlarmChange, Alarms, Rule, Span


def _rule(name: str = "low", key: str = "x", from_step: int = 0, explained_by: tuple[str, ...] = ()) -> Rule:
    return Rule(
        name,
        quantity=lambda span: span.mean(key),
        raise_below=1.0,
        over_above=2.0,
        text=lambda span: f"{key} is {span.mean(key):.2f}, steps {span.first_step} to {span.last_step}",
        from_step=from_step,
        explained_by=explained_by,
    )


def _told(alarms: Alarms, values: list[float], log_every: int, first_step: int = 0) -> list[tuple[int, str]]:
    """At which step what was told, of rows whose x is each of ``values``."""
    told = []
    for number, value in enumerate(values):
        step = first_step + log_every * (number + 1)
        told += [(step, ("over " if c.over else "") + c.name) for c in alarms.judge(step, {"x": value})]
    return told


@pytest.mark.parametrize(("log_every", "step"), [(1, 50), (20, 60), (25, 50), (100, 200), (500, 1000)])
def test_an_alarm_needs_two_rows_and_fifty_steps_and_is_told_once(log_every: int, step: int) -> None:
    assert _told(Alarms([_rule()], 0), [0.5] * 60, log_every) == [(step, "low")]


def test_a_resumed_run_starts_its_span_where_it_resumes() -> None:
    assert _told(Alarms([_rule()], 1000), [0.5] * 4, 20, first_step=1000) == [(1060, "low")]


def test_one_low_row_among_others_raises_nothing() -> None:
    assert _told(Alarms([_rule()], 0), [3.0, 0.0, 3.0, 3.0, 0.0, 3.0], 20) == []


def test_between_its_two_limits_an_alarm_stays_as_it_is() -> None:
    alarms = Alarms([_rule()], 0)
    assert _told(alarms, [1.5] * 4, 50) == []
    assert _told(alarms, [0.5] * 4, 50, first_step=200) == [(300, "low")]
    assert _told(alarms, [1.5] * 9, 50, first_step=400) == []
    assert _told(alarms, [2.5] * 4, 50, first_step=850) == [(950, "over low")]
    assert _told(alarms, [0.5] * 4, 50, first_step=1050) == [(1150, "low")]


def test_what_is_over_is_told_with_the_words_of_its_onset() -> None:
    alarms = Alarms([_rule()], 0)
    raised = [change for step in (50, 100) for change in alarms.judge(step, {"x": 0.25})]
    assert raised == [AlarmChange("low", "low: x is 0.25, steps 0 to 100", over=False)]
    over = [change for step in (150, 200) for change in alarms.judge(step, {"x": 9.0})]
    assert over == [AlarmChange("low", raised[0].text, over=True)]


def test_the_scalars_follow_and_name_every_rule() -> None:
    alarms = Alarms([_rule(), _rule("other", "y")], 0)
    assert alarms.scalars() == {"alarm/low": 0.0, "alarm/other": 0.0}
    for step in (50, 100):
        alarms.judge(step, {"x": 0.0, "y": 5.0})
    assert alarms.scalars() == {"alarm/low": 1.0, "alarm/other": 0.0}


@pytest.mark.parametrize("unknown", [{}, {"x": math.nan}])
def test_a_value_that_is_not_known_neither_raises_nor_ends_an_alarm(unknown: dict[str, float]) -> None:
    alarms = Alarms([_rule()], 0)
    assert [c for step in (50, 100, 150) for c in alarms.judge(step, unknown)] == []
    assert _told(alarms, [0.5] * 3, 50, first_step=150) == [(200, "low")]
    assert [c for step in (350, 400, 450) for c in alarms.judge(step, unknown)] == []
    assert alarms.scalars() == {"alarm/low": 1.0}


def test_nothing_before_its_first_step_is_held_against_a_run() -> None:
    assert _told(Alarms([_rule(from_step=90)], 0), [0.5] * 20, 20) == [(160, "low")]


def test_what_another_alarm_explains_is_not_told_beside_it() -> None:
    rules = [_rule("cause", "x"), _rule("effect", "x", explained_by=("cause",)), _rule("free", "x")]
    assert _told(Alarms(rules, 0), [0.5] * 4, 50) == [(100, "cause"), (100, "free")]


def test_a_span_weighs_its_rows_by_their_steps_and_forgets_what_it_does_not_need() -> None:
    span = Span(0)
    for step, value in ((1000, 9.0), (1040, 1.0), (1060, 4.0)):
        span.add(step, {"x": value})
    assert (span.first_step, span.last_step) == (1000, 1060)
    assert span.mean("x") == pytest.approx((40 * 1.0 + 20 * 4.0) / 60)
    assert span.least("x") == 1.0
    assert math.isnan(span.mean("y"))
    assert math.isnan(span.least("y"))
