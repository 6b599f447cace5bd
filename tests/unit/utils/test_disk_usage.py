"""What a folder holds, counted as a quota counts it; ``du`` is the oracle."""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prism_ssl.utils.disk_usage import DiskUsage, disk_usage, free_bytes


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files of several sizes in nested folders, a sparse file, hard links, and links that lead outside."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "big").write_bytes(bytes(1_000_000))
    top = tmp_path / "top"
    (top / "a" / "b").mkdir(parents=True)
    for number, folder in enumerate((top, top / "a", top / "a" / "b")):
        (folder / "file").write_bytes(bytes(10_000 * (number + 1)))
    with (top / "sparse").open("wb") as file:
        file.truncate(10**9)
    (top / "a" / "second name").hardlink_to(top / "file")
    (top / "link to file").symlink_to(outside / "big")
    (top / "link to folder").symlink_to(outside)
    (top / "link round").symlink_to(top)
    return top


def _du(folder: Path, *flags: str) -> int:
    text = subprocess.run(["du", "-sx", *flags, str(folder)], capture_output=True, text=True, check=True).stdout
    return int(text.split()[0])


def test_bytes_and_inodes_are_those_of_du(tree: Path) -> None:
    usage = disk_usage(tree)
    assert usage.complete
    assert usage.unreadable == 0
    assert usage.inodes == _du(tree, "--inodes")
    assert usage.bytes == _du(tree, "--block-size=1")


def test_a_single_file_is_what_it_holds(tree: Path) -> None:
    assert disk_usage(tree / "sparse") == DiskUsage(0, 1)


def test_another_mount_below_is_not_counted() -> None:
    devices, mount = Path("/dev"), Path("/dev/shm")
    if not mount.is_mount():
        pytest.skip("/dev/shm is no mount of its own here")
    before = disk_usage(devices).inodes
    with tempfile.TemporaryDirectory(dir=mount) as folder:
        for number in range(50):
            (Path(folder) / str(number)).touch()
        assert disk_usage(Path(folder)).inodes == 51
        assert abs(disk_usage(devices).inodes - before) < 25  # devices come and go; our 51 would show


def test_a_walk_that_is_told_to_stop_returns_a_lower_bound(tree: Path) -> None:
    asked = count()
    usage = disk_usage(tree, keep_going=lambda: next(asked) < 3)
    assert not usage.complete
    assert usage.inodes == 4


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone"):
        disk_usage(tmp_path / "gone")


def test_free_space_is_what_df_calls_available(tmp_path: Path) -> None:
    text = subprocess.run(["df", "--output=avail", "-B1", str(tmp_path)], capture_output=True, text=True, check=True)
    assert free_bytes(tmp_path) == pytest.approx(int(text.stdout.split()[1]), abs=2**28)  # others write meanwhile


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_counted_and_named_as_such(tree: Path) -> None:
    (tree / "a" / "b").chmod(0)
    try:
        usage = disk_usage(tree)
    finally:
        (tree / "a" / "b").chmod(0o700)
    assert usage.unreadable == 1


class Vanishing:
    """``os.scandir`` of a busy or ailing disk: what becomes of an entry is decided by its name when it is asked."""

    def __init__(self, folder: str) -> None:
        self._entries = list(REAL_SCANDIR(folder))

    def __enter__(self) -> Iterator[Any]:
        return (self._asked(entry) for entry in self._entries)

    def __exit__(self, *_: object) -> None: ...

    def close(self) -> None: ...

    @staticmethod
    def _asked(entry: os.DirEntry[str]) -> Any:
        def stat(follow_symlinks: bool = True) -> os.stat_result:
            if entry.name in ERRORS:
                raise OSError(ERRORS[entry.name], "arranged")
            return entry.stat(follow_symlinks=follow_symlinks)

        return SimpleNamespace(name=entry.name, path=entry.path, stat=stat)


REAL_SCANDIR = os.scandir
ERRORS = {"gone": errno.ENOENT, "stale": errno.ESTALE, "sick": errno.EIO}


def test_an_entry_that_vanishes_or_goes_stale_costs_none_of_its_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (tmp_path, tmp_path / "inner"):
        folder.mkdir(exist_ok=True)
        for name in ("a", "gone", "sick", "stale", "z"):
            (folder / name).write_bytes(bytes(4096))
    monkeypatch.setattr(os, "scandir", Vanishing)
    usage = disk_usage(tmp_path)
    assert (usage.inodes, usage.unreadable, usage.complete) == (2 + 4, 4, True)
