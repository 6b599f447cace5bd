"""A run that was too short for an alarm says so, and says the very step at which the alarm can come."""

from __future__ import annotations

import math

import pytest

from prism_ssl.config.defaults import apply_overrides, phantom_cpu
from prism_ssl.train.guards.alarm_rules import alarm_rules
from prism_ssl.train.guards.alarms import Alarms, Rule
from prism_ssl.train.guards.unjudged_alarms import first_judged_step, too_short_to_judge

CONFIG = apply_overrides(phantom_cpu(), {"train.log_every": 20, "train.lr_warmup_steps": 40})


@pytest.mark.parametrize("log_every", [1, 7, 20, 50, 100, 900])
@pytest.mark.parametrize("from_step", [0, 1, 290, 300])
def test_the_step_is_the_one_at_which_an_alarm_that_waits_for_nothing_else_is_raised(
    from_step: int, log_every: int
) -> None:
    rule = Rule("low", lambda _: 0.0, raise_below=1.0, over_above=2.0, text=lambda _: "", from_step=from_step)
    alarms, step = Alarms([rule], 0), 0
    while not alarms.scalars()["alarm/low"]:
        step += log_every
        alarms.judge(step, {"x": math.nan})
    assert first_judged_step(from_step, log_every) == step


def test_a_run_of_300_steps_cannot_say_that_its_heads_learn() -> None:
    assert too_short_to_judge(apply_overrides(CONFIG, {"loss.w_supcon_target": 0.0}), 300) == (
        "too short to judge after 300 steps: at_chance from step 360 on"
    )


def test_supcon_is_judged_after_its_ramp_and_named_apart() -> None:
    ramp = {"loss.supcon_warmup_steps": 1000, "loss.supcon_ramp_steps": 500}
    config = apply_overrides(CONFIG, ramp)
    assert too_short_to_judge(config, 360) == (
        "too short to judge after 360 steps: frozen_head/supcon from step 1060 on; at_chance/supcon from step 1820 on"
    )
    assert too_short_to_judge(config, 1820) is None


def test_a_very_short_run_has_judged_nothing_and_a_head_without_weight_is_not_waited_for() -> None:
    config = apply_overrides(CONFIG, {"loss.simclr_baseline": True})
    told = too_short_to_judge(config, 12) or ""
    kinds = {rule.name.partition("/")[0] for rule in alarm_rules(config)}
    assert all(kind in told for kind in kinds)
    assert "distance" not in told
