"""Views."""

from __future__ import annotations

from typing import Any

from ... import operators as ops
from ...ledger import Size, Tensor
from .table import Result, rule


@rule("view", "reshape", "flatten", "unflatten", "view_as", "reshape_as")
def _reshape(out: Result, x: Tensor, *_: Any, **__: Any) -> Tensor:
    return ops.reshape(x, out.shape)


@rule("alias")
def _alias(out: Result, x: Tensor) -> Tensor:
    return ops.alias(x)


@rule("detach", "data")
def _detach(out: Result, x: Tensor) -> Tensor:
    return x.alias()


@rule("transpose")
def _transpose(out: Result, x: Tensor, dim0: int, dim1: int) -> Tensor:
    return ops.transpose(x, dim0, dim1)


@rule("t", "T", "mT", "adjoint")
def _matrix_transpose(out: Result, x: Tensor) -> Tensor:
    return ops.transpose(x, -2, -1) if len(x.shape) > 1 else ops.alias(x)


@rule("permute")
def _permute(out: Result, x: Tensor, *dims: Any) -> Tensor:
    order = dims[0] if isinstance(dims[0], tuple) else dims
    return ops.permute(x, tuple(d % len(x.shape) for d in order))


@rule("unsqueeze")
def _unsqueeze(out: Result, x: Tensor, dim: int) -> Tensor:
    return ops.unsqueeze(x, dim)


@rule("squeeze")
def _squeeze(out: Result, x: Tensor, dim: Any = None) -> Tensor:
    return ops.squeeze(x, out.shape)


@rule("expand", "expand_as", "broadcast_to")
def _expand(out: Result, x: Tensor, *_: Any, **__: Any) -> Tensor:
    return ops.expand(x, out.shape)


@rule("slice")
def _slice(out: Result, x: Tensor, dim: int, length: Size, step: int) -> Tensor:
    if length == 1 and step == 1 and x.ledger.inference_mode:  # the last token's states, whose strides a product sees
        return ops.narrow(x, dim, length, keeps_strides=True)
    return ops.slice(x, dim, length, step)


@rule("narrow")
def _narrow(out: Result, x: Tensor, dim: int, start: Any, length: Size) -> Tensor:
    return ops.slice(x, dim, length)


@rule("select")
def _select(out: Result, x: Tensor, dim: int, index: int = 0) -> Tensor:
    return ops.select(x, dim)


@rule("split", "split_with_sizes", "chunk")
def _split(out: Result, x: Tensor, sizes: Any, dim: int = 0) -> list[Tensor]:
    return ops.split_with_sizes(x, [shape[dim % len(x.shape)] for _, shape, _ in out.all], dim)


@rule("unbind")
def _unbind(out: Result, x: Tensor, dim: int = 0) -> list[Tensor]:
    return ops.unbind(x, dim)


@rule("unfold")
def _unfold(out: Result, x: Tensor, dimension: int, size: Size, step: Size) -> Tensor:
    return ops.unfold(x, dimension, size, step, out.shape[dimension % len(x.shape)])


@rule("view_as_complex")
def _view_as_complex(out: Result, x: Tensor) -> Tensor:
    return ops.view_as_complex(x)


@rule("view_as_real")
def _view_as_real(out: Result, x: Tensor) -> Tensor:
    return ops.view_as_real(x)


@rule("meshgrid")
def _meshgrid(out: Result, *tensors: Any, **_: Any) -> list[Tensor]:
    given = tensors[0] if isinstance(tensors[0], tuple) else tensors
    rank = len(given)
    views = [ops.view(x, tuple(x.numel if i == place else 1 for i in range(rank))) for place, x in enumerate(given)]
    return [ops.expand(x, shape) for x, (_, shape, _) in zip(views, out.all, strict=True)]


@rule("broadcast_tensors")
def _broadcast_tensors(out: Result, *tensors: Any) -> list[Tensor]:
    given = tensors[0] if isinstance(tensors[0], tuple) else tensors
    return [ops.expand(x, shape) for x, (_, shape, _) in zip(given, out.all, strict=True)]


@rule("movedim", "moveaxis")
def _movedim(out: Result, x: Tensor, source: Any, destination: Any) -> Tensor:
    rank = len(x.shape)
    sources = [d % rank for d in (source if isinstance(source, tuple) else (source,))]
    targets = [d % rank for d in (destination if isinstance(destination, tuple) else (destination,))]
    rest = iter(d for d in range(rank) if d not in sources)
    order = [sources[targets.index(d)] if d in targets else next(rest) for d in range(rank)]
    return ops.permute(x, tuple(order))
