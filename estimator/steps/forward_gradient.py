"""A step of forward gradients (``estimator/witnesses/reference/forward_ad.py``): tangents, forward pass, update."""

from __future__ import annotations

from collections.abc import Callable

from ..ledger import Ledger, Tensor
from ..operators import forward_mode


def step(ledger: Ledger, loss: Callable[[], Tensor], parameters: list[Tensor], update: Callable[[], None]) -> None:
    """Tangents are live during the forward pass. Then they are the gradients, until the update is done."""
    ledger.phase, ledger.scope = "forward", "tangents"
    for p in parameters:
        p.tangent = ledger.empty(p.shape, p.dtype)
        ledger.live = ledger.live + p.nbytes * (p.copies - 1)
    ledger.forward_mode = forward_mode.run
    loss()
    ledger.forward_mode = None
    update()
