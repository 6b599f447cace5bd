"""Throughput by the wall clock, the tail of the step times, and waits that add up."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prism_ssl.data.sharded_dataset import WaitCauses
from prism_ssl.train.metrics import StepTimes

RNG = np.random.default_rng(0)
STEPS_MS = RNG.lognormal(4.0, 1.5, 500)
PARTS_MS = RNG.random((500, 3)) * STEPS_MS[:, None] / 3


def _wait(opening: float, sampling: float, transport: float) -> WaitCauses:
    return WaitCauses(opening + sampling + transport, opening, sampling, transport)


def _times(steps_ms: np.ndarray | list[float], warmup_steps: int = 0) -> StepTimes:
    times = StepTimes(patches_per_step=100, warmup_steps=warmup_steps, _started=1000.0)
    for step_ms, parts in zip(steps_ms, np.resize(PARTS_MS, (len(steps_ms), 3)), strict=True):
        times.add(float(step_ms), _wait(*parts))
    return times


def _totals_at(now_s: float, times: StepTimes, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    with monkeypatch.context() as patch:
        patch.setattr(time, "perf_counter", lambda: now_s)
        return times.totals()


def test_totals_are_those_of_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    totals = _totals_at(1080.0, _times(STEPS_MS), monkeypatch)
    oracle = {
        "total_step_time_ms_mean": STEPS_MS.mean(),
        "total_step_time_ms_max": STEPS_MS.max(),
        **{f"total_step_time_ms_p{q}": np.percentile(STEPS_MS, q) for q in (50, 95, 99)},
        "stall_steps_ge_2000ms": (STEPS_MS >= 2000).sum(),
        "stall_steps_ge_10000ms": (STEPS_MS >= 10000).sum(),
        "data_wait_ms_total": PARTS_MS.sum(),
        "data_wait_opening_ms_total": PARTS_MS[:, 0].sum(),
        "data_wait_sampling_ms_total": PARTS_MS[:, 1].sum(),
        "data_wait_transport_ms_total": PARTS_MS[:, 2].sum(),
        "data_wait_share": PARTS_MS.sum() / STEPS_MS.sum(),
    }
    assert {name: totals[name] for name in oracle} == pytest.approx(oracle)
    assert oracle["stall_steps_ge_2000ms"] > 0


def test_throughput_is_of_the_wall_clock_not_of_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    # 4 steps of 1 s in 80 s of wall clock: what happened between the steps counts
    totals = _totals_at(1080.0, _times([1000.0] * 4), monkeypatch)
    assert totals["wall_s"] == pytest.approx(80.0)
    assert totals["throughput_effective_patches_per_sec"] == pytest.approx(4 * 100 / 80.0)


@pytest.mark.parametrize(
    ("steps_ms", "warmup_steps", "stalls"),
    [
        ([30000.0, 10.0, 10.0], 1, (0, 0)),
        ([30000.0, 10.0, 10.0], 0, (1, 1)),
        ([10.0, 2000.0, 1999.9], 1, (1, 0)),
        ([10.0, 9999.9, 10000.0], 1, (2, 1)),
        ([30000.0], 20, (0, 0)),
    ],
)
def test_stalls_are_counted_after_the_warm_up_and_from_their_limit_on(
    steps_ms: list[float], warmup_steps: int, stalls: tuple[int, int]
) -> None:
    totals = _times(steps_ms, warmup_steps).totals()
    assert (totals["stall_steps_ge_2000ms"], totals["stall_steps_ge_10000ms"]) == stalls


def test_a_run_without_a_step_has_no_totals() -> None:
    assert StepTimes(patches_per_step=100, warmup_steps=0).totals() == {}


def test_an_interval_sees_only_the_steps_since_the_last_one() -> None:
    times = _times([5000.0])
    times.interval()
    for step_ms, wait_ms in ((100.0, 10.0), (300.0, 70.0)):
        times.add(step_ms, _wait(wait_ms, 0.0, 0.0))
    row = times.interval()
    assert row["patches_per_sec_step"] == pytest.approx(100 / 0.3)
    assert row["patches_per_sec_interval"] == pytest.approx(200 / 0.4)
    assert row["step_time_ms"] == pytest.approx(200.0)
    assert row["data_wait_share"] == pytest.approx(80 / 400)
    assert row["data_wait_ms"] == row["data_wait_opening_ms"] == pytest.approx(40.0)


def test_the_causes_of_an_interval_sum_to_its_wait_and_the_intervals_to_the_totals() -> None:
    times, rows = StepTimes(patches_per_step=100, warmup_steps=0), []
    for step_ms, parts in zip(STEPS_MS, PARTS_MS, strict=True):
        times.add(float(step_ms), _wait(*parts))
        if len(times._steps_ms) % 50 == 0:
            rows.append(times.interval())
    causes = ("opening", "sampling", "transport")
    for row in rows:
        assert sum(row[f"data_wait_{cause}_ms"] for cause in causes) == pytest.approx(row["data_wait_ms"])
    totals = times.totals()
    for cause in causes:
        whole = 50 * sum(row[f"data_wait_{cause}_ms"] for row in rows)
        assert whole == pytest.approx(totals[f"data_wait_{cause}_ms_total"])


# ---------------------------------------------------------------------- a run in several attempts
def _attempt(
    steps_ms: np.ndarray, start_ms: float, before: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch
) -> StepTimes:
    """As ``Recorder`` counts an attempt by its own clock, which begins ``start_ms`` before its first step."""
    now_s = [5000.0]
    with monkeypatch.context() as patch:
        patch.setattr(time, "perf_counter", lambda: now_s[0])
        times = StepTimes(patches_per_step=100, warmup_steps=0)
        if before is not None:
            times.go_on_from(before)
        for number, step_ms in enumerate(steps_ms):
            lap_ms = float(step_ms) + (start_ms if number == 0 else 0.0)
            now_s[0] += lap_ms / 1e3
            times.add(lap_ms, _wait(lap_ms / 4, lap_ms / 8, 0.0))
        now_s[0] += 1.0
        times.set_aside("evaluation", 750.0)
        times.set_aside("checkpoint", 250.0)
        totals, state = times.totals(), times.state()
    monkeypatch.setattr(times, "totals", lambda: totals)
    monkeypatch.setattr(times, "state", lambda: state)
    return times


def test_a_run_in_several_attempts_has_the_totals_of_an_unbroken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its times differ by what it took to train again, which is said and enters no rate, tail, wait or stall."""
    whole = _attempt(STEPS_MS, 0.0, None, monkeypatch).totals()
    state: dict[str, Any] | None = None
    for number, part in enumerate(np.split(STEPS_MS, [70, 71, 300])):
        # a resumed attempt's first step is not timed: one more stands for it here
        steps = part if number == 0 else np.concatenate([[50.0], part])
        attempt = _attempt(steps, 20_000.0 if number else 0.0, state, monkeypatch)
        torch.save(attempt.state(), tmp_path / "state")
        state = torch.load(tmp_path / "state", weights_only=True)
    parts = attempt.totals()
    assert parts.pop("resume_s") == pytest.approx(3 * 20.05)
    assert parts.pop("wall_s") == pytest.approx(whole.pop("wall_s") + 3 * 20.05 + 3 * 1.0)
    assert whole.pop("resume_s") == 0
    for what, once_s in (("evaluation_s", 0.75), ("checkpoint_s", 0.25)):
        assert (parts.pop(what), whole.pop(what)) == pytest.approx((4 * once_s, once_s))
    assert parts == pytest.approx(whole, rel=1e-5)


def test_a_resume_without_earlier_totals_counts_from_there_and_says_of_how_many_steps() -> None:
    times = StepTimes(patches_per_step=100, warmup_steps=0)
    times.go_on_from(None)
    for step_ms in (30_000.0, 100.0, 200.0):
        times.add(step_ms, _wait(1.0, 0.0, 0.0))
    totals = times.totals()
    assert (totals["steps_timed"], totals["total_step_time_ms_max"], totals["resume_s"]) == (2, 200, 30)
    assert "first_step_ms" not in totals


def test_a_row_right_after_a_resume_has_the_step_that_the_totals_leave_out() -> None:
    times = StepTimes(patches_per_step=100, warmup_steps=0)
    times.go_on_from(None)
    times.add(30_000.0, _wait(15_000.0, 0.0, 0.0))
    row = times.interval()
    assert (row["step_time_ms"], row["data_wait_share"]) == (30_000, 0.5)
    assert times.totals() == {}
