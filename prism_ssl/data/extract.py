"""Cutting a view out of an open scan: oblique trilinear sampling, rescale and window in one pass over the raw voxels.

Legend: a band is 4 of a patch's 16 rows (64 pixels, here called lanes), the unit of all work below. Sampling a band is
four short loops, each of which the compiler turns into vector instructions: where its pixels fall, which voxels that
is, their values, what these become. All scratch is flat, so that one loop reads from one array at fixed distances.
"""

from __future__ import annotations

import getpass
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.extending import intrinsic

from prism_ssl.contracts import PATCH_PX, PATCH_SCALE, Float32, Float64, RobustStats
from prism_ssl.data.geometry import acquisition_frame, apply_affine, inverse
from prism_ssl.data.nifti import OpenScan
from prism_ssl.data.views import View
from prism_ssl.utils.fs import private_folder

# Vector loads of what scalar stores wrote a moment ago stall until those have retired: bands of 1 row take 1.8x the
# time of 4 rows, 8 rows gain nothing more (Zen 4).
_BAND_ROWS = 4
_LANES = _BAND_ROWS * PATCH_PX
_MIDDLE = (PATCH_PX - 1) / 2
# float32 coordinates within a band are good to 1e-4 voxel; closer to the border than this, every neighbour is checked.
_BORDER_VOXELS = 1e-3
_LANE_STEPS = np.array([(column, row) for row in range(_BAND_ROWS) for column in range(PATCH_PX)], dtype=np.float64)
_FULL_SCALE = np.float32(PATCH_SCALE)

Voxels = npt.NDArray[Any]
Int16 = npt.NDArray[np.int16]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
_Function = TypeVar("_Function", bound=Callable[..., Any])


def extract_view(scan: OpenScan, view: View, patch_mm: float, out: Int16) -> None:
    """Fill ``out`` [N, H, W] with the patches of ``view``, windowed to [-1, 1] and scaled by ``PATCH_SCALE``.

    Pixel (r, c) of a patch lies at its centre + (c - 7.5) p u + (r - 7.5) p v with p = patch_mm / 16 and u, v the
    first two columns of the scan's acquisition frame turned by the view's rotation. Values are trilinear; each
    neighbour outside the volume counts as the scan's lowest value.

    Raises:
        ValueError: ``out`` or the scan's voxels are not C-contiguous, or ``out`` is not int16 [N, 16, 16].
    """
    _require_contiguous(scan, view, out)
    to_voxel = inverse(scan.affine)
    centers = apply_affine(to_voxel, view.patch_centers_mm())
    turned = view.rotation @ acquisition_frame(scan.affine)[:, :2]
    steps = np.ascontiguousarray((to_voxel[:3, :3] @ turned).T) * (patch_mm / PATCH_PX)
    gain = 2.0 * PATCH_SCALE / view.window_width
    voxels = scan.voxels.reshape(-1).view(np.ndarray)
    voxels.flags.writeable = False  # one compiled version serves arrays and read-only maps
    _fill_patches(
        voxels,
        *scan.shape,
        centers - _MIDDLE * (steps[0] + steps[1]),
        steps,
        _LANE_STEPS.dot(steps).T.astype(np.float32).ravel(),
        np.float32(scan.slope * gain),
        np.float32((scan.intercept - view.window_center) * gain),
        np.float32((scan.stats.lowest - scan.intercept) / scan.slope),
        out.reshape(-1),
    )


def warm_up(dtype: npt.DTypeLike) -> None:
    """Have the kernel for ``dtype`` ready: seconds the first time on a machine, milliseconds after."""
    scan = OpenScan(np.zeros((2, 2, 2), dtype), 1.0, 0.0, np.eye(4), RobustStats(0.0, 0.0, 1.0))
    view = View(np.zeros(3), 1.0, np.zeros(3), 0.0, 1.0, np.zeros((1, 3), np.float32))
    extract_view(scan, view, float(PATCH_PX), np.empty((1, PATCH_PX, PATCH_PX), np.int16))


def _require_contiguous(scan: OpenScan, view: View, out: Int16) -> None:
    needed = (len(view.positions_mm), PATCH_PX, PATCH_PX)
    if out.shape != needed or out.dtype != np.int16:
        raise ValueError(f"out is {out.dtype} {out.shape}; needed: int16 {needed}")
    for name, array in (("out", out), ("scan.voxels", scan.voxels)):
        if not array.flags.c_contiguous:
            raise ValueError(f"{name} has strides {array.strides}; needed: a C-contiguous array")


