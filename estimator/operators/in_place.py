"""Operators that write to a tensor in place, and to the base of a view with it.

Autograd then takes the tensor for the operator's result (``rebase_history``, ``torch/csrc/autograd/variable.cpp``). If
it is a view, the operator is recorded on the view's base (``CopySlices``, ``autograd/functions/tensor.cpp``), and the
view is made again from the base (``AsStridedBackward0``). Other views of that base are not made again here; they keep
the operators that they had.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..errors import InputError
from ..ledger import RESULT, Backward, Call, Tensor, record
from .casts import promote, to
from .elementwise import (
    Operand,
    add_scaled_backward,
    casts_for,
    clamp_backward,
    div_backward,
    mul_backward,
    negative_backward,
    noise_of_dropout,
    one_kernel_backward,
    pow_backward,
    relu_backward,
    scaled_backward,
    scales,
    sub_backward,
    wrapped_number,
    zeros_backward,
)
from .layout import Grads, empty_like
from .table import Kept, Result, first, operator, recorded, saves
from .views import contiguous_backward, input_backward, pass_on


@saves(
    "CopySlices", Kept("what the operator keeps that wrote to a part of a larger tensor"), inputs=("input", "values")
)
def write(
    x: Tensor,
    others: Sequence[Tensor | None],
    name: str,
    saved: Sequence[Any],
    backward: Backward,
    *args: Any,
    kernel: Callable[[], Any] = lambda: None,
) -> Tensor:
    """Write to ``x`` in place and return it. ``kernel`` allocates what the operator needs while it runs.

    The other arguments are those of ``record``: ``others`` are the operands that may require a gradient, too.
    """
    if not x.ledger.grad_enabled:  # the graph stays as it is
        kernel()
        return x
    base = x.base
    if base is None or not x.has_base:

        def make() -> Tensor:
            kernel()
            return x.alias()

        out = record(name, make, (x, *others), saved, backward, *args)
        x.node, x.number, x.requires_grad = out.node, out.number, out.requires_grad
        if base is not None:
            base.written(out.node)
        return x

    whole = Tensor(x.storage, base.shape, base.dtype, base.strides)
    whole.node, whole.number, whole.requires_grad = base.node, base.number, base.requires_grad
    result = x.alias() if RESULT in saved else None

    def make_whole() -> Tensor:
        kernel()
        return whole.alias()

    out = record(
        "CopySlices",
        make_whole,
        (whole, *others),
        [result if t is RESULT else t for t in saved],
        _copy_slices_backward,
        whole.shape,
        whole.strides,
        x.shape,
        backward,
        args,
    )
    if out.node is None:
        return x
    base.written(out.node)
    view = record("AsStridedBackward0", x.alias, (out,), (), input_backward, whole.shape)
    x.node, x.number, x.requires_grad = view.node, view.number, True
    return x


def _copy_slices_backward(call: Call) -> Grads:
    shape, strides, part, backward, args = call.args
    ledger, dtype = call.ledger, call.grad.dtype
    result = ledger.empty(shape, dtype, strides)
    whole, call.grads = call.grads, [ledger.empty(part, dtype)]
    call.args = args
    _, *others = backward(call)
    del whole
    return (result if call.needs[0] else None, *others)


def _saved_self(x: Tensor, wanted: bool) -> Tensor | None:
    """The copy of ``x`` that autograd saves, since ``x`` itself is overwritten (``original_self``)."""
    return empty_like(x) if wanted and x.ledger.grad_enabled else None


def _computed(x: Tensor, *operands: Tensor) -> Callable[[], Any]:
    """The kernel in the common dtype: on a CPU the result is a copy, too, unless ``x`` has that dtype."""
    return lambda: casts_for((x, x, *operands), promote(x, operands[0]))


@operator(
    "add_", same=("__iadd__",), args=lambda out, x, other, *, alpha=1: (x, other, scales(alpha))
)  # fmt: skip
def add_(x: Tensor, other: Operand, scaled: bool = False) -> Tensor:
    """``x.add_(other)``: saves nothing. ``scaled``: with an ``alpha`` other than one."""
    if not isinstance(other, Tensor):
        return write(x, (), "AddBackward0", (), pass_on, kernel=lambda: wrapped_number(x.ledger, x.dtype))
    return write(x, (other,), "AddBackward0", (), add_scaled_backward, scaled, kernel=_computed(x, other))


@operator("sub_", same=("__isub__",), args=lambda out, x, other, *, alpha=1: (x, other))
def sub_(x: Tensor, other: Operand) -> Tensor:
    """``x.sub_(other)``: saves nothing."""
    if not isinstance(other, Tensor):
        return write(x, (), "SubBackward0", (), pass_on, kernel=lambda: wrapped_number(x.ledger, x.dtype))
    return write(x, (other,), "SubBackward0", (), sub_backward, kernel=_computed(x, other))


@operator("mul_", same=("__imul__",))
def mul_(x: Tensor, other: Operand) -> Tensor:
    """``x.mul_(other)``: saves the factor if ``x`` requires a gradient, and a copy of ``x`` if the factor does."""
    if not isinstance(other, Tensor):
        return _scale(x, "MulBackward0")
    saved = (other if x.requires_grad else None, _saved_self(x, other.requires_grad))
    return write(x, (other,), "MulBackward0", saved, mul_backward, kernel=_computed(x, other))


@operator("dropout_", args=lambda out, x, p=0.5, train=True, training=True: (x, p if train and training else 0.0))
def dropout_(x: Tensor, p: float) -> Tensor:
    """``F.dropout(x, p, inplace=True)``, which no kernel fuses (``_dropout_impl``)."""
    return x if p == 0.0 or not x.ledger.training else mul_(x, noise_of_dropout(x))


@operator("div_", same=("__itruediv__",))
def div_(x: Tensor, other: Operand) -> Tensor:
    """``x.div_(other)``: saves the divisor, and a copy of ``x`` if the divisor requires a gradient."""
    if not isinstance(other, Tensor):
        return _scale(x, "DivBackward0")
    saved = (_saved_self(x, other.requires_grad), other)
    return write(x, (other,), "DivBackward0", saved, div_backward, kernel=_computed(x, other))


def _scale(x: Tensor, name: str) -> Tensor:
    number, cast = wrapped_number(x.ledger, x.dtype)
    before = x.node
    write(x, (), name, (), scaled_backward)
    del cast
    if x.node is not None and x.node is not before:
        x.node.hold(number)
    return x


@operator("pow_", same=("__ipow__",), args=first)
def pow_(x: Tensor) -> Tensor:
    """``x.pow_(number)``: saves a copy of ``x``."""
    return write(x, (), "PowBackward0", (_saved_self(x, x.requires_grad),), pow_backward)


@operator("clamp_", "clip_", args=lambda out, x, min=None, max=None: (x, (min is not None) + (max is not None)))
@operator("clamp_min_", "clamp_max_", args=lambda out, x, bound: (x,))
def clamp_(x: Tensor, bounds: int = 1) -> Tensor:
    """``x.clamp_(min, max)`` with one or two numbers: saves a copy of ``x``."""
    return write(x, (), "ClampBackward1", (_saved_self(x, x.requires_grad),), clamp_backward, bounds)


def _of_one(names: Sequence[str], node: str, saved: Sequence[Any], backward: Backward) -> Callable[[Tensor], Tensor]:
    """The row of operators that write to a tensor whatever is in it, or a function of it."""

    @operator(*names, args=first)
    def rule(x: Tensor) -> Tensor:
        return write(x, (), node, saved, backward)

    return rule


neg_ = _of_one(("neg_",), "NegBackward0", (), negative_backward)
relu_ = _of_one(("relu_",), "ReluBackward0", (RESULT,), relu_backward)
exp_ = _of_one(("exp_",), "ExpBackward0", (RESULT,), one_kernel_backward)
sigmoid_ = _of_one(("sigmoid_",), "SigmoidBackward0", (RESULT,), one_kernel_backward)
tanh_ = _of_one(("tanh_",), "TanhBackward0", (RESULT,), one_kernel_backward)
_FILLS = ("fill_", "zero_", "uniform_", "normal_", "exponential_", "bernoulli_", "random_")
fill_ = _of_one(_FILLS, "FillBackward0", (), zeros_backward)


@operator("masked_fill_", args=lambda out, x, mask, *_, **__: (x, mask))
def masked_fill_(x: Tensor, mask: Tensor) -> Tensor:
    """``x.masked_fill_(mask, number)``: saves the mask."""
    return write(x, (), "MaskedFillBackward0", (mask,), contiguous_backward)


@operator("copy_", args=lambda out, x, source, *_: (x, source))
def copy_(x: Tensor, source: Tensor) -> Tensor:
    """``x.copy_(source)``: saves nothing. The gradient of ``x`` is zeros, the source's is the incoming one, cast."""
    return write(x, (source,), "CopyBackwards", (), _copy_backward, source.dtype)


def _copy_backward(call: Call) -> Grads:
    zeros = call.ledger.empty(call.grad.shape, call.grad.dtype) if call.needs[0] else None
    return zeros, to(call.grad, call.args[0]) if call.needs[1] else None


@recorded("bitwise_and_", same=("__iand__",))
@recorded("bitwise_or_", same=("__ior__",))
@recorded("bitwise_xor_", same=("__ixor__",))
@recorded("logical_and_", "logical_or_", "logical_not_")
def _itself(out: Result, x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x


@recorded("requires_grad_")
def _requires_grad(out: Result, x: Tensor, value: bool = True) -> None:
    x.requires_grad = value and x.ledger.within not in x.ledger.frozen


@recorded("set_.source_Tensor")
def _set(out: Result, x: Tensor, source: Tensor) -> Tensor:
    if source.storage is not x.storage:
        raise InputError("the model puts another tensor's memory in the place of one's, for which there is no rule")
    return x
