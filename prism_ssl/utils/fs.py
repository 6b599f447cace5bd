"""Files that are either whole or absent, folders that clean up after the dead, and memory limits."""

from __future__ import annotations

import fcntl
import getpass
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that appears under ``path`` when the block ends well, and not at all otherwise.

    A reader sees the old file or the new one, also after a crash.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` as a whole; see ``atomic_file``."""
    with atomic_file(path) as file:
        file.write(data)


def temporary_root(given: str | None = None) -> Path:
    """The folder of everything transient (0700): ``given``/prism_ssl, or /tmp/$USER/prism_ssl[/$SLURM_JOB_ID]."""
    if given is not None:
        return private_folder(Path(given).absolute() / "prism_ssl")
    root = Path("/tmp") / getpass.getuser() / "prism_ssl"
    job = os.environ.get("SLURM_JOB_ID")
    return private_folder(root / job if job else root)


def private_folder(path: Path) -> Path:
    """Make ``path`` (and parents) with mode 0700 and return it."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.chmod(0o700)
    return path


class FolderLock:
    """An exclusive claim on a folder that ends with the process, however it ends."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / ".lock"
        self._file: int | None = None

    def acquire(self) -> bool:
        """True when this process now holds the folder."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._file = descriptor
        return True

    def release(self) -> None:
        """Give the folder up; harmless when it is not held."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def remove_stale_folders(parent: Path) -> int:
    """Remove the sub-folders of ``parent`` whose owner is dead (their lock is free); returns how many."""
    removed = 0
    for folder in parent.iterdir() if parent.is_dir() else ():
        lock = FolderLock(folder)
        if (folder / ".lock").exists() and lock.acquire():
            shutil.rmtree(folder, ignore_errors=True)
            lock.release()
            removed += 1
    return removed


def memory_limit_bytes() -> tuple[int, str]:
    """The memory this process may use, and who says so: SLURM, a cgroup, or the machine."""
    limits = [(psutil.virtual_memory().total, "the machine's memory")]
    slurm = os.environ.get("SLURM_MEM_PER_NODE", "")
    if slurm.isdigit() and int(slurm) > 0:
        limits.append((int(slurm) * 2**20, "SLURM_MEM_PER_NODE"))
    for path in _cgroup_limit_files():
        text = path.read_text().strip() if path.is_file() else ""
        if text.isdigit():
            limits.append((int(text), f"cgroup {path.name}"))
    return min(limits)


def _cgroup_limit_files() -> list[Path]:
    """memory.max of this process's cgroup and its ancestors (v2), and the v1 file."""
    root = Path("/sys/fs/cgroup")
    files = [root / "memory/memory.limit_in_bytes"]
    own = Path("/proc/self/cgroup")
    for line in own.read_text().splitlines() if own.is_file() else ():
        if line.startswith("0::"):
            group = root / line[3:].lstrip("/")
            files += [folder / "memory.max" for folder in (group, *group.parents) if folder.is_relative_to(root)]
    return files
