"""Plot a run's history: ``prism plot RUN_DIR``; several runs side by side: ``prism plot RUN_DIR ... --out FILE.png``.

The chart functions take a history frame (``load_history``; W&B's rows have the same columns), so a notebook can show
them too. A scalar that the history lacks is left out of its chart.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import altair as alt
import polars as pl
import vl_convert
from rich.console import Console

from prism_ssl.cli.catalog_options import EXIT_NO, EXIT_OK, refused
from prism_ssl.errors import PrismError, RunFolderError
from prism_ssl.records.history_file import read_scalars
from prism_ssl.records.run_files import HISTORY_FILE
from prism_ssl.report.panels import HEIGHT, NUMBER_FORMAT, STEP_AXIS, WIDTH, named_rows, small_multiples
from prism_ssl.utils.fs import write_atomic

PLOTS_FOLDER = "plots"
HEADS: Final = ("distance", "rotation", "window_center", "window_width", "supcon", "masked", "total")
AXES: Final = ("dx", "dy", "dz", "rx", "ry", "rz", "wc", "ww")
_WAITS: Final = {
    "computing": None,
    "waiting: scans opening": "data_wait_opening_ms",
    "waiting: sampling": "data_wait_sampling_ms",
    "waiting: transport": "data_wait_transport_ms",
}


def load_history(run_dir: Path) -> pl.DataFrame:
    """The history of a run folder, a column for each scalar; without rows when nothing was logged yet.

    Raises:
        RunFolderError: there is no history.
    """
    path = run_dir / HISTORY_FILE
    if not path.is_file():
        raise RunFolderError(f"{run_dir} has no {HISTORY_FILE}; give the folder of a run, such as runs/NAME")
    return read_scalars(run_dir).rows


def loss_chart(history: pl.DataFrame) -> alt.VConcatChart:
    """Each head's loss and its chance level; below, the same losses raw and normalised."""
    beside = named_rows(history, {f"{what}/{head}": (what, head) for head in HEADS for what in ("loss", "chance")})
    forms = named_rows(
        history,
        {f"loss_{what}/{head}": (what, head) for head in HEADS for what in ("raw", "normalized")},
    )
    dash = alt.StrokeDash("series:N", scale=alt.Scale(domain=["loss", "chance"], range=[[1, 0], [5, 4]]), legend=None)
    color = alt.Color("series:N", scale=alt.Scale(domain=["loss", "chance"], range=["#1f6fb4", "#888888"]), title=None)
    above = small_multiples(beside, "optimised losses and their chance levels", zero=False, color=color, dash=dash)
    forms_color = alt.Color(
        "series:N", scale=alt.Scale(domain=["raw", "normalized"], range=["#b4501f", "#1f6fb4"]), title=None
    )
    below = small_multiples(
        forms, "raw (mm, degrees, intensity units) and normalised", zero=False, color=forms_color, log=True
    )
    return _stacked("Losses", above, below)


def diagnostics_chart(history: pl.DataFrame) -> alt.VConcatChart:
    """Sign skill and spread of the predictions per axis, and the positives that SupCon had."""
    groups = {"displacement": AXES[:3], "rotation": AXES[3:6], "window": AXES[6:]}
    skill = named_rows(history, {f"skill/{axis}": (axis, group) for group, axes in groups.items() for axis in axes})
    ratio = named_rows(history, {f"std_ratio/{axis}": (axis, group) for group, axes in groups.items() for axis in axes})
    held_out = named_rows(
        history, {f"probe/skill/{axis}": (axis, group) for group, axes in groups.items() for axis in axes}
    )
    positives = named_rows(
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
        small_multiples(skill, "sign skill on the training pairs (0 chance, 1 perfect)", color=axis_color, rule=0.0),
        small_multiples(held_out, "the same on held-out scans", color=axis_color, rule=0.0),
        small_multiples(ratio, "spread of the predictions over spread of the targets", color=axis_color, rule=1.0),
        small_multiples(positives, "SupCon's positives", color=alt.Color("series:N", title=None)),
    )


