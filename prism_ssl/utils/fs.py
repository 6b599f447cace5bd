"""Atomic files, temporary roots, folder locks, and removal of dead processes' folders."""

from __future__ import annotations

import fcntl
import getpass
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from prism_ssl.errors import ConfigError

TMP_ROOT = "PRISM_TMP_ROOT"
"""Environment variable for the temporary root where no option sets it."""

OWNED_BY_PROCESSES = ("scratch", "r", "ray_token", "ray_train", "ray_tune", "export", "import", "search_unfinished")
"""Folders below the temporary root in which each process has a folder of its own and holds its ``.lock``."""


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that appears at ``path`` only if the block succeeds.

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


def folders_below(
    folder: str | Path, seen: set[tuple[int, int]], unreadable: Callable[[OSError], object]
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Path, folders and files of ``folder`` and of every folder below it, in the order of names; links are followed.

    A folder that the caller removes from the yielded list of folders is not entered, as with ``os.walk``.

    Args:
        folder: where to begin.
        seen: folders that have been entered; none is entered twice, whatever links lead to it.
        unreadable: called for each folder that cannot be listed.
    """
    for root, names, files in os.walk(folder, onerror=unreadable, followlinks=True):
        try:
            status = os.stat(root)  # noqa: PTH116  of a path with any bytes
        except OSError as error:
            unreadable(error)
            names.clear()
            continue
        if (status.st_dev, status.st_ino) in seen:
            names.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        names.sort()
        yield root, names, sorted(files)


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` atomically; see ``atomic_file``."""
    with atomic_file(path) as file:
        file.write(data)


def temporary_root(given: str | None = None) -> Path:
    """The folder for temporary files (0700): below ``given`` or $PRISM_TMP_ROOT, else /tmp/$USER/prism_ssl[/$JOB].

    Raises:
        ConfigError: it cannot be created, or belongs to another user.
    """
    given, job = given or os.environ.get(TMP_ROOT), os.environ.get("SLURM_JOB_ID")
    if given is not None or not job:
        return _own_folder(_root(given))
    return _own_folder(_root(None) / job)


def kept_root() -> Path:
    """The folder that all jobs of a user share: ``temporary_root`` without the job.

    Raises:
        ConfigError: it cannot be created, or belongs to another user.
    """
    return _own_folder(_root(os.environ.get(TMP_ROOT)))


@contextmanager
def everything_below(tmp_root: Path) -> Iterator[None]:
    """Inside the block, this process and its children use ``tmp_root`` by default too. LOGNAME and HOME are set if
    missing, because some libraries need them at import."""
    before = {name: os.environ.get(name) for name in (TMP_ROOT, "LOGNAME", "HOME")}
    os.environ.setdefault("LOGNAME", user_name())
    if home_folder() == Path(os.devnull):
        os.environ["HOME"] = str(tmp_root)
    if not tmp_root.is_relative_to(_root(None)):
        os.environ[TMP_ROOT] = str(tmp_root.parent)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def user_name() -> str:
    """Name of the user; the user id where the machine knows no name, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # OSError: from Python 3.13 on
        return str(os.getuid())


def home_folder() -> Path:
    """The user's home, or /dev/null where there is none."""
    try:
        return Path.home()
    except RuntimeError:
        return Path(os.devnull)


def _root(given: str | None) -> Path:
    return (Path(given).absolute() if given is not None else Path("/tmp") / user_name()) / "prism_ssl"


def _own_folder(path: Path) -> Path:
    try:
        return private_folder(path)
    except OSError as error:
        raise ConfigError(
            f"the temporary root {path} cannot be used ({error.strerror or error}); needed: a folder of your own for "
            f"temporary files; pass --run.tmp-root FOLDER (--tmp-root of an embedding job), or set {TMP_ROOT}"
        ) from error


def private_folder(path: Path) -> Path:
    """Make ``path`` (and parents) with mode 0700 and return it."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.chmod(0o700)
    return path


class FolderLock:
    """An exclusive lock on a folder, released when the process ends, even if it is killed."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / ".lock"
        self._file: int | None = None

    def acquire(self, limit_s: float = 0.0) -> bool:
        """True when this process now holds the folder; retries for ``limit_s`` while another process holds it.

        Raises:
            OSError: the folder cannot be written, or its file system has no locks.
        """
        deadline, pause_s = time.monotonic() + limit_s, 0.02
        while not self._acquire_now():
            if time.monotonic() >= deadline:
                return False
            time.sleep(min(pause_s, max(0.0, deadline - time.monotonic())))
            pause_s = min(2 * pause_s, 0.5)
        return True

    def _acquire_now(self) -> bool:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The previous holder may have removed the folder, and a new one may have taken its place.
            if os.path.samestat(os.fstat(descriptor), self._path.stat()):
                self._file, descriptor = descriptor, -1
        except (BlockingIOError, FileNotFoundError):
            pass
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        return self._file is not None

    def release(self) -> None:
        """Release the folder; does nothing when it is not held."""
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
