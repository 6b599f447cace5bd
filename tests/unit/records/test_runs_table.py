"""Run folders as a table: every folder a row, whatever state it was left in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prism_ssl.config.defaults import core24_smoke, phantom_cpu
from prism_ssl.records.runs_table import read_run_histories, read_run_records

OK = {
    "run": "good", "status": "ok", "cause": None, "steps_done": 12, "max_steps": 12, "resumed_from_step": None,
    "totals": {"throughput_effective_patches_per_sec": 900.5, "stall_steps_ge_2000ms": 1},
    "probe": {"proxy_quality": 0.4, "proxy_quality_low": 0.3, "proxy_quality_high": 0.5},
}  # fmt: skip


def folder(root: Path, name: str, config: Any, summary: Any = None, history: str = "") -> Path:
    path = root / name
    path.mkdir()
    (path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    if summary is not None:
        (path / "summary.json").write_text(summary if isinstance(summary, str) else json.dumps(summary))
    (path / "history.jsonl").write_text(history)
    return path


def test_every_folder_is_a_row_whatever_it_lacks(tmp_path: Path) -> None:
    folder(tmp_path, "a-ok", core24_smoke().to_dict(), OK)
    failed = OK | {"status": "failed", "cause": "PoolActorDied: pool actor 1", "totals": {}, "probe": {}}
    folder(tmp_path, "b-failed", phantom_cpu().to_dict(), failed)
    folder(tmp_path, "c-running", {"recipe": "x"}, {"status": "running", "totals": None, "steps_done": 3})
    folder(tmp_path, "d-killed-early", {})
    folder(tmp_path, "e-torn", "{", '{"status": "ok"')
    folder(tmp_path, ".preflight", {}, OK)
    (tmp_path / "ranking.md").touch()

    table = read_run_records(tmp_path)
    assert table["run"].to_list() == ["a-ok", "b-failed", "c-running", "d-killed-early", "e-torn"]
    assert table["status"].to_list() == ["ok", "failed", "running", "unfinished", "unreadable"]
    assert table["cause"].to_list()[1] == "PoolActorDied: pool actor 1"
    assert table["steps_done"].to_list() == [12, 12, 3, None, None]
    assert table["train.batch_size"].to_list() == [4, 16, None, None, None]
    assert table["data.modality_filter"].to_list()[0] == '["CT", "MR"]'
    assert table["recipe"].to_list()[:3] == ["core24-smoke", "phantom-cpu", "x"]
    assert table["probe/proxy_quality"].to_list() == [0.4, None, None, None, None]
    assert table["throughput_effective_patches_per_sec"].to_list()[0] == 900.5


def test_no_run_is_an_empty_table_with_the_usual_columns(tmp_path: Path) -> None:
    table = read_run_records(tmp_path)
    assert table.is_empty()
    assert table.columns == [
        "run", "run_id", "run_dir", "status", "cause", "steps_done", "max_steps", "tags", "group"]  # fmt: skip


def test_histories_hold_the_asked_scalars_of_every_row_but_events_and_a_torn_line(tmp_path: Path) -> None:
    rows = [
        {"global_step": 2, "loss/total": 1.5}, {"global_step": 4, "loss/total": None, "probe/proxy_quality": 0.2},
        {"event": "alarm", "global_step": 4, "text": "!"},
    ]  # fmt: skip
    text = "".join(json.dumps(row) + "\n" for row in rows)
    folder(tmp_path, "run", {}, history=text + '{"global_step": 6, "lo')
    histories = read_run_histories(read_run_records(tmp_path), ["loss/total", "probe/proxy_quality"])
    assert histories.rows() == [("run", 2, 1.5, None), ("run", 4, None, 0.2)]
