"""The log of a step before it is shared: where a scope acts is noted in it, and the scope itself acts when the log is
played (``steps/played.py``). So equal layers are run once, whatever it does with each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...ledger import FLOATING, Called, Ledger, Tensor
from .scope import Parts, Scope


class Noted(Scope):
    """Notes the passes and the gradients of trained parameters, which it hands over."""

    def __init__(self, ledger: Ledger, parts: Parts) -> None:
        self.ledger = ledger
        model_dtype = next(p.dtype for p in ledger.parameters if not p.added)
        segments = {id(p): parts.segments.get(path, -1) for path, own in parts.layers.items() for p in own}
        for p in ledger.parameters:  # `_cast_module_mixed_precision`
            if p.dtype in FLOATING and p.dtype != model_dtype:
                ledger.segment = segments.get(id(p), -1)
                p.recast(model_dtype)
        ledger.segment = -1
        self.trained = {id(p) for p in ledger.parameters if p.requires_grad}
        assert ledger.events is not None
        self.events = ledger.events
        self._start = 0
        self.saved: list[int] = []
        """The allocations that the last forward pass has saved."""
        ledger.gradient_hooks, ledger.after_backward = self, self._after_backward

    def note(self, name: str, about: str = "", given: int = -1) -> int:
        """Note a call of the scope's method (``Events.call``)."""
        return self.events.call(Called(name, about, given), self.ledger)

    def updated(self, parameters: Sequence[Tensor]) -> Sequence[Tensor]:
        return ()

    def updates(self, parameters: Sequence[Tensor]) -> Iterator[Sequence[Tensor]]:
        return iter(())

    def before_forward(self) -> None:
        self.note("before_forward")

    def before_backward(self, last: bool) -> None:
        self.saved = [n for n in self.events.saved if n >= self._start]
        self.note("before_backward", "last" if last else "")

    def _after_backward(self) -> None:
        self.note("after_backward")
        self._start = len(self.events.sizes)

    def before_gradient(self, leaf: Tensor) -> None:
        """Nothing happens."""

    def after_gradient(self, leaf: Tensor) -> None:
        """Hand the gradient over."""
        if id(leaf) not in self.trained:  # an input that requires a gradient
            return
        assert leaf.grad is not None
        self.note("after_gradient", leaf.name, leaf.grad.storage.event)
        leaf.grad = None
