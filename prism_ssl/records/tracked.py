"""Runs as Weights & Biases tells them, in the form of the local records."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import polars as pl

from prism_ssl.config.operations import TrackingConfig
from prism_ssl.config.schema import PrismConfig
from prism_ssl.errors import TrackingError
from prism_ssl.records.cache import TableCache, read_columns
from prism_ssl.records.history_rows import as_numbers
from prism_ssl.records.run_files import PROBE_PREFIX
from prism_ssl.records.runs_table import flat_settings, records_table
from prism_ssl.records.wandb_api import has_key, open_api, service_errors

OTHERWISE = "read the run folders of this machine instead"
_AT_ONCE = 8
_CONFIG = PrismConfig(tracking=TrackingConfig(mode="online", init_timeout_s=30.0))
RECORD_TTL_S = 600.0
"""The sweep's last word about a trial comes without a row of its history, so nothing else tells that it came."""
_ENDED = {"finished": "ok", "failed": "failed", "crashed": "crashed", "killed": "killed", "preempted": "interrupted"}
"""W&B's state of a run that did not live to say its own status."""
_NOT_FINITE = ("NaN", "Infinity", "-Infinity")


def account_found() -> bool:
    """Whether there is a W&B key on this machine."""
    return has_key(_CONFIG)


def open_reader() -> Any:
    """The client's reading side.

    Raises:
        TrackingError: no key, or no answer.
    """
    if not account_found():
        raise TrackingError(f"no W&B key was found; set WANDB_API_KEY, or {OTHERWISE}")
    with service_errors(OTHERWISE):
        return open_api(_CONFIG)


def tracked_records(api: Any, entity: str, project: str, filters: Mapping[str, Any], cache: TableCache) -> pl.DataFrame:
    """One row for every run of a project, newest first; ``filters`` of tags, group and name are left to the server.

    Raises:
        TrackingError: no such project, or no answer.
    """
    with service_errors(OTHERWISE):
        path = "/".join(part for part in (entity or api.default_entity, project) if part)
        runs = list(api.runs(path, filters=_server_filters(filters), order="-created_at", per_page=200))
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            records = list(threads.map(lambda run: _record(run, cache), runs))
    return records_table(records)


def tracked_history(api: Any, run_id: str, keys: Sequence[str], cache: TableCache) -> pl.DataFrame:
    """``global_step`` and the ``keys`` that the rows of a tracked run have; ``run_id`` is ``entity/project/id``.

    Raises:
        TrackingError: no such run, or no answer.
    """
    with service_errors(OTHERWISE):
        run = api.run(run_id)
        name, version = _named("history", run), _version(run)
        kept = cache.find(name, version)
        if kept is None:
            # Without keys: with them the server leaves out every row that lacks one. Its own cache is stale after a
            # resume.
            rows = [_finite(row) for row in run.scan_history(page_size=1000, use_cache=False)]
            kept = cache.keep(name, version, as_numbers(pl.DataFrame(rows, infer_schema_length=None, strict=False)))
    return read_columns(kept, {"global_step", *keys})


def _server_filters(filters: Mapping[str, Any]) -> dict[str, Any]:
    known = {"tags": "tags", "group": "group", "run": "display_name"}
    return {
        known[key]: {"$in": list(wanted) if isinstance(wanted, (list, tuple, set)) else [wanted]}
        for key, wanted in filters.items()
        if key in known
    }


def _record(run: Any, cache: TableCache) -> dict[str, Any]:
    """One run; what only the full run says is asked for once per state of it."""
    name, version = _named("record", run), _version(run)
    kept = cache.find(name, version)
    if kept is None:
        run.load_full_data()
        said = {"config": dict(run.config), "summary": _plain(run.summary_metrics)}
        kept = cache.keep(name, version, pl.DataFrame({"said": [json.dumps(said, default=str)]}))
    said = json.loads(read_columns(kept, {"said"})["said"][0])
    settings, summary = flat_settings(said["config"]), said["summary"]
    steps = summary.get("steps_done", summary.get("global_step"))
    return {
        "run": run.name,
        "run_id": "/".join(run.path),
        "status": _status(run.state, summary),
        "cause": summary.get("trial/error") or summary.get("cause"),
        "steps_done": steps if isinstance(steps, (int, float)) else None,
        "max_steps": settings.get("train.max_steps"),
        "tags": list(run.tags or []),
        "group": getattr(run, "group", None),
        **settings,
        **{key: value for key, value in summary.items() if _belongs_to_a_record(key, value)},
    }


def _status(state: str, summary: Mapping[str, Any]) -> str:
    """What the run said of itself; a run that goes on, or died without a word, is what W&B says."""
    if state == "running":
        return "running"
    said = summary.get("status")
    return said if isinstance(said, str) and said != "running" else _ENDED.get(state, state)


def _belongs_to_a_record(key: str, value: Any) -> bool:
    """Totals and held-out scalars; the summary also holds the last row of the history, and the client's own."""
    if key in ("status", "cause", "steps_done", "alarms", "global_step") or key.startswith("_"):
        return False
    number = value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
    return number and ("/" not in key or key.startswith(PROBE_PREFIX))


def _named(what: str, run: Any) -> str:
    return f"{what} {os.environ.get('WANDB_BASE_URL', '')} {'/'.join(run.path)}"


def _version(run: Any) -> str:
    """Changes whenever a run has said more."""
    said = (getattr(run, name, None) for name in ("state", "historyLineCount", "heartbeatAt"))
    return "-".join(str(each) for each in said)


def _plain(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _number(value) for key, value in dict(summary).items() if isinstance(value, (int, float, str))}


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a row, and those that W&B sends as texts as null."""
    return {
        key: _number(value) for key, value in row.items() if isinstance(value, (int, float)) or value in _NOT_FINITE
    }


def _number(value: Any) -> Any:
    if isinstance(value, str):
        return None if value in _NOT_FINITE else value
    return value if math.isfinite(value) else None
