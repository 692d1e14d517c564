"""Wide registers for numba: a handful of vector instructions, written once for every machine.

LLVM turns them into what the machine has (AVX2, AVX-512, NEON, SSE2) without changing what they compute: no
fused multiply-add, no reassociation. A result has the same bits everywhere.

>>> import numba
>>> import numpy as np
>>> @numba.njit
... def both(a, b):
...     return count(load(a, 0) & load(b, 0))
>>> int(both(np.full(4, 7, np.uint64), np.full(4, 5, np.uint64)))
8
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, TypeVar, cast

from llvmlite import ir
from numba import extending
from numba.core import cgutils, types
from numba.extending import models, register_model

LANES = 4
"""64-bit words in a register."""
SUMS = 64
"""float32 sums that ``signs`` and ``dots`` make side by side: one for each bit of a word."""

F = TypeVar("F", bound=Callable[..., object])


def _instruction(build: F) -> Callable[..., Any]:
    """numba's ``intrinsic``, typed as what it makes: a function for kernels only."""
    return cast(Callable[..., Any], extending.intrinsic(build))


_ir: Any = cgutils
_models: Any = models
_I64 = ir.IntType(64)
_WORDS = ir.VectorType(_I64, LANES)
_FLOATS = ir.VectorType(ir.FloatType(), SUMS)
_BOTH = {operator.and_: "and_", operator.or_: "or_", operator.xor: "xor"}
_SHIFT = {operator.lshift: "shl", operator.rshift: "lshr"}


class Lanes(types.Type):
    """The type of a register of ``LANES`` uint64, with ``& | ^ ~ << >>``."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")


lanes = Lanes()


register_model(Lanes)(lambda manager, of: _models.PrimitiveModel(manager, of, _WORDS))


def _splat(builder: Any, word: Any) -> Any:
    undefined = ir.Constant(_WORDS, ir.Undefined)
    one = builder.insert_element(undefined, word, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(ir.IntType(32), LANES), None))


def _at(context: Any, builder: Any, of: Any, array: Any, index: Any) -> Any:
    """Pointer to element ``index`` of the flat data of a contiguous array."""
    return builder.gep(context.make_array(of)(context, builder, array).data, [index])


@_instruction
def splat(typing: Any, word: Any) -> Any:
    """A register with ``word`` in every lane."""
    return lanes(types.uint64), lambda context, builder, sig, args: _splat(builder, args[0])


@_instruction
def load(typing: Any, array: Any, index: Any) -> Any:
    """The ``LANES`` words of a contiguous uint64 array from flat ``index`` on. Nothing checks the bounds."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        at = _at(context, builder, sig.args[0], args[0], args[1])
        return builder.load(builder.bitcast(at, _WORDS.as_pointer()), align=8)

    return lanes(array, types.int64), codegen


