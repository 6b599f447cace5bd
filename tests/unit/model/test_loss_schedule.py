"""The two-stage ramp of the guide and the learning-rate schedule."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prism_ssl.model.schedules import lr_factor, supcon_weight


@pytest.mark.parametrize(
    ("step", "weight"),
    [(0, 0.0), (1999, 0.0), (2000, 0.0), (2001, 0.2 / 5000), (4500, 0.1), (7000, 0.2), (100_000, 0.2)],
)
def test_ramp_of_the_default_settings(step: int, weight: float) -> None:
    assert supcon_weight(step, warmup=2000, ramp=5000, target=0.2) == pytest.approx(weight)


def test_no_ramp_jumps_at_the_end_of_warm_up() -> None:
    assert supcon_weight(9, warmup=10, ramp=0, target=0.4) == 0.0
    assert supcon_weight(10, warmup=10, ramp=0, target=0.4) == 0.4


def test_no_warm_up_and_no_ramp_is_the_target_from_the_first_step() -> None:
    assert supcon_weight(0, warmup=0, ramp=0, target=0.4) == 0.4


@given(
    step=st.integers(0, 10_000),
    warmup=st.integers(0, 3000),
    ramp=st.integers(0, 3000),
    target=st.floats(0.0, 2.0),
)
def test_weight_never_falls_and_never_leaves_zero_to_target(step: int, warmup: int, ramp: int, target: float) -> None:
    weight = supcon_weight(step, warmup, ramp, target)
    assert 0.0 <= weight <= target
    assert supcon_weight(step + 1, warmup, ramp, target) >= weight
    if step >= warmup + ramp:
        assert weight == target


def test_learning_rate_rises_linearly_then_falls_to_a_tenth() -> None:
    factors = [lr_factor(step, warmup=10, max_steps=110) for step in range(130)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == pytest.approx(1.0)
    assert factors[60] == pytest.approx(0.55)
    assert factors[110:] == pytest.approx([0.1] * 20)


@given(warmup=st.integers(0, 50), max_steps=st.integers(1, 60))
def test_learning_rate_is_never_zero_and_never_above_its_peak(warmup: int, max_steps: int) -> None:
    factors = [lr_factor(step, warmup, max_steps) for step in range(max_steps + 2)]
    assert all(0.0 < factor <= 1.0 for factor in factors)
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)


def test_first_step_learns() -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.AdamW([weight], lr=1e-2)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, warmup=100, max_steps=1000))
    weight.sum().backward()
    optimizer.step()
    assert weight.item() == pytest.approx(1.0 - 1e-4, abs=1e-5)
