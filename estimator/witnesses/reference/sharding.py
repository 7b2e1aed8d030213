"""A sharded step of one rank in one process, under PyTorch's fake process group, whose collectives move nothing.

All that a rank allocates it allocates here too, at any world size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ...plans.resolve import Resolved
from ...programs import Sharding
from ...steps.sharding.ddp import Ddp
from ...steps.sharding.fsdp1 import Fsdp1
from ...steps.sharding.fsdp2 import Fsdp2
from ...steps.sharding.tensor_parallel import TensorParallel
from ...steps.sharding.zero import Zero
from ...steps.sharding.zero3 import Zero3
from .zero import prepare


@contextmanager
def as_rank(sharding: Sharding | None, rank: int = 0) -> Iterator[None]:
    """Within it, the process is one of the world's ranks; without ``sharding`` nothing is done."""
    if sharding is None:
        yield
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if isinstance(sharding, (Zero, Zero3)):
        prepare(sharding.world_size, rank)
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=sharding.world_size)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def shard(model: Any, resolved: Resolved) -> Any:
    """The model as the first rank has it: each layer and the rest, or what accelerate takes together."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard

    sharding = resolved.step.sharding
    if isinstance(sharding, (TensorParallel, Zero, Zero3)):
        return model  # which is loaded so, or whose optimizer shares it
    if isinstance(sharding, Ddp):
        from . import ddp

        return ddp.wrapped(model, sharding)
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    layers = [inner.get_submodule(path) for path in resolved.sizes().program.paths]
    if isinstance(sharding, (Fsdp1, Fsdp2)) and sharding.upcasts:
        from .accelerated import prepared

        return prepared(model, sharding, {*layers})
    if isinstance(sharding, Fsdp1):
        from .fsdp1 import wrapped

        return wrapped(model, sharding, {*layers})
    assert isinstance(sharding, Fsdp2)
    if sharding.by_plan:
        return model  # which is loaded so
    names = ("fsdp",) if sharding.replicate == 1 else ("dp_replicate", "fsdp")
    shape = (sharding.replicate, sharding.shard)[-len(names) :]
    split = sharding.tp > 1
    mesh = inner._mesh_manager.get_mesh(names) if split else init_device_mesh("cpu", shape, mesh_dim_names=names)
    keys: dict[str, Any] = {"mesh": mesh}
    dtypes = [None if name is None else getattr(torch, name) for name in (sharding.param_dtype, sharding.reduce_dtype)]
    keys["mp_policy"] = MixedPrecisionPolicy(*dtypes)
    if sharding.cpu_offload:
        keys["offload_policy"] = CPUOffloadPolicy(pin_memory=False)  # which takes a GPU
    if sharding.groups == "accelerate":
        keys["ignored_params"] = {p for p in model.parameters() if not p.is_floating_point()}
    given = keys | {"reshard_after_forward": sharding.reshard_after_forward}
    for layer in layers:
        fully_shard(layer, **given)
    if sharding.groups == "layers":
        return fully_shard(model, **given)
    from accelerate.utils.fsdp_utils import _find_final_norm

    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head is not None and embedding.weight is head.weight
    if not tied:
        fully_shard(embedding, **given)
    tail = [one for one in (_find_final_norm(model), *([embedding] if tied else []), head) if one is not None]
    if tail:
        fully_shard(tail, **keys, reshard_after_forward=False)
    return fully_shard(model, **keys)


def sync(model: Any, sharding: Sharding | None, last: bool) -> None:
    """Reduce gradients in the backward passes that follow, or do not, as ``Accelerator.no_sync`` asks for it."""
    if sharding is not None and getattr(sharding, "sync_each_batch", True) is False:
        if isinstance(sharding, Ddp):
            model.require_backward_grad_sync = last  # as `no_sync` does
        elif isinstance(sharding, Fsdp1):
            for module in model.fsdp_modules(model):
                module._sync_gradients = last  # as `no_sync` does
        else:
            model.set_requires_gradient_sync(last)


def communication(model: Any) -> int:
    """Bytes of DDP's buckets, and of its two maps of parameters that were used; of FSDP's what is gathered now."""
    if not isinstance(model, torch.nn.parallel.DistributedDataParallel):
        return sum({t.data_ptr(): t.untyped_storage().nbytes() for t in gathered(model)}.values())
    buckets = [bucket.buffer() for bucket in model.reducer._get_zeros_like_grad_buckets()]
    maps = [model.reducer._get_local_used_map()] * 2 if model.find_unused_parameters else []
    return sum(int(tensor.nbytes) for tensor in (*buckets, *maps))


def reshard(model: Any) -> None:
    """Free what FSDP2 has gathered, as no forward pass without a backward pass does."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def local(tensor: torch.Tensor) -> torch.Tensor:
    """A rank's own part of a sharded tensor; any other tensor as it is."""
    part: torch.Tensor = getattr(tensor, "_local_tensor", tensor)
    return part


def gathered(model: Any) -> list[torch.Tensor]:
    """The parameters as they are gathered, whose storages have no bytes between steps."""
    from torch.distributed.fsdp import FSDPModule

    from .fsdp1 import flat_parameters

    groups = [
        group
        for module in model.modules()
        if isinstance(module, FSDPModule)
        for group in module._get_fsdp_state()._fsdp_param_groups
    ]
    params = [p for group in groups for p in group.fsdp_params]
    found = [tensor for p in params for tensor in p.all_gather_outputs]
    parts = [getattr(p, "_sharded_post_forward_param_data", None) for p in params]
    found += [part for part in parts if part is not None]
    return found + flat_parameters(model, "_full_param_padded", "_mp_shard")


def shards(model: Any) -> list[torch.Tensor]:
    """What FSDP1 keeps of parameters, some of which it does not give back to their modules in a world of one."""
    from .fsdp1 import flat_parameters

    return flat_parameters(model, "_local_shard")
