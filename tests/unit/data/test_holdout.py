from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass
from pathlib import Path

import pytest

from prism_ssl.contracts import ScanRecord
from prism_ssl.data.holdout import Split, listed_patients, split_by_patient
from prism_ssl.errors import CatalogError
from prism_ssl.utils.hashing import short_id
from tests.support.catalog_tables import archive_rows, chosen, load, write


@dataclass(frozen=True)
class Series:
    name: str
    patient: str


def series_of(patients: int, each: int = 3) -> list[Series]:
    return [Series(f"{patient}/{number}", f"p{patient}") for patient in range(patients) for number in range(each)]


def split(scans: list[Series], fraction: float, min_series: int, seed: int = 0) -> tuple[list[Series], list[Series]]:
    return split_by_patient(scans, fraction, min_series, seed, subject_of=lambda scan: scan.patient)


@pytest.mark.parametrize(("fraction", "min_series"), [(0.05, 8), (0.5, 0), (0.0, 1), (0.3, 100), (0.0, 10_000)])
def test_no_patient_is_on_both_sides_and_no_scan_is_lost(fraction: float, min_series: int) -> None:
    scans = series_of(100)
    train, held = split(scans, fraction, min_series)
    assert {scan.patient for scan in train}.isdisjoint(scan.patient for scan in held)
    assert sorted(train + held, key=scans.index) == scans
    assert train == [scan for scan in scans if scan in train]
    assert len(held) >= min(min_series, len(scans) - 3)
    assert train


def test_about_the_asked_share_of_patients_is_held_out() -> None:
    assert abs(len(split(series_of(2000, each=1), 0.05, 8)[1]) - 100) < 5 * 10


def test_no_more_patients_are_held_out_than_the_smallest_number_of_series_needs() -> None:
    assert len(split(series_of(100, each=3), 0.0, 8)[1]) == 9
    assert split(series_of(100), 0.0, 0)[1] == []


def test_patients_stay_on_their_side_when_others_come() -> None:
    few, many = split(series_of(500), 0.2, 8), split(series_of(1000), 0.2, 8)
    assert set(few[0]) < set(many[0])
    assert set(few[1]) < set(many[1])


def test_the_split_does_not_depend_on_the_order_of_scans() -> None:
    scans = series_of(50)
    shuffled = random.Random(3).sample(scans, len(scans))
    assert set(split(shuffled, 0.2, 8)[1]) == set(split(scans, 0.2, 8)[1])
    assert set(split(scans, 0.2, 8, seed=1)[1]) != set(split(scans, 0.2, 8)[1])


def test_the_last_patient_is_never_held_out() -> None:
    assert split(series_of(1), 0.9, 8) == (series_of(1), [])
    assert {scan.patient for scan in split(series_of(2), 0.9, 8)[0]} != set()
    assert split([], 0.5, 8) == ([], [])


def test_records_split_by_their_subject(tmp_path: Path) -> None:
    records = chosen(load(write(tmp_path / "a.csv", archive_rows(40))))
    train, held = split_by_patient(records, 0.1, 8, seed=0)
    assert {record.subject_id for record in train}.isdisjoint(record.subject_id for record in held)
    assert len(held) >= 8


def record(patient: str, number: int = 0) -> ScanRecord:
    return ScanRecord(f"{patient}/{number}", f"series {patient}/{number}", "CT", "", "", patient)


def test_when_a_held_out_scan_disappears_nobody_who_was_trained_on_takes_its_place() -> None:
    before = [record(f"p{number}") for number in range(20)]
    split = Split.of(*split_by_patient(before, 0.05, 8, seed=0))
    assert len(split.held_out) == 8
    left = [scan for scan in before if scan.subject_id != min(split.held_out)]
    again = split_by_patient(left, 0.05, 8, seed=0)[1]
    assert {scan.subject_id for scan in again} & split.training.keys()  # what a split made anew would do
    train, held = split_by_patient(left, 0.05, 8, seed=0, earlier=split)
    assert {scan.subject_id for scan in train} == set(split.training)
    assert {scan.subject_id for scan in held} == split.held_out.keys() - {min(split.held_out)}


