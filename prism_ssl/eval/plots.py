"""What a run's history shows, as pictures: ``python -m prism_ssl.eval.plots RUN_DIR``; of several, side by side:
``python -m prism_ssl.eval.plots RUN_DIR RUN_DIR ... --out comparison.png``.

The chart functions take a history frame (``load_history``; W&B's rows have the same columns), so a notebook can show
them too. A scalar that the history lacks is left out of its chart.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import altair as alt
import polars as pl
import vl_convert
from rich.console import Console

from prism_ssl.errors import PrismError, RunFolderError
from prism_ssl.utils.fs import write_atomic

HISTORY_FILE, PLOTS_FOLDER = "history.jsonl", "plots"
HEADS: Final = ("distance", "rotation", "window_center", "window_width", "supcon", "total")
AXES: Final = ("dx", "dy", "dz", "rx", "ry", "rz", "wc", "ww")
POINTS_MAX = 400
"""Most rows of a history that are drawn, evenly spread."""

_WAITS: Final = {
    "computing": None,
    "waiting: scans opening": "data_wait_opening_ms",
    "waiting: sampling": "data_wait_sampling_ms",
    "waiting: transport": "data_wait_transport_ms",
}
_WIDTH, _HEIGHT = 250, 150
_FEW = 40  # points are marked where lines are short, for a line of one point is nothing to see
_STEP: Final = alt.X("global_step:Q", title="step")


def load_history(run_dir: Path) -> pl.DataFrame:
    """The rows of scalars of a run folder, a column each; without columns when nothing was logged yet.

    Raises:
        RunFolderError: there is no history.
    """
    path = run_dir / HISTORY_FILE
    if not path.is_file():
        raise RunFolderError(f"{run_dir} has no {HISTORY_FILE}; give the folder of a run, such as runs/NAME")
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # a line cut short by a kill is left out
    rows = [row for row in map(json.loads, lines) if "event" not in row]
    return pl.DataFrame(rows, infer_schema_length=None)


def loss_chart(history: pl.DataFrame) -> alt.VConcatChart:
    """Each head's loss beside its chance level, and below them the same losses raw and normalised."""
    beside = _named(history, {f"{what}/{head}": (what, head) for head in HEADS for what in ("loss", "chance")})
    forms = _named(
        history,
        {f"loss_{what}/{head}": (what, head) for head in HEADS for what in ("raw", "normalized")},
    )
    dash = alt.StrokeDash("series:N", scale=alt.Scale(domain=["loss", "chance"], range=[[1, 0], [5, 4]]), legend=None)
    color = alt.Color("series:N", scale=alt.Scale(domain=["loss", "chance"], range=["#1f6fb4", "#888888"]), title=None)
    above = _panels(beside, "what is optimised, beside its chance level", zero=False, color=color, dash=dash)
    forms_color = alt.Color(
        "series:N", scale=alt.Scale(domain=["raw", "normalized"], range=["#b4501f", "#1f6fb4"]), title=None
    )
    below = _panels(forms, "raw (mm, degrees, intensity units) and normalised", zero=False, color=forms_color, log=True)
    return _stacked("Losses", above, below)


def diagnostics_chart(history: pl.DataFrame) -> alt.VConcatChart:
    """Sign skill and spread of the predictions per axis, and the positives that SupCon had."""
    groups = {"displacement": AXES[:3], "rotation": AXES[3:6], "window": AXES[6:]}
    skill = _named(history, {f"skill/{axis}": (axis, group) for group, axes in groups.items() for axis in axes})
    ratio = _named(history, {f"std_ratio/{axis}": (axis, group) for group, axes in groups.items() for axis in axes})
    held_out = _named(
        history, {f"probe/skill/{axis}": (axis, group) for group, axes in groups.items() for axis in axes}
    )
    positives = _named(
        history,
        {
            "supcon/positives_mean": ("mean", "positives per anchor"),
            "supcon/positives_min": ("fewest", "positives per anchor"),
            "supcon/cross_pair_share": ("share", "anchors with a positive of another pair"),
        },
    )
    axis_color = alt.Color("series:N", sort=list(AXES), scale=alt.Scale(scheme="tableau10"), title=None)
    return _stacked(
        "Diagnostics",
        _panels(skill, "sign skill on the training pairs (0 chance, 1 perfect)", color=axis_color, rule=0.0),
        _panels(held_out, "the same on held-out scans", color=axis_color, rule=0.0),
        _panels(ratio, "spread of the predictions over spread of the targets", color=axis_color, rule=1.0),
        _panels(positives, "SupCon's positives", color=alt.Color("series:N", title=None)),
    )


