"""Counters of attempts, together."""

from __future__ import annotations

from prism_ssl.train.run.totals import carried, whole_run

FIRST = {"actor_restarts": 2.0, "object_store_spilled_bytes": 70.0, "pairs": 40.0, "quota/removed_bytes": 5.0}
SECOND = {"actor_restarts": 1.0, "object_store_spilled_bytes": 30.0, "pairs": 90.0, "nonfinite_skipped_steps": 3.0}


def test_an_attempt_adds_to_what_begins_at_0_and_leaves_what_goes_on_by_itself() -> None:
    assert whole_run(carried(whole_run({}, FIRST)), SECOND) == {
        "actor_restarts": 3, "object_store_spilled_bytes": 70, "pairs": 90, "quota/removed_bytes": 5,
        "nonfinite_skipped_steps": 3,
    }  # fmt: skip


def test_the_first_attempt_is_the_whole_run() -> None:
    assert whole_run({}, FIRST) == FIRST
    assert "pairs" not in carried(FIRST)
