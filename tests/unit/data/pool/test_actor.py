from __future__ import annotations

import errno
import gc
import gzip
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from mmap import mmap
from pathlib import Path

import numpy as np
import pytest

from prism_ssl.config.schema import ExtractOn
from prism_ssl.contracts import PATCH_PX, BrokenScan, PairChunk, PreparedScan, UncutChunk, VolumeFile
from prism_ssl.data.extract.cpu import extract_view
from prism_ssl.data.pool import actor as pool_actor
from prism_ssl.data.pool.actor import PoolActor
from prism_ssl.data.pool.warm_pool import PoolSettings, WarmPool
from prism_ssl.data.scan import volume_memory
from prism_ssl.data.scan.nifti import OpenScan
from prism_ssl.data.views.view_pairs import draw_pair
from prism_ssl.errors import (
    ArchiveUnreachable,
    HostOutOfMemory,
    MachineTrouble,
    PoolStalled,
    ReplacementFailed,
    TooManyBrokenScans,
)
from prism_ssl.utils.hashing import stable_int
from tests.support.pool_fakes import (
    N_PATCHES,
    actor_settings,
    assert_equal_chunks,
    count_new_blocks,
    flattened,
    let_fail,
    make_hang,
    opened,
    pool_settings,
    scan_ids,
    truncate,
    visits,
    write_scans,
)

StartActor = Callable[..., PoolActor]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartActor]:
    """Starts actors that are closed at the end."""
    actors: list[PoolActor] = []

    def start_actor(
        scans: list[PreparedScan],
        pool: PoolSettings,
        cursor: dict[str, object] | None = None,
        scratch_bytes: int = 0,
        stall_timeout_s: float = 60.0,
        extract_on: ExtractOn = "cpu",
        outage_patience_s: float = 60.0,
    ) -> PoolActor:
        settings = actor_settings(tmp_path / "scratch", pool, scratch_bytes, stall_timeout_s, extract_on)
        settings = replace(settings, outage_patience_s=outage_patience_s)
        actors.append(PoolActor(scans, settings, f"pool-{len(actors)}", cursor))
        return actors[-1]

    yield start_actor
    for actor in actors:
        actor.close()


def chunks_of(actor: PoolActor, n_chunks: int, n_pairs: int = 4) -> list[PairChunk]:
    chunks = [actor.next_chunk(n_pairs) for _ in range(n_chunks)]
    return [chunk for chunk in chunks if isinstance(chunk, PairChunk)]


def split_by_first_slots(
    scans: list[PreparedScan], pool: PoolSettings
) -> tuple[list[PreparedScan], list[PreparedScan]]:
    """The scans that the slots begin with, and the others."""
    first = {slot.current.scan_id for slot in WarmPool(ids(scans), pool).slots if slot.current}
    return [s for s in scans if s.record.scan_id in first], [s for s in scans if s.record.scan_id not in first]


def ids(scans: list[PreparedScan]) -> list[str]:
    return [scan.record.scan_id for scan in scans]


# ---------------------------------------------------------------------- pairs
@pytest.mark.parametrize("deterministic", [True, False])
def test_pairs_are_those_that_seed_and_visit_fix(start: StartActor, tmp_path: Path, deterministic: bool) -> None:
    scans = {scan.record.scan_id: scan for scan in write_scans(tmp_path, 5)}
    pool = pool_settings(slots=3, visits_per_scan=2, deterministic=deterministic, seed=7)
    settings = actor_settings(tmp_path, pool)
    for chunk in chunks_of(start(list(scans.values()), pool), n_chunks=4, n_pairs=5):
        for row, key in enumerate(chunk.visits):
            scan = opened(scans[key.scan_id])
            pair = draw_pair(scan.affine, scan.shape, scan.stats, settings.view, N_PATCHES, 7, key)
            for side, view in enumerate(pair):
                patches = np.empty((N_PATCHES, PATCH_PX, PATCH_PX), np.int16)
                extract_view(scan, view, settings.patch_mm, patches)
                np.testing.assert_array_equal(chunk.patches[row, side], patches)
                np.testing.assert_array_equal(chunk.positions_mm[row, side], view.positions_mm)


