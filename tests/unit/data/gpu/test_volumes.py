from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from prism_ssl.contracts import Float64, ScanRecord, UncutChunk, VisitKey
from prism_ssl.data.gpu.volumes import VolumeMirror
from prism_ssl.data.pool.chunks import empty_chunk, put_lattice, put_targets, put_volume
from prism_ssl.data.scan.nifti import OpenScan
from prism_ssl.data.views import TrainingPair, View
from tests.unit.data.extract.test_cpu import AFFINES, DTYPES, TOLERANCE, extracted, noise_scan, scattered_view
from tests.unit.data.test_collate import DEVICES

N = 40


def views_of(scan: OpenScan) -> tuple[View, View]:
    return scattered_view(scan, N), scattered_view(scan, N, rotation_deg=(-2.0, 7.0, 0.0))


def chunk_of(scans: dict[str, OpenScan], new: set[str], mirrored: set[str]) -> UncutChunk:
    """One pair of each scan."""
    chunk = empty_chunk(len(scans), N, "cuda")
    assert isinstance(chunk, UncutChunk)
    for row, (scan_id, scan) in enumerate(scans.items()):
        pair = views_of(scan)
        for side, view in enumerate(pair):
            chunk.positions_mm[row, side] = view.positions_mm
            put_lattice(chunk, row, side, scan, view, 16.0)
        record = ScanRecord(scan_id, "series", "CT", "", "", "subject")
        put_targets(chunk, row, TrainingPair(pair, (scan, scan), (None, None)), scan, record, VisitKey(scan_id, 0, 0))
        if scan_id in new:
            put_volume(chunk, scan_id, scan)
    chunk.mirrored = frozenset(mirrored)
    return chunk


def cut(mirror: VolumeMirror, chunks: list[UncutChunk], device: str = "cpu") -> Float64:
    arguments = [
        torch.tensor(np.concatenate([getattr(chunk, name) for chunk in chunks]), device=device)
        for name in ("pixel_to_voxel", "levels", "positions_mm")
    ]
    return mirror.patches(chunks, *arguments).cpu().numpy().astype(np.float64)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("affine", ["flipped", "sheared"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_voxel_type_gives_the_patches_that_the_compiled_kernel_cuts(dtype: str, affine: str, device: str) -> None:
    scan = noise_scan(dtype, AFFINES[affine], slope=2.5, intercept=-1024.0)
    scan.voxels.flags.writeable = False
    mirror = VolumeMirror(torch.device(device), stage_bytes=1001)  # voxels are divided between two pieces
    (pair,) = cut(mirror, [chunk_of({"scan": scan}, {"scan"}, {"scan"})], device)
    for patches, view in zip(pair, views_of(scan), strict=True):
        expected = extracted(scan, view)
        assert expected.std() > 0.3
        np.testing.assert_allclose(patches, expected, atol=TOLERANCE)
    assert mirror.used_bytes == scan.voxels.nbytes


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_unsigned_voxels_reach_to_the_end_of_their_type(dtype: str) -> None:
    highest = np.iinfo(dtype).max
    voxels = np.full((40, 40, 40), highest - 1000, dtype)
    voxels[:, :, 20:] = 1000
    window = replace(noise_scan("int16", AFFINES["straight"]).stats, lowest=0.0, median=highest / 2, std=highest / 2)
    scan = OpenScan(voxels, 1.0, 0.0, AFFINES["straight"], window)
    (pair,) = cut(VolumeMirror(torch.device("cpu")), [chunk_of({"scan": scan}, {"scan"}, set())])
    assert np.ptp(pair[0]) > 0.7
    np.testing.assert_allclose(pair[0], extracted(scan, views_of(scan)[0]), atol=TOLERANCE)


def test_a_volume_stays_while_its_scan_does_and_goes_with_it() -> None:
    a, b, c = scans = [noise_scan("int16", AFFINES[name]) for name in ("straight", "oblique", "sheared")]
    mirror = VolumeMirror(torch.device("cpu"))
    first = chunk_of({"a": a, "b": b}, {"a", "b"}, {"a", "b"})
    other = chunk_of({"c": c}, {"c"}, {"c"})  # of another actor
    cut(mirror, [first, other])
    assert mirror.scan_ids == {"a", "b", "c"}
    left = cut(mirror, [chunk_of({"a": a, "b": b}, set(), {"b"}), chunk_of({"c": c}, set(), {"c"})])
    for pair, scan in zip(left, scans, strict=True):
        np.testing.assert_allclose(pair[0], extracted(scan, views_of(scan)[0]), atol=TOLERANCE)
    assert mirror.scan_ids == {"b", "c"}
    assert mirror.used_bytes == b.voxels.nbytes + c.voxels.nbytes


def test_after_an_actor_was_replaced_its_successors_volumes_are_the_ones_that_stay() -> None:
    a, b = noise_scan("int16", AFFINES["straight"]), noise_scan("int16", AFFINES["oblique"])
    mirror = VolumeMirror(torch.device("cpu"))
    cut(mirror, [chunk_of({"a": a, "b": b}, {"a", "b"}, {"a", "b"})])
    cut(mirror, [chunk_of({"b": b}, {"b"}, {"b"})])  # begins anew
    assert mirror.scan_ids == {"b"}
    assert mirror.used_bytes == b.voxels.nbytes


def test_a_volume_on_scratch_is_read_from_its_file_which_may_vanish_once_it_is_mapped(tmp_path: Path) -> None:
    scan = noise_scan("int16", AFFINES["oblique"])
    (tmp_path / "scan").write_bytes(scan.voxels.tobytes())
    mapped = replace(scan, voxels=np.memmap(tmp_path / "scan", np.int16, "r", shape=scan.voxels.shape))
    chunk = chunk_of({"scan": mapped}, {"scan"}, {"scan"})
    assert not isinstance(chunk.volumes["scan"], np.ndarray)
    chunk.map_volumes()
    (tmp_path / "scan").unlink()
    (pair,) = cut(VolumeMirror(torch.device("cpu")), [chunk])
    np.testing.assert_allclose(pair[0], extracted(scan, views_of(scan)[0]), atol=TOLERANCE)
    with pytest.raises(FileNotFoundError):
        chunk_of({"scan": mapped}, {"scan"}, {"scan"}).map_volumes()
