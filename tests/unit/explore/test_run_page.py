"""A run's page says in words what is wrong with the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from prism_ssl.explore import session
from prism_ssl.explore.representation_view import MEASURES, representation_picture, representation_table
from prism_ssl.explore.run_page import differing_settings, findings, in_short, in_words, measures_table
from prism_ssl.explore.runs import LOCAL
from tests.support.sweep_records import probe_of, quality_of, write_sweep
from tune.core24 import design_points

POINTS = design_points("half")
FAILED, RUNNING, KILLED, STALLED, SOUND = (POINTS[n].name for n in (0, 1, 2, 3, -1))
NOTHING = pl.DataFrame(schema={"run": pl.String, "global_step": pl.Int64})


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    root = tmp_path_factory.mktemp("sweep")
    write_sweep(root)
    return session.load_scored(LOCAL, str(root))


def told(scored: pl.DataFrame, run: str, history: pl.DataFrame = NOTHING, damage: str | None = None) -> list[str]:
    return [f"{each.weight}: {each.text}" for each in findings(scored, run, history, damage)]


def changed(scored: pl.DataFrame, run: str, **values: Any) -> pl.DataFrame:
    """A table of one run, with other values."""
    row = scored.filter(pl.col("run") == run)
    return row.with_columns(pl.lit(value).alias(name.replace("__", "/")) for name, value in values.items())


def sound(scored: pl.DataFrame, **values: Any) -> pl.DataFrame:
    """A run that is long enough, waits little and beats everything, but for ``values``."""
    good = {"steps_done": 10**6, "data_wait_share": 0.02, "stall_steps_ge_2000ms": 0.0, "probe__pose_skill_mean": 0.9}
    good |= {"probe__place_recall_at_1": 0.5, "probe__place_recall_at_1_low": 0.4, "probe__place_recall_at_1_high": 0.6}
    return changed(scored, SOUND, **(good | values))


# ---------------------------------------------------------------------- how it ended
def test_a_failed_run_is_told_with_its_cause_before_all_else(scored: pl.DataFrame) -> None:
    first = told(scored, FAILED)[0]
    assert first.startswith(
        "danger: It did not end ok (failed, step 600 of 1,000). Cause: ReplacementFailed: scan 12ab"
    )
    assert in_short(scored, FAILED).startswith("failed, step 600 of 1,000; ")


def test_a_killed_run_and_a_running_one_are_no_failures(scored: pl.DataFrame) -> None:
    assert told(scored, KILLED)[0].startswith("danger: It left no summary (step 600 of 1,000): it was killed, or")
    assert any(each.startswith("info: It is running (step 600 of 1,000)") for each in told(scored, RUNNING))


def test_a_sound_run_has_no_findings(scored: pl.DataFrame) -> None:
    assert findings(sound(scored), SOUND, NOTHING) == []
    assert in_words([]) == "The record shows nothing wrong."
    assert findings(scored, "no such run", NOTHING) == []
    assert in_short(scored, "no such run") == ""


def test_a_run_without_a_measured_quality_is_told(scored: pl.DataFrame) -> None:
    assert told(sound(scored, proxy_quality=None), SOUND) == [
        "warn: It has no held-out quality: it ranks behind the measured runs."
    ]


# ---------------------------------------------------------------------- what it learned
def test_alarms_are_told_with_their_meaning_and_whether_they_are_over(scored: pl.DataFrame) -> None:
    alarms = pl.DataFrame({"run": [SOUND] * 4, "global_step": [1000, 2000, 3000, 4000],
                           "alarm/flat_target/dx": [0.0, 1.0, 0.0, 0.0],
                           "alarm/at_chance/rotation": [0.0, 0.0, 1.0, 1.0]})  # fmt: skip
    still, over = told(sound(scored), SOUND, alarms)
    assert still == (
        "warn: Alarm at_chance/rotation since step 3,000, still raised at step 4,000: its loss is at chance level: "
        "it has not learned yet."
    )
    assert over.startswith("info: Alarm flat_target/dx from step 2,000 to 3,000, over now: the target hardly varies")
    assert told(sound(scored), SOUND, alarms.with_columns(pl.lit("another").alias("run"))) == []


def test_what_needs_no_training_and_does_as_well_is_told(scored: pl.DataFrame) -> None:
    told_of = told(sound(scored, probe__pose_skill_mean=0.2, probe__place_distance_mm=70.0), SOUND)
    assert told_of == [
        "warn: Held out, location error, mm: 70.00 is no better than chance (55.00) or random weights (54.00) or pixel "
        "statistics (50.00).",
        "warn: Held out, shift and rotation: 0.20 is no better than pixel statistics (0.25).",
    ]


def test_place_recall_and_series_recall_are_judged_once(scored: pl.DataFrame) -> None:
    low = sound(scored, probe__recall_at_1=0.12, probe__place_recall_at_1=0.05)
    about = [each for each in told(low, SOUND) if "recall@1" in each]
    assert len(about) == 1
    assert "does not beat random weights (0.12 against 0.15)" in about[0]
    assert not any("same place, other series" in each for each in told(low, SOUND))


def test_a_perfect_probe_of_an_easy_question_is_no_fault(scored: pl.DataFrame) -> None:
    assert told(sound(scored, probe__knn_modality=1.0, probe__knn_modality_pixels=1.0), SOUND) == []


def test_a_collapse_is_a_danger(scored: pl.DataFrame) -> None:
    assert told(sound(scored, probe__rankme=1.2), SOUND)[0].startswith(
        "danger: RankMe is 1.2: the embeddings have coll"
    )


# ---------------------------------------------------------------------- how it ran
def test_stalls_waits_and_counters_are_told(scored: pl.DataFrame) -> None:
    rough = sound(
        scored, steps_done=1_000_000, stall_steps_ge_2000ms=5000.0, stall_steps_ge_10000ms=2.0, data_wait_share=0.6,
        replacement_failed_count=1.0, actor_restarts=3.0,
    )  # fmt: skip
    assert told(rough, SOUND) == [
        "warn: 5,000 steps took 2 s or more (0.5% of all), 2 of them 10 s or more.",
        "warn: It waited for data for 60% of the time, most of it for scans opening: slow storage, or too small a pool "
        "(data.warm_pool_size).",
        "warn: 1 replacement of a scan failed.",
        "warn: 3 pool actors were started again.",
    ]
    assert told(sound(scored, stall_steps_ge_2000ms=1.0), SOUND) == ["info: 1 step took 2 s or more (0.0% of all)."]


def test_a_damaged_history_is_told(scored: pl.DataFrame) -> None:
    damage = "2 of 30 lines of history.jsonl cannot be read and are left out"
    assert told(sound(scored), SOUND, damage=damage) == [f"warn: {damage}."]


def test_how_far_a_run_is_behind_is_a_remark(scored: pl.DataFrame) -> None:
    behind = sound(scored, behind_best=0.125, behind_best_low=0.05, behind_best_high=0.2)
    (remark,) = findings(behind, SOUND, NOTHING)
    assert remark.text == "It is 0.125 behind the best run in proxy quality (95 % interval 0.050 to 0.200)."
    assert in_words([remark]).startswith("The record shows nothing wrong.<br><span")
    assert told(sound(scored, behind_best=0.125, behind_best_low=-0.05, behind_best_high=0.2), SOUND) == []
    apart = sound(scored, behind_best=None, not_paired="it has no evidence per patient")
    assert told(apart, SOUND) == [
        "info: It is not compared with the best run patient by patient: it has no evidence per patient."
    ]


def test_words_of_a_cause_are_no_markup(scored: pl.DataFrame) -> None:
    odd = changed(scored, FAILED, cause="Boom: <script>\n  x")
    assert "Cause: Boom: &lt;script&gt; x" in in_words(findings(odd, FAILED, NOTHING))


def test_every_run_of_a_sweep_has_a_page(scored: pl.DataFrame) -> None:
    history = session.curves_of(scored, scored["run"].to_list())
    for run in scored["run"]:
        assert in_words(findings(scored, run, history))


def test_an_empty_folder_has_a_page_too(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    table = session.load_scored(LOCAL, str(tmp_path))
    assert told(table, "empty")[0].startswith("danger: It left no summary (no step recorded)")
    assert measures_table(table, "empty").is_empty()
    assert differing_settings(table, "empty").is_empty()
    assert representation_table(table, ["empty"]).columns == ["encoder"]


# ---------------------------------------------------------------------- tables
def test_the_measures_of_a_run_stand_beside_what_needs_no_training(scored: pl.DataFrame) -> None:
    rows = {row[0]: row[1:] for row in measures_table(scored, SOUND).iter_rows()}
    quality = quality_of(POINTS[-1])
    assert rows["same series, nearest view"] == (f"{quality:.2f}", "0.10", "0.15", "0.25", "")
    assert rows["RankMe"] == (f"{10 + 40 * quality:.2f}", "", "", "", "")
    assert {"same place, other series", "uniformity", "proxy quality"} < set(rows)


def test_settings_in_which_runs_differ_are_told_with_the_number_of_runs(scored: pl.DataFrame) -> None:
    rows = {row[0]: row[1:] for row in differing_settings(scored, SOUND).iter_rows()}
    assert rows["train.batch_size"] == (str(POINTS[-1].batch_size), "12 of 24")
    assert set(rows) == {"train.batch_size", "data.warm_pool_size", "loss.w_supcon_target", "loss.supcon_ramp_steps",
                         "model.objective"}  # fmt: skip


# ---------------------------------------------------------------------- representation
def test_the_chosen_encoders_stand_above_chance_and_the_untrained_ones(scored: pl.DataFrame) -> None:
    runs = [POINTS[5].name, POINTS[9].name]
    table = representation_table(scored, runs)
    assert table["encoder"].to_list() == [*runs, "chance", "random weights", "pixel statistics"]
    assert table.columns == ["encoder", *(each.head for each in MEASURES)]
    assert table["same series"].to_list() == pytest.approx(
        [round(quality_of(POINTS[5]), 2), round(quality_of(POINTS[9]), 2), 0.1, 0.15, 0.25]
    )
    assert table["RankMe"].to_list()[2:] == [None] * 3


def test_every_measure_of_every_chosen_run_is_drawn(scored: pl.DataFrame) -> None:
    runs = [POINTS[5].name, POINTS[9].name, FAILED]
    datasets: dict[str, list[dict[str, Any]]] = representation_picture(scored, runs).to_dict()["datasets"]
    rows = [row for rows in datasets.values() for row in rows]
    reached = {(row["run"], row["measure"]) for row in rows if row["what"] == "reached"}
    assert reached == {(run, each.words) for run in runs[:2] for each in MEASURES}
    untrained = {row["measure"] for row in rows if row["what"] == "pixel statistics"}
    assert untrained == {each.words for each in MEASURES if each.chance is not None}
    assert {each.name for each in MEASURES} <= set(probe_of(POINTS[5]))
    nothing = representation_picture(scored, [FAILED]).to_dict()["datasets"]
    assert [row["text"] for rows in nothing.values() for row in rows] == [
        "None of the chosen runs has a held-out evaluation yet."
    ]
