"""What the notebook's tables and charts say about runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl
import pytest

from prism_ssl.eval.ranking import factor_effects
from prism_ssl.explore import session
from prism_ssl.explore.alarm_view import alarm_chart, alarm_spans, alarm_table, doubts, together
from prism_ssl.explore.chart_style import column_widths, run_names
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
    configurations_table,
    effects_picture,
    pareto_chart,
    pareto_front,
    quality_picture,
    ranking_table,
    recommendation,
)
from prism_ssl.explore.runs import LOCAL
from prism_ssl.explore.throughput_view import (
    causes_in_words,
    failure_table,
    tail_chart,
    throughput_table,
    time_chart,
)
from tests.support.sweep_records import HEADS, quality_of, write_sweep
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


def test_what_is_drawn_is_told_with_the_colours_of_the_charts(history: pl.DataFrame) -> None:
    assert session.drawn_in_words([], []) == "No run to draw."
    assert session.drawn_in_words(["a"], []).startswith("Drawn in all tabs: the best run. Select others")
    assert session.drawn_in_words(["a", "b"], []).startswith("Drawn in all tabs: the best 2 runs.")
    assert session.drawn_in_words(["a", "b"], ["a", "b"]) == "Drawn in all tabs: the selected runs."
    assert session.drawn_in_words(["a", "b"], ["a", "b", "c"]) == "Drawn in all tabs: 2 of the 3 selected runs."
    names = history["run"].unique(maintain_order=True).to_list()
    first = loss_curves(history, names, RELATIVE).to_dict()["concat"][0]["layer"][0]
    scale = first["encoding"]["color"]["scale"]
    told = re.findall(r"background:(#\w+)\"></span>([^<]+)", run_names(names))
    assert told == [(scale["range"][number], name) for number, name in enumerate(scale["domain"])]
    assert "<b>" not in run_names(["<b>"])


def test_choices_outlive_the_controls_in_which_they_were_made() -> None:
    remembered = session.Remembered()
    table = pl.DataFrame({"run": ["a", "b", "c"]})
    assert remembered.rows_in(table) == []
    remembered.keep_runs(table[[0, 2]])
    assert remembered.rows_in(pl.DataFrame({"run": ["c", "d", "a"]})) == [0, 2]
    remembered.keep_values({"tags": ["x", "y"], "status": ["ok"]})
    remembered.keep_values({"status": []})
    assert remembered.values_in("tags", ["y", "z"]) == ["y"]
    assert remembered.values_in("status", ["ok"]) == remembered.values_in("never", ["ok"]) == []


@pytest.mark.parametrize(
    ("runs", "project", "account", "environment", "first"),
    [
        ("", "", False, {}, False),
        ("", "", False, {"WANDB_PROJECT": ""}, False),
        ("", "", True, {}, True),
        ("", "", False, {"WANDB_PROJECT": "mine"}, True),
        ("runs", "", True, {"WANDB_PROJECT": "mine"}, False),
        ("", "mine", False, {}, True),
        ("runs", "mine", False, {}, True),
    ],
)
def test_wandb_comes_first_where_there_is_an_account_or_a_project(
    runs: str, project: str, account: bool, environment: dict[str, str], first: bool
) -> None:
    assert session.wandb_first(runs, project, account, environment) == first


def test_a_tab_is_opened_by_the_beginning_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["", "fail", "One run", "none"]
    assert [session.tab_at_start(each) for each in wanted] == ["Ranking", "Failures", "One run", "Ranking"]
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    assert session.default_project() == "mine"


def test_a_column_is_as_wide_as_its_header_or_its_longest_text() -> None:
    widths = column_widths(pl.DataFrame({"a": ["x" * 20, None], "a long header": [1, 2], "b": ["y" * 900, ""]}))
    assert widths["a"] > widths["a long header"] > column_widths(pl.DataFrame({"n": [1]}))["n"]
    assert widths["b"] == 300
    of = column_widths(pl.DataFrame({"n": [20000], "t": ["20000"], "x": [0.25], "none": [None], "yes": [True]}))
    assert of["n"] > of["t"]  # the notebook shows 20,000


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
    assert together(["a: x", "b: y", "c: x"]) == ["a, c: x", "b: y"]


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
    assert alarm_table(alarm_spans(rows))["at the end"].to_list() == ["over", "still raised"]


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
    effects = factor_effects(scored, "proxy_quality")
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


def test_a_ranking_is_seven_columns_and_tells_the_kind_of_a_failure(scored: pl.DataFrame) -> None:
    table = ranking_table(scored)
    assert table.columns == ["rank", "run", "ended", "quality", "95 % interval", "near best", "patches/s"]
    assert sorted(set(table["ended"])) == ["failed: ReplacementFailed", "ok", "running", "unfinished"]
    assert set(ranking_table(scored.drop("cause"))["ended"]) == {"failed", "ok", "running", "unfinished"}


def test_the_best_configurations_are_shown_with_their_settings(scored: pl.DataFrame) -> None:
    table = configurations_table(scored)
    assert table.columns[:7] == ["rank", "batch", "pool", "SupCon", "ramp", "objective", "runs"]
    best = table.row(0, named=True)
    assert (best["batch"], best["SupCon"], best["quality"]) == (64, 0.4, pytest.approx(max(map(quality_of, POINTS))))
    assert best["best run"] == ranking_table(scored)["run"][0]
    assert configurations_table(scored.filter(pl.col("status") == "failed")).is_empty()


# ---------------------------------------------------------------------- throughput and failures
def test_stalls_and_what_was_waited_for_are_in_the_table(scored: pl.DataFrame) -> None:
    table = throughput_table(scored)
    row = next(r for r in table.iter_rows(named=True) if r["run"] == POINTS[3].name)
    assert (row["≥ 2 s"], row["mostly for"], row["longest"]) == (4, "scans opening", 2500.0)
    assert row["after stalls"] < row["patches/s"]
    assert table["run"].to_list() == [run for run in ranking_table(scored)["run"] if run in set(table["run"])]
    assert row["waited"] == pytest.approx(0.333)
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
    assert table["replaced"].to_list()[-1] == 100.0


def test_every_run_that_did_not_end_ok_is_told_with_its_cause(scored: pl.DataFrame) -> None:
    failed, killed = causes_in_words(scored).splitlines()
    cause = "ReplacementFailed: scan 12ab failed at stage &#x27;open&#x27;: truncated_gzip: it ends at byte 7"
    assert failed == f"- **{POINTS[0].name}**, failed at step 600: {cause}"
    assert killed == f"- **{POINTS[2].name}**, unfinished at step 600: no cause was recorded; it may have been killed"
    assert causes_in_words(scored.filter(pl.col("status") == "ok")) == "Every run that has ended ended ok."
    many = pl.concat([scored.filter(pl.col("status") == "failed")] * 30)
    assert causes_in_words(many).endswith("- and 10 more runs: filter by status, or look in their summary.json")


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
