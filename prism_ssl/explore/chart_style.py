"""Style of all charts of the notebook: one colour a run, and a click to follow a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from prism_ssl.report.panels import NUMBER_FORMAT

RUNS_DRAWN = 8
"""Most runs whose curves are drawn at once: more colours cannot be told apart."""

ROWS_DRAWN = 40
"""Most runs that a chart with a line for each run shows; tables show all."""

GREY = "#888888"


def run_color(runs: Sequence[str]) -> alt.Color:
    """A colour for each run, the same in every chart of the same runs."""
    return alt.Color(
        "run:N",
        sort=list(runs),
        scale=alt.Scale(domain=list(runs), scheme="tableau10"),
        legend=alt.Legend(
            title="run (click to follow one)", orient="top", columns=4, labelLimit=260, symbolType="stroke"
        ),
    )


def pointing() -> tuple[alt.Parameter, Any]:
    """A click on the legend, and the opacity under which the other runs fade."""
    chosen = alt.selection_point(fields=["run"], bind="legend", name="followed_run")
    return chosen, alt.condition(chosen, alt.value(1.0), alt.value(0.12))


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
    return finished(chart.encode(text="text:N").properties(width=760, height=60))
