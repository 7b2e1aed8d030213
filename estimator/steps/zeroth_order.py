"""A step of MeZO (``estimator/witnesses/reference/mezo.py``): perturb, forward, perturb, forward, update."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..ledger import Ledger, Tensor
from ..programs import Procedure
from .loop import Loop
from .prefill import infer


@dataclass(frozen=True)
class ZerothOrder(Procedure):
    """Two forward passes in eval mode, between moves along a random direction, drawn again from its seed each time."""

    def phases(self, loop: Loop) -> Iterator[str]:
        ledger, model = loop.ledger, loop.model
        yield "forward"
        batch = model.batch()
        infer(ledger)
        losses = []
        for number in ("first", "second"):
            _move(ledger, loop.trained, "perturbation")
            ledger.phase = f"{number} forward"
            losses.append(model(batch)[0])
        _move(ledger, loop.trained, "perturbation")
        _move(ledger, loop.trained, "update")
        losses.clear()
        loop.saved = ledger.saved
        yield from loop.end(batch)


def _move(ledger: Ledger, parameters: Sequence[Tensor], phase: str) -> None:
    """For one parameter at a time, draw a normal direction and add it."""
    ledger.phase, ledger.scope = phase, "parameter"
    for parameter in parameters:
        ledger.transient(parameter.nbytes)
