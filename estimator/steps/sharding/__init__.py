"""How several processes share a model, by the names that they have in a plan."""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module

from ...errors import InputError, shown
from ...programs import Sharding
from ...programs.modules import Layers
from ...programs.program import Program
from .options import ShardingOptions, auto_values

SHARDINGS = {
    "ddp": "ddp.Ddp",
    "fsdp1": "fsdp1.Fsdp1",
    "fsdp2": "fsdp2.Fsdp2",
    "hsdp": "fsdp2.Fsdp2",
    "zero1": "zero.Zero",
    "zero2": "zero.Zero",
    "zero3": "zero3.Zero3",
    "None": "tensor_parallel.TensorParallel",
}
"""File and class of each way to share, by its name; ``None`` where products alone are shared."""


def kind_of(name: str) -> type[Sharding]:
    """The class of a way to share. Its fields are the options that it takes."""
    module, _, kind = SHARDINGS[name].partition(".")
    found: type[Sharding] = getattr(import_module(f".{module}", __package__), kind)
    return found


def sharding_of(options: ShardingOptions, hidden_size: int, *, adapted: bool, upcasts: bool) -> Sharding:
    """The sharding strategy that a block names, with its own options, for a model of that ``hidden_size``.

    ``adapted`` and ``upcasts``: see ``Sharding``. Raises ``InputError`` for an option of another strategy.
    """
    kind = kind_of(str(options.name))
    own = {field.name for field in fields(kind)}
    for key, field in ShardingOptions.model_fields.items():
        if key not in own and (value := getattr(options, key)) != field.default:
            raise InputError(f"sharding.{key} {shown(value)} does not go with sharding {options.name}; leave it out")
    given = {
        key: getattr(options, key) for key in own - {"adapted", "upcasts", "rank"} if getattr(options, key) is not None
    }
    given |= {key: value for key, value in auto_values(hidden_size).items() if given.get(key) == "auto"}
    return kind(**given, adapted=adapted, upcasts=upcasts)


def layers_of(program: Program) -> Layers:
    """The classes of a model's layers: those of tensor parallelism where the program is one process's."""
    if program.split is None:
        return Layers()
    from .tensor_parallel import SplitLayers

    return SplitLayers(program)