@pytest.mark.parametrize("seed", range(5))
def test_whatever_comes_and_goes_nobody_changes_sides(seed: int) -> None:
    rng = random.Random(seed)
    everyone = [record(f"p{number}", each) for number in range(60) for each in range(2)]
    so_far, trained, held_out = Split({}, {}), set[str](), set[str]()
    for _ in range(6):
        table = rng.sample(everyone, rng.randint(40, 120))
        train, held = split_by_patient(table, 0.1, 8, seed=0, earlier=so_far if trained else None)
        so_far = Split.of(train, held).joined(so_far)
        trained |= {scan.subject_id for scan in train}
        held_out |= {scan.subject_id for scan in held}
        assert len(train) + len(held) == len(table)
        assert trained.isdisjoint(held_out)
    assert (set(so_far.training), set(so_far.held_out)) == (trained, held_out)


def test_what_has_changed_is_told_and_nothing_else() -> None:
    scans = [record(f"p{number}", each) for number in range(10) for each in range(2)]
    before = Split.of(*split_by_patient(scans, 0.2, 4, seed=0))
    assert before.changes_since(before) is None
    patient = min(before.training)
    fewer = [scan for scan in scans if scan.subject_id != patient and scan.scan_id != f"{max(before.training)}/1"]
    after = Split.of(*split_by_patient([*fewer, record("p1", 7)], 0.2, 4, seed=0, earlier=before))
    side, untouched = ("held out", "to train on") if "p1" in before.held_out else ("to train on", "held out")
    told = after.changes_since(before)
    assert told is not None
    assert "to train on: 3 scans are gone" in told
    assert "(1 patients are gone, 0 are new)" in told
    assert "1 are new" in told.split(side)[1]
    assert (untouched in told) == (untouched == "to train on")
    gone = Split.of([scan for scan in scans if scan.subject_id in before.training], [])
    assert "no held-out patient is left" in str(gone.changes_since(before))


def test_a_split_survives_as_plain_values() -> None:
    split = Split.of([record("a", 1), record("a", 0), record("b")], [record("c")], proven=False)
    assert split.training == {"a": ["a/0", "a/1"], "b": ["b/0"]}
    assert Split.from_plain(dataclasses.asdict(split)) == split
    assert not Split.of([record("d")], []).joined(split).proven


def test_exactly_the_listed_patients_are_held_out(tmp_path: Path) -> None:
    (tmp_path / "test.txt").write_text("\ufeff# our test set\np3\n  p17 # also\n\nnobody\nPT#7\n", encoding="utf-8")
    listed = listed_patients(tmp_path / "test.txt")
    assert listed == {short_id("subject", patient) for patient in ("p3", "p17", "nobody", "PT#7")}
    scans = series_of(50)
    train, held = split_by_patient(scans, 0.5, 100, 0, lambda scan: scan.patient, listed={"p3", "p17", "nobody"})
    assert {scan.patient for scan in held} == {"p3", "p17"}
    assert len(train) == 3 * 48


def test_a_listed_patient_that_was_trained_on_is_not_held_out_later() -> None:
    scans = series_of(6)
    earlier = Split({"p0": [], "p1": [], "p2": []}, {"p3": []})
    _, held = split_by_patient(scans, 0.9, 0, 0, lambda scan: scan.patient, earlier, listed={"p0", "p4"})
    assert {scan.patient for scan in held} == {"p3", "p4"}


@pytest.mark.parametrize("text", [None, "# nobody\n\n", b"\xff\xfe\x00"])
def test_a_list_without_patients_is_refused_by_name(tmp_path: Path, text: str | bytes | None) -> None:
    if text is not None:
        (tmp_path / "test.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CatalogError, match=r"data\.holdout_file"):
        listed_patients(tmp_path / "test.txt")
