"""``mx.compile``: a function's graph without what is there twice, and with elementwise primitives fused into one.

After ``mlx/compile.cpp``. What is fused has no memory of its own between its primitives. So the depth of 11 and the 24
inputs at which MLX stops to fuse, and the order in which it looks, decide bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .arrays import Array, Primitive, made

MAX_DEPTH, MAX_INPUTS = 11, 24
UNARY = frozenset({
    "Abs", "AsType", "Cos", "Cosh", "Erf", "Exp", "Floor", "Log", "Log1p", "LogicalNot", "Negative", "Round", "Rsqrt",
    "Sigmoid", "Sign", "Sin", "Sinh", "Sqrt", "Square", "Tan", "Tanh", "Expm1",
})  # fmt: skip
BINARY = frozenset({
    "Add", "BitwiseAnd", "Divide", "Equal", "Greater", "GreaterEqual", "LeftShift", "Less", "LessEqual", "LogicalAnd",
    "LogicalOr", "Maximum", "Minimum", "Multiply", "NotEqual", "Power", "RightShift", "Subtract",
})  # fmt: skip
FUSABLE = UNARY | BINARY | {"Select", "Broadcast"}

Parents = dict[int, list[tuple[Array, int]]]
"""By the id of an array those that take it, and as which input."""


def compiled(inputs: Sequence[Array], outputs: list[Array]) -> list[Array]:
    """The outputs of the compiled graph. Arrays of the graph are changed, as MLX changes them."""
    tape, parents = _depth_first(inputs, outputs)
    tape, outputs = _simplified(tape, parents, outputs)
    return _fused(tape, parents, inputs, outputs)


def _depth_first(inputs: Sequence[Array], outputs: Sequence[Array]) -> tuple[list[Array], Parents]:
    tape: list[Array] = []
    parents: Parents = {}
    seen: set[int] = set()
    given = {id(x) for x in inputs}
    for out in outputs:
        if id(out) in seen:
            continue
        stack = [(out, 0)]
        while stack:
            node, index = stack.pop()
            if index == 0 and id(node) in seen:
                continue
            if index < len(node.inputs):
                stack.append((node, index + 1))
                child = node.inputs[index]
                others = [sibling for sibling in node.outputs if sibling is not node]
                parents.setdefault(id(child), []).extend((parent, index) for parent in (node, *others))
                if id(node) not in given and id(child) not in seen:
                    stack.append((child, 0))
                continue
            if id(node) not in seen:
                seen.update(id(output) for output in node.outputs)
                tape.append(node)
    return tape, parents


def _merge_one(into: Array, gone: Array, parents: Parents) -> None:
    """Whatever takes ``gone`` takes ``into``."""
    if id(gone) not in parents:
        return
    moved = parents[id(gone)]
    pairs = parents.setdefault(id(into), [])
    for parent, index in moved:
        parent.inputs[index] = into
        pairs.append((parent, index))
    parents[id(into)] = [pair for pair in pairs if pair[0] is not gone]
    del parents[id(gone)]


def _merge(into: Array, gone: Array, parents: Parents) -> None:
    for one, other in zip(into.outputs, gone.outputs, strict=True):
        _merge_one(one, other, parents)


def _alike(a: Array, b: Array) -> bool:
    p, q = a.primitive, b.primitive
    return (
        p is not None
        and q is not None
        and p is not q
        and p.name == q.name
        and len(a.inputs) == len(b.inputs)
        and all(x is y for x, y in zip(a.inputs, b.inputs, strict=True))
        and p.attributes == q.attributes
    )


def _simplified(tape: list[Array], parents: Parents, outputs: list[Array]) -> tuple[list[Array], list[Array]]:
    """Merge equal numbers, drop copies, and merge what is computed twice in three passes."""
    numbers: dict[tuple[float, str], Array] = {}
    for node in tape:
        if node.value is not None:
            numbers.setdefault((node.value, node.dtype), node)
    kept = []
    renamed = {id(out): out for out in outputs}
    for node in tape:
        if node.value is not None and numbers[node.value, node.dtype] is not node:
            _merge(numbers[node.value, node.dtype], node, parents)
        else:
            kept.append(node)
    tape, kept = kept, []
    for node in tape:
        if node.name in ("Copy", "StopGradient"):
            _merge_one(node.inputs[0], node, parents)
            if id(node) in renamed:
                renamed[id(node)] = node.inputs[0]
        else:
            kept.append(node)
    tape = kept
    outputs = [renamed[id(out)] for out in outputs]
    order = {id(node): i for i, node in enumerate(tape)}
    final = {id(out) for out in outputs}
    for _ in range(3):
        kept = []
        for node in tape:
            gone = True
            for out in node.outputs:
                if id(out) in parents:
                    gone = False
                    _merge_parents(out, parents, order, final)
                elif id(out) in final:
                    gone = False
            if not gone:
                kept.append(node)
        tape = kept
    return tape, outputs


def _merge_parents(node: Array, parents: Parents, order: dict[int, int], final: set[int]) -> None:
    """Merge those that take an array and are alike."""
    pairs = parents[id(node)]
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i, (parent, _) in enumerate(pairs):
        if parent.primitive is not None:
            # Of more than a hundred, those that become alike by a merger are left for the next pass, as in MLX.
            taken = tuple(map(id, parent.inputs)) if len(pairs) > 100 else len(parent.inputs)
            groups.setdefault((parent.primitive.name, taken), []).append(i)
    gone: set[int] = set()
    for group in groups.values():
        for position, i in enumerate(group):
            if i in gone:
                continue
            for j in group[position + 1 :]:
                if j in gone:
                    continue
                into, out = i, j
                if order.get(id(pairs[out][0]), 0) < order.get(id(pairs[into][0]), 0):
                    into, out = out, into
                a, b = pairs[into][0], pairs[out][0]
                if a is not b and _alike(b, a) and id(b) not in final:
                    _merge(a, b, parents)
                    gone.add(out)
    if gone and id(node) in parents:
        parents[id(node)] = [pair for i, pair in enumerate(parents[id(node)]) if i not in gone]


def _fused(tape: list[Array], parents: Parents, inputs: Sequence[Array], outputs: list[Array]) -> list[Array]:
    """Put one primitive in place of those that can be fused, from the end of the tape to its start."""
    renamed = {id(out): out for out in outputs}
    given = {id(x) for x in inputs}
    done: set[int] = set()
    for node in reversed(tape):
        if id(node) in done or node.primitive is None or node.name == "Broadcast":
            continue
        inside: dict[int, Array] = {}
        _collect(node, inside, parents, renamed)
        if len(inside) > 1:
            _fuse(node, inside, parents, renamed, given, done)
    return [renamed[id(out)] for out in outputs]


def _collect(node: Array, inside: dict[int, Array], parents: Parents, renamed: dict[int, Array]) -> None:
    """Which arrays are computed inside the fused one that ends in ``node``."""
    edge: set[int] = set()

    def visit(a: Array, depth: int) -> None:
        key = id(a)
        if key in inside:
            return
        if (
            depth >= MAX_DEPTH
            or a.primitive is None
            or a.name not in FUSABLE
            or (key in renamed and a.shape != node.shape)
        ):
            edge.add(key)
            return
        if depth and not all(id(parent) in inside for parent, _ in parents[key]):
            if a.name == "Broadcast" and len(edge) < MAX_INPUTS:
                visit(_split_one(a, parents, inside), depth)
            else:
                edge.add(key)
            return
        if key in renamed:
            edge.add(key)
        else:
            edge.discard(key)
        if len(edge) >= MAX_INPUTS:
            return
        inside[key] = a
        for x in list(a.inputs):
            visit(x, depth + 1)

    visit(node, 0)


def _split_one(a: Array, parents: Parents, inside: dict[int, Array]) -> Array:
    """A broadcast that is also needed outside: a copy of it for those inside."""
    copy = Array(a.shape, a.dtype, a.primitive, a.inputs)
    mine, others = [], []
    for parent, index in parents[id(a)]:
        if id(parent) in inside:
            parent.inputs[index] = copy
            mine.append((parent, index))
        else:
            others.append((parent, index))
    parents[id(a)] = others
    parents[id(copy)] = mine
    return copy


def _fuse(
    node: Array,
    inside: dict[int, Array],
    parents: Parents,
    renamed: dict[int, Array],
    given: set[int],
    done: set[int],
) -> None:
    inputs: list[Array] = []
    order: list[Array] = []
    seen: set[int] = set()

    def visit(a: Array) -> None:
        if id(a) in seen:
            return
        seen.add(id(a))
        if id(a) not in inside:
            inputs.append(a)
            return
        for x in a.inputs:
            visit(x)
        order.append(a)

    visit(node)
    results = []
    for a in order[:-1]:
        if id(a) in renamed:
            results.append(a)
            parents[id(a)] = [pair for pair in parents[id(a)] if id(pair[0]) not in inside]
        else:
            parents.pop(id(a), None)
        done.add(id(a))
    results.append(node)
    constants = frozenset(i for i, x in enumerate(inputs) if x.size == 1 and x.primitive is None and id(x) not in given)
    primitive = Primitive("Compiled", (constants, "".join(a.name for a in order)))
    new = made(primitive, inputs, [a.shape for a in results], [a.dtype for a in results])
    for i, x in enumerate(inputs):
        pairs = [pair for pair in parents.get(id(x), ()) if id(pair[0]) not in inside]
        parents[id(x)] = pairs + [(out, i) for out in new]
    for out, old in zip(new, results, strict=True):
        _merge_one(out, old, parents)
        if id(old) in renamed:
            renamed[id(old)] = out
