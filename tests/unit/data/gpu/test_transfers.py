"""Memory that a device copies from is written again only after the device is done with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prism_ssl.data.collate import Collator
from prism_ssl.data.gpu.transfers import Uploader
from tests.support.slow_device import SlowDevice
from tests.unit.data.test_collate import DEVICES, N, random_chunk

CPU = torch.device("cpu")


def test_a_batch_is_gathered_only_where_the_device_copies_no_more() -> None:
    with SlowDevice() as device:
        collate = Collator(CPU, batch_size=2, n_patches=N, mark=device.mark)
        for seed in range(5):
            collate([random_chunk(seed, 2)])
        device.come_to(len(device.copies))
    assert len(device.copies) == 5 * 12
    assert (device.spoilt, device.waited) == (0, 0)


def test_an_upload_waits_for_its_own_memory_and_for_nothing_else() -> None:
    volumes = [np.random.default_rng(seed).integers(-1000, 1000, 5_003).astype(np.int16) for seed in range(3)]
    with SlowDevice() as device:
        upload = Uploader(CPU, stage_bytes=2_000, mark=device.mark)
        sent = [upload(volume) for volume in volumes]
        under_way = len(device.copies) - device._arrived
        device.come_to(len(device.copies))
    assert len(device.copies) == 3 * 11  # pieces of 1,000 bytes
    assert (device.spoilt, device.waited, under_way) == (0, 0, 2)
    for raw, volume in zip(sent, volumes, strict=True):
        np.testing.assert_array_equal(raw.numpy().view(np.int16), volume)


@pytest.mark.parametrize("device", DEVICES)
def test_an_upload_is_there_for_the_work_that_is_queued_after_it(device: str) -> None:
    upload, rng = Uploader(torch.device(device), stage_bytes=2**16), np.random.default_rng(0)
    volumes = [rng.integers(0, 255, 10**6).astype(np.uint8) for _ in range(4)]
    sums = [upload(volume).sum(dtype=torch.int64) for volume in volumes]  # each is freed before the next
    assert [int(each) for each in sums] == [int(volume.sum(dtype=np.int64)) for volume in volumes]


def test_the_slow_device_sees_memory_that_is_written_too_early() -> None:
    with SlowDevice() as device:
        memory, mark = torch.zeros(3), device.mark(CPU)
        memory.to(CPU, non_blocking=True, copy=True)
        mark.record()
        memory.numpy()[:] = 1.0
        mark.synchronize()
    assert device.spoilt == 1
