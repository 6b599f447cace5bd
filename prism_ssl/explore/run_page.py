"""One run: what is wrong with it, in words, what it measured, and its settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

import polars as pl

from prism_ssl.eval.ranking import (
    BEHIND,
    BEHIND_HIGH,
    BEHIND_LOW,
    NOT_PAIRED,
    QUALITY,
    QUALITY_HIGH,
    QUALITY_LOW,
    THROUGHPUT,
)
from prism_ssl.explore.alarm_view import alarm_spans, doubts
from prism_ssl.explore.representation_view import MEASURES, values_of
from prism_ssl.report.held_out_tables import measures

Weight = Literal["danger", "warn", "info"]

MUCH_WAITING = 0.25
"""Share of the steps' time above which waiting for data is called wrong."""
SHARE_STALLED = 0.001
"""Share of stalled steps above which stalls are called wrong; fewer are told as a remark."""

_CAUSES = {
    "opening": "scans opening: slow storage, or too small a pool (data.warm_pool_size)",
    "sampling": "sampling: too few pool actors",
    "transport": "transport: the object store",
}
_COUNTED = {
    "replacement_failed_count": ("replacement of a scan failed", "replacements of scans failed"),
    "actor_restarts": ("pool actor was started again", "pool actors were started again"),
    "nonfinite_skipped_steps": (
        "step was skipped, because its loss was not finite", "steps were skipped, because their losses were not finite"
    ),
}  # fmt: skip
_JUDGED = {("recall_at_1", "random weights")} | {
    ("place_recall_at_1", what) for what in ("chance", "random weights", "pixel statistics")
}
"""Comparisons that ``held_out_tables.verdict`` makes, with intervals where there are any."""
_MM = "_mm"
_DOTS: Mapping[Weight, str] = {"danger": "#d62728", "warn": "#ef8a17", "info": "#888888"}


@dataclass(frozen=True)
class Finding:
    """A sentence on a run; ``weight``: danger (the run cannot be used as it is), warn (look at it), info."""

    weight: Weight
    text: str


def findings(scored: pl.DataFrame, run: str, history: pl.DataFrame, damage: str | None = None) -> list[Finding]:
    """What is wrong with a run, the worst first; nothing where the record shows no fault.

    Args:
        scored: the table of runs.
        run: its name in the table.
        history: ``session.curves_of`` the run.
        damage: what of its history cannot be read, in words.
    """
    rows = scored.filter(pl.col("run") == run).rows(named=True)
    if not rows:
        return []
    row = rows[0]
    found = [*_end(row), *_alarms(history.filter(pl.col("run") == run)), *_held_out(row)]
    found += [Finding("warn", _sentence(text.removeprefix(f"{run}: "))) for text in doubts(scored, [run])]
    found += [*_waits(row), *_counters(row)]
    found += [] if damage is None else [Finding("warn", _sentence(damage))]
    found += _rank(row)
    order: list[Weight] = ["danger", "warn", "info"]
    return sorted(found, key=lambda each: order.index(each.weight))


def in_words(found: Sequence[Finding]) -> str:
    """Findings in Markdown, each behind a dot: red for danger, orange for a warning, grey for a remark."""
    dots = (f'<span style="color:{_DOTS[each.weight]}">&#9679;</span>&ensp;{escape(each.text)}' for each in found)
    wrong = any(each.weight != "info" for each in found)
    return "<br>".join([*([] if wrong else ["The record shows nothing wrong."]), *dots])


def measures_table(scored: pl.DataFrame, run: str) -> pl.DataFrame:
    """The held-out measures of a run as text: reached, chance, random weights, pixel statistics, spacing alone."""
    rows = scored.filter(pl.col("run") == run).rows(named=True)
    probe = {
        name.removeprefix("probe/"): value
        for name, value in (rows[0] if rows else {}).items()
        if name.startswith("probe/") and isinstance(value, (int, float)) and math.isfinite(value)
    }
    named = {row[0].strip().removesuffix(" (see below)"): row[1:] for row in measures(probe)}
    columns = ("measure", "reached", "chance", "random weights", "pixel statistics", "spacing alone")
    beside = [
        (each.words, f"{probe[each.name]:.2f}") for each in MEASURES if each.chance is None and each.name in probe
    ]
    lines = [(words, *values) for words, values in named.items()] + [(*each, "", "", "", "") for each in beside]
    return pl.DataFrame(lines, schema=dict.fromkeys(columns, pl.String), orient="row")


def differing_settings(scored: pl.DataFrame, run: str) -> pl.DataFrame:
    """The settings in which the runs of the table differ: this run's values, and how many runs share each."""
    rows = scored.filter(pl.col("run") == run)
    names = [
        name for name in scored.columns
        if "." in name and "/" not in name and not name.startswith(("run.", "tracking."))
        and scored[name].n_unique() > 1
    ]  # fmt: skip
    lines = []
    for name in sorted(names) if rows.height else ():
        value = rows[name][0]
        same = scored.filter(pl.col(name).eq_missing(pl.lit(value, scored.schema[name]))).height
        lines.append((name, "-" if value is None else str(value), f"{same} of {scored.height}"))
    return pl.DataFrame(lines, schema=dict.fromkeys(("setting", "value", "runs with it"), pl.String), orient="row")