def test_targets_are_view_b_minus_view_a_and_labels_name_the_series(start: StartActor, tmp_path: Path) -> None:
    scans = write_scans(tmp_path, 4)
    scans[1] = replace(scans[1], record=replace(scans[1].record, series_id=scans[0].record.series_id))
    of_id = {scan.record.scan_id: scan for scan in scans}
    pool = pool_settings(slots=4, seed=7)
    (chunk,) = chunks_of(start(scans, pool), n_chunks=1, n_pairs=8)
    assert scan_ids([chunk]) == set(of_id)
    for row, key in enumerate(chunk.visits):
        scan, record = opened(of_id[key.scan_id]), of_id[key.scan_id].record
        view = actor_settings(tmp_path, pool).view
        a, b = draw_pair(scan.affine, scan.shape, scan.stats, view, N_PATCHES, 7, key)
        np.testing.assert_allclose(chunk.center_delta_mm[row], b.center_mm - a.center_mm, rtol=1e-6)
        np.testing.assert_allclose(chunk.rotation_delta_deg[row], b.rotation_deg - a.rotation_deg, rtol=1e-6)
        window_delta = (b.window_center - a.window_center, b.window_width - a.window_width)
        np.testing.assert_allclose(chunk.window_delta[row], window_delta, rtol=1e-5)
        assert chunk.intensity_scale[row] == scan.stats.std
        assert (chunk.series_id[row], chunk.series_label[row]) == (record.series_id, stable_int(record.series_id))
    assert len(set(chunk.series_label)) == 3


def test_a_cursor_continues_with_the_chunks_that_would_have_followed(start: StartActor, tmp_path: Path) -> None:
    scans, pool = write_scans(tmp_path, 5), pool_settings(slots=2, visits_per_scan=3)
    whole = chunks_of(start(scans, pool), 8)
    for some, other in zip(chunks_of(start(scans, pool, whole[3].cursor), 4), whole[4:], strict=True):
        assert_equal_chunks(some, other)
        assert some.cursor["slots"] == other.cursor["slots"]


# ---------------------------------------------------------------------- pairs that the consumer cuts out
@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("scratch_bytes", [0, 2**30], ids=["no scratch", "scratch"])
def test_uncut_a_volume_is_handed_over_once_for_each_stay_of_its_scan(
    start: StartActor, tmp_path: Path, scratch_bytes: int, deterministic: bool
) -> None:
    scans = write_scans(tmp_path, 5)
    voxels = {scan.record.scan_id: opened(scan).voxels for scan in scans}
    pool = pool_settings(slots=2, visits_per_scan=6, deterministic=deterministic)
    actor, held = start(scans, pool, scratch_bytes=scratch_bytes, extract_on="cuda"), set[str]()
    stays: set[tuple[str, int]] = set()  # a scan may leave the pool and come back, in the next epoch, within one chunk
    for _ in range(5000):  # how soon scans are replaced depends on the machine
        chunk = actor.next_chunk(3)
        assert isinstance(chunk, UncutChunk)
        new = {(visit.scan_id, visit.epoch) for visit in chunk.visits} - stays
        assert chunk.volumes.keys() == {scan_id for scan_id, _ in new}
        assert scan_ids([chunk]) <= held | chunk.volumes.keys()
        for scan_id, volume in chunk.volumes.items():
            assert isinstance(volume, VolumeFile) == (scratch_bytes > 0)
            np.testing.assert_array_equal(volume.map() if isinstance(volume, VolumeFile) else volume, voxels[scan_id])
        assert chunk.mirrored <= held | chunk.volumes.keys()
        assert len(chunk.mirrored) <= pool.slots
        held, stays = set(chunk.mirrored), stays | new
        if len(stays) > 7:
            break
    assert chunk.counters["volumes_handed_over"] == len(stays) > 7


