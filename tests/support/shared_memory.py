"""Shared memory that nobody uses any more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

_SHARED = "/dev/shm/"


def abandoned_memory() -> set[Path]:
    """Files in /dev/shm that no process has open or mapped; what other tests use meanwhile is not among them."""
    files = set(Path(_SHARED).iterdir())
    return files - set(chain.from_iterable(_used_by(process) for process in Path("/proc").glob("[0-9]*")))


def _used_by(process: Path) -> Iterator[Path]:
    with suppress(OSError):  # the process ended, or is another user's
        for line in (process / "maps").read_text().splitlines():
            if _SHARED in line:
                yield Path(_SHARED + line.partition(_SHARED)[2])
        for link in (process / "fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                yield link.readlink()
