from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from prism_ssl.config.schema import ExtractOn
from prism_ssl.contracts import PATCH_PX, PATCH_SCALE, PairChunk, PrismBatch, VisitKey
from prism_ssl.data.collate import Collator
from prism_ssl.data.pool.actor import PoolActor
from tests.support.pool_fakes import N_PATCHES, actor_settings, pool_settings, write_scans

N = 3
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]


def random_chunk(seed: int, n: int) -> PairChunk:
    """n pairs of noise, read-only as they come out of Ray's object store."""
    rng = np.random.default_rng(seed)
    chunk = PairChunk(
        patches=rng.integers(-PATCH_SCALE, PATCH_SCALE, (n, 2, N, PATCH_PX, PATCH_PX), np.int16, endpoint=True),
        positions_mm=rng.normal(size=(n, 2, N, 3)).astype(np.float32),
        center_delta_mm=rng.normal(size=(n, 3)).astype(np.float32),
        rotation_delta_deg=rng.normal(size=(n, 3)).astype(np.float32),
        window_delta=rng.normal(size=(n, 2)).astype(np.float32),
        intensity_scale=rng.normal(size=n).astype(np.float32),
        series_label=rng.integers(0, 2**63 - 1, n),
        subject_label=rng.integers(0, 2**63 - 1, n),
        center_a_mm=rng.normal(size=(n, 3)).astype(np.float32),
        rotation_a_deg=rng.normal(size=(n, 3)).astype(np.float32),
        window_a=rng.normal(size=(n, 2)).astype(np.float32),
        window_known=rng.random(n) < 0.5,
        series_id=[f"series-{seed}-{row}" for row in range(n)],
        visits=[VisitKey(f"scan-{seed}-{row}", seed, row) for row in range(n)],
        sight_bits=np.zeros((n, 2), np.uint8),
        blocked_ms=0.0,
        sampling_ms=0.0,
        counters={},
        cursor={},
        broken=[],
    )
    for value in (chunk.patches, chunk.positions_mm, chunk.center_delta_mm, chunk.series_label):
        value.flags.writeable = False
    return chunk


def tensors(batch: PrismBatch) -> dict[str, torch.Tensor]:
    values = {field.name: getattr(batch, field.name) for field in fields(PrismBatch)}
    return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}


@pytest.mark.parametrize("device", DEVICES)
def test_a_batch_is_its_chunks_dequantised_and_in_their_order(device: str) -> None:
    chunks = [random_chunk(seed, 2) for seed in (5, 3, 4)]
    batch = Collator(torch.device(device), batch_size=6, n_patches=N)(chunks)
    found = {name: value.cpu().numpy() for name, value in tensors(batch).items()}
    patches = np.concatenate([chunk.patches for chunk in chunks]).astype(np.float64)[..., None] / PATCH_SCALE
    positions = np.concatenate([chunk.positions_mm for chunk in chunks])
    for side, name in enumerate("ab"):
        np.testing.assert_allclose(found[f"patches_{name}"], patches[:, side], rtol=0, atol=1e-7)
        np.testing.assert_array_equal(found[f"positions_{name}"], positions[:, side])
    for name in ("center_delta_mm", "rotation_delta_deg", "window_delta", "intensity_scale", "series_label"):
        np.testing.assert_array_equal(found[name], np.concatenate([getattr(chunk, name) for chunk in chunks]))
    distance_mm = np.linalg.norm(found["center_delta_mm"], axis=1)
    np.testing.assert_allclose(found["center_distance_mm"], distance_mm, rtol=1e-6)
    assert batch.visits == [visit for chunk in chunks for visit in chunk.visits]
    assert batch.scan_id == [visit.scan_id for visit in batch.visits]
    assert batch.series_id == [f"series-{seed}-{row}" for seed in (5, 3, 4) for row in (0, 1)]


def test_the_ends_of_the_fixed_point_scale_are_plus_and_minus_one() -> None:
    chunk = random_chunk(0, 1)
    chunk.patches = np.full_like(chunk.patches, PATCH_SCALE)
    chunk.patches[0, 1] = -PATCH_SCALE
    batch = Collator(torch.device("cpu"), batch_size=1, n_patches=N)([chunk])
    assert set(batch.patches_a.flatten().tolist()) == {1.0}
    assert set(batch.patches_b.flatten().tolist()) == {-1.0}


@pytest.mark.parametrize("device", DEVICES)
def test_later_batches_leave_earlier_ones_as_they_were(device: str) -> None:
    collate = Collator(torch.device(device), batch_size=2, n_patches=N)
    batches = [collate([random_chunk(seed, 2)]) for seed in range(5)]
    for seed, batch in enumerate(batches):
        alone = Collator(torch.device(device), batch_size=2, n_patches=N)([random_chunk(seed, 2)])
        for name, value in tensors(alone).items():
            assert torch.equal(getattr(batch, name), value), f"batch {seed}: {name}"


@pytest.mark.parametrize("pairs", [[2, 1], [2, 2, 2]])
def test_chunks_that_do_not_fill_the_batch_are_refused(pairs: list[int]) -> None:
    collate = Collator(torch.device("cpu"), batch_size=4, n_patches=N)
    with pytest.raises((AssertionError, ValueError), match=r"equal chunks that fill it|could not broadcast"):
        collate([random_chunk(seed, n) for seed, n in enumerate(pairs)])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("scratch_bytes", [0, 250_000, 2**30], ids=["no scratch", "scratch for some", "scratch"])
def test_cutting_on_the_device_gives_the_batches_that_the_actors_would_have_cut(
    tmp_path: Path, scratch_bytes: int, device: str
) -> None:
    """Two actors, scans replaced all the time, among them one twice in a chunk."""
    scans, pool = write_scans(tmp_path, 6), pool_settings(slots=2, visits_per_scan=2, seed=3)
    shards, batches = (scans[:3], scans[3:]), dict[str, list[PrismBatch]]()
    for where in get_args(ExtractOn):
        settings = actor_settings(tmp_path / "scratch", pool, scratch_bytes, extract_on=where)
        actors = [PoolActor(shard, settings, f"pool-{number}") for number, shard in enumerate(shards)]
        collate = Collator(torch.device(device), batch_size=10, n_patches=N_PATCHES, extract_on=where)
        batches[where] = [collate([actor.next_chunk(5) for actor in actors]) for _ in range(6)]
        for actor in actors:
            actor.close()
    for here, there in zip(batches["cuda"], batches["cpu"], strict=True):
        assert (here.visits, here.series_id) == (there.visits, there.series_id)
        for name, value in tensors(there).items():
            tolerance = 5e-4 if name.startswith("patches") else 0.0
            torch.testing.assert_close(getattr(here, name), value, rtol=0.0, atol=tolerance, msg=name)
    assert collate.mirror is not None
    assert collate.mirror.used_bytes <= 2 * pool.slots * scans[0].volume_bytes
