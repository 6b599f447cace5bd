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


def _first(table: pl.DataFrame, column: str) -> float | None:
    if column not in table.columns:
        return None
    known = table[column].cast(pl.Float64, strict=False).drop_nulls().drop_nans()
    return float(known[0]) if len(known) else None


def _said(value: Any, name: str) -> str:
    if value is None or value != value:
        return "-"
    return f"{value:.0f}" if name.endswith("_mm") else f"{value:.3f}"
