"""The ``sharding`` block of a plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ...errors import InputError, shown
from ...io.fields import Whole


class ShardingOptions(BaseModel):
    """How the processes of a job share a model. All that is answered is of the first of them."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    name: Literal["fsdp2"] = Field(description="what splits the model: fsdp2 (fully_shard of each layer and the rest)")
    world_size: Whole = Field(ge=1, le=10**6, description="sharding: number of processes, each with its own batch")


_NAMES = ("ddp", "fsdp1", "hsdp", "zero1", "zero2", "zero3")
_KEYS = (
    *("reshard_after_forward", "param_dtype", "reduce_dtype", "groups", "sync_each_batch", "cpu_offload"),
    *("replicate", "shard", "tp", "cp", "pp", "ep"),
)


def checked_words(block: Any) -> Any:
    """A block of sharding, from its name alone too. Raises ``InputError`` for what is known and has no rules yet."""
    block = {"name": block} if isinstance(block, str) else block
    if not isinstance(block, Mapping):
        return block
    name = block.get("name")
    name = name.lower().replace("_", "-") if isinstance(name, str) else name
    if isinstance(name, str) and name in _NAMES:
        raise InputError(f"sharding {name} has no rules yet; take fsdp2")
    if later := [key for key in _KEYS if key in block]:
        raise InputError(
            f"sharding.{later[0]} {shown(block[later[0]])} has no rule yet; leave it out, for PyTorch's default"
        )
    if "name" not in block:
        raise InputError("sharding has no name; add one: --sharding fsdp2, or {name: fsdp2, world_size: 8}")
    if "world_size" not in block:
        raise InputError("sharding has no world_size; add the number of processes: --world-size 8")
    return {**block, "name": name}
