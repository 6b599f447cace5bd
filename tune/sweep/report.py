"""Report at the end of a sweep: ranking as files and table, trials left to run, recommended settings."""

from __future__ import annotations

from typing import Any

import polars as pl
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from prism_ssl.eval.quality.evidence import evidence_of_runs
from prism_ssl.eval.ranking import (
    PROBE_KEYS,
    QUALITY,
    QUALITY_HIGH,
    QUALITY_LOW,
    THROUGHPUT,
    compute_proxy_score,
    recommended_command,
    with_differences,
)
from prism_ssl.records.runs_table import damaged_histories, read_run_histories, read_run_records
from prism_ssl.report.ranking_report import TEXT_FILE, recommendation_in_words, write_ranking
from tune.core24 import SCALED_LEVELS
from tune.sweep.folder import Sweep

_BEST_FIRST = "best first: proxy quality on held-out scans (95 % over patients, not seeds), then patches/s"


def conclude(sweep: Sweep, console: Console) -> None:
    """Rank all runs of the sweep's folder, and print failures, trials left to run, and the recommended command."""
    runs = read_run_records(sweep.folder)
    scored = compute_proxy_score(runs, read_run_histories(runs, PROBE_KEYS))
    scored = with_differences(scored, evidence_of_runs(runs), sweep.base.eval)
    ranked = write_ranking(sweep.folder, scored, [*_notes(sweep), *damaged_histories(runs)])
    if not ranked.is_empty():
        console.print(_BEST_FIRST, style="italic", highlight=False)
        console.print(_table(ranked))
    for run in scored.filter(pl.col("status") != "ok").iter_rows(named=True):
        say(console, f"{run['run']} {run['status']}: {run['cause'] or 'no cause was recorded'}", style="red")
    pending = sweep.pending()
    if pending:
        say(console, f"{len(pending)} of {len(sweep.points)} trials have not ended ok", style="red")
        say(console, "run the same command again to resume them at their checkpoints; finished trials are left alone")
    command = recommended_command(scored)
    if command is not None:
        say(console, f"recommended: {command}")
        console.print(" ".join(recommendation_in_words(scored)), markup=False, highlight=False)
    say(console, f"ranking: {sweep.folder / TEXT_FILE}")


def say(console: Console, text: str, style: str = "") -> None:
    """Print a line without markup or wrapping."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _notes(sweep: Sweep) -> list[str]:
    notes = []
    if sweep.design == "half":
        notes.append(
            "Design: half fraction of 48 cells. The objective is aliased with the interaction of batch, pool and ramp, "
            "and with no lower-order effect."
        )
    if sweep.scale == "smoke":
        scaled = "; ".join(
            f"{key} {', '.join(f'{real} -> {tiny}' for real, tiny in levels.items())}"
            for key, levels in SCALED_LEVELS.items()
        )
        notes.append(
            f"Smoke scale: this shows that the code works, not which factors matter. Runs are named by the guide's "
            f"levels, but use: {scaled}."
        )
    if len(sweep.archives()) > 1:
        counts = [(archive["scans_training"], archive["scans_held_out"]) for archive in sweep.archives()]
        told = ", then ".join(f"{training} to train on and {held_out} held out" for training, held_out in counts)
        notes.append(f"The scans changed between attempts ({told}): runs before and after are not strictly comparable.")
    return notes


def _table(ranked: pl.DataFrame) -> Table:
    table = Table()
    for column in ("rank", "trial", "status", "proxy quality", "patches/s"):
        table.add_column(column, justify="left" if column in ("trial", "status") else "right", no_wrap=True)
    for run in ranked.iter_rows(named=True):
        known = run[QUALITY] is not None and run[QUALITY_LOW] is not None
        interval = f" ({run[QUALITY_LOW]:.3f} to {run[QUALITY_HIGH]:.3f})" if known else ""
        table.add_row(
            str(run["rank"]),
            escape(run["run"]),
            f"[{'green' if run['status'] == 'ok' else 'red'}]{run['status']}[/]",
            _said(run[QUALITY], "{:.3f}") + interval,
            _said(run[THROUGHPUT], "{:,.0f}"),
        )
    return table


def _said(value: Any, form: str) -> str:
    return "-" if value is None else form.format(value)
