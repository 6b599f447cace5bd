"""Plans of runs on a card: measured speed before measured MFU before what is given or assumed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from prism_ssl.config.defaults import apply_overrides, betty_baseline
from prism_ssl.errors import ConfigError
from prism_ssl.model.capacity.cards import CARDS, card_named, find_card
from prism_ssl.model.capacity.flops import step_flops
from prism_ssl.model.capacity.measured import BenchFile, StepRow, read_bench, step_config
from prism_ssl.model.capacity.plan import ASSUMED_MFU, BESIDE_TRAINING_S, jobs_needed, plan_run

B200 = card_named("b200")
CONFIG = step_config(betty_baseline(), "large", 64, 1024, train__max_steps=20_000)
ROW = StepRow(
    "large",
    32,
    1024,
    compiled=True,
    activation_checkpointing=False,
    step_ms_median=200.0,
    mfu=0.4,
    peak_bytes=7 * 10**10,
)
BENCH = BenchFile({"card": "B200"}, (ROW, dataclasses.replace(ROW, batch_size=16, mfu=0.3)))


@pytest.mark.parametrize(
    ("device", "card"),
    [
        ("NVIDIA B200", "B200"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("Tesla T4", None),
    ],
)
def test_cards_are_known_by_what_torch_calls_them_and_slices_are_not(device: str, card: str | None) -> None:
    found = find_card(device)
    assert (found.name if found else None) == card


def test_cards_are_found_however_they_are_spelt_and_others_refused() -> None:
    assert [card_named(card.name.lower().replace(" ", "-")) for card in CARDS] == list(CARDS)
    assert card_named("RTX4090").name == "RTX 4090"
    with pytest.raises(ConfigError, match=r"no GPU called 'b300' is known; needed: one of b200, h200"):
        card_named("b300")


def test_speed_is_that_of_the_same_settings_then_of_the_preset_then_a_guess() -> None:
    measured = plan_run(apply_overrides(CONFIG, {"train.batch_size": 32}), B200, bench=BENCH)
    assert (measured.step_s, measured.peak_bytes, measured.basis) == (0.2, 7 * 10**10, "measured")
    by_preset, guess = plan_run(CONFIG, B200, bench=BENCH), plan_run(CONFIG, B200)
    assert by_preset.step_s == pytest.approx(step_flops(CONFIG) / (0.4 * 2250e12))
    assert guess.step_s == pytest.approx(by_preset.step_s * 0.4 / ASSUMED_MFU)
    assert (by_preset.basis, guess.basis) == ("MFU measured with this preset: 0.40", "MFU assumed, not measured: 0.35")
    assert plan_run(CONFIG, B200, mfu=0.5).basis == "MFU given: 0.50"
    assert plan_run(CONFIG, B200).hours == pytest.approx((20_000 * guess.step_s + BESIDE_TRAINING_S) / 3600)


def test_what_is_computed_again_takes_time_and_workers_share_the_batch() -> None:
    plain = plan_run(CONFIG, B200)
    both = {"model.activation_checkpointing": True, "train.grad_accumulation": 2}
    assert plan_run(apply_overrides(CONFIG, both), B200).step_s == pytest.approx(plain.step_s * 5 / 3)
    two = plan_run(apply_overrides(CONFIG, {"train.num_workers": 2}), B200)
    assert two.step_s == pytest.approx(plain.step_s / 2)
    assert two.memory.activations == pytest.approx(plain.memory.activations / 2)


def test_a_large_batch_fits_a_b200_and_no_rtx_4090() -> None:
    assert plan_run(CONFIG, B200).fits
    assert not plan_run(CONFIG, card_named("rtx-4090")).fits


def test_runs_go_on_in_the_next_job() -> None:
    plan = plan_run(CONFIG, B200)
    assert jobs_needed([plan] * 24, job_hours=24 * plan.hours) == 1
    assert jobs_needed([plan] * 24, job_hours=23.9 * plan.hours) == 2


def test_a_bench_of_another_card_and_a_file_that_is_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run on B200, and --gpu is A100"):
        plan_run(CONFIG, card_named("a100"), bench=BENCH)
    with pytest.raises(ConfigError, match=r"--mfu is 45; needed: a share"):
        plan_run(CONFIG, B200, mfu=45)
    (tmp_path / "bench.json").write_text('{"format": 0}')
    with pytest.raises(ConfigError, match="no file of this version's prism bench gpu"):
        read_bench(tmp_path / "bench.json")


def test_a_bench_reads_back_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "bench.json").write_text(BENCH.to_json())
    assert read_bench(tmp_path / "bench.json") == BENCH
