"""Files of the ranking: ranking.parquet for further analysis, ranking.md to read, ranking.png to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from prism_ssl.eval.ranking import (
    BEHIND,
    BEHIND_HIGH,
    BEHIND_LOW,
    INTERVAL_IN_WORDS,
    NOT_PAIRED,
    QUALITY,
    QUALITY_HIGH,
    QUALITY_LOW,
    THROUGHPUT,
    UNRECORDED,
    factor_effects,
    is_paired,
    left_out_in_words,
    never_began,
    rank_runs,
    recommendation,
    recommended_command,
)
from prism_ssl.report.ranking_evidence import beside_untrained, evidence_rows
from prism_ssl.report.ranking_plot import ranking_plot
from prism_ssl.utils.fs import write_atomic

_NAMED = 3
"""Most runs that a sentence names."""
_UNMEASURED = "ok run without a measured quality ranks", "ok runs without a measured quality rank"
_NEVER_BEGAN = "run ended before its first step and is left out", "runs ended before their first step and are left out"
_PAIRED = (
    "Behind the best: the quality of the best run less the run's, patient by patient, with a 95 % interval that holds "
    "for all pairs of runs at once. Where it contains 0, the run is not shown to be worse than the best one."
)
TABLE_FILE, TEXT_FILE, PLOT_FILE = "ranking.parquet", "ranking.md", "ranking.png"


def write_ranking(folder: Path, scored: pl.DataFrame, notes: Sequence[str] = ()) -> pl.DataFrame:
    """Rank ``compute_proxy_score``'s table, write the three files to ``folder``, and return the ranked table.

    ``notes``: remarks on the design for the reader, a sentence each. Without any measured quality there is no plot,
    and one of an earlier call is removed.
    """
    ranked = rank_runs(scored)
    effects = {response: factor_effects(scored, response) for response in (QUALITY, THROUGHPUT)}
    ranked.write_parquet(folder / TABLE_FILE)
    text = _text(scored, ranked, never_began(scored), effects, recommended_command(scored), notes)
    write_atomic(folder / TEXT_FILE, text.encode())
    (folder / PLOT_FILE).unlink(missing_ok=True)
    if ranked[QUALITY].count():
        ranking_plot(ranked, effects[QUALITY]).save(folder / PLOT_FILE, ppi=150)
    return ranked


def _text(
    scored: pl.DataFrame,
    ranked: pl.DataFrame,
    left_out: pl.DataFrame,
    effects: dict[str, pl.DataFrame],
    command: str | None,
    notes: Sequence[str],
) -> str:
    ok = ranked.filter(pl.col("status") == "ok")
    unmeasured = len(ok) - ok[QUALITY].count()
    parts = [
        "# Ranking",
        f"{_counted(len(ranked), 'run', 'runs')}: {len(ok)} ok, {len(ranked) - len(ok)} not"
        + (f"; {_counted(unmeasured, *_UNMEASURED)} after the others" if unmeasured else "")
        + ". Best first: proxy quality on held-out scans (0 is chance, 1 perfect; 95 % interval over patients), then "
        "throughput with every step of 2 s or more counted as lost (10 s or more: as five). "
        "Runs that did not end ok come last.",
        INTERVAL_IN_WORDS,
        *([f"{_counted(left_out.height, *_NEVER_BEGAN)}."] if left_out.height else []),
        *notes,
        "## Recommendation",
        _recommendation(scored, command),
        "## Runs",
        _runs_table(ranked),
        *_evidence(ranked),
        *_causes(ranked, left_out),
        "## Main effects on proxy quality",
        "Deviation of a level from its factor's mean, with the other factors held fixed (least squares; 95 % "
        "Student's t interval). An interval that contains 0 is no evidence of an effect.",
        *([said] if (said := left_out_in_words(scored)) else []),
        _effects_table(effects[QUALITY], "{:+.4f}"),
        "## Main effects on throughput (patches/s)",
        _effects_table(effects[THROUGHPUT], "{:+,.0f}"),
    ]
    return "\n\n".join(parts) + "\n"


def _recommendation(scored: pl.DataFrame, command: str | None) -> str:
    if command is None:
        return "None: no run that ended ok has a measured proxy quality."
    return f"```\n{command}\n```\n\n{' '.join(recommendation_in_words(scored))}"


def recommendation_in_words(scored: pl.DataFrame) -> list[str]:
    """What the recommended command rests on, a sentence each; for a table of which a run has a measured quality."""
    ranked, fitted = rank_runs(scored), recommendation(scored)
    if fitted is None:
        words = ["The command has the settings with the highest mean quality; these runs allow no fit of the factors."]
    else:
        words = [
            f"The command has the levels with the highest fitted quality: {fitted.fitted:.3f} (95 % interval "
            f"{fitted.low:.3f} to {fitted.high:.3f}; main effects of {fitted.runs} runs that ended ok).",
            f"The best measured run, {fitted.best_run}, has other levels: the best of many measurements is partly luck."
            if fitted.differs
            else "The best measured run has the same levels.",
        ]
        words += [said] if (said := left_out_in_words(scored)) else []
        if fitted.status is None:
            words.append("No run had exactly these levels.")
        elif fitted.status != "ok":
            words.append(f"The run of these levels did not end ok ({fitted.status}): look at its cause first.")
    untrained = beside_untrained(ranked)
    return [*words, _others(ranked), *([untrained] if untrained is not None else [])]


def _others(ranked: pl.DataFrame) -> str:
    """How many runs are not shown to be worse than the best one."""
    ok = ranked.filter(pl.col("status") == "ok", pl.col(QUALITY).is_not_null())
    near, unknown = ok["near_best"].sum() - 1, ok["near_best"].null_count()
    if near < 0:
        return "The runs have no intervals, so nothing says which of them are as good as the best one."
    if unknown and unknown == len(ok) - 1:
        return " ".join(["No run could be compared with the best one.", *_not_paired(ok)])
    how = "paired over patients" if is_paired(ranked) else "by their intervals"
    others = _counted(int(near), "other run is", "other runs are") if near > 0 else "no other run is"
    return " ".join([f"Compared {how}, {others} as good as the best one within the doubt.", *_not_paired(ok)])


def _not_paired(ok: pl.DataFrame) -> list[str]:
    """Which runs were not compared patient by patient, and what the comparison of the others takes for granted."""
    if not is_paired(ok):
        without = ok["near_best"].null_count()
        which = _counted(without, "run has no interval and was", "runs have no interval and were")
        return [f"{which} not compared."] if without else []
    apart = ok.filter(pl.col(NOT_PAIRED).is_not_null()).group_by(NOT_PAIRED, maintain_order=True).agg("run")
    told = [f"{_names(runs)} ({why})" for why, runs in apart.iter_rows()]
    words = [f"Not compared: {'; '.join(told)}."] if told else []
    if count := int(ok[UNRECORDED].sum()):
        of = _counted(count, "run is", "runs are")
        words.append(f"The evaluation settings of {of} not recorded (an earlier version): they count as equal.")
    return words


def _names(runs: Sequence[str]) -> str:
    return ", ".join(runs[:_NAMED]) + (f" and {len(runs) - _NAMED} more" if len(runs) > _NAMED else "")


def _runs_table(ranked: pl.DataFrame) -> str:
    paired = is_paired(ranked)
    rows = [
        (
            run["rank"],
            run["run"],
            run["status"],
            _interval(run[QUALITY], run[QUALITY_LOW], run[QUALITY_HIGH], "{:.3f}"),
            *([_behind(run)] if paired else []),
            _said(run[THROUGHPUT], "{:,.0f}"),
            f"{_said(run['steps_done'], '{}')}/{_said(run['max_steps'], '{}')}",
        )
        for run in ranked.iter_rows(named=True)
    ]
    behind = ("behind the best",) if paired else ()
    table = _table(("rank", "run", "status", "proxy quality", *behind, "patches/s after stalls", "steps"), rows)
    return f"{_PAIRED}\n\n{table}" if paired else table


def _behind(run: Mapping[str, Any]) -> str:
    """How far a run is behind the best one of a paired ranking."""
    if run["rank"] == 1:
        return "the best"
    if run[BEHIND] is None:
        return "not compared" if run["status"] == "ok" else "-"
    return _interval(run[BEHIND], run[BEHIND_LOW], run[BEHIND_HIGH], "{:.3f}")


def _evidence(ranked: pl.DataFrame) -> list[str]:
    header, rows = evidence_rows(ranked)
    said = (
        "Recall@1 of the same place in another series of the patient, recall@1 of the same series and mean sign "
        "skill, compared with what is reached without training. A run that does not beat random weights and pixel "
        "statistics has learned nothing useful."
    )
    return ["## Quality in parts, with untrained baselines", said, _table(header, rows)] if rows else []


def _causes(*tables: pl.DataFrame) -> list[str]:
    """Why runs did not end ok; below the table, because a cause is too long for a cell."""
    ended = [(run["run"], run["status"], run["cause"] or "no cause was recorded") for table in tables for run in
             table.filter(pl.col("status") != "ok").iter_rows(named=True)]  # fmt: skip
    lines = [f"- {name}, {status}: {' '.join(cause.split())}" for name, status, cause in ended]
    return ["## Runs that did not end ok", "\n".join(lines)] if lines else []


def _effects_table(effects: pl.DataFrame, form: str) -> str:
    if effects.is_empty():
        return "Not estimable: no factor has two levels with measured runs."
    rows = [
        (e["factor"], e["level"], e["runs"], _interval(e["effect"], e["low"], e["high"], form))
        for e in effects.iter_rows(named=True)
    ]
    return _table(("factor", "level", "runs", "effect"), rows)


def _interval(value: float | None, low: float | None, high: float | None, form: str) -> str:
    if value is None:
        return "-"
    if low is None or high is None:
        return f"{form.format(value)} (no interval)"
    return f"{form.format(value)} ({form.format(low)} to {form.format(high)})"


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _said(value: Any, form: str) -> str:
    return "-" if value is None else form.format(value)


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
