"""Convolutions, and the pooling of their results.

Source: ``aten/src/ATen/native/Convolution.cpp``. Which library runs a convolution depends on the device and the dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import InputError
from ..ledger import ITEMSIZE, Beside, Call, Shape, Size, Tensor, product, record, whole
from ..ledger.sizes import compared
from .casts import autocast
from .layout import Grads, normalised
from .products import holds_operands
from .reductions import mean
from .table import SHAPE, Kept, Result, operator, recorded, saves
from .views import contiguous, squeeze, unsqueeze


@operator(
    "conv1d",
    args=lambda out, x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1: (
        x, weight, bias, out.shape[-1], groups, _strided(stride)
    ),
)  # fmt: skip
def conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    length: Size | None = None,
    groups: int = 1,
    strided: bool = False,
) -> Tensor:
    """``F.conv1d`` of x [B, c, T] by a weight [n, c / groups, k]: see ``convolution``.

    ``length`` is that of the result, by default T.
    """
    return convolution(x, weight, bias, (x.shape[2] if length is None else length,), groups, strided)


def _strided(stride: Any) -> bool:
    """Whether a convolution leaves out positions. ``stride`` is a number, or one for each dimension."""
    return any(n > 1 for n in (stride if isinstance(stride, (list, tuple)) else [stride]))


@operator(
    "conv2d",
    same=("conv3d",),
    args=lambda out, x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1: (
        x, weight, bias, out.shape[2:], groups, _strided(stride)
    ),
)  # fmt: skip
@saves(
    "ConvolutionBackward0",
    Kept("its input", (-2,)),
    Kept("its weight", (-3,)),
    inputs=("input", "weight", "bias"),
)
@holds_operands
def convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, size: Shape, groups: int = 1, strided: bool = False
) -> Tensor:
    """``F.conv2d`` of x [B, c, h, w] by a weight [n, c / groups, k, l], and its kin of one and of three dimensions.

    Saves both, and copies them if not contiguous. ``size`` are the result's last dimensions, which follow from padding,
    stride and dilation. The scratch of oneDNN and cuDNN depends on the algorithm that they choose, and has no rule.
    """
    bias = None if bias is None else autocast(bias)
    weight = autocast(weight)
    x = autocast(x)
    shape = (x.shape[0], weight.shape[0], *size)

    def run() -> Tensor:
        onednn = _runs_onednn(x, groups, weight.shape[3:] and weight.shape[-2:])
        last = onednn and _channels_last(x)
        copy = x.alias() if last else contiguous(x.alias())
        of_weight = _weight_with_channels_last(weight) if last else None
        x.ledger.multiply(*shape, *weight.shape[1:])
        if onednn:
            out = x.ledger.empty(shape, x.dtype, _last_strides(shape) if last else None)
        else:
            out = _thnn_conv2d(copy, weight, shape, groups)
        del copy, of_weight
        return out

    return record("ConvolutionBackward0", run, (x, weight, bias), (x, weight), _convolution_backward, groups, strided)


def _last_strides(shape: Shape) -> Shape | None:
    """The strides of ``torch.channels_last``."""
    _, channels, height, width = shape
    return normalised(shape, (channels * height * width, 1, width * channels, channels))


def _channels_last(x: Tensor) -> bool:
    """Whether a CPU's convolution keeps the layout of its input (``mkldnn_conv_use_channels_last``)."""
    known = x.strides is not None and len(x.shape) == 4 and not x.ledger.device.has_own_memory
    return known and x.strides == _last_strides(x.shape)


def _weight_with_channels_last(weight: Tensor) -> Tensor | None:
    """A copy of a weight; of one with a single channel, or of a single point, the two layouts are the same."""
    channels, *size = weight.shape[1:]
    differ = compared(channels, 1) > 0 and any(compared(n, 1) > 0 for n in size)
    return weight.ledger.empty(weight.shape, weight.dtype) if differ else None


