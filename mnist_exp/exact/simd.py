"""Vectors of 16 floats for numba. Every processor splits them into its own registers; what is computed is the same.

A kernel holds its sums in a *tile*, a tuple of vectors, so that they stay in registers. What is defined here are
instructions rather than calls: numba puts their LLVM code in place.
"""

import functools
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

W = 16
"""Floats of a vector, and so images side by side. Part of the arithmetic: sums over images depend on it."""
_VECTOR = ir.VectorType(ir.FloatType(), W)


class _VectorType(types.Type):
    """A vector, for numba."""


register_model(_VectorType)(lambda manager, of_numba: models.PrimitiveModel(manager, of_numba, _VECTOR))
_vector = _VectorType(f"float32x{W}")


def _pointers(context: Any, builder: Any, signature: Any, arguments: Any, count: int) -> list[Any]:
    """Of the arguments array, at, stride: the addresses of at, at + stride, … in the flattened array."""
    data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
    at, stride = (context.cast(builder, arguments[i], signature.args[i], types.intp) for i in (1, 2))
    steps = (builder.mul(stride, ir.Constant(at.type, i)) for i in range(count))
    return [builder.gep(data, [builder.add(at, step)]) for step in steps]


def _reading(read: Callable[[Any, Any], Any]) -> Any:
    """An instruction (array, at, stride, n) → a tile of n vectors; n is a constant, or a tuple as long."""

    @intrinsic(prefer_literal=True)
    def instruction(_: Any, array: Any, at: Any, stride: Any, n: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointers = _pointers(context, builder, signature, arguments, len(signature.return_type))
            return context.make_tuple(builder, signature.return_type, [read(builder, each) for each in pointers])

        length = n.literal_value if isinstance(n, types.IntegerLiteral) else len(n)
        return types.UniTuple(_vector, length)(array, at, stride, n), code

    return instruction


def _repeated(builder: Any, pointer: Any) -> Any:
    first = builder.load(pointer)
    one = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), first, ir.Constant(ir.IntType(32), 0))
    return _lanes(builder, one, one, [0] * W)


load = _reading(lambda builder, pointer: builder.load(builder.bitcast(pointer, _VECTOR.as_pointer()), align=4))
"""The vectors that start at elements at, at + stride, …"""
splat = _reading(_repeated)
"""Vectors of one element repeated: at, at + stride, …"""


@intrinsic
def store(_: Any, array: Any, at: Any, stride: Any, tile: Any) -> Any:
    """Write a tile's vectors at elements at, at + stride, …"""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vectors = cgutils.unpack_tuple(builder, arguments[3])
        for vector, pointer in zip(
            vectors, _pointers(context, builder, signature, arguments, len(vectors)), strict=True
        ):
            builder.store(vector, builder.bitcast(pointer, _VECTOR.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, at, stride, tile), code


def _on_tiles(function: Callable[..., list[Any]]) -> Any:
    """An instruction on tiles, from a function of their vectors. The result is as long as the first."""

    def instruction(_: Any, *tiles: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            vectors = (cgutils.unpack_tuple(builder, tile) for tile in arguments)
            return context.make_tuple(builder, signature.return_type, function(builder, *vectors))

        return tiles[0](*tiles), code

    return intrinsic(functools.wraps(function)(instruction))


@_on_tiles
def madd(builder: Any, sums: list[Any], a: list[Any], b: list[Any]) -> list[Any]:
    """The tile of sums[i, j] + a[i] × b[j], each rounded once (a fused multiply-add), j running faster than i."""
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    fma = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{W}f32")
    products = ((x, y) for x in a for y in b)
    return [builder.call(fma, [x, y, each]) for each, (x, y) in zip(sums, products, strict=True)]


@_on_tiles
def if_larger(builder: Any, a: list[Any], b: list[Any], x: list[Any], y: list[Any]) -> list[Any]:
    """The lanes of x where a > b or a is NaN; elsewhere those of y. All are tiles of one vector."""
    is_larger = builder.or_(builder.fcmp_ordered(">", a[0], b[0]), builder.fcmp_unordered("uno", a[0], a[0]))
    return [builder.select(is_larger, x[0], y[0])]


@_on_tiles
def transpose(builder: Any, vectors: list[Any]) -> list[Any]:
    """The tile whose vector i has the elements i of the 16 vectors given: four exchanges of halves, quarters, …"""
    for size in (8, 4, 2, 1):
        low = [lane if not lane & size else W + lane - size for lane in range(W)]
        high = [lane + size for lane in low]
        for i in (i for i in range(W) if not i & size):
            pair = vectors[i], vectors[i + size]
            vectors[i], vectors[i + size] = (_lanes(builder, *pair, lanes) for lanes in (low, high))
    return vectors


def _lanes(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
    """A vector of lanes of a, 0 to 15, and b, 16 to 31."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), W), lanes))
