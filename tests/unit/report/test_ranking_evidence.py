"""ranking.md says what each quality rests on, beside random weights, pixel statistics and chance."""

from __future__ import annotations

import polars as pl

from prism_ssl.report.ranking_evidence import beside_untrained, evidence_rows


def test_runs_stand_above_what_is_reached_without_training() -> None:
    ranked = pl.DataFrame(
        {
            "run": ["best", "older", "failed"],
            "probe/recall_at_1": [0.5, 0.4, None],
            "probe/recall_at_1_random_init": [0.2, 0.2, None],
            "probe/recall_at_1_pixels": [0.3, None, None],
            "probe/recall_at_1_chance": [0.05, 0.05, None],
            "probe/place_distance_mm": [41.6, None, None],
            "probe/place_distance_mm_chance": [70.2, None, None],
            "probe/proxy_quality": [0.31, 0.2, None],
            "probe/proxy_quality_pixels": [0.11, None, None],
        }
    )
    header, rows = evidence_rows(ranked)
    assert header == ["run", "location error, mm", "same series", "proxy quality"]
    assert rows == [
        ["best", "42", "0.500", "0.310"],
        ["older", "-", "0.400", "0.200"],
        ["*random weights*", "-", "0.200", "-"],
        ["*pixel statistics*", "-", "0.300", "0.110"],
        ["*chance*", "70", "0.050", "0.000"],
    ]


def test_without_an_evaluation_there_is_no_section() -> None:
    assert evidence_rows(pl.DataFrame({"run": ["a"], "probe/recall_at_1": [None]})) == ([], [])


def test_runs_that_do_not_beat_what_needs_no_learning_are_not_recommended_in_silence() -> None:
    ranked = pl.DataFrame(
        {
            "run": ["best", "worse", "failed"],
            "status": ["ok", "ok", "failed"],
            "proxy_quality": [0.2, 0.1, 0.9],
            "probe/proxy_quality_random_init": [0.12, 0.12, None],
            "probe/proxy_quality_pixels": [0.02, 0.02, None],
        }
    )
    both = "the better of random weights (0.120) and pixel statistics (0.020)"
    assert beside_untrained(ranked) == f"Of 2 measured runs, 1 beats {both}."
    told = beside_untrained(ranked.filter(pl.col("run") != "best"))
    assert told is not None
    assert told.startswith(f"No run beats {both}: none has learned anything useful yet")
    otherwise_asked = ranked.with_columns(pl.Series("probe/proxy_quality_pixels", [0.3, 0.02, None]))
    told = beside_untrained(otherwise_asked)
    assert told is not None
    assert told.startswith("No run beats the better of random weights (0.120) and pixel statistics (0.020 to 0.300)")
    assert beside_untrained(ranked.drop("probe/proxy_quality_random_init", "probe/proxy_quality_pixels")) is None
