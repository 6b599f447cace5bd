"""Rank runs by proxy quality, then by throughput after stalls; never by a raw loss.

Loss forms, weights and batch sizes differ between the runs of an ablation, and SupCon's chance level is ln(2B - 1), so
losses are not comparable. The held-out evaluation is: same scans, seeds and number of patches for every run.

Tables hold one row a run: ``run`` (and ``run_id``, where names repeat), ``status``, settings as ``section.name``,
held-out scalars as ``probe/...`` and the totals under their own names, as ``records`` reads them from run folders and
from W&B.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

import polars as pl
from scipy import stats

from prism_ssl.config.defaults import RECIPES, known_keys
from prism_ssl.config.operations import EvalConfig
from prism_ssl.config.schema import PrismConfig
from prism_ssl.config.tracking_environment import GENERATED
from prism_ssl.eval.effects import main_effects
from prism_ssl.eval.quality.comparison import resample_together
from prism_ssl.eval.quality.evidence import PatientEvidence
from prism_ssl.eval.quality.questions import ASKED
from prism_ssl.eval.recommendation import Recommendation, recommend

FACTORS = (
    "train.batch_size",
    "data.warm_pool_size",
    "loss.w_supcon_target",
    "loss.supcon_ramp_steps",
    "model.objective",
)
"""The factors of the core ablation."""

QUALITY, QUALITY_LOW, QUALITY_HIGH = "proxy_quality", "proxy_quality_low", "proxy_quality_high"
BEHIND, BEHIND_LOW, BEHIND_HIGH = "behind_best", "behind_best_low", "behind_best_high"
NOT_PAIRED, UNRECORDED = "not_paired", "settings_unrecorded"
_PAIRING = (BEHIND, BEHIND_LOW, BEHIND_HIGH, NOT_PAIRED, UNRECORDED)
THROUGHPUT = "throughput_after_stalls"
PROBE_KEYS = tuple(f"probe/{name}" for name in (QUALITY, QUALITY_LOW, QUALITY_HIGH))
"""The scalars that the ranking uses."""

_EFFECTIVE = "throughput_effective_patches_per_sec"
_STALLS = {"stall_steps_ge_2000ms": 1, "stall_steps_ge_10000ms": 4}
_PRIVATE = ("run.", "tracking.", "quota.", "eval.")
_WHERE = ("data.catalog_path", "data.columns", "data.phantom_subjects")
CATALOG = "CATALOG"
"""Placeholder for the table of the scans in a recommended command, where the record has no path."""
NO_EVIDENCE = "it has no evidence per patient"
CATALOG_IN_WORDS = f"{CATALOG} stands for the table of your scans, whose path is not sent to W&B."
INTERVAL_IN_WORDS = (
    "The interval covers the choice of held-out patients. It does not cover the training seed: two runs of one "
    "configuration can differ by more. Repeat the best configurations with another train.seed before you trust a "
    "small difference."
)


def compute_proxy_score(df_runs: pl.DataFrame, df_hist: pl.DataFrame) -> pl.DataFrame:
    """``df_runs`` with the columns that rank it: proxy_quality, _low, _high (0 chance, 1 perfect), and throughput.

    Quality comes from the summary; for a run without one, from the last row of its history (``run_id`` or ``run``,
    ``global_step``, ``probe/...``) that has it. Missing values, and values that are not finite, are null.

    throughput_after_stalls, in patches/s, is the effective throughput times the share of steps that are left when a
    step of 2 s or more counts as one lost and a step of 10 s or more as five. Throughput, stalls and steps are of the
    same steps: ``steps_timed``, or ``steps_done`` for a run of an earlier version without it.
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
    steps = (
        pl.coalesce(_number(df_runs, "steps_timed"), _number(df_runs, "steps_done")).clip(lower_bound=1).fill_null(1)
    )
    share_left = (1 - lost / steps).clip(lower_bound=0)
    return scored.with_columns((_number(df_runs, _EFFECTIVE) * share_left).alias(THROUGHPUT))


def never_began(scored: pl.DataFrame) -> pl.DataFrame:
    """The runs that ended before their first step: nothing was trained, so they are not ranked."""
    if "steps_done" not in scored.columns:
        return scored.clear()
    ended = ~pl.col("status").is_in(["ok", "running", "unfinished"]).fill_null(value=False)
    return scored.filter(ended & (pl.col("steps_done") == 0))


