"""Which rows of a history are called out, and in which words; a healthy row never is."""

from __future__ import annotations

import math
from typing import Any

import pytest

from prism_ssl.config.defaults import apply_overrides, phantom_cpu
from prism_ssl.config.schema import PrismConfig
from prism_ssl.model.pair_targets import AXES
from prism_ssl.train.guards.alarm_rules import PATIENCE_STEPS, alarm_rules
from prism_ssl.train.guards.alarms import Alarms

HEADS = (*AXES, "supcon")


def _healthy() -> dict[str, float]:
    """A row as a healthy run of the recipe phantom-cpu writes it: everything has been learned a little."""
    row = {
        "supcon/positives_mean": 3.0, "supcon/cross_pair_share": 1.0, "supcon/distinct_series": 8.0,
        "supcon/loss_floor": 1.1, "embedding/std_mean": 0.3, "embedding/spread": 0.3, "embedding/effective_rank": 30.0,
    }  # fmt: skip
    for head in HEADS:
        row |= {f"loss/{head}": 1.2, f"chance/{head}": 1.5, f"weight/{head}": 1.0, f"update/{head}": 0.05}
    for axis in (axis for axes in AXES.values() for axis in axes):
        row |= {f"target_std/{axis}": 0.6, f"signed_share/{axis}": 0.9, f"std_ratio/{axis}": 0.4, f"skill/{axis}": 0.4}
    return row | {"skill/distance": math.nan, "signed_share/distance": 0.0}


def _config(**overrides: Any) -> PrismConfig:
    return apply_overrides(phantom_cpu(), {key.replace("__", "."): value for key, value in overrides.items()})


def _raised(changed: dict[str, float], config: PrismConfig | None = None, steps: int = 1000) -> dict[str, int]:
    """Alarms of a run whose rows are all ``changed``, and the steps at which they come."""
    alarms = Alarms(alarm_rules(config or _config()), 0)
    row = _healthy() | changed
    return {c.name: step for step in range(20, steps + 1, 20) for c in alarms.judge(step, row)}


def _text(changed: dict[str, float]) -> str:
    alarms = Alarms(alarm_rules(_config()), 0)
    told = [c.text for step in range(20, 1001, 20) for c in alarms.judge(step, _healthy() | changed)]
    assert len(told) == 1
    return told[0]


AT_CHANCE = {"loss/rotation": 1.51, "skill/rx": 0.06, "skill/ry": -0.03, "skill/rz": math.nan}


def test_a_healthy_run_raises_nothing() -> None:
    assert _raised({}) == {}


def test_too_many_views_that_show_nothing_are_called_out_with_what_they_are() -> None:
    shares = {"views_saturated_share": 0.2, "views_flat_share": 0.1, "views_outside_share": 0.0}
    text = _text(shares | {"views_empty_share": 0.22})
    assert text.startswith("empty_views: 22% of the views show nothing (steps 0 to 60): 20% are saturated")
    assert _raised(shares | {"views_empty_share": 0.19}) == {}


def test_a_head_at_chance_is_called_out_only_after_warm_up_and_patience() -> None:
    first = 40 + PATIENCE_STEPS
    assert _raised(AT_CHANCE) == {"at_chance/rotation": 360}
    assert 360 - 60 >= first > 360 - 60 - 20  # the first span that begins after them
    assert _raised(AT_CHANCE, _config(train__lr_warmup_steps=400)) == {"at_chance/rotation": 860}


def test_supcon_is_given_until_its_ramp_has_ended_and_simclr_has_none() -> None:
    at_chance = {"loss/supcon": 1.5}
    assert _raised(at_chance) == {"at_chance/supcon": 520}
    assert _raised(at_chance, _config(loss__simclr_baseline=True)) == {"at_chance/supcon": 360}


@pytest.mark.parametrize(
    "learned",
    [{"skill/rx": 0.2}, {"loss/rotation": 1.45}, {"weight/rotation": 0.0}, {"loss/rotation": math.nan}],
    ids=["an axis has skill", "the loss is below chance", "no weight", "not finite"],
)
def test_a_head_that_has_learned_or_cannot_be_judged_is_not_at_chance(learned: dict[str, float]) -> None:
    assert _raised(AT_CHANCE | learned) == {}


def test_words_tell_a_mean_predictor_from_answers_that_miss() -> None:
    still = {f"std_ratio/r{axis}": 0.04 for axis in "xyz"}
    assert "loss 1.51e+00, predicting the mean for every pair gets 1.50e+00 (steps 300 to 360)" in _text(AT_CHANCE)
    assert "predictions vary (40% of the target's std) but do not follow the target" in _text(AT_CHANCE)
    assert "predicts nearly the same for every pair (at most 4% of the target's std)" in _text(AT_CHANCE | still)


def test_a_head_that_is_far_off_is_said_to_be_worse_than_chance() -> None:
    assert "rotation is at chance" in _text(AT_CHANCE)
    assert "rotation is worse than chance" in _text(AT_CHANCE | {"loss/rotation": 1.8})


@pytest.mark.parametrize("cause", [{"target_std/rx": 0.0}, {"update/rotation": 0.0}, {"embedding/spread": 1e-4}])
def test_being_at_chance_is_not_told_where_its_cause_is(cause: dict[str, float]) -> None:
    raised = _raised(AT_CHANCE | cause)
    assert len(raised) == 1
    assert "at_chance/rotation" not in raised


def test_supcon_that_reached_its_floor_is_not_at_chance_however_near_both_are() -> None:
    assert _raised({"loss/supcon": 1.41, "chance/supcon": 1.42, "supcon/loss_floor": 1.4}) == {}


def test_a_smaller_learning_rate_is_not_a_frozen_head() -> None:
    assert _raised({"update/rotation": 1e-7}) == {}


def test_without_supcon_its_positives_are_nobodys_business() -> None:
    none = {"supcon/cross_pair_share": 0.0, "weight/supcon": 0.0}
    assert list(_raised(none)) == ["supcon_no_other_pairs"]
    assert _raised(none, _config(loss__w_supcon_target=0.0)) == {}
