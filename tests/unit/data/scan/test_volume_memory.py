from __future__ import annotations

import gzip
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from prism_ssl.data.scan.nifti import open_scan
from prism_ssl.data.scan.volume_memory import VolumeMemory
from tests.support.pool_fakes import count_new_blocks, write_scan

MIB = 2**20


@pytest.fixture
def new_blocks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return count_new_blocks(monkeypatch)


def test_memory_is_used_again_once_the_last_view_is_gone(new_blocks: list[int]) -> None:
    memory = VolumeMemory(keep=1)
    first = memory.take(3 * MIB)
    view = first.view(np.int16).reshape(3, -1)[1:]
    view[:] = 7
    del first
    second = memory.take(3 * MIB)
    second[:] = 0
    assert len(new_blocks) == 2  # the view still holds the first
    assert np.all(view == 7)
    del view
    third = memory.take(3 * MIB)
    assert len(new_blocks) == 2
    assert not np.shares_memory(second, third)


@pytest.mark.parametrize("sizes", [(9 * MIB + 5, 2 * MIB - 1), (1, 7 * MIB + 3), (4 * MIB, 4 * MIB)])
def test_a_block_is_cut_or_extended_to_what_is_asked_for(new_blocks: list[int], sizes: tuple[int, int]) -> None:
    memory = VolumeMemory(keep=1)
    for size in (*sizes, *sizes):
        taken = memory.take(size)
        assert taken.shape == (size,)
        taken[:] = 1  # to its last byte
        del taken
    assert len(new_blocks) == 1


def test_what_a_block_has_beyond_what_is_asked_for_goes_to_the_system() -> None:
    memory, process = VolumeMemory(keep=1), psutil.Process()
    memory.take(128 * MIB)[:] = 1
    large = process.memory_info().rss
    small = memory.take(MIB)
    assert large - process.memory_info().rss > 100 * MIB
    assert small.size == MIB


def test_what_comes_back_beyond_the_blocks_to_keep_goes_to_the_system(new_blocks: list[int]) -> None:
    memory = VolumeMemory(keep=1)
    blocks = [memory.take(MIB) for _ in range(3)]
    blocks.clear()
    new_blocks.clear()
    blocks = [memory.take(MIB) for _ in range(3)]
    assert len(new_blocks) == 2
    new_blocks.clear()
    nothing_kept = VolumeMemory()
    for _ in range(3):
        nothing_kept.take(MIB)
    assert len(new_blocks) == 3


def test_threads_never_hold_the_same_memory(new_blocks: list[int]) -> None:
    memory, rounds = VolumeMemory(keep=2), 300
    together = threading.Barrier(4)

    def take_mark_and_look(mark: int) -> bool:
        rng = np.random.default_rng(mark)
        together.wait()
        for _ in range(rounds):
            mine = memory.take(int(rng.integers(1, 3 * MIB)))
            mine[:: MIB // 4] = mark
            if not np.all(mine[:: MIB // 4] == mark):
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(take_mark_and_look, range(1, 5)))
    assert len(new_blocks) < 4 * rounds / 2


def test_a_scan_in_the_memory_of_a_larger_one_is_the_same_scan(tmp_path: Path, new_blocks: list[int]) -> None:
    scans = [write_scan(tmp_path, f"scan-{seed}", seed) for seed in range(2)]
    for scan in scans:
        path = Path(scan.record.nifti_path)
        path.write_bytes(gzip.compress(path.read_bytes(), 1))
    memory = VolumeMemory(keep=1)
    memory.take(5 * MIB)[:] = 255
    for scan in scans:
        found, expected = open_scan(scan.record.nifti_path, memory=memory), open_scan(scan.record.nifti_path)
        np.testing.assert_array_equal(found.voxels, expected.voxels)
        assert found.stats == expected.stats
        del found
    assert len(new_blocks) == 3  # the larger one's, and those of the two expected
