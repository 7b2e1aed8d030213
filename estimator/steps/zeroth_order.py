"""A step of MeZO (``estimator/witnesses/reference/mezo.py``): perturb, forward, perturb, forward, update."""

from __future__ import annotations

from collections.abc import Callable

from ..ledger import Ledger, Tensor


def step(ledger: Ledger, loss: Callable[[], Tensor], parameters: list[Tensor]) -> None:
    """Two forward passes in eval mode, between moves along a random direction, drawn again from its seed each time."""
    ledger.grad_enabled = ledger.training = False
    ledger.inference_mode = True
    _move(ledger, parameters, "perturbation")
    ledger.phase = "first forward"
    loss1 = loss()
    _move(ledger, parameters, "perturbation")
    ledger.phase = "second forward"
    loss2 = loss()
    _move(ledger, parameters, "perturbation")
    _move(ledger, parameters, "update")
    del loss1, loss2


def _move(ledger: Ledger, parameters: list[Tensor], phase: str) -> None:
    """For one parameter at a time, draw a normal direction and add it."""
    ledger.phase, ledger.scope = phase, "parameter"
    for parameter in parameters:
        ledger.transient(parameter.nbytes)
