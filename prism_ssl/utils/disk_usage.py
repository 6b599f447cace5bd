"""Disk usage of a folder, counted as a quota counts it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_BLOCK_BYTES = 512  # of st_blocks, whatever the file system's own block is (stat(2))


@dataclass(frozen=True)
class DiskUsage:
    """Allocated bytes and inodes, without ``unreadable`` entries; a lower bound if not ``complete``."""

    bytes: int = 0
    inodes: int = 0
    unreadable: int = 0
    complete: bool = True

    def __sub__(self, other: DiskUsage) -> DiskUsage:
        return DiskUsage(self.bytes - other.bytes, self.inodes - other.inodes, self.unreadable, self.complete)

    def __add__(self, other: DiskUsage) -> DiskUsage:
        complete = self.complete and other.complete
        return DiskUsage(
            self.bytes + other.bytes, self.inodes + other.inodes, self.unreadable + other.unreadable, complete
        )


def disk_usage(folder: Path, keep_going: Callable[[], bool] = lambda: True) -> DiskUsage:
    """Usage of ``folder`` (or of a single file), without other mounts; a hard-linked file counts once.

    Symbolic links count as themselves. ``keep_going`` is called before every entry; once it returns False, the count so
    far is returned as not complete. Entries that vanish meanwhile are left out; entries without a readable status
    (ESTALE, EIO, EACCES) count as unreadable.

    Raises:
        OSError: ``folder`` itself cannot be read.
    """
    top = folder.stat()
    if not folder.is_dir():
        return DiskUsage(top.st_blocks * _BLOCK_BYTES, 1)
    os.scandir(folder).close()
    count, blocks, unreadable = 1, top.st_blocks, 0
    linked: set[int] = set()
    waiting: list[str] = [str(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if not keep_going():
                        return DiskUsage(blocks * _BLOCK_BYTES, count, unreadable, complete=False)
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    except OSError:  # concerns this entry only: the others are still counted
                        unreadable += 1
                        continue
                    if status.st_dev != top.st_dev or status.st_ino in linked:
                        continue
                    if stat.S_ISDIR(status.st_mode):
                        waiting.append(entry.path)
                    elif status.st_nlink > 1:
                        linked.add(status.st_ino)
                    count, blocks = count + 1, blocks + status.st_blocks
        except FileNotFoundError:
            continue
        except OSError:
            unreadable += 1
    return DiskUsage(blocks * _BLOCK_BYTES, count, unreadable)


def free_bytes(folder: Path) -> int:
    """Space that this user may still fill on the file system of ``folder``."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize
