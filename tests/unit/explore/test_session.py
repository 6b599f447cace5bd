"""What the notebook's tables and charts say about runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl
import pytest

from prism_ssl.explore import session
from prism_ssl.explore.alarm_view import alarm_chart, alarm_spans, doubts
from prism_ssl.explore.curves import (
    DIAGNOSTICS,
    LOSS_FORMS,
    RELATIVE,
    counter_curves,
    diagnostic_curves,
    loss_curves,
    rate_curves,
)
from prism_ssl.explore.ranking_view import (
    effects_picture,
    effects_table,
    pareto_chart,
    pareto_front,
    quality_picture,
    ranking_table,
    recommendation,
)
from prism_ssl.explore.runs import LOCAL
from prism_ssl.explore.throughput_view import failure_table, tail_chart, throughput_table, time_chart
from tests.support.sweep_records import HEADS, write_sweep
from tune.core24 import design_points

POINTS = design_points("half")


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    root = tmp_path_factory.mktemp("sweep")
    write_sweep(root)
    return session.load_scored(LOCAL, str(root))


@pytest.fixture(scope="module")
def history(scored: pl.DataFrame) -> pl.DataFrame:
    return session.curves_of(scored, session.runs_to_draw(scored, []))


def drawn(chart: alt.TopLevelMixin) -> list[dict[str, Any]]:
    """Every row of data that a chart draws."""
    datasets: dict[str, list[dict[str, Any]]] = chart.to_dict().get("datasets", {})
    return [row for rows in datasets.values() for row in rows]


# ---------------------------------------------------------------------- what is chosen
def test_a_killed_run_is_scored_from_its_history_and_a_running_one_is_not(scored: pl.DataFrame) -> None:
    of = {row["status"]: row["proxy_quality"] for row in scored.iter_rows(named=True)}
    assert of["unfinished"] is not None
    assert of["running"] is None


def test_settings_that_differ_come_first_among_what_can_be_filtered_by(scored: pl.DataFrame) -> None:
    varied = {"train.batch_size", "data.warm_pool_size", "loss.w_supcon_target", "loss.supcon_ramp_steps"}
    assert {*varied, "model.objective"} <= set(session.setting_keys(scored)[:8])
    assert session.options(scored, "tags") == ["classification", "core24", "regression"]
    assert session.options(scored, "train.batch_size") == [32, 64]
    assert session.chosen_filters({"status": [], "tags": ["core24"]}) == {"tags": ["core24"]}
    assert session.status_in_words(scored) == "24 runs: 21 ok, 1 failed, 1 running, 1 unfinished"


def test_curves_are_of_the_chosen_runs_or_of_the_best(scored: pl.DataFrame) -> None:
    best = ranking_table(scored)["run"].to_list()
    assert session.runs_to_draw(scored, []) == best[: session.DEFAULT_CURVES]
    assert session.runs_to_draw(scored, [best[9], best[2], "gone"]) == [best[2], best[9]]


# ---------------------------------------------------------------------- curves
@pytest.mark.parametrize("form", LOSS_FORMS)
def test_every_loss_of_every_drawn_run_is_beside_its_chance_level(form: str, history: pl.DataFrame) -> None:
    runs = history["run"].unique(maintain_order=True).to_list()
    rows = drawn(loss_curves(history, runs, form))
    wanted = {(run, head, what) for run in runs for head in HEADS for what in ("loss", "chance")}
    assert wanted <= {(row["run"], row["panel"], row["series"]) for row in rows}
    first = next(r for r in rows if (r["panel"], r["series"], r["global_step"]) == ("distance", "chance", 100))
    assert first["value"] == pytest.approx(21.0 if form.startswith("raw") else 0.7)


def test_a_head_that_has_not_learned_lies_at_1_relative_to_chance(history: pl.DataFrame) -> None:
    rows = [row for row in drawn(loss_curves(history, ["x"], RELATIVE)) if row.get("panel") == "rotation"]
    assert len(rows) == 4 * 10
    assert {row["value"] for row in rows} == {1.0}


@pytest.mark.parametrize("quantity", DIAGNOSTICS)
def test_every_diagnostic_is_drawn_with_its_level(quantity: str, history: pl.DataFrame) -> None:
    level = DIAGNOSTICS[quantity][1]
    rows = drawn(diagnostic_curves(history, ["x"], quantity))
    assert {row["series"] for row in rows if "series" in row} <= {
        series for series, _ in DIAGNOSTICS[quantity][0].values()
    }
    assert (level is None) or {"value": level} in rows


def test_without_rows_a_chart_says_so() -> None:
    nothing = pl.DataFrame(schema={"run": pl.String, "global_step": pl.Int64})
    for chart in (loss_curves(nothing, [], RELATIVE), rate_curves(nothing, []), counter_curves(nothing, [])):
        assert drawn(chart) == [{"text": "None of the chosen runs has logged this yet."}]
    assert "No alarm" in drawn(alarm_chart(alarm_spans(nothing), []))[0]["text"]


# ---------------------------------------------------------------------- alarms
def test_a_short_run_without_alarms_is_not_said_to_learn(scored: pl.DataFrame) -> None:
    run = scored.head(1).with_columns(
        pl.lit("short").alias("run"),
        pl.lit(300).alias("steps_done"),
        pl.lit(20).alias("train.log_every"),
        pl.lit(40).alias("train.lr_warmup_steps"),
        pl.lit(0.2).alias("probe/recall_at_1"),
        pl.lit(0.3).alias("probe/recall_at_1_random_init"),
    )
    nothing = pl.DataFrame(schema={"run": pl.String, "global_step": pl.Int64})
    lost, short = doubts(run, ["short"])
    assert lost.startswith("short: Held-out recall@1 does not beat random weights (0.20 against 0.30)")
    assert re.match(r"short: too short to judge after 300 steps: at_chance/distance, .* from step 360 on", short)
    (said,) = drawn(alarm_chart(alarm_spans(nothing), ["short"], [lost, short]))
    assert "learn" not in said["text"]
    longer = run.with_columns(pl.lit(10**6).alias("steps_done"), pl.lit(0.4).alias("probe/recall_at_1"))
    assert doubts(longer, ["short"]) == doubts(run, []) == []


def test_an_alarm_spans_the_steps_at_which_it_is_raised() -> None:
    rows = pl.DataFrame(
        {
            "run": ["r"] * 5,
            "global_step": [1, 2, 3, 4, 5],
            "alarm/at_chance/rotation": [0.0, 1.0, None, 0.0, 1.0],
            "alarm/flat_target/dx": [0.0] * 5,
        }
    )
    assert alarm_spans(rows).select("alarm", "from", "to", "over").rows() == [
        ("at_chance/rotation", 2, 4, True), ("at_chance/rotation", 5, 5, False)]  # fmt: skip


def test_alarms_of_both_objectives_are_read(history: pl.DataFrame) -> None:
    spans = alarm_spans(history)
    assert set(spans["alarm"]) == {"at_chance/rotation"}
    assert spans.select("from", "to", "over").unique().rows() == [(500, 1000, False)]
    assert all(spans["means"].to_list())


# ---------------------------------------------------------------------- ranking
def test_the_front_is_what_nobody_beats(scored: pl.DataFrame) -> None:
    # Quality rises with batch and weight, throughput with the pool: one cell of each objective has the best of both.
    best = {p.name for p in POINTS if (p.batch_size, p.w_supcon_target, p.warm_pool_size) == (64, 0.4, 24)}
    front = pareto_front(scored)
    assert front.height == 1
    assert set(front["run"]) <= best
    assert {row["run"] for row in drawn(pareto_chart(scored)) if "objective" in row} == {p.name for p in POINTS[3:]}


def test_effects_are_those_that_the_records_were_made_with(scored: pl.DataFrame) -> None:
    effects = effects_table(scored, "proxy_quality")
    told = {(row["factor"], row["level"]): row["effect"] for row in effects.iter_rows(named=True)}
    assert told["train.batch_size", "64"] == pytest.approx(0.05)
    assert told["loss.w_supcon_target", "0.4"] == pytest.approx(0.5 * (0.4 - 0.7 / 3))
    assert told["model.objective", "regression"] == pytest.approx(0.0, abs=1e-9)
    assert len(told) == 2 + 2 + 3 + 2 + 2


def test_the_recommendation_says_how_sure_it_is(scored: pl.DataFrame) -> None:
    command, sure = recommendation(scored)
    assert command is not None
    assert "--train.batch-size 64" in command
    assert "--loss.w-supcon-target 0.4" in command
    assert "highest fitted quality" in sure
    assert "Compared by their intervals, 3 other runs are as good as the best one within the doubt." in sure


def test_nothing_measured_is_said_in_words(scored: pl.DataFrame) -> None:
    failed = scored.filter(pl.col("status") == "failed")
    assert recommendation(failed)[0] is None
    for chart in (quality_picture(failed), pareto_chart(failed), effects_picture(failed)):
        assert len(drawn(chart)) == 1
        assert "text" in drawn(chart)[0]
    assert ranking_table(failed)["rank"].to_list() == [1]


def test_why_a_run_failed_is_seen_without_scrolling(scored: pl.DataFrame) -> None:
    assert ranking_table(scored).columns[:4] == ["rank", "run", "status", "cause"]
    assert "cause" not in ranking_table(scored.filter(pl.col("status") == "ok")).columns


# ---------------------------------------------------------------------- throughput and failures
def test_stalls_and_what_was_waited_for_are_in_the_table(scored: pl.DataFrame) -> None:
    table = throughput_table(scored)
    row = next(r for r in table.iter_rows(named=True) if r["run"] == POINTS[3].name)
    assert (row["stalls of 2 s or more"], row["waits most for"], row["longest, ms"]) == (4, "scans opening", 2500.0)
    assert row["after stalls"] < row["patches/s"]
    assert row["share waited"] == pytest.approx(0.333)
    assert POINTS[1].name not in table["run"].to_list()  # it runs: no totals yet


def test_parts_of_the_time_add_up_to_it(scored: pl.DataFrame) -> None:
    rows = [row for row in drawn(time_chart(scored)) if row["run"] == POINTS[3].name]
    assert sum(row["share"] for row in rows) == pytest.approx(1.0)
    assert next(row["share"] for row in rows if row["part"] == "waiting: scans opening") == pytest.approx(0.25)
    limits = [row["ms"] for row in drawn(tail_chart(scored)) if "text" in row]
    assert limits == [2000.0, 10000.0]


def test_what_went_wrong_stands_first_with_its_cause(scored: pl.DataFrame) -> None:
    table = failure_table(scored)
    assert table["status"].to_list()[:3] == ["failed", "running", "unfinished"]
    assert "truncated_gzip" in table["cause"].to_list()[0]
    assert table["replaced"].to_list()[-1] == 100.0


def test_a_folder_of_broken_folders_shows_every_view(tmp_path: Path) -> None:
    for name in ("torn", "empty"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{" if name == "torn" else "{}")
    table = session.load_scored(LOCAL, str(tmp_path))
    runs = session.runs_to_draw(table, [])
    curves = session.curves_of(table, runs)
    assert table["status"].to_list() == ["unfinished", "unfinished"]
    assert throughput_table(table).is_empty()
    assert failure_table(table).height == 2
    for chart in (tail_chart(table), time_chart(table), loss_curves(curves, runs, RELATIVE)):
        assert "text" in drawn(chart)[0]
