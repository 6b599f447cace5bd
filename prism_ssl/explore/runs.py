"""Fetch runs and their histories, score them, find the best configurations (section 13 of the guide).

``entity`` is a W&B user or team, or ``LOCAL``; then ``project`` is a folder of run folders. Either way the tables have
the same columns: ``records.runs_table.records_table`` describes them.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl

from prism_ssl.errors import ConfigError
from prism_ssl.eval.ranking import compute_proxy_score, summarize_best_configs
from prism_ssl.records.cache import TableCache
from prism_ssl.records.history_rows import one_row_a_step
from prism_ssl.records.local import damage_in_words, local_history, local_records
from prism_ssl.records.runs_table import OF_A_RUN
from prism_ssl.records.tracked import RECORD_TTL_S, open_reader, tracked_history, tracked_records

__all__ = [
    "LOCAL", "compute_proxy_score", "damage_of", "fetch_history", "fetch_runs", "matching", "summarize_best_configs"
]  # fmt: skip

LOCAL = "local"
"""Entity that stands for the run folders of this machine."""

_AT_ONCE = 4


def fetch_runs(entity: str, project: str, filters: dict[str, Any]) -> pl.DataFrame:
    """One row a run, whatever its status; ``run`` is unique, ``fetch_history`` takes ``run_id``.

    Args:
        entity: W&B user or team ("": the account's default), or ``LOCAL``.
        project: W&B project, or a folder of run folders.
        filters: see ``matching``.

    Raises:
        TrackingError: W&B has no such project, refuses the key, or does not answer.
        ConfigError: a filter names a column that no run has.
    """
    if entity == LOCAL:
        table = local_records(Path(project))
    else:
        table = tracked_records(open_reader(), entity, project, filters, TableCache("records", ttl_s=RECORD_TTL_S))
    table = matching(table, filters)
    repeated = pl.col("run").is_duplicated()
    number = pl.concat_str(pl.lit(" ("), pl.col("run_id").str.split("/").list.last(), pl.lit(")"))
    return table.with_columns(pl.when(repeated).then(pl.col("run") + number).otherwise("run").alias("run"))


def fetch_history(run_ids: list[str], keys: list[str]) -> pl.DataFrame:
    """The histories of runs: run_id, global_step and ``keys`` (a key that a run has never logged is null).

    One row for every step of a run. Values that are not finite are null. Histories are cached below the temporary
    root, and read again once the run has continued.

    Raises:
        TrackingError: W&B does not answer.
    """
    cache = TableCache("histories")
    api = None if all(_is_local(run_id) for run_id in run_ids) else open_reader()

    def read(run_id: str) -> pl.DataFrame:
        local = _is_local(run_id)
        rows = local_history(Path(run_id), keys, cache) if local else tracked_history(api, run_id, keys, cache)
        return one_row_a_step(rows, keys).select(pl.lit(run_id).alias("run_id"), pl.all())

    with ThreadPoolExecutor(_AT_ONCE) as threads:  # a few at once: a history of 10,000 rows is 60 MB while it is parsed
        parts = list(threads.map(read, run_ids))
    empty = pl.DataFrame(schema={"run_id": pl.String, "global_step": pl.Int64} | dict.fromkeys(keys, pl.Float64))
    return pl.concat([empty, *parts], how="vertical_relaxed")


def damage_of(run_ids: Sequence[str]) -> dict[str, str]:
    """``run_id`` -> how many lines of its history cannot be read, in words; only damaged ones of this machine."""
    cache = TableCache("histories")
    told = {run_id: damage_in_words(Path(run_id), cache) for run_id in run_ids if _is_local(run_id)}
    return {run_id: words for run_id, words in told.items() if words is not None}


def matching(table: pl.DataFrame, filters: Mapping[str, Any]) -> pl.DataFrame:
    """The runs that satisfy every filter: ``{column: value}``, or ``{column: [value, ...]}`` for any of the values.

    ``tags`` is satisfied by a run that has one of them.

    Raises:
        ConfigError: no run has such a column.
    """
    for column, wanted in filters.items():
        if column not in table.columns:
            nearest = difflib.get_close_matches(column, table.columns, n=1, cutoff=0.0)
            raise ConfigError(f"no run has {column!r} to filter by; the nearest is {nearest[0]!r}")
        options = list(wanted) if isinstance(wanted, (list, tuple, set)) else [wanted]
        if isinstance(OF_A_RUN.get(column), pl.List):
            fits = [any(option in (values or []) for option in options) for values in table[column].to_list()]
        else:
            fits = [value in options for value in table[column].to_list()]
        table = table.filter(pl.Series(fits, dtype=pl.Boolean))
    return table


def _is_local(run_id: str) -> bool:
    return run_id.startswith("/")
