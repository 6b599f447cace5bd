"""Style of the notebook's charts and tables: one colour a run, a click to follow a run, columns as narrow as can be."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import cycle
from typing import Any

import altair as alt
import polars as pl

from prism_ssl.report.panels import NUMBER_FORMAT

RUNS_DRAWN = 8
"""Most runs whose curves are drawn at once: more colours cannot be told apart."""

ROWS_DRAWN = 40
"""Most runs that a chart with a line for each run shows; tables show all."""

GREY = "#888888"

_HEADER_LETTER, _LETTER, _COLUMN_MAX, _ROWS_MEASURED = 6.8, 6.8, 300, 100  # widths in pixels

_TABLEAU10 = (
    "#4c78a8", "#f58518", "#e45756", "#72b7b2", "#54a24b", "#eeca3b", "#b279a2", "#ff9da6", "#9d755d", "#bab0ac"
)  # fmt: skip


def run_color(runs: Sequence[str]) -> alt.Color:
    """A colour for each run, the same in every chart of the same runs."""
    return alt.Color(
        "run:N",
        sort=list(runs),
        scale=alt.Scale(domain=list(runs), range=list(_TABLEAU10)),
        legend=alt.Legend(
            title="run (click to follow one)", orient="top", columns=3, labelLimit=220, symbolType="stroke"
        ),
    )


def pointing() -> tuple[alt.Parameter, Any]:
    """A click on the legend, and the opacity under which the other runs fade."""
    chosen = alt.selection_point(fields=["run"], bind="legend", name="followed_run")
    return chosen, alt.condition(chosen, alt.value(1.0), alt.value(0.12))


def run_names(runs: Sequence[str]) -> str:
    """The runs as HTML, each behind a dot of its colour in the charts."""
    dots = zip(runs, cycle(_TABLEAU10), strict=False)
    dot = "display:inline-block;width:.7em;height:.7em;border-radius:50%;margin-right:.35em;background:"
    names = (f'<span style="{dot}{color}"></span>{escape(run)}' for run, color in dots)
    return " ".join(f'<span style="white-space:nowrap;margin-right:1.1em">{name}</span>' for name in names)


def column_widths(table: pl.DataFrame) -> dict[str, int]:
    """Width in pixels of each column: that of its header or of its longest text."""
    widths = {}
    for name in table.columns:
        values = table[name].head(_ROWS_MEASURED).to_list()
        texts = ("None  " if value is None else value if isinstance(value, str) else f"{value:,}" for value in values)
        longest = max(map(len, texts), default=0)
        widths[name] = min(_COLUMN_MAX, round(max(_HEADER_LETTER * len(name) + 18, _LETTER * longest + 14)))
    return widths


def finished(chart: alt.TopLevelMixin) -> alt.TopLevelMixin:
    """The chart in the notebook's look."""
    styled: alt.TopLevelMixin = (
        chart.configure(numberFormat=NUMBER_FORMAT)
        .configure_view(stroke="#dddddd")
        .configure_axis(
            grid=True, gridColor="#eeeeee", labelColor="#444444", titleColor="#444444", titleFontWeight="normal"
        )
        .configure_title(anchor="start", fontSize=13)
        .configure_legend(labelColor="#333333", titleColor="#555555", titleFontWeight="normal")
    )
    return styled


def in_words(text: str) -> alt.TopLevelMixin:
    """A sentence in place of a chart, which says why there is none."""
    chart = alt.Chart(pl.DataFrame({"text": [text]})).mark_text(color="#777777", fontSize=13, lineBreak="\n")
    return finished(chart.encode(text="text:N").properties(width=700, height=60))
