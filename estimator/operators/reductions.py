"""Sums, means and norms."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from ..ledger import FLOATING, ITEMSIZE, RESULT, Backward, Call, Shape, Size, Tensor, record
from ..ledger.graph import Saved
from .casts import widened, widens
from .device import THREADS
from .elementwise import div, elementwise, with_number, without_gradient, wrapped_number
from .layout import Grads, empty_like
from .table import Kept, Result, operator, saves
from .views import expand, unsqueeze

Dims = int | Sequence[int] | None
"""Dimensions to reduce: one, several, or all."""


def _dims(x: Tensor, dim: Dims) -> tuple[int, ...]:
    rank = len(x.shape)
    if dim is None or dim == ():
        return tuple(range(rank))
    return tuple(sorted(d % rank for d in ((dim,) if isinstance(dim, int) else dim) if rank))


def _without(shape: Shape, dims: Collection[int], keepdim: bool) -> Shape:
    return tuple(1 if i in dims else size for i, size in enumerate(shape) if keepdim or i not in dims)


def _restored(x: Tensor, dims: Sequence[int], keepdim: bool) -> Tensor:
    """A reduction's result or gradient, with the reduced dimensions (``restore_reduced_dims``)."""
    if not keepdim:
        for dim in dims:
            x = unsqueeze(x, dim)
    return x


def summed(x: Tensor, dims: Collection[int], shape: Shape, dtype: str | None = None) -> Tensor:
    """Allocate a sum or a norm of ``x`` over ``dims``, with a result of ``shape``.

    CUDA's kernels read any dtype and add up in float32 (``gpu_reduce_kernel``), so they make no copy of ``x``.
    """
    ledger = x.ledger
    out = ledger.empty(shape, dtype or x.dtype)
    ledger.transient(*ledger.device.workspace_of_sum(x, [i in dims for i in range(len(x.shape))]))
    return out


@operator("sum")
def sum(x: Tensor, dim: Dims = None, keepdim: bool = False, dtype: str | None = None) -> Tensor:
    """``x.sum(dim)``: saves nothing. The backward expands the gradient.

    Under a GPU's autocast the sum of a 16-bit tensor is in float32, without a copy of the tensor. Integers are summed
    as int64. A CPU's kernel reads a copy of ``x`` in the result's dtype.
    """
    dims = _dims(x, dim)
    wide = dtype or ("float32" if widens(x) else x.dtype if x.dtype in FLOATING or "complex" in x.dtype else "int64")
    shape = _without(x.shape, dims, keepdim)

    def make() -> Tensor:
        if wide == x.dtype or x.ledger.device.converts_on_load:
            return summed(x, dims, shape, wide)
        out = x.ledger.empty(shape, wide)
        x.ledger.transient(x.numel * ITEMSIZE[wide])
        return out

    return record("SumBackward1", make, (x,), (), _sum_backward, x.shape, dims, keepdim)


def _sum_backward(call: Call) -> Grads:
    shape, dims, keepdim = call.args
    return (expand(_restored(call.grad, dims, keepdim), shape),)


@operator("mean")
def mean(x: Tensor, dim: Dims = None, keepdim: bool = False, dtype: str | None = None) -> Tensor:
    """``x.mean(dim)``: saves nothing."""
    dims, ledger = _dims(x, dim), x.ledger
    wide = dtype or x.dtype

    def make() -> Tensor:
        out = ledger.empty(_without(x.shape, dims, keepdim), wide)
        if wide == x.dtype or ledger.device.converts_on_load:
            ledger.transient(*ledger.device.workspace_of_mean(x, [i in dims for i in range(len(x.shape))]))
        else:
            ledger.transient(x.numel * ITEMSIZE[wide])
        return out

    return record("MeanBackward1", make, (x,), (), _mean_backward, x.shape)


def _mean_backward(call: Call) -> Grads:
    operand = wrapped_number(call.ledger, call.grad.dtype)
    out = call.ledger.empty(call.args[0], call.grad.dtype)
    del operand
    return (out,)


def _of_rows(out: Result, x: Tensor, dim: Any = None, *args: Any, keepdim: bool = False, **_: Any) -> tuple[Any, ...]:
    """``dim`` and ``keepdim`` of ``x.var(dim, unbiased, keepdim)``, of ``x.var(unbiased)`` and as keywords."""
    return x, None if isinstance(dim, bool) else dim, keepdim or (len(args) > 1 and bool(args[1]))


