"""Chunks -> PrismBatch on the device: one copy into pinned memory, one transfer, dequantised there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from prism_ssl.contracts import PATCH_PX, PATCH_SCALE, PairChunk, PrismBatch

_BUFFERS = 2  # one is filled while the other is on its way; also bounds how far the host runs ahead of the GPU


class Collator:
    """Assembles batches of B pairs in reused host buffers (pinned when the device is a GPU).

    On a GPU the transfers are asynchronous; a buffer is written again only after its last transfer has ended.
    The returned batch owns its memory.
    """

    def __init__(self, device: torch.device, batch_size: int, n_patches: int) -> None:
        self._device = device
        self._asynchronous = device.type == "cuda"
        self._turn = 0
        self._buffers = [_HostBuffer(batch_size, n_patches, pinned=self._asynchronous) for _ in range(_BUFFERS)]

    def __call__(self, chunks: Sequence[PairChunk]) -> PrismBatch:
        """The pairs of all chunks, in their order. The chunks' arrays are not needed afterwards."""
        buffer = self._buffers[self._turn]
        self._turn = (self._turn + 1) % _BUFFERS
        buffer.fill(chunks)
        patches, positions, targets, labels = buffer.to(self._device)
        views = patches.to(torch.float32).mul_(1.0 / PATCH_SCALE)[..., None]  # [B, 2, N, H, W, 1]
        return PrismBatch(
            patches_a=views[:, 0],
            positions_a=positions[:, 0],
            patches_b=views[:, 1],
            positions_b=positions[:, 1],
            center_distance_mm=targets[:, 0:3].norm(dim=1),
            center_delta_mm=targets[:, 0:3],
            rotation_delta_deg=targets[:, 3:6],
            window_delta=targets[:, 6:8],
            intensity_scale=targets[:, 8],
            series_label=labels,
            scan_id=[visit.scan_id for chunk in chunks for visit in chunk.visits],
            series_id=[series for chunk in chunks for series in chunk.series_id],
            visits=[visit for chunk in chunks for visit in chunk.visits],
        )


class _HostBuffer:
    """Page-locked (or plain) host memory for one batch, and the event after which it is free again."""

    def __init__(self, B: int, N: int, pinned: bool) -> None:
        self._tensors = (
            torch.empty((B, 2, N, PATCH_PX, PATCH_PX), dtype=torch.int16, pin_memory=pinned),
            torch.empty((B, 2, N, 3), dtype=torch.float32, pin_memory=pinned),
            torch.empty((B, 9), dtype=torch.float32, pin_memory=pinned),
            torch.empty((B,), dtype=torch.int64, pin_memory=pinned),
        )
        self._arrays: list[npt.NDArray[np.generic]] = [tensor.numpy() for tensor in self._tensors]
        self._sent = torch.cuda.Event() if pinned else None

    def fill(self, chunks: Sequence[PairChunk]) -> None:
        if self._sent is not None:
            self._sent.synchronize()
        patches, positions, targets, labels = self._arrays
        row = 0
        for chunk in chunks:
            rows = slice(row, row + len(chunk.visits))
            row = rows.stop
            patches[rows] = chunk.patches
            positions[rows] = chunk.positions_mm
            targets[rows, 0:3] = chunk.center_delta_mm
            targets[rows, 3:6] = chunk.rotation_delta_deg
            targets[rows, 6:8] = chunk.window_delta
            targets[rows, 8] = chunk.intensity_scale
            labels[rows] = chunk.series_label
        assert row == len(labels), "a batch is made of equal chunks that fill it"

    def to(self, device: torch.device) -> tuple[torch.Tensor, ...]:
        if self._sent is None:
            return tuple(tensor.to(device, copy=True) for tensor in self._tensors)
        moved = tuple(tensor.to(device, non_blocking=True) for tensor in self._tensors)
        self._sent.record()
        return moved
