"""Operators that normalise each row: layer norm, softmax, log-softmax."""

from __future__ import annotations

from ..ledger import ITEMSIZE, RESULT, Call, Tensor, record
from .casts import to, widened
from .device import THREADS
from .layout import Grads


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``F.layer_norm(x, (n,), weight, bias)``: saves its input, and each row's mean and reciprocal deviation.

    CUDA saves these in float32 (``layer_norm_kernel.cu: layer_norm_cuda``).
    """
    x, weight, bias = widened(x), widened(weight), widened(bias)
    rows = (*x.shape[:-1], 1)
    ledger = x.ledger
    statistics = "float32" if ledger.device.float32_statistics else weight.dtype
    mean, deviation = ledger.empty(rows, statistics), ledger.empty(rows, statistics)
    return record(
        "NativeLayerNormBackward0",
        lambda: ledger.empty(x.shape, x.dtype),
        (x, weight, bias),
        (x, mean, deviation, weight, bias),
        _layer_norm_backward,
    )


def _layer_norm_backward(call: Call) -> Grads:
    x, _, _, weight, bias = call.saved
    tensors = (x, weight, bias)
    grads = tuple(
        call.ledger.empty(t.shape, t.dtype) if need else None for t, need in zip(tensors, call.needs, strict=True)
    )
    if call.ledger.device.splits_by_thread and (call.needs[1] or call.needs[2]):
        call.ledger.transient(THREADS * 2 * weight.numel * ITEMSIZE[weight.dtype])  # each thread's share
    return grads


def softmax(x: Tensor, dtype: str) -> Tensor:
    """``F.softmax(x, dim=-1, dtype=dtype)``: converts ``x`` to ``dtype`` first, and saves its result.

    A GPU's kernel itself reads float16, not bfloat16, and writes float32. Its backward does the reverse
    (``at::softmax``).
    """
    converts = not x.ledger.device.converts_on_load or (x.dtype, dtype) != ("float16", "float32")
    inputs = (to(x, dtype) if converts else x,)
    return record(
        "SoftmaxBackward0",
        lambda: x.ledger.empty(x.shape, dtype),
        inputs,
        (RESULT,),
        softmax_backward,
        inputs[0].dtype,
    )


def softmax_backward(call: Call) -> Grads:
    """``_softmax_backward_data`` in the dtype of the input."""
    out = call.ledger.empty(call.grad.shape, call.args[0])
    if call.ledger.device.multiplies_for_softmax:
        call.ledger.transient(call.grad.nbytes)
    return (out,)


def log_softmax(x: Tensor) -> Tensor:
    """``F.log_softmax(x, dim=1)``: saves its result."""
    x = widened(x)
    return record(
        "LogSoftmaxBackward0", lambda: x.ledger.empty(x.shape, x.dtype), (x,), (RESULT,), _log_softmax_backward
    )


def _log_softmax_backward(call: Call) -> Grads:
    return (call.ledger.empty(call.grad.shape, call.grad.dtype),)
