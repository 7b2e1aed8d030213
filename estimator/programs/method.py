"""What a program asks of a fine-tuning method: which parameters are trained, and what replaces a module."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..ledger import Ledger, Size, Tensor
    from .interpreter import RecordedCausalLM, RecordedModule
    from .modules import Builder, Module


class Method:
    """Full fine-tuning; the base of every other method."""

    by_layer = False
    """Whether the method may treat layers of a model differently."""
    virtual_tokens = 0
    """Tokens that the method puts before each sequence."""

    def trains(self, path: str) -> bool:
        """Whether the base parameter at ``path`` (``model.norm.weight``) is trained."""
        return True

    def wrap(self, build: Builder, base: Module, copy: Callable[[], Module]) -> Module:
        """The module that replaces ``base``. ``copy`` makes a trainable copy of ``base``."""
        return base

    def add_to_loss(self, loss: Tensor) -> Tensor:
        """The loss to run backward from, given the model's. Called while autocast is on."""
        return loss

    def state_sizes(self, p: Tensor) -> list[Size]:
        """Bytes of each tensor that the method keeps for a trained parameter, the optimizer's states left out."""
        return []

    def after_update(self, ledger: Ledger, trained: Sequence[Tensor]) -> None:
        """What the loop does for the method after the optimizer's step, while gradients are still live."""

    def parameters_of(self, path: str) -> Sequence[str]:
        """The names of a module's own parameters that get an adapter themselves."""
        return ()

    def wrap_parameters(self, build: Builder, base: RecordedModule) -> Module:
        """The module that replaces ``base``, of which it adapts parameters."""
        return base

    def wrap_attention(self, build: Builder, base: Module) -> Module:
        """The module that replaces a layer's attention."""
        return base

    def wrap_model(self, build: Builder, model: RecordedCausalLM) -> Module:
        """What replaces the model. It is called with ``(input_ids, labels, inputs)``; inference has no labels."""
        return model

    def adapts(self, path: str) -> bool:
        """Whether the module at ``path`` gets an adapter."""
        return False

    def signature(self, path: str) -> Hashable:
        """What the method does to the module at ``path``. Layers whose modules all have equal values form a run."""
        return None
