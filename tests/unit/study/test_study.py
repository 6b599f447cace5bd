"""The study's split never changes, its command passes on what was asked, and its table is worked out by hand."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from prism_ssl.config.defaults import RECIPES, apply_overrides, phantom_cpu
from prism_ssl.contracts import RunStatus, RunSummary
from prism_ssl.eval.quality.evidence import PatientEvidence
from prism_ssl.records.run_files import write_json
from prism_ssl.study import command
from prism_ssl.study.picture import chart, write_picture
from prism_ssl.study.results import COLUMNS, difference, markdown, over_patients, place_by_patient, table
from prism_ssl.study.rows import ROWS
from prism_ssl.study.split import NEVER_TESTED, patients_on, side_of


def _evidence(recall: dict[str, list[float]]) -> PatientEvidence:
    """Evidence with the place recall of each patient's pairs."""
    pairs = [(patient, value) for patient, values in recall.items() for value in values]
    return PatientEvidence(
        series=[], patient_of_series=[], recall=np.empty(0), recall_chance=0.1, axes=[],
        signs=np.empty((0, 0, 2)), right=np.empty((0, 0, 2)),
        pairs=[(f"{number}a", f"{number}b") for number in range(len(pairs))],
        patient_of_pair=[patient for patient, _ in pairs],
        place_recall=np.array([value for _, value in pairs]),
        place_distance_mm=np.zeros(len(pairs)), place_chance=0.0625, telling_share=float("nan"),
    )  # fmt: skip


PRISM = _evidence({"p": [0.5, 0.7], "q": [0.2], "r": [0.9]})
OTHER = _evidence({"p": [0.1, 0.3], "q": [0.1], "r": [0.4]})


# ---------------------------------------------------------------------- split
def test_the_split_is_the_one_that_was_published() -> None:
    expected = {
        "STS001": "training", "STS004": "training", "STS002": "validation", "STS003": "training", "STS007": "test",
    }  # fmt: skip
    assert {patient: side_of(patient) for patient in expected} == expected
    assert all(side_of(patient) == "training" for patient in NEVER_TESTED)


def test_shares_are_about_those_asked_for_and_every_patient_has_one_side() -> None:
    patients = [f"P{number}" for number in range(3000)]
    sides = {side: patients_on(side, patients) for side in ("training", "validation", "test")}
    assert sorted(patient for each in sides.values() for patient in each) == sorted(patients)
    assert [round(len(sides[side]) / 3000, 1) for side in ("training", "validation", "test")] == [0.5, 0.2, 0.3]


# ---------------------------------------------------------------------- rows
@pytest.mark.parametrize("name", ROWS)
def test_the_settings_of_every_row_exist_and_keep_the_budget(name: str) -> None:
    recipe = RECIPES["study"]()
    overrides = {key.replace("-", "_"): value for key, value in ROWS[name].settings.items()}
    typed = {key: _typed(value) for key, value in overrides.items()}
    row = apply_overrides(recipe, typed)
    assert row.data.n_patches * row.train.batch_size == recipe.data.n_patches * recipe.train.batch_size
    model = dataclasses.replace(row.model, masked_share=recipe.model.masked_share)
    data = dataclasses.replace(row.data, n_patches=recipe.data.n_patches)
    own = {name: getattr(recipe.train, name) for name in ("batch_size", "lr", "muon_lr")}
    train = dataclasses.replace(row.train, **own)
    assert (row.eval.pooling == "mean") == (row.loss.w_supcon_target == 0.0 and row.loss.w_distance == 0.0)
    evaluation = dataclasses.replace(row.eval, pooling="cls")
    same = dataclasses.replace(row, view=recipe.view, loss=recipe.loss, model=model, data=data, train=train)
    assert dataclasses.replace(same, eval=evaluation) == recipe


def _typed(value: str) -> Any:
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return {"True": True, "False": False}.get(value, value)


# ---------------------------------------------------------------------- table
def test_a_patient_counts_once_however_many_pairs_it_has() -> None:
    interval = over_patients([0.6, 0.2, 0.9])
    half = stats.t.ppf(0.975, 2) * np.std([0.6, 0.2, 0.9], ddof=1) / np.sqrt(3)
    assert (interval.mean, interval.low, interval.high) == pytest.approx((17 / 30, 17 / 30 - half, 17 / 30 + half))
    gain = difference(PRISM, OTHER)
    by_hand = over_patients([0.4, 0.1, 0.5])
    assert dataclasses.astuple(gain) == pytest.approx(dataclasses.astuple(by_hand))
    assert np.isnan(over_patients([0.3]).low)


