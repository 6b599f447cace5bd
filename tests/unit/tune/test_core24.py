"""The laws of the design matrix: what 24 runs must be, for five main effects to be read from them."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from prism_ssl.config.defaults import RECIPES, apply_overrides, core24_base, core24_smoke, known_keys
from prism_ssl.errors import ConfigError
from tune.core24 import (
    BASE_RECIPES,
    DERIVED,
    LEVELS,
    OBJECTIVES,
    SCALED_LEVELS,
    Design,
    DesignPoint,
    Scale,
    design_points,
    refuse_changed_factors,
    select,
)

TWO_LEVEL = [*(key for key in LEVELS if len(LEVELS[key]) == 2), DERIVED]
ALL_LEVELS = LEVELS | {DERIVED: OBJECTIVES}


def sign(key: str) -> NDArray[np.float64]:
    """The two-level factor's column of the half fraction, coded -1 and 1."""
    levels = [point.levels[key] for point in design_points("half")]
    return np.array([1.0 if level == ALL_LEVELS[key][1] else -1.0 for level in levels])


def main_effects() -> dict[str, NDArray[np.float64]]:
    """Every contrast of every factor of the half fraction; a factor of k levels has k - 1 of them."""
    columns = {key: sign(key) for key in TWO_LEVEL}
    weights = np.array([point.w_supcon_target for point in design_points("half")])
    low, middle, high = LEVELS["loss.w_supcon_target"]
    columns["weight linear"] = (weights == high) * 1.0 - (weights == low)
    columns["weight curved"] = (weights == middle) * 2.0 - (weights == low) - (weights == high)
    return columns


def test_the_half_fraction_has_24_distinct_cells_of_the_guides_levels() -> None:
    points = design_points("half")
    assert len(set(points)) == len({point.name for point in points}) == 24
    assert {point.levels[key] for point in points for key in ("train.batch_size",)} == {32, 64}
    assert {point.warm_pool_size for point in points} == {16, 24}
    assert {point.w_supcon_target for point in points} == {0.1, 0.2, 0.4}
    assert {point.supcon_ramp_steps for point in points} == {2000, 5000}


def test_each_objective_has_12_runs_balanced_against_every_level_of_every_other_factor() -> None:
    points = design_points("half")
    assert Counter(point.objective for point in points) == {"regression": 12, "classification": 12}
    for key, levels in LEVELS.items():
        counts = Counter((point.levels[key], point.objective) for point in points)
        assert set(counts.values()) == {12 // len(levels)}, key
        assert len(counts) == 2 * len(levels), key


def test_main_effects_are_orthogonal() -> None:
    for (a, column_a), (b, column_b) in itertools.combinations(main_effects().items(), 2):
        assert column_a @ column_b == 0, (a, b)


def test_no_main_effect_is_aliased_with_a_two_factor_interaction_of_the_two_level_factors() -> None:
    interactions = {(a, b): sign(a) * sign(b) for a, b in itertools.combinations(TWO_LEVEL, 2)}
    for name, column in main_effects().items():
        for pair, interaction in interactions.items():
            assert column @ interaction == 0, (name, pair)


def test_the_objective_is_the_parity_of_the_three_other_two_level_factors() -> None:
    batch, pool, ramp = (sign(key) for key in TWO_LEVEL if key != DERIVED)
    assert np.array_equal(sign(DERIVED), batch * pool * ramp)


def test_the_full_design_is_the_half_and_its_mirror_image() -> None:
    full, half = design_points("full"), design_points("half")
    assert len(set(full)) == 48
    assert set(half) < set(full)


@pytest.mark.parametrize("design", OBJECTIVES)
def test_a_plain_design_has_the_24_cells_of_one_objective(design: Design) -> None:
    points = design_points(design)
    assert len(set(points)) == 24
    assert {point.objective for point in points} == {design}


def test_a_cell_keeps_the_guides_fixed_settings() -> None:
    base = core24_base("table.csv")
    for point in design_points("full"):
        config = point.config(base, "full")
        changed = {key for key, value in known_keys(config).items() if value != known_keys(base)[key]}
        assert changed <= set(ALL_LEVELS)
        assert {key: known_keys(config)[key] for key in ALL_LEVELS} == point.levels
        assert (config.data.n_patches, config.data.workers, config.data.visits_per_scan) == (1024, 8, 100)
        assert config.data.use_local_scratch


def test_the_smoke_scale_keeps_factors_and_numbers_of_levels() -> None:
    configs = [known_keys(point.config(core24_smoke(), "smoke")) for point in design_points("half")]
    for key, levels in ALL_LEVELS.items():
        assert len({config[key] for config in configs}) == len(levels), key
    assert all(set(scaled) == set(LEVELS[key]) for key, scaled in SCALED_LEVELS.items())
    assert all(config["loss.supcon_ramp_steps"] + 2 < config["train.max_steps"] for config in configs)


def test_levels_and_point_are_each_others_inverse() -> None:
    for point in design_points("full"):
        assert DesignPoint.from_levels(point.levels) == point


def test_only_selects_by_name_or_pattern_and_names_the_cells_when_nothing_matches() -> None:
    points = design_points("half")
    assert [point.name for point in select(points, ["b32-p16-w0.1-r2000-reg"])] == ["b32-p16-w0.1-r2000-reg"]
    assert len(select(points, ["b64-*", "*-cla"])) == 18
    assert select(points, []) == points
    with pytest.raises(ConfigError, match=r"--only 'b48-\*' matches no cell .*b32-p16-w0.1-r2000-reg"):
        select(points, ["b48-*"])


@pytest.mark.parametrize("scale", BASE_RECIPES)
def test_a_factor_that_the_user_sets_is_refused(scale: Scale) -> None:
    base = RECIPES[BASE_RECIPES[scale]]()
    refuse_changed_factors(apply_overrides(base, {"train.max_steps": 77}))
    with pytest.raises(ConfigError, match=r"^train\.batch_size, model\.objective: factors of the ablation"):
        refuse_changed_factors(apply_overrides(base, {"train.batch_size": 16, "model.objective": "classification"}))
