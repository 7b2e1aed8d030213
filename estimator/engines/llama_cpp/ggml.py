"""ggml's types, tensors and graphs: shapes and lifetimes, without data.

After ``ggml/src/ggml.c`` of the builds in ``builds.py``: the type, shape and sources of each operator's result, and
the order in which a graph visits its tensors. ``allocator.py`` replays the graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod

Shape = tuple[int, int, int, int]

TYPES: dict[str, tuple[int, int]] = {
    "f32": (1, 4), "f16": (1, 2), "bf16": (1, 2), "f64": (1, 8), "i8": (1, 1), "i16": (1, 2), "i32": (1, 4),
    "i64": (1, 8), "q4_0": (32, 18), "q4_1": (32, 20), "q5_0": (32, 22), "q5_1": (32, 24), "q8_0": (32, 34),
    "q8_1": (32, 36), "q2_k": (256, 84), "q3_k": (256, 110), "q4_k": (256, 144), "q5_k": (256, 176),
    "q6_k": (256, 210), "q8_k": (256, 292), "iq1_s": (256, 50), "iq1_m": (256, 56), "iq2_xxs": (256, 66),
    "iq2_xs": (256, 74), "iq2_s": (256, 82), "iq3_xxs": (256, 98), "iq3_s": (256, 110), "iq4_nl": (32, 18),
    "iq4_xs": (256, 136), "tq1_0": (256, 54), "tq2_0": (256, 66), "mxfp4": (32, 17), "nvfp4": (64, 36),
}  # fmt: skip
"""Elements and bytes in a block of each type (``type_traits`` in ``ggml.c``, block structs in ``ggml-common.h``)."""

UNQUANTISED = ("f32", "f16", "bf16", "f64", "i8", "i16", "i32", "i64")


def row_bytes(kind: str, elements: int) -> int:
    """Bytes of a row, whose elements must fill whole blocks (``ggml_row_size``)."""
    block, size = TYPES[kind]
    return elements // block * size


def pad(value: int, to: int) -> int:
    """The next multiple of ``to`` (``GGML_PAD``)."""
    return -(-value // to) * to


class Tensor:
    """A tensor: its type, shape ``ne`` (innermost dimension first), strides ``nb`` in bytes, and sources."""

    __slots__ = (
        "address",
        "allocated",
        "children",
        "external",
        "kind",
        "name",
        "nb",
        "ne",
        "op",
        "output",
        "place",
        "sources",
        "view_of",
        "views",
    )

    def __init__(
        self,
        op: str,
        kind: str,
        ne: Shape,
        sources: tuple[Tensor, ...] = (),
        *,
        view_of: Tensor | None = None,
        nb: Shape | None = None,
        name: str = "",
        external: bool = False,
    ) -> None:
        self.op, self.kind, self.ne, self.sources, self.name = op, kind, ne, sources, name
        self.external = external
        self.output = self.allocated = False
        self.children = self.views = self.address = self.place = 0
        self.view_of: Tensor | None = view_of
        if view_of is not None and view_of.view_of is not None:
            self.view_of = view_of.view_of  # the tensor that owns the memory
        if nb is None:
            row = row_bytes(kind, ne[0])
            nb = (TYPES[kind][1], row, row * ne[1], row * ne[1] * ne[2])
        self.nb = nb

    @property
    def elements(self) -> int:
        """The number of elements."""
        return prod(self.ne)

    @property
    def nbytes(self) -> int:
        """Bytes from the first to the last element (``ggml_nbytes``)."""
        ne, nb = self.ne, self.nb
        if 0 in ne:
            return 0
        block, size = TYPES[self.kind]
        first = size if block == 1 else ne[0] * nb[0] // block
        steps = ((ne[0] - 1) * nb[0] if block == 1 else 0) + sum((ne[i] - 1) * nb[i] for i in (1, 2, 3))
        return first + steps

    @property
    def contiguous(self) -> bool:
        """Whether the elements lie in order and without gaps (``ggml_is_contiguous``)."""
        block, size = TYPES[self.kind]
        following = size
        if self.ne[0] != block and self.nb[0] != following:
            return False
        following *= self.ne[0] // block
        for length, stride in zip(self.ne[1:], self.nb[1:], strict=True):
            if length != 1:
                if stride != following:
                    return False
                following *= length
        return True

    def __repr__(self) -> str:
        return f"{self.op}({self.name} {self.kind} {list(self.ne)})"


def _four(ne: Sequence[int]) -> Shape:
    """A shape in four dimensions, the missing ones of length 1."""
    a, b, c, d = (*ne, *(1,) * (4 - len(ne)))
    return a, b, c, d


def leaf(kind: str, *ne: int, name: str = "", external: bool = False) -> Tensor:
    """A tensor that no operator makes: an input of the graph or, if ``external``, a weight or a cache's tensor."""
    return Tensor("none", kind, _four(ne), name=name, external=external)


