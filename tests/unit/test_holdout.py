from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import pytest

from prism_ssl.data.holdout import split_by_patient
from tests.unit.catalog_tables import archive_rows, chosen, load, write


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
