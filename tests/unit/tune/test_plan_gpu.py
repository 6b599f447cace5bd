"""``prism plan``: the 24 runs of the ablation before the night, on paper."""

from __future__ import annotations

from pathlib import Path

import pytest

from prism_ssl.config.defaults import apply_overrides, core24_base
from prism_ssl.train.guards.space_plan import parameters
from tune.plan_gpu import main, wandb_bytes


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


def test_the_ablation_has_hours_jobs_and_bytes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--gpu", "b200", "--mfu", "0.45", "--tracking.mode", "online"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "24 runs one after another: 26.8 h on one B200, that is 2 jobs of 24 h" in told
    assert "12 large 32 1024" in told
    assert "12 large 64 1024" in told
    assert "space plan of 24 runs" in told
    assert "W&B:" in told
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_says_so_and_how_it_would(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--gpu", "l40s", "betty-baseline", "--train.batch-size", "64"]) == 1
    told = capsys.readouterr().out
    assert "NO" in told
    assert "with --model.activation-checkpointing" in told


def test_an_unknown_card_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--gpu", "b300"]) == 2
    assert "no GPU called 'b300'" in capsys.readouterr().err


def test_wandb_gets_every_checkpoint_and_keeps_the_last() -> None:
    config = apply_overrides(core24_base(), {"tracking.mode": "online", "tracking.artifact_every": 6000})
    encoder, network = parameters(config.model)
    told, rows = wandb_bytes([config, config]), 2 * 200 * 6000
    assert told.sent == rows + 2 * (4 * 12 * network + 4 * encoder)  # steps 6,000 to 18,000, and the last one
    assert told.kept == rows + 2 * (12 * network + 4 * encoder)
    assert wandb_bytes([apply_overrides(config, {"tracking.mode": "offline"})]).sent == 0