def test_the_table_shows_rows_baselines_and_chance() -> None:
    first = {
        "place_recall_at_1": 0.567, "place_distance_mm": 31.4, "skill/dx": 0.5, "knn_modality": 0.8,
        "place_recall_at_1_random_init": 0.05, "place_recall_at_1_pixels": 0.14, "place_recall_at_1_chance": 0.0625,
        "place_distance_mm_chance": 70.0, "modality_chance": 0.5,
    }  # fmt: skip
    lines = table(
        {"simclr": {"place_recall_at_1": 0.23, "skill/dx": None}, "prism": first}, {"prism": PRISM, "simclr": OTHER}
    )
    assert [line["row"] for line in lines] == [
        ROWS["prism"].title, ROWS["simclr"].title, "random weights", "pixel statistics", "spacing alone", "chance",
    ]  # fmt: skip
    assert all(set(line) == {"row", *COLUMNS} for line in lines)
    assert [line["place recall@1"] for line in lines] == ["0.57", "0.23", "0.05", "0.14", "-", "0.06"]
    assert lines[1]["PRISM better by"].startswith("+0.33 (")
    assert [line["PRISM better by"] for line in lines[2:]] == ["-"] * 4  # this evidence holds no baseline
    assert (lines[0]["dx"], lines[1]["dx"], lines[5]["dx"]) == ("0.50", "-", "0")
    assert markdown(lines).count("\n") == 2 + len(lines)


def test_baselines_are_compared_patient_by_patient_too() -> None:
    both = dataclasses.replace(PRISM, untrained_place={"_pixels": OTHER.place_recall})
    kept = PatientEvidence.from_dict(both.to_dict())  # as the run folder has it
    lines = {line["row"]: line for line in table({"prism": {"place_recall_at_1": 0.567}}, {"prism": kept})}
    gain, own = over_patients([0.4, 0.1, 0.5]), over_patients([0.2, 0.1, 0.4])
    assert lines["pixel statistics"]["PRISM better by"] == f"{gain.mean:+.2f} ({gain.low:+.2f} to {gain.high:+.2f})"
    assert lines["pixel statistics"]["95 % interval"] == f"{own.low:.2f} to {own.high:.2f}"
    assert lines["random weights"]["PRISM better by"] == "-"


# ---------------------------------------------------------------------- command
def test_the_picture_has_every_patient_and_every_interval_and_names_nobody(tmp_path: Path) -> None:
    spec = json.dumps(chart({"PRISM": place_by_patient(PRISM), "other": place_by_patient(OTHER)}, 0.0625))
    values = [row for rows in json.loads(spec)["datasets"].values() for row in rows]
    assert sorted(row["recall"] for row in values if "low" not in row and "recall" in row) == [
        0.1,
        0.2,
        0.2,
        0.4,
        0.6,
        0.9,
    ]
    (prism,) = (row for row in values if row.get("row") == "PRISM" and "low" in row)
    expected = over_patients([0.6, 0.2, 0.9])
    assert (prism["recall"], prism["low"], prism["high"]) == (expected.mean, expected.low, expected.high)
    assert all(set(row) <= {"row", "recall", "low", "high", "chance"} for row in values), "no patient is named"
    write_picture(tmp_path / "results.png", {"prism": PRISM, "simclr": OTHER}, 0.0625)
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
    write_picture(tmp_path / "none.png", {"prism": _evidence({})}, 0.0625)
    assert not (tmp_path / "none.png").exists()


def _table(folder: Path) -> Path:
    path = folder / "catalog.csv"
    names = ["STS001", "STS002", "STS003", "STS007"]
    pl.DataFrame({"pmbb_id": names, "modality": "CT", "series_path": [f"{n}/ct" for n in names]}).write_csv(path)
    return path


def test_decisions_are_made_without_the_test_patients(tmp_path: Path) -> None:
    given = _table(tmp_path)
    assert command._prepared(given, tmp_path / "report", decide=False) == given
    assert (tmp_path / "report" / "held_out.txt").read_text().split() == ["STS007"]
    made = pl.read_csv(command._prepared(given, tmp_path / "decide", decide=True))
    assert made["pmbb_id"].to_list() == ["STS001", "STS002", "STS003"]
    assert made["series_path"][0] == f"{tmp_path}/STS001/ct"
    assert (tmp_path / "decide" / "held_out.txt").read_text().split() == ["STS002"]


