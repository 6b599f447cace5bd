"""Runs as a table: what their folders say, one row a run, whatever has become of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

UNREADABLE = "unreadable"
"""Status of a run whose summary is not JSON."""
UNFINISHED = "unfinished"
"""Status of a run that has no summary yet."""

_OF_A_RUN: dict[str, type[pl.DataType]] = {
    "run": pl.String,
    "run_dir": pl.String,
    "status": pl.String,
    "cause": pl.String,
    "steps_done": pl.Int64,
    "max_steps": pl.Int64,
}


def read_run_records(root: Path) -> pl.DataFrame:
    """One row for every run folder directly below ``root``, by name.

    Always there: run, run_dir, status, cause, steps_done, max_steps. Settings are columns ``section.name``, held-out
    evaluation is ``probe/...``, throughput and counters keep their names; what a run does not say is null.
    """
    folders = sorted(path.parent for path in root.glob("*/config.json") if not path.parent.name.startswith("."))
    rows = [_record(folder) for folder in folders]
    # strict=False: one run's whole number is another's fraction.
    table = pl.from_dicts(rows, infer_schema_length=None, strict=False) if rows else pl.DataFrame()
    absent = [pl.lit(None).alias(name) for name in _OF_A_RUN if name not in table.columns]
    kinds = [pl.col(name).cast(kind, strict=False) for name, kind in _OF_A_RUN.items()]
    return table.with_columns(absent).with_columns(kinds) if rows else pl.DataFrame(schema=_OF_A_RUN)


def read_run_histories(runs: pl.DataFrame, keys: Iterable[str]) -> pl.DataFrame:
    """The scalars ``keys`` of the history rows of ``runs`` (columns run and run_dir): run, global_step, keys."""
    keys = list(keys)
    rows: list[dict[str, Any]] = []
    for run, folder in runs.select("run", "run_dir").iter_rows():
        scalars = (row for row in _lines(Path(folder) / "history.jsonl") if "event" not in row)
        rows += [{"run": run} | {key: row.get(key) for key in ("global_step", *keys)} for row in scalars]
    return pl.DataFrame(
        rows,
        schema={"run": pl.String, "global_step": pl.Int64} | dict.fromkeys(keys, pl.Float64),
        strict=False,
    )


def _record(folder: Path) -> dict[str, Any]:
    settings = _json(folder / "config.json") or {}
    record = {"run": folder.name, "run_dir": str(folder), "status": UNFINISHED} | _flat(settings)
    if not (folder / "summary.json").exists():
        return record
    summary = _json(folder / "summary.json")
    if summary is None:
        return record | {"status": UNREADABLE, "cause": "summary.json is not readable JSON"}
    record |= {key: summary.get(key) for key in ("status", "cause", "steps_done", "max_steps")}
    record |= {key: value for key, value in _mapping(summary.get("totals")).items() if key not in record}
    return record | {f"probe/{key}": value for key, value in _mapping(summary.get("probe")).items()}


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``{"section.name": value}``; what is no plain value becomes JSON."""
    flat: dict[str, Any] = {}
    for section, values in settings.items():
        inner = (
            {section: values} if not isinstance(values, Mapping) else {f"{section}.{k}": v for k, v in values.items()}
        )
        flat |= {key: json.dumps(v) if isinstance(v, (list, Mapping)) else v for key, v in inner.items()}
    return flat


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a history; the last one may be cut short by a kill."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1] if line]
