from __future__ import annotations

import csv
import errno
import json
import os
import re
import signal
import stat
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from prism_ssl.config.operations import PreflightConfig
from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import ScanRecord
from prism_ssl.data.catalog import UnresolvedRow
from prism_ssl.data.checks.manifest import Manifest, ManifestRow
from prism_ssl.data.checks.quarantine import Quarantine
from prism_ssl.data.checks.verdict import check_scan
from prism_ssl.data.preflight import run_preflight
from prism_ssl.data.scan.nifti import open_scan
from prism_ssl.data.scan.read_errors import read_failure
from prism_ssl.data.scan.reject_reasons import RejectReason
from prism_ssl.data.table.series_file import resolve_nifti
from prism_ssl.errors import ArchiveUnreachable, HostOutOfMemory, ScanRejected
from prism_ssl.utils.isolated_map import tasks_at_once
from tests.support.broken_files import EXPECTED, BrokenKind, sound_bytes, sound_volume, write_broken

CONFIG = PrismConfig()


def _record(path: Path, modality: str = "CT") -> ScanRecord:
    name = path.name.split(".")[0]
    return ScanRecord(f"scan-{name}", f"series-{name}", modality, str(path), str(path.parent), f"subject-{name}")


def _sound(folder: Path, n: int) -> list[ScanRecord]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"sound{index}.nii" for index in range(n)]
    for index, path in enumerate(paths):
        path.write_bytes(sound_bytes(sound_volume() + index))
    return [_record(path) for path in paths]


def _log_and_check(record: ScanRecord, config: PrismConfig) -> ManifestRow:
    """check_scan, leaving a trace of what was looked at."""
    Path(record.series_path, f"{record.scan_id}.looked-at").touch()
    return check_scan(record, config)


def _die_on_sound1(record: ScanRecord, config: PrismConfig) -> ManifestRow:
    if record.scan_id == "scan-sound1":
        os.kill(os.getpid(), signal.SIGKILL)
    return check_scan(record, config)


def _looked_at(folder: Path) -> set[str]:
    """Scans checked since the last call."""
    traces = list(folder.glob("*.looked-at"))
    for trace in traces:
        trace.unlink()
    return {trace.stem for trace in traces}


# Reasons of the table, in the words of preflight. What preflight keeps on purpose is None.
OURS: dict[tuple[str, str], RejectReason | None] = {
    ("not-3d", "refuse"): RejectReason.NOT_3D,
    ("rgb-dtype", "refuse"): RejectReason.RGB_DTYPE,
    ("complex-dtype", "refuse"): RejectReason.COMPLEX_DTYPE,
    ("too-small", "refuse"): RejectReason.SHAPE_TOO_SMALL,
    ("too-few-slices", "policy"): RejectReason.TOO_FEW_SLICES,
    ("scout-single-slice", "refuse"): RejectReason.SCOUT_SINGLE_SLICE,
    ("label-map", "policy"): RejectReason.LABEL_MAP,
    ("not-anatomical", "policy"): RejectReason.NOT_ANATOMICAL,
    ("not-anatomical", "accept"): None,  # a grid phantom has no mark of its own
    ("wrong-modality", "policy"): RejectReason.CT_NOT_IN_HU,
    ("ct-not-in-hu", "policy"): RejectReason.CT_NOT_IN_HU,
    ("sheared-affine", "policy"): None,  # sampled in mm through the affine: nothing is wrong with it
    ("affine-singular", "refuse"): RejectReason.AFFINE_SINGULAR,
    ("affine-not-finite", "refuse"): RejectReason.AFFINE_NOT_FINITE,
    ("spacing-not-positive", "refuse"): RejectReason.SPACING_NOT_POSITIVE,
    ("no-orientation", "policy"): RejectReason.NO_ORIENTATION,
    ("truncated-data", "refuse"): RejectReason.TRUNCATED_DATA,
    ("truncated-gzip", "refuse"): RejectReason.TRUNCATED_GZIP,
    ("corrupt-gzip", "refuse"): RejectReason.CORRUPT_GZIP,
    ("corrupt-gzip", "policy"): RejectReason.CORRUPT_GZIP,
    ("not-a-nifti", "refuse"): RejectReason.NOT_A_NIFTI,
    ("constant-intensity", "refuse"): RejectReason.CONSTANT_INTENSITY,
    ("nan-filled", "refuse"): RejectReason.NAN_FILLED,
    ("non-finite-voxels", "policy"): RejectReason.NON_FINITE_VOXELS,
    ("more-than-one-file", "refuse"): RejectReason.MORE_THAN_ONE_FILE,
    ("no-file", "refuse"): RejectReason.NO_FILE,
    ("missing-path", "refuse"): RejectReason.MISSING_PATH,
}


