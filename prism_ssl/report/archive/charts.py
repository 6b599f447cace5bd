"""Histograms of a page: counts in bins, by modality."""

from __future__ import annotations

import math

import altair as alt
import numpy as np
import polars as pl
import vl_convert

from prism_ssl.report.archive.pictures import svg_picture
from prism_ssl.report.panels import NUMBER_FORMAT

MODALITY_COLORS = {"CT": "#1f6fb4", "MR": "#c0632b"}
OTHER_COLOR = "#777777"
_BINS, _WIDTH, _HEIGHT = 24, 300, 130
_LOG_FROM = 20.0  # largest over smallest value from which bins grow by factors


def histogram(values: pl.DataFrame, column: str, title: str) -> str:
    """A drawing of how ``column`` is distributed, stacked by ``modality``; "" without a value."""
    known = values.select("modality", value=pl.col(column).cast(pl.Float64)).drop_nulls()
    if known.is_empty():
        return ""
    edges, log = _edges(known["value"])
    counts = _counted(known, edges)
    scale = alt.Scale(type="log", nice=False) if log else alt.Scale(zero=False, nice=False)
    axis = alt.Axis(
        format=NUMBER_FORMAT, tickCount=5, grid=False, labelOverlap=True, values=_ticks(edges) or alt.Undefined
    )
    counted = alt.Axis(tickCount=4, format="~s", tickMinStep=1, minExtent=30)
    names = sorted(known["modality"].unique())
    colors = [MODALITY_COLORS.get(name, OTHER_COLOR) for name in names]
    chart = (
        alt.Chart(counts)
        .mark_bar(stroke="white", strokeWidth=0.5)
        .encode(
            x=alt.X("low:Q", title=None, scale=scale, axis=axis),
            x2="high:Q",
            y=alt.Y("sum(count):Q", title=None, scale=alt.Scale(nice=4), axis=counted),
            color=alt.Color("modality:N", scale=alt.Scale(domain=names, range=colors), legend=None),
        )
        .properties(width=_WIDTH, height=_HEIGHT, title=title)
        .configure_view(stroke=None)
        .configure_axis(gridColor="#eeeeee", labelColor="#444444", domainColor="#999999", tickColor="#999999")
        .configure_title(anchor="start", fontSize=13, fontWeight="normal", color="#222222")
    )
    return svg_picture(vl_convert.vegalite_to_svg(chart.to_json()))


def _edges(values: pl.Series) -> tuple[list[float], bool]:
    """Ends of the bins, and whether they grow by factors. Few whole numbers have a bin each."""
    numbers = values.to_numpy()
    low, high = float(numbers.min()), float(numbers.max())
    if low > 0 and high / low >= _LOG_FROM:
        return np.geomspace(low, high * (1 + 1e-9), _BINS + 1).tolist(), True
    if high - low < _BINS and np.array_equal(numbers, np.rint(numbers)):
        return [number - 0.5 for number in range(math.floor(low), math.ceil(high) + 2)], False
    if high <= low:
        low, high = low - max(abs(low), 1) * 0.1, high + max(abs(high), 1) * 0.1
    return np.linspace(low, high + (high - low) * 1e-9, _BINS + 1).tolist(), False


def _ticks(edges: list[float]) -> list[float]:
    """In the middle of each bin, where a bin is a whole number; else none."""
    whole = edges[0] % 1 == 0.5 and edges[1] == edges[0] + 1
    return [edge + 0.5 for edge in edges[:-1]] if whole else []


def _counted(known: pl.DataFrame, edges: list[float]) -> pl.DataFrame:
    tables = []
    for (modality,), rows in known.group_by("modality"):
        counts, _ = np.histogram(rows["value"].to_numpy(), edges)
        tables.append({"modality": str(modality), "low": edges[:-1], "high": edges[1:], "count": counts.tolist()})
    return pl.concat([pl.DataFrame(one) for one in tables]).filter(pl.col("count") > 0)
