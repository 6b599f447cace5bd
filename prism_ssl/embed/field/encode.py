"""Encode points of an open scan: threads cut their views, batches of one size pass the encoder.

A vector has the same bits whatever other points it is computed with: all batches have one shape, padded where points
run out, and each runs in one thread. Before the first one it is tested that a view gives the same bits in any place of
a batch; where it does not, a batch is one view.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import PATCH_PX, PATCH_SCALE, Float32, Float64
from prism_ssl.data.extract import extract_view
from prism_ssl.data.scan import OpenScan
from prism_ssl.data.views import still_layout, still_views
from prism_ssl.model.precision import inference_autocast

BATCH_PATCHES = {"cpu": 2048, "cuda": 16384}
"""Patches of a batch; tiny encoder on one CPU thread: 16 to 32 views of 64 patches 570 views/s, 64 or more 510."""
CHUNK_POINTS = 256
"""Points that travel, and are kept, together: whole batches."""

_BATCH_S = 900.0  # a batch takes seconds, also on a machine that does much else

Pixels = npt.NDArray[np.int16]


def batch_views(n_patches: int, device: str) -> int:
    """Views of a batch: a power of 2, at most ``CHUNK_POINTS``."""
    power = int(math.log2(max(1, BATCH_PATCHES[device] / n_patches)))
    return min(CHUNK_POINTS, 1 << power)


class PointEncoder:
    """Vectors of points of a scan.

    Args:
        encoder: patches [B, N, 16, 16, 1] and positions [B, N, 3] -> [B, D]; in evaluation mode.
        config: how its views are drawn, and its precision.
        seed: of the layout of the patches, the same at every point.
        threads: that work at the same time.
    """

    def __init__(
        self, encoder: torch.nn.Module, config: PrismConfig, seed: int, device: torch.device, threads: int
    ) -> None:
        self._encoder, self._config, self._device, self._threads = encoder.to(device), config, device, threads
        self._layout = still_layout(config.data.n_patches, seed)
        self._batch = batch_views(config.data.n_patches, device.type)
        with ThreadPoolExecutor(1, initializer=_one_thread_each) as thread:
            self._batch = self._batch if thread.submit(self._places_are_alike).result(_BATCH_S) else 1

    @property
    def batch(self) -> int:
        """Views of a batch."""
        return self._batch

    def __call__(self, scan: OpenScan, points_mm: Float64) -> Iterator[Float32]:
        """Vectors [n, D] of RAS points [M, 3], in their order, a chunk at a time."""
        parts = list[Float32]()
        for vectors in self._batches(scan, points_mm):
            parts.append(vectors)
            if sum(map(len, parts)) >= CHUNK_POINTS:
                yield np.concatenate(parts)
                parts = []
        if parts:
            yield np.concatenate(parts)

    def _batches(self, scan: OpenScan, points_mm: Float64) -> Iterator[Float32]:
        waiting = deque[Future[Any]]()
        with ThreadPoolExecutor(self._threads, initializer=_one_thread_each) as threads:
            try:
                for start in range(0, len(points_mm), self._batch):
                    if len(waiting) > 2 * self._threads:
                        yield self._result(waiting.popleft())
                    waiting.append(threads.submit(self._work, scan, points_mm[start : start + self._batch]))
                while waiting:
                    yield self._result(waiting.popleft())
            finally:
                threads.shutdown(cancel_futures=True)

    def _work(self, scan: OpenScan, points_mm: Float64) -> Any:
        pixels, centers_mm = self._cut(scan, points_mm)
        if self._device.type == "cuda":  # one thread feeds the GPU
            return pixels, centers_mm, len(points_mm)
        return self._encode(pixels, centers_mm)[: len(points_mm)]

    def _result(self, work: Future[Any]) -> Float32:
        found = work.result(_BATCH_S)
        vectors: Float32 = self._encode(*found[:2])[: found[2]] if isinstance(found, tuple) else found
        return vectors

    def _cut(self, scan: OpenScan, points_mm: Float64) -> tuple[Pixels, Float32]:
        n_patches = self._config.data.n_patches
        pixels = np.zeros((self._batch, n_patches, PATCH_PX, PATCH_PX), np.int16)
        centers_mm = np.zeros((self._batch, n_patches, 3), np.float32)
        for number, view in enumerate(still_views(scan, points_mm, self._config.view, self._layout)):
            extract_view(scan, view, self._config.data.patch_mm, pixels[number])
            centers_mm[number] = view.positions_mm
        return pixels, centers_mm

    def _encode(self, pixels: Pixels, centers_mm: Float32) -> Float32:
        with torch.inference_mode(), inference_autocast(self._config.train.precision, self._device):
            vectors: torch.Tensor = self._encoder(
                torch.from_numpy(pixels)[..., None].to(self._device).float().mul_(1.0 / PATCH_SCALE),
                torch.from_numpy(centers_mm).to(self._device),
            )
        found: Float32 = vectors.float().cpu().numpy()
        return found

    def _places_are_alike(self) -> bool:
        rng, shape = np.random.default_rng(0), (self._batch, self._config.data.n_patches)
        pixels = rng.integers(-PATCH_SCALE, PATCH_SCALE, (*shape, PATCH_PX, PATCH_PX), np.int16, endpoint=True)
        centers_mm = 20 * rng.standard_normal((*shape, 3), np.float32)
        asked = self._encode(pixels, centers_mm)
        turned = self._encode(pixels[::-1].copy(), centers_mm[::-1].copy())[::-1]
        pixels[1:], centers_mm[1:] = 0, 0
        padded = self._encode(pixels, centers_mm)[:1]
        return bool((asked == turned).all() and (asked[:1] == padded).all())


def _one_thread_each() -> None:
    """With several threads of torch, a view's bits depend on its place in the batch; the count is the caller's own."""
    torch.set_num_threads(1)
