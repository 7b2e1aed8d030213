"""A model as accelerate's own ``prepare_model`` shards it under mixed precision, on a CPU."""

from __future__ import annotations

import os
from typing import Any
from unittest.mock import patch

import torch
from torch.distributed.fsdp import MixedPrecision, MixedPrecisionPolicy

from ...steps.sharding.fsdp1 import Fsdp1
from ...steps.sharding.fsdp2 import Fsdp2
from .fsdp1 import policy_of, strategy_of


def prepared(model: Any, sharding: Fsdp1 | Fsdp2, layers: set[Any]) -> Any:
    """The model after ``Accelerator.prepare_model``. Autocast is left to the step that runs it."""
    from accelerate import Accelerator, PartialState
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, ParallelismConfig
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model

    version = 1 if isinstance(sharding, Fsdp1) else 2
    param, reduce = (name and getattr(torch, name) for name in (sharding.param_dtype, sharding.reduce_dtype))
    reshard: Any = sharding.reshard_after_forward is not False
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": str(sharding.world_size), "MASTER_ADDR": "localhost"}
    names = {"transformer_cls_names_to_wrap": [type(layer).__name__ for layer in layers]}
    policy: dict[str, Any] = {"auto_wrap_policy": "transformer_based_wrap", **names}
    if version == 1:
        policy = {"auto_wrap_policy": policy_of(model, sharding, layers)}
    mesh = ParallelismConfig(dp_replicate_size=sharding.replicate, dp_shard_size=sharding.shard)
    AcceleratorState._reset_state(reset_partial_state=True)
    with patch.dict(os.environ, {**ranks, "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": str(version)}):
        state = PartialState(cpu=True)
        state._shared_state.update(distributed_type=DistributedType.MULTI_GPU, device=torch.device("cpu"))
        accelerator = Accelerator(
            cpu=True,
            mixed_precision="bf16",
            parallelism_config=mesh if version == 2 else None,
            fsdp_plugin=FullyShardedDataParallelPlugin(
                fsdp_version=version,
                backward_prefetch="BACKWARD_PRE",
                **policy,
                cpu_ram_efficient_loading=False,
                reshard_after_forward=reshard if version == 2 else strategy_of(sharding),
                mixed_precision_policy=(MixedPrecision if version == 1 else MixedPrecisionPolicy)(param, reduce),
                use_orig_params=True if version == 1 else None,
            ),
        )
        accelerator.native_amp = False
        try:
            return accelerator.prepare_model(model) if version == 1 else fsdp2_prepare_model(accelerator, model)
        finally:
            AcceleratorState._reset_state(reset_partial_state=True)
