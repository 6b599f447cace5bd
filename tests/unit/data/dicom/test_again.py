"""A second import touches only what is new, a killed one goes on, and ids stay as long as the salt does."""

from __future__ import annotations

import os
import resource
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydicom.dataset import FileDataset
from pydicom.uid import UID, generate_uid

from prism_ssl.data.dicom import converter
from prism_ssl.data.dicom.pseudonyms import SALT_FILE, pseudonyms_in
from prism_ssl.errors import CatalogError, ConfigError, MachineTrouble
from tests.support.dicom_files import PLANTED, SeriesPlan, ct, enhanced, mr, phantom, save, slices_of
from tests.support.dicom_imports import Item, catalog, imported, left_out


def _two_series(folder: Path) -> None:
    save(slices_of(ct()), folder / "ct")
    save(slices_of(mr()), folder / "mr")


def test_a_second_import_reads_and_converts_nothing(tmp_path: Path) -> None:
    _two_series(tmp_path / "in")
    first = imported(tmp_path)
    assert (first.read, first.converted) == (12, 2)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.nii.gz")}
    table = catalog(tmp_path)
    again = imported(tmp_path)
    assert (again.read, again.converted, again.volumes) == (0, 0, first.volumes)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.nii.gz")} == files
    assert catalog(tmp_path).equals(table)


def test_only_what_is_new_is_read_and_a_series_that_grows_is_converted_again(tmp_path: Path) -> None:
    plan = ct(uid=generate_uid(), voxels=phantom(9))
    paths = save(slices_of(plan), tmp_path / "in")
    later = [path.rename(tmp_path / path.name) for path in paths[6:]]
    imported(tmp_path)
    save(slices_of(mr()), tmp_path / "in" / "new")
    for path in later:
        path.rename(tmp_path / "in" / path.name)
    report = imported(tmp_path)
    assert (report.read, report.converted) == (9, 2)
    assert sorted(catalog(tmp_path)["slices"].to_list()) == [6, 9]
    assert len(list((tmp_path / "out").rglob("*.nii.gz"))) == 2


def test_a_series_that_becomes_none_leaves_the_archive(tmp_path: Path) -> None:
    plan = ct(uid=generate_uid())
    save(slices_of(plan), tmp_path / "in")
    imported(tmp_path)
    save(slices_of(plan)[3:5], tmp_path / "in", "again-{}")
    assert dict(imported(tmp_path).left_out) == {"doubled_slices": 1}
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == []


def test_dicom_that_is_deleted_leaves_its_volumes_in_the_archive(tmp_path: Path) -> None:
    paths = save(slices_of(ct()), tmp_path / "in")
    imported(tmp_path)
    for path in paths:
        path.unlink()
    save(slices_of(mr()), tmp_path / "in")
    assert imported(tmp_path).volumes == {"CT": 1, "MR": 1}


def _written_over(folder: Path, plan: SeriesPlan, time_ns: int) -> None:
    """Other content and time under the same names."""
    for path in save(slices_of(plan), folder):
        os.utime(path, ns=(0, time_ns))


def test_a_header_that_is_corrected_in_place_moves_its_volume(tmp_path: Path) -> None:
    datasets = slices_of(ct())
    save(datasets, tmp_path / "in")
    imported(tmp_path)
    wrong = catalog(tmp_path)["pmbb_id"].item()
    for dataset in datasets:
        dataset.PatientID = "the right one"
    save(datasets, tmp_path / "in")
    assert imported(tmp_path).volumes == {"CT": 1}
    assert catalog(tmp_path)["pmbb_id"].item() != wrong
    assert not (tmp_path / "out" / wrong).exists()


def test_a_folder_that_is_filled_anew_leaves_its_earlier_volumes_in_the_archive(tmp_path: Path) -> None:
    _written_over(tmp_path / "in", ct(), time_ns=1)
    imported(tmp_path)
    _written_over(tmp_path / "in", mr(), time_ns=2)
    assert imported(tmp_path).volumes == {"CT": 1, "MR": 1}
    assert imported(tmp_path, keep_descriptions=True).volumes == {"CT": 1, "MR": 1}