def _table(shared_data: Path, name: str) -> list[dict[str, str]]:
    with (shared_data / name).open() as file:
        return list(csv.DictReader(file))


def _resolved(shared_data: Path, row: dict[str, str]) -> ScanRecord | UnresolvedRow:
    record = ScanRecord(row["series_path"], row["series_path"], row["modality"], "", row["series_path"], "")
    try:
        return replace(record, nifti_path=str(resolve_nifti(row["series_path"], shared_data)))
    except ScanRejected as rejected:
        return UnresolvedRow(record, rejected.reason, rejected.detail)


@pytest.mark.usefixtures("ray_local")
def test_every_bad_scan_of_the_collection_gets_its_reason(tmp_path: Path, shared_data: Path) -> None:
    rows = _table(shared_data, "bad/bad.csv")
    expected = {row["series_path"]: OURS[row["expected_reason"], row["verdict"]] for row in rows}
    resolved = [_resolved(shared_data, row) for row in rows]
    records = [item for item in resolved if isinstance(item, ScanRecord)]
    unresolved = [item for item in resolved if isinstance(item, UnresolvedRow)]
    result = run_preflight(records, unresolved, CONFIG, tmp_path)

    found = {row["scan_id"]: row["reason"] for row in pl.read_parquet(tmp_path / "manifest.parquet").to_dicts()}
    found |= {item.record.scan_id: item.reason for item in unresolved}
    assert len(rows) == 39
    assert found == expected
    assert (result.report.kept, result.report.rejected) == (2, 37)
    details = " ".join(pl.read_parquet(tmp_path / "manifest.parquet")["detail"].drop_nulls())
    assert str(shared_data) not in details


def test_the_good_scans_of_the_collection_are_kept_but_for_the_ct_not_in_hu(shared_data: Path) -> None:
    records = [
        item
        for row in _table(shared_data, "catalog.csv")
        if isinstance(item := _resolved(shared_data, row), ScanRecord)
    ]
    rejected = {row.scan_id: row.reason for record in records if (row := check_scan(record, CONFIG)).reason}
    assert len(records) == 34
    assert rejected == {"subjects/PM0004/ct_head_phantom_pitch": RejectReason.CT_NOT_IN_HU}


def test_the_median_of_every_ct_of_a_body_is_soft_tissue(shared_data: Path) -> None:
    rows = [row for row in _table(shared_data, "catalog.csv") if row["modality"] == "CT" and row["pmbb_id"] != "PM0004"]
    records = [item for row in rows if isinstance(item := _resolved(shared_data, row), ScanRecord)]
    medians = [open_scan(record.nifti_path).stats.median for record in records]
    assert len(medians) == 10
    assert min(medians) >= -50
    assert max(medians) <= 80


