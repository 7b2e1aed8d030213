"""What a fine-tuning method decides: which parameters train, and what replaces a module."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..modules import Builder, Linear, Module


class Method:
    """Full fine-tuning; the base of every other method."""

    def trains(self, path: str) -> bool:
        """Whether the base parameter at ``path`` (``model.norm.weight``) is trained."""
        return True

    def wrap(self, build: Builder, base: Module) -> Module:
        """The module that stands in for ``base``."""
        return base

    def signature(self, path: str) -> object:
        """What this method does to the module at ``path``; equal for layers treated alike."""
        return None
