"""Cut a view out of an open scan: oblique trilinear sampling, rescale and window in one pass over the raw voxels.

Legend
    band    some of a patch's 16 rows; its pixels are the lanes that every step below works on together
    base    voxel (i, j, k) that the positions of a band are relative to, so that float32 resolves its lanes
    corner  one of the 8 neighbours of a lane; stored as 4 pairs along i: [pair (j, k), lane, (i, i + 1)]

Scratch arrays are flat and read at constant strides: only then does the compiler vectorise the loops below.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from prism_ssl.contracts import PATCH_PX, PATCH_SCALE, Float32, Float64, RobustStats
from prism_ssl.data.extract.compiler import GATHERS, compiled
from prism_ssl.data.extract.intrinsics import GROUP, copy_pairs, pair_of
from prism_ssl.data.scan import OpenScan
from prism_ssl.data.views import View, levels, pixel_to_voxel

Voxels = npt.NDArray[Any]
Int16 = npt.NDArray[np.int16]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Shape = tuple[int, int, int]


# If scalar stores fill a band, a vector load of it waits for them: 1 row takes 1.9x the time of 4, 16 take 1.3x.
# If a gather fills it, 4 rows take 1.05x the time of 8.
_BAND_ROWS = 8 if GATHERS else 4
_LANES = _BAND_ROWS * PATCH_PX
# float32 places the lanes of a band to 1e-4 voxel; this close to the border every neighbour is checked.
_BORDER_VOXELS = 1e-3
_FULL_SCALE = np.float32(PATCH_SCALE)


def extract_view(scan: OpenScan, view: View, patch_mm: float, out: Int16) -> None:
    """Fill ``out`` [N, H, W] with the patches of ``view``, windowed to [-1, 1] and scaled by ``PATCH_SCALE``.

    ``pixel_to_voxel`` gives the pixels' positions. Values are trilinear; each neighbour outside the volume counts as
    the scan's lowest value.

    Raises:
        ValueError: ``out`` is not int16 [N, 16, 16], or it or the scan's voxels are not C-contiguous.
    """
    _check_arrays(scan, view, out)
    wanted = levels(scan, view)
    in_float32 = _Levels(np.float32(wanted.gain), np.float32(wanted.offset), np.float32(wanted.outside))
    voxels = np.asarray(scan.voxels).reshape(-1)
    voxels.flags.writeable = False  # one compiled version serves arrays and read-only maps
    matrix, positions_mm = pixel_to_voxel(scan, view, patch_mm), np.ascontiguousarray(view.positions_mm, np.float32)
    by_plane = np.argsort(positions_mm @ matrix[2, :3])  # neighbouring patches in turn: 0.95x the time
    scratch, bands = _scratch(voxels.dtype), out.reshape(-1, _LANES)
    _fill_patches(voxels, scan.shape, matrix, positions_mm, by_plane, in_float32, scratch, bands)


def warm_up(dtype: npt.DTypeLike) -> None:
    """Compile or load the code for voxels of ``dtype``: seconds the first time on a machine, then milliseconds."""
    scan = OpenScan(np.zeros((2, 2, 2), dtype), 1.0, 0.0, np.eye(4), RobustStats(0.0, 0.0, 1.0))
    view = View(np.zeros(3), 1.0, np.zeros(3), 0.0, 1.0, np.zeros((1, 3), np.float32))
    extract_view(scan, view, float(PATCH_PX), np.empty((1, PATCH_PX, PATCH_PX), np.int16))


def _check_arrays(scan: OpenScan, view: View, out: Int16) -> None:
    needed = (len(view.positions_mm), PATCH_PX, PATCH_PX)
    if out.shape != needed or out.dtype != np.int16:
        raise ValueError(f"out is {out.dtype} {out.shape}; needed: int16 {needed}")
    for name, array in (("out", out), ("scan.voxels", scan.voxels)):
        if not array.flags.c_contiguous:
            raise ValueError(f"{name} has strides {array.strides}; needed: a C-contiguous array")


class _Levels(NamedTuple):
    """``Levels`` in the precision of the kernel."""

    gain: np.float32
    offset: np.float32
    outside: np.float32


class _Scratch(NamedTuple):
    """Intermediate results: the first three for the view, the others for one band."""

    lane_offset: Float32  # [3 x lanes] from the first lane of a band, voxels
    lowest_offset: Float64  # [3]
    highest_offset: Float64  # [3]
    base: Int64  # [3]
    start: Float64  # [3] first lane of the band, relative to the base
    place: Int32  # [lanes] memory offset of the cell from the base
    fraction: Float32  # [3 x lanes] fraction of the way from the cell to the next one
    raw_corners: Voxels  # [4 x lanes x 2]
    checked_corners: Float32  # [4 x lanes x 2]


def _scratch(dtype: np.dtype[Any]) -> _Scratch:
    return _Scratch(
        lane_offset=np.empty(3 * _LANES, np.float32),
        lowest_offset=np.empty(3, np.float64),
        highest_offset=np.empty(3, np.float64),
        base=np.empty(3, np.int64),
        start=np.empty(3, np.float64),
        place=np.empty(_LANES, np.int32),
        fraction=np.empty(3 * _LANES, np.float32),
        raw_corners=np.empty(8 * _LANES, dtype),
        checked_corners=np.empty(8 * _LANES, np.float32),
    )


@compiled
def _mix(pair: tuple[np.float32, np.float32], share: np.float32) -> np.float32:
    return pair[0] + share * (pair[1] - pair[0])


@compiled
def _place_lanes(shape: Shape, matrix: Float64, offset: Float32, lowest: Float64, highest: Float64) -> bool:
    """Set the lanes' offsets from a band's first lane; returns whether memory offsets from its base fit int32."""
    reach, stride = 0.0, 1.0
    for axis in range(3):
        column, row = matrix[axis, 3], matrix[axis, 4]
        for lane in range(_LANES):
            offset[axis * _LANES + lane] = np.float32((lane % PATCH_PX) * column + (lane // PATCH_PX) * row)
        across, down = (PATCH_PX - 1) * column, (_BAND_ROWS - 1) * row
        lowest[axis] = min(across, 0.0) + min(down, 0.0)
        highest[axis] = max(across, 0.0) + max(down, 0.0)
        reach += (highest[axis] - lowest[axis] + 2) * stride
        stride *= shape[axis]
    return reach < 2**31


@compiled
def _locate(
    shape: Shape, x0: np.float32, y0: np.float32, z0: np.float32, lane_offset: Float32, place: Int32, fraction: Float32
) -> None:
    """Cells and fractions of a band's lanes, with the first lane at (x0, y0, z0) relative to the base."""
    row, plane = np.int32(shape[0]), np.int32(shape[0] * shape[1])
    for lane in range(_LANES):
        x, y, z = x0 + lane_offset[lane], y0 + lane_offset[_LANES + lane], z0 + lane_offset[2 * _LANES + lane]
        i, j, k = np.int32(x), np.int32(y), np.int32(z)
        place[lane] = i + np.int32(j * row) + np.int32(k * plane)
        fraction[lane] = x - np.float32(i)
        fraction[_LANES + lane] = y - np.float32(j)
        fraction[2 * _LANES + lane] = z - np.float32(k)


