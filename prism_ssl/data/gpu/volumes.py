"""Volumes on the device: each is copied once per stay in a pool, and freed when its scan leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from prism_ssl.contracts import PATCH_PX, UncutChunk
from prism_ssl.data.gpu.extract import DeviceVolume, extract_views
from prism_ssl.data.gpu.transfers import Mark, Uploader, mark_on


class VolumeMirror:
    """Device copies of all pool actors' open scans, and the extraction of the chunks' patches from them.

    After a call, it holds exactly the volumes that each actor's last chunk lists as ``mirrored``; during a call, also
    the volumes of the current chunk that have left their pool since. Volumes keep the data type that they have on disk.

    Args:
        stage_bytes: host memory (page-locked for a GPU) through which volumes pass on their way.
    """

    def __init__(
        self,
        device: torch.device,
        stage_bytes: int = 32 * 2**20,
        mark: Callable[[torch.device], Mark] = mark_on,
    ) -> None:
        self._device = device
        self._upload = Uploader(device, stage_bytes, mark)
        self._volumes: dict[int, dict[str, DeviceVolume]] = {}

    @property
    def scan_ids(self) -> set[str]:
        """The scans with a volume on the device."""
        return {scan_id for volumes in self._volumes.values() for scan_id in volumes}

    @property
    def used_bytes(self) -> int:
        """Bytes of all volumes."""
        return sum(one.voxels.nbytes for volumes in self._volumes.values() for one in volumes.values())

    def patches(
        self,
        chunks: Sequence[UncutChunk],
        pixel_to_voxel: torch.Tensor,
        levels: torch.Tensor,
        positions_mm: torch.Tensor,
    ) -> torch.Tensor:
        """The patches of a batch, [B, 2, N, H, W] float32 in [-1, 1].

        ``chunks`` holds one chunk of each actor, always in the same order; the tensors are their arrays, on the device.
        """
        B, sides, N = positions_mm.shape[:3]
        patches = torch.empty((B, sides, N, PATCH_PX, PATCH_PX), device=self._device)
        row = 0
        for worker, chunk in enumerate(chunks):
            volumes = self._volumes.setdefault(worker, {})
            self._receive(chunk, volumes)
            for visit in chunk.visits:  # one by one: intermediate results take 200 bytes a pixel
                volume = volumes[visit.scan_id]
                patches[row] = extract_views(volume, pixel_to_voxel[row], levels[row], positions_mm[row])
                row += 1
            for scan_id in volumes.keys() - chunk.mirrored:
                del volumes[scan_id]
        return patches

    def _receive(self, chunk: UncutChunk, volumes: dict[str, DeviceVolume]) -> None:
        chunk.map_volumes()
        for scan_id, voxels in chunk.volumes.items():
            assert isinstance(voxels, np.ndarray), "all volumes are mapped"
            volumes.pop(scan_id, None)  # of an actor that died; freed before its successor's copy takes as much
            volumes[scan_id] = self._copied(voxels)

    def _copied(self, voxels: npt.NDArray[Any]) -> DeviceVolume:
        kind, bits = voxels.dtype, 8 * voxels.dtype.itemsize
        wraps = kind.kind == "u" and bits > 8
        target = self._upload(voxels)
        dtype = torch.from_numpy(np.empty(0, f"i{bits // 8}" if wraps else kind)).dtype
        nz, ny, nx = voxels.shape
        return DeviceVolume(target.view(dtype), (nx, ny, nz), 2.0**bits if wraps else 0.0)
