"""The same command on real CT and MR scans."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli_runs import command, history_of, only_run, run_to_end, summary_of

pytestmark = pytest.mark.slow


def test_real_ct_and_mr_train_and_nothing_that_may_leave_names_a_patient(shared_data: Path, tmp_path: Path) -> None:
    arguments = command(tmp_path, data__catalog_path=shared_data / "catalog.csv", train__max_steps=150)
    code, output = run_to_end(arguments)
    assert code == 0, output
    summary = summary_of(tmp_path)
    assert summary["status"] == "ok"
    assert summary["data"]["scans_rejected"] == 1  # the head phantom whose CT is not in HU
    assert summary["data"]["rejected/ct_not_in_hu"] == 1
    assert summary["totals"]["replacement_completed_count"] > 10
    assert summary["totals"]["coverage"] == 1.0
    assert history_of(tmp_path)[-1]["global_step"] == 150
    for name in ("history.jsonl", "encoder.json"):
        text = (only_run(tmp_path) / name).read_text()
        assert "PM0" not in text
        assert str(shared_data) not in text


def test_a_second_run_reads_no_file_again(shared_data: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        arguments = command(
            tmp_path, data__catalog_path=shared_data / "catalog.csv", train__max_steps=2, run__name=str(number)
        )
        code, output = run_to_end(arguments)
        assert code == 0, output
    (report,) = (tmp_path / "runs" / ".preflight").glob("*/preflight.json")
    counts = json.loads(report.read_text())
    assert (counts["checked"], counts["reused"]) == (0, 34)
    assert (counts["kept"], counts["rejected"], counts["reasons"]) == (33, 1, {"ct_not_in_hu": 1})
