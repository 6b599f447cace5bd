"""A second import touches only what is new, a killed one goes on, and ids stay as long as the salt does."""

from __future__ import annotations

import os
import resource
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from pydicom.dataset import FileDataset
from pydicom.uid import UID, generate_uid

from prism_ssl.data.dicom import catalog_rows, converter
from prism_ssl.data.dicom.files import Found, read_file
from prism_ssl.data.dicom.instance import Instance
from prism_ssl.data.dicom.pseudonyms import SALT_FILE, pseudonyms_in
from prism_ssl.errors import CatalogError, ConfigError, MachineTrouble
from tests.support.dicom_files import PLANTED, SeriesPlan, ct, enhanced, mr, phantom, save, slices_of
from tests.support.dicom_imports import Item, catalog, imported, left_out, scans


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


def test_a_copy_costs_nothing_whether_it_is_whole_or_cut(tmp_path: Path) -> None:
    paths = save(slices_of(ct()), tmp_path / "in" / "b")
    imported(tmp_path)
    for folder, lost in (("a", 0), ("c", 50)):  # before and behind it in the order of names
        shutil.copytree(tmp_path / "in" / "b", tmp_path / "in" / folder)
        for path in paths:
            data = path.read_bytes()
            (tmp_path / "in" / folder / path.name).write_bytes(data[: len(data) - lost])
        report = imported(tmp_path)
        assert (report.volumes, report.converted, report.left_out) == ({"CT": 1}, 0, {})


@pytest.mark.parametrize("cut", ["a", "b"])
def test_of_two_copies_the_whole_one_is_converted(cut: str, tmp_path: Path) -> None:
    save(slices_of(ct()), tmp_path / "in" / "a")
    shutil.copytree(tmp_path / "in" / "a", tmp_path / "in" / "b")
    path = tmp_path / "in" / cut / "3.dcm"
    path.write_bytes(path.read_bytes()[:-50])
    assert imported(tmp_path).volumes == {"CT": 1}


def test_a_slice_exported_again_takes_no_volume_whose_dicom_is_gone(tmp_path: Path) -> None:
    paths = save(slices_of(ct(voxels=phantom(10))), tmp_path / "in" / "a")
    imported(tmp_path)
    files = [path.read_bytes() for path in paths]
    data = files[4]
    shutil.rmtree(tmp_path / "in" / "a")
    (tmp_path / "in" / "again.dcm").write_bytes(data)
    report = imported(tmp_path, keep_descriptions=True)
    assert (report.volumes, report.converted, report.left_out) == ({"CT": 1}, 0, {})
    assert catalog(tmp_path)["series_description"].to_list() == [PLANTED["SeriesDescription"]]
    (tmp_path / "in" / "again.dcm").write_bytes(data[:-50])  # it is no file of the volume that is in the archive
    assert imported(tmp_path).volumes == {"CT": 1}
    for number, whole in enumerate(files):
        (tmp_path / "in" / f"{number}.dcm").write_bytes(whole if number != 4 else whole[:-50])
    assert imported(tmp_path).volumes == {"CT": 1}


@pytest.mark.parametrize(("slices", "kept"), [(6, 10), (12, 12)])
def test_a_series_exported_under_new_ids_replaces_its_volume_if_it_has_as_many_files(
    slices: int, kept: int, tmp_path: Path
) -> None:
    plan = ct(uid=generate_uid(), voxels=phantom(10))
    save(slices_of(plan), tmp_path / "in" / "a")
    imported(tmp_path)
    shutil.rmtree(tmp_path / "in" / "a")
    save(slices_of(SeriesPlan(**vars(plan) | {"voxels": phantom(slices)})), tmp_path / "in" / "b")
    imported(tmp_path)
    assert catalog(tmp_path)["slices"].to_list() == [kept]


