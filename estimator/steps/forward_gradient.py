"""A step of forward gradients (``estimator/witnesses/reference/forward_ad.py``): tangents, forward pass, update."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..operators import forward_mode
from ..programs import Procedure
from .loop import Loop


@dataclass(frozen=True)
class ForwardGradient(Procedure):
    """Tangents are live during the forward pass. Then they are the gradients, until the update is done."""

    def phases(self, loop: Loop) -> Iterator[str]:
        ledger, model = loop.ledger, loop.model
        loop.note_gradients()
        yield "forward"
        batch = model.batch()
        ledger.phase, ledger.scope = "forward", "tangents"
        for p in loop.trained:
            p.tangent = ledger.empty(p.shape, p.dtype)
            ledger.live = ledger.live + p.nbytes * (p.copies - 1)
        ledger.forward_mode = forward_mode.run
        model(batch)
        ledger.forward_mode = None
        yield "update"
        loop.update()
        loop.saved = ledger.saved
        yield from loop.end(batch)
