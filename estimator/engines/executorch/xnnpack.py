"""What XNNPACK holds of a program whose linear layers and elementwise operators it runs.

``export_llm`` with ``backend.xnnpack.extended_ops`` leaves to ExecuTorch's own kernels the embedding, the cache,
attention and the means of norms. Linear weights are packed when the program is loaded: into tiles of rows, each with
its bias, in memory of their own. The pages of the file that they came from are given back.
"""

from __future__ import annotations

from dataclasses import dataclass

from .plan import FLOAT32, Shape, linears, planned_bytes, rest_count, table_bytes

UNCERTAINTY = 0.065
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


def workspace_bytes(shape: Shape, quantised: bool) -> int:
    """What delegates compute between their operands and results, in one workspace that they share.

    The largest is the gate's: its product before the sigmoid and after it. A quantised layer has its input in 8 bits.
    """
    gate = 2 * shape.tokens * shape.hidden_dim * FLOAT32
    return gate + (shape.tokens * max(shape.dim, shape.hidden_dim) if quantised else 0)


def parts_of(shape: Shape, quantised: bool, group: int, embedding: str) -> Parts:
    """A process that runs the program with XNNPACK."""
    table = embedding_bytes(shape, embedding if quantised else "none")
    mapped = table + rest_count(shape) * FLOAT32 + table_bytes(shape)
    packed = packed_bytes(shape, group if quantised else 0)
    return Parts(planned_bytes(shape, delegated=True), mapped, packed, workspace_bytes(shape, quantised), table)