@pytest.mark.usefixtures("ray_local")
def test_the_report_is_as_the_guide_shows_it(tmp_path: Path) -> None:
    records = _sound(tmp_path, 3)
    records += [_record(write_broken(tmp_path, BrokenKind.SINGULAR_AFFINE), "MR")]
    records += [_record(write_broken(tmp_path / folder, BrokenKind.TINY)) for folder in "ab"]
    records[-1] = replace(records[-1], scan_id="scan-other")
    unresolved = [UnresolvedRow(replace(records[0], scan_id="scan-none", nifti_path=""), "no_file", "no file")]
    result = run_preflight(records, unresolved, CONFIG, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "preflight.json").read_text()) == {
        "kept": 3,
        "rejected": 4,
        "reasons": {"shape_too_small": 2, "affine_singular": 1, "no_file": 1},
        "modalities": {"CT": {"kept": 3, "rejected": 3}, "MR": {"kept": 0, "rejected": 1}},
        "quarantined": 0,
        "checked": 6,
        "reused": 0,
    }
    assert [scan.record for scan in result.kept] == records[:3]
    scan = open_scan(records[0].nifti_path)
    assert result.kept[0].stats == scan.stats
    assert result.kept[0].shape == scan.shape == (32, 32, 32)
    assert result.kept[0].spacing_mm == (2.0, 2.0, 2.0)
    assert result.kept[0].volume_bytes == scan.voxels.nbytes


@pytest.mark.usefixtures("ray_local")
def test_every_broken_kind_is_counted_and_none_stops_the_others(tmp_path: Path) -> None:
    records = [_record(write_broken(tmp_path, kind)) for kind in BrokenKind] + _sound(tmp_path, 2)
    run_preflight(records, [], CONFIG, tmp_path / "run")
    table = pl.read_parquet(tmp_path / "run" / "manifest.parquet")
    found = dict(zip(table["scan_id"], table["reason"], strict=True))
    assert found == {f"scan-{kind}": str(reason) for kind, reason in EXPECTED.items()} | {
        "scan-sound0": None,
        "scan-sound1": None,
    }


@pytest.mark.usefixtures("ray_local")
def test_a_second_run_reads_only_new_and_changed_files(tmp_path: Path) -> None:
    records, run = _sound(tmp_path, 4), tmp_path / "run"
    first = run_preflight(records[:3], [], CONFIG, run, check=_log_and_check)
    assert _looked_at(tmp_path) == {"scan-sound0", "scan-sound1", "scan-sound2"}
    again = run_preflight(records[:3], [], CONFIG, run, check=_log_and_check)
    assert _looked_at(tmp_path) == set()
    assert again.kept == first.kept
    assert (again.report.checked, again.report.reused) == (0, 3)

    Path(records[1].nifti_path).write_bytes(sound_bytes(sound_volume() + 9))
    changed = run_preflight(records, [], CONFIG, run, check=_log_and_check)
    assert _looked_at(tmp_path) == {"scan-sound1", "scan-sound3"}
    assert changed.kept[1].stats.median == first.kept[1].stats.median + 8
    assert (changed.report.checked, changed.report.reused) == (2, 2)


@pytest.mark.usefixtures("ray_local")
def test_other_limits_or_another_modality_ask_again_and_other_settings_do_not(tmp_path: Path) -> None:
    records, run = _sound(tmp_path, 2), tmp_path / "run"
    run_preflight(records, [], CONFIG, run)
    more_at_once = replace(CONFIG, preflight=PreflightConfig(concurrency=1), recipe="another")
    run_preflight(records, [], more_at_once, run, check=_log_and_check)
    assert _looked_at(tmp_path) == set()
    as_mr = [records[0], replace(records[1], modality="MR")]
    result = run_preflight(as_mr, [], CONFIG, run, check=_log_and_check)
    assert _looked_at(tmp_path) == {"scan-sound1"}
    assert result.report.reasons == {"not_anatomical": 1}
    thick = replace(CONFIG, preflight=PreflightConfig(min_slices=40))
    result = run_preflight(records, [], thick, run, check=_log_and_check)
    assert _looked_at(tmp_path) == {"scan-sound0", "scan-sound1"}
    assert result.report.reasons == {"shape_too_small": 2}


