from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prism_ssl.data.pool.scratch import ScratchStore
from prism_ssl.data.scan.nifti import OpenScan
from prism_ssl.utils.fs import remove_stale_folders
from tests.support.pool_fakes import noise_scan

SCAN_BYTES = noise_scan(0).voxels.nbytes


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ScratchStore]:
    store = ScratchStore(tmp_path, "pool-0", budget_bytes=3 * SCAN_BYTES)
    yield store
    store.close()


def folder_of(parent: Path) -> Path:
    (folder,) = (path for path in parent.iterdir() if path.is_dir())
    return folder


def bytes_on_disk(parent: Path) -> int:
    return sum(path.stat().st_size for path in folder_of(parent).iterdir() if path.name != ".lock")


@contextmanager
def disk_full_after(size: int) -> Iterator[None]:
    """No file can grow beyond ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def assert_same_scan(found: OpenScan | None, expected: OpenScan) -> None:
    assert found is not None
    np.testing.assert_array_equal(found.voxels, expected.voxels)
    assert found.voxels.dtype == expected.voxels.dtype
    np.testing.assert_array_equal(found.affine, expected.affine)
    assert (found.slope, found.intercept, found.stats) == (expected.slope, expected.intercept, expected.stats)


@pytest.mark.parametrize("dtype", ["i2", "u1", "f4"])
def test_a_hit_is_the_same_scan_mapped_read_only(store: ScratchStore, dtype: str) -> None:
    scan = noise_scan(1)
    scan = replace(scan, voxels=(scan.voxels % 200).astype(dtype), slope=1.5, intercept=-20.0)
    assert store.get("scan-1") is None
    assert_same_scan(store.put("scan-1", scan), scan)
    hit = store.get("scan-1")
    assert_same_scan(hit, scan)
    assert hit is not None
    assert isinstance(hit.voxels, np.memmap)
    assert hit.voxels.flags.c_contiguous
    assert not hit.voxels.flags.writeable
    assert store.hits == 1


def test_the_budget_is_never_exceeded_also_from_several_threads(tmp_path: Path, store: ScratchStore) -> None:
    scans = {f"scan-{number:02d}": noise_scan(number) for number in range(20)}
    with ThreadPoolExecutor(8) as threads:
        kept = list(threads.map(store.put, scans, scans.values()))
    assert sum(isinstance(scan.voxels, np.memmap) for scan in kept) == 3
    assert store.used_bytes == bytes_on_disk(tmp_path) == 3 * SCAN_BYTES
    for (name, scan), returned in zip(scans.items(), kept, strict=True):
        assert_same_scan(returned, scan)
        assert (store.get(name) is None) == (returned is scan)


def test_space_that_must_stay_free_is_not_taken(tmp_path: Path) -> None:
    store = ScratchStore(tmp_path, "pool-0", budget_bytes=3 * SCAN_BYTES, keep_free_bytes=2**62)
    scan = noise_scan(0)
    assert store.put("scan-0", scan) is scan
    assert bytes_on_disk(tmp_path) == 0
    store.close()


def test_without_a_budget_nothing_is_written(tmp_path: Path) -> None:
    store = ScratchStore(tmp_path, "pool-0", budget_bytes=0)
    scan = noise_scan(0)
    assert store.put("scan-0", scan) is scan
    assert bytes_on_disk(tmp_path) == 0
    store.close()


@pytest.mark.parametrize("missing_bytes", [SCAN_BYTES, SCAN_BYTES // 2, 10])
def test_on_a_full_disk_a_scan_stays_in_memory_and_nothing_is_tried_again(
    tmp_path: Path, store: ScratchStore, missing_bytes: int
) -> None:
    first, second, third = (noise_scan(number) for number in range(3))
    store.put("scan-0", first)
    with disk_full_after(SCAN_BYTES - missing_bytes):
        assert store.put("scan-1", second) is second
    assert store.get("scan-1") is None
    assert store.used_bytes == bytes_on_disk(tmp_path) == SCAN_BYTES
    assert store.put("scan-2", third) is third
    assert_same_scan(store.get("scan-0"), first)


@pytest.mark.parametrize("left", [None, SCAN_BYTES // 2], ids=["gone", "cut short"])
def test_a_file_that_is_gone_or_cut_short_is_a_miss_and_its_scan_can_be_kept_again(
    tmp_path: Path, store: ScratchStore, left: int | None
) -> None:
    scan = noise_scan(0)
    store.put("scan-0", scan)
    file = folder_of(tmp_path) / "scan-0"
    if left is None:
        file.unlink()
    else:
        os.truncate(file, left)
    assert store.get("scan-0") is None
    assert (store.used_bytes, store.hits, store.lost) == (0, 0, 1)
    assert_same_scan(store.put("scan-0", scan), scan)
    assert_same_scan(store.get("scan-0"), scan)
    assert store.used_bytes == bytes_on_disk(tmp_path) == SCAN_BYTES


@pytest.mark.parametrize("keep_free_bytes", [0, 1])
def test_where_the_whole_folder_was_removed_scans_stay_in_memory(tmp_path: Path, keep_free_bytes: int) -> None:
    store, scan = ScratchStore(tmp_path, "pool-0", 3 * SCAN_BYTES, keep_free_bytes), noise_scan(1)
    store.put("scan-0", noise_scan(0))
    shutil.rmtree(folder_of(tmp_path))
    assert store.get("scan-0") is None
    assert store.put("scan-1", scan) is scan
    store.close()


def test_closing_removes_the_folder_and_leaves_maps_readable(tmp_path: Path, store: ScratchStore) -> None:
    scan = noise_scan(0)
    mapped = store.put("scan-0", scan)
    store.close()
    assert list(tmp_path.iterdir()) == []
    assert_same_scan(mapped, scan)


def test_the_folder_is_for_its_owner_alone(tmp_path: Path, store: ScratchStore) -> None:
    assert folder_of(tmp_path).stat().st_mode & 0o777 == 0o700


def test_the_folder_of_a_dead_process_is_removed_and_that_of_a_living_one_is_not(tmp_path: Path) -> None:
    owner = (
        "import sys\n"
        "from pathlib import Path\n"
        "from prism_ssl.data.pool.scratch import ScratchStore\n"
        "from tests.support.pool_fakes import noise_scan\n"
        "store = ScratchStore(Path(sys.argv[1]), 'pool-0', 10**9)\n"
        "store.put('scan-0', noise_scan(0))\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", owner, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[4], text=True
    ) as living:
        assert living.stdout is not None
        assert living.stdout.readline() == "ready\n"
        assert remove_stale_folders(tmp_path) == 0
        assert bytes_on_disk(tmp_path) == SCAN_BYTES
        living.kill()
        living.wait(60)
        assert remove_stale_folders(tmp_path) == 1
        assert list(tmp_path.iterdir()) == []


def test_folders_that_are_nobodys_scratch_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "file").touch()
    assert remove_stale_folders(tmp_path) == 0
    assert (tmp_path / "notes" / "file").exists()
