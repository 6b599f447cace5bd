"""Raise and end alarms from the rows of a history: a state machine (pure).

A rule names a quantity that must not stay low. It is judged on its mean over the last rows, so that neither a single
row nor the choice of ``train.log_every`` decides.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

SPAN_STEPS, SPAN_ROWS = 50, 2
"""A span is the last rows that together cover at least this many steps, and at least this many rows."""


class Span:
    """The last rows of a history, averaged."""

    def __init__(self, first_step: int) -> None:
        self._rows: deque[tuple[int, Mapping[str, float]]] = deque()
        self.first_step = self.last_step = first_step

    def add(self, step: int, row: Mapping[str, float]) -> None:
        """Append the row written after ``step`` steps, and drop rows that the span does not need."""
        self._rows.append((step - self.last_step, row))
        self.last_step = step
        while len(self._rows) > SPAN_ROWS and step - self.first_step - self._rows[0][0] >= SPAN_STEPS:
            self.first_step += self._rows.popleft()[0]

    @property
    def is_long_enough(self) -> bool:
        """Whether the span is long enough to be judged."""
        return len(self._rows) >= SPAN_ROWS and self.last_step - self.first_step >= SPAN_STEPS

    def mean(self, key: str) -> float:
        """Mean over the steps of the span, without rows that have no finite value; NaN when no row has one."""
        known = [(steps, row[key]) for steps, row in self._rows if math.isfinite(row.get(key, math.nan))]
        return sum(steps * value for steps, value in known) / sum(steps for steps, _ in known) if known else math.nan

    def least(self, key: str) -> float:
        """Smallest value of the rows; NaN when a row has none."""
        values = [row.get(key, math.nan) for _, row in self._rows]
        return math.nan if any(math.isnan(value) for value in values) else min(values)


@dataclass(frozen=True)
class Rule:
    """The alarm is raised when ``quantity`` falls below ``raise_below``, and over when it rises above ``over_above``.

    The rule is not judged while ``quantity`` is NaN, while the span begins before ``from_step``, or while an alarm of
    ``explained_by`` is raised. ``text`` says what is wrong and what it means.
    """

    name: str
    quantity: Callable[[Span], float]
    raise_below: float
    over_above: float
    text: Callable[[Span], str]
    from_step: int = 0
    explained_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class AlarmChange:
    """An alarm that was raised, or (``over``) has ended; ``text`` is the one from when it was raised."""

    name: str
    text: str
    over: bool


class Alarms:
    """The alarms that are raised, row by row. Rules are judged in order; each alarm is reported once per onset."""

    def __init__(self, rules: Sequence[Rule], first_step: int) -> None:
        self._rules = tuple(rules)
        self._span = Span(first_step)
        self._raised: dict[str, str] = {}

    def judge(self, step: int, row: Mapping[str, float]) -> list[AlarmChange]:
        """Alarms that begin or end with the row written after ``step`` steps."""
        self._span.add(step, row)
        if not self._span.is_long_enough:
            return []
        return [change for rule in self._rules if (change := self._change(rule)) is not None]

    def scalars(self) -> dict[str, float]:
        """``alarm/<name>`` of every rule: 1 while raised, 0 otherwise."""
        return {f"alarm/{rule.name}": float(rule.name in self._raised) for rule in self._rules}

    def _change(self, rule: Rule) -> AlarmChange | None:
        explained = any(name in self._raised for name in rule.explained_by)
        if explained or self._span.first_step < rule.from_step:
            return None
        value = rule.quantity(self._span)
        if rule.name in self._raised:
            return AlarmChange(rule.name, self._raised.pop(rule.name), over=True) if value > rule.over_above else None
        if value < rule.raise_below:
            self._raised[rule.name] = f"{rule.name}: {rule.text(self._span)}"
            return AlarmChange(rule.name, self._raised[rule.name], over=False)
        return None
