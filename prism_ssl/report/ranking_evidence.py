"""Held-out measures of each run and of the untrained baselines: a section of ranking.md."""

from __future__ import annotations

from typing import Any

import polars as pl

EVIDENCE = (
    ("same place", "place_recall_at_1"),
    ("location error, mm", "place_distance_mm"),
    ("same series", "recall_at_1"),
    ("shift and rotation", "pose_skill_mean"),
    ("proxy quality", "proxy_quality"),
)
"""Header and held-out scalar of each column."""

_BASELINES = (("random weights", "_random_init"), ("pixel statistics", "_pixels"))
_CHANCE = {
    "place_recall_at_1": "probe/place_recall_at_1_chance",
    "place_distance_mm": "probe/place_distance_mm_chance",
    "recall_at_1": "probe/recall_at_1_chance",
}


def evidence_rows(ranked: pl.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Header and rows: the runs in their order, then random weights, pixel statistics and chance.

    Columns without values and runs without values are left out. Baselines are those of the first run that has them:
    all runs of a ranking are evaluated on the same views, and random weights follow from ``eval.seed``.
    """
    told = [(words, name) for words, name in EVIDENCE if _first(ranked, f"probe/{name}") is not None]
    if not told:
        return [], []
    header = ["run", *(words for words, _ in told)]
    rows = [
        [str(run["run"]), *(_said(run.get(f"probe/{name}"), name) for _, name in told)]
        for run in ranked.iter_rows(named=True)
        if any(run.get(f"probe/{name}") is not None for _, name in told)
    ]
    for words, ending in _BASELINES:
        rows.append([f"*{words}*", *(_said(_first(ranked, f"probe/{name}{ending}"), name) for _, name in told)])
    chance = [_first(ranked, _CHANCE[name]) if name in _CHANCE else 0.0 for _, name in told]
    rows.append(["*chance*", *(_said(value, name) for value, (_, name) in zip(chance, told, strict=True))])
    return header, rows


def beside_untrained(ranked: pl.DataFrame) -> str | None:
    """How many measured runs beat random weights and pixel statistics, each those of its own evaluation.

    None where these were not evaluated.
    """
    columns = {f"probe/proxy_quality{ending}": words for words, ending in _BASELINES}
    known = [name for name in columns if _first(ranked, name) is not None]
    ok = ranked.filter(pl.col("status") == "ok").with_columns(pl.col(known).cast(pl.Float64).fill_nan(None))
    best_untrained = pl.max_horizontal(known) if known else pl.lit(None)
    measured = ok.filter(pl.col("proxy_quality").is_not_null(), best_untrained.is_not_null())
    if measured.is_empty():
        return None
    beat = measured.filter(pl.col("proxy_quality") > best_untrained).height
    each = [f"{columns[name]} ({_span(measured[name])})" for name in known]
    named = f"the better of {' and '.join(each)}" if len(each) > 1 else each[0]
    if beat:
        return f"Of {measured.height} measured runs, {beat} {'beats' if beat == 1 else 'beat'} {named}."
    return f"No run beats {named}: none has learned anything useful yet, and their order means little. Train longer."


def _span(values: pl.Series) -> str:
    known: list[float] = values.drop_nulls().to_list()
    low, high = f"{min(known):.3f}", f"{max(known):.3f}"
    return low if low == high else f"{low} to {high}"


def _first(table: pl.DataFrame, column: str) -> float | None:
    if column not in table.columns:
        return None
    known = table[column].cast(pl.Float64, strict=False).drop_nulls().drop_nans()
    return float(known[0]) if len(known) else None


def _said(value: Any, name: str) -> str:
    if value is None or value != value:
        return "-"
    return f"{value:.0f}" if name.endswith("_mm") else f"{value:.3f}"
