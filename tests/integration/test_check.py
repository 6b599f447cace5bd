"""``prism check`` as a user starts it: a stop signal ends it with one sentence, and the same command goes on."""

from __future__ import annotations

import csv
import signal
import sys
from pathlib import Path

import polars as pl
import pytest

from prism_ssl.data.archive import preflight_dir
from prism_ssl.utils.stop_signals import EXIT_INTERRUPTED
from tests.support.cli_runs import REPOSITORY, CliRun, left_in_temporary_root

pytestmark = pytest.mark.slow
SCANS = 1600
"""More than twice as many as preflight keeps at once, so that some verdicts are on disk long before the last."""


@pytest.fixture
def catalog(phantom_catalog: Path, tmp_path: Path) -> Path:
    """Many series, which are links to a few phantoms."""
    with phantom_catalog.open() as file:
        phantoms = list(csv.DictReader(file))
    table = tmp_path / "many.csv"
    with table.open("w") as file:
        rows = csv.writer(file)
        rows.writerow(["pmbb_id", "modality", "series_path"])
        for number in range(SCANS):
            phantom, folder = phantoms[number % len(phantoms)], tmp_path / "links" / str(number)
            (source,) = (phantom_catalog.parent / phantom["series_path"]).glob("*.nii*")
            folder.mkdir(parents=True)
            (folder / source.name).symlink_to(source)
            rows.writerow([f"patient-{number}", phantom["modality"], folder])
    return table


def _command(catalog: Path, root: Path) -> list[str]:
    roots = ["--run.root", str(root / "runs"), "--run.tmp-root", str(root / "tmp"), "--tracking.mode", "disabled"]
    return [sys.executable, str(REPOSITORY / "tune" / "check_job.py"), "--data.catalog-path", str(catalog), *roots]


def test_stop_signals_while_scans_are_read_lose_no_verdict(catalog: Path, tmp_path: Path) -> None:
    folder, kept = preflight_dir(catalog, tmp_path / "runs" / ".preflight"), 0
    for number in (signal.SIGINT, signal.SIGTERM):
        run = CliRun(_command(catalog, tmp_path))
        while not list(folder.rglob("part-*.parquet")):  # the run's own limit is the test's
            assert run.running or run.finish() == 0, run.output
            run.descendants()
        run.send(number)
        assert run.finish() == EXIT_INTERRUPTED, run.output
        assert "interrupted; run the same command again: it reads the scans that are left\n" in run.lines
        assert left_in_temporary_root(tmp_path) == []
        before, kept = kept, pl.read_parquet(folder / "manifest.parquet").height
        assert before < kept < SCANS