def test_a_file_that_is_there_and_becomes_bad_takes_its_volume_though_others_are_gone(tmp_path: Path) -> None:
    uid = generate_uid()
    sharp, soft = (
        save(slices_of(ct(uid=uid, tags={"ConvolutionKernel": kernel})), tmp_path / "in" / kernel)
        for kernel in ("B70f", "B30f")
    )
    imported(tmp_path)
    for path in (sharp[0], soft[0]):
        path.unlink()
    soft[1].write_bytes(soft[1].read_bytes()[:-50])
    report = imported(tmp_path)
    assert (catalog(tmp_path)["kernel"].to_list(), dict(report.left_out)) == (["B70f"], {"truncated_pixels": 1})
    assert len(list((tmp_path / "out").rglob("*.nii.gz"))) == 1


@pytest.mark.parametrize("bad", ["cut", "placeless", "burned in"])
@pytest.mark.parametrize("phases", [1, 2])
def test_a_bad_file_takes_no_volume_to_which_it_does_not_belong(phases: int, bad: str, tmp_path: Path) -> None:
    uid = generate_uid()
    plans = [ct(uid=uid, voxels=phantom(9, seed=i), tags={"AcquisitionNumber": i}) for i in range(phases)]
    save(slices_of(plans[0])[:8], tmp_path / "in" / "1")
    if phases == 2:
        save(slices_of(plans[1])[:8], tmp_path / "in" / "2")
    imported(tmp_path)
    before = catalog(tmp_path)
    shutil.rmtree(tmp_path / "in" / "1")
    data = slices_of(plans[-1])[8]
    if bad == "placeless":
        del data.ImagePositionPatient
    if bad == "burned in":
        data.BurnedInAnnotation = "YES"
    path = save([data], tmp_path / "in" / "2", "new")[0]
    path.write_bytes(path.read_bytes()[: -50 if bad == "cut" else None])
    imported(tmp_path)
    assert catalog(tmp_path).equals(before)
    assert len(scans(tmp_path)) == phases


def test_a_bad_file_takes_its_own_volume_alone_where_the_dicom_of_the_other_is_gone(tmp_path: Path) -> None:
    uid = generate_uid()
    first, second = (
        save(slices_of(ct(uid=uid, voxels=phantom(8, seed=i), tags={"AcquisitionNumber": i})), tmp_path / "in" / str(i))
        for i in (1, 2)
    )
    imported(tmp_path)
    for path in first:
        path.unlink()
    second[3].write_bytes(second[3].read_bytes()[:-50])
    report = imported(tmp_path)
    assert (report.volumes, dict(report.left_out)) == ({"CT": 1}, {"truncated_pixels": 1})
    assert len(scans(tmp_path)) == 1


def test_a_phase_stays_as_it_is_when_the_dicom_of_the_other_is_gone(tmp_path: Path) -> None:
    uid = generate_uid()
    for phase in (1, 2):
        plan = ct(uid=uid, voxels=phantom(seed=phase), tags={"AcquisitionNumber": phase})
        save(slices_of(plan), tmp_path / "in" / str(phase))
    imported(tmp_path)
    before = catalog(tmp_path)
    shutil.rmtree(tmp_path / "in" / "1")
    report = imported(tmp_path, min_slices=4)
    assert (report.converted, report.left_out) == (0, {})
    assert catalog(tmp_path).equals(before)


def _in_order(slices: list[FileDataset]) -> list[FileDataset]:
    """With image ids that go up from plane to plane, as most scanners give them."""
    for number, each in enumerate(slices):
        each.SOPInstanceUID = each.file_meta.MediaStorageSOPInstanceUID = UID(f"1.2.3.{1000 + number}")
    return slices


def _numbered(root: str) -> Callable[[FileDataset, int], None]:
    """A ``SeriesPlan.change``: image ids below ``root``."""

    def change(dataset: FileDataset, number: int) -> None:
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID(f"{root}.{number + 1}")

    return change


def _twice(tags: dict[str, list[int]], uid: str, **second: Any) -> tuple[list[FileDataset], list[FileDataset]]:
    """Two volumes of one series: 6 slices, and 12 with other values of ``tags`` and ``second``."""
    first, other = ({name: values[i] for name, values in tags.items()} for i in (0, 1))
    slices = slices_of(mr(uid=uid, tags=first))
    return slices, _in_order([*slices, *slices_of(mr(uid=uid, voxels=phantom(12, seed=1), tags=other, **second))])[6:]


