"""What breaks beside a training that goes on, or that ends by name with its weights saved; all parts are real."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from torch.nn import functional

from prism_ssl.config.defaults import apply_overrides
from prism_ssl.contracts import PrismBatch, RunSummary
from prism_ssl.errors import (
    ArchiveUnreachable,
    GpuOutOfMemory,
    NonFiniteLoss,
    PrismError,
    ReplacementFailed,
    RunFolderError,
)
from prism_ssl.records.run_files import read_history, read_summary
from prism_ssl.train.checkpoint import checkpoint_step, load_checkpoint
from prism_ssl.train.run.loop_config import LoopConfig
from prism_ssl.train.train_loop import train_loop
from prism_ssl.train.worker import Attempt
from tests.integration.test_train_smoke import loop_config, one_thread, small
from tests.support.pool_fakes import make_hang

__all__ = ["one_thread"]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_local", "one_thread")]

Between = Callable[[int, PrismBatch], object]
"""Called with the number of finished steps and the batch of the next one."""


@pytest.fixture
def catalog(phantom_catalog: Path, tmp_path: Path) -> Path:
    """A catalogue whose files a test may move or damage."""
    return Path(shutil.copytree(phantom_catalog.parent, tmp_path / "volume" / "archive")) / phantom_catalog.name


def order_of(root: Path, catalog: Path, **settings: object) -> LoopConfig:
    """Of a small run that evaluates nothing."""
    return dataclasses.replace(loop_config(small(catalog, root, **settings), root, "run"), held_out=[])


def train(order: LoopConfig, between: Between) -> RunSummary:
    """As the training worker does, with something happening before each step."""
    with Attempt(order) as attempt:
        for step in range(order.config.train.max_steps):
            batch, wait = attempt.next_batch()
            between(step, batch)
            attempt.record(attempt.learn(batch), wait)
            attempt.checkpoint_if_due()
    return attempt.summary


def failed(order: LoopConfig, error: type[PrismError], match: str, between: Between) -> RunSummary:
    """The summary of a run that ends with ``error``, which the summary names as its cause."""
    with pytest.raises(error, match=match):
        train(order, between)
    summary = read_summary(order.run_dir)
    assert summary is not None
    assert summary.status == "failed"
    assert summary.cause is not None
    assert summary.cause.startswith(error.__name__)
    return summary


def resumed(order: LoopConfig) -> RunSummary:
    return train_loop(dataclasses.replace(order, checkpoint=order.run_dir / "last.ckpt"))


def undisturbed(_step: int, _batch: PrismBatch) -> None: ...


# ---------------------------------------------------------------------- the archive
def test_an_archive_that_is_away_for_a_while_costs_neither_a_scan_nor_the_run(tmp_path: Path, catalog: Path) -> None:
    order = order_of(tmp_path, catalog, train__max_steps=150, data__use_local_scratch=False)
    volume, elsewhere = tmp_path / "volume", tmp_path / "elsewhere"

    def between(step: int, _batch: PrismBatch) -> None:
        if step == 10:
            volume.rename(elsewhere)
        elif elsewhere.exists() and read_history(order.run_dir)[-1].get("open_retries", 0) > 0:
            elsewhere.rename(volume)

    summary = train(order, between)
    assert volume.exists()
    assert (summary.status, summary.steps_done) == ("ok", 150)
    assert summary.totals["open_retries"] > 0
    assert summary.totals["replacement_failed_count"] == 0


@pytest.mark.parametrize("strict", [True, False])
def test_an_archive_that_stays_away_ends_the_run_by_name_and_no_scan_is_blamed(
    tmp_path: Path, catalog: Path, strict: bool
) -> None:
    order = order_of(
        tmp_path, catalog, data__outage_patience_s=0.2, data__strict=strict, data__use_local_scratch=False,
        train__max_steps=2000,
    )  # fmt: skip
    volume, elsewhere = tmp_path / "volume", tmp_path / "elsewhere"
    summary = failed(
        order, ArchiveUnreachable, "is its volume mounted", lambda step, _: step == 10 and volume.rename(elsewhere)
    )
    assert not order.quarantine_file.exists()
    assert checkpoint_step(order.run_dir / "last.ckpt") == summary.steps_done >= 10
    elsewhere.rename(volume)
    config = apply_overrides(order.config, {"train.max_steps": summary.steps_done + 3})
    again = resumed(dataclasses.replace(order, config=config))
    assert (again.status, again.resumed_from_step) == ("ok", summary.steps_done)


@pytest.mark.parametrize("strict", [True, False])
def test_a_scan_that_hangs_is_given_up_and_named(tmp_path: Path, catalog: Path, strict: bool) -> None:
    order = order_of(tmp_path, catalog, data__open_timeout_s=1.0, data__strict=strict, train__max_steps=60)
    victim = order.shards[0][0]
    make_hang(victim)
    if strict:
        summary = failed(order, ReplacementFailed, "open_timed_out: not read after 1 s", undisturbed)
    else:
        summary = train_loop(order)
        assert summary.status == "ok"
        assert summary.totals["replacement_failed_count"] == 1
    (line,) = order.quarantine_file.read_text().splitlines()
    assert json.loads(line)["scan_id"] == victim.record.scan_id


# ---------------------------------------------------------------------- the step
def test_a_full_gpu_ends_the_run_with_the_numbers_and_the_weights(
    tmp_path: Path, catalog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = order_of(tmp_path, catalog, train__checkpoint_every=100)
    told = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB"

    def full(*_: object, **__: object) -> torch.Tensor:
        raise torch.OutOfMemoryError(f"{told}\nmore of it")

    def between(step: int, _batch: PrismBatch) -> None:
        if step == 7:
            monkeypatch.setattr(functional, "scaled_dot_product_attention", full)

    summary = failed(order, GpuOutOfMemory, f"full at step 8: {told}", between)
    cause = summary.cause or ""
    assert "train.batch_size 4 pairs of 2 x 16 patches (data.n_patches), model.preset tiny" in cause
    assert "Lower train.batch_size to 2 or data.n_patches to 8" in cause
    monkeypatch.undo()
    assert (resumed(order).status, read_history(order.run_dir)[-1]["global_step"]) == ("ok", 12)
    assert summary.steps_done == 7


def test_a_burst_of_steps_that_are_not_finite_is_skipped_and_counted(tmp_path: Path, catalog: Path) -> None:
    order = order_of(tmp_path, catalog, train__max_nonfinite_steps=3)
    summary = train(order, lambda step, batch: step in (4, 5) and batch.patches_a.fill_(math.nan))
    assert (summary.status, summary.totals["nonfinite_skipped_steps"]) == ("ok", 2)
    assert _finite(order.run_dir / "last.ckpt")


def test_a_run_whose_steps_stay_not_finite_ends_at_good_weights(tmp_path: Path, catalog: Path) -> None:
    order = order_of(tmp_path, catalog, train__max_nonfinite_steps=3)
    failed(
        order, NonFiniteLoss, r"not finite in 3 consecutive steps \(7, 8, 9\)",
        lambda step, batch: step >= 7 and batch.patches_a.fill_(math.nan),
    )  # fmt: skip
    assert checkpoint_step(order.run_dir / "last.ckpt") == 10
    assert _finite(order.run_dir / "last.ckpt")


def test_an_error_that_nobody_foresaw_between_two_steps_costs_no_step(tmp_path: Path, catalog: Path) -> None:
    order = order_of(tmp_path, catalog, train__checkpoint_every=100)

    def between(step: int, _batch: PrismBatch) -> None:
        if step == 7:
            raise OSError(errno.ESTALE, "Stale file handle")

    with pytest.raises(OSError, match="Stale file handle"):
        train(order, between)
    summary = read_summary(order.run_dir)
    assert summary is not None
    assert (summary.status, summary.cause, summary.steps_done) == (
        "failed", "OSError: [Errno 116] Stale file handle", 7,
    )  # fmt: skip
    assert checkpoint_step(order.run_dir / "last.ckpt") == 7
    assert resumed(order).status == "ok"


def _finite(path: Path) -> bool:
    weights = load_checkpoint(path, torch.device("cpu")).learner["network"].values()
    return all(bool(weight.isfinite().all()) for weight in weights)


# ---------------------------------------------------------------------- object store and disk
def test_an_object_store_that_is_full_is_told_once_and_costs_nothing_else(tmp_path: Path, catalog: Path) -> None:
    order = order_of(tmp_path, catalog)
    filling: list[object] = []

    def between(step: int, _batch: PrismBatch) -> None:
        if step == 5:  # into a store of 256 MiB
            filling.extend(ray.put(np.zeros(60 * 2**20, np.uint8)) for _ in range(6))

    summary = train(order, between)
    filling.clear()
    assert summary.status == "ok"
    assert summary.totals["object_store_spilled_bytes"] >= 60 * 2**20
    (told,) = [row for row in read_history(order.run_dir) if row.get("event") == "object_store"]
    assert "went to disk" in told["text"]
    assert "PRISM_OBJECT_STORE_MIB" in told["text"]


def test_a_disk_that_is_full_at_a_checkpoint_leaves_the_one_before(tmp_path: Path, catalog: Path) -> None:
    order = order_of(tmp_path, catalog)
    unfinished = order.run_dir / f".last.ckpt.{os.getpid()}.tmp"  # what is written before it takes the name

    def between(step: int, _batch: PrismBatch) -> None:
        if step == 11:
            unfinished.symlink_to("/dev/full")

    summary = failed(order, RunFolderError, r"the checkpoint of step 12 .*No space left on device", between)
    assert not unfinished.is_symlink()
    assert (checkpoint_step(order.run_dir / "last.ckpt"), summary.checkpoint is not None) == (6, True)
