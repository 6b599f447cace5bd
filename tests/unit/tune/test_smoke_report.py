"""The table of the cluster's smoke test."""

from __future__ import annotations

from pathlib import Path

import pytest

from prism_ssl.contracts import RunSummary
from prism_ssl.records.run_files import write_summary
from tune.smoke_report import main


def test_a_failed_run_is_shown_with_its_name_and_its_cause_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run[lab]"
    folder.mkdir()
    cause = "OSError: [Errno 5] at [/mnt/lab]"
    write_summary(RunSummary(folder.name, "failed", cause, 3, 10, None, str(folder)))
    monkeypatch.setenv("COLUMNS", "200")
    assert main([str(folder)]) == 1
    told = capsys.readouterr().out
    assert "run[lab]" in told
    assert cause in told