def _use_machine_cache() -> None:
    """Keep compiled code under /tmp/$USER/prism_ssl/numba, for all jobs of this user, unless NUMBA_CACHE_DIR is set."""
    if not numba.config.CACHE_DIR:
        root = private_folder(Path("/tmp") / getpass.getuser() / "prism_ssl")
        numba.config.CACHE_DIR = str(private_folder(root / "numba"))


def _compiled(function: _Function) -> _Function:
    # contract: fused multiply-add. nsz: minus zero is zero. No other licence: NaN and infinity stay defined.
    compile_ = numba.njit(cache=True, inline="always", nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
    compiled: _Function = compile_(function)
    return compiled


def _pair_pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    """Address of elements ``index`` and ``index + 1`` of ``array``, as one integer of twice their width."""
    data = context.make_array(array_type)(context, builder, array).data
    pair = ir.IntType(2 * array_type.dtype.bitwidth)
    return builder.bitcast(builder.gep(data, [index]), pair.as_pointer())


def _copy_pair_ir(_typing: Any, source: Any, index: Any, target: Any, slot: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        types = signature.args
        read = _pair_pointer(context, builder, types[0], values[0], values[1])
        write = _pair_pointer(context, builder, types[2], values[2], values[3])
        width = source.dtype.bitwidth // 8
        builder.store(builder.load(read, align=width), write, align=width)
        return context.get_dummy_value()

    return numba.types.void(source, index, target, slot), generate


def _prefetch_ir(_typing: Any, source: Any, index: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        address = _pair_pointer(context, builder, signature.args[0], values[0], values[1])
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address.type, number, number, number])
        prefetch = builder.module.globals.get("llvm.prefetch.p0") or ir.Function(
            builder.module, kind, "llvm.prefetch.p0"
        )
        builder.call(prefetch, [address, number(0), number(3), number(1)])  # for reading, keep it close, data
        return context.get_dummy_value()

    return numba.types.void(source, index), generate


_copy_pair: Callable[[Any, int, Any, int], None] = intrinsic(_copy_pair_ir)
"""(source, index, target, slot): copy two neighbouring elements in one unaligned load and store, unchecked."""

_prefetch: Callable[[Any, int], None] = intrinsic(_prefetch_ir)
"""(source, index): ask for an element to be brought near; any index will do, also one outside."""

_use_machine_cache()


@_compiled
def _mix(a: float, b: float, share: float) -> float:
    return np.float32(a) + share * (np.float32(b) - np.float32(a))


@_compiled
def _locate(start: np.float32, lane_offset: Float32, axis: int, cell: Int32, fraction: Float32) -> None:
    """Where the lanes of a band fall along one axis: in which voxel, and how far on the way to the next one."""
    for lane in range(axis * _LANES, (axis + 1) * _LANES):
        x = start + lane_offset[lane]
        whole = np.int32(x)
        cell[lane] = whole
        fraction[lane] = x - np.float32(whole)


@_compiled
def _gather(voxels: Voxels, nx: int, ny: int, base: Int64, cell: Int32, first: Int32, corners: Voxels) -> None:
    """The 8 neighbours of each lane as 4 pairs along i, [4 x lanes x 2]. The band must lie inside the volume."""
    row, plane = np.int32(nx), np.int32(nx * ny)
    for lane in range(_LANES):
        first[lane] = cell[lane] + cell[_LANES + lane] * row + cell[2 * _LANES + lane] * plane
    start = (base[2] * ny + base[1]) * nx + base[0]
    for lane in range(_LANES):
        index = start + np.int64(first[lane])
        _copy_pair(voxels, index, corners, 2 * lane)
        _copy_pair(voxels, index + nx, corners, 2 * (_LANES + lane))
        _copy_pair(voxels, index + nx * ny, corners, 2 * (2 * _LANES + lane))
        _copy_pair(voxels, index + nx * ny + nx, corners, 2 * (3 * _LANES + lane))


@_compiled
def _gather_checked(
    voxels: Voxels, nx: int, ny: int, nz: int, base: Int64, cell: Int32, outside: np.float32, corners: Float32
) -> None:
    """As ``_gather``, for a band anywhere: a neighbour outside the volume has the value ``outside``."""
    for pair in range(4):
        for lane in range(_LANES):
            i = base[0] + cell[lane]
            j = base[1] + cell[_LANES + lane] + (pair & 1)
            k = base[2] + cell[2 * _LANES + lane] + (pair >> 1)
            row_exists = 0 <= j < ny and 0 <= k < nz
            index = (k * ny + j) * nx + i
            slot = 2 * (pair * _LANES + lane)
            corners[slot] = np.float32(voxels[np.uint64(index)]) if row_exists and 0 <= i < nx else outside
            corners[slot + 1] = np.float32(voxels[np.uint64(index + 1)]) if row_exists and -1 <= i < nx - 1 else outside


@_compiled
def _blend(corners: Voxels, fraction: Float32, gain: np.float32, offset: np.float32, out: Int16, start: int) -> None:
    """Trilinear value of each lane from its neighbours, through the window, to fixed point."""
    for lane in range(_LANES):
        a, b, c, d = 2 * lane, 2 * (_LANES + lane), 2 * (2 * _LANES + lane), 2 * (3 * _LANES + lane)
        x, y, z = fraction[lane], fraction[_LANES + lane], fraction[2 * _LANES + lane]
        near = _mix(_mix(corners[a], corners[a + 1], x), _mix(corners[b], corners[b + 1], x), y)
        far = _mix(_mix(corners[c], corners[c + 1], x), _mix(corners[d], corners[d + 1], x), y)
        value = _mix(near, far, z) * gain + offset
        out[start + lane] = np.int16(np.int32(np.rint(min(max(value, -_FULL_SCALE), _FULL_SCALE))))


@_compiled
def _prefetch_patch(voxels: Voxels, nx: int, ny: int, pixel: Float64, patch: int, steps: Float64) -> None:
    """Ask for most of what a patch will read: 3 pixels of each row, and the slice above them."""
    x, y, z = pixel[patch, 0], pixel[patch, 1], pixel[patch, 2]
    for row in range(PATCH_PX):
        for column in (0.0, _MIDDLE, 2 * _MIDDLE):
            i = np.int64(x + row * steps[1, 0] + column * steps[0, 0])
            j = np.int64(y + row * steps[1, 1] + column * steps[0, 1])
            k = np.int64(z + row * steps[1, 2] + column * steps[0, 2])
            index = (k * ny + j) * nx + i
            _prefetch(voxels, index)
            _prefetch(voxels, index + nx * ny)


@_compiled
def _fill_patches(
    voxels: Voxels,
    nx: int,
    ny: int,
    nz: int,
    pixel: Float64,
    steps: Float64,
    lane_offset: Float32,
    gain: np.float32,
    offset: np.float32,
    outside: np.float32,
    out: Int16,
) -> None:
    """Sample all patches, given the first pixel [N, 3] of each and the way to the next column and row [2, 3]."""
    cell, first = np.empty(3 * _LANES, np.int32), np.empty(_LANES, np.int32)
    fraction = np.empty(3 * _LANES, np.float32)
    raw, checked = np.empty(8 * _LANES, voxels.dtype), np.empty(8 * _LANES, np.float32)
    base = np.empty(3, np.int64)
    low, high = np.empty(3), np.empty(3)
    last = np.empty(3)
    last[0], last[1], last[2] = nx - 1, ny - 1, nz - 1
    for axis in range(3):
        low[axis] = lane_offset[axis * _LANES : (axis + 1) * _LANES].min()
        high[axis] = lane_offset[axis * _LANES : (axis + 1) * _LANES].max()
    reach = high[0] - low[0] + 2 + nx * (high[1] - low[1] + 2 + ny * (high[2] - low[2] + 2))
    n_patches = len(pixel)
    for patch in range(n_patches):
        _prefetch_patch(voxels, nx, ny, pixel, min(patch + 1, n_patches - 1), steps)
        for first_row in range(0, PATCH_PX, _BAND_ROWS):
            inside = reach < 2**31  # _gather counts the voxels of a band in int32
            for axis in range(3):
                origin = pixel[patch, axis] + first_row * steps[1, axis]
                inside &= _BORDER_VOXELS <= origin + low[axis]
                inside &= origin + high[axis] <= last[axis] - _BORDER_VOXELS
                base[axis] = np.int64(np.floor(origin + low[axis]))
                _locate(np.float32(origin - base[axis]), lane_offset, axis, cell, fraction)
            start = (patch * PATCH_PX + first_row) * PATCH_PX
            if inside:
                _gather(voxels, nx, ny, base, cell, first, raw)
                _blend(raw, fraction, gain, offset, out, start)
            else:
                _gather_checked(voxels, nx, ny, nz, base, cell, outside, checked)
                _blend(checked, fraction, gain, offset, out, start)