def test_a_table_that_is_not_the_studys_is_refused_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.csv").write_text("mrn,file\n1,a\n")
    for table_path in (tmp_path / "other.csv", tmp_path / "none.csv"):
        assert command.main([str(table_path), "--out", str(tmp_path / "out")]) == 2
        assert "needed: a .csv or .parquet file with the columns pmbb_id and series_path" in " ".join(
            capsys.readouterr().err.split()
        )


class Trainings:
    """Trainings that end at once; ``codes`` are the exit codes of the first, second, ... one."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.codes: list[int] = []

    def run(self, module: str, words: list[str]) -> tuple[int, bool]:
        self.commands.append(words)
        name = next(word for word in words if word.startswith("--run.name=")).partition("=")[2]
        root = Path(next(word for word in words if word.startswith("--run.root=")).partition("=")[2])
        (root / name).mkdir(parents=True, exist_ok=True)
        code = self.codes[len(self.commands) - 1]
        status: RunStatus = "ok" if code == 0 else "interrupted" if code == 75 else "failed"
        probe = {"place_recall_at_1": 0.5}
        summary = RunSummary(name, status, None, 1, 1, None, str(root / name), probe=probe)
        write_json(root / name / "summary.json", dataclasses.asdict(summary))
        return code, False


TRAININGS = Trainings()


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Calls ``prism study`` with trainings that end with these codes."""
    monkeypatch.setattr(command, "run_child", TRAININGS.run)
    _table(tmp_path)

    def call(codes: list[int], *words: str) -> int:
        TRAININGS.commands, TRAININGS.codes = [], codes
        return command.main([str(tmp_path / "catalog.csv"), "--out", str(tmp_path / "out"), *words])

    return call


def test_rows_keep_their_settings_and_an_interrupted_one_ends_the_command(
    study: Callable[..., int], tmp_path: Path
) -> None:
    given = ["--train.max-steps", "5", "--view.other-series-share", "0.5", "--run.name", "mine"]
    assert study([0, 75], "--rows", "prism", "simclr", "guide", "--", *given) == 75
    first, second = TRAININGS.commands
    assert "--loss.simclr-baseline" in second
    assert "--loss.simclr-baseline" not in first
    assert second[2 : 2 + len(given)] == given
    assert second.index("--view.other-series-share=0") > second.index("0.5")  # the last one counts
    assert second[-1] == "--run.name=simclr"
    assert f"--data.holdout-file={tmp_path / 'out' / 'report' / 'held_out.txt'}" in first


def test_a_finished_row_is_not_trained_again_and_not_taken_for_another(
    study: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert study([0], "--", "--train.max-steps", "5") == 0
    assert study([], "--", "--train.max-steps", "5") == 0
    assert TRAININGS.commands == []
    assert study([], "--", "--train.max-steps", "6") == 2
    assert "has finished in" in " ".join(capsys.readouterr().err.split())
    monkeypatch.setitem(RECIPES, "study", lambda: apply_overrides(phantom_cpu(), {"eval.place_draws": 4}))
    assert study([], "--", "--train.max-steps", "5") == 2, "the recipe of another version"


def test_a_row_with_other_settings_is_told_and_is_not_in_the_table(
    study: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study([0], "--rows", "prism", "--", "--train.max-steps", "5") == 0
    assert study([0], "--rows", "simclr", "--", "--train.max-steps", "6") == 0
    assert "row prism is left out: it was trained with other settings" in " ".join(capsys.readouterr().out.split())
    table_of = (tmp_path / "out" / "report" / "results.md").read_text()
    assert f"| {ROWS['simclr'].title} |" in table_of
    assert f"| {ROWS['prism'].title} |" not in table_of
    assert study([0], "--rows", "guide", "--", "--train.max-steps", "5") == 0
    assert f"| {ROWS['prism'].title} |" in (tmp_path / "out" / "report" / "results.md").read_text()


def test_a_row_that_failed_is_told_and_is_not_in_the_table(
    study: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study([0, 1], "--rows", "prism", "simclr") == 1
    assert "row simclr failed with exit code 1" in capsys.readouterr().err
    assert ROWS["simclr"].title not in (tmp_path / "out" / "report" / "results.md").read_text()
    assert study([1], "--rows", "guide") == 1


def test_what_names_patients_is_private(study: Callable[..., int], tmp_path: Path) -> None:
    study([0])
    assert (tmp_path / "out" / "report").stat().st_mode & 0o077 == 0
