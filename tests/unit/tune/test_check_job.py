"""``prism check``: what it checks, with and without a recipe, and the page at its end."""

from __future__ import annotations

import stat
from pathlib import Path

import polars as pl
import pytest

from prism_ssl.config.defaults import apply_overrides, phantom_cpu
from prism_ssl.data.archive import preflight_dir
from prism_ssl.data.catalog import load_records
from prism_ssl.errors import ConfigError
from prism_ssl.report.archive.page import PAGE_FILE
from tests.support.broken_files import BrokenKind, write_broken
from tune import check_job
from tune.archive_check import check_archive


def test_without_a_recipe_it_checks_the_laptop_s_as_the_import_tells() -> None:
    config, page = check_job.settings_of(["--data.catalog-path", "/archive/catalog.parquet"])
    assert (config.recipe, config.data.catalog_path, page) == ("phantom-cpu", "/archive/catalog.parquet", True)


def test_a_recipe_is_taken_and_the_page_can_be_left_out() -> None:
    config, page = check_job.settings_of(["--no-page", "study", "--train.max-steps", "7"])
    assert (config.recipe, config.train.max_steps, page) == ("study", 7, False)
    with pytest.raises(ConfigError, match="nowhere"):
        check_job.settings_of(["--config", "nowhere.json", "--no-page"])


def test_the_job_scripts_leave_the_page_out(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "--no-page" in Path(check_job.__file__).parents[1].joinpath("slurm/env.sh").read_text()
    lost = ["--data.catalog-path", str(tmp_path / "lost.csv"), "--run.root", str(tmp_path), "--no-page"]
    assert check_job.main(lost) == 1
    assert "FAILED  CatalogError: catalogue" in capsys.readouterr().out


def test_the_check_ends_with_a_page_whose_verdicts_a_run_uses_again(
    ray_local: None, phantom_catalog: Path, tmp_path: Path
) -> None:
    few = {"data.n_scans": 6, "data.workers": 1, "data.holdout_min_series": 1}
    by_a_detour = phantom_catalog.parent / ".." / phantom_catalog.parent.name / phantom_catalog.name
    overrides = {"data.catalog_path": str(by_a_detour), "run.root": str(tmp_path), **few}
    config, said = apply_overrides(phantom_cpu(), overrides), list[tuple[bool, str]]()
    selection = load_records(config.data, config.data.selection_seed)
    page = check_archive(selection, config, said, lambda well, words: said.append((well, words)))
    folder = preflight_dir(phantom_catalog, tmp_path / ".preflight")
    assert page == folder / PAGE_FILE
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert pl.read_parquet(folder / "manifest.parquet").height == len(selection.records)
    assert [words for well, words in said if not well] == []
    assert "0 rejected by preflight" in said[0][1]
    assert said[1][1].startswith("memory plan")
    assert said[1][1].split(" (")[0] in page.read_text()
    assert f"<p>{phantom_catalog.resolve()}, " in page.read_text()


def test_an_archive_without_a_usable_scan_fails_the_check_and_still_has_its_page(
    ray_local: None, tmp_path: Path
) -> None:
    file = write_broken(tmp_path / "series", BrokenKind.FOUR_D)
    pl.DataFrame({"pmbb_id": ["p"], "modality": ["CT"], "series_path": [str(file.parent)]}).write_csv(
        tmp_path / "t.csv"
    )
    overrides = {"data.catalog_path": str(tmp_path / "t.csv"), "run.root": str(tmp_path / "runs")}
    config, said = apply_overrides(phantom_cpu(), overrides), list[tuple[bool, str]]()
    page = check_archive(load_records(config.data, 0), config, said, lambda well, words: said.append((well, words)))
    assert [well for well, _ in said] == [False]
    assert "none of the 1 selected scans" in said[0][1]
    assert "<b>not_3d</b>" in page.read_text()
