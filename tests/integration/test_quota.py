"""Whole runs in a small home: pruned, stopped with the numbers, refused, and resumed once there is room."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support.cli_runs import CliRun, command, only_run, run_to_end, summary_of

pytestmark = pytest.mark.slow

MB = 10**6


def _fill(path: Path, size: int) -> Path:
    """A file of the user's own that takes ``size`` bytes of the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    return path


def test_a_home_that_fills_up_is_pruned_then_ends_the_run_and_refuses_the_next_one(
    tmp_path: Path, phantom_catalog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    thesis = _fill(home / "thesis.tex", 10 * MB)
    killed = home / "runs" / "killed"
    unfinished = _fill(killed / ".last.ckpt.99999.tmp", 300 * MB)
    for name in ("config.json", ".lock"):
        (killed / name).touch()
    arguments = command(
        home, data__catalog_path=phantom_catalog, train__max_steps=100, run__name="mine",
        run__tmp_root=tmp_path / "tmp", quota__home_soft_bytes=200 * MB, quota__home_hard_bytes=400 * MB,
        quota__check_every_s=0.1, quota__tmp_min_free_bytes=MB,
    )  # fmt: skip

    run = CliRun([*arguments, "--train.max-steps", "100000"])
    run.wait_for(r"quota\.home_soft_bytes is 200\.0 MB: removed 300\.0 MB in 1 files .*1 x unfinished write")
    assert not unfinished.exists()
    run.wait_for(r"^step +20 ")
    ballast = _fill(home / "download.iso", 500 * MB)
    run.wait_for("there is nothing that this project may remove")
    assert run.finish() == 1
    summary = json.loads((home / "runs" / "mine" / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert summary["cause"].startswith("QuotaExceeded: the run was stopped: the home directory holds 5")
    assert "quota.home_hard_bytes is 400.0 MB" in summary["cause"]
    assert summary["totals"]["quota/home_bytes"] > 500 * MB
    assert summary["totals"]["quota/tmp_free_bytes"] > MB

    code, output = run_to_end(arguments)
    assert code == 1
    assert "QuotaExceeded: the run does not start: the home directory holds 5" in output
    assert (thesis.stat().st_size, ballast.stat().st_size) == (10 * MB, 500 * MB)

    ballast.unlink()
    code, output = run_to_end([*arguments, "--train.max-steps", str(summary["steps_done"] + 20)])
    assert code == 0, output
    assert "resumes at step" in output


def test_a_temporary_root_without_room_refuses_the_start(tmp_path: Path, phantom_catalog: Path) -> None:
    code, output = run_to_end(command(tmp_path, data__catalog_path=phantom_catalog, quota__tmp_min_free_bytes=2**60))
    assert code == 1
    assert "QuotaExceeded: the run does not start: the temporary root has" in output
    assert summary_of(tmp_path)["status"] == "failed"
    assert not (only_run(tmp_path) / "history.jsonl").exists()
