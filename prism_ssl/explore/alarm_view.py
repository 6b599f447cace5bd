"""Alarms of runs: when they were raised, and what they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import polars as pl

from prism_ssl.config.defaults import apply_overrides
from prism_ssl.config.schema import PrismConfig
from prism_ssl.errors import ConfigError
from prism_ssl.explore.chart_style import finished, in_words
from prism_ssl.records.run_files import PROBE_PREFIX
from prism_ssl.report.held_out_tables import verdict
from prism_ssl.train.guards.unjudged_alarms import too_short_to_judge

PREFIX = "alarm/"

MEANINGS = {
    "flat_target": "the target hardly varies: a low loss of its head means nothing",
    "frozen_head": "its parameters do not change although its loss has a weight",
    "collapsed_embeddings": "all views of a batch get nearly the same embedding",
    "low_rank_embeddings": "embeddings differ along one or two directions only",
    "supcon_no_positives": "no anchor has a positive: SupCon learns nothing",
    "supcon_no_other_pairs": "no positives from other pairs: SupCon only tells pairs apart",
    "supcon_one_series": "no negatives: every batch holds a single series",
    "at_chance": "its loss is at chance level: it has not learned yet",
}
"""Kind of an alarm -> its meaning; the run's summary has the numbers."""

_WHEN_JUDGED = (
    "train.log_every", "train.lr_warmup_steps", "loss.supcon_warmup_steps", "loss.supcon_ramp_steps",
    "loss.simclr_baseline", "loss.w_distance", "loss.w_rotation", "loss.w_window", "loss.w_supcon_target",
    "model.objective",
)  # fmt: skip

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


def doubts(scored: pl.DataFrame, runs: Sequence[str]) -> list[str]:
    """Reasons to distrust an empty list of alarms, a sentence each: alarms that ``runs`` were too short to raise, and
    held-out retrieval that does not beat what needs no training.

    ``scored``: settings, steps and ``probe/...`` of the runs.
    """
    told = []
    for run in scored.filter(pl.col("run").is_in(list(runs))).iter_rows(named=True):
        short = _too_short(run)
        probe = {name.removeprefix(PROBE_PREFIX): run[name] for name in run if name.startswith(PROBE_PREFIX)}
        lost = verdict({name: value for name, value in probe.items() if isinstance(value, (int, float))})
        told += [f"{run['run']}: {sentence}" for sentence in (lost, short) if sentence is not None]
    return told


def together(told: Sequence[str]) -> list[str]:
    """``doubts`` with the runs of one doubt in one sentence."""
    runs: dict[str, list[str]] = {}
    for doubt in told:
        run, _, sentence = doubt.partition(": ")
        runs.setdefault(sentence, []).append(run)
    return [f"{', '.join(names)}: {sentence}" for sentence, names in runs.items()]


def alarm_table(spans: pl.DataFrame) -> pl.DataFrame:
    """``alarm_spans`` in the columns of the notebook."""
    now = pl.when("over").then(pl.lit("over")).otherwise(pl.lit("still raised")).alias("at the end")
    return spans.select("run", "alarm", pl.col("from").alias("from step"), pl.col("to").alias("to step"), now, "means")


def _too_short(run: Mapping[str, Any]) -> str | None:
    settings = {key: run[key] for key in _WHEN_JUDGED if run.get(key) is not None}
    if run.get("steps_done") is None or not settings:
        return None
    try:
        return too_short_to_judge(apply_overrides(PrismConfig(), settings), run["steps_done"])
    except ConfigError:  # of a damaged folder, or of another version
        return None


def alarm_chart(spans: pl.DataFrame, runs: Sequence[str], doubts: Sequence[str] = ()) -> alt.TopLevelMixin:
    """``alarm_spans`` as bars over the steps, a panel for each run that had one; without any, a sentence."""
    if spans.is_empty() and doubts:
        return in_words("No alarm in the chosen runs, but see the warnings below.")
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
            ).properties(width=560, height=alt.Step(18), title=run)
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
