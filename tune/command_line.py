"""Read a run's settings from the command line: a recipe or ``--config FILE``, then overrides; short and full help."""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tyro
import yaml

from prism_ssl.config.defaults import RECIPES, config_from_dict
from prism_ssl.config.schema import PrismConfig
from prism_ssl.errors import ConfigError

HELP, HELP_ALL, CONFIG = ("-h", "--help"), "--help-all", "--config"

COMMON_SETTINGS = {
    "data.catalog-path FILE": "table of scans (.csv, .csv.gz, .parquet); without it: the recipe's, or phantoms",
    "data.columns OURS THEIRS": "column names that differ, such as: pmbb_id mrn",
    "data.n-scans N": "train on at most N scans, chosen by seeded hash",
    "train.max-steps N": "steps to train",
    "train.batch-size N": "pairs a step",
    "train.lr X": "peak learning rate",
    "run.name NAME": "name of the run folder; without it: recipe and hash of the settings",
    "run.root FOLDER": "where run folders go (default: runs)",
    "tracking.mode MODE": "W&B: online, offline or disabled",
    "data.no-strict": "replace a scan that breaks while training; do not end the run",
    "loss.simclr-baseline": "train the SimCLR baseline in place of PRISM",
}
"""What most users set; ``--help-all`` lists everything."""


def read_settings(
    arguments: Sequence[str] | None, prog: str, also: Mapping[str, str] = MappingProxyType({})
) -> PrismConfig:
    """The settings of a command line; ``--help`` and ``--help-all`` print and end the process.

    ``also``: options that the command takes beside the settings, and what they do, for the short help.

    Raises:
        ConfigError: the file of ``--config`` cannot be read, or names an unknown setting.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if wants_short_help(given):
        print(short_help(prog, also), file=sys.stdout if given else sys.stderr)
        raise SystemExit(0 if given else 2)
    file, given = take_config_file(given)
    if file is None and given == ["--help"]:  # of --help-all without a recipe: every setting, at its built-in default
        return tyro.cli(PrismConfig, args=given, prog=f"{prog} RECIPE")
    if file is None:
        recipes = {name: (describe_recipe(name), recipe()) for name, recipe in RECIPES.items()}
        return tyro.extras.overridable_config_cli(recipes, args=given, prog=prog)
    if given and given[0] in RECIPES:
        raise ConfigError(f"{CONFIG} {file} holds a recipe's settings already; leave out {given[0]!r}")
    return tyro.cli(PrismConfig, args=given, default=load_settings(file), prog=prog)


def wants_short_help(arguments: Sequence[str]) -> bool:
    """Whether the first screen is asked for: help, and no recipe whose settings it could list."""
    return not arguments or (arguments[0] in HELP and HELP_ALL not in arguments)


def take_config_file(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The file of ``--config FILE``, and the other arguments with ``--help-all`` as tyro's ``--help``."""
    file, rest = None, []
    words = iter(arguments)
    for word in words:
        if word == CONFIG or word.startswith(f"{CONFIG}="):
            value = word.partition("=")[2] if "=" in word else next(words, "")
            if file is not None:
                raise ConfigError(f"{CONFIG} is given twice; needed: one file, and overrides as --section.key VALUE")
            if not value:
                raise ConfigError(f"{CONFIG} names no file; needed: {CONFIG} FILE.json or FILE.yaml")
            file = Path(value)
        else:
            rest.append("--help" if word == HELP_ALL else word)
    return file, rest


def load_settings(file: Path) -> PrismConfig:
    """Settings from JSON or YAML: a recipe, and sections of settings, such as the config.json of a run folder.

    What the file leaves out comes from its recipe.

    Raises:
        ConfigError: the file cannot be read or names no recipe; a setting is unknown or has a wrong type.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        read: Any = json.loads(text) if file.suffix.lower() == ".json" else yaml.load(text, _Loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise ConfigError(f"{file} cannot be read ({reason}); needed: JSON (.json) or YAML (.yaml) settings") from error
    if not isinstance(read, Mapping) or not all(isinstance(key, str) for key in read):
        found = "nothing" if read is None else f"a {type(read).__name__}"
        raise ConfigError(f"{file} holds {found}; needed: sections of settings, as in a run's config.json")
    name, known = read.get("recipe"), {**RECIPES, PrismConfig().recipe: PrismConfig}
    if not isinstance(name, str) or name not in known:
        what = "names no recipe" if name is None else f"names the recipe {name!r}"
        raise ConfigError(f"{file} {what}; needed: recipe: {', '.join(RECIPES)}")
    if empty := [section for section, value in read.items() if value is None and hasattr(PrismConfig(), section)]:
        raise ConfigError(f"{file} has the empty section {empty[0]!r}; fill it or leave it out")
    try:
        return config_from_dict(read, known[name]())
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


class _Loader(yaml.SafeLoader):
    """YAML 1.2 numbers: ``1e-3`` is a number, not a text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)$"), list("-+0123456789.")
)


def short_help(prog: str, also: Mapping[str, str] = MappingProxyType({})) -> str:
    """One screen: recipes, the settings that most users change, and the command's own options (``also``)."""
    return "\n".join(
        [
            f"usage: {prog} RECIPE [--section.key VALUE ...]",
            f"       {prog} {CONFIG} FILE [--section.key VALUE ...]",
            "",
            "recipes",
            *(_two_columns(name, describe_recipe(name), 17) for name in RECIPES),
            "",
            "settings that most users change",
            *(_two_columns(f"--{key}", words, 29) for key, words in COMMON_SETTINGS.items()),
            *(_two_columns(option, words, 29) for option, words in also.items()),
            "",
            f"{CONFIG} FILE reads JSON or YAML, such as the config.json of a run folder.",
            f"All settings: {prog} RECIPE {HELP_ALL}",
        ]
    )


def _two_columns(name: str, words: str, width: int) -> str:
    return textwrap.fill(f"{name:<{width}}{words}", 80, initial_indent="  ", subsequent_indent=" " * (width + 2))


def describe_recipe(name: str) -> str:
    """The first line of a recipe's docstring."""
    return (RECIPES[name].__doc__ or "").split("\n")[0]
