"""Read runs and their histories from Weights & Biases, in the form of the local records."""

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
"""A sweep's note on a trial's end adds no history row, so the version of the run does not show it."""
_ENDED = {"finished": "ok", "failed": "failed", "crashed": "crashed", "killed": "killed", "preempted": "interrupted"}
"""Status for W&B's state of a run, where the run did not write its own status."""
_NOT_FINITE = ("NaN", "Infinity", "-Infinity")


def account_found() -> bool:
    """Whether there is a W&B key on this machine."""
    return has_key(_CONFIG)


def open_reader() -> Any:
    """The W&B API client.

    Raises:
        TrackingError: there is no key, or the server does not answer.
    """
    if not account_found():
        raise TrackingError(f"no W&B key was found; set WANDB_API_KEY, or {OTHERWISE}")
    with service_errors(OTHERWISE):
        return open_api(_CONFIG)


def tracked_records(api: Any, entity: str, project: str, filters: Mapping[str, Any], cache: TableCache) -> pl.DataFrame:
    """One row for every run of a project, newest first; the server applies ``filters`` of tags, group and name.

    Raises:
        TrackingError: there is no such project, or the server does not answer.
    """
    with service_errors(OTHERWISE):
        path = "/".join(part for part in (entity or api.default_entity, project) if part)
        runs = list(api.runs(path, filters=_server_filters(filters), order="-created_at", per_page=200))
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            records = list(threads.map(lambda run: _record(run, cache), runs))
    return records_table(records)


def tracked_history(api: Any, run_id: str, keys: Sequence[str], cache: TableCache) -> pl.DataFrame:
    """``global_step`` and the available ``keys`` of a tracked run's history; ``run_id`` is ``entity/project/id``.

    Raises:
        TrackingError: there is no such run, or the server does not answer.
    """
    with service_errors(OTHERWISE):
        run = api.run(run_id)
        name, version = _named("history", run), _version(run)
        kept = cache.find(name, version)
        if kept is None:
            # Without keys: with them the server leaves out every row that lacks one. The client's cache is stale after
            # a resume.
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
    """One run as a record; its full data is loaded once per version of the run."""
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
    """The status that the run wrote; for a run that is running, or died without one, W&B's state."""
    if state == "running":
        return "running"
    said = summary.get("status")
    return said if isinstance(said, str) and said != "running" else _ENDED.get(state, state)


def _belongs_to_a_record(key: str, value: Any) -> bool:
    """Whether a value is a total or a held-out scalar; W&B's summary also has the last history row and its own keys."""
    if key in ("status", "cause", "steps_done", "alarms", "global_step") or key.startswith("_"):
        return False
    number = value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
    return number and ("/" not in key or key.startswith(PROBE_PREFIX))


def _named(what: str, run: Any) -> str:
    return f"{what} {os.environ.get('WANDB_BASE_URL', '')} {'/'.join(run.path)}"


def _version(run: Any) -> str:
    """A text that changes whenever the run has new data."""
    said = (getattr(run, name, None) for name in ("state", "historyLineCount", "heartbeatAt"))
    return "-".join(str(each) for each in said)


def _plain(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _number(value) for key, value in dict(summary).items() if isinstance(value, (int, float, str))}


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a row; NaN and infinity, which W&B sends as texts, become None."""
    return {
        key: _number(value) for key, value in row.items() if isinstance(value, (int, float)) or value in _NOT_FINITE
    }


def _number(value: Any) -> Any:
    if isinstance(value, str):
        return None if value in _NOT_FINITE else value
    return value if math.isfinite(value) else None