@pytest.mark.usefixtures("ray_local")
def test_a_killed_run_goes_on_from_its_parts(tmp_path: Path) -> None:
    records, run = _sound(tmp_path, 4), tmp_path / "run"
    killed = Manifest(run, flush_rows=2)
    for record in records[:3]:
        killed.add(check_scan(record, CONFIG))  # two rows are on disk, the third dies with the process
    assert not killed.path.exists()
    result = run_preflight(records, [], CONFIG, run, check=_log_and_check)
    assert _looked_at(tmp_path) == {"scan-sound2", "scan-sound3"}
    assert (result.report.kept, result.report.checked, result.report.reused) == (4, 2, 2)
    assert pl.read_parquet(killed.path).height == 4
    assert list((run / "manifest_parts").iterdir()) == []


def test_parts_are_written_after_some_rows_or_some_seconds(tmp_path: Path) -> None:
    now = 0.0
    manifest = Manifest(tmp_path / "run", flush_rows=3, flush_s=5.0, clock=lambda: now)
    parts = tmp_path / "run" / "manifest_parts"
    rows = [check_scan(record, CONFIG) for record in _sound(tmp_path, 5)]
    manifest.add(rows[0])
    assert len(list(parts.iterdir())) == 0
    now = 5.0
    manifest.add(rows[1])
    assert len(list(parts.iterdir())) == 1
    for row in rows[2:]:
        manifest.add(row)
    assert len(list(parts.iterdir())) == 2


@pytest.mark.usefixtures("ray_local")
def test_files_with_paths_are_for_their_owner_only(tmp_path: Path) -> None:
    run_preflight(_sound(tmp_path, 1), [], CONFIG, tmp_path / "run")
    assert stat.S_IMODE((tmp_path / "run" / "manifest.parquet").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "run" / "manifest_parts").stat().st_mode) == 0o700
    assert str(tmp_path) not in (tmp_path / "run" / "preflight.json").read_text()


@pytest.mark.usefixtures("ray_local")
def test_a_process_that_is_killed_costs_only_its_own_scan(tmp_path: Path) -> None:
    records, run = _sound(tmp_path, 40), tmp_path / "run"
    one_at_a_time = replace(CONFIG, preflight=PreflightConfig(concurrency=2))
    result = run_preflight(records, [], one_at_a_time, run, check=_die_on_sound1)
    assert result.report.kept == 39
    assert result.report.reasons == {"check_crashed": 1}
    healed = run_preflight(records, [], one_at_a_time, run, check=_log_and_check)
    assert _looked_at(tmp_path) == {"scan-sound1"}
    assert healed.report.kept == 40


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("for_good", [False, True])
def test_a_file_for_which_there_is_no_memory_is_tried_alone_and_has_no_verdict(tmp_path: Path, for_good: bool) -> None:
    records, run = _sound(tmp_path, 12), tmp_path / "run"

    def check(record: ScanRecord, config: PrismConfig) -> ManifestRow:
        trace = Path(record.series_path, f"{record.scan_id}.tried")
        if record.scan_id == "scan-sound1" and (for_good or not trace.exists()):
            trace.touch()
            raise read_failure(OSError(errno.ENOMEM, "Cannot allocate memory"))
        return check_scan(record, config)

    if for_good:
        with pytest.raises(
            HostOutOfMemory, match=r"preflight, with 1 of 12 files to read: no memory .* no scan was bl"
        ):
            run_preflight(records, [], CONFIG, run, check=check)
        assert set(pl.read_parquet(run / "manifest.parquet")["scan_id"]) == {r.scan_id for r in records} - {
            "scan-sound1"
        }
    else:
        assert run_preflight(records, [], CONFIG, run, check=check).report.kept == 12


