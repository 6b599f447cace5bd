"""The guide's four functions on local records and on a W&B server: one schema, no stale rows, nothing invented."""

from __future__ import annotations

import math
import os
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from prism_ssl.errors import ConfigError, TrackingError
from prism_ssl.explore.runs import LOCAL, compute_proxy_score, fetch_history, fetch_runs, summarize_best_configs
from prism_ssl.records.cache import TableCache
from prism_ssl.records.local import run_collections
from tests.support.sweep_records import (
    append_rows,
    probe_of,
    quality_of,
    throughput_of,
    track_run,
    write_run,
    write_sweep,
)
from tests.support.wandb_server import WandbServer
from tune.core24 import design_points

POINTS = design_points("half")


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of the test's own."""
    monkeypatch.setattr("prism_ssl.records.cache.temporary_root", lambda: tmp_path / "cache")


# ---------------------------------------------------------------------- local records
def test_a_sweep_is_read_scored_and_summarised(tmp_path: Path) -> None:
    write_sweep(tmp_path / "sweep")
    runs = fetch_runs(LOCAL, str(tmp_path / "sweep"), {})
    assert runs["status"].value_counts().sort("status").rows() == [
        ("failed", 1), ("ok", 21), ("running", 1), ("unfinished", 1)]  # fmt: skip
    assert runs["tags"].to_list()[0] == ["core24", "regression"]
    assert runs.filter(status="unfinished")["steps_done"].to_list() == [600]

    history = fetch_history(runs["run_id"].to_list(), ["probe/proxy_quality"])
    scored = compute_proxy_score(runs, history)
    told = dict(scored.select("run", "proxy_quality").iter_rows())
    assert [told[point.name] for point in POINTS[:2]] == [None, None]
    assert [told[point.name] for point in POINTS[2:]] == pytest.approx([quality_of(point) for point in POINTS[2:]])
    best = summarize_best_configs(scored).row(0, named=True)
    assert (best["train.batch_size"], best["loss.w_supcon_target"]) == (64, 0.4)
    assert best["throughput_after_stalls"] == max(throughput_of(point) for point in POINTS)


def test_filters_take_any_column_and_a_misspelt_one_is_named(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    shown = fetch_runs(
        LOCAL, str(tmp_path), {"tags": ["classification", "x"], "status": "ok", "train.batch_size": [64, 128]}
    )
    wanted = [p.name for p in POINTS[3:] if p.objective == "classification" and p.batch_size == 64]
    assert shown["run"].to_list() == sorted(wanted)
    with pytest.raises(ConfigError, match=r"no run has 'train.batchsize'.*nearest is 'train.batch_size'"):
        fetch_runs(LOCAL, str(tmp_path), {"train.batchsize": 64})


def test_an_empty_folder_is_an_empty_table(tmp_path: Path) -> None:
    runs = fetch_runs(LOCAL, str(tmp_path), {})
    scored = compute_proxy_score(runs, fetch_history([], ["loss/total"]))
    assert scored.is_empty()
    assert summarize_best_configs(scored).is_empty()


def test_history_has_one_row_a_step_and_every_asked_key(tmp_path: Path) -> None:
    folder = write_run(tmp_path, POINTS[5], range(100, 301, 100))
    append_rows(folder, [{"global_step": 300, "loss/total": 9.5}, {"global_step": 400, "loss/total": "NaN"}])
    with (folder / "history.jsonl").open("a") as file:
        file.write('{"global_step": 500, "loss/to')
    told = fetch_history([str(folder)], ["loss/total", "probe/proxy_quality", "never/logged"])
    assert told.columns == ["run_id", "global_step", "loss/total", "probe/proxy_quality", "never/logged"]
    assert told["global_step"].to_list() == [100, 200, 300, 400]
    assert told["loss/total"].to_list()[2:] == [9.5, None]
    assert told["probe/proxy_quality"].to_list() == pytest.approx([None, None, quality_of(POINTS[5]), None])
    assert told["never/logged"].dtype == pl.Float64


def test_a_damaged_line_costs_only_itself(tmp_path: Path) -> None:
    folder = write_run(tmp_path, POINTS[5], range(100, 301, 100))
    with (folder / "history.jsonl").open("a") as file:
        file.write('{"global_step": 400, "loss\x00\n{"global_step": 500, "loss/total": 1.0}\n')
    assert fetch_history([str(folder)], ["loss/total"])["global_step"].to_list() == [100, 200, 300, 500]


def test_a_run_that_has_gone_on_is_read_again(tmp_path: Path) -> None:
    folder = write_run(tmp_path, POINTS[5], range(100, 301, 100))
    before = fetch_history([str(folder)], ["loss/total"])
    assert fetch_history([str(folder)], ["loss/total"]).equals(before)
    append_rows(folder, [{"global_step": 400, "loss/total": 0.125}])
    assert fetch_history([str(folder)], ["loss/total"])["loss/total"].to_list()[-1] == 0.125


def test_the_folder_that_was_written_to_last_comes_first(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "old")):
        folder = write_run(tmp_path / name, POINTS[5])
        for path in folder.iterdir():
            os.utime(path, (2000 - age, 2000 - age))
    assert [(c.folder.name, c.runs, c.changed) for c in run_collections(tmp_path)] == [
        ("new", 1, 2000),
        ("old", 1, 1999),
    ]
    assert run_collections(tmp_path / "nowhere") == []


