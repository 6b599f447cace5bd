from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from prism_ssl.config.operations import EvalConfig
from prism_ssl.config.schema import DataConfig, ExtractOn, PrismConfig, TrainConfig
from prism_ssl.contracts import PATCH_PX, PairChunk, PreparedScan, RobustStats, ScanRecord
from prism_ssl.data.pool.chunks import empty_chunk
from prism_ssl.data.pool.memory_plan import (
    GIB,
    OBJECT_STORE_MIN_BYTES,
    MemoryPlan,
    check_mirror_fits,
    chunk_bytes,
    mirror_bytes,
    object_store_bytes,
    plan_memory,
    probe_set_bytes,
    require_gpu,
)
from prism_ssl.errors import ConfigError, MemoryPlanTooBig

MB = 10**6
LIMIT = 64 * GIB


def a_config(
    workers: int = 2,
    slots: int = 3,
    prefetch: int = 2,
    in_flight: int = 2,
    batch: int = 32,
    n_patches: int = 1024,
    extract_on: ExtractOn = "cpu",
) -> PrismConfig:
    data = DataConfig(
        phantom_subjects=1,
        workers=workers,
        warm_pool_size=slots,
        max_prefetch_replacements=prefetch,
        chunks_in_flight=in_flight,
        n_patches=n_patches,
        extract_on=extract_on,
    )
    return PrismConfig(data=data, train=TrainConfig(batch_size=batch))


def a_shard(*volumes_mb: int) -> list[PreparedScan]:
    record = ScanRecord("scan", "series", "CT", "", "", "subject")
    stats = RobustStats(-1000.0, 0.0, 1.0)
    return [PreparedScan(record, stats, mb * MB, (1, 1, 1), (1.0, 1.0, 1.0)) for mb in volumes_mb]


def plan(config: PrismConfig, shards: list[list[PreparedScan]]) -> MemoryPlan:
    return plan_memory(config, shards, LIMIT, "test")


@pytest.mark.parametrize("extract_on", get_args(ExtractOn))
def test_a_chunk_is_as_large_as_its_arrays(extract_on: ExtractOn) -> None:
    chunk = empty_chunk(16, 1024, extract_on)
    pixels = chunk.patches.nbytes if isinstance(chunk, PairChunk) else chunk.pixel_to_voxel.nbytes + chunk.levels.nbytes
    config = a_config(workers=2, batch=32, n_patches=1024, extract_on=extract_on)
    assert chunk_bytes(config) == chunk.positions_mm.nbytes + pixels


def test_the_object_store_holds_twice_what_all_actors_may_have_under_way() -> None:
    config = a_config(workers=4, in_flight=3, batch=64)
    assert object_store_bytes(config) == 4 * (3 + 1) * chunk_bytes(config) * 2
    assert object_store_bytes(a_config(batch=2, n_patches=1)) == OBJECT_STORE_MIN_BYTES


def test_with_extraction_on_the_gpu_the_store_has_room_for_a_large_ct_under_way_for_each_opening_thread() -> None:
    config = a_config(workers=4, in_flight=3, prefetch=2, batch=64, extract_on="cuda")
    assert object_store_bytes(config) == 4 * (3 + 1) * chunk_bytes(config) * 2 + 4 * 2 * 512**3 * 2


def test_the_gpu_holds_the_largest_scans_of_all_slots_and_those_that_one_chunk_replaces() -> None:
    shards = [a_shard(5, 900, 10, 700, 20, 800, 600), a_shard(1, 2, 3)]
    config = a_config(slots=3, batch=4, extract_on="cuda")
    needed = (900 + 800 + 700 + 1 + 2 + 3 + 900 + 800) * MB
    assert plan(config, shards).mirror_bytes == mirror_bytes(config, shards) == needed
    assert f"on the GPU: volumes {needed / GIB:.1f} GiB" in str(plan(config, shards))
    check_mirror_fits(config, shards, needed + 2 * GIB, model_bytes=2 * GIB)
    with pytest.raises(
        MemoryPlanTooBig,
        match=r"need 3.8 GiB .* model 2.0 GiB .* GPU has 5.8 GiB; lower data.warm_pool_size \(3\), .*batch_size \(4\)",
    ):
        check_mirror_fits(config, shards, needed + 2 * GIB - 1, model_bytes=2 * GIB)
    assert mirror_bytes(a_config(), shards) == 0
    assert "GPU" not in str(plan(a_config(), shards))


def test_extraction_on_the_gpu_without_one_is_refused() -> None:
    require_gpu(a_config(), 0)
    require_gpu(a_config(extract_on="cuda"), 1)
    with pytest.raises(ConfigError, match=r"data.extract_on is 'cuda' and there is no CUDA device .* 'cpu'"):
        require_gpu(a_config(extract_on="cuda"), 0)


