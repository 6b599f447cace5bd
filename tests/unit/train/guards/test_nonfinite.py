"""A run survives a bad batch and ends on a series of them, also when flags are read late."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from prism_ssl.contracts import VisitKey
from prism_ssl.errors import NonFiniteLoss
from prism_ssl.train.guards.nonfinite import BATCH_FILE, NonFiniteGuard

LIMIT = 3


def _visits(step: int) -> list[VisitKey]:
    return [VisitKey(f"scan-{step}-{pair}", epoch=1, visit=step) for pair in range(2)]


def _watch(guard: NonFiniteGuard, flags: str, first_step: int = 0) -> None:
    """Steps in a row: ``.`` finite, ``x`` not."""
    for step, flag in enumerate(flags, first_step):
        guard.watch(step, torch.tensor(float(flag == ".")), _visits(step))


def _guard(folder: Path, lag: int = 0) -> NonFiniteGuard:
    return NonFiniteGuard(folder, seed=17, limit=LIMIT, lag=lag)


@pytest.mark.parametrize("lag", [0, 1, 4])
def test_three_in_a_row_end_the_run_with_their_scans_and_seed_on_disk(tmp_path: Path, lag: int) -> None:
    guard = _guard(tmp_path, lag)
    match = rf"not finite in 3 consecutive steps \(2, 3, 4\).* are in {tmp_path}/{BATCH_FILE}; lower train.lr"
    with pytest.raises(NonFiniteLoss, match=match):
        _watch(guard, "..xxx" + "." * lag)
    told = json.loads((tmp_path / BATCH_FILE).read_text())
    assert told["seed"] == 17
    assert [batch["step"] for batch in told["batches"]] == [2, 3, 4]
    assert told["batches"][1]["visits"][0] == {"scan_id": "scan-3-0", "epoch": 1, "visit": 3}
    assert guard.skipped_steps == 3


@pytest.mark.parametrize("lag", [0, 1, 4])
@pytest.mark.parametrize("flags", ["xx.", "xx.xx.xx", "x.x.x.x.x"])
def test_fewer_in_a_row_are_counted_and_forgiven(tmp_path: Path, flags: str, lag: int) -> None:
    guard = _guard(tmp_path, lag)
    _watch(guard, flags)
    guard.settle()
    assert guard.skipped_steps == flags.count("x")
    assert list(tmp_path.iterdir()) == []


def test_a_flag_is_read_only_when_it_is_old_enough(tmp_path: Path) -> None:
    guard = _guard(tmp_path, lag=4)
    _watch(guard, "xxx.")
    assert guard.skipped_steps == 0
    with pytest.raises(NonFiniteLoss, match=r"steps \(0, 1, 2\)"):
        _watch(guard, "...", first_step=4)


def test_settling_loses_no_flag(tmp_path: Path) -> None:
    guard = _guard(tmp_path, lag=4)
    _watch(guard, ".xxx")
    with pytest.raises(NonFiniteLoss, match=r"steps \(1, 2, 3\)"):
        guard.settle()


def test_a_series_is_counted_across_a_settling(tmp_path: Path) -> None:
    guard = _guard(tmp_path, lag=4)
    _watch(guard, "xx")
    guard.settle()
    _watch(guard, "x", first_step=2)
    with pytest.raises(NonFiniteLoss, match=r"steps \(0, 1, 2\)"):
        guard.settle()


class SlowDevice:
    """A device whose copies hold something else until they are waited for, and which counts the waits."""

    def __init__(self) -> None:
        self.waits = 0

    def fetch(self, number: torch.Tensor) -> Callable[[], float]:
        copy = torch.ones(())  # what happened to be in that memory

        def read() -> float:
            self.waits += 1
            return copy.copy_(number).item()

        return read


def test_a_flag_is_waited_for_before_it_is_read_and_not_earlier(tmp_path: Path) -> None:
    device = SlowDevice()
    guard = NonFiniteGuard(tmp_path, seed=17, limit=LIMIT, lag=4, fetch=device.fetch)
    _watch(guard, "xx..")
    assert device.waits == 0
    guard.settle()
    assert (device.waits, guard.skipped_steps) == (4, 2)


def test_a_folder_that_cannot_be_written_does_not_hide_what_was_found(tmp_path: Path) -> None:
    guard = _guard(tmp_path / "gone")
    match = r"not finite in 3 consecutive steps \(0, 1, 2\); their scan ids could not be written to .*gone"
    with pytest.raises(NonFiniteLoss, match=match):
        _watch(guard, "xxx")
