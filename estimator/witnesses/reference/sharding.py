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


@contextmanager
def first_rank(sharding: Sharding | None) -> Iterator[None]:
    """Within it, the process is the first of the world's ranks; without ``sharding`` nothing is done."""
    if sharding is None:
        yield
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=sharding.world_size)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def shard(model: Any, resolved: Resolved) -> None:
    """``fully_shard`` of each layer, then of the model, with PyTorch's defaults."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    sharding, sizes = resolved.step.sharding, resolved.sizes()
    assert sharding is not None
    mesh = init_device_mesh("cpu", (sharding.world_size,))
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    for path in sizes.program.paths:
        fully_shard(inner.get_submodule(path), mesh=mesh)
    fully_shard(model, mesh=mesh)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """A rank's own part of a sharded tensor; any other tensor as it is."""
    part: torch.Tensor = getattr(tensor, "_local_tensor", tensor)
    return part


def gathered(model: Any) -> list[torch.Tensor]:
    """The parameters as they are gathered, whose storages have no bytes between steps."""
    from torch.distributed.fsdp import FSDPModule

    groups = [
        group
        for module in model.modules()
        if isinstance(module, FSDPModule)
        for group in module._get_fsdp_state()._fsdp_param_groups
    ]
    return [tensor for group in groups for p in group.fsdp_params for tensor in p.all_gather_outputs]
