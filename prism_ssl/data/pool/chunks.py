"""Allocate chunks, and put one pair into one row of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from prism_ssl.config.schema import ExtractOn
from prism_ssl.contracts import PATCH_PX, PairChunk, ScanRecord, UncutChunk, VisitChunk, VisitKey, VolumeFile
from prism_ssl.data.scan import OpenScan
from prism_ssl.data.views import TrainingPair, View, levels, pair_targets, pixel_to_voxel
from prism_ssl.utils.hashing import stable_int


def empty_chunk(n: int, N: int, extract_on: ExtractOn) -> PairChunk | UncutChunk:
    """A chunk for ``n`` pairs of ``N`` patches a view; its arrays are uninitialised."""
    common: dict[str, Any] = {
        "positions_mm": np.empty((n, 2, N, 3), np.float32),
        "center_delta_mm": np.empty((n, 3), np.float32),
        "rotation_delta_deg": np.empty((n, 3), np.float32),
        "window_delta": np.empty((n, 2), np.float32),
        "intensity_scale": np.empty(n, np.float32),
        "series_label": np.empty(n, np.int64),
        "subject_label": np.empty(n, np.int64),
        "center_a_mm": np.empty((n, 3), np.float32),
        "rotation_a_deg": np.empty((n, 3), np.float32),
        "window_a": np.empty((n, 2), np.float32),
        "window_known": np.ones(n, np.bool_),
        "series_id": [""] * n,
        "visits": [VisitKey("", 0, 0)] * n,
        "sight_bits": np.zeros((n, 2), np.uint8),
        "blocked_ms": 0.0,
        "sampling_ms": 0.0,
        "counters": {},
        "cursor": {},
        "broken": [],
    }
    if extract_on == "cpu":
        return PairChunk(**common, patches=np.empty((n, 2, N, PATCH_PX, PATCH_PX), np.int16))
    return UncutChunk(
        **common,
        pixel_to_voxel=np.empty((n, 2, 3, 6), np.float64),
        levels=np.empty((n, 2, 3), np.float32),
        volumes={},
        mirrored=frozenset(),
    )


def put_targets(
    chunk: VisitChunk, row: int, pair: TrainingPair, scan: OpenScan, record: ScanRecord, key: VisitKey
) -> None:
    """Put into ``row`` how the two views of a pair differ, and which patient and scan they show."""
    targets = pair_targets(*pair.views)
    a = pair.views[0]
    chunk.center_a_mm[row], chunk.rotation_a_deg[row] = a.center_mm, a.rotation_deg
    chunk.window_a[row], chunk.window_known[row] = (a.window_center, a.window_width), pair.window_known
    chunk.subject_label[row] = stable_int(record.subject_id)
    chunk.center_delta_mm[row] = targets.center_delta_mm
    chunk.rotation_delta_deg[row] = targets.rotation_delta_deg
    chunk.window_delta[row] = targets.window_delta
    chunk.intensity_scale[row] = scan.stats.std
    chunk.series_label[row] = stable_int(record.series_id)
    chunk.series_id[row], chunk.visits[row] = record.series_id, key


def put_lattice(chunk: UncutChunk, row: int, side: int, scan: OpenScan, view: View, patch_mm: float) -> None:
    """Put into ``row`` the transform and the window with which a consumer cuts the view out of the volume."""
    window = levels(scan, view)
    chunk.levels[row, side] = window.gain, window.offset, window.outside
    chunk.pixel_to_voxel[row, side] = pixel_to_voxel(scan, view, patch_mm)


def put_volume(chunk: UncutChunk, scan_id: str, scan: OpenScan) -> None:
    """Put the scan's voxels into the chunk: as a file name where scratch holds them, else as an array."""
    voxels = scan.voxels
    if isinstance(voxels, np.memmap):
        chunk.volumes[scan_id] = VolumeFile(str(voxels.filename), voxels.dtype.str, voxels.shape)
    else:
        chunk.volumes[scan_id] = voxels