def rank_runs(scored: pl.DataFrame) -> pl.DataFrame:
    """``compute_proxy_score``'s table, best first, with ``rank`` (from 1) and ``near_best``; without ``never_began``.

    Runs that ended ok come before all others; among equals a run with a missing metric ranks last. ``near_best``:
    the run is not shown to be worse than the best one. Where ``with_differences`` has compared patients, that is when
    the interval of the difference holds 0, otherwise when the run's interval overlaps the best run's; null for a run
    that ended ok and was not compared.
    """
    ok = pl.col("status").eq_missing(pl.lit("ok"))
    key = "run_id" if "run_id" in scored.columns else "run"
    order = (
        scored.join(never_began(scored), on=key, how="anti", maintain_order="left")
        .with_columns(ok.alias("_ok"))
        .sort("_ok", QUALITY, THROUGHPUT, "run", descending=[True, True, True, False], nulls_last=True)
    )
    best_low = order.filter("_ok")[QUALITY_LOW].head(1).to_list()
    floor = best_low[0] if best_low else None
    if is_paired(order):
        near = _number(order, BEHIND_LOW) <= 0
    else:
        near = pl.col(QUALITY_HIGH) >= floor if floor is not None else pl.lit(None, dtype=pl.Boolean)
    order = order.with_columns(pl.when("_ok").then(near).otherwise(statement=False).alias("near_best")).drop("_ok")
    return order.with_row_index("rank", offset=1)


def is_paired(scored: pl.DataFrame) -> bool:
    """Whether ``with_differences`` has compared any runs of the table."""
    return BEHIND_LOW in scored.columns and scored[BEHIND_LOW].is_finite().any()


def with_differences(scored: pl.DataFrame, evidence: Mapping[str, PatientEvidence], config: EvalConfig) -> pl.DataFrame:
    """``compute_proxy_score``'s table with how far each run is behind the best one, patient by patient.

    Adds ``behind_best`` (quality of the best run less the run's), ``behind_best_low`` and ``behind_best_high`` (95 %
    interval over patients that holds for all pairs of runs at once). Null where a run has no ``evidence``, keyed by
    ``run``, or was evaluated otherwise than the best run: ``not_paired`` then says why, in words.
    ``settings_unrecorded`` marks runs that were compared although their evaluation settings are not on record. All are
    null where the best run has no evidence.
    """
    scored = scored.drop(_PAIRING, strict=False)
    ok = rank_runs(scored).filter(pl.col("status") == "ok")["run"]
    best = next(iter(ok), "")
    together = resample_together({run: evidence[run] for run in ok if run in evidence}, config, like=best)
    found = together.behind(best) if together.runs else {}
    rows: list[tuple[object, ...]] = [
        (run, each.value, each.low, each.high, None, run in together.unrecorded) for run, each in found.items()
    ]
    if found:
        apart = {run: together.apart.get(run, NO_EVIDENCE) for run in ok if run not in found}
        rows += [(run, None, None, None, why, None) for run, why in apart.items()]
    types = (pl.Float64, pl.Float64, pl.Float64, pl.String, pl.Boolean)
    table = pl.DataFrame(rows, schema={"run": pl.String, **dict(zip(_PAIRING, types, strict=True))}, orient="row")
    return scored.join(table.fill_nan(None), on="run", how="left", maintain_order="left")


def summarize_best_configs(df: pl.DataFrame) -> pl.DataFrame:
    """One row a configuration, best first: the factors, its runs, mean quality, mean throughput, and its best run.

    ``df`` is ``compute_proxy_score``'s table. Repeats of a configuration (other seeds, all other settings equal) are
    averaged; runs that did not end ok or have no quality do not count. The interval combines two uncertainties: over
    patients, which all repeats share, the mean of their intervals; over seeds, Student's t on the spread of the
    repeats. A single run has only the first one.
    """
    factors = [factor for factor in FACTORS if factor in df.columns] or ["run"]
    df = df.with_columns(_at_their_defaults(df))
    counted = rank_runs(df).filter(pl.col("status") == "ok", pl.col(QUALITY).is_not_null())
    best = counted.group_by([*factors, *_other_settings(df)], maintain_order=True).agg(
        pl.len().alias("runs"),
        pl.col(QUALITY, THROUGHPUT).mean(),
        (pl.col(QUALITY) - pl.col(QUALITY_LOW)).mean().alias("_below"),
        (pl.col(QUALITY_HIGH) - pl.col(QUALITY)).mean().alias("_above"),
        pl.col(QUALITY).std().alias("_spread"),
        pl.col("run").first().alias("best_run"),
    )
    t = [float(stats.t.ppf(0.975, runs - 1)) if runs > 1 else 0.0 for runs in best["runs"]]
    over_seeds = pl.Series(t, dtype=pl.Float64) * best["_spread"].fill_null(0.0) / best["runs"].sqrt()
    best = best.select(
        *factors,
        "runs",
        QUALITY,
        (best[QUALITY] - (best["_below"] ** 2 + over_seeds**2).sqrt()).alias(QUALITY_LOW),
        (best[QUALITY] + (best["_above"] ** 2 + over_seeds**2).sqrt()).alias(QUALITY_HIGH),
        THROUGHPUT,
        "best_run",
    )
    return best.sort(QUALITY, THROUGHPUT, descending=True, nulls_last=True).with_row_index("rank", offset=1)


