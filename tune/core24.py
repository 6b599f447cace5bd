"""The core ablation (guide, section 12): factors, design points and their settings (pure).

Five factors span 48 cells, and the guide asks for 24 runs. The half fraction runs every combination of the first four
and derives the fifth: the objective is classification where an odd number of the three other two-level factors is at
its upper level. That aliases the objective with the interaction of those three and with nothing below it: every main
effect is estimable and free of the two-factor interactions of the two-level factors.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any, Literal

from prism_ssl.config.defaults import RECIPES, apply_overrides, known_keys
from prism_ssl.config.network import Objective
from prism_ssl.config.schema import PrismConfig
from prism_ssl.errors import ConfigError

Design = Literal["half", "full", "regression", "classification"]
Scale = Literal["full", "smoke"]

LEVELS: dict[str, tuple[Any, ...]] = {
    "train.batch_size": (32, 64),
    "data.warm_pool_size": (16, 24),
    "loss.w_supcon_target": (0.1, 0.2, 0.4),
    "loss.supcon_ramp_steps": (2000, 5000),
}
"""The factors of the grid and the guide's levels."""

DERIVED, OBJECTIVES = "model.objective", ("regression", "classification")
"""The fifth factor and its levels; the half fraction derives it from the others."""

SCALED_LEVELS: dict[str, dict[Any, Any]] = {
    "train.batch_size": {32: 4, 64: 8},
    "data.warm_pool_size": {16: 2, 24: 3},
    "loss.supcon_ramp_steps": {2000: 2, 5000: 5},
}
"""Values of the smoke scale in place of levels that a laptop cannot run; the number of levels stays."""

BASE_RECIPES: dict[Scale, str] = {"full": "core24-base", "smoke": "core24-smoke"}
"""Recipe that all cells of a scale share."""


@dataclass(frozen=True)
class DesignPoint:
    """One cell of the ablation, by the guide's levels."""

    batch_size: int
    warm_pool_size: int
    w_supcon_target: float
    supcon_ramp_steps: int
    objective: Objective

    @classmethod
    def from_levels(cls, levels: dict[str, Any]) -> DesignPoint:
        """From ``{"section.name": level}``."""
        return cls(**{key.rpartition(".")[2]: levels[key] for key in (*LEVELS, DERIVED)})

    @property
    def levels(self) -> dict[str, Any]:
        """The inverse of ``from_levels``."""
        return {key: getattr(self, key.rpartition(".")[2]) for key in (*LEVELS, DERIVED)}

    @property
    def name(self) -> str:
        """Such as ``b64-p16-w0.2-r5000-reg``: batch, pool, weight, ramp, objective."""
        return (
            f"b{self.batch_size}-p{self.warm_pool_size}-w{self.w_supcon_target}-r{self.supcon_ramp_steps}"
            f"-{self.objective[:3]}"
        )

    def settings(self, scale: Scale) -> dict[str, Any]:
        """Overrides of the scale's base recipe."""
        if scale == "full":
            return self.levels
        return {key: SCALED_LEVELS.get(key, {}).get(level, level) for key, level in self.levels.items()}

    def config(self, base: PrismConfig, scale: Scale) -> PrismConfig:
        """``base`` with this cell's settings."""
        return apply_overrides(base, self.settings(scale))


def derived_objective(levels: dict[str, Any]) -> Objective:
    """The half fraction's objective: the parity of the upper levels among batch, pool and ramp."""
    two_level = [key for key in LEVELS if len(LEVELS[key]) == 2]
    upper = sum(levels[key] == LEVELS[key][1] for key in two_level)
    return "classification" if upper % 2 else "regression"


def objective_rule(design: Design) -> Callable[[dict[str, Any]], Objective] | None:
    """The function by which a design sets the objective from the grid's levels; None if it is part of the grid."""
    if design == "half":
        return derived_objective
    if design == "full":
        return None
    return lambda _: design


def design_points(design: Design) -> list[DesignPoint]:
    """The cells of a design, in the order in which they are run."""
    rule = objective_rule(design)
    points = []
    for combination in itertools.product(*LEVELS.values()):
        levels = dict(zip(LEVELS, combination, strict=True))
        objectives = OBJECTIVES if rule is None else (rule(levels),)
        points += [DesignPoint.from_levels(levels | {DERIVED: objective}) for objective in objectives]
    return points


def select(points: Sequence[DesignPoint], only: Sequence[str]) -> list[DesignPoint]:
    """The points whose name matches one of the patterns (``*`` and ``?``); all of them without a pattern.

    Raises:
        ConfigError: a pattern matches none.
    """
    for pattern in only:
        if not any(fnmatch(point.name, pattern) for point in points):
            names = ", ".join(point.name for point in points)
            raise ConfigError(f"--only {pattern!r} matches no cell of this design; its cells are {names}")
    return [point for point in points if not only or any(fnmatch(point.name, pattern) for pattern in only)]


def refuse_changed_factors(base: PrismConfig) -> None:
    """Check that ``base`` does not set factors, which the design sets.

    Raises:
        ConfigError: ``base`` differs from its recipe in a factor.
    """
    if base.recipe not in RECIPES:
        raise ConfigError(f"a sweep cannot begin with the recipe {base.recipe!r}; needed: {', '.join(RECIPES)}")
    recipe, now = known_keys(RECIPES[base.recipe]()), known_keys(base)
    changed = [key for key in (*LEVELS, DERIVED) if now[key] != recipe[key]]
    if changed:
        raise ConfigError(
            f"{', '.join(changed)}: factors of the ablation, set by its design points; select cells with --only "
            "or --design instead, or train one such run with prism train"
        )
