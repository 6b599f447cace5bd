"""Throughput, waits, stalls, replacements and failures of runs: one row or one bar a run."""

from __future__ import annotations

from html import escape
from typing import Final

import altair as alt
import polars as pl

from prism_ssl.eval.ranking import THROUGHPUT, rank_runs
from prism_ssl.explore.chart_style import GREY, ROWS_DRAWN, finished, in_words

_EFFECTIVE = "throughput_effective_patches_per_sec"
_TIMES: Final = {
    "median": "total_step_time_ms_p50",
    "p95": "total_step_time_ms_p95",
    "p99": "total_step_time_ms_p99",
    "longest": "total_step_time_ms_max",
}
_WAITS: Final = {
    "scans opening": "data_wait_opening_ms_total",
    "sampling": "data_wait_sampling_ms_total",
    "transport": "data_wait_transport_ms_total",
}
_PARTS: Final = ("computing", *(f"waiting: {cause}" for cause in _WAITS))
_PART_COLORS: Final = ("#9ecae1", "#d62728", "#ff9f3b", "#9467bd")
_STALLS: Final = {"≥ 2 s": "stall_steps_ge_2000ms", "≥ 10 s": "stall_steps_ge_10000ms"}
_CAUSES_SHOWN = 20
_COUNTERS: Final = {
    "replaced": "replacement_completed_count",
    "failed": "replacement_failed_count",
    "waited, s": "replacement_wait_time_ms_total",
    "restarts": "actor_restarts",
    "skipped": "nonfinite_skipped_steps",
}


def throughput_table(scored: pl.DataFrame) -> pl.DataFrame:
    """Rates, waiting and its main cause, stalls, and step times in ms, of runs that wrote a summary; best first.

    ``scored``: ``ranking.compute_proxy_score``'s table.
    """
    needed = [_EFFECTIVE, THROUGHPUT, "data_wait_share", *_TIMES.values(), *_WAITS.values(), *_STALLS.values()]
    table = with_columns_of(rank_runs(scored), needed)
    waits = [pl.col(column).fill_null(0) for column in _WAITS.values()]
    cause = pl.lit("nothing")
    for name, column in _WAITS.items():
        largest = pl.col(column).is_not_null() & (pl.col(column) > 0) & (pl.col(column) == pl.max_horizontal(waits))
        cause = pl.when(largest).then(pl.lit(name)).otherwise(cause)
    return table.filter(pl.col(_EFFECTIVE).is_not_null()).select(
        "run",
        pl.col(_EFFECTIVE).round(0).alias("patches/s"),
        pl.col(THROUGHPUT).round(0).alias("after stalls"),
        _share_waited().round(3).alias("waited"),
        cause.alias("mostly for"),
        *(pl.col(column).cast(pl.Int64).alias(name) for name, column in _STALLS.items()),
        *(pl.col(column).round(0).alias(name) for name, column in _TIMES.items()),
    )


def tail_chart(scored: pl.DataFrame) -> alt.TopLevelMixin:
    """Step times of every run, median to longest, on a logarithmic axis with the two stall limits."""
    table = with_columns_of(_drawn(scored), list(_TIMES.values()))
    names = {column: name for name, column in _TIMES.items()}
    long = (
        table.select("run", *(pl.col(column).cast(pl.Float64) for column in names))
        .unpivot(index="run", variable_name="quantile", value_name="ms")
        .drop_nulls("ms")
        .with_columns(pl.col("quantile").replace(names))
    )
    if long.is_empty():
        return in_words("No run has ended yet: the tail of its step times is in a run's summary.")
    order = list(_TIMES)
    y = alt.Y("run:N", sort=None, title=None, axis=alt.Axis(labelLimit=260))
    spans = alt.Chart(long).mark_line(color="#cccccc").encode(x=alt.X("ms:Q", scale=_LOG), y=y, detail="run:N")
    colors = alt.Scale(domain=order, range=["#9ecae1", "#e8a33d", "#e8632d", "#a01818"])
    points = (
        alt.Chart(long)
        .mark_point(filled=True, size=55, opacity=1)
        .encode(
            x=alt.X("ms:Q", scale=_LOG, title="time of a step, ms (logarithmic)", axis=alt.Axis(labelSeparation=6)),
            y=y,
            color=alt.Color("quantile:N", sort=order, scale=colors, title="step time", legend=alt.Legend(orient="top")),
            tooltip=["run:N", "quantile:N", alt.Tooltip("ms:Q", format=",.0f")],
        )
    )
    limits = alt.Chart(pl.DataFrame({"ms": [2000.0, 10000.0], "text": ["stall: 2 s", "10 s"]}))
    rules = limits.mark_rule(strokeDash=[5, 4], color=GREY).encode(x="ms:Q")
    words = limits.mark_text(align="left", dx=4, color=GREY).encode(x="ms:Q", y=alt.value(8), text="text:N")
    return finished(
        alt.layer(spans, rules, words, points).properties(width=370, title=_title("Tail of the step times", scored))
    )