def test_files_that_cannot_be_reached_for_a_while_cost_nothing(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for path in save(slices_of(ct()), tmp_path / "mount"):
        (tmp_path / "in" / path.name).symlink_to(path)
    imported(tmp_path)
    (tmp_path / "mount").rename(tmp_path / "away")
    report = imported(tmp_path)
    assert (report.volumes, report.files) == ({"CT": 1}, {"not_readable": 6})
    (tmp_path / "away").rename(tmp_path / "mount")
    report = imported(tmp_path)
    assert (report.volumes, report.files, report.converted) == ({"CT": 1}, {}, 0)


def test_descriptions_are_reduced_though_their_dicom_is_gone(tmp_path: Path) -> None:
    save(slices_of(ct()), tmp_path / "in")
    imported(tmp_path, keep_descriptions=True)
    shutil.rmtree(tmp_path / "in")
    (tmp_path / "in").mkdir()
    assert imported(tmp_path, min_slices=12).volumes == {"CT": 1}
    assert catalog(tmp_path)["series_description"].to_list() == ["AX LUNG B60F"]


def test_a_file_of_frames_keeps_its_volume_when_others_join_its_series(tmp_path: Path) -> None:
    plan = ct(uid=generate_uid())
    later, first = sorted((enhanced(plan), enhanced(plan)), key=lambda each: str(each.SOPInstanceUID))
    for each in (later, first):
        each.StudyInstanceUID = plan.uid
    save([first], tmp_path / "in", "first")
    imported(tmp_path)
    before = catalog(tmp_path)["series_id"].to_list()
    save([later], tmp_path / "in", "later")
    assert imported(tmp_path).converted == 1
    assert set(before) < set(catalog(tmp_path)["series_id"])


def test_a_volume_that_was_deleted_is_made_again(tmp_path: Path) -> None:
    _two_series(tmp_path / "in")
    imported(tmp_path)
    gone = next((tmp_path / "out").rglob("*.nii.gz"))
    data = gone.read_bytes()
    gone.unlink()
    assert imported(tmp_path).converted == 1
    assert gone.read_bytes() == data


class _KilledError(Exception):
    pass


@pytest.mark.parametrize("after", [0, 5, 12, 13])
def test_an_import_that_is_killed_goes_on(after: int, tmp_path: Path) -> None:
    _two_series(tmp_path / "in")
    done = 0

    def killed(items: Sequence[Item], work: Callable[[Item], Item], _: int) -> Iterator[Item]:
        nonlocal done
        for item in items:
            if done == after:
                raise _KilledError
            done += 1
            yield work(item)

    with pytest.raises(_KilledError):
        imported(tmp_path, killed)
    report = imported(tmp_path)
    assert report.volumes == {"CT": 1, "MR": 1}
    assert catalog(tmp_path).height == 2


def _in_order(slices: list[FileDataset]) -> list[FileDataset]:
    """With image ids that go up from plane to plane, as most scanners give them."""
    for number, each in enumerate(slices):
        each.SOPInstanceUID = each.file_meta.MediaStorageSOPInstanceUID = UID(f"1.2.3.{number}")
    return slices


def test_another_setting_judges_again_without_converting_again(tmp_path: Path) -> None:
    save(slices_of(ct()), tmp_path / "in")
    save(_in_order(slices_of(ct(voxels=phantom(4)))), tmp_path / "in" / "thin")
    imported(tmp_path)
    assert catalog(tmp_path)["series_description"].to_list() == ["AX LUNG B60F"]
    report = imported(tmp_path, min_slices=4, keep_descriptions=True)
    assert (report.read, report.converted) == (0, 1)
    assert set(catalog(tmp_path)["series_description"]) == {PLANTED["SeriesDescription"]}


def test_ids_follow_from_the_salt_alone(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        save(slices_of(ct(uid="1.2.3.4")), tmp_path / name / "in" / name)
    imported(tmp_path / "a")
    with pytest.raises(ConfigError, match="the ledger of another archive"):
        imported(tmp_path / "b", private=tmp_path / "a" / "private")
    imported(tmp_path / "b", private=tmp_path / "a" / "private", out=tmp_path / "b" / "other")
    (tmp_path / "b" / "other").rename(tmp_path / "b" / "out")
    imported(tmp_path / "c")
    ids = [catalog(tmp_path / name).select("pmbb_id", "series_id", "study_id").row(0) for name in ("a", "b", "c")]
    assert ids[0] == ids[1]
    keys = sorted(path.name for path in (tmp_path / "a" / "private").glob("*.csv"))
    assert keys == ["other.key.csv", "out.key.csv"]
    assert set(ids[0]).isdisjoint(ids[2])
    salt = tmp_path / "a" / "private" / SALT_FILE
    assert [stat.S_IMODE(path.stat().st_mode) for path in (salt, salt.parent)] == [0o600, 0o700]
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in salt.parent.iterdir())


def test_an_archive_that_was_moved_goes_on(tmp_path: Path) -> None:
    save(slices_of(ct()), tmp_path / "a" / "in")
    imported(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    assert imported(tmp_path / "b").converted == 0


def test_a_lost_salt_is_not_replaced(tmp_path: Path) -> None:
    save(slices_of(ct()), tmp_path / "in")
    imported(tmp_path)
    (tmp_path / "private" / SALT_FILE).unlink()
    with pytest.raises(ConfigError, match="bring it back"):
        imported(tmp_path)
    shutil.rmtree(tmp_path / "private")
    with pytest.raises(ConfigError, match="bring it back"):
        imported(tmp_path)


def test_an_archive_keeps_to_its_private_folder(tmp_path: Path) -> None:
    save(slices_of(ct()), tmp_path / "in")
    imported(tmp_path)
    table = catalog(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    shutil.copytree(tmp_path / "in", tmp_path / "elsewhere" / "in")
    imported(tmp_path / "elsewhere", out=tmp_path / "elsewhere" / "other")
    with pytest.raises(ConfigError, match="were made with another salt"):
        imported(tmp_path, private=tmp_path / "elsewhere" / "private", out=tmp_path / "out")
    assert catalog(tmp_path).equals(table)


def test_a_table_that_no_import_wrote_is_kept(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "catalog.parquet").write_bytes(b"my own")
    with pytest.raises(ConfigError, match="was written by no import that"):
        imported(tmp_path)
    assert (tmp_path / "out" / "catalog.parquet").read_bytes() == b"my own"


def test_a_folder_of_other_files_does_not_become_the_private_one(tmp_path: Path) -> None:
    save(slices_of(ct())[:1], tmp_path / "in")
    (tmp_path / "in").chmod(0o755)
    with pytest.raises(ConfigError, match="holds other files"):
        imported(tmp_path, private=tmp_path / "in")
    assert stat.S_IMODE((tmp_path / "in").stat().st_mode) == 0o755


@contextmanager
def _files_of_at_most(size: int) -> Iterator[None]:
    """As on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_salt_that_could_not_be_written_is_made_later(tmp_path: Path) -> None:
    with _files_of_at_most(10), pytest.raises(OSError, match="File too large"):
        pseudonyms_in(tmp_path, begun=False)
    ids = pseudonyms_in(tmp_path, begun=False)
    assert ids.of("P", "1") == pseudonyms_in(tmp_path, begun=True).of("P", "1")


def test_a_ledger_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    imported(tmp_path)
    save(slices_of(ct()), tmp_path / "in")
    with (
        _files_of_at_most((tmp_path / "private" / "out.sqlite").stat().st_size),
        pytest.raises(MachineTrouble, match=r"the ledger in .* cannot be read or written"),
    ):
        imported(tmp_path)
    assert imported(tmp_path).volumes == {"CT": 1}


def test_a_folder_for_temporary_files_that_is_not_there_is_told(tmp_path: Path) -> None:
    save(slices_of(ct()), tmp_path / "in")
    (tmp_path / "scratch").write_text("in the way")
    with pytest.raises(MachineTrouble, match="--tmp-root must be a folder that all nodes see"):
        imported(tmp_path)


def test_a_modality_that_is_none_empties_no_archive(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--modality CT,MR is no modality"):
        imported(tmp_path, modalities=("CT,MR",))


def test_a_damaged_ledger_can_be_moved_away_and_the_ids_stay(tmp_path: Path) -> None:
    save(slices_of(ct()), tmp_path / "in")
    imported(tmp_path)
    ids = catalog(tmp_path)["series_id"].to_list()
    ledger = tmp_path / "private" / "out.sqlite"
    ledger.write_bytes(b"Quenneville" * 1000)
    with pytest.raises(ConfigError, match="if it is damaged, move it away"):
        imported(tmp_path)
    ledger.unlink()
    imported(tmp_path)
    assert catalog(tmp_path)["series_id"].to_list() == ids


def test_series_without_a_patient_are_told(tmp_path: Path) -> None:
    for number in range(2):
        save(slices_of(ct(tags={"PatientID": ""})), tmp_path / "in" / str(number))
    report = imported(tmp_path)
    assert (report.without_patient, report.patients) == (2, 2)


def test_a_full_disk_stops_the_import_and_condemns_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _two_series(tmp_path / "in")
    with monkeypatch.context() as patched:
        patched.setattr(converter, "dcm2niix", lambda: "/bin/false")
        patched.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
        with pytest.raises(MachineTrouble, match=r"are free for temporary files.*; the same command goes on"):
            imported(tmp_path)
    assert imported(tmp_path).volumes == {"CT": 1, "MR": 1}


def test_an_archive_that_cannot_be_written_condemns_nothing(tmp_path: Path) -> None:
    save(slices_of(ct()), tmp_path / "in")
    imported(tmp_path)
    patient = next(path for path in (tmp_path / "out").iterdir() if path.is_dir())
    shutil.rmtree(patient)
    patient.write_text("in the way")
    with pytest.raises(MachineTrouble, match="cannot be written to the archive"):
        imported(tmp_path)
    patient.unlink()
    assert imported(tmp_path).converted == 1


def test_what_cannot_begin_says_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CatalogError, match="does not exist; needed: folders"):
        imported(tmp_path)
    (tmp_path / "in").mkdir()
    assert imported(tmp_path).volumes.total() == left_out(tmp_path).height == 0
    converter.converter_version.cache_clear()
    monkeypatch.setattr(converter, "dcm2niix", lambda: None)
    with pytest.raises(ConfigError, match="pip install 'prism-ssl\\[dicom\\]'"):
        imported(tmp_path)
