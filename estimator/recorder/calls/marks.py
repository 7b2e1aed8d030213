"""What hangs on a tensor's Python object while it is recorded."""

from __future__ import annotations

import torch

from .data import Known

MARK = "_estimator_mark"


def dtype_name(dtype: torch.dtype) -> str:
    """PyTorch's name of a dtype: ``bfloat16``."""
    return str(dtype).removeprefix("torch.")


class Memory:
    """What views of one tensor share. When one is written in place, the others are part of the graph as well."""

    __slots__ = ("trains",)

    def __init__(self) -> None:
        self.trains = False


class Mark:
    """On a tensor's Python object: its slot. When the object dies, so does the mark, which notes that."""

    __slots__ = ("answer", "known", "memory", "own", "recorder", "slot")

    def __init__(
        self, slot: int, recorder: torch.overrides.TorchFunctionMode, requires_grad: bool, memory: Memory
    ) -> None:
        self.slot, self.recorder, self.own, self.memory = slot, recorder, requires_grad, memory
        self.known: Known | None = None
        """What is known of its data."""
        self.answer: bool | None = None
        """What it says of numbers that are not known, if it asks whether they are finite or valid: they are."""

    @property
    def requires_grad(self) -> bool:
        """What ``tensor.requires_grad`` would be if autograd ran."""
        return self.own or self.memory.trains

    def __del__(self) -> None:
        self.recorder.died(self.slot)


def known_of(x: torch.Tensor) -> Known | None:
    """What a tensor's mark says of its data."""
    mark = getattr(x, MARK, None)
    return None if mark is None else mark.known


def set_known(x: torch.Tensor, known: Known) -> None:
    """Note a tensor's data on its mark."""
    mark = getattr(x, MARK, None)
    if mark is not None:
        mark.known = known


def memory_of(x: torch.Tensor) -> Memory | None:
    """What a tensor shares with its views, if it has a mark."""
    mark = getattr(x, MARK, None)
    return None if mark is None else mark.memory


def storage_of(x: torch.Tensor) -> int:
    """What is one and the same for views of one tensor. Zero for a sparse one, which has no storage."""
    return 0 if x.is_sparse else int(x.untyped_storage()._cdata)


def elements_held(x: torch.Tensor) -> int:
    """The elements of a tensor's storage, which are more than its own where it is a view."""
    return int(x.numel() if x.is_sparse else x.untyped_storage().nbytes() // x.element_size())
