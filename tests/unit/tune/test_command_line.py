"""Settings from a file: what a run wrote reads back as it was, and overrides come after it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prism_ssl.config.defaults import RECIPES, apply_overrides, betty_baseline, known_keys, phantom_cpu
from prism_ssl.errors import ConfigError
from tune.command_line import COMMON_SETTINGS, load_settings, short_help
from tune.train_single import parse
from tune.tune_core24 import parse as parse_sweep


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_what_a_run_wrote_reads_back_as_it_was(recipe: str, suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"config{suffix}").write_text(json.dumps(RECIPES[recipe]().to_dict()))  # JSON is YAML
    assert load_settings(tmp_path / f"config{suffix}") == RECIPES[recipe]()


def test_a_file_of_a_few_settings_begins_with_its_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("recipe: betty-baseline\ntrain:\n  lr: 1e-3\n  max_steps: 7\n")
    assert load_settings(tmp_path / "mine.yaml") == apply_overrides(
        betty_baseline(), {"train.lr": 1e-3, "train.max_steps": 7}
    )


def test_overrides_come_after_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(apply_overrides(phantom_cpu(), {"train.lr": 0.5, "train.max_steps": 9}).to_dict()))
    config = parse(["--config", str(file), "--train.max-steps", "11"])
    assert (config.train.lr, config.train.max_steps) == (0.5, 11)
    assert parse([f"--config={file}"]).train.max_steps == 9
    sweep = parse_sweep(["--scale", "smoke", "--config", str(file), "--train.max-steps", "12"])
    assert (sweep.base.train.lr, sweep.base.train.max_steps) == (0.5, 12)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("recipe: phantom-cpu\ntrain: {max_stepz: 3}", "bad.yaml: .*did you mean 'train.max_steps'"),
        ("recipe: phantom-cpu\ntrain: {max_steps: many}", "train.max_steps is 'many'"),
        ("recipe: phantom-cpu\ndata: {columns: {pmbb_id: 3}}", "data.columns is"),
        ("recipe: phantom-cpu\ntrain:", "has the empty section 'train'"),
        ("train: {lr: 0.1}", "names no recipe; needed: recipe: phantom-cpu"),
        ("recipe: phantom_cpu", "names the recipe 'phantom_cpu'; needed"),
        ("recipe: [a]", "names the recipe"),
        ("- a list", "holds a list; needed: sections of settings"),
        ("", "holds nothing; needed: sections of settings"),
        ("train: {", "cannot be read"),
        ("!!python/object/apply:os.getcwd []", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError, match=told):
        load_settings(tmp_path / "bad.yaml")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--config"], "names no file"),
        (["--config=", "--train.max-steps", "3"], "names no file"),
        (["--config", "a.json", "--config", "b.json"], "given twice"),
        (["--config", "/nowhere.json"], "/nowhere.json cannot be read .No such file"),
    ],
)
def test_a_file_that_is_not_there_is_refused(arguments: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse(arguments)


def test_a_recipe_beside_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"recipe": "phantom-cpu"}')
    with pytest.raises(ConfigError, match="leave out 'phantom-cpu'"):
        parse(["phantom-cpu", "--config", str(tmp_path / "config.json")])


def test_the_settings_of_the_short_help_exist() -> None:
    known = {key.replace("_", "-") for key in known_keys(phantom_cpu())}
    assert [key for key in COMMON_SETTINGS if key.split()[0].replace(".no-", ".") not in known] == []
    assert max(map(len, short_help("prism train").split("\n"))) <= 80


def test_a_sweep_of_a_file_begins_with_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("recipe: core24-smoke\ntrain: {lr: 5e-4}\n")
    assert parse_sweep(["--scale", "smoke", "--config", str(tmp_path / "mine.yaml")]).base.train.lr == 5e-4
    (tmp_path / "other.yaml").write_text("recipe: custom\n")
    with pytest.raises(ConfigError, match="cannot begin with the recipe 'custom'"):
        parse_sweep(["--config", str(tmp_path / "other.yaml")])
