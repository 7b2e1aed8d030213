"""FSDP1's wrapper around a plan's model, as accelerate makes it."""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision, ShardingStrategy

from ...steps.sharding.fsdp1 import Fsdp1


def handles_of(model: Any) -> list[Any]:
    """The handles of all flat parameters."""
    return [m._handle for m in FullyShardedDataParallel.fsdp_modules(model) if m._handle is not None]


def policy_of(model: Any, sharding: Any, layers: set[Any]) -> Any:
    """Which modules are units of their own: the layers; under transformers' trainer those that PEFT's policy finds."""
    if sharding.groups == "transformers" and sharding.adapted:
        from peft.utils.other import fsdp_auto_wrap_policy

        return fsdp_auto_wrap_policy(model)
    return lambda module, recurse=False, nonwrapped_numel=0: recurse or module in layers


def strategy_of(sharding: Any) -> str:
    """The name of the ``ShardingStrategy`` of as many replicas, which frees parameters after forward or keeps them."""
    names = ("SHARD_GRAD_OP", "FULL_SHARD") if sharding.replicate == 1 else ("_HYBRID_SHARD_ZERO2", "HYBRID_SHARD")
    return names[sharding.reshard_after_forward]


def wrapped(model: Any, sharding: Fsdp1, layers: set[Any]) -> Any:
    """``FullyShardedDataParallel`` around each of the layers, then around the model."""
    param, reduce = (name and getattr(torch, name) for name in (sharding.param_dtype, sharding.reduce_dtype))
    mesh = {"device_mesh": init_device_mesh("cpu", (sharding.replicate, sharding.shard))}
    return FullyShardedDataParallel(
        model,
        sharding_strategy=ShardingStrategy[strategy_of(sharding)],
        auto_wrap_policy=policy_of(model, sharding, layers),
        mixed_precision=MixedPrecision(param_dtype=param, reduce_dtype=reduce),
        device_id=torch.device("cpu"),
        use_orig_params=True,
        **(mesh if sharding.replicate > 1 else {}),
    )


def flat_parameters(model: Any, *names: str) -> list[torch.Tensor]:
    """The attributes of these names, of all flat parameters that have them."""
    flat = [vars(handle.flat_param) for handle in handles_of(model)]
    return [held[name] for held in flat for name in names if name in held]
