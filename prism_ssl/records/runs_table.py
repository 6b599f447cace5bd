"""Read run folders as a table: one row per run, finished or not."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from prism_ssl.config.defaults import known_keys
from prism_ssl.config.schema import PrismConfig
from prism_ssl.records.history_file import read_scalars
from prism_ssl.records.run_files import CONFIG_FILE

UNREADABLE = "unreadable"
"""Status of a run whose summary is not JSON."""
UNFINISHED = "unfinished"
"""Status of a run that has no summary yet."""

OF_A_RUN: dict[str, pl.DataType] = {
    "run": pl.String(),
    "run_id": pl.String(),
    "run_dir": pl.String(),
    "status": pl.String(),
    "cause": pl.String(),
    "steps_done": pl.Int64(),
    "max_steps": pl.Int64(),
    "tags": pl.List(pl.String()),
    "group": pl.String(),
}
"""Columns that a table of runs always has. ``run_id`` identifies a run: its folder, or its path in W&B."""


def read_run_records(root: Path) -> pl.DataFrame:
    """One row for every run folder directly below ``root``, sorted by name; see ``records_table``."""
    return records_table([_record(folder) for folder in run_folders(root)])


def run_folders(root: Path) -> list[Path]:
    """The run folders directly below ``root``, sorted by name."""
    return sorted(path.parent for path in root.glob(f"*/{CONFIG_FILE}") if not path.parent.name.startswith("."))


def records_table(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Records of runs as a table.

    The columns ``OF_A_RUN`` always exist. Settings are columns ``section.name``, the held-out evaluation is
    ``probe/...``, throughput and counters keep their names; missing values are null.
    """
    if not rows:
        return pl.DataFrame(schema=OF_A_RUN)
    # strict=False: a column can hold an integer for one run and a float for another.
    table = pl.from_dicts(rows, infer_schema_length=None, strict=False)
    absent = [pl.lit(None).alias(name) for name in OF_A_RUN if name not in table.columns]
    table = table.with_columns(absent).with_columns(
        pl.col(name).cast(kind, strict=False) for name, kind in OF_A_RUN.items()
    )
    return table.select(*OF_A_RUN, pl.exclude(*OF_A_RUN)).with_columns(_floats(table))


def _floats(table: pl.DataFrame) -> list[pl.Expr]:
    """Integer columns that should be float: W&B returns 1.0 as 1. Measured values, and settings with float defaults."""
    whole = {key for key, default in known_keys(PrismConfig()).items() if not isinstance(default, float)}
    numbers = [name for name, kind in table.schema.items() if kind.is_integer() and name not in OF_A_RUN]
    return [pl.col(name).cast(pl.Float64) for name in numbers if name not in whole]


def read_run_histories(runs: pl.DataFrame, keys: Iterable[str]) -> pl.DataFrame:
    """The scalars ``keys`` of the history rows of ``runs`` (columns run and run_dir): run, global_step, keys."""
    keys = list(keys)
    empty = pl.DataFrame(schema={"run": pl.String, "global_step": pl.Int64} | dict.fromkeys(keys, pl.Float64))
    parts = [empty]
    for run, folder in runs.select("run", "run_dir").iter_rows():
        rows = read_scalars(Path(folder)).rows
        absent = [pl.lit(None, pl.Float64).alias(key) for key in keys if key not in rows.columns]
        parts.append(rows.with_columns(pl.lit(run).alias("run"), *absent).select(empty.columns))
    return pl.concat(parts)


def damaged_histories(runs: pl.DataFrame) -> list[str]:
    """A sentence for each of ``runs`` (columns run and run_dir) with history lines that cannot be read."""
    damages = [
        (run, read_scalars(Path(folder)).damage_in_words()) for run, folder in runs.select("run", "run_dir").rows()
    ]
    return [f"{run}: {words}." for run, words in damages if words is not None]


def _record(folder: Path) -> dict[str, Any]:
    settings = _json(folder / CONFIG_FILE) or {}
    tracking = _mapping(settings.get("tracking"))
    record = {
        "run": folder.name,
        "run_id": str(folder.absolute()),
        "run_dir": str(folder),
        "status": UNFINISHED,
        "tags": list(tracking.get("tags") or []),
        "group": tracking.get("group"),
    } | flat_settings(settings)
    if not (folder / "summary.json").exists():
        return record
    summary = _json(folder / "summary.json")
    if summary is None:
        return record | {"status": UNREADABLE, "cause": "summary.json is not readable JSON"}
    record |= {key: summary.get(key) for key in ("status", "cause", "steps_done", "max_steps")}
    record |= {key: value for key, value in _mapping(summary.get("totals")).items() if key not in record}
    return record | {f"probe/{key}": value for key, value in _mapping(summary.get("probe")).items()}


def flat_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``{"section.name": value}``; lists and mappings become JSON."""
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
