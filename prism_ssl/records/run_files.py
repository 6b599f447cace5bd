"""The record of a run: config.json, history.jsonl and summary.json in the run folder."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prism_ssl.config.defaults import config_from_dict
from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import RunSummary
from prism_ssl.errors import RunFolderError
from prism_ssl.utils.fs import write_atomic
from prism_ssl.utils.json_lines import LineWriter, read_lines

CONFIG_FILE, HISTORY_FILE, SUMMARY_FILE = "config.json", "history.jsonl", "summary.json"
CHECKPOINT_FILE = "last.ckpt"
LINEAGE_FILE = "lineage.json"
PROBE_PREFIX = "probe/"


class LocalRecord:
    """Appends rows to history.jsonl and flushes each, so that they survive a kill.

    A row is a flat dictionary with the key ``global_step``, or an event with the key ``event``. A held-out evaluation
    is a separate row with ``probe/`` scalars only (see ``is_probe``).
    """

    def __init__(self, run_dir: Path) -> None:
        self._history = LineWriter(run_dir / HISTORY_FILE)

    def row(self, global_step: int, values: dict[str, float]) -> None:
        """Append one row of scalars; values that are not finite are written as null."""
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._history.append({"global_step": global_step, **finite})

    def event(self, global_step: int, kind: str, text: str) -> None:
        """Append an event that the user should see: an alarm, a restart, a quarantined scan."""
        self._history.append({"event": kind, "global_step": global_step, "text": text})

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._history.close()


def settings_of_run(run_dir: Path, advice: str = "needed: the folder of a run") -> PrismConfig:
    """The settings of a run.

    Raises:
        RunFolderError: there are none, or none of this version; its text ends with ``advice``.
    """
    path = run_dir / CONFIG_FILE
    try:
        return config_from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:  # ConfigError is a ValueError
        raise RunFolderError(f"{path} cannot be read ({error}); {advice}") from error


def read_history(run_dir: Path) -> list[dict[str, Any]]:
    """All complete lines of history.jsonl in order; lines cut off by a kill or a full disk are left out."""
    return read_lines(run_dir / HISTORY_FILE, "global_step").rows


def read_lineage(run_dir: Path) -> dict[str, Any] | None:
    """Where the run's first weights come from, see ``train.resume.initial_weights``; None: they are random."""
    path = run_dir / LINEAGE_FILE
    try:
        lineage: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    except ValueError as error:
        raise RunFolderError(f"{path} cannot be read ({error}); restore it, or choose another --run.name") from error
    return lineage


def is_probe(row: Mapping[str, Any]) -> bool:
    """Whether a row of the history is a held-out evaluation."""
    return any(key.startswith(PROBE_PREFIX) for key in row)


def last_probe(history: list[dict[str, Any]]) -> dict[str, float]:
    """The scalars of the last evaluation without their prefix; null values are left out."""
    row: dict[str, Any] = next(filter(is_probe, reversed(history)), {})
    return {
        key.removeprefix(PROBE_PREFIX): value
        for key, value in row.items()
        if key.startswith(PROBE_PREFIX) and value is not None
    }


def truncate_history(run_dir: Path, last_step: int) -> int:
    """Drop damaged lines, and the rows after ``last_step``, which a resumed run writes again.

    Returns the number of damaged lines.
    """
    history = read_lines(run_dir / HISTORY_FILE, "global_step")
    kept = [row for row in history.rows if row["global_step"] <= last_step]
    write_atomic(run_dir / HISTORY_FILE, "".join(json.dumps(row) + "\n" for row in kept).encode())
    return history.damaged


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically."""
    write_atomic(path, (json.dumps(value, indent=2, sort_keys=False, default=str) + "\n").encode())


def write_summary(summary: RunSummary) -> None:
    """Write ``summary.json`` in the run folder; as in the history, values that are not finite are written as null.

    Raises:
        RunFolderError: it cannot be written; the text says how the run ended.
    """
    path = Path(summary.run_dir) / SUMMARY_FILE
    try:
        write_json(path, _finite(dataclasses.asdict(summary)))
    except OSError as error:
        raise RunFolderError(
            f"{path} cannot be written ({error.strerror or error}); make room there. Run {summary.run} is "
            f"{summary.status} at step {summary.steps_done}" + (f": {summary.cause}" if summary.cause else "")
        ) from error


def _finite(value: Any) -> Any:
    """``value`` with None in place of every NaN and infinity, at any depth."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def restarts_so_far(run_dir: Path) -> int:
    """Number of restarts after a broken scan, from the folder's last summary."""
    summary = read_summary(run_dir)
    return summary.restarts if summary is not None else 0


def read_summary(run_dir: Path) -> RunSummary | None:
    """The summary of a run folder; None before the first is written.

    Raises:
        RunFolderError: the file cannot be read by this version.
    """
    path = run_dir / SUMMARY_FILE
    if not path.exists():
        return None
    try:
        return RunSummary(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise RunFolderError(f"{path} cannot be read ({error}); move the folder away, or pass --run.name") from error
