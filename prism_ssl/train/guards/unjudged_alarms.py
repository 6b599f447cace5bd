"""Alarms that a run is too short to raise, and the step from which each can be raised (pure)."""

from __future__ import annotations

from collections import defaultdict

from prism_ssl.config.schema import PrismConfig
from prism_ssl.model.loss import head_weights
from prism_ssl.train.guards.alarm_rules import alarm_rules
from prism_ssl.train.guards.alarms import Span


def first_judged_step(from_step: int, log_every: int) -> int:
    """Step of the first row (one per ``log_every`` steps) at which a span from ``from_step`` on can be judged."""
    span, step = Span(0), 0
    while not (span.is_long_enough and span.first_step >= from_step):
        step += log_every
        span.add(step, {})
    return step


def too_short_to_judge(config: PrismConfig, steps_done: int) -> str | None:
    """The alarms that could not be raised within ``steps_done`` steps, and from when they can; None if all were judged.

    Alarms of a head without loss weight are left out: they are never raised.
    """
    waiting: dict[int, list[str]] = defaultdict(list)
    names = [rule.name for rule in alarm_rules(config) if not _without_weight(config, rule.name)]
    for rule in alarm_rules(config):
        step = first_judged_step(rule.from_step, config.train.log_every)
        if rule.name in names and step > steps_done:
            waiting[step].append(rule.name)
    if not waiting:
        return None
    parts = [f"{', '.join(_grouped(late, names))} from step {step} on" for step, late in sorted(waiting.items())]
    return f"too short to judge after {steps_done} steps: {'; '.join(parts)}"


def _grouped(late: list[str], names: list[str]) -> list[str]:
    """``kind`` when all alarms of that kind are judged at the same step; else the full names."""
    told: list[str] = []
    for name in late:
        kind = name.partition("/")[0]
        whole = {each for each in names if each.partition("/")[0] == kind} <= set(late)
        told.append(kind if whole else name)
    return list(dict.fromkeys(told))


def _without_weight(config: PrismConfig, name: str) -> bool:
    kind, _, head = name.partition("/")
    if kind not in ("at_chance", "frozen_head"):
        return False
    loss = config.loss
    if head == "supcon":
        return not loss.simclr_baseline and loss.w_supcon_target <= 0
    return {str(name): weight for name, weight in head_weights(loss).items()}[head] <= 0