def view(a: Tensor, ne: tuple[int, ...], strides: tuple[int, ...] = ()) -> Tensor:
    """``ggml_view_1d`` to ``4d``: a part of a tensor; ``strides`` of dimensions 1, 2 and 3 are bytes."""
    shape = _four(ne)
    block, size = TYPES[a.kind]
    nb = [size]
    for i in (1, 2, 3):
        if i - 1 < len(strides):
            nb.append(strides[i - 1])
        else:
            nb.append(nb[i - 1] * (shape[i - 1] // block if i == 1 else shape[i - 1]))
    return Tensor("view", a.kind, shape, (a,), view_of=a, nb=_four(nb))


def reshape(a: Tensor, *ne: int) -> Tensor:
    """``ggml_reshape``: the same elements in another shape."""
    return Tensor("reshape", a.kind, _four(ne), (a,), view_of=a)


def permute(a: Tensor, *axes: int) -> Tensor:
    """``ggml_permute``: dimension i becomes dimension ``axes[i]``."""
    sources = [axes.index(i) for i in range(len(axes))]
    ne, nb = ([of[i] for i in sources] for of in (a.ne, a.nb))
    return Tensor("permute", a.kind, _four(ne), (a,), view_of=a, nb=_four(nb))


def transpose(a: Tensor) -> Tensor:
    """``ggml_transpose``: the first two dimensions swapped."""
    swapped = permute(a, 1, 0, 2, 3)
    swapped.op = "transpose"
    return swapped


def cont(a: Tensor, *ne: int) -> Tensor:
    """``ggml_cont``: a contiguous copy, in another shape if one is given."""
    return Tensor("cont", a.kind, _four(ne or a.ne), (a,))


def mul_mat(a: Tensor, b: Tensor) -> Tensor:
    """``ggml_mul_mat``: the products of the rows of a with the rows of b, in float32."""
    return Tensor("mul_mat", "f32", (a.ne[1], b.ne[1], b.ne[2], b.ne[3]), (a, b))


def mul_mat_id(experts: Tensor, b: Tensor, ids: Tensor) -> Tensor:
    """``ggml_mul_mat_id``: the product of each token with its chosen experts."""
    return Tensor("mul_mat_id", "f32", (experts.ne[1], ids.ne[0], b.ne[2], 1), (experts, b, ids))


def like(op: str, a: Tensor, *others: Tensor) -> Tensor:
    """An operator whose result has the type and shape of its first source: unary, add, mul, rope, softmax, ..."""
    return Tensor(op, a.kind, a.ne, (a, *others))


def get_rows(a: Tensor, rows: Tensor) -> Tensor:
    """``ggml_get_rows``: rows of a, in float32; rows of int32 stay int32."""
    kind = "i32" if a.kind == "i32" else "f32"
    return Tensor("get_rows", kind, (a.ne[0], rows.ne[0], rows.ne[1], rows.ne[2]), (a, rows))


def set_rows(into: Tensor, values: Tensor, rows: Tensor) -> Tensor:
    """``ggml_set_rows``: writes rows of ``into`` and is a view of it."""
    return Tensor("set_rows", into.kind, into.ne, (values, rows, into), view_of=into, nb=into.nb)


def copy(a: Tensor, into: Tensor) -> Tensor:
    """``ggml_cpy``: writes ``into`` and is a view of it."""
    return Tensor("cpy", into.kind, into.ne, (a, into), view_of=into, nb=into.nb)


def concat(a: Tensor, b: Tensor, axis: int) -> Tensor:
    """``ggml_concat`` along one dimension."""
    ne = list(a.ne)
    ne[axis] += b.ne[axis]
    return Tensor("concat", a.kind, _four(ne), (a, b))


def repeat(a: Tensor, *ne: int) -> Tensor:
    """``ggml_repeat_4d``."""
    return Tensor("repeat", a.kind, _four(ne), (a,))


def sum_rows(a: Tensor) -> Tensor:
    """``ggml_sum_rows`` and ``ggml_mean``: one element per row."""
    return Tensor("sum_rows", a.kind, (1, a.ne[1], a.ne[2], a.ne[3]), (a,))


def glu(gate: Tensor, up: Tensor | None = None) -> Tensor:
    """``ggml_swiglu_split`` and the like. Without ``up``, ``gate`` holds both halves (``ggml_swiglu``)."""
    if up is None:
        return Tensor("glu", gate.kind, (gate.ne[0] // 2, gate.ne[1], gate.ne[2], gate.ne[3]), (gate,))
    return Tensor("glu", gate.kind, gate.ne, (gate, up))


def top_k(a: Tensor, k: int) -> Tensor:
    """``ggml_argsort_top_k``: a view of the first k of a full argsort."""
    order = Tensor("argsort", "i32", a.ne, (a,))
    return view(order, (k, *a.ne[1:]), order.nb[1:])


def scale_in_place(a: Tensor) -> Tensor:
    """``ggml_scale_inplace``: a view of what it scales."""
    return Tensor("scale", a.kind, a.ne, (a,), view_of=a, nb=a.nb)


@dataclass
class Graph:
    """A graph, its tensors in the order in which they were first needed (``ggml_build_forward_expand``)."""

    nodes: list[Tensor] = field(default_factory=list)
    leafs: list[Tensor] = field(default_factory=list)
    _seen: set[int] = field(default_factory=set)

    def expand(self, tensor: Tensor) -> None:
        """Add a tensor, and before it its sources in order, depth first."""
        if id(tensor) in self._seen:
            return
        self._seen.add(id(tensor))
        stack: list[tuple[Tensor, Iterator[Tensor]]] = [(tensor, iter(tensor.sources))]
        while stack:
            current, sources = stack[-1]
            for source in sources:
                if id(source) not in self._seen:
                    self._seen.add(id(source))
                    stack.append((source, iter(source.sources)))
                    break
            else:
                stack.pop()
                (self.leafs if current.op == "none" else self.nodes).append(current)
