"""What runs will leave is computed as it is then found, and refused where a home cannot hold it."""

from __future__ import annotations

import dataclasses
import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from prism_ssl.config.defaults import apply_overrides, core24_base, phantom_cpu
from prism_ssl.config.operations import QuotaConfig
from prism_ssl.config.schema import PrismConfig
from prism_ssl.errors import QuotaExceeded
from prism_ssl.model.network import build_network
from prism_ssl.train.guards.space_plan import SpacePlan, check_space, plan_space, space_words
from prism_ssl.train.optimizer import Optimizers
from prism_ssl.utils.disk_usage import DiskUsage

GB = 10**9
HOME_OF_50_GB = QuotaConfig(home_hard_bytes=48 * GB, home_hard_inodes=10_000)
NOTHING = DiskUsage()


def cells(mode: str, count: int = 24, **more: Any) -> list[PrismConfig]:
    return [
        apply_overrides(
            core24_base(), {"tracking.mode": mode} | {f"tracking.{key}": value for key, value in more.items()}
        )
    ] * count


def fits(plan: SpacePlan, home: Path, now: DiskUsage, quota: QuotaConfig = HOME_OF_50_GB) -> str:
    root = home / "runs"
    root.mkdir(parents=True, exist_ok=True)
    return check_space(plan, quota, root, home, now)


@pytest.mark.parametrize("muon_lr", [None, 0.01])
def test_a_checkpoint_and_an_encoder_are_as_large_as_planned(muon_lr: float | None) -> None:
    config = apply_overrides(phantom_cpu(), {"train.muon_lr": muon_lr})
    network = build_network(config.model)
    optimizers = Optimizers(network, config.train)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizers.step(torch.zeros(()))
    plan = plan_space([config], NOTHING, in_sweep=False)
    for state, planned in (
        ({"network": network.state_dict(), **optimizers.state()}, plan.checkpoints.bytes),
        (network.encoder.state_dict(), plan.encoders.bytes),
    ):
        file = io.BytesIO()
        torch.save(state, file)
        assert planned == pytest.approx(file.tell(), rel=0.03)


def test_an_offline_sweep_does_not_fit_a_home_of_50_gb_and_that_is_refused_with_numbers(tmp_path: Path) -> None:
    plan = plan_space(cells("offline"), NOTHING, in_sweep=True)
    with pytest.raises(QuotaExceeded) as refused:
        fits(plan, tmp_path, DiskUsage(9 * GB, 3000))
    assert str(refused.value).startswith(
        "space plan of 24 runs: encoders 29.0 GB + checkpoints that stay 91.1 GB + records "
    )
    found = re.search(r"the home then holds ([\d.]+) GB in 3,\d+ files \((.*) now\), and (.*); put", str(refused.value))
    assert found is not None
    assert 130 < float(found[1]) < 136
    assert found[2] == "9.0 GB in 3,000 files"
    assert found[3] == "quota.home_hard_bytes is 48.0 GB"
    assert "--run.root" in str(refused.value)


def test_online_the_checkpoints_go_to_wandb_and_the_sweep_fits(tmp_path: Path) -> None:
    online = plan_space(cells("online"), NOTHING, in_sweep=True)
    assert online.checkpoints == NOTHING
    assert "the home then holds 45." in fits(online, tmp_path, DiskUsage(9 * GB, 3000))
    kept = plan_space(cells("online", artifact_every=None), NOTHING, in_sweep=True)
    assert kept.checkpoints.bytes > 90 * GB
    assert plan_space(cells("online", 1), NOTHING, in_sweep=False).checkpoints.inodes == 1


def test_what_the_folders_hold_already_is_not_needed_twice(tmp_path: Path) -> None:
    plan = plan_space(cells("offline", 3), DiskUsage(15 * GB, 50), in_sweep=True)
    assert plan.needed.bytes == plan_space(cells("offline", 3), NOTHING, in_sweep=True).needed.bytes - 15 * GB
    assert "already there 15.0 GB" in fits(plan, tmp_path, DiskUsage(40 * GB, 50))


def test_files_are_counted_as_bytes_are(tmp_path: Path) -> None:
    plan = plan_space(cells("online", 2), NOTHING, in_sweep=True)
    with pytest.raises(QuotaExceeded, match=r"10,0\d\d files .*, and quota.home_hard_inodes is 10,000; put runs else"):
        fits(plan, tmp_path, DiskUsage(GB, 9_990))


def test_elsewhere_than_in_the_home_its_limits_do_not_count_but_a_full_disk_is_told(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    plan = plan_space(cells("offline", 10**4), NOTHING, in_sweep=True)
    said = check_space(plan, HOME_OF_50_GB, tmp_path, tmp_path / "home", DiskUsage(47 * GB))
    assert "the home then holds" not in said
    assert f"are free at {tmp_path}: make room, or set --run.root" in said


def test_the_folders_of_runs_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    run = tmp_path / "runs" / "a"
    run.mkdir(parents=True)
    (run / "last.ckpt").write_bytes(b"x" * 10**6)
    config = apply_overrides(phantom_cpu(), {"run.root": str(tmp_path / "runs")})
    config = dataclasses.replace(config, quota=QuotaConfig(home_hard_bytes=GB))
    said = space_words([config], [run, tmp_path / "runs" / "not-yet"])
    assert "already there 1.0 MB" in said
    assert "the home then holds" in said


def test_a_root_that_is_not_made_yet_is_judged_by_the_disk_it_will_lie_on(tmp_path: Path) -> None:
    config = apply_overrides(phantom_cpu(), {"run.root": str(tmp_path / "new" / "runs")})
    assert space_words([config], [tmp_path / "new" / "runs" / "mine"]).startswith("space plan of 1 run: ")
    assert not (tmp_path / "new").exists()
