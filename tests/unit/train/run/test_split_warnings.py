"""What a person is told about who is held out, before anything is trained."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from prism_ssl.config.defaults import apply_overrides, phantom_cpu
from prism_ssl.train.run.split_warnings import split_warnings
from prism_ssl.train.trainer import describe_archive
from tests.support.archives import CONFIG, archive


def test_half_an_archive_that_is_held_out_is_told_with_the_setting() -> None:
    (note,) = split_warnings(archive(range(16)), CONFIG.data)
    assert note.startswith("8 of 16 scans (50%) are held out and not trained on")
    assert "8 series (data.holdout_min_series)" in note


def test_an_archive_of_the_usual_kind_is_not_commented() -> None:
    assert split_warnings(archive(range(60)), CONFIG.data) == []


@pytest.mark.parametrize(("patients", "told"), [(1, True), (7, True), (8, False)])
def test_few_patients_are_told_with_the_column_that_was_read(patients: int, told: bool) -> None:
    data = apply_overrides(CONFIG, {"data.columns": {"pmbb_id": "who"}}).data
    notes = split_warnings(archive(range(40), patient_of=lambda number: f"p{number % patients}"), data)
    assert any(f"40 scans of only {patients} patients" in note and "'who'" in note for note in notes) == told


def test_one_patient_means_that_nothing_is_held_out() -> None:
    notes = split_warnings(archive(range(40), patient_of=lambda _: "ANONYMOUS"), CONFIG.data)
    assert notes[-1] == "no scan is held out, so the quality of the encoder will be unknown"


def test_a_run_on_phantoms_says_so_where_it_counts_its_scans() -> None:
    for config, said in ((phantom_cpu(), True), (CONFIG, False)):
        output = io.StringIO()
        describe_archive(archive(range(60)), config.data, Console(file=output, width=200))
        assert output.getvalue().startswith("scans: generated phantoms, 60 of 60") == said