@pytest.mark.parametrize(
    ("tags", "second"),
    [
        ({}, {"along_column": (0, 0, -1)}),
        ({"AcquisitionNumber": [1, 2]}, {}),
        ({}, {"origin_mm": (-20.0, 269.0, -40.0)}),
    ],
    ids=["orientation", "phase", "station"],
)
def test_what_is_left_of_a_volume_takes_no_other_place_than_its_own(
    tags: dict[str, list[int]], second: dict[str, Any], tmp_path: Path
) -> None:
    first, other = _twice(tags, generate_uid(), **second)
    save(first, tmp_path / "in" / "1")
    paths = save(other, tmp_path / "in" / "2")
    imported(tmp_path)
    before = catalog(tmp_path)
    assert sorted(before["slices"].to_list()) == [6, 12]
    shutil.rmtree(tmp_path / "in" / "1")
    for path in paths[:2]:
        path.unlink()
    report = imported(tmp_path, min_slices=4)
    assert (report.converted, catalog(tmp_path).equals(before)) == (0, True)


def test_what_is_left_of_a_volume_is_kept_beside_one_that_is_whole(tmp_path: Path) -> None:
    first, other = _twice({}, generate_uid(), along_column=(0, 0, -1))
    save(first, tmp_path / "in" / "1")
    paths = save(other[:3], tmp_path / "in" / "2")
    imported(tmp_path)
    paths[2].unlink()
    save(other[3:], tmp_path / "in" / "3")
    with_gap = imported(tmp_path)
    assert (catalog(tmp_path)["slices"].to_list(), dict(with_gap.left_out)) == ([6], {"missing_slices": 1})
    paths[0].unlink()
    paths[1].unlink()
    imported(tmp_path, min_slices=4)
    assert sorted(catalog(tmp_path)["slices"].to_list()) == [6, 9]


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


def test_files_whose_readers_are_killed_are_read_by_the_next_import(tmp_path: Path) -> None:
    save(slices_of(ct()), tmp_path / "in")
    assert imported(tmp_path, lambda *_: iter(())).files == {"not_readable": 6}
    assert imported(tmp_path).volumes == {"CT": 1}


def _killed_converting(done: bool) -> Callable[[Sequence[Item], Callable[[Item], Item], int], Iterator[Item]]:
    """A ``Spread`` that ends at the first conversion, before it or, if ``done``, right after it."""

    def spread(items: Sequence[Item], work: Callable[[Item], Item], _: int) -> Iterator[Item]:
        for item in items:
            if "job" in item and not done:
                raise _KilledError
            row = work(item)
            if "job" in item:
                raise _KilledError
            yield row

    return spread


@pytest.mark.parametrize("there", [True, False])
def test_a_series_that_grows_keeps_its_volume_until_the_next_one_is_made(there: bool, tmp_path: Path) -> None:
    slices = slices_of(ct(voxels=phantom(12)))
    save(slices[:10], tmp_path / "in" / "1")
    imported(tmp_path)
    before = catalog(tmp_path)
    save(slices[10:], tmp_path / "in" / "2")
    with pytest.raises(_KilledError):
        imported(tmp_path, _killed_converting(done=False))
    if there:
        assert imported(tmp_path).converted == 1
        assert catalog(tmp_path)["slices"].to_list() == [12]
        return
    shutil.rmtree(tmp_path / "in" / "1")
    assert imported(tmp_path).left_out == {}
    assert catalog(tmp_path).equals(before)


def test_dicom_that_is_deleted_before_its_conversion_takes_no_volume(tmp_path: Path) -> None:
    slices = slices_of(ct(voxels=phantom(12)))
    save(slices[:10], tmp_path / "in")
    imported(tmp_path)
    before = catalog(tmp_path)
    paths = save(slices[10:], tmp_path / "in", "new-{}")

    def deleting(items: Sequence[Item], work: Callable[[Item], Item], _: int) -> Iterator[Item]:
        for item in items:
            if "job" in item:
                paths[0].rename(tmp_path / "away")
            yield work(item)

    assert imported(tmp_path, deleting).left_out == {}
    assert catalog(tmp_path).equals(before)
    (tmp_path / "away").rename(paths[0])
    assert imported(tmp_path).converted == 1
    assert catalog(tmp_path)["slices"].to_list() == [12]


