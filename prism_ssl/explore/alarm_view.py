"""Alarms of runs: when they were raised, and what they mean."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from prism_ssl.explore.chart_style import finished, in_words

PREFIX = "alarm/"

MEANINGS = {
    "flat_target": "the target hardly varies: a low loss of its head means nothing",
    "frozen_head": "its parameters do not change although its loss has a weight",
    "collapsed_embeddings": "all views of a batch get nearly the same embedding",
    "low_rank_embeddings": "embeddings differ along one or two directions only",
    "supcon_no_positives": "no anchor has a positive: SupCon learns nothing",
    "supcon_no_other_pairs": "no positives from other pairs: SupCon only tells pairs apart",
    "supcon_one_series": "no negatives: every batch holds a single series",
    "at_chance": "its loss is what guessing gets: it has not learned yet",
}
"""Kind of an alarm -> what it says; the run's summary says it with numbers."""

_SCHEMA = {
    "run": pl.String, "alarm": pl.String, "from": pl.Int64, "to": pl.Int64, "over": pl.Boolean, "means": pl.String
}  # fmt: skip


def alarm_spans(history: pl.DataFrame) -> pl.DataFrame:
    """One row for every time an alarm was raised: run, alarm, from and to (steps), over, means.

    ``history``: run, global_step and ``alarm/...`` (1 while raised). ``over``: a later row says that it has ended;
    until then ``to`` is the last row.
    """
    rows = []
    columns = [name for name in history.columns if name.startswith(PREFIX)]
    for (run,), steps in history.sort("global_step").group_by("run", maintain_order=True):
        for column in columns:
            known = steps.select("global_step", column).drop_nulls()
            rows += [
                (str(run), column.removeprefix(PREFIX), begin, end, over, _meaning(column.removeprefix(PREFIX)))
                for begin, end, over in _spans(known["global_step"].to_list(), known[column].to_list())
            ]
    return pl.DataFrame(rows, schema=_SCHEMA, orient="row")


def alarm_chart(spans: pl.DataFrame, runs: Sequence[str]) -> alt.TopLevelMixin:
    """``alarm_spans`` as bars over the steps, a panel for each run that had one."""
    if spans.is_empty():
        return in_words("No alarm in the chosen runs: targets vary, heads learn, embeddings differ.")
    shown = [run for run in runs if run in set(spans["run"])]
    charts = []
    last = max(spans["to"].to_list())
    for run in shown:
        of_run = spans.filter(pl.col("run") == run)
        bars = alt.Chart(of_run).mark_bar(height=10, minBandSize=3)
        charts.append(
            bars.encode(
                x=alt.X("from:Q", title="step", scale=alt.Scale(domain=[0, last])),
                x2="to:Q",
                y=alt.Y("alarm:N", title=None, axis=alt.Axis(labelLimit=220)),
                color=alt.Color(
                    "over:N",
                    title=None,
                    scale=alt.Scale(domain=[False, True], range=["#d62728", "#f2b8a0"]),
                    legend=alt.Legend(labelExpr="datum.label == 'true' ? 'over' : 'still raised'", orient="top"),
                ),
                tooltip=["alarm:N", "from:Q", "to:Q", "means:N"],
            ).properties(width=760, height=alt.Step(18), title=run)
        )
    return finished(alt.vconcat(*charts, spacing=8))


def _spans(steps: Sequence[int], raised: Sequence[float]) -> list[tuple[int, int, bool]]:
    found: list[tuple[int, int, bool]] = []
    begin: int | None = None
    for step, value in zip(steps, raised, strict=True):
        if value > 0 and begin is None:
            begin = step
        elif value <= 0 and begin is not None:
            found.append((begin, step, True))
            begin = None
    return found if begin is None else [*found, (begin, steps[-1], False)]


def _meaning(alarm: str) -> str:
    return MEANINGS.get(alarm.partition("/")[0], "")