@pytest.mark.usefixtures("ray_local")
def test_an_archive_that_goes_away_during_preflight_rejects_no_scan(tmp_path: Path) -> None:
    records = _sound(tmp_path / "volume", 12)

    def check(record: ScanRecord, config: PrismConfig) -> ManifestRow:
        with suppress(FileNotFoundError):
            Path(record.series_path).rename(tmp_path / "elsewhere")
        return check_scan(record, config)

    with pytest.raises(ArchiveUnreachable, match="is its volume mounted"):
        run_preflight(records, [], CONFIG, tmp_path / "run", check=check)
    (tmp_path / "elsewhere").rename(tmp_path / "volume")
    assert run_preflight(records, [], CONFIG, tmp_path / "run").report.kept == 12


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("cause", ["MemoryError: ", "ScanRejected: open_timed_out: not read after 120 s"])
def test_a_scan_that_could_not_be_reached_is_read_again_and_kept(tmp_path: Path, cause: str) -> None:
    records, run = _sound(tmp_path, 2), tmp_path / "run"
    run_preflight(records, [], CONFIG, run)
    status = Path(records[0].nifti_path).stat()
    quarantine = Quarantine(tmp_path / "quarantine.jsonl")
    quarantine.append(records[0].scan_id, "open", cause, status.st_size, status.st_mtime_ns)
    result = run_preflight(records, [], CONFIG, run, quarantine, check=_log_and_check)
    assert _looked_at(tmp_path) == {records[0].scan_id}
    assert (result.report.kept, result.report.quarantined) == (2, 0)


@pytest.mark.usefixtures("ray_local")
def test_a_file_that_vanishes_is_a_counted_rejection(tmp_path: Path) -> None:
    records = _sound(tmp_path, 2)
    Path(records[0].nifti_path).unlink()
    result = run_preflight(records, [], CONFIG, tmp_path / "run")
    assert result.report.reasons == {"missing_path": 1}
    assert [scan.record for scan in result.kept] == records[1:]


def test_what_nobody_foresaw_is_a_rejection_without_the_path(tmp_path: Path) -> None:
    record = replace(_record(tmp_path / "odd\0name.nii"), modality="CT")
    row = check_scan(record, CONFIG)
    assert row.reason == RejectReason.NIFTI_LOAD_FAILED
    assert re.fullmatch(r"ValueError: (stat: )?embedded null (byte|character in path)", str(row.detail))


@pytest.mark.usefixtures("ray_local")
def test_a_quarantined_scan_stays_out_until_its_file_changes(tmp_path: Path) -> None:
    records, run = _sound(tmp_path, 2), tmp_path / "run"
    path = Path(records[0].nifti_path)
    quarantine = Quarantine(tmp_path / "kept-here" / "quarantine.jsonl")
    quarantine.append("scan-sound0", "open", "corrupt_gzip: damaged", path.stat().st_size, path.stat().st_mtime_ns)
    result = run_preflight(records, [], CONFIG, run, quarantine, check=_log_and_check)
    assert _looked_at(tmp_path) == {"scan-sound1"}
    assert result.report.reasons == {"quarantined": 1}
    assert (result.report.quarantined, result.report.reused) == (1, 0)
    path.write_bytes(sound_bytes(sound_volume() + 3))
    result = run_preflight(records, [], CONFIG, run, quarantine, check=_log_and_check)
    assert _looked_at(tmp_path) == {"scan-sound0"}
    assert (result.report.kept, result.report.quarantined) == (2, 0)


def test_the_quarantine_keeps_the_latest_entry_and_drops_a_torn_line(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "quarantine.jsonl")
    assert quarantine.load() == {}
    quarantine.append("a", "open", "first", 1, 2)
    quarantine.append("b", "open", "other", 3, 4)
    quarantine.append("a", "extract", "second", 5, 6)
    with (tmp_path / "quarantine.jsonl").open("a") as file:
        file.write('{"scan_id": "c", "sta')
    entries = quarantine.load()
    assert set(entries) == {"a", "b"}
    assert (entries["a"].stage, entries["a"].cause, entries["a"].mtime_ns) == ("extract", "second", 6)
    assert stat.S_IMODE((tmp_path / "quarantine.jsonl").stat().st_mode) == 0o600


@pytest.mark.parametrize(("cores", "tasks"), [(2, 2), (64, 4)])
def test_a_cluster_with_more_cpus_than_cores_gets_a_task_for_each_core(
    ray_local: None, monkeypatch: pytest.MonkeyPatch, cores: int, tasks: int
) -> None:
    monkeypatch.setattr("prism_ssl.utils.isolated_map.usable_cpus", lambda: cores)
    assert tasks_at_once() == tasks
