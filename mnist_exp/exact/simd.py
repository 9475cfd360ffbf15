"""Vectors of 16 floats for numba. Every processor splits them into its own registers; what is computed is the same.

A kernel holds its sums in a *tile*, a tuple of vectors, so that they stay in registers. The functions here are
instructions rather than calls: numba puts their LLVM code in place.
"""

from collections.abc import Iterator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

W = 16
"""Floats of a vector, and so images side by side. Part of the arithmetic: sums over images depend on it."""
_VECTOR = ir.VectorType(ir.FloatType(), W)
_ZERO = ir.Constant(_VECTOR, [0.0] * W)


class _VectorType(types.Type):
    def __init__(self) -> None:
        super().__init__(name=f"float32x{W}")


@register_model(_VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, _VECTOR)


_vector = _VectorType()


def _pointers(context: Any, builder: Any, signature: Any, arguments: Any, count: int) -> Iterator[Any]:
    """Of the arguments array, at, stride: the addresses of at, at + stride, …"""
    data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
    at, stride = (context.cast(builder, arguments[i], signature.args[i], types.intp) for i in (1, 2))
    for i in range(count):
        yield builder.gep(data, [builder.add(at, builder.mul(stride, ir.Constant(at.type, i)))])


@intrinsic(prefer_literal=True)
def zeros(_: Any, n: Any) -> Any:
    """A tile of n vectors of zeros."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.make_tuple(builder, signature.return_type, [_ZERO] * len(signature.return_type))

    return types.UniTuple(_vector, n.literal_value)(n), code


@intrinsic(prefer_literal=True)
def load(_: Any, array: Any, at: Any, stride: Any, n: Any) -> Any:
    """A tile of the n vectors that start at elements at, at + stride, … of the flattened array."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointers = _pointers(context, builder, signature, arguments, len(signature.return_type))
        vectors = [builder.load(builder.bitcast(each, _VECTOR.as_pointer()), align=4) for each in pointers]
        return context.make_tuple(builder, signature.return_type, vectors)

    return types.UniTuple(_vector, n.literal_value)(array, at, stride, n), code


@intrinsic(prefer_literal=True)
def splat(_: Any, array: Any, at: Any, stride: Any, n: Any) -> Any:
    """A tile of n vectors, each of one element repeated: at, at + stride, … of the flattened array."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first, lanes = ir.Constant(ir.IntType(32), 0), ir.Constant(ir.VectorType(ir.IntType(32), W), [0] * W)
        vectors = []
        for pointer in _pointers(context, builder, signature, arguments, len(signature.return_type)):
            one = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), builder.load(pointer), first)
            vectors.append(builder.shuffle_vector(one, one, lanes))
        return context.make_tuple(builder, signature.return_type, vectors)

    return types.UniTuple(_vector, n.literal_value)(array, at, stride, n), code


@intrinsic
def store(_: Any, array: Any, at: Any, stride: Any, tile: Any) -> Any:
    """Write a tile's vectors at elements at, at + stride, … of the flattened array."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointers = _pointers(context, builder, signature, arguments, len(signature.args[3]))
        for i, pointer in enumerate(pointers):
            vector = builder.extract_value(arguments[3], i)
            builder.store(vector, builder.bitcast(pointer, _VECTOR.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, at, stride, tile), code


@intrinsic
def madd(_: Any, sums: Any, a: Any, b: Any) -> Any:
    """The tile of sums[i, j] + a[i] × b[j], each rounded once (a fused multiply-add)."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
        fma = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{W}f32")
        rows, columns = len(signature.args[1]), len(signature.args[2])
        vectors = []
        for i in range(rows):
            for j in range(columns):
                x, y = builder.extract_value(arguments[1], i), builder.extract_value(arguments[2], j)
                vectors.append(builder.call(fma, [x, y, builder.extract_value(arguments[0], i * columns + j)]))
        return context.make_tuple(builder, signature.return_type, vectors)

    return sums(sums, a, b), code


@intrinsic
def transpose(_: Any, tile: Any) -> Any:
    """The tile whose vector i has the elements i of the 16 vectors given: four exchanges of halves, quarters, …"""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vectors = [builder.extract_value(arguments[0], i) for i in range(W)]
        for size in (8, 4, 2, 1):
            low = [lane if not lane & size else W + lane - size for lane in range(W)]
            high = [lane + size if not lane & size else W + lane for lane in range(W)]
            for i in (i for i in range(W) if not i & size):
                a, b = vectors[i], vectors[i + size]
                for at, lanes in ((i, low), (i + size, high)):
                    vectors[at] = builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), W), lanes))
        return context.make_tuple(builder, signature.return_type, vectors)

    return tile(tile), code


@intrinsic(prefer_literal=True)
def pick(_: Any, codes: Any, wanted: Any, values: Any) -> Any:
    """The lanes of a vector whose code is the wanted one; 0 in the others."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        is_it = ir.Constant(_VECTOR, [float(signature.args[1].literal_value)] * W)
        found = builder.fcmp_ordered("==", builder.extract_value(arguments[0], 0), is_it)
        chosen = builder.select(found, builder.extract_value(arguments[2], 0), _ZERO)
        return context.make_tuple(builder, signature.return_type, [chosen])

    return values(codes, wanted, values), code
