"""Small scans of noise on disk, and scans that are broken or never open, for the tests of the pool."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from mmap import mmap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from prism_ssl.config.schema import ExtractOn, ViewConfig
from prism_ssl.contracts import Float64, PairChunk, PreparedScan, RobustStats, ScanRecord, VisitChunk, VisitKey
from prism_ssl.data.pool.actor import ActorSettings
from prism_ssl.data.pool.warm_pool import PoolSettings
from prism_ssl.data.scan import volume_memory
from prism_ssl.data.scan.nifti import OpenScan, open_scan
from prism_ssl.data.scan.nifti_writer import nifti_bytes

N_PATCHES = 8

unhurried = settings(deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
"""Properties hold on a busy machine too: the same examples each time, and no clock."""


def affine(spacing_mm: float = 1.5) -> Float64:
    return np.diag([-spacing_mm, spacing_mm, spacing_mm, 1.0])


def noise_scan(seed: int, shape: tuple[int, int, int] = (30, 36, 40)) -> OpenScan:
    """A scan of noise [nz, ny, nx] in memory; no two seeds share a voxel value pattern."""
    rng = np.random.default_rng(seed)
    voxels = rng.integers(0, 2000, shape).astype(np.int16)
    return OpenScan(voxels, 1.0, -1000.0, affine(), RobustStats(lowest=-1000.0, median=10.0 * seed, std=300.0 + seed))


def write_scan(folder: Path, name: str, seed: int) -> PreparedScan:
    """A sound scan on disk, as preflight hands it on."""
    scan = noise_scan(seed)
    path = folder / f"{name}.nii"
    path.write_bytes(nifti_bytes(scan.voxels, scan.affine, scan.slope, scan.intercept))
    record = ScanRecord(name, f"series-{name}", "CT", str(path), str(folder), f"subject-{name}")
    return PreparedScan(record, scan.stats, scan.voxels.nbytes, scan.shape, (1.5, 1.5, 1.5))


def write_scans(folder: Path, n: int) -> list[PreparedScan]:
    """Sound scans scan-00, scan-01, ... on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    return [write_scan(folder, f"scan-{number:02d}", number) for number in range(n)]


def truncate(scan: PreparedScan) -> None:
    """Cut the file after its header: what a copy that was interrupted leaves behind."""
    os.truncate(scan.record.nifti_path, 1000)


def flattened(scan: PreparedScan) -> PreparedScan:
    """The scan with a spread of 0: it opens, and no window can be drawn from it."""
    return replace(scan, stats=replace(scan.stats, std=0.0))


def make_hang(scan: PreparedScan) -> None:
    """Turn the file into a pipe: opening it hangs, as on a dead file system, until ``let_fail``."""
    path = Path(scan.record.nifti_path)
    path.unlink()
    os.mkfifo(path)


def let_fail(scan: PreparedScan) -> None:
    """Wait until the hanging file is being opened, then let that fail."""
    os.close(os.open(scan.record.nifti_path, os.O_WRONLY))


def opened(scan: PreparedScan) -> OpenScan:
    return open_scan(scan.record.nifti_path, scan.stats)


def pool_settings(
    slots: int = 2,
    visits_per_scan: int = 3,
    max_prefetch_replacements: int = 2,
    strict: bool = True,
    deterministic: bool = True,
    seed: int = 0,
    pairs_per_turn: int = 1,
) -> PoolSettings:
    return PoolSettings(slots, visits_per_scan, max_prefetch_replacements, strict, deterministic, seed, pairs_per_turn)


def actor_settings(
    scratch: Path,
    pool: PoolSettings,
    scratch_bytes: int = 0,
    stall_timeout_s: float = 60.0,
    extract_on: ExtractOn = "cpu",
) -> ActorSettings:
    return ActorSettings(
        pool=pool,
        view=ViewConfig(radius_mm_min=10.0, radius_mm_max=20.0),
        n_patches=N_PATCHES,
        patch_mm=16.0,
        max_volume_bytes=2**30,
        scratch_bytes=scratch_bytes,
        scratch_folder=str(scratch),
        stall_timeout_s=stall_timeout_s,
        extract_on=extract_on,
    )


def count_new_blocks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes for which ``VolumeMemory`` asks the system from now on, as they are asked for."""
    asked: list[int] = []
    ask = volume_memory._new_block

    def counted(size: int) -> mmap:
        asked.append(size)
        return ask(size)

    monkeypatch.setattr(volume_memory, "_new_block", counted)
    return asked


def visits(chunks: Sequence[VisitChunk]) -> list[VisitKey]:
    return [visit for chunk in chunks for visit in chunk.visits]


def scan_ids(chunks: Sequence[VisitChunk]) -> set[str]:
    return {visit.scan_id for visit in visits(chunks)}


def assert_equal_chunks(some: VisitChunk, other: VisitChunk) -> None:
    """Equal pairs, bit for bit; times and counters of an actor's process are its own."""
    assert type(some) is type(other)
    assert some.visits == other.visits
    assert some.series_id == other.series_id
    pixels = ("patches",) if isinstance(some, PairChunk) else ("pixel_to_voxel", "levels")
    for name in (*pixels, "positions_mm", "center_delta_mm", "rotation_delta_deg", "window_delta"):
        np.testing.assert_array_equal(getattr(some, name), getattr(other, name), err_msg=name)
    np.testing.assert_array_equal(some.intensity_scale, other.intensity_scale)
    np.testing.assert_array_equal(some.series_label, other.series_label)
