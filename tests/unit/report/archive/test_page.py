"""The page of an archive with known contents: counts are exact, and no patient, path or network is in it."""

from __future__ import annotations

import gzip
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest

from prism_ssl.config.defaults import apply_overrides, phantom_cpu
from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import PATCH_PX, PATCH_SCALE, PreparedScan, VisitKey
from prism_ssl.data.catalog import load_records
from prism_ssl.data.checks import check_scan, open_prepared
from prism_ssl.data.extract import extract_view
from prism_ssl.data.scan import nifti_bytes
from prism_ssl.data.views import draw_training_pair, scene_of
from prism_ssl.report.archive import tables, view_sample
from prism_ssl.report.archive.duplicates import GROUPS_SHOWN, Duplicates, duplicates
from prism_ssl.report.archive.facts import ArchiveFacts, archive_facts
from prism_ssl.report.archive.page import PageParts, write_page
from prism_ssl.report.archive.view_sample import ViewSample, sample_views
from tests.support.broken_files import BrokenKind, write_broken

PLANTED = ("JonesMary", "Secret Street")
PATIENTS = 3


class Counted(NamedTuple):
    """An archive and all that its page tells."""

    facts: ArchiveFacts
    config: PrismConfig
    usable: list[PreparedScan]
    page: str
    sample: ViewSample


def _series(folder: Path, patient: int, seed: int) -> Path:
    """A CT in HU with a body of noise, 2 x 2 x 3 mm."""
    rng = np.random.default_rng(seed)
    voxels = np.full((30, 40, 44), -1000, np.int16)
    voxels[4:-4, 6:-6, 6:-6] = 40
    voxels += rng.normal(0, 15, voxels.shape).astype(np.int16)
    path = folder / f"{PLANTED[0]}{patient}" / f"s{seed}" / "scan.nii.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(nifti_bytes(voxels, np.diag([2.0, 2.0, 3.0, 1.0])), 1))
    return path


def _copy(of: Path, series: str, level: int | None = None) -> Path:
    """Another series with the same voxels; the same file, or compressed anew."""
    path = of.parent.parent / series / "scan.nii.gz"
    path.parent.mkdir()
    if level is None:
        shutil.copy(of, path)
    else:
        path.write_bytes(gzip.compress(gzip.decompress(of.read_bytes()), level))
    return path


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Counted:
    """Three patients with two sound CT each, two copies, three broken files and a missing one, and an X-ray."""
    folder = tmp_path_factory.mktemp("archive")
    sound = [_series(folder, patient, 10 * patient + n) for patient in range(PATIENTS) for n in range(2)]
    copies = [_copy(sound[0], "same_file"), _copy(sound[2], "packed_anew", 9)]
    broken = [write_broken(folder / kind, kind) for kind in (BrokenKind.FOUR_D, BrokenKind.TEXT, BrokenKind.NOT_HU)]
    rows = [(file.parent.parent.name, file.parent) for file in (*sound, *copies)]
    rows[7] = (f"{PLANTED[0]}9", rows[7][1])  # the copy is of another patient, says the table
    rows += [(f"{PLANTED[0]}8", file.parent) for file in broken] + [(f"{PLANTED[0]}8", folder / "missing")]
    told = [
        (patient, "CT", str(path), f"CT CHEST POST {PLANTED[1]}" if n % 2 else PLANTED[1])
        for n, (patient, path) in enumerate(rows)
    ]
    told += [("x", "CR", str(folder / "xray"), "CHEST"), told[0]]
    columns = ["pmbb_id", "modality", "series_path", "series_description"]
    pl.DataFrame(told, schema=columns, orient="row").write_csv(folder / "catalog.csv")
    config = apply_overrides(phantom_cpu(), {"data.catalog_path": str(folder / "catalog.csv"), "data.n_patches": 48})
    selection = load_records(config.data, 0)
    verdicts = {record.scan_id: check_scan(record, config) for record in selection.records}
    usable = [v.prepared(r) for r in selection.records if (v := verdicts[r.scan_id]).reason is None]
    facts = archive_facts(selection, verdicts, config.data)
    sample = sample_views(usable, config, folder / "tmp")
    parts = PageParts("catalog.csv", facts, duplicates(facts.scans, 60.0), sample, 4, [(False, "<b>a & b</b>")])
    write_page(folder / "archive.html", parts, config)
    return Counted(facts, config, usable, (folder / "archive.html").read_text(), sample)