@_instruction
def gather(typing: Any, array: Any, index: Any, step: Any) -> Any:
    """The words at ``index``, ``index + step``, ``index + 2 * step`` ..., one in each lane."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        words, index = ir.Constant(_WORDS, ir.Undefined), args[1]
        for lane in range(LANES):
            word = builder.load(_at(context, builder, sig.args[0], args[0], index))
            words = builder.insert_element(words, word, ir.Constant(ir.IntType(32), lane))
            index = builder.add(index, args[2])
        return words

    return lanes(array, types.int64, types.int64), codegen


@_instruction
def store(typing: Any, array: Any, index: Any, words: Any) -> Any:
    """Write a register to a contiguous uint64 array from flat ``index`` on. Nothing checks the bounds."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        at = _at(context, builder, sig.args[0], args[0], args[1])
        builder.store(args[2], builder.bitcast(at, _WORDS.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(array, types.int64, lanes), codegen


@_instruction
def count(typing: Any, words: Any) -> Any:
    """How many bits of a register are set, int64."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        ctpop = ir.FunctionType(_WORDS, [_WORDS])
        ctpop = _ir.get_or_insert_function(builder.module, ctpop, f"llvm.ctpop.v{LANES}i64")
        counts = builder.call(ctpop, args)
        each = [builder.extract_element(counts, ir.Constant(ir.IntType(32), i)) for i in range(LANES)]
        return builder.add(builder.add(each[0], each[1]), builder.add(each[2], each[3]))

    return types.int64(lanes), codegen


@_instruction
def popcount(typing: Any, word: Any) -> Any:
    """How many bits of a uint64 are set, int64."""
    return types.int64(types.uint64), lambda context, builder, sig, args: builder.ctpop(args[0])


@_instruction
def lowest(typing: Any, word: Any) -> Any:
    """The place of the lowest set bit of a uint64, 64 if there is none, int64."""
    none_is_64 = ir.Constant(ir.IntType(1), 0)
    return types.int64(types.uint64), lambda context, builder, sig, args: builder.cttz(args[0], none_is_64)


def _sums(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    """``SUMS`` sums over ``d`` of ``vector[d] * matrix[d, column + s]``, rounded and then added, in order."""
    vector, matrix, column = args[:3]
    size = context.make_array(sig.args[0])(context, builder, vector).nitems
    stride = _ir.unpack_tuple(builder, context.make_array(sig.args[1])(context, builder, matrix).shape)[-1]
    zeros = ir.Constant(_FLOATS, None)
    sums = _ir.alloca_once_value(builder, zeros)
    with _ir.for_range(builder, size) as loop:
        at = _at(context, builder, sig.args[1], matrix, builder.add(builder.mul(loop.index, stride), column))
        row = builder.load(builder.bitcast(at, _FLOATS.as_pointer()), align=4)
        one = builder.load(_at(context, builder, sig.args[0], vector, loop.index))
        undefined = ir.Constant(_FLOATS, ir.Undefined)
        same = builder.insert_element(undefined, one, ir.Constant(ir.IntType(32), 0))
        same = builder.shuffle_vector(same, undefined, ir.Constant(ir.VectorType(ir.IntType(32), SUMS), None))
        builder.store(builder.fadd(builder.load(sums), builder.fmul(same, row)), sums)
    return builder.load(sums)


@_instruction
def signs(typing: Any, vector: Any, matrix: Any, column: Any) -> Any:
    """A uint64 whose bit ``s`` is 1 where ``vector @ matrix[:, column + s] > 0``; float32, contiguous."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        above = builder.fcmp_ordered(">", _sums(context, builder, sig, args), ir.Constant(_FLOATS, None))
        return builder.bitcast(above, _I64)

    return types.uint64(vector, matrix, types.int64), codegen


@_instruction
def dots(typing: Any, vector: Any, matrix: Any, column: Any, out: Any, index: Any) -> Any:
    """Write ``vector @ matrix[:, column + s]`` to ``out[index + s]`` for each of ``SUMS`` columns."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        at = _at(context, builder, sig.args[3], args[3], args[4])
        builder.store(_sums(context, builder, sig, args), builder.bitcast(at, _FLOATS.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(vector, matrix, types.int64, out, types.int64), codegen


def _define(symbol: Any, name: str, right: Any) -> None:
    @_instruction
    def act(typing: Any, a: Any, b: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            b = args[1] if right is lanes else _splat(builder, args[1])
            return getattr(builder, name)(args[0], b)

        return lanes(lanes, right), codegen

    @extending.overload(symbol, strict=False)
    def apply(a: Any, b: Any) -> Any:
        if isinstance(a, Lanes) and isinstance(b, Lanes) == (right is lanes):
            return lambda a, b: act(a, b)
        return None


for _symbol, _name in _BOTH.items():
    _define(_symbol, _name, lanes)
for _symbol, _name in _SHIFT.items():
    _define(_symbol, _name, types.uint64)


@_instruction
def _invert(typing: Any, a: Any) -> Any:
    return lanes(lanes), lambda context, builder, sig, args: builder.not_(args[0])


@extending.overload(operator.invert, strict=False)
def _(a: Any) -> Any:
    return (lambda a: _invert(a)) if isinstance(a, Lanes) else None
