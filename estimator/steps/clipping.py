"""Gradient clipping by the total norm: ``torch.nn.utils.clip_grad_norm_`` of all trained parameters.

Sources: ``torch/nn/utils/clip_grad.py``; norms one by one on a CPU (``ForeachOpsKernels.cpp:
foreach_tensor_norm_slow``), in chunks on a GPU (``native/cuda/ForeachReduceOp.cu: foreach_tensor_norm_cuda``).
The gradients are scaled in place (``_foreach_mul_``) on both.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ledger import ITEMSIZE, Ledger, Size, Tensor, ceiling
from ..operators import wrapped_number

CHUNK = 65536
"""Elements of a tensor that a GPU's block takes at once (``MultiTensorApply.cuh: kChunkSize``)."""


def clip(ledger: Ledger, parameters: Sequence[Tensor]) -> None:
    """Clip the gradients of the parameters that are trained, which must be there.

    At its largest it takes each gradient's norm twice, one by one and stacked, some numbers, and on a GPU,
    before that, a float32 number per chunk of the largest gradient for every gradient of its dtype.
    """
    trained = [p for p in parameters if p.requires_grad]
    if not trained:
        return
    total = _total_norm(ledger, trained)
    dtype = total.dtype
    # max_norm / (total_norm + 1e-6) is the sum's reciprocal times a number
    increased = _number(ledger, dtype)
    reciprocal = _number(ledger, dtype)
    coefficient = _number(ledger, dtype)
    del increased, reciprocal
    clamped = _number(ledger, dtype)
    if not ledger.device.converts_on_load and any(p.dtype != dtype for p in trained):
        ledger.transient(ITEMSIZE[dtype])  # the coefficient's cast to a gradient's dtype
    del total, coefficient, clamped


def _number(ledger: Ledger, dtype: str) -> Tensor:
    """A number made of another one and a Python scalar."""
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
