"""A pool actor that draws views of one place from two series of a patient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from prism_ssl.contracts import PATCH_PX, PairChunk, PreparedScan
from prism_ssl.data.extract.cpu import extract_view
from prism_ssl.data.pool.actor import PoolActor
from prism_ssl.data.pool.memory_plan import _largest_bytes
from prism_ssl.data.pool.other_series import with_other_series
from prism_ssl.data.pool.scene_source import SceneSource
from prism_ssl.data.pool.scratch import ScratchStore
from prism_ssl.data.scan import OpenScan
from prism_ssl.data.views import draw_training_pair, scene_of
from prism_ssl.errors import ReplacementFailed
from prism_ssl.utils.hashing import stable_int
from tests.support.pool_fakes import N_PATCHES, actor_settings, opened, pool_settings, truncate, write_scans

SEED = 7


def _two_patients(folder: Path) -> list[PreparedScan]:
    """CT and MR of patient p, one CT of patient q. All are noise over the same box, so that every point is body."""
    ct, mr, alone = write_scans(folder, 3)
    ct, mr = (replace(scan, record=replace(scan.record, subject_id="p")) for scan in (ct, mr))
    return with_other_series([ct, replace(mr, record=replace(mr.record, modality="MR")), alone])


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., PoolActor]]:
    actors: list[PoolActor] = []

    def start_actor(scans: list[PreparedScan], strict: bool = True, scratch_bytes: int = 0) -> PoolActor:
        settings = actor_settings(tmp_path / "scratch", pool_settings(slots=2, seed=SEED, strict=strict), scratch_bytes)
        view = replace(settings.view, same_place_share=1.0, other_series_share=0.5, random_contrast=0.3)
        actors.append(PoolActor(scans, replace(settings, view=view), f"pool-{len(actors)}"))
        return actors[-1]

    yield start_actor
    for actor in actors:
        actor.close()


def test_the_other_series_of_a_patient_are_found_and_two_ct_are_not_a_pair(tmp_path: Path) -> None:
    ct, mr, alone = _two_patients(tmp_path)
    assert [[other.record.scan_id for other in scan.others] for scan in (ct, mr, alone)] == [
        ["scan-01"],
        ["scan-00"],
        [],
    ]
    both_ct = [replace(scan, record=replace(scan.record, modality="CT")) for scan in (ct, mr)]
    assert all(not scan.others for scan in with_other_series(both_ct))
    same_voxels = [replace(scan, content="x") for scan in (ct, mr)]
    assert all(not scan.others for scan in with_other_series(same_voxels))
    assert with_other_series([ct, mr, alone]) == [ct, mr, alone]


@pytest.mark.parametrize("scratch_bytes", [0, 2**30])
def test_pairs_are_those_that_seed_and_visit_fix(
    start: Callable[..., PoolActor], tmp_path: Path, scratch_bytes: int
) -> None:
    scans = {scan.record.scan_id: scan for scan in _two_patients(tmp_path)}
    actor = start(list(scans.values()), scratch_bytes=scratch_bytes)
    view, seen = actor._settings.view, set()
    for chunk in (actor.next_chunk(4) for _ in range(6)):
        assert isinstance(chunk, PairChunk)
        for row, key in enumerate(chunk.visits):
            scan = scans[key.scan_id]
            other = opened(scan.others[0]) if scan.others else None
            scene = scene_of(opened(scan), other, view, SEED, key.scan_id)
            pair = draw_training_pair(scene, view, N_PATCHES, SEED, key)
            for side in (0, 1):
                patches = np.empty((N_PATCHES, PATCH_PX, PATCH_PX), np.int16)
                extract_view(pair.scans[side], pair.views[side], 16.0, patches)
                curve = pair.curves[side]
                if curve is not None:
                    knots = np.linspace(-32767, 32767, len(curve))
                    patches = np.rint(np.interp(patches, knots, curve)).astype(np.int16)
                np.testing.assert_array_equal(chunk.patches[row, side], patches)
            two_series = pair.scans[0] is not pair.scans[1]
            seen.add((key.scan_id, two_series))
            assert bool(chunk.window_known[row]) == pair.window_known
            a = pair.views[0]
            np.testing.assert_allclose(chunk.center_a_mm[row], a.center_mm, rtol=1e-6)
            np.testing.assert_allclose(chunk.rotation_a_deg[row], a.rotation_deg, rtol=1e-6)
            np.testing.assert_allclose(chunk.window_a[row], (a.window_center, a.window_width), rtol=1e-6)
            assert np.abs(chunk.center_delta_mm[row]).max() <= view.same_place_mm + 1e-4
            assert chunk.subject_label[row] == stable_int(scan.record.subject_id)
    assert seen == {("scan-00", False), ("scan-00", True), ("scan-01", False), ("scan-01", True), ("scan-02", False)}


def test_another_series_that_breaks_is_told_by_its_own_name(start: Callable[..., PoolActor], tmp_path: Path) -> None:
    ct, mr, alone = _two_patients(tmp_path)
    truncate(mr)
    actor = start([ct, alone], strict=False)
    chunks = [actor.next_chunk(4) for _ in range(4)]
    assert [broken.scan_id for chunk in chunks for broken in chunk.broken] == ["scan-01"]
    assert {key.scan_id for chunk in chunks for key in chunk.visits} == {"scan-00", "scan-02"}
    with pytest.raises(ReplacementFailed, match="scan-01"):
        start([ct, alone], strict=True).next_chunk(4)


def test_the_memory_plan_holds_the_other_series_too(tmp_path: Path) -> None:
    ct, mr, alone = _two_patients(tmp_path)
    each = ct.volume_bytes
    assert _largest_bytes([ct, mr, alone], 2) == 4 * each
    assert _largest_bytes([ct, mr, alone], 3) == 5 * each


def test_a_scan_opened_twice_at_once_is_read_and_stored_once(tmp_path: Path) -> None:
    ct, mr, _ = _two_patients(tmp_path)
    reading, go = Event(), Event()
    reads: list[str] = []

    def read(prepared: PreparedScan) -> OpenScan:
        reads.append(prepared.record.scan_id)
        reading.set()
        assert go.wait(60)
        return opened(prepared)

    scratch = ScratchStore(tmp_path / "scratch", "pool", 2**30)
    view = replace(actor_settings(tmp_path, pool_settings()).view, same_place_share=1.0, other_series_share=1.0)
    source = SceneSource({"scan-00": ct, "scan-01": mr}, read, scratch, view, SEED)
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(source._open_one, ct) for _ in (0, 1)]
        assert reading.wait(60)
        go.set()
        first, second = (each.result(timeout=60) for each in both)
    assert reads == ["scan-00"]
    assert scratch.used_bytes == ct.volume_bytes
    np.testing.assert_array_equal(first.voxels, second.voxels)
    assert source.open("scan-00").scene.other is not None
    scratch.close()
