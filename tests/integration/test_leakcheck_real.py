"""The leak check at full effort on real CT and MR scans."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prism_ssl.leak.command import main

pytestmark = pytest.mark.slow


def test_real_scans_leak_no_more_than_stated(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(shared_data / "catalog.csv"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["scans"], report["rejected"]) == (33, {"ct_not_in_hu": 1})
    assert {finding["verdict"] for finding in report["findings"]} == {"ok", "caught", "reported"}
