"""Pictures beside a run: where they land, and what becomes of a failure to draw one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import PreparedScan
from prism_ssl.data.checks.catalog_scans import catalog_config, usable_scans
from prism_ssl.records.run_files import LocalRecord, read_history
from prism_ssl.train.record.pictures import Pictures


@pytest.fixture(scope="module")
def config(phantom_catalog: Path) -> PrismConfig:
    return catalog_config(str(phantom_catalog), 1)


@pytest.fixture(scope="module")
def scan(config: PrismConfig) -> PreparedScan:
    return usable_scans(config).scans[0]


def log(folder: Path, step: int) -> None:
    record = LocalRecord(folder)
    record.row(step, {"loss/total": 1.0 / step, "chance/total": 1.0})
    record.close()


def events(folder: Path) -> list[tuple[str, int, str]]:
    return [(row["event"], row["global_step"], row["text"]) for row in read_history(folder) if "event" in row]


def test_a_run_leaves_a_panel_and_plots_and_says_where(tmp_path: Path, config: PrismConfig, scan: PreparedScan) -> None:
    with Pictures(tmp_path, config, scan):
        log(tmp_path, 10)
        log(tmp_path, 20)
    assert sorted(events(tmp_path)) == [("plots", 20, "plots"), ("view_panel", 0, "view_panel.png")]
    assert (tmp_path / "view_panel.png").stat().st_size > 10_000
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {
        "losses.png", "diagnostics.png", "throughput.png",
    }  # fmt: skip


def test_a_resumed_run_keeps_its_panel(tmp_path: Path, config: PrismConfig, scan: PreparedScan) -> None:
    (tmp_path / "view_panel.png").write_bytes(b"drawn before")
    with Pictures(tmp_path, config, scan):
        pass
    assert (tmp_path / "view_panel.png").read_bytes() == b"drawn before"
    assert events(tmp_path) == []


def test_a_failure_to_draw_is_an_event_without_a_path(tmp_path: Path, config: PrismConfig, scan: PreparedScan) -> None:
    gone = dataclasses.replace(scan, record=dataclasses.replace(scan.record, nifti_path="/archive/PM0001/x.nii.gz"))
    (tmp_path / "plots").write_text("a file where the folder should be")
    with Pictures(tmp_path, config, gone):
        log(tmp_path, 10)
    panel, plots = sorted(events(tmp_path), reverse=True)
    assert panel[:2] == ("view_panel_failed", 0)
    assert "view_panel.png was not drawn: ScanRejected: missing_path" in panel[2]
    assert plots == ("plots_failed", 10, "plots was not drawn: FileExistsError")
    assert "PM0001" not in json.dumps(read_history(tmp_path))
