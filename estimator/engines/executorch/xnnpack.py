"""What XNNPACK holds of a program whose linear layers and elementwise operators it runs.

``export_llm`` with ``backend.xnnpack.extended_ops`` leaves to ExecuTorch's own kernels the embedding, the cache,
attention and the means of norms. Linear weights are packed when the program is loaded: into tiles of rows, each with
its bias, in memory of their own. The pages of the file that they came from are given back.
"""

from __future__ import annotations

from dataclasses import dataclass

from .plan import FLOAT32, Shape, linears, planned_bytes, rest_count, table_bytes

UNCERTAINTY = 0.01
UNCERTAINTY_OF = "more than one of 4 measured processes was above its prediction in memory of its own"


@dataclass(frozen=True)
class Parts:
    """Of a process's memory, in bytes."""

    planned: int
    mapped: int
    packed: int
    workspace: int
    unread: int
    """Of what is mapped, what decoding does not read for every token."""
    heap: int = 0
    """What a delegate's process holds beside these."""


ROWS = 16
"""Rows of a tile of packed weights (``nr`` in XNNPACK's ``src/configs/gemm-config.c``, on ARM with dot products)."""


def packed_bytes(shape: Shape, group: int) -> int:
    """Linear weights as XNNPACK packs them: float32 where ``group`` is 0, else 4 bits with scales of 16 bits a group.

    ``src/operators/fully-connected-nc.c: create_fully_connected_nc`` and ``xnn_packed_stride_qb4_weights_and_biases``:
    each row has its bias, in 4 bits the sum of its weights too.
    """
    total = 0
    for rows, columns, times in linears(shape):
        row = columns // 2 + columns // group * 2 + 2 * FLOAT32 if group else (columns + 1) * FLOAT32
        total += times * -(-rows // ROWS) * ROWS * row
    return total


def embedding_bytes(shape: Shape, quantised: str) -> int:
    """The embedding in the file: of bits and group as in ``4,32``, with a scale in float32 for each group or row."""
    if quantised == "none":
        return shape.vocab_size * shape.dim * FLOAT32
    bits, group = map(int, quantised.split(","))
    return shape.vocab_size * (shape.dim * bits // 8 + shape.dim // (group or shape.dim) * FLOAT32)


EXTRA_BYTES = 32
"""What XNNPACK adds to a workspace, beside what its memory planner found."""
LINE = 64
"""Tensors in a workspace start at multiples of it."""
STRUCTURES_BYTES = 980_000
"""What the program's structures and XNNPACK's operators take of the heap: 0.5 to 1.5 MB in five processes, the mean."""
KEPT_BYTES = 2 * 2**20
"""What is smaller stays in the heap when it is freed. glibc maps what is larger than what a process freed before
(``M_MMAP_THRESHOLD``): in recorded processes 1.6 MB was kept, and 2.4 MB was not."""


def workspaces(shape: Shape) -> list[int]:
    """What each delegate of a layer computes between its operands and results, in the order in which they run.

    XNNPACK (``src/memory-planner.c``) writes an elementwise result over an operand that nothing else needs. So of a
    norm and of the gate one product is left. Rotary embeddings of neighbouring elements first make all products. Those
    that Hugging Face has make the products with cosines, and what is turned around.
    """
    rows = shape.tokens
    query, key = (rows * heads * shape.rotary_dim for heads in (shape.n_heads, shape.n_kv_heads))
    more = query + max((query + key) // 2, key + key // 2) if shape.use_hf_rope else query + key
    norms = [rows * ((shape.n_heads + shape.n_kv_heads) * shape.head_dim + shape.n_kv_heads)]
    found = [rows * (shape.dim + 1), *(norms if shape.use_qk_norm else ()), query + key + more, rows * shape.hidden_dim]
    return [-(-size * FLOAT32 // LINE) * LINE + EXTRA_BYTES for size in found]


def heap_bytes(shape: Shape) -> int:
    """What the heap holds beside arena, packed weights and workspace: also workspaces that a larger one replaced."""
    sizes = workspaces(shape)
    replaced = [one for i, one in enumerate(sizes) if one > max(sizes[:i], default=0) and one < max(sizes[i:])]
    return STRUCTURES_BYTES + sum(one for one in replaced if one < KEPT_BYTES)


def parts_of(shape: Shape, quantised: bool, group: int, embedding: str) -> Parts:
    """A process that runs the program with XNNPACK."""
    table = embedding_bytes(shape, embedding if quantised else "none")
    mapped = table + rest_count(shape) * FLOAT32 + table_bytes(shape)
    packed = packed_bytes(shape, group if quantised else 0)
    planned = planned_bytes(shape, delegated=True)
    return Parts(planned, mapped, packed, max(workspaces(shape)), table, heap_bytes(shape))
