"""Changes of dtype: explicit ones, by promotion, and by autocast."""

from __future__ import annotations

from ..errors import InputError
from ..ledger import FLOATING, Call, Tensor, record
from .device import REDUCED
from .layout import Grads, elementwise_strides
from .table import Result, recorded
from .views import clone

PRECISION = {
    "bool": 0,
    "uint8": 1,
    "int8": 1,
    "int16": 2,
    "int32": 3,
    "int64": 4,
    "float16": 5,
    "bfloat16": 5,
    "float32": 6,
    "float64": 7,
    "complex64": 8,
    "complex128": 9,
}


def promote_types(a: str, b: str) -> str:
    """The dtype that holds the values of both (``c10::promoteTypes``)."""
    if PRECISION[a] == PRECISION[b] and a != b:
        return "float32" if a in FLOATING else "int16"
    return max(a, b, key=PRECISION.__getitem__)


def promote(a: Tensor, b: Tensor) -> str:
    """The common dtype of two operands (``at::result_type``)."""
    if bool(a.shape) != bool(b.shape):
        wide, number = (a, b) if a.shape else (b, a)
        if _kind(number.dtype) <= _kind(wide.dtype):
            return wide.dtype  # a 0-dim tensor does not widen another operand of its kind
    return promote_types(a.dtype, b.dtype)


def _kind(dtype: str) -> int:
    """Booleans, integers, floating and complex numbers, in this order."""
    if dtype in FLOATING:
        return 2
    return 3 if dtype.startswith("complex") else int(dtype != "bool")


def check_promotion(parts: tuple[Tensor, ...]) -> None:
    """Raise ``InputError`` if a part has neither autocast's dtype nor float32 (``at::autocast::prioritize``)."""
    autocast = parts[0].ledger.autocast
    for part in parts:
        if autocast and part.dtype in REDUCED and part.dtype != autocast:
            raise InputError(
                f"autocast {autocast} fails in PyTorch where it has to join {part.dtype} tensors, as here; "
                f"use autocast {part.dtype}, or weights in float32"
            )


def to(x: Tensor, dtype: str) -> Tensor:
    """``x.to(dtype)``: ``x`` itself if it has that dtype, else a copy; saves nothing."""
    if x.dtype == dtype:
        return x
    return record(
        "ToCopyBackward0",
        lambda: x.ledger.empty(x.shape, dtype, elementwise_strides(x.shape, (x,))),
        (x,),
        (),
        _to_backward,
        x.dtype,
    )


@recorded("to")
def _to(out: Result, x: Tensor, dtype: str, copy: bool = False) -> Tensor:
    return clone(x, preserve=True) if copy and dtype == x.dtype else to(x, dtype)


def _to_backward(call: Call) -> Grads:
    return (to(call.grad, call.args[0]),)


def from_host(x: Tensor, dtype: str) -> Tensor:
    """``x.to(device, dtype)`` of a tensor on the host that needs no gradient.

    A GPU gets a copy. The host changes the dtype first (``Copy.cu: copy_kernel_cuda``, for copies that block).
    """
    return to(x, dtype) if not x.ledger.device.has_own_memory else x.ledger.empty(x.shape, dtype)


def autocast(x: Tensor) -> Tensor:
    """``at::autocast::cached_cast`` of a floating tensor to the dtype of autocast; ``x`` itself if autocast is off."""
    ledger = x.ledger
    dtype = ledger.autocast
    if dtype is None or x.dtype == dtype or x.dtype not in FLOATING:
        return x
    cacheable = x.requires_grad and x.node is None and not x.is_view and x.dtype == "float32"
    if not cacheable or ledger.inference_mode:
        return to(x, dtype)
    if id(x) not in ledger.autocast_cache:
        ledger.autocast_cache[id(x)] = ledger.autocast_casts.add(to(x, dtype))
    return ledger.autocast_cache[id(x)]


def widens(x: Tensor) -> bool:
    """Whether autocast runs this operand's operator in float32. Only a GPU's does."""
    ledger = x.ledger
    return ledger.autocast is not None and ledger.device.autocasts_to_float32 and x.dtype in REDUCED


def in_loss(x: Tensor) -> Tensor:
    """The operand as autocast hands it to a loss, which runs in float32 on a CPU, too (``autocast_mode.cpp``)."""
    return to(x, "float32") if x.ledger.autocast is not None and x.dtype in REDUCED else x


def widened(x: Tensor) -> Tensor:
    """The operand as autocast hands it to an operator that runs in float32 on a GPU."""
    return to(x, "float32") if widens(x) else x
