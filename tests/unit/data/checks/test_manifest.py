"""Several processes may keep one manifest: none loses a row of its own, or takes one from another."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from prism_ssl.contracts import ScanRecord
from prism_ssl.data.checks.manifest import Manifest, ManifestRow, find_row, read_manifest
from prism_ssl.errors import RunFolderError
from prism_ssl.utils.fs import FolderLock

WRITER = """
import sys
from pathlib import Path
from tests.unit.data.checks.test_manifest import row
from prism_ssl.data.checks.manifest import Manifest
folder, first, rows = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
manifest = Manifest(folder, flush_rows=7)
for number in range(first, first + rows):
    manifest.add(row(number))
print("added", flush=True)
sys.stdin.readline()
manifest.close()
"""


def row(number: int, size: int = 1) -> ManifestRow:
    return ManifestRow(f"scan-{number:04d}", f"/archive/{number}.nii.gz", "CT", size, 2, "limits", reason="not_3d")


def _writer(folder: Path, first: int, rows: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(first), str(rows)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    return process


def _added(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "added\n", process.communicate(timeout=60)[1]


def _end(*processes: subprocess.Popen[str]) -> None:
    for process in processes:  # all at the same moment, as far as may be
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    told = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(told)


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _scans(folder: Path) -> list[str]:
    return sorted(pl.read_parquet(folder / "manifest.parquet")["scan_id"])


def test_processes_that_end_at_the_same_moment_leave_the_whole_manifest(tmp_path: Path) -> None:
    processes = [_writer(tmp_path, first, 400) for first in (0, 300)]
    for process in processes:
        _added(process)
    _end(*processes)
    assert _scans(tmp_path) == [f"scan-{number:04d}" for number in range(700)]
    assert list((tmp_path / "manifest_parts").iterdir()) == []


def test_who_ends_first_leaves_the_parts_of_the_other_in_place(tmp_path: Path) -> None:
    early, late = _writer(tmp_path, 0, 30), _writer(tmp_path, 30, 30)
    for process in (early, late):
        _added(process)
    parts = set((tmp_path / "manifest_parts").iterdir())
    _end(early)
    left = set((tmp_path / "manifest_parts").iterdir())
    assert left < parts
    assert all(f"-{late.pid}-" in part.name for part in left)
    assert len(left) == 4
    _end(late)
    assert _scans(tmp_path) == [f"scan-{number:04d}" for number in range(60)]


def test_the_parts_of_a_killed_process_are_taken_over(tmp_path: Path) -> None:
    killed = _writer(tmp_path, 0, 20)
    _added(killed)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)
    assert len(read_manifest(tmp_path)) == 14  # two parts of 7; the last six rows died with it
    manifest = Manifest(tmp_path)
    manifest.add(row(0, size=9))
    manifest.close()
    assert _scans(tmp_path) == [f"scan-{number:04d}" for number in range(14)]
    assert read_manifest(tmp_path)["scan-0000", "CT"].size == 9
    assert list((tmp_path / "manifest_parts").iterdir()) == []


def test_a_folder_that_another_process_holds_too_long_is_named(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path, lock_limit_s=0.05)
    manifest.add(row(1))
    lock = FolderLock(tmp_path)
    assert lock.acquire()
    with pytest.raises(RunFolderError, match=r"is held by another process for more than 0\.05 s.*--run\.root"):
        manifest.close()
    lock.release()
    manifest.close()
    assert _scans(tmp_path) == ["scan-0001"]


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(_file: int, _how: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    manifest = Manifest(tmp_path)
    manifest.add(row(1))
    before = _open_files()
    with pytest.raises(RunFolderError, match=r"cannot be locked \(Function not implemented\).*--run\.root"):
        manifest.close()
    assert _open_files() == before
    assert read_manifest(tmp_path)["scan-0001", "CT"] == row(1)  # nothing is lost


def test_a_damaged_manifest_costs_a_second_look_and_not_the_run(tmp_path: Path) -> None:
    (tmp_path / "manifest.parquet").write_bytes(b"PAR1 and then nothing")
    manifest = Manifest(tmp_path)
    manifest.add(row(1))
    manifest.close()
    assert _scans(tmp_path) == ["scan-0001"]


def test_brackets_in_a_folder_are_letters(tmp_path: Path) -> None:
    folder = tmp_path / "runs [lab 7]*?"
    for number in (1, 2):
        manifest = Manifest(folder)
        manifest.add(row(number))
        manifest.close()
    assert sorted(read_manifest(folder)) == [("scan-0001", "CT"), ("scan-0002", "CT")]


@pytest.mark.parametrize("reason", ["missing_path", "not_readable", "open_timed_out"])
def test_what_a_file_was_found_to_be_outlasts_a_time_when_it_was_away(tmp_path: Path, reason: str) -> None:
    record = ScanRecord("scan-0001", "series", "CT", "/archive/1.nii.gz", "folder", "subject")
    kept = dataclasses.replace(row(1), reason=None, content="c", nx=4, ny=4, nz=4, volume_bytes=64, median=1.0, std=1.0)
    away = ManifestRow("scan-0001", "/archive/folder", "CT", 0, 0, "limits", reason, "its volume is not mounted")
    for found in (kept, away, away):
        manifest = Manifest(tmp_path)
        manifest.add(found)
        manifest.close()
    told = read_manifest(tmp_path)["scan-0001", "CT"]
    assert (told.reason, told.detail) == (reason, "its volume is not mounted")
    manifest = Manifest(tmp_path)
    assert manifest.find(record) == find_row(read_manifest(tmp_path), record) == kept
    manifest.add(kept)
    manifest.close()
    assert read_manifest(tmp_path)["scan-0001", "CT"] == kept


def test_a_file_that_could_be_asked_and_not_read_is_read_again(tmp_path: Path) -> None:
    record = ScanRecord("scan-0001", "series", "CT", "/archive/1.nii.gz", "folder", "subject")
    manifest = Manifest(tmp_path)
    manifest.add(dataclasses.replace(row(1), reason=None, content="c"))
    manifest.add(dataclasses.replace(row(1), reason="not_readable"))
    found = manifest.find(record)
    assert found is not None
    assert found.reason == "not_readable"


def test_reading_makes_nothing(tmp_path: Path) -> None:
    assert read_manifest(tmp_path / "none") == {}
    assert list(tmp_path.iterdir()) == []