def test_the_probe_set_is_planned_for() -> None:
    few, many = (
        replace(a_config(), eval=EvalConfig(probe_scans=scans, views_per_scan=8, place_pairs=0)) for scans in (1, 65)
    )
    view = np.empty((1024, PATCH_PX, PATCH_PX), np.int16).nbytes + np.empty((1024, 3), np.float32).nbytes
    assert probe_set_bytes(few) == 8 * view
    assert probe_set_bytes(replace(few, eval=replace(few.eval, place_pairs=3))) == (8 + 3 * 2 * 16) * view
    four_times = replace(few.eval, place_pairs=3, place_draws=4)
    assert probe_set_bytes(replace(few, eval=four_times)) == (8 + 4 * 3 * 2 * 16) * view
    more = plan(many, [a_shard(10, 10)]).base_bytes - plan(few, [a_shard(10, 10)]).base_bytes
    assert more == 64 * 8 * view
    assert (
        probe_set_bytes(replace(many, eval=EvalConfig(probe_scans=65, n_patches=512, place_pairs=0)))
        == 65 * 8 * view // 2
    )


def test_pools_need_what_their_largest_scans_need_open_and_on_the_way() -> None:
    shards = [a_shard(5, 900, 10, 700, 20, 800, 600), a_shard(1, 2, 3)]
    assert plan(a_config(slots=3, prefetch=2), shards).pool_bytes == (900 + 800 + 700 + 600 + 20 + 1 + 2 + 3) * MB
    assert plan(a_config(slots=2, prefetch=1), shards).pool_bytes == (900 + 800 + 700 + 3 + 2 + 1) * MB


def test_deterministic_pools_keep_a_landed_scan_for_every_slot_until_its_turn() -> None:
    shards = [a_shard(5, 900, 10, 700, 20, 800, 600, 30), a_shard(1, 2, 3)]
    config = a_config(slots=3, prefetch=2)
    config = replace(config, data=replace(config.data, deterministic=True))
    assert plan(config, shards).pool_bytes == (900 + 800 + 700 + 600 + 30 + 20 + 1 + 2 + 3) * MB


def test_the_total_is_the_sum_of_its_parts_and_processes_grow_with_the_workers() -> None:
    two, four = (plan(a_config(workers=workers), [a_shard(100, 200)] * workers) for workers in (2, 4))
    assert two.total_bytes == two.pool_bytes + two.object_store_bytes + two.base_bytes
    assert two.pool_bytes == 600 * MB
    assert two.object_store_bytes == object_store_bytes(a_config(workers=2))
    per_worker, rest = (four.base_bytes - two.base_bytes) // 2, 2 * two.base_bytes - four.base_bytes
    assert min(per_worker, rest) > 100 * MB
    assert plan_memory(a_config(), [a_shard(100)] * 2, LIMIT, "SLURM").limit_source == "SLURM"


def test_what_fits_to_the_byte_is_accepted_and_one_byte_less_is_refused_with_numbers_and_knobs() -> None:
    config, shards = a_config(slots=3, batch=32), [a_shard(9 * 1024, 9 * 1024), a_shard(9 * 1024)]
    needed = plan(config, shards)
    assert plan_memory(config, shards, needed.total_bytes, "test") == replace(
        needed, limit_bytes=needed.total_bytes, limit_source="test"
    )
    assert f"open scans {needed.pool_bytes / GIB:.1f} GiB + object store" in str(needed)
    with pytest.raises(MemoryPlanTooBig, match="does not fit; lower") as refusal:
        plan_memory(config, shards, needed.total_bytes - 1, "cgroup memory.max")
    text = str(refusal.value)
    assert f"= {needed.total_bytes / GIB:.1f} GiB of {needed.total_bytes / GIB:.1f} GiB (cgroup memory.max)" in text
    for knob in ("data.warm_pool_size (3)", "data.workers (2)", "train.batch_size (32)", "run.memory_limit_bytes"):
        assert knob in text


def test_several_training_workers_need_what_the_fullest_node_needs() -> None:
    shards = [a_shard(100, 100), a_shard(100, 100), a_shard(300, 300), a_shard(300, 100)]
    one = a_config(workers=4, slots=2, extract_on="cuda")
    two = replace(one, train=replace(one.train, num_workers=2))
    together, apart = plan(two, shards), plan_memory(two, shards, LIMIT, "test", workers_on_a_node=1)
    trainer = together.base_bytes - plan(one, shards).base_bytes
    assert trainer > 500 * MB
    assert together.pool_bytes == plan(one, shards).pool_bytes == 1400 * MB
    assert apart.pool_bytes == 1000 * MB
    assert apart.object_store_bytes == object_store_bytes(two) // 2
    assert together.mirror_bytes == apart.mirror_bytes == mirror_bytes(one, shards[2:])
    assert apart.base_bytes < together.base_bytes - trainer
