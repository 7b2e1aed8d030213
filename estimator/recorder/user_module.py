"""Programs of modules that are no language model of transformers: a user's own. Needs PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from ..errors import InputError
from ..ledger import Size
from ..programs.module_table import NamedModule
from ..programs.modules import Method
from ..programs.program import Program, Stored
from ..programs.recorded import Config, Source, no_language_model
from ..programs.step import Step
from .calls import dtype_name, modules_of, record
from .hugging_face import autocast, first_line, told

Loss = Callable[[Any], torch.Tensor]
"""From a module's output to the loss, a scalar."""


class Own(Source):
    """The program of a module, called with ``inputs``."""

    attention = "eager"
    origin = release = ""

    def __init__(self, module: torch.nn.Module, inputs: Mapping[str, Any], loss: Loss | None) -> None:
        self._module, self._inputs, self._loss = module, inputs, loss
        self._programs: dict[tuple[str, str | None, bool], Program] = {}

    def modules(self) -> tuple[NamedModule[int], ...]:
        return tuple(modules_of(self._module))

    def parameters(self) -> dict[str, tuple[Size, ...]]:
        return {name: tuple(p.shape) for name, p in self._module.named_parameters()}

    def at(self, step: Step, batch: Size, seq: Size) -> Program:
        """The program of a forward pass, and of the loss unless the step is of inference."""
        device = step.device.type
        key = device, step.autocast, not step.procedure.trains
        if key not in self._programs:
            self._programs[key] = self._record(*key)
        return self._programs[key]

    def _record(self, device: str, dtype: str | None, infers: bool) -> Program:
        module = self._module
        inputs = {name: _without_data(x) for name, x in self._inputs.items()}
        tensors = {name: x for name, x in inputs.items() if isinstance(x, torch.Tensor)}
        precision = None if dtype is None else getattr(torch, dtype)
        training = module.training

        def call() -> Mapping[str, Any]:
            with autocast(device, precision):
                out = module(**inputs)
                loss = None if infers else self._loss_of(out)
            leaves = [x for x in torch.utils._pytree.tree_leaves(out) if isinstance(x, torch.Tensor) and x is not loss]
            return {**({} if loss is None else {"loss": loss}), **{f"output {i}": x for i, x in enumerate(leaves)}}

        module.train(not infers)
        name = type(module).__name__
        try:
            with told(lambda error: f"{name} does not run with these inputs ({first_line(error)})"), on_meta(module):
                return record(module, tensors, call, device, precision)
        finally:
            module.train(training)

    def _loss_of(self, out: Any) -> torch.Tensor:
        loss = out if self._loss is None else self._loss(out)
        if self._loss is None and not isinstance(out, torch.Tensor):
            loss = out.get("loss") if isinstance(out, Mapping) else getattr(out, "loss", None)
        if not isinstance(loss, torch.Tensor) or loss.dim():
            raise InputError("the module gives no loss, which is a scalar; name one, as in loss=lambda out: out.mean()")
        return loss


class AsRecorded(Method):
    """Trains the parameters that require a gradient in the module."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._trained: dict[str, bool] = {name: p.requires_grad for name, p in module.named_parameters()}

    def trains(self, path: str) -> bool:
        return self._trained[path]


def own_config(module: torch.nn.Module, inputs: Mapping[str, Any], loss: Loss | None) -> Config:
    """What answers ask of a model, for a module of the user's own."""
    given = tuple(
        Stored(name, tuple(x.shape), dtype_name(x.dtype)) for name, x in inputs.items() if isinstance(x, torch.Tensor)
    )
    return no_language_model(type(module).__name__, Own(module, inputs, loss), given)


def dtype_of(module: torch.nn.Module) -> str:
    """The dtype of most of a module's parameters."""
    counts: dict[str, int] = {}
    for p in module.parameters():
        counts[dtype_name(p.dtype)] = counts.get(dtype_name(p.dtype), 0) + p.numel()
    return max(counts, key=lambda dtype: counts[dtype], default="float32")


def _without_data(x: Any) -> Any:
    return torch.empty_like(x, device="meta") if isinstance(x, torch.Tensor) else x


@contextmanager
def on_meta(module: torch.nn.Module) -> Iterator[None]:
    """Within it, the module's parameters and buffers have no data. Tied ones stay tied, and hooks on gradients stay."""
    made: dict[int, Any] = {}
    replaced: list[tuple[dict[str, Any], str, Any]] = []
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, x in tensors.items():
                if x is None or x.is_meta:
                    continue
                if id(x) not in made:
                    made[id(x)] = torch.empty_like(x, device="meta")
                    if isinstance(x, torch.nn.Parameter):
                        made[id(x)] = torch.nn.Parameter(made[id(x)], requires_grad=x.requires_grad)
                    for hook in (x._backward_hooks or {}).values():
                        made[id(x)].register_hook(hook)
                replaced.append((tensors, name, x))
                tensors[name] = made[id(x)]
    try:
        yield
    finally:
        for tensors, name, x in replaced:
            tensors[name] = x
