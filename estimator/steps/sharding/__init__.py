"""How several processes share a model, by the names that they have in a plan."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from ...ledger import Ledger, Tensor
from ...programs import Sharding

SHARDINGS = {"fsdp2": "fsdp2.Fsdp2"}
"""File and class of each scope around a step."""


def scope_of(sharding: Sharding, ledger: Ledger, parameters: Sequence[Sequence[Tensor]]) -> Any:
    """The scope around a step. ``parameters`` are those of the model outside of its layers, then those of each."""
    module, _, scope = SHARDINGS[sharding.name].partition(".")
    return getattr(import_module(f".{module}", __package__), scope)(ledger, sharding.world_size, parameters)
