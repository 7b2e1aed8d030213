"""Gradients of MLX's primitives, its allocators and its streams. Witness: the calculus and MLX's sources, by hand."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from estimator.engines.devices import find
from estimator.engines.mlx import arrays as mx
from estimator.engines.mlx.arrays import Array
from estimator.engines.mlx.evaluation import DISPATCHES_PER_TASK, MAX_ACTIVE_TASKS, Allocator, Stream, contiguity
from estimator.engines.mlx.gradients import VJPS, vjp
from estimator.engines.mlx.metal import MetalAllocator, MetalStream, limits_of
from estimator.engines.mlx.training import default_loss

MIB = 2**20
A, B = Array((2, 3, 4), "float32"), Array((2, 3, 4), "float32")


def called(found: Array) -> str:
    """The primitives that make an array, outermost first, as calls. ``a`` and ``b`` are operands, ``g`` a cotangent."""
    if found.primitive is None:
        return {id(A): "a", id(B): "b"}.get(id(found), "g" if found.value is None else str(found.value))
    inputs = [*dict.fromkeys(map(called, found.inputs))] if found.name == "Broadcast" else [*map(called, found.inputs)]
    return inputs[0] if found.name in ("Broadcast", "AsType") else f"{found.name}({', '.join(inputs)})"


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (mx.add(A, B), ["g", "g"]),
        (mx.subtract(A, B), ["g", "Negative(g)"]),
        (mx.multiply(A, B), ["Multiply(b, g)", "Multiply(a, g)"]),
        (mx.divide(A, B), ["Divide(g, b)", "Negative(Divide(Multiply(g, a), Square(b)))"]),
        (mx.binary("Maximum", A, B), ["Multiply(g, Greater(a, b))", "Multiply(g, LessEqual(a, b))"]),
        (mx.binary("Minimum", A, B), ["Multiply(g, Less(a, b))", "Multiply(g, GreaterEqual(a, b))"]),
        (mx.unary("Exp", A), ["Multiply(g, Exp(a))"]),
        (mx.unary("Square", A), ["Multiply(a, Multiply(2.0, g))"]),
        (mx.unary("Tanh", A), ["Divide(g, Square(Cosh(a)))"]),
        (mx.unary("Sqrt", A), ["Divide(Multiply(0.5, g), Sqrt(a))"]),
        (mx.unary("Rsqrt", A), ["Multiply(Multiply(-0.5, g), Divide(Rsqrt(a), a))"]),
        (mx.unary("Sigmoid", A), ["Multiply(g, Multiply(Sigmoid(a), Subtract(1.0, Sigmoid(a))))"]),
    ],
    ids=lambda one: one.name if isinstance(one, Array) else "",
)
def test_gradients_of_single_elements(node: Array, expected: list[str]) -> None:
    """By the calculus, from what the graph keeps: operands and results."""
    cotangent = Array(node.shape, node.dtype)
    found = VJPS[node.name](node, [cotangent], [*range(len(node.inputs))])
    assert [called(one) for one in found] == expected
    assert [VJPS[node.name](node, [cotangent], [i])[0].shape for i in range(len(node.inputs))] == [A.shape] * len(found)


def test_results_that_are_stopped_or_given_have_no_gradient() -> None:
    """By hand: cotangents are of the other results, in their order, those that are no call among them."""
    given, first, second = Array((2, 3, 4), "float32"), Array(A.shape, A.dtype), Array(A.shape, A.dtype)
    outputs, (gradient,) = vjp(
        lambda xs: [mx.stop_gradient(xs[0]), given, mx.multiply(*xs)], [A, B], [first, second], [1]
    )
    assert [out.shape for out in outputs] == [A.shape] * 3
    assert gradient.name == "Multiply"
    assert second in gradient.inputs
    assert vjp(lambda xs: [mx.stop_gradient(xs[0])], [A], [first])[1][0].name != "Multiply"


def nodes(array: Array) -> dict[str, Array]:
    """The arrays that one is made from, by their primitives; of those alike the last that is found."""
    return {name: one for source in array.inputs for name, one in nodes(source).items()} | {array.name: array}


def test_the_loss_is_of_the_next_tokens() -> None:
    """By hand, after ``tuner/trainer.py: default_loss``: seven of eight tokens are asked about, from the second on."""
    given: list[Array] = []

    def model(inputs: Array) -> Array:
        given.append(inputs)
        return Array((*inputs.shape, 11), "bfloat16")

    called: Any = model
    called.setting = SimpleNamespace(metal=True)
    loss, count = default_loss(called, Array((2, 8), "int32"), Array((2, 2), "int32"))
    assert (given[0].shape, loss.shape, loss.dtype, count.shape) == ((2, 7), (), "float32", ())
    found = nodes(loss)
    assert [one.shape for one in found["CrossEntropy"].inputs] == [(2, 7, 11), (2, 7)]
    assert found["Arange"].primitive is not None
    assert (found["Arange"].primitive.attributes, found["Arange"].shape) == ((1, 8, 1), (7,))
    assert {found["GreaterEqual"].shape, found["LessEqual"].shape, found["LogicalAnd"].shape} == {(2, 7)}


COLUMN, INDEX = Array((2, 1, 4), "float32"), Array((5,), "int32")


@pytest.mark.parametrize(
    ("node", "shapes"),
    [
        (mx.transpose(A, (2, 0, 1)), [(2, 3, 4)]),
        (mx.expand_dims(A, 1), [(2, 3, 4)]),
        (mx.squeeze(COLUMN, (1,)), [(2, 1, 4)]),
        (mx.flatten(A, 0, 1), [(2, 3, 4)]),
        (mx.unflatten(A, 2, (2, 2)), [(2, 3, 4)]),
        (mx.sum(A, (0, 2)), [(1, 3, 1)]),
        (mx.sum(A, 1, keepdims=True), [(2, 3, 4)]),
        (mx.broadcast_to(COLUMN, (7, 2, 3, 4)), [(2, 1, 4)]),
        (mx.concatenate([A, COLUMN], 1), [(2, 3, 4), (2, 1, 4)]),
        (mx.slice(A, (0, 1, 0), (2, 3, 2)), [(2, 3, 4)]),
        (mx.slice_update(A, COLUMN, (0, 1, 0), (2, 2, 4)), [(2, 3, 4), (2, 1, 4)]),
        (mx.softmax(A), [(2, 3, 4)]),
        (mx.logsumexp(A), [(2, 3, 1)]),
        (mx.logsumexp(A).inputs[0], [(2, 3, 4)]),
        (mx.reduce("Max", A, [2], keepdims=True), [(2, 3, 4)]),
        (mx.matmul(A, mx.swapaxes(B, -1, -2)), [(2, 3, 4), (2, 4, 3)]),
    ],
    ids=lambda one: one.name if isinstance(one, Array) else "",
)
def test_a_gradient_has_its_operand_s_shape(node: Array, shapes: list[tuple[int, ...]]) -> None:
    cotangent = Array(node.shape, node.dtype)
    for i, shape in enumerate(shapes):
        (found,) = VJPS[node.name](node, [cotangent], [i])
        assert (found.shape, found.dtype) == (shape, "float32")


def test_rows_that_were_taken_are_added_up() -> None:
    """What was gathered has a gradient of zeros, into which rows are scattered (``Gather::vjp``)."""
    table = Array((9, 4), "float32")
    node = mx.take(table, INDEX)
    while node.name != "Gather":
        node = node.inputs[0]
    (found,) = VJPS["Gather"](node, [Array(node.shape, "float32")], [0])
    assert found.shape == (9, 4)
    assert found.inputs[1] is node.inputs[1]


@pytest.mark.parametrize(
    ("shape", "strides", "expected"),
    [
        ((2, 3, 4), (12, 4, 1), (24, True, False)),
        ((2, 3, 4), (1, 2, 6), (24, False, True)),
        ((2, 3, 4), (12, 0, 1), (8, False, False)),
        ((1, 1, 4), (4, 4, 1), (4, True, True)),
        ((4, 1), (1, 9), (4, True, True)),
        ((2, 3), (4, 1), (6, False, False)),
        ((), (), (1, True, True)),
    ],
)
def test_contiguity(shape: tuple[int, ...], strides: tuple[int, ...], expected: tuple[int, bool, bool]) -> None:
    """``backend/common/utils.h: check_contiguity``: elements without repetition, in the order of rows, of columns."""
    assert contiguity(shape, strides) == expected


def test_buffers_that_were_freed_are_given_again() -> None:
    """The smallest that is large enough, unless it is twice as large or has two pages more; up to 32 MiB are kept."""
    allocator = Allocator()
    held = [allocator.malloc(size) for size in (5000, 9000, 300)]
    assert (allocator.active, allocator.peak, allocator.cached) == (14300, 14300, 0)
    for one in held:
        allocator.free(one.nbytes)
    assert (allocator.active, allocator.peak, allocator.cached) == (0, 14300, 14300)
    assert allocator.malloc(4600).nbytes == 5000
    assert allocator.malloc(4501).nbytes == 9000
    assert allocator.malloc(150).nbytes == 150  # 300 is twice as much
    assert allocator.malloc(151).nbytes == 300
    assert (allocator.active, allocator.cached) == (14450, 0)
    large = Allocator()
    large.free(large.malloc(100_000).nbytes)
    assert large.malloc(100_000 - 2 * 4096).nbytes == 100_000 - 2 * 4096
    assert large.malloc(100_000 - 2 * 4096 + 1).nbytes == 100_000
    for size, kept in ((32 * MIB, 32 * MIB), (1, 32 * MIB), (0, 32 * MIB)):
        large.free(large.malloc(size).nbytes)
        assert large.cached == kept
    large.clear()
    assert (large.cached, large.malloc(20 * MIB).nbytes) == (0, 20 * MIB)


def test_a_buffer_is_freed_with_its_last_holder() -> None:
    allocator = Allocator()
    data = allocator.malloc(64)
    data.holders = 2
    allocator.release(data)
    assert allocator.active == 64
    allocator.release(data)
    assert allocator.active == 0


def test_metal_rounds_to_pages_and_keeps_all() -> None:
    allocator = MetalAllocator()
    assert [allocator.rounded(size) for size in (1, 16384, 16385, 50000)] == [1, 16384, 32768, 65536]
    allocator.free(allocator.malloc(3 << 30).nbytes)
    assert allocator.cached == 3 << 30


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("iphone-15", (20, 40)),
        ("apple-m1-16gb", (40, 40)),
        ("apple-m1-max-32gb", (50, 50)),
        ("apple-m1-ultra-64gb", (50, 50)),
        ("apple-m3-pro-18gb", (40, 40)),
    ],
)
def test_a_command_buffer_ends_with_enough_operations_or_elements(name: str, limits: tuple[int, int]) -> None:
    """``device.cpp: get_max_ops_mb_per_buffer``, ``needs_commit``: more operations than these, or more MiB of elements
    of primitives that ran something."""
    device = find(name)
    assert limits_of(device) == limits
    stream = MetalStream(Allocator(), device)
    for tasks in range(2):
        for _ in range(limits[0] + 1):
            assert stream.tasks == tasks
            stream.dispatch()
            stream.dispatch(used=1)
    assert stream.tasks == 2
    stream = MetalStream(Allocator(), device)
    stream.dispatch(used=1000 * MIB)  # of a view, which runs nothing
    assert stream.tasks == 0
    stream.dispatch()
    stream.dispatch(used=limits[1] * MIB + MIB - 1)
    assert stream.tasks == 0
    stream.dispatch()
    stream.dispatch(used=1)
    assert stream.tasks == 1
    assert [ends for _, ends in stream.queue] == [False, False, True]


def test_a_stream_is_as_slow_as_can_be() -> None:
    """A task is so many dispatches. What they hold is released once it is waited for, and at most so many are open."""
    allocator = Allocator()
    stream = Stream(allocator)

    def filled() -> None:
        for i in range(DISPATCHES_PER_TASK):
            held = [allocator.malloc(8)] if not i else []
            for data in held:
                data.holders = 1
            stream.dispatch(held)

    for tasks in range(1, MAX_ACTIVE_TASKS + 1):
        filled()
        stream.wait()
        assert (stream.tasks, allocator.active) == (tasks, 8 * tasks)
    filled()
    stream.wait()
    assert (stream.tasks, allocator.active) == (MAX_ACTIVE_TASKS, 8 * MAX_ACTIVE_TASKS)
    stream.synchronize()
    assert (stream.tasks, allocator.active, len(stream.queue)) == (0, 0, 0)


def test_shapes_of_joined_and_cut_arrays() -> None:
    """By hand, as NumPy has them."""
    found: list[tuple[Callable[[], Array], tuple[int, ...]]] = [
        (lambda: mx.concatenate([A, COLUMN], 1), (2, 4, 4)),
        (lambda: mx.expand_dims(A, (0, -1)), (1, 2, 3, 4, 1)),
        (lambda: mx.flatten(A, 1), (2, 12)),
        (lambda: mx.mean(A, -1), (2, 3)),
        (lambda: mx.slice_axis(A, -1, 1, 3), (2, 3, 2)),
        (lambda: mx.addmm(Array((4,), "float32"), A, Array((4, 4), "float32")), (2, 3, 4)),
        (lambda: mx.split(A, [1], -1)[1], (2, 3, 3)),
        (lambda: mx.swapaxes(A, 0, -1), (4, 3, 2)),
    ]
    assert [make().shape for make, _ in found] == [shape for _, shape in found]