@pytest.mark.parametrize("reason", ["conversion_crashed", "not_readable", "conversion_timed_out"])
def test_a_conversion_that_fails_for_a_while_leaves_the_earlier_volume(reason: str, tmp_path: Path) -> None:
    slices = slices_of(ct(voxels=phantom(12)))
    save(slices[:10], tmp_path / "in" / "1")
    imported(tmp_path)
    before = catalog(tmp_path)
    save(slices[10:], tmp_path / "in" / "2")

    def failing(items: Sequence[Item], work: Callable[[Item], Item], _: int) -> Iterator[Item]:
        for item in items:
            if "job" not in item:
                yield work(item)
            elif reason != "conversion_crashed":  # of one that kills its task there is no row
                yield {"key": item["key"], "reason": reason, "detail": "", "trouble": ""}

    imported(tmp_path, failing)
    assert catalog(tmp_path).equals(before)
    assert len(scans(tmp_path)) == 1
    assert imported(tmp_path).converted == 1
    assert catalog(tmp_path)["slices"].to_list() == [12]


def test_a_volume_that_was_made_and_not_told_stays_though_its_dicom_is_deleted(tmp_path: Path) -> None:
    save(slices_of(ct()), tmp_path / "in")
    with pytest.raises(_KilledError):
        imported(tmp_path, _killed_converting(done=True))
    shutil.rmtree(tmp_path / "in")
    (tmp_path / "in").mkdir()
    assert imported(tmp_path).volumes == {"CT": 1}
    assert len(scans(tmp_path)) == 1


def test_a_volume_that_was_made_and_not_told_stays_though_a_slice_is_deleted(tmp_path: Path) -> None:
    paths = save(slices_of(ct(voxels=phantom(10))), tmp_path / "in")
    with pytest.raises(_KilledError):
        imported(tmp_path, _killed_converting(done=True))
    paths[3].unlink()
    assert imported(tmp_path, keep_descriptions=True).left_out == {}
    assert catalog(tmp_path)["slices"].to_list() == [10]
    assert len(scans(tmp_path)) == 1


def test_a_table_lists_no_volume_that_is_not_there(tmp_path: Path) -> None:
    _two_series(tmp_path / "in")
    imported(tmp_path)
    gone = catalog(tmp_path)["series_path"].item(0)
    shutil.rmtree(tmp_path / "out" / gone)
    shutil.rmtree(tmp_path / "in")
    (tmp_path / "in").mkdir()
    assert imported(tmp_path).volumes.total() == 1
    assert gone not in catalog(tmp_path)["series_path"]


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


def _renamed(base: Path) -> dict[str, Path]:
    """Archive and private folder under new names, and the DICOM files gone."""
    shutil.rmtree(base / "in")
    save(slices_of(mr()), base / "in")
    places = {"out": base / "out2", "private": base / "private2"}
    for name, place in places.items():
        (base / name).rename(place)
    return places


def test_an_archive_that_was_renamed_goes_on_with_its_ledger(tmp_path: Path) -> None:
    save(slices_of(ct()), tmp_path / "in")
    imported(tmp_path)
    places = _renamed(tmp_path)
    assert imported(tmp_path, **places).volumes == {"CT": 1, "MR": 1}
    assert pl.read_parquet(places["out"] / "catalog.parquet").height == 2
    names = {path.name for path in places["private"].iterdir()}
    assert names == {".lock", SALT_FILE, "out2.sqlite", "out2.key.csv"}
    assert pl.read_csv(places["private"] / "out2.key.csv").height == 2


def test_a_renamed_archive_takes_no_ledger_of_another_one(tmp_path: Path) -> None:
    save(slices_of(ct()), tmp_path / "in")
    imported(tmp_path)
    (tmp_path / "other" / "in").mkdir(parents=True)
    save(slices_of(ct()), tmp_path / "other" / "in")
    imported(tmp_path / "other", private=tmp_path / "private", out=tmp_path / "deleted")
    shutil.rmtree(tmp_path / "deleted")
    places = _renamed(tmp_path)
    (places["private"] / "out.sqlite").unlink()
    assert imported(tmp_path, **places).volumes == {"CT": 1, "MR": 1}
    assert (places["private"] / "deleted.sqlite").exists()