def in_short(scored: pl.DataFrame, run: str) -> str:
    """A run in one sentence: how far it came, its quality and throughput."""
    rows = scored.filter(pl.col("run") == run).rows(named=True)
    if not rows:
        return ""
    row = rows[0]
    parts = [f"{row['status']}, {_progress(row)}"]
    if row.get(QUALITY) is not None:
        low, high = row.get(QUALITY_LOW), row.get(QUALITY_HIGH)
        between = "" if low is None or high is None else f" (95 % interval {low:.3f} to {high:.3f})"
        parts.append(f"proxy quality {row[QUALITY]:.3f}{between}")
    if row.get(THROUGHPUT) is not None:
        parts.append(f"{row[THROUGHPUT]:,.0f} patches/s after stalls")
    return "; ".join(parts) + "."


# ---------------------------------------------------------------------- sentences
def _progress(row: Mapping[str, Any]) -> str:
    done, most = row.get("steps_done"), row.get("max_steps") or row.get("train.max_steps")
    if done is None:
        return "no step recorded"
    return f"step {done:,}" + ("" if most is None else f" of {most:,}")


def _end(row: Mapping[str, Any]) -> list[Finding]:
    status, at = row["status"], _progress(row)
    if status == "ok":
        return (
            []
            if row.get(QUALITY) is not None
            else [Finding("warn", "It has no held-out quality: it ranks behind the measured runs.")]
        )
    if status == "running":
        return [Finding("info", f"It is running ({at}); its summary comes at its end.")]
    if status == "unfinished":
        words = f"It left no summary ({at}): it was killed, or it has just begun. The same command resumes it."
        return [Finding("danger", words)]
    cause = " ".join(str(row.get("cause") or "no cause was recorded").split())
    return [Finding("danger", f"It did not end ok ({status}, {at}). Cause: {cause}")]


def _alarms(history: pl.DataFrame) -> list[Finding]:
    found = []
    for span in alarm_spans(history).iter_rows(named=True):
        means = f": {span['means']}" if span["means"] else ""
        if span["over"]:
            words = f"Alarm {span['alarm']} from step {span['from']:,} to {span['to']:,}, over now{means}."
        else:
            words = f"Alarm {span['alarm']} since step {span['from']:,}, still raised at step {span['to']:,}{means}."
        found.append(Finding("info" if span["over"] else "warn", words))
    return found


def _held_out(row: Mapping[str, Any]) -> list[Finding]:
    """Measures that are no better than chance, or than what is reached without training."""
    found = []
    for measure in MEASURES:
        values = values_of(row, measure)
        sign = -1 if measure.name.endswith(_MM) else 1
        if "reached" not in values or measure.chance is None or sign * values["reached"] >= 1:  # 1 is perfect
            continue
        beaten_by = [
            f"{what} ({value:.2f})" for what, value in values.items()
            if what != "reached" and sign * values["reached"] <= sign * value and (measure.name, what) not in _JUDGED
        ]  # fmt: skip
        if beaten_by:
            words = f"Held out, {measure.words}: {values['reached']:.2f} is no better than {' or '.join(beaten_by)}."
            found.append(Finding("warn", words))
    if (rank := row.get("probe/rankme")) is not None and rank < 2:
        found.append(Finding("danger", f"RankMe is {rank:.1f}: the embeddings have collapsed to one direction."))
    return found


def _waits(row: Mapping[str, Any]) -> list[Finding]:
    found = []
    steps = row.get("steps_timed") or row.get("steps_done")
    stalls, long = (row.get(f"stall_steps_ge_{limit}ms") or 0 for limit in (2000, 10000))
    if stalls:
        share = f" ({stalls / steps:.1%} of all)" if steps else ""
        words = f"{_count(stalls, 'step', 'steps')} took 2 s or more{share}"
        words += f", {long:.0f} of them 10 s or more." if long else "."
        found.append(Finding("warn" if steps and stalls / steps > SHARE_STALLED else "info", words))
    waited = row.get("data_wait_share")
    if waited is not None and waited > MUCH_WAITING:
        totals = {words: row.get(f"data_wait_{key}_ms_total") or 0 for key, words in _CAUSES.items()}
        cause = max(totals, key=lambda words: totals[words])
        mostly = f", most of it for {cause}" if totals[cause] else ""
        found.append(Finding("warn", f"It waited for data for {waited:.0%} of the time{mostly}."))
    return found


def _counters(row: Mapping[str, Any]) -> list[Finding]:
    counts = {words: row.get(key) or 0 for key, words in _COUNTED.items()}
    return [Finding("warn", f"{_count(number, *words)}.") for words, number in counts.items() if number]


def _rank(row: Mapping[str, Any]) -> list[Finding]:
    if (why := row.get(NOT_PAIRED)) is not None:
        return [Finding("info", f"It is not compared with the best run patient by patient: {why}.")]
    behind, low, high = (row.get(key) for key in (BEHIND, BEHIND_LOW, BEHIND_HIGH))
    if behind is None or low is None or high is None or low <= 0:
        return []
    words = f"It is {behind:.3f} behind the best run in proxy quality (95 % interval {low:.3f} to {high:.3f})."
    return [Finding("info", words)]


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _count(number: float, one: str, many: str) -> str:
    return f"{number:,.0f} {one if number == 1 else many}"
