"""Operators that normalise each row: layer norm, RMS norm, softmax, log-softmax."""

from __future__ import annotations

from ..errors import InputError
from ..ledger import ITEMSIZE, RESULT, Beside, Call, Tensor, product, record, whole
from .casts import to, widened, widens
from .device import REDUCED, THREADS
from .elementwise import SCALAR, mul, pow, rsqrt
from .in_place import add_
from .layout import Grads, gradients
from .reductions import mean
from .table import Kept, first, operator, saves
from .views import contiguous

SOFTMAX = Kept("its result", because="softmax's gradient is computed from its result")


@operator("layer_norm", args=lambda out, x, shape=None, weight=None, bias=None, *_, **__: (x, weight, bias))
@saves(
    "NativeLayerNormBackward0",
    Kept("its input", because="normalised again in backward"),
    Kept("each row's mean", because="the input is normalised again in backward"),
    Kept("each row's reciprocal deviation", because="the input is normalised again in backward"),
    Kept("its weight", (-3,)),
    Kept("its bias", because="PyTorch keeps it"),
    inputs=("input", "weight", "bias"),
)
def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """``F.layer_norm(x, (n,), weight, bias)``: saves its input, and each row's mean and reciprocal deviation.

    A strided input is copied first. CUDA saves the statistics in float32 (``layer_norm_kernel.cu: layer_norm_cuda``).
    """
    x = widened(x)
    weight = None if weight is None else widened(weight)
    bias = None if bias is None else widened(bias)
    rows = (*x.shape[:-1], 1)
    ledger = x.ledger
    statistics = "float32" if ledger.device.float32_statistics else x.dtype if weight is None else weight.dtype

    def make() -> Tensor:
        copy = _contiguous(x)
        out = ledger.empty(x.shape, x.dtype)
        del copy
        return out

    mean, deviation = ledger.empty(rows, statistics), ledger.empty(rows, statistics)
    return record(
        "NativeLayerNormBackward0",
        make,
        (x, weight, bias),
        (x, Beside(mean), Beside(deviation), weight, bias),
        _layer_norm_backward,
    )