def test_uncut_broken_scans_are_told_and_a_cursor_continues_as_if_the_actor_had_cut(
    start: StartActor, tmp_path: Path
) -> None:
    scans, pool = write_scans(tmp_path, 5), pool_settings(slots=3, visits_per_scan=2, strict=False)
    broken = {_break(scans, scans[number], stage) for number, stage in ((0, "open"), (1, "extract"))}
    whole = chunks_of(start(scans, pool), 6)
    actor = start(scans, pool, extract_on="cuda")
    uncut = [actor.next_chunk(4) for _ in range(3)]
    resumed = start(scans, pool, uncut[-1].cursor, extract_on="cuda")
    uncut += [resumed.next_chunk(4) for _ in range(3)]
    assert {one.scan_id for chunk in uncut for one in chunk.broken} == broken
    for some, other in zip(uncut, whole, strict=True):
        assert some.visits == other.visits
        np.testing.assert_array_equal(some.positions_mm, other.positions_mm)
        np.testing.assert_array_equal(some.center_delta_mm, other.center_delta_mm)
        serving, as_cut = ([slot["current"] for slot in one.cursor["slots"]] for one in (some, other))
        assert serving == as_cut  # what is on its way may be known to be broken in one of the two only
        assert isinstance(some, UncutChunk)
        assert not broken & some.volumes.keys()


# ---------------------------------------------------------------------- opening in the background
def test_the_pool_serves_without_waiting_while_a_replacement_hangs(start: StartActor, tmp_path: Path) -> None:
    scans, pool = write_scans(tmp_path, 3), pool_settings(slots=2, visits_per_scan=2, deterministic=False)
    serving, (hanging,) = split_by_first_slots(scans, pool)
    make_hang(hanging)
    actor = start(scans, pool)
    actor.next_chunk(4)
    later = chunks_of(actor, 5)
    assert [chunk.blocked_ms for chunk in later] == [0.0] * 5
    assert scan_ids(later) == set(ids(serving))
    let_fail(hanging)


def test_closing_returns_the_failure_that_no_chunk_has_reported(tmp_path: Path) -> None:
    scans, pool = write_scans(tmp_path, 3), pool_settings(slots=2, visits_per_scan=2, deterministic=False)
    _, (hanging,) = split_by_first_slots(scans, pool)
    make_hang(hanging)
    actor = PoolActor(scans, actor_settings(tmp_path / "scratch", pool), "pool-0")
    assert chunks_of(actor, 2)[-1].broken == []
    let_fail(hanging)
    cause = "ScanRejected: not_readable: the file cannot be read: Illegal seek"
    assert actor.close() == [BrokenScan(hanging.record.scan_id, "open", cause)]
    assert list((tmp_path / "scratch").iterdir()) == []


def test_strict_a_failure_in_the_background_ends_a_pool_that_could_go_on(start: StartActor, tmp_path: Path) -> None:
    scans, pool = write_scans(tmp_path, 3), pool_settings(slots=2, visits_per_scan=2, deterministic=False)
    _, (hanging,) = split_by_first_slots(scans, pool)
    make_hang(hanging)
    actor = start(scans, pool)
    chunks_of(actor, 2)
    let_fail(hanging)
    with pytest.raises(ReplacementFailed, match=f"scan {hanging.record.scan_id} failed at stage 'open'"):
        chunks_of(actor, 100_000, n_pairs=1)


def test_when_no_scan_opens_in_time_the_pool_says_so(start: StartActor, tmp_path: Path) -> None:
    scans = write_scans(tmp_path, 2)
    for scan in scans:
        make_hang(scan)
    actor = start(scans, pool_settings(), stall_timeout_s=0.01)
    with pytest.raises(PoolStalled, match="no scan could be opened within 0 s while 2 were being opened"):
        actor.next_chunk(4)
    for scan in scans:
        let_fail(scan)
    assert sorted(broken.scan_id for broken in actor.close()) == ids(scans)


