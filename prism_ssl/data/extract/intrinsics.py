"""Compiler intrinsics of the extraction kernel: load pairs of neighbouring voxels for 16 lanes at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.extending import intrinsic

from prism_ssl.data.extract.compiler import GATHERS

GROUP = 16
"""Lanes that are copied together."""
_VECTOR_BYTES = 64


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
        copy = _gather_in_one if GATHERS and width in (2, 4) else _load_in_turn
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
    for first in range(0, GROUP, lanes):
        at = [ir.IntType(64)(first)]
        index = builder.load(builder.bitcast(builder.gep(offsets, at), places.as_pointer()), align=4)
        found = builder.call(gather, [ir.Constant(pairs, ir.Undefined), address, index, every, number(width)])
        builder.store(found, builder.bitcast(builder.gep(write, at), pairs.as_pointer()), align=width)


def _load_in_turn(builder: Any, address: Any, offsets: Any, write: Any, width: int) -> None:
    """A load and a store for each lane."""
    index, element = ir.IntType(64), ir.IntType(8 * width).as_pointer()
    address = builder.bitcast(address, element)
    for number in range(GROUP):
        offset = builder.sext(builder.load(builder.gep(offsets, [index(number)])), index)
        read = builder.bitcast(builder.gep(address, [offset]), write.type)
        builder.store(builder.load(read, align=width), builder.gep(write, [index(number)]), align=width)


_intrinsic: Any = intrinsic
copy_pairs: Callable[..., None] = _intrinsic(_copy_pairs_code)
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


pair_of: Callable[[npt.NDArray[Any], int], tuple[np.float32, np.float32]] = _intrinsic(_pair_code)
"""(corners, number): both values of a pair."""
