"""FSDP1's wrapper around a plan's model, as accelerate makes it."""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision, ShardingStrategy

from ...steps.sharding.fsdp1 import Fsdp1


def wrapped(model: Any, sharding: Fsdp1, layers: set[Any]) -> Any:
    """``FullyShardedDataParallel`` around each of the layers, then around the model."""
    param, reduce = (name and getattr(torch, name) for name in (sharding.param_dtype, sharding.reduce_dtype))
    strategies = {1: ("SHARD_GRAD_OP", "FULL_SHARD")}.get(sharding.replicate, ("_HYBRID_SHARD_ZERO2", "HYBRID_SHARD"))
    mesh = {"device_mesh": init_device_mesh("cpu", (sharding.replicate, sharding.shard))}
    return FullyShardedDataParallel(
        model,
        sharding_strategy=ShardingStrategy[strategies[sharding.reshard_after_forward]],
        auto_wrap_policy=lambda module, recurse, nonwrapped_numel: recurse or module in layers,
        mixed_precision=MixedPrecision(param_dtype=param, reduce_dtype=reduce),
        device_id=torch.device("cpu"),
        use_orig_params=True,
        **(mesh if sharding.replicate > 1 else {}),
    )


def flat_parameters(model: Any) -> list[torch.Tensor]:
    """The flat parameters as they are gathered, whose storages have no bytes between steps."""
    flat = [vars(m._handle.flat_param) for m in FullyShardedDataParallel.fsdp_modules(model) if m._handle is not None]
    return [held[name] for held in flat for name in ("_full_param_padded", "_mp_shard") if name in held]
