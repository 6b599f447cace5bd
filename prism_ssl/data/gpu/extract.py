"""Cut views out of volumes on a torch device, with the pixels and values of ``extract.extract_view``."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from prism_ssl.contracts import PATCH_PX, PATCH_SCALE


@dataclass(frozen=True, slots=True, eq=False)
class DeviceVolume:
    """The raw voxels of a scan on a device, flat, i fastest; ``shape`` is (nx, ny, nz).

    torch cannot index unsigned numbers wider than a byte: such voxels are stored as signed numbers with the same bits,
    and ``wrap`` (2 to the power of their bits) is added to negative ones. 0: no correction.
    """

    voxels: torch.Tensor
    shape: tuple[int, int, int]
    wrap: float


def extract_views(
    volume: DeviceVolume, pixel_to_voxel: torch.Tensor, levels: torch.Tensor, positions_mm: torch.Tensor
) -> torch.Tensor:
    """The patches of V views of one scan, [V, N, H, W] float32, windowed to [-1, 1].

    All arguments lie on one device.

    Args:
        pixel_to_voxel: [V, 3, 6] float64, see ``views.pixel_to_voxel``.
        levels: [V, 3] float32: gain, offset, outside of ``views.levels``.
        positions_mm: [V, N, 3] float32, prism frame.
    """
    gain, offset, outside = (levels[:, number, None, None] for number in range(3))
    cells, shares = _locate(pixel_to_voxel, positions_mm)
    value = _trilinear(volume, cells, shares, outside) * gain + offset
    windowed: torch.Tensor = (
        (value * (1.0 / PATCH_SCALE)).clamp_(-1.0, 1.0).nan_to_num_(nan=0.0)
    )  # as the cast to int16 does
    return windowed.view(*positions_mm.shape[:2], PATCH_PX, PATCH_PX)


def _locate(
    pixel_to_voxel: torch.Tensor, positions_mm: torch.Tensor
) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """For i, j and k: the voxel below each pixel, [V, N, HW] int64, and the fraction of the way to the next,
    float32."""
    device = positions_mm.device
    rows_columns = torch.cartesian_prod(*[torch.arange(PATCH_PX, device=device, dtype=torch.float64)] * 2)
    pixel_offset = pixel_to_voxel[:, :, 3:5] @ rows_columns.flip(1).T  # [V, 3, HW]
    first = pixel_to_voxel[:, :, :3] @ positions_mm.double().mT + pixel_to_voxel[:, :, 5:]  # [V, 3, N]
    base = first.floor()
    # float32 counts from each patch's first pixel; from voxel 0 it would place pixels to 3e-5 voxel only.
    start = (first - base).float()
    cells, shares = [], []
    for axis in range(3):
        place = start[:, axis, :, None] + pixel_offset[:, axis, None, :].float()
        below = place.floor()
        cells.append(base[:, axis, :, None].long() + below.long())
        shares.append(place - below)
    return tuple(cells), tuple(shares)


def _trilinear(
    volume: DeviceVolume,
    cells: tuple[torch.Tensor, ...],
    shares: tuple[torch.Tensor, ...],
    outside: torch.Tensor,
) -> torch.Tensor:
    """Raw values at the pixels, float32; a neighbour outside the volume has the value ``outside``."""
    nx, ny, _ = volume.shape
    inside, place = [], []  # of the lower and the upper neighbour along i, j, k
    for cell, size, stride in zip(cells, volume.shape, (1, nx, nx * ny), strict=True):
        both = (cell, cell + 1)
        inside.append([(index >= 0) & (index < size) for index in both])
        place.append([index.clamp(0, size - 1) * stride for index in both])

    def along_i(j: int, k: int) -> torch.Tensor:
        row, row_inside = place[1][j] + place[2][k], inside[1][j] & inside[2][k]
        ends = []
        for i in (0, 1):
            raw = volume.voxels[row + place[0][i]].float()
            if volume.wrap:
                raw = torch.where(raw < 0, raw + volume.wrap, raw)
            ends.append(torch.where(row_inside & inside[0][i], raw, outside))
        return _mix(ends[0], ends[1], shares[0])

    def along_ij(k: int) -> torch.Tensor:
        return _mix(along_i(0, k), along_i(1, k), shares[1])

    return _mix(along_ij(0), along_ij(1), shares[2])


def _mix(a: torch.Tensor, b: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    return a + share * (b - a)