@operator("group_norm", args=lambda out, x, groups, weight=None, bias=None, *_, **__: (x, groups, weight, bias))
@saves(
    "NativeGroupNormBackward0",
    Kept("its input", because="normalised again in backward"),
    Kept("its weight", (-3,)),
    Kept("each group's mean", because="the input is normalised again in backward"),
    Kept("each group's reciprocal deviation", because="the input is normalised again in backward"),
    inputs=("input", "weight", "bias"),
)
def group_norm(x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """``F.group_norm(x, groups, weight, bias)`` of x [B, c, ...]: saves its input, and each group's statistics.

    A strided input is copied first (``group_norm.cpp``).
    """
    x = contiguous(widened(x))
    weight = None if weight is None else widened(weight)
    bias = None if bias is None else widened(bias)
    ledger, dtype = x.ledger, x.dtype if weight is None else weight.dtype
    mean, deviation = (ledger.empty((x.shape[0], groups), dtype) for _ in range(2))
    return record(
        "NativeGroupNormBackward0",
        lambda: ledger.empty(x.shape, x.dtype),
        (x, weight, bias),
        (x, weight, Beside(mean), Beside(deviation)),
        _group_norm_backward,
    )


def _group_norm_backward(call: Call) -> Grads:
    x, weight, *_ = call.saved
    copy = _contiguous(call.grad)
    ledger, channels = call.ledger, x.shape[1:2]
    shapes = (x.shape, channels, channels)
    dtypes = (x.dtype, *(2 * ((x if weight is None else weight).dtype,)))
    grads = tuple(ledger.empty(s, d) if n else None for s, d, n in zip(shapes, dtypes, call.needs, strict=True))
    sums = [ledger.empty(x.shape[:2], "float32") for _ in range(2)]  # of each channel (group_norm_kernel.cpp)
    del copy, sums
    return grads


@operator("_weight_norm")
@saves(
    "WeightNormInterfaceBackward0",
    Kept("its direction", (-2, -1)),
    Kept("its length", (-2, -1)),
    Kept("each direction's norm", (-2, -1)),
    inputs=("direction", "length"),
)
def weight_norm(v: Tensor, g: Tensor, dim: int) -> Tensor:
    """``torch._weight_norm(v, g, dim)``, a weight as its direction and its length: saves both, and the norms.

    One kernel for the first and the last dimension (``WeightNorm.cpp``). For the last one it takes a row for each
    thread, and three at least in backward (``cpu/WeightNormKernel.cpp``).
    """
    if dim not in (0, len(v.shape) - 1):
        raise InputError(f"a weight's norm by dimension {dim} of {len(v.shape)} has no rule")
    ledger, last = v.ledger, dim > 0
    norm = ledger.empty(g.shape, "float32" if g.dtype in REDUCED else g.dtype)

    def make() -> Tensor:
        out = ledger.empty(v.shape, v.dtype)
        _rows_of_threads(v, THREADS, last)
        return out

    return record("WeightNormInterfaceBackward0", make, (v, g), (v, g, Beside(norm)), _weight_norm_backward, last)


def _rows_of_threads(v: Tensor, threads: int, last: bool) -> None:
    if last and v.ledger.device.splits_by_thread:
        v.ledger.transient(threads * whole(v.shape[-1]) * ITEMSIZE["float32"])


def _weight_norm_backward(call: Call) -> Grads:
    v, g, _ = call.saved
    copy = _contiguous(call.grad)
    grads = call.ledger.empty(v.shape, v.dtype), call.ledger.empty(g.shape, g.dtype)
    _rows_of_threads(v, max(3, THREADS), call.args[0])
    del copy
    return grads


@operator(
    "batch_norm",
    args=lambda out, x, weight=None, bias=None, mean=None, variance=None, training=False, *_, **__: (
        x, weight, bias, mean, variance, training
    ),
)  # fmt: skip
@saves(
    "NativeBatchNormBackward0",
    Kept("its input", because="normalised again in backward"),
    Kept("its weight", (-3,)),
    Kept("the running mean", because="PyTorch keeps it"),
    Kept("the running variance", because="PyTorch keeps it"),
    Kept("each channel's mean", because="the input is normalised again in backward"),
    Kept("each channel's reciprocal deviation", because="the input is normalised again in backward"),
    inputs=("input", "weight", "bias"),
)
def batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, variance: Tensor | None, training: bool
) -> Tensor:
    """``torch.batch_norm`` of x [B, c, ...]: saves its input, and each channel's statistics (``Normalization.cpp``)."""
    ledger, channels = x.ledger, x.shape[1:2]
    statistics = [ledger.empty(channels if training else (0,), x.dtype) for _ in range(2)]

    def make() -> Tensor:
        out = ledger.empty(x.shape, x.dtype)
        ledger.transient(*2 * (product(channels) * ITEMSIZE[x.dtype],))
        return out

    saved = (x, weight, mean, variance, *map(Beside, statistics))
    return record("NativeBatchNormBackward0", make, (x, weight, bias), saved, _batch_norm_backward)


def _batch_norm_backward(call: Call) -> Grads:
    x, channels, ledger = call.saved[0], call.saved[0].shape[1:2], call.ledger
    shapes = (x.shape, channels, channels)
    grads = tuple(ledger.empty(s, x.dtype) if n else None for s, n in zip(shapes, call.needs, strict=True))
    if call.needs[0] and not ledger.device.has_own_memory:
        ledger.transient(x.nbytes)  # the gradient's part that the statistics take
    if len(x.shape) == 2 and ledger.device.splits_by_thread:
        ledger.transient(2 * THREADS * product(channels) * ITEMSIZE["float32"])  # each thread's sums
    return grads


@operator("_softmax_backward_data", args=first)
def softmax_backward_data(grad: Tensor) -> Tensor:
    """``torch._softmax_backward_data(grad, result, dim, dtype)``, which a backward pass of a model's own calls."""
    return grad.ledger.empty(grad.shape, grad.dtype)


def _contiguous(x: Tensor) -> Tensor:
    """``x.contiguous()`` within a kernel, outside the graph."""
    return x if x.strides is None else x.ledger.empty(x.shape, x.dtype)