def recommendation(df: pl.DataFrame) -> Recommendation | None:
    """The levels with the highest fitted quality; None where a fit is not possible.

    Fitted are the runs ``like_the_best``.
    """
    return recommend(like_the_best(df), QUALITY, FACTORS)


def factor_effects(df: pl.DataFrame, response: str) -> pl.DataFrame:
    """``effects.main_effects`` of the factors, over the runs ``like_the_best`` that ended ok."""
    present = [factor for factor in FACTORS if factor in df.columns]
    return main_effects(like_the_best(df).filter(pl.col("status") == "ok"), response, present)


def like_the_best(df: pl.DataFrame) -> pl.DataFrame:
    """The runs that equal the best run in all settings but the factors and the seed: the others are another experiment.

    All runs where none has a quality.
    """
    known = df.with_columns(_at_their_defaults(df))
    best = rank_runs(known).filter(pl.col("status") == "ok", pl.col(QUALITY).is_not_null()).head(1)
    names = [] if best.is_empty() else _other_settings(df)
    same = [pl.col(name).eq_missing(pl.lit(best[name][0], dtype=known[name].dtype)) for name in names]
    return known.filter(same) if same else known


def _at_their_defaults(df: pl.DataFrame) -> list[pl.Expr]:
    """Settings that some records lack, as an earlier version did not have them, at the default that was in effect."""
    defaults = known_keys(PrismConfig())
    plain = [name for name in _other_settings(df) if isinstance(defaults[name], (bool, int, float, str))]
    return [pl.col(name).fill_null(defaults[name]) for name in plain if not df.schema[name].is_nested()]


def left_out_in_words(df: pl.DataFrame) -> str | None:
    """How many runs that ended ok are not ``like_the_best``; None where all are."""
    ok, fitted = (table.filter(pl.col("status") == "ok").height for table in (df, like_the_best(df)))
    return (
        f"Main effects are of {fitted} of {ok} runs: the others differ in more than the factors."
        if fitted < ok
        else None
    )


def _other_settings(df: pl.DataFrame) -> list[str]:
    """Settings of what is learned and of how it is evaluated that are no factor: runs that differ in one of them are no
    repeats of each other."""
    known = known_keys(RECIPES["core24-base"]())
    apart = (*FACTORS, "train.seed")
    return [
        name for name in df.columns if name in known and name not in apart and "." in name
        and (name in (*ASKED, "eval.pooling") or not name.startswith(_PRIVATE))
    ]  # fmt: skip


def recommended_command(df: pl.DataFrame) -> str | None:
    """The best configuration as a command line of train_single; None when no run can be recommended.

    ``df`` is ``compute_proxy_score``'s table. The command names the scans (the table and its columns, or
    generated phantoms) and every training setting that differs from the recipe. ``CATALOG`` stands for a path that
    the record lacks.
    """
    configs = summarize_best_configs(df)
    if configs.is_empty():
        return None
    best = df.filter(pl.col("run") == configs["best_run"][0]).row(0, named=True)
    if (fitted := recommendation(df)) is not None:
        best |= fitted.levels
    said = str(best.get("recipe"))
    recipe = said if said in RECIPES else "core24-base"
    defaults = known_keys(RECIPES[recipe]())
    flags = [*_flags_of_scans(defaults, best), *_differing_flags(defaults, best)]
    return shlex.join(["prism", "train", recipe, *flags])


def _flags_of_scans(defaults: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    path, columns = settings.get("data.catalog_path"), json.loads(settings.get("data.columns") or "{}")
    told = [word for pair in columns.items() for word in pair]
    if path is None and ("data.catalog_path" in settings or settings.get(GENERATED)):
        none = ["--data.catalog-path", "None"] if defaults["data.catalog_path"] is not None else []
        subjects = settings.get("data.phantom_subjects")
        same = subjects in (None, defaults["data.phantom_subjects"])
        return none + ([] if same else ["--data.phantom-subjects", str(subjects)])
    return ["--data.catalog-path", path or CATALOG, *(["--data.columns", *told] if told else [])]


def _differing_flags(defaults: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    flags: list[str] = []
    for key, default in defaults.items():
        value = settings.get(key)
        if key in _WHERE or key.startswith(_PRIVATE) or "." not in key or value is None:
            continue
        option = "--" + key.replace("_", "-")
        if isinstance(default, tuple):
            words = json.loads(value)
            flags += [option, *words] if tuple(words) != default else []
        elif isinstance(default, (bool, int, float, str)) and (value != default or key in FACTORS):
            section, _, name = option.rpartition(".")
            flags += (
                [option if value else f"{section}.no-{name}"] if isinstance(default, bool) else [option, str(value)]
            )
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
