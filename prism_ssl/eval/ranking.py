"""Which run is best: proxy quality first, then the throughput that is left after stalls. Never a raw loss.

Loss forms, weights and batch sizes differ between the runs of an ablation, and SupCon's chance level is ln(2B - 1), so
losses do not compare; the held-out evaluation does: same scans, same seeds, same number of patches for every run.

Tables hold one row a run: ``run`` (and ``run_id``, where names repeat), ``status``, settings as ``section.name``,
held-out scalars as ``probe/...`` and the totals under their own names, as ``run_records`` reads them from folders and
W&B stores them.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from prism_ssl.config.defaults import RECIPES, known_keys

FACTORS = (
    "train.batch_size",
    "data.warm_pool_size",
    "loss.w_supcon_target",
    "loss.supcon_ramp_steps",
    "model.objective",
)
"""The factors of the core ablation."""

QUALITY, QUALITY_LOW, QUALITY_HIGH = "proxy_quality", "proxy_quality_low", "proxy_quality_high"
THROUGHPUT = "throughput_after_stalls"
PROBE_KEYS = tuple(f"probe/{name}" for name in (QUALITY, QUALITY_LOW, QUALITY_HIGH))
"""The scalars that the ranking rests on."""

_EFFECTIVE = "throughput_effective_patches_per_sec"
_STALLS = {"stall_steps_ge_2000ms": 1, "stall_steps_ge_10000ms": 4}
_PRIVATE = ("run.", "tracking.", "quota.", "eval.", "data.catalog_path", "data.columns", "data.phantom_subjects")


def compute_proxy_score(df_runs: pl.DataFrame, df_hist: pl.DataFrame) -> pl.DataFrame:
    """``df_runs`` with what it is ranked by: proxy_quality, _low, _high (in [0, 1]) and throughput_after_stalls.

    Quality is the summary's; where a run did not live to write one, the last that its history (``run_id`` or ``run``,
    ``global_step``, ``probe/...``) has. What nobody measured, and what is not finite, is null.

    throughput_after_stalls, in patches/s, is the effective throughput times the share of steps that are left when a
    step of 2 s or more counts as one lost and a step of 10 s or more as five.
    """
    scored = df_runs.with_columns(_number(df_runs, key).alias(key.removeprefix("probe/")) for key in PROBE_KEYS)
    key = "run_id" if {"run_id"} <= set(df_runs.columns) & set(df_hist.columns) else "run"
    last = _last_of_history(df_hist, key)
    if last is not None:
        names = [key.removeprefix("probe/") for key in PROBE_KEYS]
        # All three from one place: an interval belongs to its value.
        filled = [pl.when(pl.col(QUALITY).is_null()).then(f"{n}_of_history").otherwise(n).alias(n) for n in names]
        scored = scored.join(last, on=key, how="left", maintain_order="left").with_columns(filled)
        scored = scored.drop(f"{name}_of_history" for name in names)
    lost = sum((_number(df_runs, key).fill_null(0) * weight for key, weight in _STALLS.items()), start=pl.lit(0.0))
    steps = _number(df_runs, "steps_done").clip(lower_bound=1).fill_null(1)
    share_left = (1 - lost / steps).clip(lower_bound=0)
    return scored.with_columns((_number(df_runs, _EFFECTIVE) * share_left).alias(THROUGHPUT))


def rank_runs(scored: pl.DataFrame) -> pl.DataFrame:
    """``compute_proxy_score``'s table, best first, with ``rank`` (from 1) and ``near_best``.

    Runs that ended ok come before all others, whatever those measured; a missing metric ranks last among its peers,
    never first. ``near_best``: the run's interval reaches into the best run's.
    """
    ok = pl.col("status").eq_missing(pl.lit("ok"))
    order = scored.with_columns(ok.alias("_ok")).sort(
        "_ok", QUALITY, THROUGHPUT, "run", descending=[True, True, True, False], nulls_last=True
    )
    best_low = order.filter("_ok")[QUALITY_LOW].head(1).to_list()
    floor = best_low[0] if best_low else None
    near = pl.col("_ok") & (pl.col(QUALITY_HIGH) >= floor) if floor is not None else pl.lit(None, dtype=pl.Boolean)
    order = order.with_columns(near.fill_null(value=False).alias("near_best")).drop("_ok")
    return order.with_row_index("rank", offset=1)


def summarize_best_configs(df: pl.DataFrame) -> pl.DataFrame:
    """One row a configuration, best first: the factors, its runs, mean quality, mean throughput, and its best run.

    ``df`` is ``compute_proxy_score``'s table. Repeats of a configuration (other seeds) are averaged; runs that did
    not end ok or have no quality do not count, and a configuration without any other is left out.
    """
    factors = [factor for factor in FACTORS if factor in df.columns] or ["run"]
    counted = rank_runs(df).filter(pl.col("status") == "ok", pl.col(QUALITY).is_not_null())
    best = counted.group_by(factors, maintain_order=True).agg(
        pl.len().alias("runs"),
        pl.col(QUALITY, QUALITY_LOW, QUALITY_HIGH, THROUGHPUT).mean(),
        pl.col("run").first().alias("best_run"),
    )
    return best.sort(QUALITY, THROUGHPUT, descending=True, nulls_last=True).with_row_index("rank", offset=1)


def recommended_command(df: pl.DataFrame) -> str | None:
    """The best configuration as a command line of train_single; None when no run can be recommended.

    ``df`` is ``compute_proxy_score``'s table. Every setting of what is learned that differs from the recipe is
    spelt out; where the data lie is left to the reader.
    """
    configs = summarize_best_configs(df)
    if configs.is_empty():
        return None
    best = df.filter(pl.col("run") == configs["best_run"][0]).row(0, named=True)
    said = str(best.get("recipe"))
    recipe = said if said in RECIPES else "core24-base"
    flags = _differing_flags(known_keys(RECIPES[recipe]()), best)
    return shlex.join(["python", "tune/train_single.py", recipe, *flags])


def _differing_flags(defaults: Mapping[str, Any], settings: Mapping[str, Any]) -> Sequence[str]:
    flags: list[str] = []
    for key, default in defaults.items():
        value = settings.get(key)
        plain = isinstance(default, (bool, int, float, str)) and not key.startswith(_PRIVATE) and "." in key
        if not plain or value is None or (value == default and key not in FACTORS):
            continue
        section, _, name = key.replace("_", "-").rpartition(".")
        if isinstance(default, bool):
            flags.append(f"--{section}.{name}" if value else f"--{section}.no-{name}")
        else:
            flags += [f"--{section}.{name}", str(value)]
    return flags


def _number(df: pl.DataFrame, column: str) -> pl.Expr:
    """A column as finite floats; null where it is absent, no number, or not finite."""
    if column not in df.columns:
        return pl.lit(None, dtype=pl.Float64)
    value = pl.col(column).cast(pl.Float64, strict=False)
    return pl.when(value.is_finite()).then(value)


def _last_of_history(df_hist: pl.DataFrame, of: str) -> pl.DataFrame | None:
    """Per run the three scalars of the last row that has a quality, as ``..._of_history``."""
    if not {of, "global_step", PROBE_KEYS[0]} <= set(df_hist.columns):
        return None
    numbers = [_number(df_hist, key).alias(f"{key.removeprefix('probe/')}_of_history") for key in PROBE_KEYS]
    rows = df_hist.select(of, "global_step", *numbers).filter(pl.col(f"{QUALITY}_of_history").is_not_null())
    return rows.sort("global_step").group_by(of).last().drop("global_step")