def throughput_chart(history: pl.DataFrame) -> alt.VConcatChart:
    """Patches per second, what the time of a step went into, and the replacements of the pools."""
    rate = _named(history, {"patches_per_sec_interval": ("patches per second", "throughput")})
    counts = _named(
        history,
        {
            "replacement_completed_count": ("completed", "replacements"),
            "replacement_failed_count": ("failed", "replacements"),
        },
    )
    color = alt.Color("series:N", title=None)
    top = alt.hconcat(_panels(rate, "", color=color), _panels(counts, "", color=color)).resolve_scale(
        color="independent"
    )
    return _stacked("Throughput", top, _time_chart(history))


def comparison_chart(histories: Mapping[str, pl.DataFrame]) -> alt.VConcatChart:
    """Sign skill per axis and held-out retrieval of several runs, a line for each; {name: history}.

    Skill is the mean over the last twentieth of a run's rows up to each step: single rows are of few pairs.
    """
    skill = {f"skill/{axis}": ("skill", axis) for axis in AXES}
    retrieval = {
        "probe/recall_at_1": ("recall@1", "held out: recall@1"),
        "probe/recall_at_1_chance": ("chance", "held out: recall@1"),
    }
    parts: dict[str, list[pl.DataFrame]] = {"skill": [], "retrieval": []}
    for name, history in histories.items():
        if history.is_empty():
            continue
        there = [column for column in skill if column in history.columns]
        rows = history.filter(pl.any_horizontal(pl.lit(value=False), *(pl.col(name).is_not_null() for name in there)))
        smooth = pl.col(there).cast(pl.Float64).rolling_mean(max(1, rows.height // 20), min_samples=1)
        parts["skill"].append(_named(rows.with_columns(smooth), skill).with_columns(run=pl.lit(name)))
        parts["retrieval"].append(_named(history, retrieval).with_columns(run=pl.lit(name)))
    color = alt.Color("run:N", sort=list(histories), scale=alt.Scale(scheme="tableau10"), title=None)
    dash = alt.StrokeDash(
        "series:N", scale=alt.Scale(domain=["recall@1", "chance"], range=[[1, 0], [2, 3]]), title=None
    )
    return _stacked(
        "Runs",
        _panels(
            pl.concat(parts["skill"]), "sign skill on views not seen before (0 chance, 1 perfect)", color, rule=0.0
        ),
        _panels(pl.concat(parts["retrieval"]), "", color, dash=dash),
    )


CHARTS: Final[Mapping[str, Callable[[pl.DataFrame], alt.VConcatChart]]] = {
    "losses": loss_chart,
    "diagnostics": diagnostics_chart,
    "throughput": throughput_chart,
}
"""File stem -> chart of a history."""


def save_plots(run_dir: Path, form: str = "png") -> list[Path]:
    """Write every chart into ``<run_dir>/plots`` and return the paths; none when nothing was logged."""
    history = load_history(run_dir)
    if history.is_empty():
        return []
    folder = run_dir / PLOTS_FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    paths = []
    for stem, chart in CHARTS.items():
        path = folder / f"{stem}.{form}"
        write_atomic(path, _rendered(chart(history), form))
        paths.append(path)
    return paths


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the plots of a run folder, or one of several; 0 when they were written."""
    parser = argparse.ArgumentParser(prog="python -m prism_ssl.eval.plots", description="Draw the history of runs.")
    parser.add_argument("run_dirs", type=Path, nargs="+", metavar="run_dir", help="folder of a run")
    parser.add_argument("--format", choices=("png", "svg"), default="png")
    parser.add_argument("--out", type=Path, help="draw the runs side by side, into this .png or .svg")
    given = parser.parse_args(arguments)
    if len(given.run_dirs) > 1 and given.out is None:
        parser.error("several runs are drawn into one picture: name it with --out")
    if given.out is not None and given.out.suffix not in (".png", ".svg"):
        parser.error(f"--out is {given.out}; needed: a name that ends in .png or .svg")
    try:
        paths = (
            [_save_comparison(given.run_dirs, given.out)] if given.out else save_plots(given.run_dirs[0], given.format)
        )
    except (PrismError, OSError) as error:
        Console(stderr=True).print(f"{type(error).__name__}: {error}", style="red", markup=False, soft_wrap=True)
        return 1
    Console().print("\n".join(map(str, paths)) or "nothing was logged yet", highlight=False, soft_wrap=True)
    return 0 if paths else 1


def _save_comparison(run_dirs: Sequence[Path], out: Path) -> Path:
    chart = comparison_chart({folder.name: load_history(folder) for folder in run_dirs})
    write_atomic(out, _rendered(chart, out.suffix.removeprefix(".")))
    return out


# ---------------------------------------------------------------------- parts
def _stacked(title: str, *rows: Any) -> alt.VConcatChart:
    chart: alt.VConcatChart = alt.vconcat(*rows, title=title).resolve_scale(color="independent")
    return chart


def _named(history: pl.DataFrame, columns: Mapping[str, tuple[str, str]]) -> pl.DataFrame:
    """Long rows (global_step, series, panel, value) of the columns that are there, {column: (series, panel)}."""
    there = [name for name in columns if name in history.columns]
    thin = history.gather_every(max(1, -(-history.height // POINTS_MAX)))
    long = thin.select("global_step", pl.col(there).cast(pl.Float64)).unpivot(
        on=there, index="global_step", variable_name="column", value_name="value"
    )
    names = pl.DataFrame(
        [(column, *columns[column]) for column in there],
        schema={"column": pl.String, "series": pl.String, "panel": pl.String},
        orient="row",
    )
    return (
        long.drop_nulls("value")
        .join(names, on="column", how="inner", maintain_order="left")
        .drop("column", strict=False)
    )


def _panels(
    long: pl.DataFrame,
    title: str,
    color: Any,
    dash: Any = None,
    rule: float | None = None,
    zero: bool = True,
    log: bool = False,
) -> alt.ConcatChart:
    """A small line chart for each panel, with a scale of its own."""
    charts = []
    for (panel,), rows in long.group_by("panel", maintain_order=True):
        scale = alt.Scale(type="log") if log else alt.Scale(zero=zero)
        shown = rows.filter(pl.col("value") > 0) if log else rows
        encoding = {"x": _STEP, "y": alt.Y("value:Q", title=None, scale=scale), "color": color}
        encoding |= {} if dash is None else {"strokeDash": dash}
        lines: Any = alt.Chart(shown).mark_line(clip=True, point=rows.height < _FEW).encode(**encoding)
        if rule is not None:
            lines += alt.Chart(pl.DataFrame({"value": [rule]})).mark_rule(color="#888888").encode(y="value:Q")
        charts.append(lines.properties(width=_WIDTH, height=_HEIGHT, title=str(panel).replace("_", " ")))
    return alt.concat(*charts, columns=3, title=alt.TitleParams(title, fontWeight="normal", color="#555555"))


def _time_chart(history: pl.DataFrame) -> alt.Chart:
    waits = [column for column in _WAITS.values() if column in history.columns]
    if "step_time_ms" not in history.columns:
        return _time_chart(history.with_columns(pl.lit(None, pl.Float64).alias("step_time_ms")))
    waited = pl.sum_horizontal(waits) if waits else pl.lit(0.0)
    parts = history.with_columns((pl.col("step_time_ms") - waited).clip(lower_bound=0).alias("computing_ms"))
    columns = {column or "computing_ms": (name, "time") for name, column in _WAITS.items()}
    order = list(_WAITS)
    scale = alt.Scale(domain=order, range=["#9ecae1", "#d62728", "#ff9f3b", "#9467bd"])
    chart: alt.Chart = (
        alt.Chart(_named(parts, columns))
        .mark_area(line=False)
        .encode(
            x=_STEP,
            y=alt.Y("value:Q", stack="zero", title="ms per step"),
            color=alt.Color("series:N", scale=scale, sort=order, title=None),
        )
        .properties(width=2 * _WIDTH + 80, height=_HEIGHT, title="what the time of a step goes into")
    )
    return chart


def _rendered(chart: alt.VConcatChart, form: str) -> bytes:
    with alt.data_transformers.enable("default", max_rows=None):
        spec = chart.to_json()
    if form == "svg":
        return vl_convert.vegalite_to_svg(spec).encode()
    return vl_convert.vegalite_to_png(spec, scale=1.5)


if __name__ == "__main__":
    sys.exit(main())
