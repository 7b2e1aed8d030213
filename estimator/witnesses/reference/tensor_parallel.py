"""A model as transformers loads it for one of several processes, on a CPU and for the first one."""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from typing import Any
from unittest import mock

from transformers.distributed import DistributedConfig

from ...programs import Sharding

APPLY = "transformers.distributed.mixin.apply_fully_sharded_data_parallelism"


def split(model: Any, sharding: Sharding) -> Any:
    """The model as ``from_pretrained`` loads it for one process of ``tp`` (``tp_plan``), on a mesh of all processes,
    and where ``groups`` are transformers' own, of ``fully_shard`` (``fsdp_plan``).

    On a CPU that maps the file, of which weights are views. They are copied, as a device has them.
    """
    sizes = {"tp_size": sharding.tp, "fsdp_size": sharding.shard, "dp_replicate_size": sharding.replicate}
    flags = {
        "fsdp_cpu_offload": sharding.offloads,
        "fsdp_mixed_precision": bool(getattr(sharding, "param_dtype", None)),
    }
    whole = nullcontext() if getattr(sharding, "by_plan", False) else mock.patch(APPLY, lambda model, *_: model)
    with tempfile.TemporaryDirectory() as folder, whole:
        model.save_pretrained(folder)
        loaded = type(model).from_pretrained(
            folder,
            config=model.config,
            dtype=model.dtype,
            attn_implementation=model.config._attn_implementation,
            distributed_config=DistributedConfig(**sizes, **flags),
        )
        for parameter in loaded.parameters():
            if hasattr(parameter, "_local_tensor"):
                parameter._local_tensor = parameter._local_tensor.detach().clone()
            else:
                parameter.data = parameter.data.clone()
    return loaded
