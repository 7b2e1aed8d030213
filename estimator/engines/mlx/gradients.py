"""Gradients: of each primitive the vector-Jacobian product of ``mlx/primitives.cpp``, and ``transforms.cpp: vjp``.

A gradient is more nodes of the graph, made in MLX's order. Nothing is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .arrays import (
    Array,
    Primitive,
    add,
    astype,
    binary,
    broadcast_arrays,
    concatenate,
    depends,
    divide,
    expand_dims,
    flatten,
    full,
    gather_mm,
    gather_qmm,
    made,
    matmul,
    multiply,
    power,
    quantized_matmul,
    reshape,
    scalar,
    scatter_add,
    slice,
    slice_axis,
    slice_update,
    softmax,
    squeeze,
    stop_gradient,
    subtract,
    sum,
    swapaxes,
    take_along_axis,
    transpose,
    unary,
    unflatten,
    zeros_like,
)

Function = Callable[[list[Array]], list[Array]]


def vjp(
    function: Function, primals: Sequence[Array], cotangents: Sequence[Array], wanted: Sequence[int] | None = None
) -> tuple[list[Array], list[Array]]:
    """What a function gives, and the gradients of the primals that are wanted; of all, if none are named."""
    inputs = [unary("Copy", source(primal)) for primal in primals]
    wanted = range(len(inputs)) if wanted is None else wanted
    outputs = function(inputs)
    leads = [out for out in outputs if out.primitive is None or out.primitive.name != "StopGradient"]
    needed = {id(inputs[i]) for i in wanted}
    tape = _tape(outputs, {id(x) for x in inputs}, needed)
    found: dict[int, Array] = {
        id(out): astype(cotangent, out.dtype) for out, cotangent in zip(leads, cotangents, strict=False)
    }
    for node in reversed(tape):
        which = [i for i, x in enumerate(node.inputs) if id(x) in needed]
        if not any(id(out) in found for out in node.outputs):
            continue
        incoming = [found.pop(id(out)) if id(out) in found else zeros_like(out) for out in node.outputs]
        for i, gradient in zip(which, _vjp_of(node, incoming, which), strict=True):
            key = id(node.inputs[i])
            found[key] = add(found[key], gradient) if key in found else gradient
    return outputs, [found[id(inputs[i])] if id(inputs[i]) in found else zeros_like(inputs[i]) for i in wanted]


def source(a: Array) -> Array:
    """A primal of an earlier transformation is taken itself, not its copy (``make_tracer``)."""
    return a


def _tape(outputs: Sequence[Array], seen: set[int], needed: set[int]) -> list[Array]:
    """The nodes that need a gradient, inputs first. ``needed`` is filled in."""
    tape: list[Array] = []
    stack: list[tuple[Array, int]] = []

    def enter(node: Array) -> None:
        if id(node) not in seen:
            seen.update(id(out) for out in node.outputs)
            stack.append((node, 0))

    for out in outputs:
        enter(out)
        while stack:
            node, index = stack.pop()
            if index < len(node.inputs):
                stack.append((node, index + 1))
                enter(node.inputs[index])
            elif node.name == "StopGradient":
                continue
            elif any(id(x) in needed for x in node.inputs):
                tape.append(node)
                needed.update(id(out) for out in node.outputs)
    return tape


def checkpoint(function: Function, inputs: list[Array]) -> list[Array]:
    """``mx.checkpoint``: the outputs, whose gradient runs the function again once they are there."""

    def again(primals: list[Array], cotangents: list[Array], outputs: list[Array]) -> list[Array]:
        return vjp(function, depends(primals, outputs), cotangents)[1]

    outputs = [stop_gradient(out) for out in function(inputs)]
    primitive = Primitive("CustomTransforms", (id(outputs[0]),), again)
    return made(primitive, [*inputs, *outputs], [x.shape for x in outputs], [x.dtype for x in outputs])


def _vjp_of(node: Array, cotangents: list[Array], wanted: list[int]) -> list[Array]:
    assert node.primitive is not None
    name = node.name
    if name == "CustomTransforms":
        count = len(node.outputs)
        found = node.primitive.vjp(node.inputs[:-count], cotangents, list(node.outputs)) + cotangents
        return [found[i] for i in wanted]
    if node.primitive.vjp is not None:
        found = node.primitive.vjp(node, cotangents)
        return [found[i] for i in wanted]
    return VJPS[name](node, cotangents, wanted)


def _broadcast(node: Array, cotangents: list[Array], wanted: list[int]) -> list[Array]:
    shape, cotangent = node.inputs[0].shape, cotangents[0]
    more = cotangent.ndim - len(shape)
    axes = [*range(more), *(i for i in range(more, cotangent.ndim) if shape[i - more] != cotangent.shape[i])]
    return [squeeze(sum(cotangent, axes, keepdims=True), range(more))]


def _concatenate(node: Array, cotangents: list[Array], wanted: list[int]) -> list[Array]:
    (axis,) = node.attributes
    ends = [0]
    for x in node.inputs:
        ends.append(ends[-1] + x.shape[axis])
    return [slice_axis(cotangents[0], axis, ends[i], ends[i + 1]) for i in wanted]


def _divide(node: Array, cotangents: list[Array], wanted: list[int]) -> list[Array]:
    a, b = node.inputs
    return [
        divide(cotangents[0], b)
        if i == 0
        else unary("Negative", divide(multiply(cotangents[0], a), unary("Square", b)))
        for i in wanted
    ]


def _extreme(names: tuple[str, str]) -> Callable[[Array, list[Array], list[int]], list[Array]]:
    def rule(node: Array, cotangents: list[Array], wanted: list[int]) -> list[Array]:
        return [multiply(cotangents[0], binary(names[i], node.inputs[0], node.inputs[1], "bool")) for i in wanted]

    return rule


def _flatten(node: Array, cotangents: list[Array], wanted: list[int]) -> list[Array]:
    start, end = node.attributes
    return [unflatten(cotangents[0], start, node.inputs[0].shape[start : end + 1])]


def _gather(node: Array, cotangents: list[Array], wanted: list[int]) -> list[Array]:
    return [scatter_add(zeros_like(node.inputs[0]), node.inputs[1], cotangents[0])]


def _gather_axis(node: Array, cotangents: list[Array], wanted: list[int]) -> list[Array]:
    a, index = node.inputs
    return [Array(a.shape, a.dtype, Primitive("ScatterAxis"), (zeros_like(a), index, cotangents[0]))]


def _into_place(x: Array, lhs: Array, gradient: Array) -> Array:
    """The gradient of rows that were gathered more than once."""
    into = scatter_add(flatten(zeros_like(x), 0, -3), lhs, expand_dims(gradient, -3))
    return reshape(into, x.shape)


def _gather_mm(node: Array, cotangents: list[Array], wanted: list[int]) -> list[Array]:
    a, b, lhs, rhs = node.inputs
    (cotangent,) = cotangents
    in_order = any(node.attributes)
    found = []
    for i in wanted:
        if i == 0:
            gradient = gather_mm(cotangent, swapaxes(b, -1, -2), None, rhs, in_order)
            once = rhs.size * cotangent.shape[-2] * a.shape[-1] == a.size
            found.append(gradient if in_order and once else _into_place(a, lhs, gradient))
        else:
            found.append(swapaxes(_gather_mm_grad(a, cotangent, lhs, rhs, in_order, b.shape[:-2]), -1, -2))
    return found


def _gather_mm_grad(x: Array, dy: Array, lhs: Array, rhs: Array, in_order: bool, batch: tuple[int, ...]) -> Array:
    count = 1
    for size in batch:
        count *= size
    rows, columns = dy.shape[-1], x.shape[-1]
    if in_order:
        segments = full((count,), 0, "uint32")
        ones = broadcast_arrays(scalar(x.shape[-2], "uint32"), rhs)[0]
        segments = Array(segments.shape, "uint32", Primitive("ScatterAxis"), (segments, rhs, ones))
        segments = Array(segments.shape, "uint32", Primitive("CumSum"), (segments,))
        segments = concatenate([Array((1,), "uint32"), segments], 0)
        segments = Array((count, 2), "uint32", Primitive("AsStrided"), (segments,))
        left, right = swapaxes(flatten(dy, 0, -2), 0, 1), flatten(x, 0, -2)
        found = Array((count, rows, columns), x.dtype, Primitive("SegmentedMM"), (left, right, segments))
        return reshape(found, (*batch, rows, columns))
    dw = gather_mm(swapaxes(dy, -1, -2), x, None, lhs, False)
    found = scatter_add(full((count, rows, columns), 0, dw.dtype), rhs, expand_dims(dw, -3))
    return reshape(found, (*batch, rows, columns))


def _gather_qmm(node: Array, cotangents: list[Array], wanted: list[int]) -> list[Array]:
    x, *weight, lhs, rhs = node.inputs
    group, bits, transposed, in_order = node.attributes
    gradient = gather_qmm(cotangents[0], weight, rhs, not transposed, bits, group, in_order)
    once = rhs.size * cotangents[0].shape[-2] * x.shape[-1] == x.size
    return [gradient if in_order and once else _into_place(x, lhs, gradient)]


def _matmul(node: Array, cotangents: list[Array], wanted: list[int]) -> list[Array]:
    a, b = node.inputs[:2]
    (cotangent,) = cotangents
    rules: list[Callable[[], Array]] = [
        lambda: matmul(cotangent, swapaxes(b, -1, -2)),
        lambda: matmul(swapaxes(a, -1, -2), cotangent),
        lambda: cotangent,  # of addmm
    ]
    return [rules[i]() for i in wanted]


def _max(node: Array, cotangents: list[Array], wanted: list[int]) -> list[Array]:
    (x,), out = node.inputs, node
    axes = node.attributes
    mask = binary("Equal", x, out, "bool")
    return [multiply(divide(cotangents[0], sum(mask, axes, keepdims=True)), mask)]


def _multiply(node: Array, cotangents: list[Array], wanted: list[int]) -> list[Array]:
    return [multiply(node.inputs[1 - i], cotangents[0]) for i in wanted]


def _power(node: Array, cotangents: list[Array], wanted: list[int]) -> list[Array]:
    a, b = node.inputs
    assert wanted == [0]
    lower = subtract(b, scalar(1, a.dtype))
    return [multiply(cotangents[0], multiply(power(a, lower), b))]


def _quantized_matmul(node: Array, cotangents: list[Array], wanted: list[int]) -> list[Array]:
    group, bits, transposed = node.attributes
    assert wanted == [0]
    return [quantized_matmul(cotangents[0], node.inputs[1:], not transposed, bits, group)]


def _select(node: Array, cotangents: list[Array], wanted: list[int]) -> list[Array]:
    condition = node.inputs[0]
    found = []
    for i in wanted:
        mask = condition if i == 1 else unary("LogicalNot", condition)
        found.append(multiply(astype(mask, cotangents[0].dtype), cotangents[0]))
    return found


def _sigmoid(node: Array, cotangents: list[Array], wanted: list[int]) -> list[Array]:
    return [multiply(cotangents[0], multiply(node, subtract(scalar(1, node.dtype), node)))]


def _softmax(node: Array, cotangents: list[Array], wanted: list[int]) -> list[Array]:
    product = multiply(node, cotangents[0])
    return [subtract(product, multiply(node, sum(product, -1, keepdims=True)))]


def _slice(node: Array, cotangents: list[Array], wanted: list[int]) -> list[Array]:
    return [slice_update(zeros_like(node.inputs[0]), cotangents[0], *node.attributes)]


def _slice_update(node: Array, cotangents: list[Array], wanted: list[int]) -> list[Array]:
    start, stop = node.attributes
    (cotangent,) = cotangents
    rules: list[Callable[[], Array]] = [
        lambda: Array(cotangent.shape, cotangent.dtype, node.primitive, (cotangent, zeros_like(node.inputs[1]))),
        lambda: slice(cotangent, start, stop),
    ]
    return [rules[i]() for i in wanted]


def _transpose(node: Array, cotangents: list[Array], wanted: list[int]) -> list[Array]:
    (axes,) = node.attributes
    back = [0] * len(axes)
    for i, axis in enumerate(axes):
        back[axis] = i
    return [transpose(cotangents[0], back)]


def _tanh(node: Array, cotangents: list[Array], wanted: list[int]) -> list[Array]:
    (x,) = node.inputs
    return [divide(cotangents[0], unary("Square", unary("Cosh", x)))]


def _root(node: Array, cotangents: list[Array], wanted: list[int]) -> list[Array]:
    (x,) = node.inputs
    if node.name == "Rsqrt":
        return [multiply(multiply(scalar(-0.5, x.dtype), cotangents[0]), divide(node, x))]
    return [divide(multiply(scalar(0.5, x.dtype), cotangents[0]), node)]


VJPS: dict[str, Callable[[Array, list[Array], list[int]], list[Array]]] = {
    "Add": lambda node, cotangents, wanted: cotangents * len(wanted),
    "AddMM": _matmul,
    "AsType": lambda node, cotangents, wanted: [astype(cotangents[0], node.inputs[0].dtype)],
    "Broadcast": _broadcast,
    "Concatenate": _concatenate,
    "Copy": lambda node, cotangents, wanted: cotangents,
    "Depends": lambda node, cotangents, wanted: [
        cotangents[i] if i < len(cotangents) else zeros_like(node.inputs[i]) for i in wanted
    ],
    "Divide": _divide,
    "Exp": lambda node, cotangents, wanted: [multiply(cotangents[0], node)],
    "ExpandDims": lambda node, cotangents, wanted: [squeeze(cotangents[0], node.attributes[0])],
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherAxis": _gather_axis,
    "GatherMM": _gather_mm,
    "GatherQMM": _gather_qmm,
    "LogSumExp": lambda node, cotangents, wanted: [multiply(cotangents[0], softmax(node.inputs[0]))],
    "Matmul": _matmul,
    "Max": _max,
    "Maximum": _extreme(("Greater", "LessEqual")),
    "Minimum": _extreme(("Less", "GreaterEqual")),
    "Multiply": _multiply,
    "Negative": lambda node, cotangents, wanted: [unary("Negative", cotangents[0])],
    "Power": _power,
    "QuantizedMatmul": _quantized_matmul,
    "Reshape": lambda node, cotangents, wanted: [reshape(cotangents[0], node.inputs[0].shape)],
    "Rsqrt": _root,
    "ScatterAxis": lambda node, cotangents, wanted: [
        cotangents[0] if i == 0 else take_along_axis(cotangents[0], node.inputs[1]) for i in wanted
    ],
    "Select": _select,
    "Sigmoid": _sigmoid,
    "Slice": _slice,
    "SliceUpdate": _slice_update,
    "Softmax": _softmax,
    "Split": lambda node, cotangents, wanted: [concatenate(cotangents, node.attributes[1])],
    "Sqrt": _root,
    "Square": lambda node, cotangents, wanted: [
        multiply(node.inputs[0], multiply(scalar(2, node.dtype), cotangents[0]))
    ],
    "Squeeze": lambda node, cotangents, wanted: [expand_dims(cotangents[0], node.attributes[0])],
    "Subtract": lambda node, cotangents, wanted: [
        cotangents[0] if i == 0 else unary("Negative", cotangents[0]) for i in wanted
    ],
    "Sum": lambda node, cotangents, wanted: [broadcast_arrays(cotangents[0], node.inputs[0])[0]],
    "Tanh": _tanh,
    "Transpose": _transpose,
    "Unflatten": lambda node, cotangents, wanted: [
        flatten(
            cotangents[0],
            node.attributes[0],
            node.attributes[0] + len(node.attributes[1]) - 1,
        )
    ],
}
"""Rules of gradients. Of comparisons, sorting and indices there is none, since nothing asks for theirs."""