def test_an_archive_takes_no_ledger_that_lacks_a_volume_of_its_table(tmp_path: Path) -> None:
    _two_series(tmp_path / "in")
    imported(tmp_path)
    before = catalog(tmp_path)
    imported(tmp_path, out=tmp_path / "mr", modalities=("MR",))
    shutil.rmtree(tmp_path / "mr")
    (tmp_path / "private" / "out.sqlite").unlink()
    shutil.rmtree(tmp_path / "in" / "ct")
    imported(tmp_path)
    assert catalog(tmp_path).equals(before)
    assert pl.read_csv(tmp_path / "private" / "out.key.csv").height == 2


def test_a_ledger_that_may_be_that_of_a_renamed_archive_is_not_passed_over(tmp_path: Path) -> None:
    save(slices_of(ct()), tmp_path / "in")
    imported(tmp_path)
    places = _renamed(tmp_path)
    table = (places["out"] / "catalog.parquet").read_bytes()
    (places["private"] / "out.sqlite").write_bytes(b"Quenneville" * 1000)
    with pytest.raises(ConfigError, match=r"cannot be told whose ledger .*out\.sqlite is.*move"):
        imported(tmp_path, **places)
    assert (places["out"] / "catalog.parquet").read_bytes() == table
    (places["private"] / "out.sqlite").unlink()
    assert imported(tmp_path, **places).volumes == {"CT": 1, "MR": 1}
    assert pl.read_csv(places["private"] / "out2.key.csv").height == 2


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


def test_a_folder_of_dicom_does_not_become_the_archive(tmp_path: Path) -> None:
    save(slices_of(ct())[:1], tmp_path / "in")
    with pytest.raises(ConfigError, match="is the archive, which is not searched"):
        imported(tmp_path, out=tmp_path / "in")
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["0.dcm"]


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


def test_tables_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    save(slices_of(ct()), tmp_path / "in")
    imported(tmp_path)
    table = catalog(tmp_path)
    save(slices_of(mr())[:1], tmp_path / "in", "other{}")
    with _files_of_at_most(1000), pytest.raises(MachineTrouble, match=r"the tables in .* cannot be written"):
        catalog_rows.write_tables(tmp_path / "out", table.to_dicts(), [])
    assert catalog(tmp_path).equals(table)
    assert imported(tmp_path).left_out == {"single_slice": 1}


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


def test_without_a_ledger_volumes_stay_though_their_dicom_is_gone(tmp_path: Path) -> None:
    _two_series(tmp_path / "in")
    imported(tmp_path, keep_descriptions=True)
    ids, key = set(catalog(tmp_path)["series_id"]), pl.read_csv(tmp_path / "private" / "out.key.csv")
    (tmp_path / "private" / "out.sqlite").unlink()
    shutil.rmtree(tmp_path / "in" / "ct")
    report = imported(tmp_path)
    assert (report.volumes, report.converted) == ({"CT": 1, "MR": 1}, 1)
    assert imported(tmp_path).converted == 0
    assert set(catalog(tmp_path)["series_id"]) == ids
    assert set(catalog(tmp_path)["series_description"]) == {"AX LUNG B60F"}
    assert pl.read_csv(tmp_path / "private" / "out.key.csv").sort("series_id").equals(key.sort("series_id"))
    save(slices_of(ct(uid="1.2.3")), tmp_path / "in")
    assert imported(tmp_path).volumes == {"CT": 2, "MR": 1}


def test_a_key_that_another_program_saved_ends_no_import(tmp_path: Path) -> None:
    _two_series(tmp_path / "in")
    imported(tmp_path)
    private = tmp_path / "private"
    (private / "out.sqlite").unlink()
    shutil.rmtree(tmp_path / "in" / "ct")
    key = private / "out.key.csv"
    key.write_bytes(key.read_bytes().replace(b"/in/ct", b"/in/M\xfcller"))  # Latin-1, as of a spreadsheet
    (private / "other.key.csv").write_bytes(b'"' + b"x" * 200_000)  # no end of a field
    for _ in range(2):
        assert imported(tmp_path).volumes == {"CT": 1, "MR": 1}
        assert {Path(folder).name for folder in pl.read_csv(key)["folder"]} == {"mr", "M\\xfcller"}
    whole = b'"' + b"x" * 200_000
    key.write_bytes(whole)
    with pytest.raises(ConfigError, match=r"out\.key\.csv cannot be read .*; needed: a whole CSV file.*move it away"):
        imported(tmp_path)
    assert key.read_bytes() == whole