# ---------------------------------------------------------------------- broken scans
@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize(("stage", "cause"), [("open", "ScanRejected: truncated_data"), ("extract", "ZeroDivisionErr")])
def test_strict_a_broken_scan_ends_the_pool_by_name(
    start: StartActor, tmp_path: Path, stage: str, cause: str, deterministic: bool
) -> None:
    scans, pool = write_scans(tmp_path, 4), pool_settings(deterministic=deterministic)
    broken = _break(scans, split_by_first_slots(scans, pool)[0][0], stage)
    with pytest.raises(ReplacementFailed, match=f"scan {broken} failed at stage '{stage}': {cause}"):
        start(scans, pool).next_chunk(4)


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize(("stage", "cause"), [("open", "ScanRejected: truncated_data"), ("extract", "ZeroDivisionErr")])
def test_lenient_a_broken_scan_is_told_once_and_leaves_no_gap_in_the_chunks(
    start: StartActor, tmp_path: Path, stage: str, cause: str, deterministic: bool
) -> None:
    scans, pool = write_scans(tmp_path, 4), pool_settings(strict=False, deterministic=deterministic)
    broken = _break(scans, split_by_first_slots(scans, pool)[0][0], stage)
    chunks = chunks_of(start(scans, pool), 8)
    (told,) = [scan for chunk in chunks for scan in chunk.broken]
    assert (told.scan_id, told.stage) == (broken, stage)
    assert told.cause.startswith(cause)
    assert scan_ids(chunks) <= set(ids(scans)) - {broken}
    assert len(set(visits(chunks))) == 32
    assert chunks[-1].counters["replacement_failed_count"] == 1
    assert all(chunk.patches[row, side].any() for chunk in chunks for row in range(4) for side in (0, 1))


def test_lenient_a_shard_of_broken_scans_ends_the_pool(start: StartActor, tmp_path: Path) -> None:
    scans = write_scans(tmp_path, 3)
    for scan in scans:
        truncate(scan)
    with pytest.raises(TooManyBrokenScans, match="all 3 scans of the shard are broken"):
        start(scans, pool_settings(strict=False)).next_chunk(4)


def _break(scans: list[PreparedScan], chosen: PreparedScan, stage: str) -> str:
    """Make ``chosen`` fail at ``stage``; returns its id."""
    if stage == "open":
        truncate(chosen)
    else:
        scans[scans.index(chosen)] = flattened(chosen)
    return chosen.record.scan_id


# ---------------------------------------------------------------------- trouble that is no scan's fault
def gzipped(scans: list[PreparedScan]) -> list[PreparedScan]:
    """The scans, in files that are inflated into memory of their own."""
    for scan in scans:
        path = Path(scan.record.nifti_path)
        path.write_bytes(gzip.compress(path.read_bytes(), 1))
    return scans


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("number", "end"),
    [(errno.ENOMEM, HostOutOfMemory), (errno.EMFILE, MachineTrouble), (errno.EIO, ArchiveUnreachable)],
)
def test_trouble_of_the_machine_or_the_storage_ends_the_pool_by_its_own_name_and_blames_no_scan(
    start: StartActor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    end: type[Exception],
    strict: bool,
) -> None:
    def refuse(_size: int) -> mmap:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(volume_memory, "_new_block", refuse)
    actor = start(gzipped(write_scans(tmp_path, 6)), pool_settings(strict=strict), outage_patience_s=0.0)
    with pytest.raises(end):
        actor.next_chunk(4)
    assert actor.close() == []


@pytest.mark.parametrize("strict", [True, False])
def test_no_memory_to_cut_out_a_view_blames_no_scan(
    start: StartActor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strict: bool
) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    actor = start(write_scans(tmp_path, 3), pool_settings(strict=strict))
    monkeypatch.setattr(pool_actor, "extract_view", full)
    with pytest.raises(HostOutOfMemory, match="no memory was left to cut views out of a scan"):
        actor.next_chunk(2)
    assert actor.close() == []


@pytest.mark.parametrize("strict", [True, False])
def test_a_scratch_file_that_vanished_is_read_from_the_archive_again(
    start: StartActor, tmp_path: Path, strict: bool
) -> None:
    scans, pool = write_scans(tmp_path, 4), pool_settings(slots=2, visits_per_scan=2, strict=strict)
    reference = chunks_of(start(scans, pool), 12)
    actor = start(scans, pool, scratch_bytes=2**30)
    chunks = chunks_of(actor, 4)
    for file in (tmp_path / "scratch").glob("*/scan-*"):
        file.unlink()
    chunks += chunks_of(actor, 8)
    for some, other in zip(chunks, reference, strict=True):
        assert_equal_chunks(some, other)
    assert chunks[-1].counters["scratch_lost"] > 0
    assert chunks[-1].counters["replacement_failed_count"] == 0


