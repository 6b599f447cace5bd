"""The notebook's ranking: table, Pareto front, effects, recommendation."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from prism_ssl.eval.ranking import (
    CATALOG,
    CATALOG_IN_WORDS,
    FACTORS,
    INTERVAL_IN_WORDS,
    QUALITY,
    QUALITY_HIGH,
    QUALITY_LOW,
    THROUGHPUT,
    factor_effects,
    rank_runs,
    recommended_command,
    summarize_best_configs,
)
from prism_ssl.explore.chart_style import GREY, ROWS_DRAWN, finished, in_words
from prism_ssl.report.ranking_plot import OBJECTIVE_COLOR, effects_chart, quality_chart
from prism_ssl.report.ranking_report import recommendation_in_words

NO_QUALITY = "No run that ended ok has a measured proxy quality yet: it is measured at the end of a run."


HEADERS = {
    "quality": "proxy quality on held-out scans: 0 is chance, 1 is perfect",
    "near best": "yes: the run is not shown to be worse than the best one",
    "patches/s": "throughput, with every step of 2 s or more counted as lost (10 s or more: as five)",
}
"""Header of the tables -> its meaning."""
_SHORT = {
    "train.batch_size": "batch", "data.warm_pool_size": "pool", "loss.w_supcon_target": "SupCon",
    "loss.supcon_ramp_steps": "ramp",
}  # fmt: skip


def ranking_table(scored: pl.DataFrame) -> pl.DataFrame:
    """``ranking.rank_runs`` in the columns of the notebook: rank, run, its end, quality and throughput.

    The end of a run that failed names the class of its cause. Settings are in ``configurations_table``, parts of the
    quality in ``representation_view``.
    """
    ranked = rank_runs(scored)
    low, high = (pl.col(name).round(3).cast(pl.String) for name in (QUALITY_LOW, QUALITY_HIGH))
    return ranked.select(
        "rank",
        "run",
        _end(ranked).alias("ended"),
        pl.col(QUALITY).round(3).alias("quality"),
        pl.concat_str(low, pl.lit(" to "), high).alias("95 % interval"),
        pl.when(pl.col("near_best")).then(pl.lit("yes")).otherwise(pl.lit("")).alias("near best"),
        pl.col(THROUGHPUT).round(0).alias("patches/s"),
    )


def configurations_table(scored: pl.DataFrame) -> pl.DataFrame:
    """``ranking.summarize_best_configs`` in the columns of the notebook."""
    best = summarize_best_configs(scored)
    low, high = (pl.col(name).round(3).cast(pl.String) for name in (QUALITY_LOW, QUALITY_HIGH))
    factors = [
        pl.col(factor).alias(_SHORT.get(factor, factor.rpartition(".")[2]))
        for factor in FACTORS
        if factor in best.columns
    ]
    return best.select(
        "rank",
        *factors,
        "runs",
        pl.col(QUALITY).round(3).alias("quality"),
        pl.concat_str(low, pl.lit(" to "), high).alias("95 % interval"),
        pl.col(THROUGHPUT).round(0).alias("patches/s"),
        pl.col("best_run").alias("best run"),
    )


def _end(ranked: pl.DataFrame) -> pl.Expr:
    """The status; of a failed run also the class of its cause, such as "failed: ReplacementFailed"."""
    if "cause" not in ranked.columns:
        return pl.col("status")
    name = pl.col("cause").cast(pl.String).str.extract(r"^\s*(\w+)")
    failed = name.is_not_null() & (pl.col("status") != "ok")
    return pl.when(failed).then(pl.concat_str("status", pl.lit(": "), name)).otherwise("status")


def quality_picture(scored: pl.DataFrame) -> alt.TopLevelMixin:
    """Proxy quality of every run with its interval, best first."""
    measured = _measured(rank_runs(scored))
    if measured.is_empty():
        return in_words(NO_QUALITY)
    title = "Runs, best first" if measured.height <= ROWS_DRAWN else f"The best {ROWS_DRAWN} of {measured.height} runs"
    return finished(quality_chart(measured.head(ROWS_DRAWN)).properties(width=400, title=title))


def pareto_front(scored: pl.DataFrame) -> pl.DataFrame:
    """The runs that no other run beats in quality without being slower, fastest first."""
    best, front = float("-inf"), []
    for run in _measured(scored).sort(THROUGHPUT, QUALITY, descending=True).iter_rows(named=True):
        if run[QUALITY] > best:
            best = run[QUALITY]
            front.append(run["run"])
    chosen = _measured(scored).filter(pl.col("run").is_in(front))
    return chosen.sort(THROUGHPUT, descending=True)


def pareto_chart(scored: pl.DataFrame) -> alt.TopLevelMixin:
    """Quality against throughput, with the Pareto front."""
    measured, front = _measured(scored), pareto_front(scored)
    if measured.is_empty():
        return in_words(NO_QUALITY)
    columns = ["run", QUALITY, QUALITY_LOW, QUALITY_HIGH, THROUGHPUT]
    objective = "model.objective" if "model.objective" in measured.columns else "run"
    x = alt.X(f"{THROUGHPUT}:Q", title="patches/s after stalls", scale=alt.Scale(zero=False))
    y = alt.Y(f"{QUALITY}:Q", title="proxy quality (0 chance, 1 perfect)", scale=alt.Scale(zero=False))
    tooltip: list[Any] = ["run:N", *(alt.Tooltip(f"{column}:Q", format=".3f") for column in columns[1:4])]
    base = alt.Chart(measured.select(*columns, pl.col(objective).alias("objective")))
    intervals = base.mark_rule(opacity=0.35).encode(
        x=x, y=f"{QUALITY_LOW}:Q", y2=f"{QUALITY_HIGH}:Q", color=OBJECTIVE_COLOR
    )
    points = base.mark_point(filled=True, size=70, opacity=0.9).encode(x=x, y=y, color=OBJECTIVE_COLOR, tooltip=tooltip)
    line = alt.Chart(front.select(columns)).mark_line(color=GREY, strokeDash=[5, 4]).encode(x=x, y=y)
    words = alt.Chart(front.select(columns)).mark_text(align="left", dx=7, dy=-7, fontSize=10, color="#333333")
    named = words.encode(x=x, y=y, text="run:N")
    title = "Quality against throughput (dashed: none is better and faster)"
    return finished(alt.layer(intervals, line, points, named).properties(width=440, height=340, title=title))


def effects_picture(scored: pl.DataFrame) -> alt.TopLevelMixin:
    """Main effects of the factors on quality and on throughput, side by side; equal rows are named once."""
    charts, named = [], pl.DataFrame()
    for response, words in ((QUALITY, "proxy quality"), (THROUGHPUT, "patches/s after stalls")):
        effects = factor_effects(scored, response)
        if not effects.is_empty():
            rows = effects.select("factor", "level")
            chart = effects_chart(effects, words, labels=not rows.equals(named))
            charts.append(chart.properties(width=240, title=f"Effect on {words}"))
            named = rows
    if not charts:
        return in_words("Not estimable: no factor has two levels among the measured runs that ended ok.")
    return finished(alt.hconcat(*charts).resolve_scale(color="independent"))


def recommendation(scored: pl.DataFrame) -> tuple[str | None, str]:
    """The recommended command (None when there is none), and a sentence on its certainty."""
    command = recommended_command(scored)
    if command is None:
        return None, NO_QUALITY
    words = [*recommendation_in_words(scored), INTERVAL_IN_WORDS]
    return command, " ".join([*words, CATALOG_IN_WORDS] if f" {CATALOG} " in f"{command} " else words)


def _measured(scored: pl.DataFrame) -> pl.DataFrame:
    return scored.filter(pl.col("status") == "ok", pl.col(QUALITY).is_not_null())
