"""What may be deleted, in which order, and what never is."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from prism_ssl.train.guards.deletable_files import CACHE_REST_S, Places, leftovers, remove
from prism_ssl.utils.fs import FolderLock

PAGE = bytes(4096)
IN_ORDER = [
    "runs/old/.last.ckpt.41.tmp", "runs/sweep/trial/.last.ckpt.42.tmp",
    "tmp/77/scratch/pool-0-43", "tmp/77/r/44", "tmp/77/ray_token/45", "tmp/77/ray_train/46",
    "tmp/77/ray_tune/47",
    "tmp/12",
    "tmp/77/wandb/runs/wandb/offline-run-1",
    "tmp/77/wandb/cache/obj/aa/old", "tmp/77/wandb/artifacts/old", "tmp/77/wandb/staging/inner/old",
    "tmp/77/search/rested",
]  # fmt: skip
"""Ours and unused: what pruning takes, first to last."""

KEPT = [
    "runs/old/last.ckpt", "runs/old/history.jsonl", "runs/old/summary.json", "runs/old/encoder.safetensors",
    "runs/old/.notes.tmp", "runs/old/.last.ckpt.tmp", "runs/old/my.41.tmp",
    "runs/live/.last.ckpt.47.tmp",
    "runs/not a run/.last.ckpt.48.tmp", "runs/.preflight/abc/manifest.parquet",
    "tmp/77/scratch/pool-1-49/scan", "tmp/77/scratch/notes/file", "tmp/77/phantoms/a.nii.gz",
    "tmp/13/r/50/session", "tmp/notes/file", "tmp/77/thesis.tex",
    "tmp/77/wandb/runs/wandb/offline-run-3/run-3.wandb", "tmp/77/wandb/runs/wandb/run-4/run-4.wandb.synced",
    "tmp/77/wandb/cache/obj/aa/fresh", "elsewhere/wandb/runs/wandb/offline-run-5/run-5.wandb.synced",
    "tmp/77/search/used/told.json", "tmp/77/search/used/vectors.f32", "tmp/77/search/notes/file",
]  # fmt: skip
"""In use, needed, or not ours."""


def _file(path: Path, age_s: float = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(PAGE)
    os.utime(path, (time.time() - age_s, time.time() - age_s))
    return path


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Places]:
    """A home with every kind of leftover, and beside each of them something that looks like it but must stay."""
    for name in KEPT:
        _file(tmp_path / name)
    for run in ("old", "live", "sweep/trial"):
        _file(tmp_path / "runs" / run / "config.json")
        _file(tmp_path / "runs" / run / ".lock")
    for name in IN_ORDER[:2]:
        _file(tmp_path / name)
    for name in IN_ORDER[2:8]:
        _file(tmp_path / name / ".lock")
        _file(tmp_path / name / "inner" / "file")
    _file(tmp_path / "tmp/77/wandb/runs/wandb/offline-run-1/run-1.wandb.synced")
    for name in (*IN_ORDER[9:12], "tmp/77/search/rested/told.json", "tmp/77/search/rested/vectors.f32"):
        _file(tmp_path / name, age_s=CACHE_REST_S + 60)
    living = [FolderLock(tmp_path / name) for name in ("runs/live", "tmp/77/scratch/pool-1-49", "tmp/13", "tmp/77")]
    assert all(lock.acquire() for lock in living)
    yield Places(tmp_path, tmp_path / "tmp" / "77", tmp_path / "runs")
    for lock in living:
        lock.release()


def test_leftovers_come_in_the_documented_order_and_nothing_else_does(places: Places) -> None:
    found = [leftover for leftover in leftovers(places) if remove(leftover).inodes]
    assert [str(leftover.path.relative_to(places.home)) for leftover in found] == IN_ORDER
    assert [name for name in IN_ORDER if (places.home / name).exists()] == []
    assert [name for name in KEPT if not (places.home / name).exists()] == []


def test_what_was_removed_is_measured(places: Places) -> None:
    first = next(leftover for leftover in leftovers(places) if leftover.path.parent.name == "old")
    assert (remove(first).bytes, first.kind) == (4096, "unfinished write")
    assert remove(first).inodes == 0  # it is gone


def test_what_a_link_leads_to_is_never_touched(places: Places, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    for name in ("config.json", ".lock", ".last.ckpt.1.tmp", "old", "run.wandb.synced"):
        _file(foreign / name, age_s=2 * CACHE_REST_S)
    before = sorted(foreign.iterdir())
    for link in ("runs/linked", "tmp/77/scratch/linked", "tmp/14", "tmp/77/wandb/runs/wandb/offline-run-6"):
        (tmp_path / link).symlink_to(foreign)
    (tmp_path / "tmp/77/wandb/cache/linked").symlink_to(foreign)
    for leftover in leftovers(places):
        remove(leftover)
    assert sorted(foreign.iterdir()) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_another_user_owns_is_never_touched(places: Places) -> None:
    theirs = [places.home / name for name in IN_ORDER if (places.home / name).exists()]
    for path in theirs:
        os.chown(path, 12_345, 12_345)
    assert [leftover.path for leftover in leftovers(places) if leftover.path in theirs] == []
    assert all(path.exists() for path in theirs)


def test_a_leftover_that_is_taken_up_again_is_left_alone(places: Places) -> None:
    first = next(leftover for leftover in leftovers(places) if leftover.path.parent.name == "old")
    assert first.lock is not None
    lock = FolderLock(first.lock)
    assert lock.acquire()
    assert remove(first).inodes == 0
    assert first.path.exists()
    lock.release()
