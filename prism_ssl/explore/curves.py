"""Scalars over the steps of several runs: losses, diagnostics, throughput."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import altair as alt
import polars as pl

from prism_ssl.explore.chart_style import finished, in_words, pointing, run_color
from prism_ssl.report.panels import named_rows, small_multiples
from prism_ssl.report.plots import AXES, HEADS

LOSS_FORMS: Mapping[str, tuple[str, str]] = {
    "normalised": ("loss_normalized", "chance_normalized"),
    "raw (mm, degrees, intensity units)": ("loss_raw", "chance_raw"),
    "as optimised": ("loss", "chance"),
}
"""Choice in the notebook -> prefixes of the scalars and of their chance levels."""
RELATIVE = "relative to chance (1 = nothing learned)"

_WIDTH = 196
"""Of a panel; three of them fit into a window of 1024 pixels."""
_GROUPS = {"displacement": AXES[:3], "rotation": AXES[3:6], "window": AXES[6:]}
_LONG_NAMES = {
    "dx": "dx: to the right", "dy": "dy: to the front", "dz": "dz: upwards", "rx": "rx: nodding", "ry": "ry: tilting",
    "rz": "rz: turning", "wc": "window centre", "ww": "window width",
}  # fmt: skip


def _of_axes(prefix: str) -> dict[str, tuple[str, str]]:
    return {f"{prefix}/{axis}": (axis, _LONG_NAMES[axis]) for axes in _GROUPS.values() for axis in axes}


DIAGNOSTICS: Mapping[str, tuple[dict[str, tuple[str, str]], float | None, str]] = {
    "sign skill on training pairs": (_of_axes("skill"), 0.0, "1 is perfect, 0 (dashed) is chance"),
    "sign skill on held-out scans": (_of_axes("probe/skill"), 0.0, "1 is perfect, 0 (dashed) is chance"),
    "spread of predictions / spread of targets": (
        _of_axes("std_ratio"),
        1.0,
        "near 0 a head predicts the mean; at 1 (dashed) its predictions vary as much as the targets",
    ),
    "spread of the targets": (
        _of_axes("target_std"),
        None,
        "normalised units; near 0 a target does not vary, and a low loss means nothing",
    ),
    "SupCon's positives": (
        {
            "supcon/positives_mean": ("mean", "positives per anchor, mean"),
            "supcon/positives_min": ("fewest", "positives per anchor, fewest"),
            "supcon/cross_pair_share": ("share", "anchors with a positive of another pair"),
        },
        None,
        "an anchor's own second view always counts; without others SupCon only tells pairs apart",
    ),
    "embeddings": (
        {
            "embedding/effective_rank": ("rank", "effective rank"),
            "embedding/spread": ("spread", "spread about the batch mean"),
            "probe/rankme": ("rankme", "held out: RankMe"),
            "probe/uniformity": ("uniformity", "held out: uniformity"),
            "probe/recall_at_1": ("recall", "held out: recall@1, same series"),
            "probe/place_recall_at_1": ("place", "held out: recall@1, same place"),
        },
        None,
        "a rank below 2, a spread or a uniformity near 0 is a collapse",
    ),
}
"""Choice in the notebook -> scalars (series, panel), the level to compare with, and how to read it."""

_RATES = {
    "patches_per_sec_interval": ("rate", "patches per second"),
    "step_time_ms": ("step", "time of a step, ms"),
    "data_wait_ms": ("wait", "of it waiting for data, ms"),
}
_COUNTERS = {
    "replacement_completed_count": ("completed", "replacements completed"),
    "replacement_failed_count": ("failed", "replacements failed"),
    "replacement_wait_time_ms_total": ("waited", "waited for replacements, ms"),
}


def curve_keys() -> list[str]:
    """Every scalar that a chart of this module draws."""
    losses = [f"{prefix}/{head}" for pair in LOSS_FORMS.values() for prefix in pair for head in HEADS]
    diagnostics = [key for columns, _, _ in DIAGNOSTICS.values() for key in columns]
    return list(dict.fromkeys([*losses, *diagnostics, *_RATES, *_COUNTERS]))


def loss_curves(history: pl.DataFrame, runs: Sequence[str], form: str) -> alt.TopLevelMixin:
    """Every objective's loss (solid) beside its chance level (dashed), a colour for each run.

    ``history``: run, global_step and ``curve_keys``. ``form``: of ``LOSS_FORMS``, or ``RELATIVE``.
    """
    if form == RELATIVE:
        ratios = [
            (pl.col(f"loss/{head}") / pl.col(f"chance/{head}")).alias(f"relative/{head}")
            for head in HEADS
            if {f"loss/{head}", f"chance/{head}"} <= set(history.columns)
        ]
        columns = {f"relative/{head}": ("loss / chance", head) for head in HEADS}
        long = named_rows(history.with_columns(ratios), columns)
        return _curves(long, runs, "below 1 (dashed) something is learned", rule=1.0)
    loss, chance = LOSS_FORMS[form]
    columns = {
        f"{prefix}/{head}": (what, head) for head in HEADS for prefix, what in ((loss, "loss"), (chance, "chance"))
    }
    long = named_rows(history, columns)
    dash = alt.StrokeDash(
        "series:N",
        scale=alt.Scale(domain=["loss", "chance"], range=[[1, 0], [4, 4]]),
        legend=alt.Legend(title=None, orient="top", symbolType="stroke", symbolStrokeColor="#444444"),
    )
    return _curves(long, runs, "solid: loss; dashed: chance level, reached without looking at the images", dash=dash)


def diagnostic_curves(history: pl.DataFrame, runs: Sequence[str], quantity: str) -> alt.TopLevelMixin:
    """One of ``DIAGNOSTICS`` over the steps."""
    columns, level, reading = DIAGNOSTICS[quantity]
    return _curves(named_rows(history, columns), runs, reading, rule=level)


def rate_curves(history: pl.DataFrame, runs: Sequence[str]) -> alt.TopLevelMixin:
    """Throughput, step time and waiting over the steps, means between two rows."""
    return _curves(named_rows(history, _RATES), runs, "means between two rows of the history")


def counter_curves(history: pl.DataFrame, runs: Sequence[str]) -> alt.TopLevelMixin:
    """Replacements in the pools over the steps."""
    title = "totals of all pool actors since the attempt began"
    return _curves(named_rows(history, _COUNTERS), runs, title, zero=True)


def _curves(
    long: pl.DataFrame,
    runs: Sequence[str],
    title: str,
    dash: alt.StrokeDash | None = None,
    rule: float | None = None,
    zero: bool = False,
) -> alt.TopLevelMixin:
    if long.is_empty():
        return in_words("None of the chosen runs has logged this yet.")
    chart = small_multiples(
        long, title, run_color(runs), dash=dash, followed=pointing(), rule=rule, zero=zero, width=_WIDTH
    )
    return finished(chart)
