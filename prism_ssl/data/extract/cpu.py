"""Cutting a view out of an open scan: oblique trilinear sampling, rescale and window in one pass over the raw voxels.

Legend
    band    some of a patch's 16 rows; its pixels are the lanes that every step below works on together
    base    voxel (i, j, k) from which the cells of a band are counted, so that float32 holds where its lanes fall
    corner  one of the 8 neighbours of a lane; stored as 4 pairs along i: [pair (j, k), lane, (i, i + 1)]

Scratch arrays are flat and read at constant distances: only then does the compiler prove that the loops below may
become vector instructions.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import binding as llvm
from llvmlite import ir
from numba.extending import intrinsic

from prism_ssl.contracts import PATCH_PX, PATCH_SCALE, Float32, Float64, RobustStats
from prism_ssl.data.scan.nifti import OpenScan
from prism_ssl.data.views.pixel_transform import levels, pixel_to_voxel
from prism_ssl.data.views.view_pairs import View
from prism_ssl.utils.fs import kept_root, private_folder
from prism_ssl.utils.hashing import short_id

Voxels = npt.NDArray[Any]
Int16 = npt.NDArray[np.int16]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Shape = tuple[int, int, int]
_Function = TypeVar("_Function", bound=Callable[..., Any])


def _prepare_compiler() -> bool:
    """Settings that numba reads before it compiles; True when 16 lanes can be loaded by one instruction.

    Compiled code is kept in ``kept_root`` for all jobs of a user, unless NUMBA_CACHE_DIR is set; in a folder for each
    text of this file, since numba fails on an index that names a type which the code no longer has.
    """
    settings: Any = numba.config
    if not settings.CACHE_DIR:
        settings.CACHE_DIR = str(private_folder(kept_root() / f"numba-{short_id(Path(__file__).read_text())}"))
    features = settings.CPU_FEATURES or llvm.get_host_cpu_features().flatten()
    if "+avx512f" not in features.split(","):
        return False
    settings.CPU_FEATURES = f"{features},-prefer-256-bit"  # whole vectors: 0.92x the time on a Xeon of 2023
    return not llvm.get_host_cpu_name().startswith("znver")  # there, loads in turn take 0.88x the time of a gather


_GATHERS = _prepare_compiler()
# Where scalar stores fill a band, a vector load of it waits for them: 1 row takes 1.9x the time of 4, 16 take 1.3x.
# Where a gather does, 4 rows take 1.05x the time of 8.
_BAND_ROWS = 8 if _GATHERS else 4
_LANES = _BAND_ROWS * PATCH_PX
_GROUP = 16  # lanes that are copied together
_VECTOR_BYTES = 64
# float32 places the lanes of a band to 1e-4 voxel; a band this close to the border has every neighbour checked.
_BORDER_VOXELS = 1e-3
_FULL_SCALE = np.float32(PATCH_SCALE)


def extract_view(scan: OpenScan, view: View, patch_mm: float, out: Int16) -> None:
    """Fill ``out`` [N, H, W] with the patches of ``view``, windowed to [-1, 1] and scaled by ``PATCH_SCALE``.

    Where the pixels lie is told by ``lattice.pixel_to_voxel``. Values are trilinear; each neighbour outside the volume
    counts as the scan's lowest value.

    Raises:
        ValueError: ``out`` is not int16 [N, 16, 16], or it or the scan's voxels are not C-contiguous.
    """
    _check_arrays(scan, view, out)
    wanted = levels(scan, view)
    in_float32 = _Levels(np.float32(wanted.gain), np.float32(wanted.offset), np.float32(wanted.outside))
    voxels = np.asarray(scan.voxels).reshape(-1)
    voxels.flags.writeable = False  # one compiled version serves arrays and read-only maps
    matrix, positions_mm = pixel_to_voxel(scan, view, patch_mm), np.ascontiguousarray(view.positions_mm, np.float32)
    by_plane = np.argsort(positions_mm @ matrix[2, :3])  # near the patch before in memory: 0.95x the time
    scratch, bands = _scratch(voxels.dtype), out.reshape(-1, _LANES)
    _fill_patches(voxels, scan.shape, matrix, positions_mm, by_plane, in_float32, scratch, bands)


def warm_up(dtype: npt.DTypeLike) -> None:
    """Have the code for voxels of ``dtype`` ready: seconds the first time on a machine, milliseconds after."""
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
    """``lattice.Levels`` in the precision of the kernel."""

    gain: np.float32
    offset: np.float32
    outside: np.float32


class _Scratch(NamedTuple):
    """Intermediate results: the first three of the view, the others of one band."""

    lane_offset: Float32  # [3 x lanes] from the first lane of a band, voxels
    lowest_offset: Float64  # [3]
    highest_offset: Float64  # [3]
    base: Int64  # [3]
    start: Float64  # [3] first lane of the band, counted from the base
    place: Int32  # [lanes] of the cell in memory, counted from that of the base
    fraction: Float32  # [3 x lanes] how far from the cell to the next one
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


def _compiled(function: _Function) -> _Function:
    # contract: fused multiply-add; nsz: minus zero is zero; NaN and infinity stay defined.
    # _nrt=False: counting references to the arrays, atomically and for each band, takes as long as the sampling.
    njit: Any = numba.njit
    options = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz"}, "_nrt": False}
    compiled: _Function = njit(**options)(function)
    return compiled


def _address_of_pair(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    """Elements ``index`` and ``index + 1`` of an array as one integer of twice their width."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), ir.IntType(2 * array_type.dtype.bitwidth).as_pointer())


