"""What make demo trains, and what it tells a newcomer."""

from __future__ import annotations

from pathlib import Path

import pytest

from prism_ssl.contracts import RunSummary
from prism_ssl.data.phantoms.writer import phantom_folder, write_phantoms
from prism_ssl.records.run_files import write_json, write_summary
from tests.conftest import REPOSITORY
from tune import demo, tune_core24
from tune.sweep.folder import Sweep


def _finished(sweep: Sweep) -> None:
    """As if the trials had been run; of the second one the quality is best."""
    for number, point in enumerate(sweep.points):
        folder, quality = sweep.run_dir(point), 0.5 - abs(number - 1) / 10
        folder.mkdir(parents=True)
        write_json(folder / "config.json", sweep.config(point).to_dict())
        probe = {"proxy_quality": quality, "proxy_quality_low": quality - 0.1, "proxy_quality_high": quality + 0.1}
        write_summary(RunSummary(folder.name, "ok", None, 200, 200, None, str(folder), probe=probe))


def test_the_demo_ends_with_commands_that_can_be_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path = tmp_path / "lab[bold]"  # which is no markup on the console
    places = ["--run.root", str(tmp_path / "runs"), "--run.tmp-root", str(tmp_path)]
    sweep = tune_core24.parse([*demo.SWEEP, *places])
    assert [point.objective for point in sweep.points].count("regression") == 2
    assert {(point.batch_size, point.warm_pool_size) for point in sweep.points} == {(32, 16), (64, 24)}
    _finished(sweep)
    catalog = write_phantoms(phantom_folder(tmp_path / "prism_ssl", 16, 0), 16, 0)
    monkeypatch.chdir(REPOSITORY)

    assert demo.main(places) == 0
    told = capsys.readouterr().out
    assert "4 trials, 0 to run" in told
    best = sweep.run_dir(sweep.points[1])
    assert f"prism embed --catalog {catalog} \\\n      --checkpoint {best} --out embeddings.parquet\n" in told
    assert f"prism notebook runs -- --runs {sweep.folder}\n" in told
    for page in ("docs/tour.md", "docs/own-data.md"):
        assert page in told
        assert (REPOSITORY / page).is_file()