# ---------------------------------------------------------------------- scratch, memory, counters
def test_a_scan_seen_again_comes_from_scratch_and_gives_the_same_pairs(start: StartActor, tmp_path: Path) -> None:
    scans, pool = write_scans(tmp_path, 4), pool_settings(slots=2, visits_per_scan=2)
    reference = chunks_of(start(scans, pool), 12)
    actor = start(scans, pool, scratch_bytes=2**30)
    chunks = chunks_of(actor, 4)
    assert chunks[-1].counters["scans_seen"] == 4
    for scan in scans:
        Path(scan.record.nifti_path).unlink()
    chunks += chunks_of(actor, 8)
    for some, other in zip(chunks, reference, strict=True):
        assert_equal_chunks(some, other)
    counters = chunks[-1].counters
    assert counters["scratch_hits"] >= counters["opened"] - 4 > 0
    assert counters["scratch_bytes"] == sum(scan.volume_bytes for scan in scans)


def test_scans_that_have_left_their_slot_are_let_go(start: StartActor, tmp_path: Path) -> None:
    mark = -1234.5
    scans = [replace(scan, stats=replace(scan.stats, lowest=mark)) for scan in write_scans(tmp_path, 12)]
    (chunk,) = chunks_of(start(scans, pool := pool_settings(slots=2, visits_per_scan=1)), 1, n_pairs=24)
    assert chunk.counters["scans_seen"] == 12
    alive = [one for one in gc.get_objects() if type(one) is OpenScan and one.stats.lowest == mark]
    assert len(alive) <= 2 * pool.slots


def test_counters_tell_what_the_chunks_tell(start: StartActor, tmp_path: Path) -> None:
    scans = write_scans(tmp_path, 5)
    chunks = chunks_of(start(scans, pool_settings(slots=3, visits_per_scan=2)), 6)
    counters = chunks[-1].counters
    assert (counters["pairs"], counters["slots"], counters["scans_in_shard"]) == (24, 3, 5)
    assert counters["scans_seen"] == len(scan_ids(chunks)) == 5
    assert counters["replacement_failed_count"] == 0
    assert counters["replacement_wait_time_ms_total"] == pytest.approx(sum(chunk.blocked_ms for chunk in chunks))


@pytest.mark.parametrize("extract_on", ["cpu", "cuda"])
def test_views_that_show_nothing_are_counted_by_scan_and_across_a_resume(
    start: StartActor, tmp_path: Path, extract_on: ExtractOn
) -> None:
    scans, pool = write_scans(tmp_path, 4), pool_settings(slots=2, visits_per_scan=4)
    dark = scans[0] = replace(scans[0], stats=replace(scans[0].stats, median=1e5, std=10.0))  # every window misses it
    actor = start(scans, pool, extract_on=extract_on)
    chunks = [actor.next_chunk(8) for _ in range(3)]
    chunks.append(start(scans, pool, chunks[-1].cursor, extract_on=extract_on).next_chunk(8))
    for chunk in chunks:
        for key, sides in zip(chunk.visits, chunk.sight_bits.tolist(), strict=True):
            assert set(sides) == {3 if key.scan_id == dark.record.scan_id else 0}
    empty = 2 * sum(key.scan_id == dark.record.scan_id for key in visits(chunks))
    assert 0 < empty < 64
    counters = chunks[-1].counters
    assert [counters[name] for name in ("views_empty", "views_saturated", "views_flat", "views_outside")] == [
        empty, empty, empty, 0,
    ]  # fmt: skip


# ---------------------------------------------------------------------- memory
@pytest.mark.parametrize("deterministic", [True, False])
def test_replacements_live_in_the_memory_of_those_they_replace(
    start: StartActor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deterministic: bool
) -> None:
    new_blocks = count_new_blocks(monkeypatch)
    scans = gzipped(write_scans(tmp_path, 8))
    pool = pool_settings(slots=3, visits_per_scan=20, max_prefetch_replacements=1, deterministic=deterministic)
    chunks = chunks_of(start(scans, pool), n_chunks=6, n_pairs=400)  # many replacements within one chunk
    assert chunks[-1].counters["opened"] > 30
    beside_the_slots = pool.slots if deterministic else pool.max_prefetch_replacements
    assert len(new_blocks) <= pool.slots + beside_the_slots  # what the memory plan counts