def test_rows_scans_and_kinds_are_counted_exactly(counted: Counted) -> None:
    assert tables.modality_rows(counted.facts) == [["CT", "13", "12", "8", "4", "5"], ["CR", "1", "0", "0", "0", "0"]]
    parts = {bar.label: bar.counts for bar in tables.kind_bars(counted.facts, "body_part")}
    assert parts == {"unknown": (7, 6, 4), "chest": (6, 6, 4)}  # the repeated row is a row, and no scan
    assert {bar.label: bar.counts for bar in tables.kind_bars(counted.facts, "contrast")} == {
        "CT unknown": (7, 6, 4), "CT with": (6, 6, 4),
    }  # fmt: skip
    assert tables.known_by(counted.facts, "contrast").startswith("Known by the description 6; unknown 7")
    reasons = {bar.label: bar.counts[0] for bar in tables.reason_bars(counted.facts)}
    assert reasons == {"not_3d": 1, "not_a_nifti": 1, "ct_not_in_hu": 1, "missing_path": 1}
    assert sum(bar.counts[0] for bar in tables.header_bars(counted.facts, "orientation")) == 8


def test_the_geometry_is_that_of_the_coarsest_axis(counted: Counted) -> None:
    told = tables.with_geometry(counted.facts.usable)
    wanted = ("slices", "spacing_mm", "pixel_mm", "shortest_mm", "longest_mm", "largest_radius_mm")
    assert told.select(wanted).unique().row(0) == pytest.approx((30, 3.0, 2.0, 80.0, 90.0, 39.0))
    turned = counted.facts.usable.rename(
        {"nx": "nz", "nz": "nx", "spacing_x_mm": "spacing_z_mm", "spacing_z_mm": "spacing_x_mm"}
    )
    assert tables.with_geometry(turned)["slices"].unique().to_list() == [30]


def test_equal_voxels_are_found_and_equal_files_told_from_files_packed_anew(counted: Counted) -> None:
    found = duplicates(counted.facts.scans, 60.0)
    assert [(group.size, group.patients, group.same_file) for group in found.groups] == [
        (2, 2, False), (2, 1, True),
    ]  # fmt: skip
    assert (found.found, found.surplus, found.across_patients) == (2, 2, 1)
    assert "1 group has scans of several patients" in re.sub(r"\s+", " ", counted.page)


