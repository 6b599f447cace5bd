"""An archive through an encoder: the right numbers, no scan twice, and no scan's death another's."""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import prism_ssl
from prism_ssl.config.defaults import phantom_cpu
from prism_ssl.config.schema import DataConfig
from prism_ssl.contracts import PATCH_SCALE, ScanRecord
from prism_ssl.data.catalog import load_records
from prism_ssl.data.extract.cpu import extract_view
from prism_ssl.data.scan.nifti import open_scan
from prism_ssl.data.views.view_pairs import draw_view
from prism_ssl.embed.job import EmbedReport, embed_catalog
from prism_ssl.embed.scan import EmbedSettings, Row, cut_views
from prism_ssl.embed.weights import embed_config
from prism_ssl.model.backbone import build_encoder
from prism_ssl.model.export import read_export, save_encoder
from prism_ssl.utils.seeds import generator_for
from tests.support.broken_files import BrokenKind, write_broken
from tests.support.cli_runs import CliRun, run_to_end

VIEWS = 3


@pytest.fixture(scope="module")
def encoder_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported encoder that asks for few patches."""
    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("encoder")
    description = {"preset": "tiny", "n_patches": 16, "patch_mm": 16.0, "config": phantom_cpu().to_dict()}
    save_encoder(build_encoder("tiny"), folder, description)
    return folder


@pytest.fixture
def archive(tmp_path: Path, phantom_catalog: Path) -> Path:
    """Eight phantoms, three scans that cannot be used, and one that is not there."""
    with phantom_catalog.open() as file:
        rows = list(csv.DictReader(file))[:8]
    folders = [phantom_catalog.parent / row["series_path"] for row in rows]
    broken = (BrokenKind.TINY, BrokenKind.SINGULAR_AFFINE)
    folders += [write_broken(tmp_path / "broken" / str(kind), kind).parent for kind in broken]
    folders.append(tmp_path / "nowhere")
    modalities = [row["modality"] for row in rows] + ["CT"] * 3
    catalog = tmp_path / "archive.csv"
    with catalog.open("w") as file:
        table = csv.writer(file)
        table.writerow(["pmbb_id", "modality", "series_path"])
        table.writerows([f"patient-{n // 2}", modalities[n], folders[n]] for n in range(11))
    return catalog


def embed(archive: Path, encoder_dir: Path, out: Path, n_scans: int = 100, cut: object = cut_views) -> EmbedReport:
    exported, _ = read_export(encoder_dir)
    config = embed_config(exported, DataConfig(catalog_path=str(archive), n_scans=n_scans))
    assert callable(cut)
    return embed_catalog(exported, EmbedSettings(config, VIEWS, seed=7), out, cut)


def _log_and_cut(record: ScanRecord, settings: EmbedSettings) -> Row:
    catalog = Path(settings.config.data.catalog_path or "")
    catalog.with_name(f"{record.scan_id}.looked-at").touch()
    return cut_views(record, settings)


def _die_on_the_deadly_one(record: ScanRecord, settings: EmbedSettings) -> Row:
    catalog = Path(settings.config.data.catalog_path or "")
    if record.scan_id == catalog.with_name("deadly").read_text():
        os.kill(os.getpid(), signal.SIGKILL)
    return cut_views(record, settings)


def looked_at(folder: Path) -> int:
    """Scans looked at since the last call."""
    traces = list(folder.glob("*.looked-at"))
    for trace in traces:
        trace.unlink()
    return len(traces)


@pytest.mark.usefixtures("ray_local")
def test_a_row_is_the_mean_over_views_that_anybody_can_draw_again(
    archive: Path, encoder_dir: Path, tmp_path: Path
) -> None:
    report = embed(archive, encoder_dir, tmp_path / "e.parquet")
    assert (report.rows, report.embedded, report.reused) == (8, 8, 0)
    assert report.rejected == {"shape_too_small": 1, "affine_singular": 1, "missing_path": 1}
    table = pl.read_parquet(tmp_path / "e.parquet")
    assert str(tmp_path) not in (tmp_path / "e.rejected.csv").read_text()

    records = {record.scan_id: record for record in load_records(DataConfig(catalog_path=str(archive)), 0).records}
    encoder, config = prism_ssl.load_encoder(encoder_dir), phantom_cpu()
    for row in table.iter_rows(named=True):
        record = records[row["scan_id"]]
        assert (row["series_id"], row["subject_id"], row["modality"]) == (
            record.series_id, record.subject_id, record.modality,
        )  # fmt: skip
        scan, patches, centres = open_scan(record.nifti_path), np.empty((VIEWS, 16, 16, 16), np.int16), []
        for number, out in enumerate(patches):
            rng = generator_for(7, "embed", record.scan_id, number)
            view = draw_view(scan.affine, scan.shape, scan.stats, config.view, 16, rng)
            extract_view(scan, view, 16.0, out)
            centres.append(view.positions_mm)
        with torch.no_grad():
            pixels = torch.from_numpy(patches.astype(np.float32) / PATCH_SCALE)[..., None]
            views = encoder(pixels, torch.from_numpy(np.stack(centres))).numpy()
        np.testing.assert_allclose(row["embedding"], views.mean(axis=0), atol=1e-5)
        spread = np.sqrt(((views - views.mean(axis=0)) ** 2).sum(axis=1).mean())
        assert row["spread"] == pytest.approx(spread, rel=1e-4)


@pytest.mark.usefixtures("ray_local")
def test_a_second_job_looks_only_at_what_is_new_and_ends_with_the_same_bits(
    archive: Path, encoder_dir: Path, tmp_path: Path
) -> None:
    in_steps, at_once = tmp_path / "steps.parquet", tmp_path / "once.parquet"
    embed(archive, encoder_dir, in_steps, n_scans=4, cut=_log_and_cut)
    first = looked_at(tmp_path)
    report = embed(archive, encoder_dir, in_steps, cut=_log_and_cut)
    assert (first + looked_at(tmp_path), report.rows, report.reused) == (10, 8, first)
    assert embed(archive, encoder_dir, in_steps, cut=_log_and_cut).embedded == 0
    assert looked_at(tmp_path) == 0
    embed(archive, encoder_dir, at_once)
    assert pl.read_parquet(in_steps).sort("scan_id").equals(pl.read_parquet(at_once).sort("scan_id"))


@pytest.mark.usefixtures("ray_local")
def test_a_scan_that_kills_its_process_costs_only_its_own_row(archive: Path, encoder_dir: Path, tmp_path: Path) -> None:
    usable = [
        record for record in load_records(DataConfig(catalog_path=str(archive)), 0).records if record.modality == "MR"
    ]
    (tmp_path / "deadly").write_text(usable[0].scan_id)
    report = embed(archive, encoder_dir, tmp_path / "e.parquet", cut=_die_on_the_deadly_one)
    assert (report.rows, report.rejected["check_crashed"]) == (7, 1)
    healed = embed(archive, encoder_dir, tmp_path / "e.parquet")
    assert (healed.rows, healed.embedded, healed.rejected["check_crashed"]) == (8, 1, 0)


@pytest.mark.slow
def test_a_killed_command_goes_on_where_it_was(encoder_dir: Path, phantom_catalog: Path, tmp_path: Path) -> None:
    shutil.copytree(encoder_dir, tmp_path / "run")
    out = tmp_path / "e.parquet"
    places = ["--catalog", str(phantom_catalog), "--checkpoint", str(tmp_path / "run"), "--out", str(out)]
    line = [
        sys.executable,
        "-m",
        "prism_ssl.embed.command",
        *places,
        "--views",
        "60",
        "--tmp-root",
        str(tmp_path / "tmp"),
    ]
    run = CliRun(line)
    parts = tmp_path / ".e.parquet.parts"
    while not list(parts.glob("part-*")):  # the run's own limit is the test's
        assert run.running, run.output
        run.descendants()
    run.kill()
    run.finish()
    assert not out.exists()

    code, output = run_to_end(line)
    assert code == 0, output
    told = re.search(r"e.parquet: (\d+) scans; (\d+) embedded now in .*, (\d+) done before", output)
    assert told is not None, output
    rows, embedded, settled = map(int, told.groups())
    assert (rows, settled > 0) == (embedded + settled, True)
    assert pl.read_parquet(out)["scan_id"].n_unique() == rows
    assert not parts.exists()