# ---------------------------------------------------------------------- cache
def test_a_kept_table_is_found_until_its_source_changes_or_it_is_too_old(tmp_path: Path) -> None:
    now = [1000.0]
    cache = TableCache("x", tmp_path, ttl_s=60, clock=lambda: now[0])
    table = pl.DataFrame({"a": [1]})
    cache.keep("run", "10 rows", table)
    kept = cache.find("run", "10 rows")
    assert kept is not None
    assert pl.read_parquet(kept).equals(table)
    assert cache.find("run", "11 rows") is None
    now[0] += 61
    assert cache.find("run", "10 rows") is None


def test_the_oldest_tables_go_when_there_is_too_much(tmp_path: Path) -> None:
    now = [1000.0]
    table = pl.DataFrame({"a": [1]})
    size = TableCache("y", tmp_path).keep("run", "1", table).stat().st_size
    cache = TableCache("x", tmp_path, bytes_max=2 * size, clock=lambda: now[0])
    for name in ("first", "second", "third"):
        cache.keep(name, "1", table)
        now[0] += 1
    assert [cache.find(name, "1") is not None for name in ("first", "second", "third")] == [False, True, True]


# ---------------------------------------------------------------------- W&B
def test_wandb_and_local_records_are_one_table(wandb_server: WandbServer, tmp_path: Path) -> None:
    root = tmp_path / "sweep"
    track_run(root, POINTS[3])
    track_run(root, POINTS[9], "failed", "Boom: x")
    local, tracked = fetch_runs(LOCAL, str(root), {}), fetch_runs("", "prism-ssl", {}).sort("run")
    stays_here = {"run_id", "run_dir", "cause", "tracking.mode"}
    shared = [name for name in local.columns if name in tracked.columns and name not in stays_here]
    assert_frame_equal(tracked.select(shared), local.select(shared))
    assert {"probe/proxy_quality", "stall_steps_ge_2000ms", "model.objective", "tags"} < set(shared)
    assert tracked["cause"].to_list() == [None, "Boom"]

    keys = ["loss/total", "skill/distance", "probe/proxy_quality"]
    histories = [fetch_history(runs["run_id"].to_list(), keys).drop("run_id") for runs in (local, tracked)]
    assert_frame_equal(*histories)
    assert histories[0]["probe/proxy_quality"].drop_nulls().len() == 1
    assert fetch_runs("tester", "prism-ssl", {"tags": ["classification"]})["run"].to_list() == [POINTS[3].name]


def test_a_resumed_tracked_run_is_never_stale(wandb_server: WandbServer, tmp_path: Path) -> None:
    root = tmp_path / "sweep"
    track_run(root, POINTS[3])
    (run_id,) = fetch_runs("", "prism-ssl", {})["run_id"]
    assert fetch_history([run_id], ["loss/total"])["global_step"].to_list() == [100, 200, 300]
    run = wandb_server.run
    # As the server has it after a kill at step 300 and a resume at step 200: steps twice, not a number, still running.
    run.history_lines += [
        f'{{"_step": {10 + step}, "global_step": {step}, "loss/total": {loss}}}'
        for step, loss in ((300, 7.0), (400, '"NaN"'), (500, 5.0))
    ]
    run.state = "running"
    told = fetch_history([run_id], ["loss/total"])
    assert told["global_step"].to_list() == [100, 200, 300, 400, 500]
    assert told["loss/total"].to_list()[2:] == [7.0, None, 5.0]
    assert fetch_runs("", "prism-ssl", {})["status"].to_list() == ["running"]


def test_what_wandb_cannot_give_is_said(wandb_server: WandbServer) -> None:
    with pytest.raises(TrackingError, match=r"Could not find project nothing.*run folders of this machine"):
        fetch_runs("tester", "nothing", {})


def test_without_a_key_it_says_so(tmp_path: Path, wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    wandb.teardown()
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(TrackingError, match="no W&B key was found; set WANDB_API_KEY, or read the run folders"):
        fetch_runs("", "prism-ssl", {})


def test_what_no_run_has_measured_is_not_a_number_anywhere() -> None:
    assert not any(math.isnan(value) for value in probe_of(POINTS[0]).values())
