"""Leftovers that this project may delete, in the order of deletion:

1. unfinished writes (``.NAME.PID.tmp``) in run folders that no process holds;
2. folders of dead processes below the temporary root: scratch, Ray sessions, tokens, Ray Train storage;
3. temporary roots of dead SLURM jobs (their name is the job's number);
4. offline W&B runs that ``wandb sync`` has marked as uploaded;
5. files in W&B's caches below the temporary root that were not touched for an hour;
6. what ``prism search`` keeps of an index below the temporary root, if no search has used it for an hour.

A file is ours when it lies in one of these places, belongs to this user and carries our marker: a ``.lock`` that its
owner holds while it lives, or the name that W&B, ``atomic_file`` or a search gives it. Checkpoints, records, encoders,
manifests and the targets of symbolic links are never deleted.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prism_ssl.utils.disk_usage import DiskUsage, disk_usage
from prism_ssl.utils.fs import OWNED_BY_PROCESSES, FolderLock

CACHE_REST_S = 3600.0
"""A cached file that was touched more recently may be in use."""

_UNFINISHED = re.compile(r"\..+\.\d+\.tmp")
_WANDB_CACHES = ("cache", "artifacts", "staging")


@dataclass(frozen=True)
class Places:
    """The home directory, where the user's quota is counted, and the two folders that this project writes to."""

    home: Path
    tmp_root: Path
    runs: Path


@dataclass(frozen=True)
class Leftover:
    """A file or folder that may be deleted, if the folder ``lock`` can be locked; None: nothing can be using it."""

    kind: str
    path: Path
    lock: Path | None = None


def leftovers(places: Places) -> Iterator[Leftover]:
    """All leftovers, in the order of deletion."""
    yield from _unfinished_writes(places.runs)
    for name in OWNED_BY_PROCESSES:
        yield from _locked_folders(places.tmp_root / name, "folder of a dead process")
    beside_it = places.tmp_root.parent if places.tmp_root.name.isdigit() else places.tmp_root
    yield from (job for job in _locked_folders(beside_it, "folder of a dead job") if job.path.name.isdigit())
    wandb = places.tmp_root / "wandb"
    yield from _synced_runs(wandb / "runs" / "wandb")
    for name in _WANDB_CACHES:
        yield from _rested_files(wandb / name)
    for folder in _children(places.tmp_root / "search"):
        if (folder / "told.json").is_file() and _untouched_s(folder / "told.json") > CACHE_REST_S:
            yield Leftover("vectors of a search", folder)


def remove(leftover: Leftover) -> DiskUsage:
    """Delete a leftover and return its size; nothing is deleted when a process uses it."""
    if leftover.lock is None:
        return _delete(leftover.path)
    lock = FolderLock(leftover.lock)
    try:
        if not lock.acquire():
            return DiskUsage()
        return _delete(leftover.path)
    except OSError:  # another process removed it, or its disk does not answer
        return DiskUsage()
    finally:
        lock.release()


def _delete(path: Path) -> DiskUsage:
    try:
        usage = disk_usage(path)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
            return usage - disk_usage(path) if path.exists() else usage
        path.unlink()
    except OSError:  # it vanished, or is not ours to delete after all
        return DiskUsage()
    return usage


def _unfinished_writes(runs: Path) -> Iterator[Leftover]:
    for config in sorted((*runs.glob("*/config.json"), *runs.glob("*/*/config.json"))):
        folder = config.parent
        if (folder / ".lock").is_file() and _ours(folder):
            names = sorted(entry for entry in _entries(folder) if _UNFINISHED.fullmatch(entry.name) and _ours(entry))
            yield from (Leftover("unfinished write", path, lock=folder) for path in names)


def _locked_folders(parent: Path, kind: str) -> Iterator[Leftover]:
    for folder in _children(parent):
        if (folder / ".lock").is_file():
            yield Leftover(kind, folder, lock=folder)


def _synced_runs(wandb: Path) -> Iterator[Leftover]:
    for folder in _children(wandb):
        if folder.name.startswith("offline-run-") and any(folder.glob("*.wandb.synced")):
            yield Leftover("uploaded W&B run", folder)


def _rested_files(cache: Path) -> Iterator[Leftover]:
    if not cache.is_dir() or not _ours(cache):
        return
    for folder, _, names in os.walk(cache):
        for path in sorted(Path(folder) / name for name in names):
            if _ours(path) and _untouched_s(path) > CACHE_REST_S:
                yield Leftover("W&B cache", path)


def _children(parent: Path) -> list[Path]:
    if not parent.is_dir() or not _ours(parent):
        return []
    return sorted(path for path in _entries(parent) if path.is_dir() and _ours(path))


def _entries(folder: Path) -> list[Path]:
    """The folder's entries; none when the folder has vanished or does not answer."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _untouched_s(path: Path) -> float:
    try:
        status = path.stat()
    except OSError:
        return 0.0
    return time.time() - max(status.st_mtime, status.st_atime)


def _ours(path: Path) -> bool:
    """Whether the path belongs to this user and is no symbolic link."""
    try:
        status = path.lstat()
    except OSError:  # it has vanished, or does not answer
        return False
    return not stat.S_ISLNK(status.st_mode) and status.st_uid == os.geteuid()
