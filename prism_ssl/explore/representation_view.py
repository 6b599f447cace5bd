"""Held-out measures of the encoders of several runs, beside chance, random weights and pixel statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import altair as alt
import polars as pl

from prism_ssl.explore.chart_style import GREY, finished, in_words

NO_MEASURES = "None of the chosen runs has a held-out evaluation yet."


@dataclass(frozen=True)
class Measure:
    """A held-out scalar (without ``probe/``), its name in charts and in the head of a table, its chance level (a scalar
    or a number), and how to read it."""

    name: str
    words: str
    head: str
    chance: str | float | None
    reading: str


MEASURES: Final = (
    Measure("proxy_quality", "proxy quality", "quality", 0.0, "what the ranking uses: 0 chance, 1 perfect"),
    Measure(
        "place_recall_at_1",
        "same place, other series",
        "same place",
        "place_recall_at_1_chance",
        "recall@1 of the place test",
    ),
    Measure(
        "place_distance_mm",
        "location error, mm",
        "off by, mm",
        "place_distance_mm_chance",
        "place test; less is better",
    ),
    Measure("position_skill", "position, by other patients", "position", 0.0, "correlation; 0 chance, 1 perfect"),
    Measure("recall_at_1", "same series", "same series", "recall_at_1_chance", "recall@1 among all views"),
    Measure("pose_skill_mean", "shift and rotation", "pose", 0.0, "sign skill of the heads"),
    Measure("knn_modality", "modality, kNN probe", "modality kNN", "modality_chance", "accuracy"),
    Measure("linear_modality", "modality, linear probe", "modality lin.", "modality_chance", "accuracy"),
    Measure("knn_organ", "organ, kNN probe", "organ kNN", "organ_chance", "accuracy; phantoms only"),
    Measure("linear_organ", "organ, linear probe", "organ lin.", "organ_chance", "accuracy; phantoms only"),
    Measure("rankme", "RankMe", "RankMe", None, "effective number of directions; 1 is a collapse"),
    Measure(
        "uniformity", "uniformity", "uniformity", None, "0 is a collapse; lower is more evenly spread, to about -4"
    ),
    Measure("alignment", "alignment", "alignment", None, "squared distance of views of a series: 0 alike, 2 unrelated"),
)

HEADERS = {each.head: f"{each.words}: {each.reading}" for each in MEASURES}
"""Header of the table -> its meaning."""

READING = "\n".join(f"- *{each.words}*: {each.reading}" for each in MEASURES)
"""How to read the measures, a list in Markdown."""

UNTRAINED: Final = {"random weights": "_random_init", "pixel statistics": "_pixels"}
"""What is reached without training -> ending of its scalars."""

_COLORS: Final = {"reached": "#1f6fb4", "chance": GREY, "random weights": "#e8892b", "pixel statistics": "#8a5bb5"}
_SHAPES: Final = ("circle", "M-.15,-1H.15V1H-.15Z", "diamond", "triangle-up")
_SIZES: Final = (90, 150, 60, 60)
_WIDTH, _STEP, _COLUMNS = 196, 22, 3


def values_of(run: Mapping[str, Any], measure: Measure) -> dict[str, float]:
    """What a run reached in a measure, chance, and what is reached without training; without the missing ones."""
    chance = run.get(f"probe/{measure.chance}") if isinstance(measure.chance, str) else measure.chance
    said = {"reached": run.get(f"probe/{measure.name}"), "chance": chance}
    said |= {words: run.get(f"probe/{measure.name}{ending}") for words, ending in UNTRAINED.items()}
    return {what: float(value) for what, value in said.items() if value is not None and value == value}


def representation_table(scored: pl.DataFrame, runs: Sequence[str]) -> pl.DataFrame:
    """The measures of ``runs``, and below them chance and the untrained encoders.

    Columns: encoder, and the measures that any of the runs has. Chance and untrained values are of the first run that
    has them: runs that were evaluated on the same views share them.
    """
    rows = _rows(scored, runs)
    told = [each for each in MEASURES if any("reached" in values_of(row, each) for row in rows)]
    if not told:
        return pl.DataFrame(schema={"encoder": pl.String})
    lines = [
        {"encoder": row["run"]} | {each.head: values_of(row, each).get("reached") for each in told} for row in rows
    ]
    for what in ("chance", *UNTRAINED):
        known = {
            each.head: next((found[what] for row in rows if what in (found := values_of(row, each))), None)
            for each in told
        }
        lines.append({"encoder": what} | known)
    table = pl.from_dicts(lines, schema={"encoder": pl.String} | {each.head: pl.Float64 for each in told})
    return table.with_columns(pl.col(each.head).round(1 if each.name.endswith("_mm") else 2) for each in told)


def representation_picture(scored: pl.DataFrame, runs: Sequence[str]) -> alt.TopLevelMixin:
    """A panel for each measure: what every run reached, beside chance and what is reached without training."""
    rows = _rows(scored, runs)
    long = [
        {"run": row["run"], "measure": each.words, "what": what, "value": value}
        for each in MEASURES
        for row in rows
        if "reached" in (found := values_of(row, each))
        for what, value in found.items()
    ]
    if not long:
        return in_words(NO_MEASURES)
    table = pl.from_dicts(long)
    measures = table["measure"].unique(maintain_order=True).to_list()
    order = [row["run"] for row in rows if row["run"] in set(table["run"])]
    panels = [
        _panel(table.filter(pl.col("measure") == measure), order, measure, named=number % _COLUMNS == 0)
        for number, measure in enumerate(measures)
    ]
    return finished(alt.concat(*panels, columns=_COLUMNS, spacing=14))


def _panel(table: pl.DataFrame, runs: Sequence[str], title: str, named: bool) -> alt.Chart:
    axis = alt.Axis(labelLimit=230) if named else None
    domain = list(_COLORS)
    chart: alt.Chart = (
        alt.Chart(table)
        .mark_point(filled=True, opacity=0.95)
        .encode(
            x=alt.X("value:Q", title=None, scale=alt.Scale(zero=False, padding=8), axis=alt.Axis(tickCount=5)),
            y=alt.Y("run:N", sort=list(runs), title=None, axis=axis, scale=alt.Scale(domain=list(runs))),
            color=alt.Color(
                "what:N",
                title=None,
                scale=alt.Scale(domain=domain, range=list(_COLORS.values())),
                legend=alt.Legend(orient="top", symbolSize=90),
            ),
            shape=alt.Shape("what:N", title=None, scale=alt.Scale(domain=domain, range=list(_SHAPES))),
            size=alt.Size("what:N", legend=None, scale=alt.Scale(domain=domain, range=list(_SIZES))),
            tooltip=["run:N", "what:N", alt.Tooltip("value:Q", format=".3f")],
        )
        .properties(width=_WIDTH, height=alt.Step(_STEP), title=title)
    )
    return chart


def _rows(scored: pl.DataFrame, runs: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of ``runs``, in their order."""
    by_name = {row["run"]: row for row in scored.filter(pl.col("run").is_in(list(runs))).iter_rows(named=True)}
    return [by_name[run] for run in runs if run in by_name]