@operator("nansum")
@saves("NansumBackward0", Kept("its input", because="the derivative is zero where there is no number"))
def nansum(x: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """``x.nansum(dim)``: saves ``x``."""
    return _reduced("NansumBackward0", x, dim, keepdim, (x,), _nansum_backward)


def _nansum_backward(call: Call) -> Grads:
    # derivatives.yaml: grad.expand(self.sizes()) * self.isnan().logical_not()
    (x,), (dims, keepdim) = call.saved, call.args
    missing, there = (call.ledger.empty(x.shape, "bool") for _ in range(2))
    grad = elementwise((expand(_restored(call.grad, dims, keepdim), x.shape), there), x.dtype)
    del missing
    return (grad,)


@operator("nanmean")
def nanmean(x: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """``x.nanmean(dim)``: the numbers are counted, and divide ``nansum`` (``ReduceOps.cpp: nanmean``)."""
    there = x.ledger.empty(x.shape, "bool")  # isnan of x, negated in place
    count = sum(there, dim, keepdim)
    del there
    return div(nansum(x, dim, keepdim), count)


@operator("var", args=_of_rows)
@saves("VarBackward0", Kept("its input", because="the derivative is the distance from the mean"))
def var(x: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """``x.var(dim)``: saves ``x``."""
    return _reduced("VarBackward0", x, dim, keepdim, (x,), _var_backward)


def _reduced(name: str, x: Tensor, dim: Dims, keepdim: bool, saved: Saved, backward: Backward) -> Tensor:
    """Record a reduction that is one kernel. Its backward is given the dimensions and ``keepdim``."""
    dims = _dims(x, dim)
    shape = _without(x.shape, dims, keepdim)
    return record(name, lambda: _spread(x, dims, shape), (x,), saved, backward, dims, keepdim)


def _spread(x: Tensor, dims: Collection[int], shape: Shape) -> Tensor:
    """Allocate a reduction of ``x``. CUDA's workspace is taken for that of a sum, and a CPU's kernels have none."""
    return summed(x, dims, shape) if x.ledger.device.converts_on_load else x.ledger.empty(shape, x.dtype)


def _var_backward(call: Call) -> Grads:
    dims, keepdim = call.args
    return (_deviations(_restored(call.grad, dims, keepdim), call.saved[0], dims),)


def _deviations(grad: Tensor, x: Tensor, dims: Sequence[int]) -> Tensor:
    # var_backward: (2 / (N - correction)) * grad * (self - self.mean(dim, true))
    average = mean(x, dims, True)
    difference = elementwise((x, average), x.dtype)
    scaled = with_number(grad, grad.dtype)
    return elementwise((scaled, difference), x.dtype)


@operator("std", args=_of_rows)
@saves(
    "StdBackward0",
    Kept("its input", because="the derivative is the distance from the mean, over the result"),
    Kept("its result", because="the derivative is the distance from the mean, over the result"),
)
def std(x: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """``x.std(dim)``: saves ``x`` and its result."""
    return _reduced("StdBackward0", x, dim, keepdim, (x, RESULT), _std_backward)


def _std_backward(call: Call) -> Grads:
    # std_backward: var_backward of (grad / (result * 2)).masked_fill_(result == 0, 0)
    (dims, keepdim), (x, result) = call.args, call.saved
    twice = with_number(result, result.dtype)
    grad = elementwise((call.grad, twice), result.dtype)
    zero = without_gradient((result,), "bool")
    del zero, twice
    return (_deviations(_restored(grad, dims, keepdim), x, dims),)


@operator("logsumexp")
@saves(
    "LogsumexpBackward0",
    Kept("its input", because="the derivative is e^(input - result)"),
    Kept("its result", because="the derivative is e^(input - result)"),
)
def logsumexp(x: Tensor, dim: Dims, keepdim: bool = False) -> Tensor:
    """``x.logsumexp(dim)``: saves ``x`` and its result."""
    x = widened(x)
    dims = _dims(x, dim)

    def make() -> Tensor:
        # logsumexp_out_impl: (x - largest).exp_().sum(dim).log_().add_(largest)
        rows = _without(x.shape, dims, True)
        largest = _spread(x, dims, rows)
        absolute = elementwise((largest,), x.dtype)
        infinite = without_gradient((absolute,), "bool")
        del absolute, infinite
        shifted = elementwise((x, largest), x.dtype)
        return summed(shifted, dims, _without(x.shape, dims, keepdim))

    return record("LogsumexpBackward0", make, (x,), (x, RESULT), _logsumexp_backward, dims, keepdim)


def _logsumexp_backward(call: Call) -> Grads:
    # grad * (self - result).exp()
    (dims, keepdim), (x, result) = call.args, call.saved
    difference = elementwise((x, _restored(result, dims, keepdim)), x.dtype)
    exponential = elementwise((difference,), x.dtype)
    return (elementwise((_restored(call.grad, dims, keepdim), exponential), x.dtype),)


@operator("amax", "amin")
@saves(
    "AmaxBackward0",
    Kept("its input", because="the gradient goes to the elements that are equal to the result"),
    Kept("its result", because="the gradient goes to the elements that are equal to the result"),
)
def amax(x: Tensor, dim: Dims = (), keepdim: bool = False) -> Tensor:
    """``x.amax(dim)`` or ``x.amin(dim)``: saves ``x`` and its result."""
    return _reduced("AmaxBackward0", x, dim, keepdim, (x, RESULT), _amax_backward)


def _amax_backward(call: Call) -> Grads:
    # scale_grad_by_count: mask * (grad / mask.sum(dims, true)), with mask = result == self
    (dims, keepdim), (x, result) = call.args, call.saved
    grad = _restored(call.grad, dims, keepdim)
    mask = without_gradient((_restored(result, dims, keepdim), x), "bool")
    count = sum(mask, dims, True)
    share = elementwise((grad, count), grad.dtype)
    return (elementwise((mask, share), grad.dtype),)


@operator("cumsum")
def cumsum(x: Tensor, dim: int, dtype: str | None = None) -> Tensor:
    """``x.cumsum(dim)``: contiguous; saves nothing. Integers are summed as int64.

    ``x`` is converted to the result's dtype first. The temporary storage of CUDA's scan of a vector is left out.
    """
    x = widened(x)
    dim %= max(len(x.shape), 1)
    wide = dtype or (x.dtype if x.dtype in FLOATING or "complex" in x.dtype else "int64")

    def make() -> Tensor:
        out = x.ledger.empty(x.shape, wide)
        if wide != x.dtype:
            x.ledger.transient(x.numel * ITEMSIZE[wide])
        return out

    return record("CumsumBackward0", make, (x,), (), _cumsum_backward, dim)


def _cumsum_backward(call: Call) -> Grads:
    # cumsum_backward: grad.flip(dim).cumsum(dim).flip(dim)
    grad = call.grad
    if grad.shape[call.args[0]] == 1:
        return (grad,)
    flipped = empty_like(grad)
    total = call.ledger.empty(grad.shape, grad.dtype)
    out = empty_like(total)
    del flipped
    return (out,)


@operator(
    "linalg_vector_norm", "linalg_norm",
    args=lambda out, x, ord=2, dim=None, keepdim=False, *_, **__: (x, dim, keepdim),
)  # fmt: skip
@saves(
    "LinalgVectorNormBackward0",
    Kept("its input", because="the derivative is the input over the norm"),
    Kept("its result", because="the derivative is the input over the norm"),
)
def linalg_vector_norm(x: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """``torch.linalg.vector_norm(x, dim=dim)``, p = 2: saves its input and its result."""
    x = widened(x)
    return _reduced("LinalgVectorNormBackward0", x, dim, keepdim, (x, RESULT), _vector_norm_backward)


def _vector_norm_backward(call: Call) -> Grads:
    # norm_backward: grad * (self / norm).masked_fill_(norm == 0, 0)
    (dims, keepdim), (x, norm) = call.args, call.saved
    zero = call.ledger.empty(norm.shape, "bool")
    quotient = elementwise((x, _restored(norm, dims, keepdim)), x.dtype)
    out = elementwise((quotient, _restored(call.grad, dims, keepdim)), x.dtype)
    del zero
    return (out,)


@operator("logcumsumexp", args=lambda out, x, dim: (x, dim))
@saves(
    "LogcumsumexpBackward0",
    Kept("its input", because="the derivative is made of e^(input - result)"),
    Kept("its result", because="the derivative is made of e^(input - result)"),
)
def logcumsumexp(x: Tensor, dim: int) -> Tensor:
    """``torch.logcumsumexp(x, dim)``: contiguous; saves ``x`` and its result.

    Temporaries of CUDA's scan are left out.
    """
    return record(
        "LogcumsumexpBackward0", lambda: x.ledger.empty(x.shape, x.dtype), (x,), (x, RESULT), _logcumsumexp_backward
    )


def _logcumsumexp_backward(call: Call) -> Grads:
    # logcumsumexp_backward: of positive and negative gradients, (reverse_logcumsumexp(log - result) + self).exp()
    x, result = call.saved
    magnitude = elementwise((call.grad,), x.dtype)
    magnitude = elementwise((magnitude,), x.dtype)
    logs = [elementwise((magnitude,), x.dtype) for _ in range(2)]
    parts = []
    for log in logs:
        shifted = elementwise((log, result), x.dtype)
        flipped = empty_like(shifted)
        summed_up = empty_like(flipped)
        reversed_ = empty_like(summed_up)
        del flipped, summed_up
        total = elementwise((reversed_, x), x.dtype)
        parts.append(elementwise((total,), x.dtype))
        del shifted, reversed_, total
    return (elementwise(tuple(parts), x.dtype),)


@operator("histc")
def histc(x: Tensor, bins: Size = 100, min: Any = 0, max: Any = 0) -> Tensor:
    """``torch.histc(x, bins)``: has no derivative. A CPU counts in each thread (``HistogramKernel.cpp``)."""
    ledger = x.ledger
    edges = ledger.empty((bins + 1,), x.dtype)
    out = ledger.empty((bins,), x.dtype)
    if ledger.device.splits_by_thread:
        ledger.empty((THREADS, bins), x.dtype)
    del edges
    return out
