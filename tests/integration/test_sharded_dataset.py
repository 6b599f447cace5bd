from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
import ray.util

from prism_ssl.config.schema import DataConfig, ExtractOn, PrismConfig
from prism_ssl.contracts import BrokenScan, PreparedScan, UncutChunk, VisitChunk
from prism_ssl.data.catalog import load_records
from prism_ssl.data.checks.verdict import check_scan
from prism_ssl.data.sharded_dataset import NO_WAIT, Cursors, PairStream, WaitCauses, dashboard_name, make_shards
from prism_ssl.errors import BatchDoesNotFit, PoolActorDied, PrismError, ReplacementFailed, TooManyBrokenScans
from prism_ssl.utils.fs import remove_stale_folders
from prism_ssl.utils.hashing import shard_worker
from tests.support.pool_fakes import actor_settings, assert_equal_chunks, pool_settings, scan_ids, truncate, write_scans

Batch = list[VisitChunk]
PAIRS = 5
SCRATCH_BYTES = 40 * 2**20
"""For both actors; less than the phantoms need."""


@pytest.fixture(scope="module")
def phantoms(phantom_catalog: Path) -> list[PreparedScan]:
    config = PrismConfig(data=DataConfig(catalog_path=str(phantom_catalog)))
    return [check_scan(record, config).prepared(record) for record in load_records(config.data, seed=0).records]


