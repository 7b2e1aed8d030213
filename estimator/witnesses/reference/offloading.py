"""Saved tensors in the host's memory, on the real model; ``steps/offloading.py`` has the rules."""

from __future__ import annotations

from typing import Any

import torch

from ...ledger import Pinned
from ...steps.offloading import block_bytes

pinned = Pinned()
"""The blocks of ``_Held``."""


def saved_on_host(device: str = "cpu") -> Any:
    """``save_on_cpu(pin_memory=True)`` on a GPU, and a substitute on a CPU.

    The substitute keeps saved tensors in memory that PyTorch's allocator does not count, as if it were another
    device's: the bytes that it counts are those of the device that runs the model.
    """
    if device != "cpu":
        return torch.autograd.graph.save_on_cpu(pin_memory=True, device_type=device)
    return torch.autograd.graph.saved_tensors_hooks(
        _Held, lambda held: torch.empty_like(held.tensor).copy_(held.tensor)
    )


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class _Held:
    """A saved tensor outside PyTorch's allocator, and the bytes of its pinned block."""

    def __init__(self, tensor: Any) -> None:
        on_device = None if tensor.is_contiguous() else tensor.new_empty(tensor.shape)  # a GPU's copy needs it
        values = tensor.detach().view(_INTEGERS[tensor.element_size()]).numpy()  # NumPy has no bfloat16
        self.tensor = torch.from_numpy(values.copy(order="C")).view(tensor.dtype)
        del on_device
        self.block = block_bytes(tensor.nbytes)
        pinned.take(self.block, 1)

    def __del__(self) -> None:
        pinned.take(self.block, -1)