def _of_many(counted: Counted, times: int, folder: Path) -> tuple[Duplicates, str]:
    """Duplicates and page of an archive so many times as large, in which each usable scan is there twice, and one
    content as often as it is large."""
    scans = counted.facts.scans.sort(pl.col("reason").is_not_null(), maintain_order=True)  # 8 usable ones, 4 refused
    many = pl.concat([scans] * times).with_row_index("n").with_columns(scan_id=pl.format("scan-{}", "n"))
    of_pair = pl.format("{}", pl.col("n") // 24 * 12 + pl.col("n") % 12)
    content = pl.when(pl.col("n") % 12 == 0).then(pl.lit("one")).otherwise(of_pair)
    many = many.with_columns(content=pl.when(pl.col("reason").is_null()).then(content)).drop("n")
    facts, found = ArchiveFacts(counted.facts.report, counted.facts.rows, many), duplicates(many, 60.0)
    write_page(folder / "page.html", PageParts("catalog.csv", facts, found, None, 4, []), counted.config)
    return found, (folder / "page.html").read_text()


def test_the_page_of_a_large_archive_is_no_larger_and_says_where_the_rest_is(counted: Counted, tmp_path: Path) -> None:
    (few, small), (many, large) = (_of_many(counted, times, tmp_path) for times in (20, 400))
    assert (many.found, many.surplus) == (1 + 7 * 200, 399 + 7 * 200)
    assert len(many.groups) == len(few.groups) == GROUPS_SHOWN
    assert max(group.size for group in many.groups) == 400
    assert "and 396 more" in large
    assert "And 1,540 more, in manifest.parquet" in large
    assert "And 1,381 more groups: scans of one content in manifest.parquet" in large
    assert len(large) == pytest.approx(len(small), rel=0.02)


def test_the_sampled_views_are_those_that_training_draws_first(counted: Counted) -> None:
    scan, config = counted.usable[0], counted.config
    views = counted.sample.views.filter(scan_id=scan.record.scan_id)
    assert counted.sample.views.height == len(counted.usable) * 2 * view_sample.PAIRS
    volume = open_prepared(scan, config)
    scene = scene_of(volume, None, config.view, config.train.seed, scan.record.scan_id)
    for visit in (0, view_sample.PAIRS - 1):
        key = VisitKey(scan.record.scan_id, 0, visit)
        pair = draw_training_pair(scene, config.view, config.data.n_patches, config.train.seed, key)
        patches = np.empty((config.data.n_patches, PATCH_PX, PATCH_PX), np.int16)
        extract_view(volume, pair.views[1], config.data.patch_mm, patches)
        row = views.row(2 * visit + 1, named=True)
        assert row["radius_mm"] == pair.views[1].radius_mm
        assert row["black"] == np.mean(patches == -PATCH_SCALE)


def test_a_radius_counts_as_shrunk_where_the_scan_is_smaller_than_the_settings_ask(counted: Counted) -> None:
    large = apply_overrides(counted.config, {"view.radius_mm_min": 45.0, "view.radius_mm_max": 50.0})
    tmp = Path(counted.usable[0].record.nifti_path).parent
    assert view_sample.by_modality(sample_views(counted.usable[:1], large, tmp).views)["shrunk"].to_list() == [1.0]
    assert view_sample.by_modality(counted.sample.views)["shrunk"].to_list() == [0.0]


def test_the_page_holds_no_patient_no_path_and_no_text_of_the_table(counted: Counted) -> None:
    folder = Path(str(counted.config.data.catalog_path)).parent
    for secret in (*PLANTED, *PLANTED[1].split(), str(folder), "scan.nii"):
        assert secret not in counted.page, secret
    assert "&lt;b&gt;a &amp; b&lt;/b&gt;" in counted.page


def test_the_page_needs_no_network_and_runs_no_script(counted: Counted) -> None:
    assert re.findall(r"<script|<link|@import|https?://", counted.page) == []
    assert {source[:11] for source in re.findall(r'src="([^"]*)"', counted.page)} == {"data:image/"}


def test_every_refused_scan_has_a_card_and_a_picture_where_there_is_one(counted: Counted) -> None:
    section = counted.page.split('<section id="refused">')[1].split("</section>")[0]
    cards = section.split("<figure>")[1:]
    pictured = {card.split("<b>")[1].split("</b>")[0]: "<img" in card for card in cards}
    assert pictured == {"not_3d": True, "ct_not_in_hu": True, "not_a_nifti": False, "missing_path": False}


def test_of_many_refused_scans_as_many_of_each_reason_are_shown() -> None:
    scans = pl.DataFrame({"reason": ["a"] * 50 + ["b"] * 2 + ["c"], "n": range(53)})
    shown = tables.evenly_of_each(scans, "reason", 8)
    assert shown["reason"].to_list() == ["a"] * 5 + ["b"] * 2 + ["c"]
    assert shown["n"].to_list()[:5] == [0, 1, 2, 3, 4]


def test_rare_kinds_are_one_row_and_unknown_is_the_last() -> None:
    counts = {f"k{n:02}": (100 - n, 1) for n in range(20)} | {"unknown": (500, 7)}
    rows = tables.bars(counts)
    assert len(rows) == tables.KINDS_SHOWN + 1
    assert sum(row.counts[0] for row in rows) == sum(count[0] for count in counts.values())
