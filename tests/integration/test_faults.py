"""Whole runs, started as a user starts them, while something is broken on purpose."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from prism_ssl.train.checkpoint import checkpoint_step
from prism_ssl.utils.stop_signals import EXIT_INTERRUPTED
from tests.support.cli_runs import (
    LOST_DRIVER,
    CliRun,
    command,
    history_of,
    left_in_temporary_root,
    only_run,
    run_to_end,
    summary_of,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def catalog(phantom_catalog: Path, tmp_path: Path) -> Path:
    """A catalogue whose files a test may damage."""
    return Path(shutil.copytree(phantom_catalog.parent, tmp_path / "archive")) / phantom_catalog.name


def damage_behind_preflights_back(root: Path, catalog: Path) -> str:
    """Cut one training scan short without changing its size or time; returns its scan id."""
    code, output = run_to_end(command(root, data__catalog_path=catalog, train__max_steps=2, run__name="prepare"))
    assert code == 0, output
    checkpoint_free = root / "runs" / "prepare"
    shutil.rmtree(checkpoint_free)
    victim = _a_training_scan(root)
    path = Path(victim["path"])
    status, data = path.stat(), path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return victim["scan_id"]


def _a_training_scan(root: Path) -> dict[str, str]:
    """The scan that its pool actor opens last, so that steps are trained before."""
    import polars as pl

    from prism_ssl.config.defaults import phantom_cpu
    from prism_ssl.data.catalog import load_records
    from prism_ssl.data.holdout import split_by_patient
    from prism_ssl.data.pool.scan_order import ScanOrder
    from prism_ssl.utils.hashing import shard_worker

    catalog = next((root / "archive").glob("*.csv"))
    data = dataclasses.replace(phantom_cpu().data, catalog_path=str(catalog))
    train, _ = split_by_patient(load_records(data, 0).records, data.holdout_fraction, data.holdout_min_series, 0)
    (manifest,) = (root / "runs" / ".preflight").glob("*/manifest.parquet")
    rows = pl.read_parquet(manifest).filter(pl.col("reason").is_null())
    ids = set(rows["scan_id"]) & {record.scan_id for record in train}
    shards = [[scan_id for scan_id in ids if shard_worker(scan_id, data.workers) == n] for n in range(data.workers)]
    order = ScanOrder(max(shards, key=len), seed=0)
    *_, (last, _) = [order.next(()) or ("", 0) for _ in range(len(order))]
    return rows.filter(pl.col("scan_id") == last).select("scan_id", "path").to_dicts()[0]


def test_a_broken_scan_ends_a_strict_run_and_the_next_one_goes_on_without_it_a_lenient_run_finishes(
    tmp_path: Path, catalog: Path
) -> None:
    scan_id = damage_behind_preflights_back(tmp_path, catalog)
    run = command(tmp_path, data__catalog_path=catalog, train__max_steps=200)
    code, output = run_to_end(run)
    summary = summary_of(tmp_path)
    assert code == 1
    assert summary["status"] == "failed"
    assert summary["cause"].startswith("ReplacementFailed")
    assert scan_id in summary["cause"]
    assert scan_id in output
    assert ": ok" not in output
    assert _quarantined(tmp_path) == [scan_id]

    code, output = run_to_end(run)
    assert code == 0, output
    assert "quarantined 1" in output
    assert f"resumes at step {summary['steps_done']}" in output
    assert summary_of(tmp_path)["status"] == "ok"

    shutil.rmtree(only_run(tmp_path))
    _quarantine_file(tmp_path).unlink()  # so that the scan is met again
    code, output = run_to_end(command(tmp_path, data__catalog_path=catalog, train__max_steps=100, data__strict=False))
    summary = summary_of(tmp_path)
    assert code == 0, output
    assert summary["status"] == "ok"
    assert summary["totals"]["replacement_failed_count"] == 1
    assert f"scan {scan_id} failed" in output
    assert _quarantined(tmp_path) == [scan_id]


def _quarantine_file(root: Path) -> Path:
    (file,) = (root / "runs" / ".preflight").glob("*/quarantine.jsonl")
    return file


def _quarantined(root: Path) -> list[str]:
    return [json.loads(line)["scan_id"] for line in _quarantine_file(root).read_text().splitlines()]


@pytest.mark.parametrize("strict", [True, False])
def test_a_killed_pool_actor(tmp_path: Path, catalog: Path, strict: bool) -> None:
    run = CliRun(command(tmp_path, data__catalog_path=catalog, train__max_steps=300, data__strict=strict))
    run.wait_for(r"^step +20 ")
    run.descendants("PoolActor")[0].kill()
    code, summary = run.finish(), summary_of(tmp_path)
    if strict:
        assert code == 1
        assert summary["status"] == "failed"
        assert summary["cause"].startswith("PoolActorDied: pool actor")
        assert ": ok" not in run.output
    else:
        assert code == 0, run.output
        assert summary["status"] == "ok"
        assert summary["totals"]["actor_restarts"] == 1
        assert summary["steps_done"] == 300


STOPS = (
    (signal.SIGUSR1, "starts at step 0"), (signal.SIGTERM, "^scans: "), (signal.SIGINT, "starts at step 0"),
    (signal.SIGUSR1, r"^step +\d+ "), (signal.SIGTERM, r"^step +\d+ "),
)  # fmt: skip
"""A signal to the driver, and the line that it comes behind; one after the other, and the run resumes each time."""


def test_a_signal_to_the_driver_interrupts_the_run_and_the_same_command_goes_on(tmp_path: Path, catalog: Path) -> None:
    arguments = command(
        tmp_path, data__catalog_path=catalog, train__max_steps=5000, train__checkpoint_every=5000, run__name="mine"
    )
    reached = 0
    for number, moment in STOPS:
        run, trains = CliRun(arguments), moment.startswith("^step")
        run.wait_for(moment)
        run.send(number)
        assert run.finish() == EXIT_INTERRUPTED, run.output
        summary = summary_of(tmp_path)
        assert summary["status"] == "interrupted"
        assert summary["resumed_from_step"] == (reached or None)
        assert summary["steps_done"] > reached if trains else summary["steps_done"] == 0
        assert (summary["checkpoint"] is not None) == trains
        assert not trains or checkpoint_step(only_run(tmp_path) / "last.ckpt") == summary["steps_done"]
        assert left_in_temporary_root(tmp_path) == []
        reached = summary["steps_done"]

    words = [*arguments, "--train.max-steps", str(reached + 5)]
    code, _ = run_to_end(["bash", "-c", '"$@" >/dev/full 2>/dev/full', "to a console on a full disk", *words])
    assert code == 0
    summary = summary_of(tmp_path)
    assert (summary["status"], summary["resumed_from_step"], summary["steps_done"]) == ("ok", reached, reached + 5)
    assert list(only_run(tmp_path).rglob("*.png")) == []  # run.pictures is off


def test_a_killed_driver_leaves_no_process_and_the_same_command_resumes(tmp_path: Path, catalog: Path) -> None:
    arguments = command(tmp_path, data__catalog_path=catalog, train__max_steps=300)
    first = CliRun(arguments)
    first.wait_for(r"^step +25 ")
    first.kill()
    first.finish()
    assert summary_of(tmp_path)["status"] in LOST_DRIVER
    saved = checkpoint_step(only_run(tmp_path) / "last.ckpt")
    assert saved >= 20  # a checkpoint every 10 steps; a worker that is asked to stop writes one too
    assert left_in_temporary_root(tmp_path) == []

    code, output = run_to_end(arguments)
    assert code == 0, output
    resumed = re.search(r"resumes at step (\d+) from .*last\.ckpt", output)
    assert resumed is not None, output
    summary = summary_of(tmp_path)
    assert summary["status"] == "ok"
    assert summary["resumed_from_step"] == int(resumed[1])
    assert int(resumed[1]) == saved
    assert [row["global_step"] for row in history_of(tmp_path)] == list(range(5, 301, 5))


def test_a_training_worker_that_the_machine_kills_is_started_again_and_counted(tmp_path: Path, catalog: Path) -> None:
    run = CliRun(command(tmp_path, data__catalog_path=catalog, train__max_steps=60))
    run.wait_for(r"^step +15 ")
    run.descendants("TrainWorker")[0].kill()
    assert run.finish() == 0, run.output
    assert re.search(r"worker_restart at step (10|20|30).*TrainWorkerDied.*restart 1 of 2", run.output), run.output
    summary = summary_of(tmp_path)
    assert summary["status"] == "ok"
    assert summary["steps_done"] == 60
    assert summary["totals"]["worker_restarts"] == 1
    assert [row["global_step"] for row in history_of(tmp_path)] == list(range(5, 61, 5))
