"""The fit recommends better than the luckiest run, and says what it rests on."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import stats

from prism_ssl.eval.recommendation import recommend
from tests.support.simulated import FACTORS, sweep


def test_without_noise_it_is_the_best_of_all_cells() -> None:
    for seed in range(5):
        runs, truth = sweep(seed, noise=0.0)
        found = recommend(runs, "q", FACTORS)
        assert found is not None
        assert truth[tuple(found.levels[f] for f in FACTORS)] == pytest.approx(max(truth.values()))
        assert found.fitted == pytest.approx(max(truth.values()))
        assert found.status == "ok" or found.differs
        assert found.runs == 24


def test_with_noise_it_loses_a_fraction_of_what_the_luckiest_run_loses() -> None:
    fit_loses, luck_loses = [], []
    for seed in range(200):
        runs, truth = sweep(seed, noise=0.02)
        found, best = recommend(runs, "q", FACTORS), max(truth.values())
        assert found is not None
        lucky = runs.sort("q", descending=True).row(0, named=True)
        fit_loses.append(best - truth[tuple(found.levels[f] for f in FACTORS)])
        luck_loses.append(best - truth[tuple(lucky[f] for f in FACTORS)])
    assert np.mean(fit_loses) <= 0.005
    assert np.mean(fit_loses) < 0.6 * np.mean(luck_loses)


def test_its_interval_holds_the_truth() -> None:
    held = []
    for seed in range(300):
        runs, truth = sweep(seed, noise=0.02)
        found = recommend(runs, "q", ["train.batch_size", "loss.w_supcon_target"])
        assert found is not None
        cells = [v for k, v in truth.items() if (k[0], k[2]) == tuple(found.levels.values())]
        held.append(found.low <= np.mean(cells) <= found.high)
    assert np.mean(held) > 0.85  # chosen as the largest of 6: a little less than 0.95


def test_three_degrees_of_freedom_suffice_and_the_interval_is_students_on_them() -> None:
    rows = [(1, 0.1), (1, 0.3), (2, 0.5), (2, 0.6), (2, 0.7)]  # sums of squares about the means: 0.02 and 0.02
    table = pl.from_dicts([{"run": str(n), "status": "ok", "f": f, "q": q} for n, (f, q) in enumerate(rows)])
    found = recommend(table, "q", ["f"])
    assert found is not None
    margin = stats.t.ppf(0.975, 3) * np.sqrt(0.04 / 3) / np.sqrt(3)
    assert (found.levels, found.best_run) == ({"f": 2}, "4")
    assert (found.fitted, found.low, found.high) == pytest.approx((0.6, 0.6 - margin, 0.6 + margin))


@pytest.mark.parametrize(
    "rows",
    [
        [{"run": "a", "f": 1, "q": 0.1}],
        [{"run": str(n), "f": n % 2, "q": 0.1 * n} for n in range(4)],  # two degrees of freedom are left
        [{"run": str(n), "f": n % 2, "g": n % 2, "q": 0.1 * n} for n in range(8)],  # f and g are one
        [{"run": "a", "f": 1, "q": None}],
    ],
)
def test_runs_that_do_not_suffice_give_none(rows: list[dict[str, object]]) -> None:
    table = pl.from_dicts(rows, schema_overrides={"q": pl.Float64}).with_columns(pl.lit("ok").alias("status"))
    assert recommend(table, "q", ["f", "g"]) is None


def test_failed_runs_are_not_fitted_and_their_levels_are_named() -> None:
    runs, truth = sweep(0, noise=0.0)
    found = recommend(runs, "q", FACTORS)
    assert found is not None
    best = pl.all_horizontal(pl.col(factor) == level for factor, level in found.levels.items())
    failed = runs.with_columns(
        pl.when(best).then(pl.lit("failed")).otherwise(pl.lit("ok")).alias("status"),
        pl.when(best).then(pl.lit(-9.0)).otherwise("q").alias("q"),
    )
    again = recommend(failed, "q", FACTORS)
    assert again is not None
    assert again.levels == found.levels
    assert again.fitted == pytest.approx(max(truth.values()))
    assert (again.status, again.runs) == ("failed" if found.status else None, 23 if found.status else 24)
