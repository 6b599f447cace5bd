"""The same command on real CT and MR scans."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cli_runs import command, history_of, only_run, run_to_end, summary_of

pytestmark = pytest.mark.slow


def test_real_ct_and_mr_train_and_nothing_that_may_leave_names_a_patient(shared_data: Path, tmp_path: Path) -> None:
    arguments = command(tmp_path, data__catalog_path=shared_data / "catalog.csv")
    code, output = run_to_end([*arguments, "--train.max-steps", "150"])
    assert code == 0, output
    summary = summary_of(tmp_path)
    assert summary["status"] == "ok"
    assert summary["data"]["scans_rejected"] == 1  # the head phantom whose CT is not in HU
    assert summary["data"]["rejected/ct_not_in_hu"] == 1
    assert summary["totals"]["replacement_completed_count"] > 10
    assert summary["totals"]["coverage"] == 1.0
    assert history_of(tmp_path)[-1]["global_step"] == 150
    assert_throughput_is_explained(summary["totals"], steps=150, patches_per_step=2 * 4 * 16)
    for name in ("history.jsonl", "encoder.json"):
        text = (only_run(tmp_path) / name).read_text()
        assert "PM0" not in text
        assert str(shared_data) not in text

    code, output = run_to_end([*arguments, "--train.max-steps", "2", "--run.name", "second"])
    assert code == 0, output
    (report,) = (tmp_path / "runs" / ".preflight").glob("*/preflight.json")
    counts = json.loads(report.read_text())
    assert (counts["checked"], counts["reused"]) == (0, 34), "the second run reads no file again"
    assert (counts["kept"], counts["rejected"], counts["reasons"]) == (33, 1, {"ct_not_in_hu": 1})


def assert_throughput_is_explained(totals: dict[str, float], steps: int, patches_per_step: int) -> None:
    """Guide, section 15.3: the parts that are told add up to the throughput that is told."""
    training_s = totals["wall_s"] - totals["evaluation_s"] - totals["checkpoint_s"]
    assert totals["throughput_effective_patches_per_sec"] == pytest.approx(steps * patches_per_step / training_s)
    stepping_ms = steps * totals["total_step_time_ms_mean"]
    assert stepping_ms <= 1e3 * training_s
    waits_ms = sum(totals[f"data_wait_{cause}_ms_total"] for cause in ("opening", "sampling", "transport"))
    assert waits_ms == pytest.approx(totals["data_wait_ms_total"])
    assert totals["data_wait_share"] == pytest.approx(waits_ms / stepping_ms)
    assert totals["stall_steps_ge_2000ms"] >= totals["stall_steps_ge_10000ms"]
