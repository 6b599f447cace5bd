"""Main effects of an experiment's factors on a response, with Student's t intervals."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

_SAME = 1e-8

_SCHEMA = {
    "factor": pl.String,
    "level": pl.String,
    "runs": pl.Int64,
    "effect": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
}


def main_effects(runs: pl.DataFrame, response: str, factors: Sequence[str], confidence: float = 0.95) -> pl.DataFrame:
    """Main effects of ``factors`` on ``response``: ordinary least squares on effect-coded factors.

    One row per factor and level: its number of runs, and the effect, the level's deviation from the mean over the
    factor's levels with the other factors held, in the response's unit, between ``low`` and ``high`` (Student's t
    interval on the residual degrees of freedom). Runs without the response and factors with a single level are left
    out. Null where the runs do not suffice: an effect that the design confounds with others, or an interval without
    a residual degree of freedom.
    """
    if response not in runs.columns:
        return pl.DataFrame(schema=_SCHEMA)
    known = runs.filter(pl.col(response).is_finite()).drop_nulls(list(factors))
    levels = {factor: known[factor].unique().sort().to_list() for factor in factors}
    levels = {factor: found for factor, found in levels.items() if len(found) > 1}
    if not levels:
        return pl.DataFrame(schema=_SCHEMA)
    codes = {factor: effect_codes(len(found)) for factor, found in levels.items()}
    design = np.hstack([np.ones((len(known), 1)), *(_coded(known, factor) for factor in levels)])
    fit = LeastSquares(design, known[response].to_numpy(), confidence)
    rows, start = [], 1
    for factor, found in levels.items():
        for index, value in enumerate(found):
            contrast = np.zeros(design.shape[1])
            contrast[start : start + len(found) - 1] = codes[factor][index]
            effect, low, high = fit.estimate(contrast)
            runs_there = int((known[factor] == value).sum())
            rows.append((factor, str(value), runs_there, effect, low, high))
        start += len(found) - 1
    return pl.DataFrame(rows, schema=_SCHEMA, orient="row")


def aliased_interactions(runs: pl.DataFrame, factors: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of two-factor interactions that a design cannot tell apart beside all main effects, as ``a x b``.

    Raises:
        ValueError: an interaction alone is not estimable beside the main effects.
    """
    codes = {factor: _coded(runs, factor) for factor in factors}
    main = np.hstack([np.ones((len(runs), 1)), *codes.values()])
    products = {
        f"{a} x {b}": (codes[a][:, :, None] * codes[b][:, None, :]).reshape(len(runs), -1)
        for a, b in itertools.combinations(factors, 2)
    }

    def added_rank(*names: str) -> int:
        columns = np.hstack([main, *(products[name] for name in names)])
        return int(np.linalg.matrix_rank(columns)) - int(main.shape[1])

    ranks = {name: added_rank(name) for name in products}
    if lost := [name for name, block in products.items() if ranks[name] < block.shape[1]]:
        raise ValueError(f"not estimable beside the main effects: {', '.join(lost)}")
    return [(a, b) for a, b in itertools.combinations(products, 2) if added_rank(a, b) < ranks[a] + ranks[b]]


def _coded(runs: pl.DataFrame, factor: str) -> NDArray[np.float64]:
    """Effect codes [runs, levels - 1] of one factor."""
    found = runs[factor].unique().sort().to_list()
    return effect_codes(len(found))[[found.index(value) for value in runs[factor]]]


def effect_codes(levels: int) -> NDArray[np.float64]:
    """A row per level; the rows sum to 0."""
    return np.vstack([np.eye(levels - 1), -np.ones((1, levels - 1))])


class LeastSquares:
    """Least-squares fit that estimates a contrast only where the design determines it."""

    def __init__(self, design: NDArray[np.float64], response: NDArray[np.float64], confidence: float = 0.95) -> None:
        self._design, self._inverse = design, np.linalg.pinv(design)
        self._coefficients = self._inverse @ response
        residuals = response - design @ self._coefficients
        self.freedom = freedom = len(response) - int(np.linalg.matrix_rank(design))
        """Residual degrees of freedom."""
        self._half_width: float | None = None
        if freedom > 0:
            spread = float(np.sqrt(residuals @ residuals / freedom))
            self._half_width = spread * float(stats.t.ppf((1 + confidence) / 2, freedom))

    def estimate(self, contrast: NDArray[np.float64]) -> tuple[float | None, float | None, float | None]:
        """Value, low and high of a contrast of the coefficients."""
        weights = contrast @ self._inverse
        if np.abs(weights @ self._design - contrast).max() > _SAME:
            return None, None, None
        value = float(contrast @ self._coefficients)
        if self._half_width is None:
            return value, None, None
        margin = self._half_width * float(np.linalg.norm(weights))
        return value, value - margin, value + margin