@recorded("conv_transpose2d")
def _conv_transpose2d(
    out: Result,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    if len(x.shape) != 4 or groups != 1 or weight.shape[1] != 1:
        raise InputError("conv_transpose2d of several groups, to several channels, or without a batch has no rule")
    return conv_transpose2d(x, weight, bias, (out.shape[-2], out.shape[-1]))


@holds_operands
def conv_transpose2d(x: Tensor, weight: Tensor, bias: Tensor | None, size: tuple[Size, Size]) -> Tensor:
    """``F.conv_transpose2d`` of x [B, c, h, w] by a weight [c, 1, k, l]: saves both.

    ``size`` is that of the result's last two dimensions, which follows from padding, stride and dilation. Without
    oneDNN the product is [B, k l, h w] columns, which are added up (``NaiveConvolutionTranspose2d.cpp``). The scratch
    of oneDNN and cuDNN has no rule, and so has a result of several channels, which oneDNN may copy once more.
    """
    bias = None if bias is None else autocast(bias)
    weight = autocast(weight)
    x = autocast(x)
    shape = (x.shape[0], weight.shape[1], *size)

    def run() -> Tensor:
        copy = contiguous(x.alias())
        x.ledger.multiply(*x.shape, *weight.shape[1:])
        columns = None if _runs_onednn(x, 1, weight.shape[2:]) else _transposed_columns(x, weight, x.shape[0])
        out = x.ledger.empty(shape, x.dtype)
        del copy, columns
        return out

    return record("ConvolutionBackward0", run, (x, weight, bias), (x, weight), _conv_transpose2d_backward)


def _transposed_columns(x: Tensor, weight: Tensor, batch: Size) -> Tensor:
    """The columns [batch, k l, h w]."""
    return x.ledger.empty((batch, *weight.shape[1:], *x.shape[2:]), x.dtype)


def _conv_transpose2d_backward(call: Call) -> Grads:
    """Without oneDNN, the columns of one sequence at a time, unless they are the gradient itself."""
    grad, (x, weight) = call.grad, call.saved
    copies = contiguous(x), contiguous(grad)
    plain = weight.shape[2:] == (1, 1) and grad.shape[2:] == x.shape[2:]
    grads: list[Tensor | None] = []
    for need, shape in zip(call.needs, (x.shape, weight.shape, weight.shape[1:2]), strict=True):
        grads.append(call.ledger.empty(shape, grad.dtype) if need else None)
        if not need or len(grads) == 3:
            continue
        call.ledger.multiply(*x.shape, *weight.shape[1:])
        if not plain and not _runs_onednn(x, 1, weight.shape[2:]):
            columns = _transposed_columns(x, weight, 1)
            del columns
    del copies
    return tuple(grads)


def _runs_onednn(x: Tensor, groups: int, kernel: Shape = ()) -> bool:
    """``ConvParams::use_mkldnn``, with more than one thread. A GPU's libraries need no columns either.

    ``kernel`` are the last two dimensions of a weight that has both.
    """
    device = x.ledger.device
    if device.has_own_memory:
        return True
    if x.dtype == "float32":
        large = bool(kernel) and all(compared(size, 3) > 0 for size in kernel)
        return groups > 1 or large or compared(x.shape[0], 1) > 0 or compared(x.numel, ONEDNN_ELEMENTS) > 0
    return x.dtype == "bfloat16" and bool(device.onednn_bfloat16)


ONEDNN_ELEMENTS = 20480
"""The most float32 elements of a single sequence that oneDNN leaves to PyTorch (``ConvParams::use_mkldnn``)."""


def _columns(x: Tensor, weight: Tensor, shape: Shape) -> list[Size]:
    """Bytes of the columns [B, c k l, h w] that ``slow_conv2d`` makes of one group's input, for a result of ``shape``.

    They are the input itself if the kernel has one element and the result all positions of the input.
    """
    if all(n == 1 for n in weight.shape[2:]) and shape[2:] == x.shape[2:]:
        return []
    return [product((shape[0], *weight.shape[1:], *shape[2:])) * ITEMSIZE[x.dtype]]


def _copies(groups: int, *tensors: Tensor) -> list[Size]:
    """Bytes of contiguous copies of one group's part of each tensor."""
    if groups == 1 or tensors[0].shape[0] == 1:
        return []
    return [product((x.shape[0], whole(x.shape[1]) // groups, *x.shape[2:])) * ITEMSIZE[x.dtype] for x in tensors]


def _thnn_conv2d(x: Tensor, weight: Tensor, shape: Shape, groups: int) -> Tensor:
    """Convolve each group, then join the groups' results (``_convolution_nogroup``, ``at::cat``)."""
    ledger = x.ledger
    out = ledger.empty(shape, x.dtype)
    ledger.transient(*_copies(groups, x), *_columns(x, weight, shape))
    return out if groups == 1 else ledger.empty(shape, x.dtype)


def _convolution_backward(call: Call) -> Grads:
    # convolution_backward first makes contiguous copies of the input and the gradient
    grad, (x, weight), (groups, strided) = call.grad, call.saved, call.args
    onednn = _runs_onednn(x, groups, weight.shape[3:] and weight.shape[-2:])
    if onednn and _channels_last(x):
        return _channels_last_backward(call)
    copies = contiguous(x), contiguous(grad)
    for need in call.needs[:2]:
        if need:
            call.ledger.multiply(*grad.shape, *weight.shape[1:])
    shapes = (x.shape, weight.shape, weight.shape[:1])
    if onednn and call.needs[0] and strided and _gives_channels_last(x, groups):
        last = call.ledger.empty(x.shape, grad.dtype)
        of_x = call.ledger.empty(x.shape, grad.dtype)
        del last
        return (of_x, *_gradients(call, shapes[1:], call.needs[1:]))
    grads = _gradients(call, shapes)
    if not onednn:
        columns = _columns(x, weight, grad.shape) if call.needs[1] else []
        call.ledger.transient(*_copies(groups, x, grad), *columns)
        if groups > 1:
            grads = _gradients(call, shapes)  # all groups', joined while those of each group are alive
    del copies
    return grads


def _gives_channels_last(x: Tensor, groups: int) -> bool:
    """Whether oneDNN gives the gradient of a strided convolution's input with channels last, which PyTorch then copies
    (``MKLDNNConversions.cpp: mkldnn_to_dense``).
    """
    return x.dtype == "float32" and not x.ledger.device.has_own_memory and groups == 1 and compared(x.shape[1], 1) > 0


def _channels_last_backward(call: Call) -> Grads:
    """All is made with channels last (``mkldnn_convolution_backward``), then the weight's gradient copied once."""
    grad, (x, weight) = call.grad, call.saved
    copy = None if _channels_last(grad) else call.ledger.empty(grad.shape, grad.dtype)
    of_weight = _weight_with_channels_last(weight)
    for need in call.needs[:2]:
        if need:
            call.ledger.multiply(*grad.shape, *weight.shape[1:])
    grad_x = call.ledger.empty(x.shape, grad.dtype, _last_strides(x.shape)) if call.needs[0] else None
    others = _gradients(call, (weight.shape, weight.shape[:1]), call.needs[1:])
    if others[0] is not None:
        call.ledger.transient(others[0].nbytes)
    del copy, of_weight
    return (grad_x, *others)


@operator("avg_pool2d", args=lambda out, x, *_, **__: (x, out.shape))
@saves("AvgPool2DBackward0", Kept("its input", because=SHAPE))
def avg_pool2d(x: Tensor, shape: Shape) -> Tensor:
    """``F.avg_pool2d(x)``: saves its input. Kernels copy what is strided (``AvgPoolKernel.cpp``)."""
    return _averaged("AvgPool2DBackward0", x, shape)


def _averaged(node: str, x: Tensor, shape: Shape) -> Tensor:
    def make() -> Tensor:
        out = x.ledger.empty(shape, x.dtype)
        contiguous(x.alias())
        return out

    return record(node, make, (x,), (x,), _avg_pool2d_backward)


def _avg_pool2d_backward(call: Call) -> Grads:
    return _like_input(call, call.saved[0].shape)


@operator("avg_pool1d", args=lambda out, x, *_, **__: (x, out.shape))
def avg_pool1d(x: Tensor, shape: Shape) -> Tensor:
    """``F.avg_pool1d(x)``: the one of two dimensions on a view (``Pooling.cpp``)."""
    return squeeze(avg_pool2d(unsqueeze(x, -2), (*shape[:-1], 1, shape[-1])), shape)


@recorded("adaptive_avg_pool2d")
def _adaptive_avg_pool2d(out: Result, x: Tensor, size: Any) -> Tensor:
    """``F.adaptive_avg_pool2d(x, size)``; to one element it is a mean (``AdaptiveAveragePooling.cpp``)."""
    return mean(x, (-1, -2), True) if out.shape[-2:] == (1, 1) else _adaptive(x, out.shape)


@saves("AdaptiveAvgPool2DBackward0", Kept("its input", because=SHAPE))
def _adaptive(x: Tensor, shape: Shape) -> Tensor:
    """``_adaptive_avg_pool2d``: saves its input. Kernels copy what is strided (``AdaptiveAvgPoolKernel.cpp``)."""
    return _averaged("AdaptiveAvgPool2DBackward0", x, shape)


_VECTORIZED = 128
"""The most that a result's height and width add up to where one kernel for channels last makes it, whatever the layout
(``UpSampleKernel.cpp: _use_vectorized_kernel_cond_2d``)."""


@operator("upsample_bilinear2d", args=lambda out, x, *_, **__: (x, out.shape, 2))
@operator("upsample_nearest2d", args=lambda out, x, *_, **__: (x, out.shape, 1))
def upsample(x: Tensor, shape: Shape, points: int) -> Tensor:
    """``F.interpolate(x, mode="bilinear")`` and its kin, which save nothing. On a CPU either x and the result are
    copied to channels last and back, or there are tables of the ``points`` that make each row and column.
    """
    name = "UpsampleBilinear2DBackward0" if points == 2 else "UpsampleNearest2DBackward0"

    def make() -> Tensor:
        ledger, last = x.ledger, _channels_last(x)
        out = ledger.empty(shape, x.dtype, _last_strides(shape) if last else None)
        if not ledger.device.has_own_memory:
            height, width = shape[-2:]
            if compared(height + width, _VECTORIZED) <= 0 or (last and compared(x.shape[1], 3) > 0):
                if not last and compared(x.shape[1], 1) > 0:
                    ledger.transient(x.nbytes, out.nbytes)
            else:
                ledger.transient(*[n * size * points for n in (height, width) for size in (8, ITEMSIZE[x.dtype])])
        return out

    return record(name, make, (x,), (), _upsample_backward, x.shape)


def _upsample_backward(call: Call) -> Grads:
    (shape,) = call.args
    last = _channels_last(call.grad)
    return (call.ledger.empty(shape, call.grad.dtype, _last_strides(shape) if last else None),)


@operator("upsample_bicubic2d", args=lambda out, x, *_, **__: (x, out.shape))
def upsample_bicubic2d(x: Tensor, shape: Shape) -> Tensor:
    """``F.interpolate(x, mode="bicubic")``, which saves nothing: channels stay last on any device. On a CPU there are
    tables of the four points of each row and column, and backward copies what is strided (``UpSampleKernel.cpp``).
    """

    def make() -> Tensor:
        ledger, last = x.ledger, x.strides is not None and x.strides == _last_strides(x.shape)
        out = ledger.empty(shape, x.dtype, _last_strides(shape) if last else None)
        if not ledger.device.has_own_memory:
            ledger.transient(*[n * size * 4 for n in shape[-2:] for size in (8, ITEMSIZE[x.dtype])])
        return out

    return record("UpsampleBicubic2DBackward0", make, (x,), (), _upsample_bicubic2d_backward, x.shape)


def _upsample_bicubic2d_backward(call: Call) -> Grads:
    return _like_input(call, call.args[0])


@recorded("adaptive_avg_pool1d")
def _adaptive_avg_pool1d(out: Result, x: Tensor, size: Any) -> Tensor:
    """``F.adaptive_avg_pool1d(x, 1)``: the one of two dimensions on a view."""
    if out.shape[-1] != 1:
        raise InputError("adaptive_avg_pool1d to more than one element has no rule")
    return squeeze(mean(unsqueeze(x, -2), (-1, -2), True), out.shape)


def _like_input(call: Call, shape: Shape) -> Grads:
    """A new tensor of the input's shape, beside a copy of a strided gradient."""
    out = call.ledger.empty(shape, call.grad.dtype)
    contiguous(call.grad)
    return (out,)


@operator("max_pool2d", args=lambda out, x, *_, **__: (x, out.shape))
@saves(
    "MaxPool2DWithIndicesBackward0",
    Kept("its input", because=SHAPE),
    Kept("the places of the largest elements", because="they get the gradients"),
)
def max_pool2d(x: Tensor, shape: Shape) -> Tensor:
    """``F.max_pool2d(x)``: saves its input, and where each result is from (``MaxPoolKernel.cpp``)."""
    places = x.ledger.empty(shape, "int64")

    def make() -> Tensor:
        out = x.ledger.empty(shape, x.dtype)
        contiguous(x.alias())
        return out

    return record("MaxPool2DWithIndicesBackward0", make, (x,), (x, Beside(places)), _avg_pool2d_backward)


@operator("max_pool1d", args=lambda out, x, *_, **__: (x, out.shape))
def max_pool1d(x: Tensor, shape: Shape) -> Tensor:
    """``F.max_pool1d(x)``: that of two dimensions on a view where ``x`` trains (``MaxPooling.cpp``)."""
    if x.requires_grad:
        return squeeze(max_pool2d(unsqueeze(x, -2), (*shape[:-1], 1, shape[-1])), shape)
    out = x.ledger.empty(shape, x.dtype)
    contiguous(x.alias())
    return out


@operator("im2col", args=lambda out, x, *_, **__: (x, out.shape))
def im2col(x: Tensor, shape: Shape) -> Tensor:
    """``F.unfold(x)``: blocks as columns of ``shape``; saves nothing. A strided input is copied (``Im2Col.cpp``)."""

    def make() -> Tensor:
        out = x.ledger.empty(x.shape, x.dtype)
        copy = contiguous(x.alias())
        out = _resized(out, shape)
        del copy
        return out

    return record("Im2ColBackward0", make, (x,), (), _im2col_backward, x.shape)


def _im2col_backward(call: Call) -> Grads:
    out = call.ledger.empty(call.grad.shape, call.grad.dtype)
    copy = contiguous(call.grad)
    out = _resized(out, call.args[0])
    del copy
    return (out,)


def _resized(x: Tensor, shape: Shape) -> Tensor:
    """``x.resize_(shape)``: a larger storage is made beside the old one, and one that is too large stays."""
    if compared(product(shape), x.numel) > 0:
        return x.ledger.empty(shape, x.dtype)
    return Tensor(x.storage, shape, x.dtype)


def _gradients(call: Call, shapes: Sequence[Shape], needs: Sequence[bool] | None = None) -> Grads:
    dtype, needs = call.grad.dtype, call.needs if needs is None else needs
    return tuple(call.ledger.empty(shape, dtype) if need else None for shape, need in zip(shapes, needs, strict=True))
