"""Custom ``torch.autograd.Function`` classes, and ``torch.vmap``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ...errors import InputError
from ...programs.program import Event, Function, Hook, Made, Weight
from .marks import MARK, dtype_name
from .mode import Recorder


class Context:
    """The ``ctx`` of a custom ``torch.autograd.Function``."""

    def __init__(self, needs_input_grad: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs_input_grad
        self.to_save: tuple[Any, ...] = ()
        self.saved_tensors: tuple[Any, ...] = ()
        self.materialize_grads = True

    def save_for_backward(self, *tensors: Any) -> None:
        self.to_save = tensors

    def mark_non_differentiable(self, *_: Any) -> None:
        pass

    def mark_dirty(self, *_: Any) -> None:
        pass

    def set_materialize_grads(self, value: bool) -> None:
        self.materialize_grads = value


def apply(recorder: Recorder, function: Any, args: tuple[Any, ...]) -> Any:
    """Note a custom function: its forward, and its backward for a gradient of the shape of its result."""
    needs = tuple(isinstance(x, torch.Tensor) and recorder.requires_grad(x) for x in args)
    trains = recorder.grad_enabled and any(needs)
    context = Context(needs)
    outer, enabled = recorder.events, recorder.grad_enabled
    forward: list[Event] = []
    recorder.events, recorder.grad_enabled = forward, False
    if function.setup_context is torch.autograd.function._SingleLevelFunction.setup_context:
        out = function.forward(context, *args)
    else:
        out = function.forward(*args)
        function.setup_context(context, args, out)
    if not isinstance(out, torch.Tensor):
        raise InputError(f"the custom function {function.__name__} has several results, for which there is no rule")
    inner = recorder.operand(out)
    result = out
    if isinstance(inner, Weight) or any(out is x for x in args):
        with torch._C.DisableTorchFunction():
            result = out.view(out.shape)
        recorder.mark(result)
    getattr(result, MARK).own = trains
    inputs = tuple(recorder.encode(x) if isinstance(x, torch.Tensor) else None for x in args)
    saved = tuple(recorder.operand(x) if isinstance(x, torch.Tensor) else None for x in context.to_save)
    attached = tuple(recorder.operand(x) for x in vars(context).values() if isinstance(x, torch.Tensor))
    backward: list[Event] = []
    results: tuple[Any, ...] = ()
    unpacked: tuple[int, ...] = ()
    incoming = -1
    recorder.events = []  # what dies from here on, the frame of the forward has held
    if trains:
        with torch._C.DisableTorchFunction():
            context.saved_tensors = tuple(x if x is None else x.view(x.shape) for x in context.to_save)
            grad = torch.empty_like(out)
        unpacked = tuple(-1 if x is None else recorder.mark(x) for x in context.saved_tensors)
        incoming = recorder.mark(grad)
        recorder.events = backward
        grads = function.backward(context, grad)
        recorder.events = []
        grads = grads if isinstance(grads, tuple) else (grads,)
        results = tuple(
            recorder.operand(x) if need and x is not None else None for x, need in zip(grads, needs, strict=True)
        )
        del grads, grad
    del context, out
    recorder.events, recorder.grad_enabled = outer, enabled
    made = Made(getattr(result, MARK).slot, tuple(result.shape), dtype_name(result.dtype))
    if trains:
        recorder.lead([made], [x for x, grad in zip(inputs, results, strict=True) if x and grad is not None])
    recorder.events.append(
        Function(
            function.__name__,
            inputs,
            tuple(forward),
            made,
            inner,
            saved,
            attached,
            unpacked,
            incoming,
            tuple(backward),
            results,
        )
    )
    return result


def hooks(recorder: Recorder, model: torch.nn.Module, plain: Callable[[str], str]) -> dict[str, Hook]:
    """What the hooks of parameters do with a gradient, each called once. ``plain`` gives a parameter's name."""
    found: dict[str, Hook] = {}
    outer, enabled = recorder.events, recorder.grad_enabled
    for name, parameter in model.named_parameters():
        with torch._C.DisableTorchFunction():
            called = list((parameter._backward_hooks or {}).values())
            grad = torch.empty_like(parameter)
        if not called or not recorder.requires_grad(parameter):
            continue
        slot = recorder.mark(grad)
        recorder.events, recorder.grad_enabled = [], False
        for hook in called:
            changed = hook(grad)
            grad = grad if changed is None else changed
            del changed
        found[plain(name)] = Hook(slot, tuple(recorder.events), recorder.operand(grad))
        recorder.events = []  # the engine has held what dies from here on
        del grad
    recorder.events, recorder.grad_enabled = outer, enabled
    return found


class Vmap:
    """``torch.vmap`` of masks: functions of numbers, which are mapped over one index after the other.

    The same elements come from one call with indices that broadcast, the outermost as the first dimension. An index
    that the function does not look at is expanded, as it is by ``torch.vmap``.
    """

    def __init__(self) -> None:
        self.mapped: dict[int, int] = {}
        """For each index that is mapped now, by its position among the arguments, how many values it has."""

    def __call__(self, function: Callable[..., Any], in_dims: Any = 0, out_dims: Any = 0) -> Callable[..., Any]:
        positions = [i for i, dim in enumerate(in_dims) if dim is not None] if isinstance(in_dims, tuple) else []
        if len(positions) != 1 or in_dims[positions[0]] != 0 or out_dims != 0:
            raise InputError("torch.vmap over other than the first dimension of one operand has no rule")
        own = positions[0]

        def call(*args: Any) -> Any:
            if args[own].dim() != 1:
                raise InputError("torch.vmap over other than numbers has no rule")
            given = [x.unsqueeze(-1) if i in self.mapped else x for i, x in enumerate(args)]
            outermost = not self.mapped
            self.mapped[own] = args[own].shape[0]
            out = function(*given)
            if outermost:
                out = out.expand(tuple(self.mapped.values()))
                self.mapped.clear()
            return out

        return call