def _copy_pairs_code(_typing: Any, source: Any, start: Any, place: Any, lane: Any, target: Any, slot: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        first, places, lane, (corners, slot) = values[1], values[2], values[3], values[4:]
        address = _address_of_pair(context, builder, signature.args[0], values[0], first)
        write = _address_of_pair(context, builder, signature.args[4], corners, slot)
        read = context.make_array(signature.args[2])(context, builder, places).data
        offsets = builder.gep(read, [lane])
        width = source.dtype.bitwidth // 8
        copy = _gather_in_one if _GATHERS and width in (2, 4) else _load_in_turn
        copy(builder, address, offsets, write, width)
        return context.get_dummy_value()

    return numba.void(source, start, place, lane, target, slot), generate


def _gather_in_one(builder: Any, address: Any, offsets: Any, write: Any, width: int) -> None:
    """Vector instructions that load 64 bytes of pairs each."""
    lanes, number = _VECTOR_BYTES // (2 * width), ir.IntType(32)
    pairs, places = ir.VectorType(write.type.pointee, lanes), ir.VectorType(number, lanes)
    every = ir.Constant(ir.VectorType(ir.IntType(1), lanes), [1] * lanes)
    kind = ir.FunctionType(pairs, [pairs, address.type, places, every.type, number])
    name = f"llvm.x86.avx512.mask.gather.dp{'i' if width == 2 else 'q'}.512"
    gather = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    for first in range(0, _GROUP, lanes):
        at = [ir.IntType(64)(first)]
        index = builder.load(builder.bitcast(builder.gep(offsets, at), places.as_pointer()), align=4)
        found = builder.call(gather, [ir.Constant(pairs, ir.Undefined), address, index, every, number(width)])
        builder.store(found, builder.bitcast(builder.gep(write, at), pairs.as_pointer()), align=width)


def _load_in_turn(builder: Any, address: Any, offsets: Any, write: Any, width: int) -> None:
    """A load and a store for each lane."""
    index, element = ir.IntType(64), ir.IntType(8 * width).as_pointer()
    address = builder.bitcast(address, element)
    for number in range(_GROUP):
        offset = builder.sext(builder.load(builder.gep(offsets, [index(number)])), index)
        read = builder.bitcast(builder.gep(address, [offset]), write.type)
        builder.store(builder.load(read, align=width), builder.gep(write, [index(number)]), align=width)


_intrinsic: Any = intrinsic
_copy_pairs: Callable[..., None] = _intrinsic(_copy_pairs_code)
"""(source, start, place, lane, target, slot): for 16 lanes, copy the elements start + place[lane] and its neighbour."""


def _pair_code(_typing: Any, corners: Any, pair: Any) -> Any:
    types: Any = numba.types

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array_type, kind = signature.args[0], signature.args[0].dtype
        index = builder.shl(values[1], values[1].type(1))
        if kind.bitwidth == 16:  # as one number: shifts take less time than sorting the halves of vectors
            both = builder.load(_address_of_pair(context, builder, array_type, values[0], index), align=2)
            half = both.type(16)
            shift = builder.ashr if kind.signed else builder.lshr
            halves = shift(builder.shl(both, half), half), shift(both, half)
            wide = types.int32 if kind.signed else types.uint32
        else:
            data = context.make_array(array_type)(context, builder, values[0]).data
            second = builder.add(index, index.type(1))
            halves, wide = tuple(builder.load(builder.gep(data, [at])) for at in (index, second)), kind
        floats = [context.cast(builder, half, wide, types.float32) for half in halves]
        return context.make_tuple(builder, signature.return_type, floats)

    return types.UniTuple(types.float32, 2)(corners, pair), generate


_pair: Callable[[Voxels, int], tuple[np.float32, np.float32]] = _intrinsic(_pair_code)
"""(corners, number): both values of a pair."""


@_compiled
def _mix(pair: tuple[np.float32, np.float32], share: np.float32) -> np.float32:
    return pair[0] + share * (pair[1] - pair[0])


@_compiled
def _place_lanes(shape: Shape, matrix: Float64, offset: Float32, lowest: Float64, highest: Float64) -> bool:
    """Offsets of a band's lanes from its first one; whether places in memory, counted from its base, fit int32."""
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


@_compiled
def _locate(
    shape: Shape, x0: np.float32, y0: np.float32, z0: np.float32, lane_offset: Float32, place: Int32, fraction: Float32
) -> None:
    """Where the lanes of a band fall when its first one falls at (x0, y0, z0) from the base."""
    row, plane = np.int32(shape[0]), np.int32(shape[0] * shape[1])
    for lane in range(_LANES):
        x, y, z = x0 + lane_offset[lane], y0 + lane_offset[_LANES + lane], z0 + lane_offset[2 * _LANES + lane]
        i, j, k = np.int32(x), np.int32(y), np.int32(z)
        place[lane] = i + np.int32(j * row) + np.int32(k * plane)
        fraction[lane] = x - np.float32(i)
        fraction[_LANES + lane] = y - np.float32(j)
        fraction[2 * _LANES + lane] = z - np.float32(k)


@_compiled
def _gather(voxels: Voxels, shape: Shape, base: Int64, place: Int32, corners: Voxels) -> None:
    """The corners of a band that lies wholly inside the volume."""
    nx, ny = shape[0], shape[1]
    start = (base[2] * ny + base[1]) * nx + base[0]
    for pair in range(4):
        first = start + (pair & 1) * nx + (pair >> 1) * nx * ny
        for lane in range(0, _LANES, _GROUP):
            _copy_pairs(voxels, first, place, lane, corners, 2 * (pair * _LANES + lane))


@_compiled
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


@_compiled
def _blend(corners: Voxels, fraction: Float32, gain: np.float32, offset: np.float32, out: Int16, band: int) -> None:
    """Trilinear value of each lane, through the window, to fixed point."""
    for lane in range(_LANES):
        x, y, z = fraction[lane], fraction[_LANES + lane], fraction[2 * _LANES + lane]
        a = _mix(_pair(corners, lane), x)
        b = _mix(_pair(corners, _LANES + lane), x)
        c = _mix(_pair(corners, 2 * _LANES + lane), x)
        d = _mix(_pair(corners, 3 * _LANES + lane), x)
        value = _mix((_mix((a, b), y), _mix((c, d), y)), z) * gain + offset
        out[band, lane] = np.int16(np.int32(np.rint(min(max(value, -_FULL_SCALE), _FULL_SCALE))))


@_compiled
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
