"""Sums, means and norms."""

from __future__ import annotations

from collections.abc import Collection

from ..ledger import RESULT, Call, Shape, Size, Tensor, record
from .casts import widened, widens
from .device import THREADS
from .elementwise import elementwise, wrapped_number
from .layout import Grads
from .views import expand, unsqueeze


def _without(shape: Shape, dim: int, keepdim: bool = False) -> Shape:
    return (*shape[:dim], *((1,) if keepdim else ()), *shape[dim + 1 :])


def summed(x: Tensor, dims: Collection[int], shape: Shape, dtype: str | None = None) -> Tensor:
    """Allocate a sum or a norm of ``x`` over ``dims``, with a result of ``shape``.

    CUDA's kernels read any dtype and add up in float32 (``gpu_reduce_kernel``), so they make no copy of ``x``.
    """
    ledger = x.ledger
    out = ledger.empty(shape, dtype or x.dtype)
    ledger.transient(*ledger.device.workspace_of_sum(x, [i in dims for i in range(len(x.shape))]))
    return out


def sum(x: Tensor, dim: int, keepdim: bool = False) -> Tensor:
    """``x.sum(dim)``: saves nothing. The backward expands the gradient.

    Under a GPU's autocast the sum of a 16-bit tensor is in float32, without a copy of the tensor.
    """
    dim %= len(x.shape)
    dtype = "float32" if widens(x) else x.dtype
    shape = _without(x.shape, dim, keepdim)
    return record(
        "SumBackward1", lambda: summed(x, (dim,), shape, dtype), (x,), (), _sum_backward, x.shape, dim, keepdim
    )


def _sum_backward(call: Call) -> Grads:
    shape, dim, keepdim = call.args
    grad = call.grad if keepdim else unsqueeze(call.grad, dim)
    return (expand(grad, shape),)


def mean(x: Tensor, dim: int, keepdim: bool = False) -> Tensor:
    """``x.mean(dim)``: saves nothing."""
    dim %= len(x.shape)

    def make() -> Tensor:
        ledger = x.ledger
        out = ledger.empty(_without(x.shape, dim, keepdim), x.dtype)
        ledger.transient(*ledger.device.workspace_of_mean(x, [i == dim for i in range(len(x.shape))]))
        return out

    return record("MeanBackward1", make, (x,), (), _mean_backward, x.shape)


def _mean_backward(call: Call) -> Grads:
    operand = wrapped_number(call.ledger, call.grad.dtype)
    out = call.ledger.empty(call.args[0], call.grad.dtype)
    del operand
    return (out,)


def linalg_vector_norm(x: Tensor, dim: int | None = None) -> Tensor:
    """``torch.linalg.vector_norm(x, dim=dim)``, p = 2: saves its input and its result."""
    x = widened(x)
    rank = len(x.shape)
    dims, shape = (range(rank), ()) if dim is None else ((dim % rank,), _without(x.shape, dim % rank))
    return record("LinalgVectorNormBackward0", lambda: summed(x, dims, shape), (x,), (x, RESULT), _vector_norm_backward)


def _vector_norm_backward(call: Call) -> Grads:
    # norm_backward: grad * (self / norm).masked_fill_(norm == 0, 0)
    x, norm = call.saved
    zero = call.ledger.empty(norm.shape, "bool")
    quotient = elementwise((x,), x.dtype)
    out = elementwise((quotient,), x.dtype)
    del zero
    return (out,)


def histc(x: Tensor, bins: Size) -> Tensor:
    """``torch.histc(x, bins)``: has no derivative. A CPU counts in each thread (``HistogramKernel.cpp``)."""
    ledger = x.ledger
    edges = ledger.empty((bins + 1,), x.dtype)
    out = ledger.empty((bins,), x.dtype)
    if ledger.device.splits_by_thread:
        ledger.empty((THREADS, bins), x.dtype)
    del edges
    return out
