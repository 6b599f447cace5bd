"""A run goes on with the patients that it was begun with, whatever its table has become."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest

from prism_ssl.config.defaults import apply_overrides
from prism_ssl.config.schema import PrismConfig
from prism_ssl.data.archive import Archive, manifest_hash
from prism_ssl.errors import BatchDoesNotFit, RunFolderError
from prism_ssl.train.resume.starting_point import StartingPoint, continued
from prism_ssl.train.run.folder import RunFolder
from prism_ssl.utils.fs import FolderLock
from tests.support.archives import CONFIG, archive


def sides(found: Archive) -> tuple[set[str], set[str]]:
    return (
        {each.record.subject_id for each in itertools.chain(*found.shards)},
        {each.record.subject_id for each in found.held_out},
    )


def folder(path: Path, before: PrismConfig | None = CONFIG) -> RunFolder:
    return RunFolder(path, path / "last.ckpt", FolderLock(path), before)


def test_held_out_patients_who_leave_the_table_are_missed_and_not_replaced(tmp_path: Path) -> None:
    begun = archive(list(range(20)))
    trained, held_out = sides(begun)
    left = archive([patient for patient in range(20) if f"p{patient}" in trained])
    assert sides(left)[1] & trained  # a split made anew holds out who was trained on
    start = StartingPoint(10, tmp_path / "last.ckpt", split=begun.split)
    found, earlier, told = continued(left, start, folder(tmp_path), CONFIG)
    assert sides(found) == (trained, set())
    assert earlier == begun.split
    assert told is not None
    assert "held out: 8 scans are gone and 0 are new (8 patients are gone, 0 are new)" in told
    assert "no held-out patient is left" in told
    assert "Training patients stay in training" in told
    back, _, _ = continued(
        begun, dataclasses.replace(start, split=found.split.joined(earlier)), folder(tmp_path), CONFIG
    )
    assert sides(back) == (trained, held_out)


def test_the_same_scans_at_another_place_go_on_without_a_word(tmp_path: Path) -> None:
    begun = archive(list(range(20)))
    start = StartingPoint(10, tmp_path / "last.ckpt", split=begun.split)
    found, _, told = continued(archive(list(range(20)), "/elsewhere/table.csv"), start, folder(tmp_path), CONFIG)
    assert told is None
    assert manifest_hash(itertools.chain(*found.shards), found.held_out) == manifest_hash(
        itertools.chain(*begun.shards), begun.held_out
    )


def test_another_table_is_refused_also_under_the_same_path(tmp_path: Path) -> None:
    start = StartingPoint(10, tmp_path / "last.ckpt", split=archive(list(range(20))).split)
    match = r"was trained on 12 patients, and none of them is in /a/catalog.csv: it is another table; pass the table"
    with pytest.raises(RunFolderError, match=match):
        continued(archive(list(range(100, 120))), start, folder(tmp_path), CONFIG)


def test_too_few_trained_patients_left_is_an_error_and_no_reason_to_train_on_held_out_ones(tmp_path: Path) -> None:
    begun = archive(list(range(20)))
    start = StartingPoint(10, tmp_path / "last.ckpt", split=begun.split)
    left = dataclasses.replace(begun, shards=[begun.shards[0][:1]])
    with pytest.raises(BatchDoesNotFit, match="1 training scans"):
        continued(left, start, folder(tmp_path), CONFIG)


def test_a_run_that_begins_takes_the_split_as_it_is(tmp_path: Path) -> None:
    begun = archive(list(range(20)))
    assert continued(begun, StartingPoint(), folder(tmp_path), CONFIG) == (begun, None, None)


@pytest.mark.parametrize("spelt", ["/a/catalog.csv", "/a/b/../catalog.csv", "catalog.csv"])
def test_a_run_of_an_earlier_version_goes_on_and_says_that_nothing_is_proven(tmp_path: Path, spelt: str) -> None:
    begun, start = archive(list(range(20))), StartingPoint(10, tmp_path / "last.ckpt")
    before = apply_overrides(CONFIG, {"data.catalog_path": spelt})
    found, earlier, told = continued(begun, start, folder(tmp_path, before), CONFIG)
    assert sides(found) == sides(begun)
    assert earlier is not None
    assert not earlier.proven
    assert told is not None
    assert "did not record its split" in told


def test_a_run_of_an_earlier_version_is_not_continued_on_another_table(tmp_path: Path) -> None:
    before = apply_overrides(CONFIG, {"data.catalog_path": "/a/other.csv"})
    with pytest.raises(RunFolderError, match=r"data.catalog_path: '/a/other.csv' -> '/a/catalog.csv'"):
        continued(archive(list(range(20))), StartingPoint(1, tmp_path), folder(tmp_path, before), CONFIG)