def time_chart(scored: pl.DataFrame) -> alt.TopLevelMixin:
    """Parts of the step time of every run, as shares."""
    table = with_columns_of(_drawn(scored), [*_WAITS.values(), "data_wait_share", "data_wait_ms_total"])
    total = _step_time_ms()
    waits = [(pl.col(column) / total).alias(f"waiting: {name}") for name, column in _WAITS.items()]
    long = (
        table.select("run", (1 - _share_waited()).alias("computing"), *waits)
        .unpivot(index="run", variable_name="part", value_name="share")
        .filter(pl.col("share").is_finite())
    )
    if long.is_empty():
        return in_words("No run has ended yet: the parts of the step time are in a run's summary.")
    order = pl.DataFrame({"part": _PARTS, "order": range(len(_PARTS))}, schema_overrides={"order": pl.Int64})
    bars = alt.Chart(long.join(order, on="part", how="left")).mark_bar()
    chart = bars.encode(
        x=alt.X("share:Q", stack="zero", title="share of the steps' time", axis=alt.Axis(format="%", tickCount=5)),
        y=alt.Y("run:N", sort=None, title=None, axis=alt.Axis(labelLimit=260)),
        color=alt.Color(
            "part:N",
            sort=list(_PARTS),
            title=None,
            scale=alt.Scale(domain=list(_PARTS), range=list(_PART_COLORS)),
            legend=alt.Legend(orient="top"),
        ),
        order="order:O",
        tooltip=["run:N", "part:N", alt.Tooltip("share:Q", format=".1%")],
    )
    return finished(chart.properties(width=370, title=_title("Parts of the step time", scored)))


def causes_in_words(scored: pl.DataFrame) -> str:
    """Why runs did not end ok, as a list in Markdown: run, status, step and cause."""
    wrong = scored.filter(pl.col("status").ne_missing(pl.lit("ok")) & pl.col("status").ne_missing(pl.lit("running")))
    lines = [
        f"- **{escape(row['run'])}**, {row['status']} at step {row['steps_done'] or 0:,}: "
        + (escape(" ".join(row["cause"].split())) if row["cause"] else "no cause was recorded; it may have been killed")
        for row in wrong.head(_CAUSES_SHOWN).iter_rows(named=True)
    ]
    if wrong.height > _CAUSES_SHOWN:
        lines.append(f"- and {wrong.height - _CAUSES_SHOWN} more runs: filter by status, or look in their summary.json")
    return "\n".join(lines) if lines else "Every run that has ended ended ok."


def failure_table(scored: pl.DataFrame) -> pl.DataFrame:
    """Replacements, restarts and skipped steps of every run; runs with problems first."""
    table = with_columns_of(scored, list(_COUNTERS.values()))
    counters = [pl.col(column).cast(pl.Float64).alias(name) for name, column in _COUNTERS.items()]
    steps = (pl.col("steps_done").alias("steps"), pl.col("max_steps").alias("of"))
    shown = table.select("run", "status", *steps, *counters).with_columns((pl.col("waited, s") / 1000).round(1))
    wrong = (pl.col("status") != "ok").cast(pl.Int8) + (pl.col("failed").fill_null(0) > 0).cast(pl.Int8)
    return shown.sort(wrong, descending=True, maintain_order=True)


def with_columns_of(table: pl.DataFrame, columns: list[str]) -> pl.DataFrame:
    """``table`` with a column of nulls for each of ``columns`` that no run has."""
    return table.with_columns(pl.lit(None, pl.Float64).alias(name) for name in columns if name not in table.columns)


_LOG = alt.Scale(type="log")


def _drawn(scored: pl.DataFrame) -> pl.DataFrame:
    return rank_runs(scored).head(ROWS_DRAWN)


def _title(what: str, scored: pl.DataFrame) -> str:
    return f"{what} (the best {ROWS_DRAWN} of {scored.height} runs)" if scored.height > ROWS_DRAWN else what


def _step_time_ms() -> pl.Expr:
    return pl.col("data_wait_ms_total") / pl.col("data_wait_share")


def _share_waited() -> pl.Expr:
    return pl.col("data_wait_share").cast(pl.Float64)
