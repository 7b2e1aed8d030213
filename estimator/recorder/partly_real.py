"""Builds and runs a module of which small tensors have data and large ones have none. Needs PyTorch.

Weights of a large model stay on the meta device, which has no data. Index tensors, masks and small adapters are real,
so a library may look at what it has drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ..operators import DEVICES
from .calls.data import tensors_in

LARGEST_FLOATING = 2**16
"""The most elements of a new tensor of floating numbers that has data."""
LARGEST = 2**26
"""The most elements of any new tensor that has data."""


class PartlyReal(TorchDispatchMode):  # type: ignore[misc]
    """Runs an operator without data if one of its operands has none, and else for real.

    Where PyTorch cannot run an operator without data, it gets random data. Results are laid out in memory as on
    ``device``, ``cpu`` or ``cuda``.
    """

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = list(tensors_in((args, kwargs)))
        if any(x.is_meta for x in tensors):
            out = _without_data(function, args, kwargs, all(x.is_meta for x in tensors))
            return _as_lapack(out) if function in _SVD and DEVICES[self.device].lapack else out
        if not tensors and "device" in kwargs:
            shapes = function(*args, **{**kwargs, "device": "meta", **_no_generator(kwargs)})
            if not isinstance(shapes, torch.Tensor) or not _is_small(shapes):
                return shapes
            kwargs["device"] = "cpu"
        return function(*args, **kwargs)


_SVD = (torch.ops.aten._linalg_svd.default,)


def _as_lapack(out: Any) -> Any:
    """The singular vectors of LAPACK, which fills the columns first. Without data they are laid out as a GPU's."""
    u, s, vh = out
    return u, s, torch.empty_like(vh.mT, memory_format=torch.contiguous_format).mT


def _is_small(x: torch.Tensor) -> bool:
    return bool(x.numel() <= (LARGEST_FLOATING if x.dtype.is_floating_point or x.dtype.is_complex else LARGEST))


def _no_generator(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {"generator": None} if "generator" in kwargs else {}


def _without_data(function: Any, args: Any, kwargs: dict[str, Any], none_has_data: bool) -> Any:
    if kwargs.get("device") is not None:
        kwargs["device"] = torch.device("meta")
    kwargs.update(_no_generator(kwargs))
    memo: dict[int, torch.Tensor] = {}
    try:
        if none_has_data:
            return function(*args, **kwargs)
        out = function(*_each(args, memo, _meta), **_each(kwargs, memo, _meta))
    except (NotImplementedError, RuntimeError):
        memo = {}
        out = function(*_each(args, memo, _random), **_each(kwargs, memo, _random))
    originals = {id(made): x for x, made in memo.values()}
    return torch.utils._pytree.tree_map(lambda x: originals.get(id(x), x), out)


def _each(tree: Any, memo: dict[int, Any], change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """A tree with changed tensors, which are noted in ``memo`` beside their originals: ``x.add_(y)`` gives x back."""

    def changed(x: Any) -> Any:
        if not isinstance(x, torch.Tensor):
            return x
        if id(x) not in memo:
            memo[id(x)] = (x, change(x))
        return memo[id(x)][1]

    return torch.utils._pytree.tree_map(changed, tree)


def _meta(x: torch.Tensor) -> torch.Tensor:
    return x if x.is_meta else torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")


def _random(x: torch.Tensor) -> torch.Tensor:
    if not x.is_meta:
        return x
    if x.dtype.is_floating_point or x.dtype.is_complex:
        return torch.rand(x.shape, dtype=x.dtype, device="cpu")
    return torch.ones(x.shape, dtype=x.dtype, device="cpu")


class _OnCpu(torch.overrides.TorchFunctionMode):  # type: ignore[misc]
    """Tells a library that all tensors are on the CPU."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if name in ("__get__", "__set__"):
            attribute = function.__self__.__name__
            if attribute == "device":
                return torch.device("cpu")
            if attribute in ("is_meta", "is_cpu"):
                return attribute == "is_cpu"
            if attribute == "data" and name == "__set__" and args[0].is_meta != args[1].is_meta:
                return function(args[0], (_meta if args[0].is_meta else _random)(args[1]))
        kwargs = kwargs or {}
        if name == "to":  # where all tensors are on one device, moving copies nothing
            on = _its_device(args[0])
            args, kwargs = tuple(map(on, args)), {key: on(value) for key, value in kwargs.items()}
        return function(*args, **kwargs)


def _its_device(x: torch.Tensor) -> Callable[[Any], Any]:
    """Puts the device that a tensor is on in the place of any other."""

    def changed(value: Any) -> Any:
        is_device = isinstance(value, torch.device) or (isinstance(value, str) and value in ("cpu", "cuda", "meta"))
        return x.device if is_device else value

    return changed


@contextmanager
def building(device: str = "cpu") -> Iterator[None]:
    """Within it, a library wraps a model on the meta device as it would one on the CPU.

    ``device``: where results are laid out as on it.
    """
    with PartlyReal(device), _OnCpu():
        yield
