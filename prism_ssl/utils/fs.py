"""Files that are either whole or absent, and folders that clean up after the dead."""

from __future__ import annotations

import fcntl
import getpass
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

OWNED_BY_PROCESSES = ("scratch", "r", "ray_token", "ray_train", "ray_tune", "export")
"""Places below the temporary root where each process has a folder of its own, with a ``.lock`` that it holds."""


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


@contextmanager
def owned_folder(parent: Path) -> Iterator[Path]:
    """A folder of this process below ``parent``, removed at the end; those of dead processes are removed too."""
    remove_stale_folders(private_folder(parent))
    folder = private_folder(parent / str(os.getpid()))
    lock = FolderLock(folder)
    lock.acquire()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


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
