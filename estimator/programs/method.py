"""What a program asks of a fine-tuning method: which parameters train, and what replaces a module."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..ledger import Ledger, Size, Tensor
    from .llama import Attention, CausalLM
    from .modules import Builder, Module


class Method:
    """Full fine-tuning; the base of every other method."""

    by_layer = False
    """Whether the layers of a model may be treated differently."""
    virtual_tokens = 0
    """Tokens that the method puts before each sequence."""

    def trains(self, path: str) -> bool:
        """Whether the base parameter at ``path`` (``model.norm.weight``) is trained."""
        return True

    def wrap(self, build: Builder, base: Module, copy: Callable[[], Module]) -> Module:
        """The module that stands in for ``base``; ``copy`` makes a trainable copy of it."""
        return base

    def add_to_loss(self, loss: Tensor) -> Tensor:
        """The loss that is trained, given the model's; called inside autocast, like the model."""
        return loss

    def state_sizes(self, p: Tensor) -> list[Size]:
        """Bytes of each tensor that the loop keeps for a trained parameter, beside the optimizer's states."""
        return []

    def after_update(self, ledger: Ledger, trained: Sequence[Tensor]) -> None:
        """What the loop does for the method after the optimizer's step, gradients still alive."""

    def wrap_attention(self, build: Builder, base: Attention) -> Module:
        """The module that stands in for a layer's attention."""
        return base

    def wrap_model(self, build: Builder, model: CausalLM) -> Module:
        """What is called in place of the model, with its arguments ``(input_ids, labels, inputs)``.

        In inference labels are ``None``.
        """
        return model

    def adapts(self, path: str) -> bool:
        """Whether the module at ``path`` gets an adapter."""
        return False

    def signature(self, path: str) -> Hashable:
        """What is done to the module at ``path``; layers whose modules agree are counted together."""
        return None
