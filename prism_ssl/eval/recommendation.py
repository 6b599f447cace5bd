"""Recommend a configuration from the fit of all runs, not from the luckiest single one (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from prism_ssl.contracts import Float64
from prism_ssl.eval.effects import LeastSquares, effect_codes

_SAME = 1e-9
MIN_FREEDOM = 3
"""Residual degrees of freedom below which a fit says less than the best run does."""


@dataclass(frozen=True)
class Recommendation:
    """The levels with the highest fitted response.

    ``low`` and ``high``: 95 % interval of the fitted mean (Student's t on the residuals), a little optimistic, since
    the highest of many fitted means was chosen. ``runs``: how many were fitted. ``status``: that of a run with these
    levels (ok before others); None where there is none. ``best_run`` has the highest measured response, and ``differs``
    says whether its levels are others.
    """

    levels: dict[str, Any]
    fitted: float
    low: float
    high: float
    runs: int
    status: str | None
    best_run: str
    differs: bool


def recommend(runs: pl.DataFrame, response: str, factors: Sequence[str]) -> Recommendation | None:
    """Fit main effects of ``factors`` on ``response`` over the runs that ended ok, and take each factor's best level.

    Among 24 runs with noise, the best measured one is the luckiest: with additive effects and noise 0.02 it loses
    0.012 to the truth, the best fitted one 0.004 (``tests/benchmarks/bench_ranking.py``).

    Args:
        runs: one row a run, with ``run``, ``status``, ``response`` and the factors.
        response: column to maximise; rows without a finite value are left out of the fit.
        factors: columns; those with a single level are left out of the fit.

    Returns:
        None where the runs cannot be fitted: no factor varies, effects are confounded, or fewer than ``MIN_FREEDOM``
        residual degrees of freedom are left.
    """
    factors = [factor for factor in factors if factor in runs.columns]
    if response not in runs.columns or not factors:
        return None
    known = runs.filter(pl.col("status") == "ok", pl.col(response).is_finite()).drop_nulls(factors)
    levels = {factor: known[factor].unique().sort().to_list() for factor in factors}
    levels = {factor: found for factor, found in levels.items() if len(found) > 1}
    if not levels:
        return None
    design = np.stack([_row(levels, [row[factor] for factor in levels]) for row in known.iter_rows(named=True)])
    fit = LeastSquares(design, known[response].to_numpy())
    if fit.freedom < MIN_FREEDOM:
        return None
    top = known.sort(response, descending=True, maintain_order=True).row(0, named=True)
    chosen = {factor: top[factor] for factor in levels}
    fitted, low, high = fit.estimate(_row(levels, list(chosen.values())))
    for factor, found in levels.items():  # effects add up, so each factor has its best level whatever the others are
        for level in found:
            cell = chosen | {factor: level}
            value, value_low, value_high = fit.estimate(_row(levels, list(cell.values())))
            if value is None or fitted is None:
                return None  # the design confounds effects
            if value > fitted + _SAME:  # where levels are equal, that of the best run stays
                chosen, fitted, low, high = cell, value, value_low, value_high
    if fitted is None or low is None or high is None:
        return None
    of_levels = [pl.col(factor).eq_missing(pl.lit(level)) for factor, level in chosen.items()]
    there = runs.filter(of_levels)["status"].to_list()
    status = "ok" if "ok" in there else next((each for each in there if each is not None), None)
    differs = any(top[factor] != level for factor, level in chosen.items())
    return Recommendation(chosen, fitted, low, high, known.height, status, str(top["run"]), differs)


def _row(levels: dict[str, list[Any]], combination: Sequence[Any]) -> Float64:
    """The row of the design matrix for one combination: intercept, then the effect codes of each factor."""
    codes = [effect_codes(len(found))[found.index(v)] for found, v in zip(levels.values(), combination, strict=True)]
    return np.concatenate([[1.0], *codes])
