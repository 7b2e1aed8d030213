"""How several processes share a model, by the names that they have in a plan."""

from __future__ import annotations

from collections.abc import Sequence

from ...ledger import Ledger, Tensor
from ...programs import Sharding
from .fsdp2 import Fsdp2

SHARDINGS = {"fsdp2": Fsdp2}


def scope_of(sharding: Sharding, ledger: Ledger, parameters: Sequence[Sequence[Tensor]]) -> Fsdp2:
    """The scope around a step. ``parameters`` are those of the model outside of its layers, then those of each."""
    return SHARDINGS[sharding.name](ledger, sharding.world_size, parameters)