@compiled
def _gather(voxels: Voxels, shape: Shape, base: Int64, place: Int32, corners: Voxels) -> None:
    """The corners of a band that lies wholly inside the volume."""
    nx, ny = shape[0], shape[1]
    start = (base[2] * ny + base[1]) * nx + base[0]
    for pair in range(4):
        first = start + (pair & 1) * nx + (pair >> 1) * nx * ny
        for lane in range(0, _LANES, GROUP):
            copy_pairs(voxels, first, place, lane, corners, 2 * (pair * _LANES + lane))


@compiled
def _gather_checked(
    voxels: Voxels,
    shape: Shape,
    base: Int64,
    x0: np.float32,
    y0: np.float32,
    z0: np.float32,
    lane_offset: Float32,
    outside: np.float32,
    corners: Float32,
) -> None:
    """The corners of a band anywhere: those outside the volume have the value ``outside``."""
    nx, ny, nz = shape
    for pair in range(4):
        for lane in range(_LANES):
            i = base[0] + np.int32(x0 + lane_offset[lane])
            j = base[1] + np.int32(y0 + lane_offset[_LANES + lane]) + (pair & 1)
            k = base[2] + np.int32(z0 + lane_offset[2 * _LANES + lane]) + (pair >> 1)
            index = (k * ny + j) * nx + i
            slot = 2 * (pair * _LANES + lane)
            corners[slot] = corners[slot + 1] = outside
            if 0 <= j < ny and 0 <= k < nz:
                if 0 <= i < nx:
                    corners[slot] = voxels[index]
                if 0 <= i + 1 < nx:
                    corners[slot + 1] = voxels[index + 1]


