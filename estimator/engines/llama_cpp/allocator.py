"""The engine's graph allocator, replayed: the size of a graph's compute buffer.

``ggml_gallocr`` (``ggml/src/ggml-alloc.c``) walks a graph once, with addresses that start at zero. Each tensor takes
the smallest free block that is large enough. An operator that can run in place takes over the memory of a source that
no other operator needs. A tensor is freed after its last user. The buffer is as large as the highest address. The
sources of an operator are freed in the engine's order, since the order decides which blocks merge.
"""

from __future__ import annotations

from .ggml import Graph, Tensor
from .placement import ON_HOST, Layout

IN_PLACE = (
    "fill", "scale", "add", "add_id", "sub", "mul", "div", "sqr", "sqrt", "unary", "rope", "rms_norm", "clamp",
    "soft_max",
)  # fmt: skip
"""Operators whose result may take over a source's memory (``ggml_op_can_inplace``), of those in the graphs here."""

_END = (1 << 63) - 1
"""An address beyond all others, which ``sys.maxsize`` is not in a browser: a process there has 32 bits."""


class _Blocks:
    """The free blocks by address. The last one has no end."""

    def __init__(self) -> None:
        self.starts: list[int] = [0]
        self.ends: list[int] = [_END]
        self.highest = 0

    def take(self, size: int) -> int:
        """The address of ``size`` bytes in the smallest block that fits, the later of two alike, else in the last."""
        starts, ends = self.starts, self.ends
        best, best_size = len(starts) - 1, _END
        for i in range(len(starts) - 1):
            available = ends[i] - starts[i]
            if size <= available <= best_size:
                best, best_size = i, available
        address = starts[best]
        starts[best] = address + size
        if starts[best] == ends[best]:
            del starts[best], ends[best]
        self.highest = max(self.highest, address + size)
        return address

    def give(self, address: int, size: int) -> None:
        """Return ``size`` bytes, merged with free neighbours.

        The first block of the list that touches them grows. Empty blocks, which tensors without elements leave, are
        passed by others, so the list is not always in the order of addresses. Then what is returned is not always
        merged with both sides, and a new block is put before the first that starts behind it.
        """
        starts, ends, end = self.starts, self.ends, address + size
        for i in range(len(starts)):
            if ends[i] == address:
                ends[i] = end
                if i + 1 < len(starts) and starts[i + 1] == end:
                    ends[i] = ends.pop(i + 1)
                    del starts[i + 1]
                return
            if starts[i] == end:
                starts[i] = address
                return
        i = next((i for i, start in enumerate(starts) if start >= address), len(starts))
        starts.insert(i, address)
        ends.insert(i, end)


def buffer_bytes(graph: Graph, layout: Layout = ON_HOST) -> tuple[int, ...]:
    """Bytes of a graph's compute buffers: of each device, and at the end of the host."""
    blocks = [_Blocks() for _ in layout.names]
    for tensor in (*graph.leafs, *graph.nodes):
        tensor.children = tensor.views = 0
        tensor.allocated = False

    def size_of(tensor: Tensor) -> int:
        return layout.size(tensor.place, tensor.kind, tensor.ne, tensor.nbytes)

    def allocate(tensor: Tensor) -> None:
        if tensor.external or tensor.allocated or tensor.view_of is not None:
            return
        tensor.allocated = True
        if tensor.op in IN_PLACE:
            for parent in tensor.sources:
                if (
                    parent.allocated
                    and not parent.output
                    and parent.children == 1
                    and parent.views == 0
                    and parent.kind == tensor.kind
                    and parent.ne == tensor.ne
                    and parent.nb == tensor.nb
                ):
                    tensor.address = parent.address
                    parent.allocated = False
                    return
        tensor.address = blocks[tensor.place].take(size_of(tensor))

    for tensor in graph.leafs:
        allocate(tensor)
    for node in graph.nodes:
        if node.view_of is not None and node.op != "dependency":
            node.view_of.views += 1
        for source in node.sources:
            source.children += 1
    for node in graph.nodes:
        allocate(node)
        for parent in node.sources:
            parent.children -= 1
            if parent.children or parent.views:
                continue
            owner = parent
            if parent.view_of is not None:
                owner = parent.view_of
                owner.views -= 1
                if owner.views or owner.children:
                    continue
            if owner.allocated and not owner.output:
                blocks[owner.place].give(owner.address, size_of(owner))
                owner.allocated = False
    return tuple(one.highest for one in blocks)
