"""Settings: the guide's fields, values refused at birth, and the one door for overrides."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from prism_ssl.config import schema
from prism_ssl.config.defaults import (
    RECIPES,
    apply_overrides,
    betty_baseline,
    config_from_dict,
    known_keys,
    phantom_cpu,
)
from prism_ssl.config.operations import RunConfig
from prism_ssl.config.schema import DataConfig, LossConfig, PrismConfig, TrainConfig
from prism_ssl.errors import ConfigError

GUIDE_FIELDS = {
    DataConfig: "catalog_path n_scans modality_filter n_patches patch_mm workers warm_pool_size visits_per_scan "
    "max_prefetch_replacements use_local_scratch",
    LossConfig: "w_distance w_rotation w_window w_supcon_target supcon_temperature supcon_warmup_steps "
    "supcon_ramp_steps normalize_targets",
    TrainConfig: "batch_size max_steps log_every lr weight_decay precision seed",
}
"""Section 5.1 of the guide, letter for letter."""

EVERYTHING_ELSE: dict[str, Any] = {
    "data.catalog_path": "scans.parquet",
    "data.columns": {"pmbb_id": "mrn"},
    "data.modality_filter": ("MR",),
    "data.patch_mm": 12.5,
    "data.strict": False,
    "preflight.concurrency": 3,
    "model.objective": "classification",
    "train.torch_threads": 2,
    "run.name": "mine",
    "run.memory_limit_bytes": 2**34,
}
"""One value of every type, each different from its default."""

IMPOSSIBLE: list[tuple[str, Any, str]] = [
    ("data.n_scans", 0, "a value above 0"),
    ("data.patch_mm", -1.0, "a value above 0"),
    ("data.patch_mm", float("inf"), "a value above 0"),
    ("data.warm_pool_size", 1, "at least 2 slots"),
    ("data.modality_filter", (), "a modality"),
    ("data.holdout_fraction", 1.0, "a share in [0, 1)"),
    ("data.abort_broken_share", -0.1, "a share in [0, 1)"),
    ("data.scratch_bytes", -1, "0 or more"),
    ("view.rotation_max_deg", 46.0, "in (0, 45]"),
    ("view.radius_mm_min", 31.0, "between radius_mm_floor (10.0) and radius_mm_max (30.0)"),
    ("view.radius_mm_max", float("inf"), "a value above 0"),
    ("view.window_width_std_min", 7.0, "at most window_width_std_max (6.0)"),
    ("preflight.min_slices", 0, "a value above 0"),
    ("preflight.concurrency", 0, "a value above 0"),
    ("preflight.ct_air_share_min", 0.0, "between 0 and 1"),
    ("preflight.spacing_mm_min", 20.0, "below spacing_mm_max (15.0)"),
    ("model.projection_dim", 0, "a value above 0"),
    ("model.preset", "huge", "one of 'tiny', 'small', 'base', 'large'"),
    ("loss.supcon_temperature", 0.0, "a value above 0"),
    ("loss.w_distance", float("nan"), "0 or more"),
    ("loss.supcon_ramp_steps", -1, "0 or more"),
    ("train.precision", "fp16", "one of 'fp32', 'bf16'"),
    ("train.lr", float("inf"), "a value above 0"),
    ("train.lr", float("nan"), "a value above 0"),
    ("train.torch_threads", 0, "a value above 0"),
    ("train.seed", -1, "0 or more"),
    ("run.memory_limit_bytes", 0, "a value above 0"),
    ("run.name", "../other", "the name of one folder, not a path"),
    ("run.name", "", "the name of one folder, not a path"),
]


# ---------------------------------------------------------------------- the schema
@pytest.mark.parametrize("section", GUIDE_FIELDS)
def test_a_section_has_the_fields_of_the_guide(section: type[Any]) -> None:
    assert set(GUIDE_FIELDS[section].split()) <= {field.name for field in dataclasses.fields(section)}


def test_no_setting_can_be_changed_after_birth() -> None:
    config = phantom_cpu()
    for key in known_keys(config):
        section, _, name = key.rpartition(".")
        with pytest.raises(dataclasses.FrozenInstanceError, match=f"cannot assign to field '{name}'"):
            setattr(getattr(config, section) if section else config, name, None)


@pytest.mark.parametrize(("key", "value", "needed"), IMPOSSIBLE)
def test_an_impossible_value_is_refused_with_key_value_and_need(key: str, value: Any, needed: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{key} is {value!r}; needed: {needed}")):
        apply_overrides(phantom_cpu(), {key: value})


def test_a_batch_has_equal_parts_from_every_worker() -> None:
    with pytest.raises(ConfigError, match=r"train.batch_size is 16 and data.workers is 3; .* a multiple of 3 or lower"):
        apply_overrides(phantom_cpu(), {"data.workers": 3})
    assert apply_overrides(phantom_cpu(), {"data.workers": 3, "train.batch_size": 18}).data.workers == 3


def test_training_workers_share_the_pool_actors_equally() -> None:
    with pytest.raises(ConfigError, match=r"train.num_workers is 3 and data.workers is 8; .* multiple of 3 or lower"):
        apply_overrides(betty_baseline(), {"train.num_workers": 3})
    with pytest.raises(ConfigError, match=r"train.num_workers is 16 and data.workers is 8"):
        apply_overrides(betty_baseline(), {"train.num_workers": 16, "train.batch_size": 64})
    assert apply_overrides(betty_baseline(), {"train.num_workers": 8}).train.num_workers == 8


def test_a_stalled_pool_is_named_before_the_other_training_workers_give_up() -> None:
    patience = {"train.rank_timeout_s": 300.0, "data.stall_timeout_s": 300.0}
    apply_overrides(betty_baseline(), patience)  # nobody waits for a single one
    with pytest.raises(ConfigError, match=r"train.rank_timeout_s is 300 and data.stall_timeout_s is 300; .* above"):
        apply_overrides(betty_baseline(), patience | {"train.num_workers": 2})


def test_a_run_without_any_scans_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"there are no scans; pass --data.catalog-path TABLE "):
        apply_overrides(phantom_cpu(), {"data.phantom_subjects": 0})


def test_every_setting_is_explained() -> None:
    tree = ast.parse(Path(schema.__file__).read_text())
    silent = [
        f"{section.name}.{ast.unparse(field.target)}"
        for section in tree.body
        if isinstance(section, ast.ClassDef) and section.name != "PrismConfig"
        for field, following in zip(section.body, [*section.body[1:], None], strict=True)
        if isinstance(field, ast.AnnAssign)
        and not (isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant))
    ]
    assert silent == []


# ---------------------------------------------------------------------- recipes and round trips
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_valid_and_named_after_its_key(name: str) -> None:
    config = RECIPES[name]()
    assert config.recipe == name
    assert (RECIPES[name].__doc__ or "").strip()
    assert dataclasses.replace(config) == config  # __post_init__ of the whole agrees once more


@pytest.mark.parametrize(
    "config", [*(recipe() for recipe in RECIPES.values()), apply_overrides(betty_baseline(), EVERYTHING_ELSE)]
)
def test_settings_survive_json(config: PrismConfig) -> None:
    assert config_from_dict(json.loads(json.dumps(config.to_dict(), allow_nan=False))) == config


def test_settings_of_another_version_are_refused_not_ignored() -> None:
    saved = phantom_cpu().to_dict()
    saved["train"]["momentum"] = 0.9
    with pytest.raises(ConfigError, match=r"unknown config key 'train\.momentum'"):
        config_from_dict(saved)


# ---------------------------------------------------------------------- the strict door
def test_overrides_change_what_they_name_and_nothing_else() -> None:
    before, after = known_keys(betty_baseline()), known_keys(apply_overrides(betty_baseline(), EVERYTHING_ELSE))
    assert {key: after[key] for key in after if after[key] != before[key]} == EVERYTHING_ELSE


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("train.max_step", "train.max_steps"),
        ("train.max-steps", "train.max_steps"),
        ("trian.lr", "train.lr"),
        ("train.rate", "train.lr"),
        ("max_steps", "train.max_steps"),
        ("lr", "train.lr"),
        ("loss.lr", "train.lr"),
        ("loss.warm_pool_size", "data.warm_pool_size"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(typo: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"unknown config key {typo!r}; did you mean {meant!r}?")):
        apply_overrides(phantom_cpu(), {typo: 1})


@pytest.mark.parametrize("key", ["zzz", "data", ""])
def test_a_key_like_no_single_one_names_the_sections(key: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"unknown config key '{key}'; known sections: \['data', 'eval', 'loss', 'model'"
    ):
        apply_overrides(phantom_cpu(), {key: 1})


@pytest.mark.parametrize(
    ("key", "value", "needed"),
    [
        ("train.max_steps", "200", "int"),
        ("train.max_steps", 200.0, "int"),
        ("train.max_steps", True, "int"),
        ("train.max_steps", None, "int"),
        ("train.lr", "1e-3", "float"),
        ("train.lr", True, "float"),
        ("train.torch_threads", 1.5, "int"),
        ("data.strict", 0, "bool"),
        ("data.modality_filter", "CT", "tuple"),
        ("data.modality_filter", (1, 2), "tuple"),
        ("data.columns", [("a", "b")], "dict"),
        ("run.name", 7, "str"),
    ],
)
def test_a_value_of_another_type_is_refused(key: str, value: Any, needed: str) -> None:
    match = re.escape(f"{key} is {value!r} ({type(value).__name__}); needed: {needed}")
    with pytest.raises(ConfigError, match=match):
        apply_overrides(phantom_cpu(), {key: value})


def test_a_whole_number_is_a_float_where_one_is_wanted() -> None:
    value = apply_overrides(phantom_cpu(), {"train.weight_decay": 1}).train.weight_decay
    assert (type(value), value) == (float, 1.0)


@pytest.mark.parametrize("key", ["train.torch_threads", "run.name", "run.memory_limit_bytes", "data.catalog_path"])
def test_none_turns_an_optional_setting_off(key: str) -> None:
    given = apply_overrides(phantom_cpu(), {"train.torch_threads": 2, "run.name": "x", "run.memory_limit_bytes": 9})
    assert known_keys(apply_overrides(given, {key: None}))[key] is None


def test_a_run_name_may_hold_dots_inside() -> None:
    assert RunConfig(name="vit-l.v1_2").name == "vit-l.v1_2"


PLACE: dict[str, Any] = {"view.same_place_share": 0.5, "loss.supcon_positives": "place"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"loss.supcon_positives": "place"}, "view.same_place_share is 0, so no two views show one place"),
        ({"view.other_series_share": 0.5}, "view.other_series_share is 0.5; needed: 0 where"),
        ({"view.same_place_share": 0.5, "view.other_series_share": 0.5}, "loss.supcon_positives is 'series'"),
        (PLACE | {"view.same_place_mm": 4.0}, "may lie 6.9 mm apart"),
        (PLACE | {"view.same_place_mm": 6.0}, "view.same_place_mm is 6.0; needed: less than 5.8"),
        (PLACE | {"loss.place_near_mm": 12.0}, "loss.place_apart_mm is 12.0; needed: above place_near_mm (12)"),
        (PLACE | {"view.random_contrast": 0.5, "data.extract_on": "cuda"}, "need data.extract_on 'cpu'"),
    ],
)
def test_views_of_one_place_that_cannot_work_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        apply_overrides(PrismConfig(), settings)
    assert apply_overrides(PrismConfig(), PLACE).loss.supcon_positives == "place"
