"""Gradient clipping by the total norm: ``torch.nn.utils.clip_grad_norm_`` of all trained parameters.

Source: ``torch/nn/utils/clip_grad.py``. A CPU takes norms one by one (``ForeachOpsKernels.cpp:
foreach_tensor_norm_slow``), a GPU in chunks (``native/cuda/ForeachReduceOp.cu: foreach_tensor_norm_cuda``). Both scale
the gradients in place (``_foreach_mul_``).
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ledger import Ledger, Size, Tensor, ceiling
from ..operators import wrapped_number

CHUNK = 65536
"""Elements of a tensor that one GPU thread block takes (``MultiTensorApply.cuh: kChunkSize``)."""


def clip(ledger: Ledger, parameters: Sequence[Tensor]) -> None:
    """Clip the gradients of the trained parameters, which must all have one.

    At its peak there are the norms of all gradients twice, single and stacked, and a few numbers. A GPU first has, for
    every gradient, as many float32 numbers as the largest gradient of the same dtype has chunks.
    """
    trained = [p for p in parameters if p.requires_grad]
    if not trained:
        return
    total = _total_norm(ledger, trained)
    dtype = total.dtype
    # max_norm / (total_norm + 1e-6) is computed as the reciprocal of the sum, times max_norm
    increased = _number(ledger, dtype)
    reciprocal = _number(ledger, dtype)
    coefficient = _number(ledger, dtype)
    del increased, reciprocal
    clamped = _number(ledger, dtype)
    del total, coefficient, clamped


def _number(ledger: Ledger, dtype: str) -> Tensor:
    """The 0-dim result of a 0-dim tensor and a Python number."""
    operand = wrapped_number(ledger, dtype)
    out = ledger.empty((), dtype)
    del operand
    return out


def _total_norm(ledger: Ledger, trained: Sequence[Tensor]) -> Tensor:
    groups: dict[str, list[Tensor]] = {}
    for p in trained:
        groups.setdefault(p.dtype, []).append(p)
    norms: list[Tensor] = []
    count: Size = 0
    for dtype, group in groups.items():
        copies: Size = sum((p.copies for p in group), 0)
        count = count + copies
        chunks = ledger.empty((_most_chunks(group) * copies,), "float32") if ledger.device.foreach else None
        norms += [ledger.empty((p.copies,), dtype) for p in group]
        del chunks
    widest = "float32" if len(groups) > 1 else trained[0].dtype
    stacked = ledger.empty((count,), widest)
    total = ledger.empty((), widest)
    ledger.transient(*ledger.device.workspace_of_sum(stacked, [True]))
    return total


def _most_chunks(group: Sequence[Tensor]) -> Size:
    counts = [ceiling(p.numel, CHUNK) for p in group]
    whole = [count for count in counts if isinstance(count, int)]
    return max(whole) if len(whole) == len(counts) else sum(counts, 0)
