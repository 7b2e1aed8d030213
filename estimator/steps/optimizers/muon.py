"""Muon (https://kellerjordan.github.io/posts/muon/) for the matrices in layers, AdamW for the other parameters.

Source: ``torch/optim/_muon.py``, whose documentation recommends this split.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...ledger import Ledger, Size, Tensor, whole
from ...operators import to
from .adamw import AdamW
from .base import is_hidden_matrix, transposed_copy


class Muon(AdamW):
    """``torch.optim.Muon`` with one momentum buffer per matrix, and then a step of ``torch.optim.AdamW``."""

    open_sizes = False

    def state_sizes(self, p: Tensor) -> tuple[Size, ...]:
        return (p.nbytes,) if _orthogonalised(p) else super().state_sizes(p)

    def step(self, ledger: Ledger, parameters: Sequence[Tensor]) -> None:
        _step([p for p in parameters if _orthogonalised(p)])
        super().step(ledger, [p for p in parameters if not _orthogonalised(p)])


def _orthogonalised(p: Tensor) -> bool:
    return is_hidden_matrix(p.name, len(p.shape))


def _step(matrices: Sequence[Tensor]) -> None:
    """``_single_tensor_muon``."""
    update: Tensor | None = None
    for p in matrices:
        update = p.ledger.empty(p.shape, p.dtype)
        update = _orthogonal(update)
        _add(p)
    del update


def _orthogonal(gradient: Tensor) -> Tensor:
    """``_zeropower_via_newtonschulz``: in bfloat16, transposed if it has more rows than columns."""
    ledger, (rows, columns) = gradient.ledger, map(whole, gradient.shape)
    side = min(rows, columns)
    ortho = to(gradient, "bfloat16")
    gram = gram_update = None
    for i in range(2):  # of five iterations, which are equal from the second on
        gram = ledger.empty((side, side), "bfloat16")
        gram_update = ledger.empty((side, side), "bfloat16")
        product = ledger.empty(gradient.shape, "bfloat16")
        if i == 0 and rows > columns:
            transposed_copy(product)  # addmm copies its first operand, a transposed view
        ortho = product
    del gram, gram_update
    return ortho


def _add(p: Tensor) -> None:
    """``param.add_(update)``. A CPU kernel casts the result and the operands that have not the common dtype."""
    casts = 0 if p.ledger.device.converts_on_load else {"bfloat16": 0, "float32": 1, "float16": 3}[p.dtype]
    operands = [p.ledger.empty(p.shape, "float32") for _ in range(casts)]
    del operands
