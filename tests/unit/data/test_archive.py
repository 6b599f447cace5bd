"""The same voxels under two patients are never on both sides of the hold-out, and what has no file is not forgotten."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

from prism_ssl.config.schema import DataConfig, PrismConfig
from prism_ssl.contracts import PreparedScan, ScanRecord
from prism_ssl.data.archive import Archive, _divided
from prism_ssl.data.catalog import CatalogReport
from prism_ssl.data.checks.verdict import check_scan
from prism_ssl.data.preflight import PreflightReport
from prism_ssl.train.run.split_warnings import split_warnings
from tests.support.broken_files import sound_bytes, sound_volume

CONFIG = PrismConfig(data=DataConfig(catalog_path="a.csv", holdout_min_series=4, workers=1))


def _checked(path: Path, patient: str) -> PreparedScan:
    record = ScanRecord(f"scan-{patient}-{path.name}", "s", "CT", str(path), "s", patient)
    row = check_scan(record, CONFIG)
    assert row.reason is None, row.detail
    return row.prepared(record)


def test_a_content_is_that_of_the_voxels_however_they_are_packed(tmp_path: Path) -> None:
    data, other = sound_bytes(sound_volume()), sound_volume().copy()
    other.flat[17] += 1
    for name, content in (("a.nii", data), ("b.nii.gz", gzip.compress(data)), ("c.nii", sound_bytes(other))):
        (tmp_path / name).write_bytes(content)
    a, b, c = (_checked(tmp_path / name, "p").content for name in ("a.nii", "b.nii.gz", "c.nii"))
    assert a == b != c


def test_what_a_held_out_scan_repeats_is_not_trained_on_and_is_told(tmp_path: Path) -> None:
    scans = []
    for number in range(16):
        (path := tmp_path / f"{number}.nii").write_bytes(sound_bytes(sound_volume() + number))
        scans += [_checked(path, f"old{number}"), _checked(path, f"new{number}")]
    train, held_out = _divided(scans, CONFIG)
    assert {scan.content for scan in train}.isdisjoint(scan.content for scan in held_out)
    repeated = len(scans) - len(train) - len(held_out)
    assert len(held_out) >= 4
    assert repeated > 0
    report = CatalogReport(40, {"modality": 3}, 5, 32, 32, {"CT": 37, "MRI": 3})
    archive = Archive(tmp_path, tmp_path, [train], held_out, report, PreflightReport(32, 0, {}, {}, 0, 32, 0), repeated)
    counts = archive.counts()
    assert counts["scans_same_as_held_out"] == repeated
    assert counts["scans_training"] + counts["scans_held_out"] + repeated == 32
    assert (counts["left_out/modality"], counts["left_out/duplicate"]) == (3, 5)
    assert any(note.startswith(f"{repeated} scans are not trained on") for note in split_warnings(archive, CONFIG.data))
    again = archive.under(archive.split, CONFIG)
    assert (again.repeated, len(again.shards[0])) == (repeated, len(train))


def test_scans_whose_content_is_not_known_are_no_repetition(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(sound_bytes(sound_volume()))
    scan = _checked(tmp_path / "a.nii", "p")
    scans = [replace(scan, content="", record=replace(scan.record, subject_id=f"p{n}")) for n in range(8)]
    assert sum(map(len, _divided(scans, CONFIG))) == 8


def test_a_pointer_is_named_as_one(tmp_path: Path) -> None:
    for name, text in (
        ("a.nii.gz", b"/annex/objects/MD5E-s123--0123.nii.gz\n"),
        ("b.nii.gz", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"),
    ):
        (tmp_path / name).write_bytes(text)
        row = check_scan(ScanRecord(name, "s", "MR", str(tmp_path / name), "s", "p"), CONFIG)
        assert row.reason == "not_a_nifti"
        assert "a git-annex or Git LFS pointer without its content" in str(row.detail)
