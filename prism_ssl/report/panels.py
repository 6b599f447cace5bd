"""Small multiples: scalars of histories as line charts side by side, of one run or of several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import altair as alt
import polars as pl

POINTS_MAX = 400
"""Most rows of a run's history that are drawn, evenly spread."""

WIDTH, HEIGHT = 232, 150
STEP_AXIS: Final = alt.X("global_step:Q", title="step", axis=alt.Axis(tickCount=5))
NUMBER_FORMAT: Final = ",.7~g"
"""Number format of chart axes: 7 digits, because the ticks of a very narrow scale otherwise show rounding noise."""
_INSIDE: Final = alt.Axis(labelFlush=True)
"""Labels at the ends of an axis stay beside the plot, so that titles of a row have one height."""
_FEW = 40  # shorter lines get point marks: a line of one point is invisible


def thinned(history: pl.DataFrame) -> pl.DataFrame:
    """At most ``POINTS_MAX`` rows of each run, evenly spread; the last row is always there."""
    if "run" not in history.columns:
        return _evenly(history)
    parts = [_evenly(rows) for _, rows in history.group_by("run", maintain_order=True)]
    return pl.concat(parts) if parts else history


def named_rows(history: pl.DataFrame, columns: Mapping[str, tuple[str, str]]) -> pl.DataFrame:
    """Long rows of those ``columns`` {column: (series, panel)} that the history has, in this order.

    Columns: global_step, series, panel, value, and run where the history has it. Each column is thinned by
    itself, so a scalar that is logged rarely (of a held-out evaluation) keeps all its points.
    """
    index = [name for name in ("run", "global_step") if name in history.columns]
    parts = [
        thinned(history.select(*index, pl.col(column).cast(pl.Float64).alias("value")).drop_nulls("value")).select(
            *index, pl.lit(series).alias("series"), pl.lit(panel).alias("panel"), "value"
        )
        for column, (series, panel) in columns.items()
        if column in history.columns
    ]
    schema = {name: history.schema[name] for name in index}
    empty = pl.DataFrame(schema=schema | {"series": pl.String, "panel": pl.String, "value": pl.Float64})
    return pl.concat([empty, *parts])


def small_multiples(
    long: pl.DataFrame,
    title: str,
    color: Any,
    dash: Any = None,
    followed: tuple[alt.Parameter, Any] | None = None,
    rule: float | None = None,
    zero: bool = True,
    log: bool = False,
    columns: int = 3,
    width: int = WIDTH,
) -> alt.ConcatChart:
    """A small line chart for each panel of ``named_rows``, with a scale of its own; ``rule`` draws a level.

    ``followed``: a parameter, and the opacity that depends on it.
    """
    charts: list[Any] = []
    for (panel,), rows in long.group_by("panel", maintain_order=True):
        scale = alt.Scale(type="log") if log else alt.Scale(zero=zero)
        shown = rows.filter(pl.col("value") > 0) if log else rows
        y = alt.Y("value:Q", title=None, scale=scale, axis=_INSIDE)
        encoding = {"x": STEP_AXIS, "y": y, "color": color}
        encoding |= {} if dash is None else {"strokeDash": dash}
        encoding |= {} if followed is None else {"opacity": followed[1]}
        if "run" in rows.columns:
            encoding["detail"] = "run:N"
            encoding["tooltip"] = ["run:N", "series:N", "global_step:Q", alt.Tooltip("value:Q", format=".4g")]
        few = rows.height < _FEW * max(1, rows.select(pl.struct("series", *_runs(rows)).n_unique()).item())
        lines: Any = alt.Chart(shown).mark_line(clip=True, point=few).encode(**encoding)
        if followed is not None and not charts:  # once for all panels
            lines = lines.add_params(followed[0])
        if rule is not None:
            level = alt.Chart(pl.DataFrame({"value": [rule]}))
            lines += level.mark_rule(color="#888888", strokeDash=[5, 4]).encode(y="value:Q")
        charts.append(lines.properties(width=width, height=HEIGHT, title=_over_plot(str(panel).replace("_", " "))))
    return alt.concat(*charts, columns=columns, title=_over_plot(title, fontWeight="normal", color="#555555"))


def _over_plot(title: str, **style: Any) -> alt.TitleParams:
    """A title that begins where the plot begins, not where its axis labels do: so titles of a column are aligned."""
    return alt.TitleParams(title, frame="group", anchor="start", **style)


def _evenly(rows: pl.DataFrame) -> pl.DataFrame:
    if rows.height <= POINTS_MAX:
        return rows
    places = [round(i * (rows.height - 1) / (POINTS_MAX - 1)) for i in range(POINTS_MAX)]
    return rows[places]


def _runs(rows: pl.DataFrame) -> list[str]:
    return ["run"] if "run" in rows.columns else []