def _layer_norm_backward(call: Call) -> Grads:
    x, _, _, weight, bias = call.saved
    copies = _contiguous(call.grad), _contiguous(x)
    grads = gradients(call, x, weight, bias)
    if call.ledger.device.splits_by_thread and (call.needs[1] or call.needs[2]):
        call.ledger.transient(THREADS * 2 * weight.numel * ITEMSIZE[weight.dtype])  # each thread's share
    del copies
    return grads


@operator("rms_norm", args=lambda out, x, shape=None, weight=None, *_, **__: (x, weight))
def rms_norm(x: Tensor, weight: Tensor | None = None) -> Tensor:
    """``F.rms_norm(x, (n,), weight)``: one kernel on CUDA, which saves its input and each row's reciprocal norm.

    On a CPU it is made of other operators, in float32 (``layer_norm.cpp: rms_norm_composite``). The partial sums of
    the weight's gradient that CUDA's kernel makes are left out.
    """
    x = widened(x)
    if x.ledger.device.fuses_rms_norm:
        return _fused_rms_norm(x, weight)
    dtype = x.dtype
    x = to(x, "float32")
    power = pow(x, SCALAR)
    squares = mean(power, -1, True)
    scale = rsqrt(add_(squares, SCALAR))
    del squares, power
    out = mul(x, scale)
    if weight is not None:
        out = mul(out, weight)
    del x
    return to(out, dtype)


@saves(
    "FusedRmsNormBackward0",
    Kept("its input", because="normalised again in backward"),
    Kept("its weight", (-2,)),
    Kept("each row's reciprocal norm", because="the input is normalised again in backward"),
    inputs=("input", "weight"),
)
def _fused_rms_norm(x: Tensor, weight: Tensor | None) -> Tensor:
    ledger = x.ledger
    rows = ledger.empty((*x.shape[:-1], 1), "float32")
    return record(
        "FusedRmsNormBackward0",
        lambda: ledger.empty(x.shape, x.dtype),
        (x, weight),
        (x, weight, Beside(rows)),
        _rms_norm_backward,
    )


def _rms_norm_backward(call: Call) -> Grads:
    x, weight, _ = call.saved
    return gradients(call, x, weight)


@operator(
    "softmax",
    args=lambda out, x, dim, dtype=None: (x, dtype or ("float32" if widens(x) else x.dtype)),
)
@saves("SoftmaxBackward0", SOFTMAX)
def softmax(x: Tensor, dtype: str) -> Tensor:
    """``F.softmax(x, dim, dtype=dtype)``: converts ``x`` to ``dtype`` first, and saves its result.

    A strided input is copied first. A GPU's kernel itself reads float16, not bfloat16, and writes float32. Its backward
    does the reverse (``at::softmax``).
    """
    converts = not x.ledger.device.converts_on_load or (x.dtype, dtype) != ("float16", "float32")
    inputs = (to(x, dtype) if converts else x,)
    return record(
        "SoftmaxBackward0",
        lambda: _by_row(inputs[0], dtype),
        inputs,
        (RESULT,),
        softmax_backward,
        inputs[0].dtype,
    )


def _by_row(x: Tensor, dtype: str) -> Tensor:
    out = x.ledger.empty(x.shape, dtype)
    copy = _contiguous(x)
    del copy
    return out


def softmax_backward(call: Call) -> Grads:
    """``_softmax_backward_data`` in the dtype of the input."""
    copy = _contiguous(call.grad)
    out = call.ledger.empty(call.grad.shape, call.args[0])
    if call.ledger.device.multiplies_for_softmax:
        call.ledger.transient(call.grad.nbytes)
    del copy
    return (out,)


@operator("log_softmax", args=lambda out, x, dim, dtype=None: (x, dtype))
@saves(
    "LogSoftmaxBackward0",
    Kept("its result", because="its gradient is computed from the probabilities, which are e^result"),
)
def log_softmax(x: Tensor, dtype: str | None = None) -> Tensor:
    """``F.log_softmax(x, dim, dtype=dtype)``: saves its result. A strided input is copied first."""
    x = widened(x) if dtype is None else to(x, dtype)
    return record("LogSoftmaxBackward0", lambda: _by_row(x, x.dtype), (x,), (RESULT,), _log_softmax_backward)


def _log_softmax_backward(call: Call) -> Grads:
    copy = _contiguous(call.grad)
    out = call.ledger.empty(call.grad.shape, call.grad.dtype)
    del copy
    return (out,)
