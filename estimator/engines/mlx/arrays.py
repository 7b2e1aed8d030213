"""MLX's arrays before they are evaluated: each has a shape, a dtype, and the primitive that will compute it.

The functions are those of ``mlx/ops.cpp``: they make the same primitives in the same order, casts and broadcasts
included, since the order of a graph decides what is alive at once. Data does not exist. Release: 0.32.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from math import prod
from typing import Any

from ...ledger import ITEMSIZE

SIZES = {**ITEMSIZE, "bool": 1, "uint32": 4, "int32": 4, "uint64": 8}
"""Bytes of an element."""
FLOATS = ("float16", "bfloat16", "float32")
ORDER = ("bool", "uint32", "int32", "uint64", "float16", "bfloat16", "float32")
"""Of two dtypes the later one is what both are promoted to, but for the two of 16 bits (``dtype.cpp``)."""

Shape = tuple[int, ...]


class Primitive:
    """What computes arrays. Two are equivalent if name and attributes are equal."""

    __slots__ = ("attributes", "name", "vjp")

    def __init__(self, name: str, attributes: tuple[Any, ...] = (), vjp: Any = None) -> None:
        self.name, self.attributes, self.vjp = name, attributes, vjp


class Array:
    """A node of the graph. ``inputs`` and ``outputs`` (its primitive's, itself among them) are shared with nobody."""

    __slots__ = (
        "contiguous",
        "data",
        "data_size",
        "dtype",
        "inputs",
        "outputs",
        "primitive",
        "refs",
        "shape",
        "strides",
        "value",
    )

    strides: tuple[int, ...]
    contiguous: tuple[bool, bool, bool]
    """Whether its elements have no gaps, are in the order of rows, or of columns."""
    data_size: int
    """Elements of the buffer that it spans."""

    def __init__(
        self,
        shape: Shape,
        dtype: str,
        primitive: Primitive | None = None,
        inputs: Sequence[Array] = (),
        value: Any = None,
    ) -> None:
        self.shape, self.dtype, self.primitive = shape, dtype, primitive
        self.inputs = list(inputs)
        self.outputs: tuple[Array, ...] = (self,)
        self.value = value
        """The number of a constant without dimensions."""
        self.data: Any = None
        self.refs = 0

    @property
    def name(self) -> str:
        """Its primitive's name; empty without one."""
        return "" if self.primitive is None else self.primitive.name

    @property
    def attributes(self) -> tuple[Any, ...]:
        """Its primitive's attributes."""
        return () if self.primitive is None else self.primitive.attributes

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def itemsize(self) -> int:
        return SIZES[self.dtype]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * SIZES[self.dtype]

    # As in Python's mlx.core. A number takes the dtype of the array beside it.

    def __add__(self, other: Any) -> Array:
        return add(self, scalar(other, self.dtype))

    def __radd__(self, other: Any) -> Array:
        return add(self, scalar(other, self.dtype))

    def __sub__(self, other: Any) -> Array:
        return subtract(self, scalar(other, self.dtype))

    def __rsub__(self, other: Any) -> Array:
        return subtract(scalar(other, self.dtype), self)

    def __mul__(self, other: Any) -> Array:
        return multiply(self, scalar(other, self.dtype))

    def __rmul__(self, other: Any) -> Array:
        return multiply(self, scalar(other, self.dtype))

    def __truediv__(self, other: Any) -> Array:
        return divide(self, scalar(other, self.dtype))

    def __pow__(self, other: Any) -> Array:
        return power(self, scalar(other, self.dtype))

    def __neg__(self) -> Array:
        return unary("Negative", self)

    def __matmul__(self, other: Array) -> Array:
        return matmul(self, other)

    def __getitem__(self, index: Array) -> Array:
        return take(self, index)

    @property
    def T(self) -> Array:
        return transpose(self, tuple(range(self.ndim))[::-1])

    def astype(self, dtype: str) -> Array:
        return astype(self, dtype)

    def reshape(self, *shape: int) -> Array:
        return reshape(self, shape)

    def transpose(self, *axes: int) -> Array:
        return transpose(self, axes)


def scalar(value: Any, dtype: str) -> Array:
    """A number as a constant; an array as it is."""
    return value if isinstance(value, Array) else Array((), dtype, value=float(value))


def promoted(*dtypes: str) -> str:
    found = max(dtypes, key=ORDER.index)
    return "float32" if {"float16", "bfloat16"} <= set(dtypes) else found


def made(primitive: Primitive, inputs: Sequence[Array], shapes: Sequence[Shape], dtypes: Sequence[str]) -> list[Array]:
    """The outputs of a primitive that has several. Each has a list of the inputs of its own."""
    outputs = [Array(shape, dtype, primitive, inputs) for shape, dtype in zip(shapes, dtypes, strict=True)]
    for output in outputs:
        output.outputs = tuple(outputs)
    return outputs


def astype(a: Array, dtype: str) -> Array:
    return a if a.dtype == dtype else Array(a.shape, dtype, Primitive("AsType", (dtype,)), (a,))


def broadcast_shapes(*shapes: Shape) -> Shape:
    ndim = max(map(len, shapes))
    padded = [(1,) * (ndim - len(shape)) + shape for shape in shapes]
    return tuple(max(sizes) for sizes in zip(*padded, strict=True))


def broadcast_to(a: Array, shape: Shape) -> Array:
    return a if a.shape == shape else Array(shape, a.dtype, Primitive("Broadcast", (shape,)), (a,))


_shapeless = ContextVar("shapeless", default=False)
"""Whether a function is traced that is compiled for all shapes (``in_dynamic_tracing``)."""


@contextmanager
def shapeless() -> Iterator[None]:
    """Trace for all shapes: nothing is left out since it happens to have the right shape."""
    token = _shapeless.set(True)
    try:
        yield
    finally:
        _shapeless.reset(token)


def broadcast_arrays(*arrays: Array) -> list[Array]:
    shape = broadcast_shapes(*(a.shape for a in arrays))
    if not _shapeless.get():
        return [broadcast_to(a, shape) for a in arrays]
    stopped = [stop_gradient(a) for a in arrays]
    return [
        Array(shape, a.dtype, Primitive("Broadcast", (shape,)), (a, *stopped[:i], *stopped[i + 1 :]))
        for i, a in enumerate(arrays)
    ]


def broadcast_but(arrays: Sequence[Array], last: int) -> list[Array]:
    """Broadcast all axes but so many at the end."""
    shape = broadcast_shapes(*(a.shape[: a.ndim - last] for a in arrays))
    return [broadcast_to(a, shape + a.shape[a.ndim - last :]) for a in arrays]


def unary(name: str, a: Array, dtype: str = "") -> Array:
    return Array(a.shape, dtype or a.dtype, Primitive(name), (a,))


def binary(name: str, a: Array, b: Array, dtype: str = "") -> Array:
    both = promoted(a.dtype, b.dtype)
    inputs = broadcast_arrays(astype(a, both), astype(b, both))
    return Array(inputs[0].shape, dtype or both, Primitive(name), inputs)


def add(a: Array, b: Array) -> Array:
    return binary("Add", a, b)


def subtract(a: Array, b: Array) -> Array:
    return binary("Subtract", a, b)


def multiply(a: Array, b: Array) -> Array:
    return binary("Multiply", a, b)


def divide(a: Array, b: Array) -> Array:
    return binary("Divide", a, b)


def power(a: Array, b: Array) -> Array:
    return binary("Power", a, b)


def where(condition: Array, a: Array, b: Array) -> Array:
    dtype = promoted(a.dtype, b.dtype)
    inputs = broadcast_arrays(condition, astype(a, dtype), astype(b, dtype))
    return Array(inputs[0].shape, dtype, Primitive("Select"), inputs)


def stop_gradient(a: Array) -> Array:
    return unary("StopGradient", a)


def depends(a: Sequence[Array], on: Sequence[Array]) -> list[Array]:
    return made(Primitive("Depends"), [*a, *on], [x.shape for x in a], [x.dtype for x in a])


def full(shape: Shape, value: float, dtype: str) -> Array:
    return Array(shape, dtype, Primitive("Full"), (broadcast_to(scalar(value, dtype), shape),))


def zeros_like(a: Array) -> Array:
    return full(a.shape, 0, a.dtype)


def arange(start: int, stop: int, dtype: str = "int32", step: int = 1) -> Array:
    return Array((-((start - stop) // step),), dtype, Primitive("Arange", (start, stop, step)))


def transpose(a: Array, axes: Sequence[int]) -> Array:
    axes = tuple(axes)
    return Array(tuple(a.shape[axis] for axis in axes), a.dtype, Primitive("Transpose", (axes,)), (a,))


def swapaxes(a: Array, first: int, second: int) -> Array:
    axes = list(range(a.ndim))
    axes[first], axes[second] = axes[second], axes[first]
    return transpose(a, axes)


def flatten(a: Array, start: int = 0, end: int = -1) -> Array:
    start, end = start % a.ndim, end % a.ndim
    if start == end:
        return a
    shape = (*a.shape[:start], prod(a.shape[start : end + 1]), *a.shape[end + 1 :])
    return Array(shape, a.dtype, Primitive("Flatten", (start, end)), (a,))


def unflatten(a: Array, axis: int, shape: Shape) -> Array:
    axis %= a.ndim
    if -1 in shape:
        shape = tuple(a.shape[axis] // -prod(shape) if size == -1 else size for size in shape)
    if len(shape) == 1:
        return a
    whole = (*a.shape[:axis], *shape, *a.shape[axis + 1 :])
    return Array(whole, a.dtype, Primitive("Unflatten", (axis, shape)), (a,))


def reshape(a: Array, shape: Shape) -> Array:
    if -1 in shape:
        shape = tuple(a.size // -prod(shape) if size == -1 else size for size in shape)
    return a if a.shape == shape else Array(shape, a.dtype, Primitive("Reshape", (shape,)), (a,))


def squeeze(a: Array, axes: Sequence[int]) -> Array:
    gone = {axis % a.ndim for axis in axes}
    if not gone:
        return a
    shape = tuple(size for axis, size in enumerate(a.shape) if axis not in gone)
    return Array(shape, a.dtype, Primitive("Squeeze", (tuple(sorted(gone)),)), (a,))


def expand_dims(a: Array, axes: int | Sequence[int]) -> Array:
    axes = (axes,) if isinstance(axes, int) else tuple(axes)
    if not axes:
        return a
    ndim = a.ndim + len(axes)
    new = sorted(axis % ndim for axis in axes)
    shape = list(a.shape)
    for axis in new:
        shape.insert(axis, 1)
    return Array(tuple(shape), a.dtype, Primitive("ExpandDims", (tuple(new),)), (a,))


def reduce(name: str, a: Array, axes: Sequence[int], keepdims: bool = False) -> Array:
    """``sum`` and ``max``. An axis of one element is no reduction."""
    axes = sorted(axis % a.ndim for axis in axes)
    if not axes:
        return a
    shape = tuple(1 if axis in axes else size for axis, size in enumerate(a.shape))
    dtype = "int32" if name == "Sum" and a.dtype == "bool" else a.dtype
    found = astype(a, dtype) if shape == a.shape else Array(shape, dtype, Primitive(name, tuple(axes)), (a,))
    return found if keepdims else squeeze(found, axes)


def sum(a: Array, axes: Sequence[int] | int, keepdims: bool = False) -> Array:
    return reduce("Sum", a, (axes,) if isinstance(axes, int) else axes, keepdims)


def mean(a: Array, axis: int, keepdims: bool = False) -> Array:
    return multiply(sum(a, axis, keepdims), scalar(1 / a.shape[axis], a.dtype))


def softmax(a: Array, precise: bool = True) -> Array:
    return Array(a.shape, a.dtype, Primitive("Softmax", (precise,)), (a,))


def logsumexp(a: Array) -> Array:
    return squeeze(Array((*a.shape[:-1], 1), a.dtype, Primitive("LogSumExp"), (a,)), (-1,))


def slice(a: Array, start: Shape, stop: Shape) -> Array:
    shape = tuple(last - first for first, last in zip(start, stop, strict=True))
    return a if shape == a.shape else Array(shape, a.dtype, Primitive("Slice", (start, stop)), (a,))


def slice_axis(a: Array, axis: int, start: int, stop: int) -> Array:
    """A slice of one axis."""
    axis %= a.ndim
    first, last = [0] * a.ndim, list(a.shape)
    first[axis], last[axis] = start, stop
    return slice(a, tuple(first), tuple(last))


def slice_update(a: Array, update: Array, start: Shape, stop: Shape) -> Array:
    shape = tuple(last - first for first, last in zip(start, stop, strict=True))
    update = broadcast_to(astype(update, a.dtype), shape)
    return update if shape == a.shape else Array(a.shape, a.dtype, Primitive("SliceUpdate", (start, stop)), (a, update))


def split(a: Array, indices: Sequence[int], axis: int = -1) -> list[Array]:
    axis %= a.ndim
    ends = [0, *indices, a.shape[axis]]
    sizes = [stop - start for start, stop in pairwise(ends)]
    shapes = [(*a.shape[:axis], size, *a.shape[axis + 1 :]) for size in sizes]
    return made(Primitive("Split", (tuple(indices), axis)), [a], shapes, [a.dtype] * len(shapes))


def concatenate(arrays: Sequence[Array], axis: int = -1) -> Array:
    if len(arrays) == 1:
        return arrays[0]
    axis %= arrays[0].ndim
    dtype = promoted(*(a.dtype for a in arrays))
    shape = list(arrays[0].shape)
    shape[axis] = builtins.sum(a.shape[axis] for a in arrays)
    return Array(tuple(shape), dtype, Primitive("Concatenate", (axis,)), [astype(a, dtype) for a in arrays])


def gather(a: Array, index: Array, sizes: Shape) -> Array:
    """Along the first axis."""
    return Array(index.shape + sizes, a.dtype, Primitive("Gather", (sizes,)), (a, index))


def take(a: Array, index: Array) -> Array:
    """Along the first axis."""
    return squeeze(gather(a, index, (1, *a.shape[1:])), (index.ndim,))


def scatter_add(a: Array, index: Array, updates: Array) -> Array:
    """Along the first axis."""
    return Array(a.shape, a.dtype, Primitive("Scatter"), (a, index, astype(updates, a.dtype)))


def take_along_axis(a: Array, index: Array) -> Array:
    """Along the last axis."""
    inputs = broadcast_but((a, index), 1)
    return Array(inputs[1].shape, a.dtype, Primitive("GatherAxis"), inputs)


def matmul(a: Array, b: Array) -> Array:
    dtype = promoted(a.dtype, b.dtype)
    x, y = astype(a, dtype), astype(b, dtype)
    flattened = a.ndim > 2 and b.ndim == 2
    if flattened:
        x = flatten(x, 0, -2)
    elif a.ndim > 2 or b.ndim > 2:
        x, y = broadcast_but((x, y), 2)
    out = Array((*x.shape[:-1], y.shape[-1]), dtype, Primitive("Matmul"), (x, y))
    return unflatten(out, 0, a.shape[:-1]) if flattened else out


def addmm(c: Array, a: Array, b: Array) -> Array:
    dtype = promoted(a.dtype, b.dtype, c.dtype)
    x, y, z = astype(a, dtype), astype(b, dtype), astype(c, dtype)
    x = reshape(x, (-1, x.shape[-1]))
    z = broadcast_to(z, (x.shape[0], y.shape[1]))
    out = Array((x.shape[0], y.shape[1]), dtype, Primitive("AddMM"), (x, y, z))
    return reshape(out, (*a.shape[:-1], y.shape[1]))


def gather_mm(a: Array, b: Array, left: Array | None, right: Array | None, in_order: bool) -> Array:
    dtype = promoted(a.dtype, b.dtype)
    a, b = astype(a, dtype), astype(b, dtype)
    lhs, rhs = broadcast_arrays(*(_indices(given, of) for given, of in ((left, a), (right, b))))
    shape = (*lhs.shape, a.shape[-2], b.shape[-1])
    sides = in_order and right is None, in_order and left is None
    return Array(shape, dtype, Primitive("GatherMM", sides), (a, b, lhs, rhs))


def _indices(given: Array | None, of: Array) -> Array:
    if given is not None:
        return astype(given, "uint32")
    batch = of.shape[:-2]
    return reshape(arange(0, prod(batch), "uint32"), batch)


def quantized_matmul(x: Array, weight: Sequence[Array], transposed: bool, bits: int, group: int) -> Array:
    packed, scales, biases = weight
    dtype = promoted(x.dtype, scales.dtype)
    inputs = [astype(x, dtype), packed, astype(scales, dtype), astype(biases, dtype)]
    if x.ndim > 2 and packed.ndim > 2:
        inputs = broadcast_but(inputs, 2)
    columns = packed.shape[-2] if transposed else packed.shape[-1] * 32 // bits
    shape = (*inputs[0].shape[:-1], columns)
    return Array(shape, dtype, Primitive("QuantizedMatmul", (group, bits, transposed)), inputs)


def gather_qmm(
    x: Array, weight: Sequence[Array], right: Array, transposed: bool, bits: int, group: int, in_order: bool
) -> Array:
    packed, scales, biases = weight
    dtype = promoted(x.dtype, scales.dtype)
    lhs, rhs = broadcast_arrays(_indices(None, x), _indices(right, packed))
    columns = packed.shape[-2] if transposed else packed.shape[-1] * 32 // bits
    inputs = [astype(x, dtype), packed, astype(scales, dtype), astype(biases, dtype), lhs, rhs]
    primitive = Primitive("GatherQMM", (group, bits, transposed, in_order))
    return Array((*lhs.shape, x.shape[-2], columns), dtype, primitive, inputs)


def dequantize(weight: Sequence[Array], bits: int, group: int, metal: bool) -> Array:
    """One kernel on a GPU. On a CPU the shifts and sums of ``affine_dequantize``."""
    w, scales, biases = weight
    if metal:
        shape = (*w.shape[:-1], w.shape[-1] * 32 // bits)
        return Array(shape, scales.dtype, Primitive("Dequantize", (group, bits)), (w, scales, biases))
    rows = w.shape[:-1]
    if 32 % bits:
        found = binary("RightShift", expand_dims(w, -1), arange(0, 32, "uint32"))
        found = binary("BitwiseAnd", found, Array((1,), "uint32"))
        found = reshape(found, (*rows, -1, bits))
        found = sum(binary("LeftShift", found, arange(0, bits, "uint32")), -1)
    else:
        found = concatenate(_shifted(w, bits))
    found = reshape(found, (*rows, w.shape[-1] * 32 // bits // group, group))
    found = add(multiply(found, expand_dims(scales, -1)), expand_dims(biases, -1))
    return reshape(found, (*rows, w.shape[-1] * 32 // bits))


def _shifted(w: Array, bits: int) -> list[Array]:
    """The numbers in an integer, one array for each place."""
    return [
        expand_dims(
            binary(
                "RightShift", binary("LeftShift", w, scalar(32 - start - bits, "uint32")), scalar(32 - bits, "uint32")
            ),
            -1,
        )
        for start in range(0, 32, bits)
    ]
