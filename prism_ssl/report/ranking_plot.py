"""Plot of the ranking: every run's quality with its interval, and the main effects of the factors."""

from __future__ import annotations

import altair as alt
import polars as pl

from prism_ssl.eval.ranking import QUALITY, QUALITY_HIGH, QUALITY_LOW
from prism_ssl.report.panels import NUMBER_FORMAT

_OBJECTIVE = "model.objective"
OBJECTIVE_COLOR = alt.Color(
    "objective:N",
    title="objective",
    scale=alt.Scale(domain=["regression", "classification"], range=["#1f6fb4", "#d1641f"]),
    legend=alt.Legend(orient="top", symbolOpacity=1),
)


def ranking_plot(ranked: pl.DataFrame, effects: pl.DataFrame) -> alt.TopLevelMixin:
    """Runs that ended ok by rank, coloured by objective, beside the main effects on quality.

    ``ranked`` is ``ranking.rank_runs``'s table, ``effects`` is ``effects.main_effects``'s.
    """
    chart: alt.HConcatChart = alt.hconcat(quality_chart(ranked), effects_chart(effects, "proxy quality")).resolve_scale(
        color="independent"
    )
    written: alt.TopLevelMixin = chart.configure(numberFormat=NUMBER_FORMAT)
    return written


def quality_chart(ranked: pl.DataFrame) -> alt.LayerChart | alt.FacetChart:
    """Runs that ended ok by rank: proxy quality with its interval."""
    columns = ["run", QUALITY, QUALITY_LOW, QUALITY_HIGH]
    measured = ranked.filter(pl.col("status") == "ok", pl.col(QUALITY).is_not_null())
    objective = measured[_OBJECTIVE] if _OBJECTIVE in ranked.columns else pl.Series("objective", ["-"] * len(measured))
    shown = measured.select(columns).with_columns(objective.alias("objective"))
    base = alt.Chart(shown).encode(
        y=alt.Y("run:N", sort=None, title=None, axis=alt.Axis(labelLimit=260)),
        color=OBJECTIVE_COLOR,
    )
    scale, words = alt.Scale(zero=False), "proxy quality (0 chance, 1 perfect), 95 % interval"
    intervals = base.mark_rule(strokeWidth=2).encode(
        x=alt.X(f"{QUALITY_LOW}:Q", title=words, scale=scale), x2=f"{QUALITY_HIGH}:Q"
    )
    points = base.mark_point(filled=True, size=60).encode(x=alt.X(f"{QUALITY}:Q", scale=scale))
    return alt.layer(intervals, points).properties(width=380, title="runs, best first")


def effects_chart(effects: pl.DataFrame, response: str, labels: bool = True) -> alt.LayerChart | alt.FacetChart:
    """``effects.main_effects`` on ``response``: a dot and its interval for every level of every factor."""
    shown = effects.with_columns((pl.col("factor") + " = " + pl.col("level")).alias("level"))
    base = alt.Chart(shown).encode(
        y=alt.Y("level:N", sort=None, title=None, axis=alt.Axis(labelLimit=260, labels=labels)),
        color=alt.Color("factor:N", legend=None),
    )
    intervals = base.mark_rule(strokeWidth=2).encode(
        x=alt.X("low:Q", title=f"effect on {response}, 95 % interval"), x2="high:Q"
    )
    points = base.mark_point(filled=True, size=60).encode(x="effect:Q")
    zero = alt.Chart(pl.DataFrame({"zero": [0.0]})).mark_rule(strokeDash=[4, 4], color="gray").encode(x="zero:Q")
    return alt.layer(zero, intervals, points).properties(width=300, title="main effects")