@pytest.mark.parametrize(("left", "again"), [(1, 0), (7, 0), (10, 2)])
def test_without_a_ledger_what_is_left_of_a_series_takes_no_volume(left: int, again: int, tmp_path: Path) -> None:
    datasets = slices_of(ct(voxels=phantom(10)))
    paths = save(datasets, tmp_path / "in")
    imported(tmp_path)
    before = catalog(tmp_path)
    (tmp_path / "private" / "out.sqlite").unlink()
    for path in paths[left:]:
        path.unlink()
    for each in datasets[:again]:
        each.InstanceNumber = 99
    save(datasets[:again], tmp_path / "in", "again-{}")  # at the place of others: doubled
    for _ in range(2):
        report = imported(tmp_path)
        assert (report.converted, catalog(tmp_path).equals(before)) == (0, True)
        assert len(list((tmp_path / "out").rglob("*.nii.gz"))) == 1


def test_without_a_ledger_a_series_that_grew_is_converted(tmp_path: Path) -> None:
    datasets = slices_of(ct(voxels=phantom(10)))
    save(datasets[:8], tmp_path / "in")
    imported(tmp_path)
    (tmp_path / "private" / "out.sqlite").unlink()
    save(datasets[8:], tmp_path / "in", "new-{}")
    assert imported(tmp_path).converted == 1
    assert catalog(tmp_path)["slices"].to_list() == [10]


@pytest.mark.parametrize("with_ledger", [True, False])
def test_no_other_orientation_takes_the_place_of_a_volume_whose_dicom_is_gone(
    with_ledger: bool, tmp_path: Path
) -> None:
    first, other = _twice({}, generate_uid(), along_column=(0, 0, -1))
    save(first, tmp_path / "in" / "1")
    if with_ledger:
        save(other[1:], tmp_path / "in" / "2")
    imported(tmp_path)
    shutil.rmtree(tmp_path / "in" / "1")
    if not with_ledger:
        (tmp_path / "private" / "out.sqlite").unlink()
    before = set(catalog(tmp_path)["plane"])
    other[0].SOPInstanceUID = other[0].file_meta.MediaStorageSOPInstanceUID = UID("1.2.3.0")  # the first of all
    save(other, tmp_path / "in" / "2")
    imported(tmp_path)
    assert "axial" in before & set(catalog(tmp_path)["plane"])


def test_another_orientation_of_the_same_size_gives_no_volume_its_row(tmp_path: Path) -> None:
    axial = mr(uid=generate_uid(), voxels=phantom(10, 10, 10), spacing_mm=(2, 2, 2))
    sagittal = replace(axial, along_row=(0, 1, 0), along_column=(0, 0, -1))
    paths = save(slices_of(replace(axial, change=_numbered("1.2.5"))), tmp_path / "in", "1-{}")
    imported(tmp_path)
    before = catalog(tmp_path)
    for path in paths:
        path.unlink()
    save(slices_of(replace(sagittal, change=_numbered("1.2.3"))), tmp_path / "in", "2-{}")  # their ids come first
    imported(tmp_path)
    assert catalog(tmp_path).filter(pl.col("plane") == "axial").equals(before)


@pytest.mark.parametrize("dataset", [slices_of(ct())[0], enhanced(mr())])
def test_a_header_comes_back_from_the_ledger_as_it_was(dataset: FileDataset, tmp_path: Path) -> None:
    path = save([dataset], tmp_path)[0]
    (known,) = read_file(Found(str(path), path.stat().st_size, 1)).instances
    assert Instance.from_json(known.to_json()) == known


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
    with pytest.raises(ConfigError, match=r"make install, or pip install -e '\.\[dicom\]'"):
        imported(tmp_path)
