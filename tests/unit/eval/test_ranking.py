"""What ranks before what, and what is recommended."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from prism_ssl.config.defaults import core24_base, known_keys
from prism_ssl.config.operations import EvalConfig
from prism_ssl.eval.quality.composite import proxy_quality
from prism_ssl.eval.quality.questions import evaluation_settings
from prism_ssl.eval.ranking import (
    compute_proxy_score,
    factor_effects,
    rank_runs,
    recommendation,
    recommended_command,
    summarize_best_configs,
    with_differences,
)
from prism_ssl.report.ranking_report import recommendation_in_words, write_ranking
from tests.support.simulated import evidence_of
from tune.core24 import design_points
from tune.train_single import parse

NO_HISTORY = pl.DataFrame()
RNG = np.random.default_rng(0)


def run(
    name: str, quality: float | None, status: str = "ok", rate: float = 100.0, half: float = 0.05, **more: Any
) -> dict[str, Any]:
    return {
        "run": name, "status": status, "cause": None if status == "ok" else "TrialFailed: a | b",
        "steps_done": 100, "max_steps": 100, "throughput_effective_patches_per_sec": rate,
        "probe/proxy_quality": quality,
        "probe/proxy_quality_low": None if quality is None else quality - half,
        "probe/proxy_quality_high": None if quality is None else quality + half,
    } | more  # fmt: skip


def order(*rows: dict[str, Any], history: pl.DataFrame = NO_HISTORY) -> list[str]:
    table = pl.from_dicts(list(rows), infer_schema_length=None)
    return rank_runs(compute_proxy_score(table, history))["run"].to_list()


def sweep() -> pl.DataFrame:
    """24 runs of the half fraction in which batch 64 is better by 0.1; one failed, one without a metric."""
    rows = []
    for point in design_points("half"):
        settings = known_keys(point.config(core24_base(), "full"))
        plain = {k: v for k, v in settings.items() if v is None or isinstance(v, (bool, int, float, str))}
        quality = 0.5 + 0.1 * (point.batch_size == 64) + 0.01 * point.w_supcon_target
        rows.append(plain | run(point.name, quality))
    rows[0] |= {"status": "failed", "cause": "ReplacementFailed: scan 1 | 2"}
    rows[1] |= {f"probe/proxy_quality{end}": None for end in ("", "_low", "_high")}
    return compute_proxy_score(pl.from_dicts(rows, infer_schema_length=None), NO_HISTORY)


def test_quality_comes_first_and_throughput_decides_between_equals() -> None:
    assert order(run("a", 0.3, rate=900), run("b", 0.5, rate=1), run("c", 0.3, rate=950)) == ["b", "c", "a"]


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_a_missing_metric_ranks_last_and_a_failed_run_after_all(missing: float | None) -> None:
    rows = [run("none", missing), run("failed", 0.99, "failed"), run("poor", 0.01), run("failed-too", None, "running")]
    assert order(*rows) == ["poor", "none", "failed", "failed-too"]


def test_a_table_in_which_nobody_measured_quality_still_ranks_by_throughput() -> None:
    rows = [{"run": name, "status": "ok", "throughput_effective_patches_per_sec": rate} for name, rate in
            [("slow", 1.0), ("fast", 2.0), ("unknown", None)]]  # fmt: skip
    assert order(*rows) == ["fast", "slow", "unknown"]


def test_stalls_cost_throughput() -> None:
    stalled = run("stalled", 0.3, rate=100, stall_steps_ge_2000ms=10, stall_steps_ge_10000ms=5)
    scored = compute_proxy_score(pl.from_dicts([stalled, run("smooth", 0.3, rate=80)]), NO_HISTORY)
    # 10 steps of 2 s or more, 5 of them of 10 s or more: 5 x 1 + 5 x 5 of 100 steps are lost
    assert scored["throughput_after_stalls"].to_list() == pytest.approx([70.0, 80.0])
    assert rank_runs(scored)["run"].to_list() == ["smooth", "stalled"]


def test_a_killed_runs_quality_is_the_last_of_its_history_with_its_own_interval() -> None:
    history = pl.DataFrame(
        {
            "run": ["killed", "killed", "killed", "whole"],
            "global_step": [30, 10, 20, 10],
            "probe/proxy_quality": [None, 0.1, 0.4, 0.9],
            "probe/proxy_quality_low": [None, 0.0, 0.3, 0.8],
            "probe/proxy_quality_high": [None, 0.2, 0.5, 1.0],
        }
    )
    scored = compute_proxy_score(pl.from_dicts([run("killed", None), run("whole", 0.2)]), history)
    columns = ["proxy_quality", "proxy_quality_low", "proxy_quality_high"]
    assert scored.select(columns).rows()[0] == (0.4, 0.3, 0.5)
    assert scored.select(columns).rows()[1] == pytest.approx((0.2, 0.15, 0.25))


def test_near_best_are_the_ok_runs_whose_interval_reaches_into_the_best_ones() -> None:
    rows = [run("best", 0.5), run("near", 0.41), run("far", 0.39), run("dead", 0.5, "failed"), run("none", None)]
    ranked = rank_runs(compute_proxy_score(pl.from_dicts(rows, infer_schema_length=None), NO_HISTORY))
    assert ranked.filter("near_best")["run"].to_list() == ["best", "near"]


def test_paired_patients_tell_runs_apart_whose_intervals_overlap() -> None:
    level = RNG.normal(0.5, 0.2, 20)  # what makes a patient easy or hard is the same for all runs
    answers = {"best": level + 0.06, "worse": level, "equal": level + 0.06 + RNG.normal(0, 0.02, 20)}
    evidence = {name: evidence_of(recall) for name, recall in answers.items()}
    config = EvalConfig(w_skill=0, w_place=0)
    of = {name: proxy_quality(each, config) for name, each in evidence.items()}
    rows = [
        run(name, quality.value, half=(quality.high - quality.low) / 2) | {"status": "ok"}
        for name, quality in of.items()
    ]
    scored = compute_proxy_score(pl.from_dicts(rows), NO_HISTORY)
    assert rank_runs(scored)["near_best"].to_list() == [True, True, True]
    compared = rank_runs(with_differences(scored, evidence, config))
    near = dict(zip(compared["run"], compared["near_best"], strict=True))
    assert (near["best"], near["equal"], near["worse"]) == (True, True, False)
    (worse,) = compared.filter(pl.col("run") == "worse").iter_rows(named=True)
    assert worse["behind_best_low"] > 0.03


def test_runs_that_were_asked_other_questions_than_the_best_one_are_not_compared(tmp_path: Path) -> None:
    rows = [run("a", 0.5), run("b", 0.45), run("other", 0.48), run("dead", 0.6, "failed")]
    same = {"a": evidence_of(np.full(8, 0.5)), "b": evidence_of(np.linspace(0.3, 0.6, 8))}
    other = {"other": evidence_of(np.ones(5)), "dead": evidence_of(np.ones(8))}
    scored = with_differences(compute_proxy_score(pl.from_dicts(rows), NO_HISTORY), same | other, EvalConfig())
    near = dict(rank_runs(scored).select("run", "near_best").iter_rows())
    assert near == {"a": True, "b": True, "other": None, "dead": False}
    words = " ".join(recommendation_in_words(scored))
    assert "Not compared: other (it was asked about other series)." in words
    told = "The evaluation settings of 2 runs are not recorded (an earlier version): they count as equal."
    assert told in words, "a run that is not compared needs no settings"
    write_ranking(tmp_path, scored)
    lines = [line.split(" | ") for line in (tmp_path / "ranking.md").read_text().splitlines()]
    ends = {line[1]: line[4] for line in lines if len(line) > 6 and line[1] in near}
    behind, low, high = scored.filter(pl.col("run") == "b").select("^behind_best.*$").row(0)
    assert low < 0 < behind < high
    found = f"{behind:.3f} ({low:.3f} to {high:.3f})"
    assert ends == {"a": "the best", "other": "not compared", "b": found, "dead": "-"}


def test_a_best_run_that_was_evaluated_otherwise_is_not_said_to_be_alone_at_the_top() -> None:
    rows = [run("best", 0.5), *(run(f"r{n}", 0.45) for n in range(6))]
    settings = evaluation_settings(core24_base())
    evidence = {
        row["run"]: dataclasses.replace(evidence_of(np.linspace(0.3, 0.6, 8)), settings=settings) for row in rows
    }
    evidence["best"] = dataclasses.replace(evidence["best"], settings=settings | {"eval.seed": 7})
    del evidence["r5"]
    scored = with_differences(compute_proxy_score(pl.from_dicts(rows), NO_HISTORY), evidence, EvalConfig())
    told = recommendation_in_words(scored)[-1]
    assert told.startswith("No run could be compared with the best one. Not compared: r0, r1, r2 and 2 more ")
    assert "(eval.seed is 20260, the best run's is 7); r5 (it has no evidence per patient)." in told
    assert scored.filter(pl.col("run") == "r5")["not_paired"].to_list() == ["it has no evidence per patient"]
    again = with_differences(scored, {}, EvalConfig())
    assert again["not_paired"].null_count() == 7


def test_qualities_of_other_weights_are_no_repeats() -> None:
    rows = [
        run(name, place / 20) | {"train.batch_size": 32, "eval.w_place": place}
        for name, place in (("old", 1.0), ("new", 8.0))
    ]
    configs = summarize_best_configs(compute_proxy_score(pl.from_dicts(rows), NO_HISTORY))
    assert configs["best_run"].to_list() == ["new", "old"]
    assert configs["runs"].to_list() == [1, 1]


def test_without_evidence_of_the_best_run_intervals_are_compared_for_all() -> None:
    rows = [run("best", 0.9), run("b", 0.5), run("c", 0.49)]
    evidence = {"b": evidence_of(np.linspace(0, 1, 8)), "c": evidence_of(np.linspace(0, 0.98, 8))}
    scored = with_differences(compute_proxy_score(pl.from_dicts(rows), NO_HISTORY), evidence, EvalConfig())
    assert scored["behind_best"].null_count() == 3
    assert rank_runs(scored)["near_best"].to_list() == [True, False, False]
    assert "by their intervals, no other run is as good" in " ".join(recommendation_in_words(scored))


def test_the_luckiest_of_equal_encoders_is_not_called_better() -> None:
    wrong = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        level = rng.normal(0.5, 0.2, 16)
        evidence = {f"r{n:02}": evidence_of(level + rng.normal(0, 0.1, 16)) for n in range(24)}
        rows = [run(name, float(each.recall.mean())) for name, each in evidence.items()]
        config = EvalConfig(w_skill=0, w_place=0, bootstrap=300)
        scored = with_differences(compute_proxy_score(pl.from_dicts(rows), NO_HISTORY), evidence, config)
        wrong += not rank_runs(scored)["near_best"].all()
    assert wrong <= 4


def test_runs_without_intervals_are_not_called_equal_or_worse() -> None:
    rows = [run("a", 0.5) | {"probe/proxy_quality_low": None, "probe/proxy_quality_high": None}]
    scored = compute_proxy_score(pl.from_dicts([*rows, rows[0] | {"run": "b"}]), NO_HISTORY)
    assert "no intervals" in " ".join(recommendation_in_words(scored))


def test_a_run_of_other_settings_is_neither_a_repeat_nor_fitted() -> None:
    small, large = {"train.batch_size": 32}, {"train.batch_size": 64}
    plain, simclr = {"loss.simclr_baseline": False}, {"loss.simclr_baseline": True}
    rows = [run(f"s{n}", 0.2) | small | plain for n in range(4)] + [run(f"l{n}", 0.3) | large | plain for n in range(4)]
    rows += [run(f"simclr{n}", 0.1) | large | simclr for n in range(4)]
    scored = compute_proxy_score(pl.from_dicts(rows), NO_HISTORY)
    assert summarize_best_configs(scored)["runs"].to_list() == [4, 4, 4]
    found = recommendation(scored)
    assert found is not None
    assert (found.levels, found.runs) == ({"train.batch_size": 64}, 8)
    assert found.fitted == pytest.approx(0.3)
    assert "Main effects are of 8 of 12 runs" in " ".join(recommendation_in_words(scored))


@pytest.mark.parametrize(
    "other", [{"train.max_steps": 1_000}, {"eval.seed": 3}, {"eval.place_draws": 4}, {"eval.pooling": "mean"}]
)
def test_runs_of_another_experiment_add_nothing_to_the_main_effects(other: dict[str, Any]) -> None:
    small, large = {"train.batch_size": 32}, {"train.batch_size": 64}
    same = dict.fromkeys(other, "cls" if "eval.pooling" in other else 20_000)
    rows = [
        run(f"{size}{n}", 0.3 + 0.001 * n) | batch | same
        for size, batch in (("s", small), ("l", large))
        for n in range(4)
    ]
    rows += [run(f"other{n}", 0.1) | large | other for n in range(6)]
    effects = factor_effects(compute_proxy_score(pl.from_dicts(rows), NO_HISTORY), "proxy_quality")
    assert effects["runs"].to_list() == [4, 4]
    assert effects["effect"].to_list() == pytest.approx([0.0, 0.0], abs=1e-9)


def test_a_setting_that_an_earlier_version_did_not_have_is_at_its_default_there() -> None:
    small, large = {"train.batch_size": 32}, {"train.batch_size": 64}
    later = {"model.normalize_patches": False, "eval.place_draws": 1}
    rows = [run(f"s{n}", 0.2) | small | (later if n else dict.fromkeys(later)) for n in range(4)]
    rows += [run(f"l{n}", 0.3) | large | (later if n else dict.fromkeys(later)) for n in range(4)]
    scored = compute_proxy_score(pl.from_dicts(rows), NO_HISTORY)
    assert summarize_best_configs(scored)["runs"].to_list() == [4, 4]
    found = recommendation(scored)
    assert found is not None
    assert found.runs == 8


def test_the_command_has_the_fitted_levels_where_luck_chose_others() -> None:
    small, large = {"train.batch_size": 32}, {"train.batch_size": 64}
    rows = [run(f"s{n}", 0.30 + 0.01 * n) | small for n in range(5)] + [run(f"l{n}", 0.20) | large for n in range(5)]
    scored = compute_proxy_score(pl.from_dicts([*rows, run("lucky", 0.5) | large]), NO_HISTORY)
    command = recommended_command(scored)
    assert command is not None
    assert "--train.batch-size 32" in command
    assert "The best measured run, lucky, has other levels" in " ".join(recommendation_in_words(scored))


def test_repeats_of_a_configuration_are_averaged_and_their_interval_holds_the_doubt_over_seeds() -> None:
    small, large = {"train.batch_size": 32}, {"train.batch_size": 64}
    rows = [run("lucky", 0.9, rate=90, half=0.09) | small, run("steady", 0.6) | large]
    rows += [run(f"unlucky{n}", 0.15, rate=30, half=0.03) | small for n in range(2)]
    rows.append(run("lost", 0.9, "failed") | large)
    best = summarize_best_configs(compute_proxy_score(pl.from_dicts(rows), NO_HISTORY))
    assert best.select("rank", "train.batch_size", "runs", "best_run").rows() == [
        (1, 64, 1, "steady"), (2, 32, 3, "lucky")]  # fmt: skip
    over_seeds = stats.t.ppf(0.975, 2) * np.std([0.9, 0.15, 0.15], ddof=1) / np.sqrt(3)
    half = np.hypot(0.05, over_seeds)
    columns = ("proxy_quality", "proxy_quality_low", "proxy_quality_high", "throughput_after_stalls")
    assert best.select(columns).row(1) == pytest.approx((0.4, 0.4 - half, 0.4 + half, 50.0))


def test_the_recommendation_is_a_command_that_gives_the_best_runs_settings() -> None:
    command = recommended_command(sweep())
    assert command is not None
    *program, recipe = command.split()[:3]
    flags = command.split()[3:]
    (best,) = [p for p in design_points("half") if p.name == rank_runs(sweep())["run"][0]]
    assert program == ["prism", "train"]
    assert parse([recipe, *flags]) == best.config(core24_base(), "full")


@pytest.mark.parametrize(
    ("recipe", "settings", "words"),
    [
        ("phantom-cpu", {"data.catalog_path": "/a b/t.csv"}, ["--data.catalog-path", "/a b/t.csv"]),
        (
            "core24-base",
            {
                "data.catalog_path": "/a/t.csv", "data.columns": '{"pmbb_id": "Patient ID"}',
                "data.modality_filter": '["CT"]', "data.phantom_subjects": 0,
            },
            ["--data.catalog-path", "/a/t.csv", "--data.columns", "pmbb_id", "Patient ID",
             "--data.modality-filter", "CT"],
        ),
        ("phantom-cpu", {"data.catalog_path": None, "data.phantom_subjects": 30}, ["--data.phantom-subjects", "30"]),
        ("phantom-cpu", {"generated_phantoms": True, "data.phantom_subjects": 24}, []),
        ("core24-base", {"data.catalog_path": None, "data.phantom_subjects": 30},
         ["--data.catalog-path", "None", "--data.phantom-subjects", "30"]),
        ("phantom-cpu", {"data.phantom_subjects": 24}, ["--data.catalog-path", "CATALOG"]),
        ("phantom-cpu", {"generated_phantoms": False}, ["--data.catalog-path", "CATALOG"]),
    ],
)  # fmt: skip
def test_the_recommended_command_names_the_scans_and_is_understood_as_printed(
    recipe: str, settings: dict[str, Any], words: list[str]
) -> None:
    command = recommended_command(
        compute_proxy_score(pl.from_dicts([run("a", 0.5, recipe=recipe) | settings]), NO_HISTORY)
    )
    assert command is not None
    program = shlex.split(command)
    assert program == ["prism", "train", recipe, *words]
    data = parse(program[2:]).data
    told = json.loads(settings.get("data.columns", "{}"))
    assert data.columns == told
    assert data.catalog_path == settings.get("data.catalog_path", "CATALOG" if "CATALOG" in words else None)


def test_a_run_that_ended_before_its_first_step_is_left_out_and_named(tmp_path: Path) -> None:
    rows = [
        run("best", 0.5),
        run("refused", None, "failed", steps_done=0),
        run("stopped", None, "interrupted", steps_done=0),
    ]
    rows += [run("dead", None, "failed", steps_done=7), run("begins", None, "running", steps_done=0)]
    rows.append(run("damaged", None, "unreadable", steps_done=None))
    assert set(order(*rows)) == {"best", "dead", "begins", "damaged"}
    scored = compute_proxy_score(pl.from_dicts(rows, infer_schema_length=None), NO_HISTORY)
    assert write_ranking(tmp_path, scored)["run"].to_list()[0] == "best"
    text = (tmp_path / "ranking.md").read_text()
    assert "4 runs: 1 ok, 3 not" in text
    assert "2 runs ended before their first step and are left out." in text
    assert "- refused, failed: TrialFailed: a | b\n- stopped, interrupted: " in text


def test_a_ranking_says_what_its_interval_covers(tmp_path: Path) -> None:
    write_ranking(tmp_path, sweep())
    assert "It does not cover the training seed" in (tmp_path / "ranking.md").read_text()


def test_without_a_measured_run_nothing_is_recommended() -> None:
    rows = [run("a", None), run("b", 0.9, "failed")]
    assert recommended_command(compute_proxy_score(pl.from_dicts(rows), NO_HISTORY)) is None


def test_the_ranking_is_written_as_table_text_and_plot(tmp_path: Path) -> None:
    ranked = write_ranking(tmp_path, sweep(), ["A note on the design."])
    assert pl.read_parquet(tmp_path / "ranking.parquet").equals(ranked)
    assert (tmp_path / "ranking.png").read_bytes()[:4] == b"\x89PNG"
    text = (tmp_path / "ranking.md").read_text()
    failed, unmeasured = (point.name for point in design_points("half")[:2])
    for said in (
        "24 runs: 23 ok, 1 not; 1 ok run without a measured quality ranks after the others",
        "A note on the design.",
        f"| 24 | {failed} | failed | 0.501 (0.451 to 0.551) | 100 | 100/100 |",
        f"## Runs that did not end ok\n\n- {failed}, failed: ReplacementFailed: scan 1 | 2\n",
        f"| 23 | {unmeasured} | ok | - | 100 | 100/100 |",
        "| train.batch_size | 64 | 12 | +0.0500 (+0.0500 to +0.0500) |",
        "prism train core24-base",
    ):
        assert said in text


def test_a_sweep_in_which_everything_failed_is_written_without_a_plot(tmp_path: Path) -> None:
    (tmp_path / "ranking.png").touch()
    write_ranking(tmp_path, compute_proxy_score(pl.from_dicts([run("a", None, "failed")]), NO_HISTORY))
    assert not (tmp_path / "ranking.png").exists()
    assert "None: no run that ended ok" in (tmp_path / "ranking.md").read_text()