@compiled
def _blend(corners: Voxels, fraction: Float32, gain: np.float32, offset: np.float32, out: Int16, band: int) -> None:
    """Trilinear value of each lane, windowed and converted to fixed point."""
    for lane in range(_LANES):
        x, y, z = fraction[lane], fraction[_LANES + lane], fraction[2 * _LANES + lane]
        a = _mix(pair_of(corners, lane), x)
        b = _mix(pair_of(corners, _LANES + lane), x)
        c = _mix(pair_of(corners, 2 * _LANES + lane), x)
        d = _mix(pair_of(corners, 3 * _LANES + lane), x)
        value = _mix((_mix((a, b), y), _mix((c, d), y)), z) * gain + offset
        out[band, lane] = np.int16(np.int32(np.rint(min(max(value, -_FULL_SCALE), _FULL_SCALE))))


@compiled
def _fill_patches(
    voxels: Voxels,
    shape: Shape,
    matrix: Float64,
    positions_mm: Float32,
    order: Int64,
    window: _Levels,
    scratch: _Scratch,
    out: Int16,
) -> None:
    """Sample all patches, in the given order, into ``out`` [bands, lanes]."""
    base, start, place, fraction = scratch.base, scratch.start, scratch.place, scratch.fraction
    lane_offset, low, high = scratch.lane_offset, scratch.lowest_offset, scratch.highest_offset
    fits_int32 = _place_lanes(shape, matrix, lane_offset, low, high)
    for patch in order:
        center = positions_mm[patch]
        x, y, z = np.float64(center[0]), np.float64(center[1]), np.float64(center[2])
        for first_row in range(0, PATCH_PX, _BAND_ROWS):
            inside = fits_int32
            for axis in range(3):
                to = matrix[axis]
                origin = to[0] * x + to[1] * y + to[2] * z + to[4] * first_row + to[5]
                inside &= origin + low[axis] >= _BORDER_VOXELS
                inside &= origin + high[axis] <= shape[axis] - 1 - _BORDER_VOXELS
                base[axis] = np.int64(np.floor(origin + low[axis]))
                start[axis] = origin - base[axis]
            x0, y0, z0 = np.float32(start[0]), np.float32(start[1]), np.float32(start[2])
            _locate(shape, x0, y0, z0, lane_offset, place, fraction)
            band = (patch * PATCH_PX + first_row) // _BAND_ROWS
            if inside:
                _gather(voxels, shape, base, place, scratch.raw_corners)
                _blend(scratch.raw_corners, fraction, window.gain, window.offset, out, band)
            else:
                corners = scratch.checked_corners
                _gather_checked(voxels, shape, base, x0, y0, z0, lane_offset, window.outside, corners)
                _blend(corners, fraction, window.gain, window.offset, out, band)