class Streams:
    """Starts streams that are stopped at the end."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.started: list[PairStream] = []
        self.told: list[BrokenScan] = []

    def start(
        self,
        shards: list[list[PreparedScan]],
        *,
        name: str,
        strict: bool = True,
        cursors: Cursors | None = None,
        abort_after_opens: int = 200,
        max_actor_restarts: int = 3,
        extract_on: ExtractOn = "cpu",
    ) -> PairStream:
        config = DataConfig(
            phantom_subjects=1,
            workers=len(shards),
            strict=strict,
            deterministic=True,
            abort_after_opens=abort_after_opens,
            max_actor_restarts=max_actor_restarts,
            stall_timeout_s=120.0,
        )
        pool = pool_settings(slots=3, visits_per_scan=4, strict=strict)
        settings = actor_settings(self.scratch, pool, SCRATCH_BYTES, extract_on=extract_on)
        self.started.append(PairStream(shards, settings, config, PAIRS, name, cursors, self.told.append))
        return self.started[-1]

    def stop(self, stream: PairStream) -> tuple[list[BrokenScan], list[str]]:
        self.started.remove(stream)
        return stream.stop()


@pytest.fixture(scope="module")
def module_streams(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Streams]:
    yield from _streams(tmp_path_factory.mktemp("scratch"))


@pytest.fixture
def streams(ray_local: None, tmp_path: Path) -> Iterator[Streams]:
    yield from _streams(tmp_path / "scratch")


def _streams(scratch: Path) -> Iterator[Streams]:
    streams = Streams(scratch)
    yield streams
    for stream in streams.started:
        stream.stop()


def batches_of(stream: PairStream, n: int) -> list[Batch]:
    return [next(stream)[0] for _ in range(n)]


def assert_equal_batches(some: list[Batch], other: list[Batch]) -> None:
    for chunks, expected in zip(some, other, strict=True):
        for chunk, expected_chunk in zip(chunks, expected, strict=True):
            assert_equal_chunks(chunk, expected_chunk)


@dataclasses.dataclass
class Recording:
    """A stream that nothing disturbed."""

    batches: list[Batch]
    waits: list[WaitCauses]
    counters: dict[str, float]


@pytest.fixture(scope="module")
def undisturbed(module_streams: Streams, phantoms: list[PreparedScan]) -> Recording:
    stream = module_streams.start(make_shards(phantoms, 2), name="undisturbed")
    steps = [next(stream) for _ in range(10)]
    recording = Recording([chunks for chunks, _ in steps], [wait for _, wait in steps], stream.counters())
    assert module_streams.stop(stream) == ([], [])
    return recording


# ---------------------------------------------------------------------- shards
def test_every_scan_is_in_the_shard_that_its_id_names_and_in_no_other(phantoms: list[PreparedScan]) -> None:
    shards = make_shards(phantoms, 3)
    placed = [(worker, scan.record.scan_id) for worker, shard in enumerate(shards) for scan in shard]
    assert sorted(scan_id for _, scan_id in placed) == sorted(scan.record.scan_id for scan in phantoms)
    assert all(shard_worker(scan_id, 3) == worker for worker, scan_id in placed)
    assert make_shards(phantoms[::-1], 3) == shards


def test_a_worker_with_fewer_than_two_scans_is_refused(phantoms: list[PreparedScan]) -> None:
    with pytest.raises(BatchDoesNotFit, match=r"3 training scans over 2 workers leave worker \d with [01]; needed: 2"):
        make_shards(phantoms[:3], 2)


# ---------------------------------------------------------------------- an undisturbed stream
def test_a_batch_mixes_all_actors_in_the_order_of_the_workers(
    undisturbed: Recording, phantoms: list[PreparedScan]
) -> None:
    shards = [{scan.record.scan_id for scan in shard} for shard in make_shards(phantoms, 2)]
    for chunks in undisturbed.batches:
        assert [len(chunk.visits) for chunk in chunks] == [PAIRS, PAIRS]
        assert all(scan_ids([chunk]) <= shard for chunk, shard in zip(chunks, shards, strict=True))


def test_counters_are_sums_over_the_actors(undisturbed: Recording, phantoms: list[PreparedScan]) -> None:
    counters, last = undisturbed.counters, undisturbed.batches[-1]
    assert counters["pairs"] == 10 * 2 * PAIRS
    assert counters["scans_in_shard"] == len(phantoms)
    for name in ("opened", "replacement_completed_count", "scans_seen", "scratch_bytes"):
        assert counters[name] == sum(chunk.counters[name] for chunk in last) > 0
    assert counters["coverage"] == counters["scans_seen"] / len(phantoms)
    assert counters["pool_turnover"] == counters["replacement_completed_count"] / 6
    assert counters["actor_restarts"] == 0
    assert counters["scratch_bytes"] <= SCRATCH_BYTES < sum(scan.volume_bytes for scan in phantoms)


def test_the_causes_of_a_wait_add_up_to_the_wait(undisturbed: Recording) -> None:
    total = sum(undisturbed.waits, NO_WAIT)
    assert total.opening_ms > 0
    for wait in (*undisturbed.waits, total):
        parts = (wait.opening_ms, wait.sampling_ms, wait.transport_ms)
        assert sum(parts) == pytest.approx(wait.total_ms)
        assert min(parts) >= -1e-9 * wait.total_ms
    assert total - total == NO_WAIT


@pytest.mark.parametrize(
    ("waited_ms", "parts"), [(3.0, (3.0, 0.0, 0.0)), (12.0, (10.0, 2.0, 0.0)), (20.0, (10.0, 5.0, 5.0))]
)
def test_a_wait_is_put_down_to_opening_first_then_sampling_then_transport(
    undisturbed: Recording, waited_ms: float, parts: tuple[float, float, float]
) -> None:
    chunk = dataclasses.replace(undisturbed.batches[0][0], blocked_ms=10.0, sampling_ms=5.0)
    assert WaitCauses.of(waited_ms, chunk) == WaitCauses(waited_ms, *parts)


# ---------------------------------------------------------------------- resume and stop
def test_a_stream_resumed_in_the_middle_gives_the_pairs_that_would_have_followed(
    streams: Streams, undisturbed: Recording, phantoms: list[PreparedScan]
) -> None:
    shards = make_shards(phantoms, 2)
    first = streams.start(shards, name="resumed")
    assert_equal_batches(batches_of(first, 4), undisturbed.batches[:4])
    checkpoint = json.loads(json.dumps(first.cursors()))
    streams.stop(first)
    second = streams.start(shards, name="resumed", cursors=checkpoint)
    assert_equal_batches(batches_of(second, 6), undisturbed.batches[4:])


def test_stopping_leaves_no_actor_and_no_scratch(streams: Streams, phantoms: list[PreparedScan]) -> None:
    stream = streams.start(make_shards(phantoms, 2), name="stopped")
    next(stream)
    processes = [psutil.Process(pid) for pid in stream.process_ids]
    assert len(list(streams.scratch.iterdir())) == 2
    assert streams.stop(stream) == ([], [])
    assert list(streams.scratch.iterdir()) == []
    assert not [name for name in ray.util.list_named_actors() if name.startswith("stopped")]
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert alive == []


# ---------------------------------------------------------------------- a dead actor
def test_lenient_a_killed_actor_is_replaced_and_no_pair_is_lost(
    streams: Streams, undisturbed: Recording, phantoms: list[PreparedScan]
) -> None:
    stream = streams.start(make_shards(phantoms, 2), name="killed", strict=False)
    batches = batches_of(stream, 3)
    victim = stream.process_ids[1]
    os.kill(victim, signal.SIGKILL)
    batches += batches_of(stream, 7)
    assert_equal_batches(batches, undisturbed.batches)
    assert stream.counters()["actor_restarts"] == 1
    assert stream.counters()["pairs"] == undisturbed.counters["pairs"]
    assert stream.process_ids[1] != victim
    assert len(list(streams.scratch.iterdir())) == 2
    assert streams.stop(stream) == ([], [])
    assert list(streams.scratch.iterdir()) == []


def test_lenient_uncut_chunks_of_an_actor_whose_volumes_vanished_with_it_are_made_again(
    streams: Streams, undisturbed: Recording, phantoms: list[PreparedScan]
) -> None:
    stream = streams.start(make_shards(phantoms, 2), name="vanished", strict=False, extract_on="cuda")
    second: Any = ray.get_actor(dashboard_name("vanished-pool-1", 1))
    process_id = ray.get(second.ready.remote(), timeout=60)  # answered after the chunks that are in flight
    assert process_id == stream.process_ids[1]
    victim = psutil.Process(stream.process_ids[1])
    victim.kill()
    victim.wait(timeout=60)
    assert remove_stale_folders(streams.scratch) == 1
    batches = batches_of(stream, 10)
    for chunks, expected in zip(batches, undisturbed.batches, strict=True):
        assert [chunk.visits for chunk in chunks] == [chunk.visits for chunk in expected]
        for chunk, cut in zip(chunks, expected, strict=True):
            np.testing.assert_array_equal(chunk.positions_mm, cut.positions_mm)
    assert stream.counters()["actor_restarts"] == 1
    volumes = [volume for chunk in batches[0] if isinstance(chunk, UncutChunk) for volume in chunk.volumes.values()]
    assert len(volumes) == 6
    assert all(np.asarray(volume).std() > 0 for volume in volumes)
    assert streams.stop(stream) == ([], [])


@pytest.mark.parametrize(
    ("strict", "text"),
    [
        (True, r"pool actor 0 \(process \d+\) died .* data.strict is on"),
        (False, r"pool actor 0 \(process \d+\) died after 0 restarts \(data.max_actor_restarts\)"),
    ],
    ids=["strict", "no restart left"],
)
def test_a_killed_actor_that_may_not_be_replaced_ends_the_stream(
    streams: Streams, tmp_path: Path, strict: bool, text: str
) -> None:
    stream = streams.start([write_scans(tmp_path, 3)], name="mortal", strict=strict, max_actor_restarts=0)
    next(stream)
    os.kill(stream.process_ids[0], signal.SIGKILL)
    with pytest.raises(PoolActorDied, match=text):
        batches_of(stream, 10)
    assert streams.stop(stream) == ([], ["pool actor 0 did not close: ActorDiedError"])


# ---------------------------------------------------------------------- broken scans
def test_strict_a_scan_truncated_since_preflight_ends_the_stream_by_name(streams: Streams, tmp_path: Path) -> None:
    scans = write_scans(tmp_path, 6)
    truncate(scans[4])
    stream = streams.start([scans], name="strict")
    with pytest.raises(ReplacementFailed, match="scan scan-04 failed at stage 'open': ScanRejected: trunc") as failure:
        batches_of(stream, 10)
    assert type(failure.value) is ReplacementFailed
    assert (failure.value.scan_id, failure.value.stage) == ("scan-04", "open")


def test_lenient_a_scan_truncated_since_preflight_is_told_once_and_passed_over(
    streams: Streams, tmp_path: Path
) -> None:
    scans = write_scans(tmp_path, 6)
    truncate(scans[4])
    stream = streams.start([scans], name="lenient", strict=False)
    chunks = [chunk for batch in batches_of(stream, 10) for chunk in batch]
    assert [(broken.scan_id, broken.stage) for broken in streams.told] == [("scan-04", "open")]
    assert scan_ids(chunks) == {f"scan-0{number}" for number in (0, 1, 2, 3, 5)}
    assert stream.counters()["replacement_failed_count"] == 1
    assert stream.counters()["coverage"] == 5 / 6
    assert streams.stop(stream) == ([], [])


@pytest.mark.parametrize(
    ("is_broken", "text"),
    [
        (lambda number: number in (1, 4), r"\d of \d+ scans could not be opened .* at most 10.0% allowed"),
        (lambda number: True, "all 6 scans of the shard are broken"),
    ],
    ids=["two of six", "all"],
)
def test_lenient_too_many_broken_scans_end_the_stream(
    streams: Streams, tmp_path: Path, is_broken: Callable[[int], bool], text: str
) -> None:
    scans = write_scans(tmp_path, 6)
    for number, scan in enumerate(scans):
        if is_broken(number):
            truncate(scan)
    stream = streams.start([scans], name="hopeless", strict=False, abort_after_opens=1)
    with pytest.raises(PrismError, match=text) as failure:
        batches_of(stream, 10)
    assert type(failure.value) is TooManyBrokenScans
