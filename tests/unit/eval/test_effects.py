"""Main effects against responses whose effects are known."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import stats

from prism_ssl.eval.effects import aliased_interactions, main_effects
from prism_ssl.eval.ranking import FACTORS
from tune.core24 import LEVELS, Design, design_points

TRUE = {
    ("train.batch_size", "64"): 0.05, ("data.warm_pool_size", "24"): 0.0, ("loss.w_supcon_target", "0.4"): 0.06,
    ("loss.supcon_ramp_steps", "5000"): -0.02, ("model.objective", "classification"): 0.03,
}  # fmt: skip
"""Deviation of a level from its factor's mean, in the made-up responses below."""


def runs(noise: float = 0.0, seed: int = 0, design: Design = "half") -> pl.DataFrame:
    """A design with 0.5 plus the true effects; weight 0.1 and 0.2 lie 0.03 below their factor's mean."""
    draw = np.random.default_rng(seed)
    rows = []
    for point in design_points(design):
        quality = 0.5 + noise * draw.standard_normal()
        for (factor, level), effect in TRUE.items():
            opposite = -effect / 2 if factor == "loss.w_supcon_target" else -effect
            quality += effect if str(point.levels[factor]) == level else opposite
        rows.append({**point.levels, "quality": quality})
    return pl.DataFrame(rows)


def effect(table: pl.DataFrame, factor: str, level: str) -> dict[str, float]:
    return table.row(by_predicate=(pl.col("factor") == factor) & (pl.col("level") == level), named=True)


def test_effects_without_noise_are_the_true_ones() -> None:
    table = main_effects(runs(), "quality", FACTORS)
    assert len(table) == 2 + 2 + 3 + 2 + 2
    for (factor, level), true in TRUE.items():
        found = effect(table, factor, level)
        assert found["effect"] == pytest.approx(true, abs=1e-12)
        assert found["low"] == pytest.approx(found["high"], abs=1e-9)
    assert effect(table, "loss.w_supcon_target", "0.2")["effect"] == pytest.approx(-0.03)


def test_missing_runs_unbalance_the_means_but_not_the_effects() -> None:
    some = runs().filter(~((pl.col("train.batch_size") == 64) & (pl.col("model.objective") == "regression")))
    table = main_effects(some.head(-2), "quality", FACTORS)
    for (factor, level), true in TRUE.items():
        assert effect(table, factor, level)["effect"] == pytest.approx(true, abs=1e-9)


def test_intervals_hold_the_truth_as_often_as_they_promise() -> None:
    held = [
        found["low"] <= true <= found["high"]
        for seed in range(150)
        for (factor, level), true in TRUE.items()
        for found in [effect(main_effects(runs(noise=0.05, seed=seed), "quality", FACTORS), factor, level)]
    ]
    assert 0.92 < np.mean(held) < 0.98


def test_an_interval_of_two_levels_is_students_on_the_residual_degrees_of_freedom() -> None:
    table = pl.DataFrame({"f": ["a", "a", "b", "b"], "y": [1.0, 3.0, 6.0, 8.0]})
    found = effect(main_effects(table, "y", ["f"]), "f", "b")
    margin = stats.t.ppf(0.975, 2) * np.sqrt(2.0) / np.sqrt(4)
    assert (found["effect"], found["low"], found["high"]) == pytest.approx((2.5, 2.5 - margin, 2.5 + margin))


def test_confounded_factors_have_no_effect_and_the_others_keep_theirs() -> None:
    table = runs(design="full").filter(
        pl.col("model.objective")
        == pl.when(pl.col("train.batch_size") == 32).then(pl.lit("regression")).otherwise(pl.lit("classification"))
    )
    found = main_effects(table, "quality", FACTORS)
    for factor in ("train.batch_size", "model.objective"):
        assert found.filter(pl.col("factor") == factor)["effect"].to_list() == [None, None]
    assert effect(found, "loss.supcon_ramp_steps", "5000")["effect"] == pytest.approx(-0.02)


def test_without_a_residual_degree_of_freedom_there_is_no_interval() -> None:
    found = main_effects(pl.DataFrame({"f": ["a", "b"], "y": [1.0, 2.0]}), "y", ["f"])
    assert found["effect"].to_list() == pytest.approx([-0.5, 0.5])
    assert found["low"].null_count() == found["high"].null_count() == 2


def test_what_was_not_measured_and_what_does_not_vary_is_left_out() -> None:
    table = pl.DataFrame({"f": ["a", "a", "b", "b"], "g": [1, 1, 1, 1], "y": [1.0, None, 3.0, float("nan")]})
    assert main_effects(table, "y", ["f", "g"])["factor"].to_list() == ["f", "f"]
    assert main_effects(table, "z", ["f"]).is_empty()
    assert main_effects(table.head(2), "y", list(LEVELS)[:0]).is_empty()


def test_each_two_factor_interaction_is_estimable_and_three_pairs_alias_in_the_half_fraction() -> None:
    half = pl.from_dicts([point.levels for point in design_points("half")])
    named = {frozenset(map(_short, pair)) for pair in aliased_interactions(half, FACTORS)}
    assert named == {
        frozenset({"batch x pool", "ramp x objective"}),
        frozenset({"batch x ramp", "pool x objective"}),
        frozenset({"pool x ramp", "batch x objective"}),
    }
    assert aliased_interactions(pl.from_dicts([point.levels for point in design_points("full")]), FACTORS) == []


def test_an_interaction_that_a_design_cannot_tell_is_named() -> None:
    few = pl.DataFrame({"a": [0, 0, 1, 1], "b": [0, 1, 0, 1], "c": [0, 1, 1, 0]})
    with pytest.raises(ValueError, match="not estimable beside the main effects: a x b, a x c, b x c"):
        aliased_interactions(few, ["a", "b", "c"])


def _short(interaction: str) -> str:
    words = {
        "train.batch_size": "batch", "data.warm_pool_size": "pool", "loss.supcon_ramp_steps": "ramp",
        "model.objective": "objective", "loss.w_supcon_target": "weight",
    }  # fmt: skip
    return " x ".join(words[factor] for factor in interaction.split(" x "))
