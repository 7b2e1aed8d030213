"""Records a training step that the user wrote: forward, backward, accumulation, the optimizer. Needs PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..errors import InputError
from ..programs.program import Backward, Event, Program, Ref, Stored
from .calls import Recorder, dtype_name, recording
from .calls.data import tensors_in
from .calls.marks import MARK


class _StepRecorder(Recorder):
    """Notes a whole step. Parameters and other tensors that the step finds are noted as it meets them."""

    def __init__(self, device: str) -> None:
        super().__init__(torch.nn.Module(), device)
        self.parameters: list[Stored] = []
        self._objects: dict[str, torch.Tensor] = {}
        self.outermost: dict[int, str] = {}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(not x.is_meta for x in tensors_in((args, kwargs or {}))):
            raise InputError(
                "the step uses a tensor that has data; build modules, optimizers and batches under "
                'torch.device("meta"), so that nothing is computed'
            )
        return super().__torch_function__(function, types, args, kwargs)

    def found(self, tensor: torch.Tensor) -> str:
        if not torch._C.TensorBase.requires_grad.__get__(tensor):
            return super().found(tensor)
        name = f"parameter {len(self.parameters)}"
        self.parameters.append(Stored(name, tuple(tensor.shape), dtype_name(tensor.dtype), True))
        self._objects[name] = tensor
        return name

    def gradient(self, x: torch.Tensor) -> torch.Tensor | None:
        grad: torch.Tensor | None = torch._C.TensorBase.grad.__get__(x)
        return grad

    def set_gradient(self, x: torch.Tensor, grad: torch.Tensor | None) -> None:
        if grad is not None:
            raise InputError("a step that puts a tensor in the place of a gradient has no rule; zero_grad() is fine")
        torch._C.TensorBase.grad.__set__(x, None)

    def backward(self, loss: torch.Tensor) -> None:
        ref = self.operand(loss)
        if not isinstance(ref, Ref):
            raise InputError("the loss does not depend on anything that the step computes")
        grads = []
        with torch._C.DisableTorchFunction():
            for name in sorted(self._objects.keys() & self.reached(ref), key=_number):
                p = self._objects[name]
                if p.grad is None:
                    p.grad = torch.empty_like(p)
                    grads.append((name, self.mark(p.grad)))
        self.events.append(Backward(ref, tuple(grads)))

    def read_unknown(self, name: str) -> Any:
        """A number that an optimizer reads, such as a norm. It is taken to be one: memory depends on none."""
        return 1.0 if name in ("item", "__float__") and not self.grad_enabled else super().read_unknown(name)

    def made_before(self) -> list[Any]:
        """The tensors that the step has found."""
        return self._held


def _number(name: str) -> int:
    return int(name.rpartition(" ")[2])


def record_step(function: Callable[[], Any], device: str) -> tuple[Program, frozenset[str]]:
    """The program of the second of two steps, and the names of what the first one left: an optimizer's states.

    Raises ``InputError`` where the step computes with data.
    """
    first = _StepRecorder(device)
    with recording(first):
        out = function()
    first.events = []
    del out
    second = _StepRecorder(device)
    with recording(second):
        out = function()
    if not any(isinstance(event, Backward) for event in second.events):
        raise InputError("the step calls no loss.backward(); estimator.record answers for a forward pass alone")
    events: tuple[Event, ...] = tuple(second.events)
    second.events = []
    del out
    states = frozenset(
        second.operand(x).name  # type: ignore[union-attr]
        for x in second.made_before()
        if getattr(getattr(x, MARK, None), "recorder", None) is first
    )
    program = Program(
        modules=(),
        parameters=tuple(second.parameters),
        buffers=(),
        attributes=tuple(second.attributes),
        inputs={},
        outputs={},
        before=events,
        bodies=(),
        layers=(),
        after=(),
    )
    return program, states