def throughput_chart(history: pl.DataFrame) -> alt.VConcatChart:
    """Patches per second, the parts of the step time, and the replacements in the pools."""
    rate = named_rows(history, {"patches_per_sec_interval": ("patches per second", "throughput")})
    counts = named_rows(
        history,
        {
            "replacement_completed_count": ("completed", "replacements"),
            "replacement_failed_count": ("failed", "replacements"),
        },
    )
    color = alt.Color("series:N", title=None)
    top = alt.hconcat(small_multiples(rate, "", color=color), small_multiples(counts, "", color=color)).resolve_scale(
        color="independent"
    )
    return _stacked("Throughput", top, _time_chart(history))


def comparison_chart(histories: Mapping[str, pl.DataFrame]) -> alt.VConcatChart:
    """Sign skill per axis and held-out retrieval of several runs, a line for each; {name: history}.

    Skill is a running mean over a twentieth of a run's rows: single rows are of few pairs.
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
        parts["skill"].append(named_rows(rows.with_columns(smooth), skill).with_columns(run=pl.lit(name)))
        parts["retrieval"].append(named_rows(history, retrieval).with_columns(run=pl.lit(name)))
    color = alt.Color("run:N", sort=list(histories), scale=alt.Scale(scheme="tableau10"), title=None)
    dash = alt.StrokeDash(
        "series:N", scale=alt.Scale(domain=["recall@1", "chance"], range=[[1, 0], [2, 3]]), title=None
    )
    return _stacked(
        "Runs",
        small_multiples(
            pl.concat(parts["skill"]), "sign skill on newly drawn training views (0 chance, 1 perfect)", color, rule=0.0
        ),
        small_multiples(pl.concat(parts["retrieval"]), "", color, dash=dash),
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
    parser = argparse.ArgumentParser(prog="prism plot", description="Draw the history of runs.")
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
        return refused(error)
    told = "\n".join(map(str, paths)) or "nothing was logged yet"
    Console().print(told, markup=False, highlight=False, soft_wrap=True)
    return EXIT_OK if paths else EXIT_NO


def _save_comparison(run_dirs: Sequence[Path], out: Path) -> Path:
    names = [folder.resolve().name for folder in run_dirs]
    repeated = len(set(names)) < len(names)
    histories = {str(f) if repeated else f.resolve().name: load_history(f) for f in run_dirs}
    histories = {name: history for name, history in histories.items() if not history.is_empty()}
    if not histories:
        raise RunFolderError("nothing was logged yet in any of these runs; train some steps first")
    chart = comparison_chart(histories)
    write_atomic(out, _rendered(chart, out.suffix.removeprefix(".")))
    return out


# ---------------------------------------------------------------------- parts
def _stacked(title: str, *rows: Any) -> alt.VConcatChart:
    chart: alt.VConcatChart = alt.vconcat(*rows, title=title).resolve_scale(color="independent")
    return chart


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
        alt.Chart(named_rows(parts, columns))
        .mark_area(line=False)
        .encode(
            x=STEP_AXIS,
            y=alt.Y("value:Q", stack="zero", title="ms per step"),
            color=alt.Color("series:N", scale=scale, sort=order, title=None),
        )
        .properties(width=2 * WIDTH + 80, height=HEIGHT, title="parts of the step time")
    )
    return chart


def _rendered(chart: alt.VConcatChart, form: str) -> bytes:
    with alt.data_transformers.enable("default", max_rows=None):
        spec = chart.configure(numberFormat=NUMBER_FORMAT).to_json()
    if form == "svg":
        return vl_convert.vegalite_to_svg(spec).encode()
    return vl_convert.vegalite_to_png(spec, scale=1.5)


if __name__ == "__main__":
    sys.exit(main())
