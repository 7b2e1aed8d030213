"""DDP around a plan's model, in a group whose collectives move nothing."""

from __future__ import annotations

from typing import Any

import torch

from ...steps.sharding.ddp import Ddp


def wrapped(model: Any, sharding: Ddp) -> Any:
    """``DistributedDataParallel`` of the model, as the first rank has it.

    Two processes under gloo allocate the same, in the same order.
    """
    return torch.nn.parallel.DistributedDataParallel(
        model,
        process_group=_Group(0, sharding.world_size),
        gradient_as_bucket_view=sharding.gradient_as_bucket_view,
        find_unused_parameters=sharding.find_unused_parameters,
        static_graph=sharding.static_graph,
        bucket_cap_mb=sharding.bucket_cap_mb,
    )


class _Group(torch.distributed.ProcessGroup):  # type: ignore[misc]
    """Its work has results, which DDP's reducer asks for. PyTorch's fake group has none."""

    def allreduce(self, tensors: Any, options: Any = None) -> Any:
        return _done(tensors)

    def broadcast(self, tensors: Any, options: Any = None) -> Any:
        return _done(tensors)

    def allgather(self, outputs: Any, inputs: Any, options: Any = None) -> Any:
        for output, tensor in zip(outputs, inputs, strict=True):
            for part in output:
                part.copy_(tensor)
        return _done(outputs)


def _done(result: Any) -> Any:
    future = torch.futures.Future()
    future.set_result(result)
    return torch._C._distributed_c10d._create_work_from_future(future)
