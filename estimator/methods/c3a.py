"""C3A as PEFT runs it (``peft/tuners/c3a/layer.py`` and ``utils.py``; arXiv 2407.19342)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from .. import operators as ops
from ..errors import InputError
from ..io.fields import Rank
from ..ledger import ITEMSIZE, Call, Shape, Size, Tensor, product, record, whole
from ..ledger.sizes import is_so
from ..operators.table import Kept, saves
from ..programs import Builder, Linear, Module
from . import patterns
from .layered import Absent, Adapters, Bias, LayerOptions, integer_shape, name_of
from .options import Pattern


class C3ALinear(Module):
    """y = W x + C x, where C [n_out, n_in] is made of circulant blocks [block, block].

    c3a_kernel [n_out / block, n_in / block, block] has one row of each block. C x is computed by Fourier transforms.
    """

    def __init__(self, build: Builder, base: Linear, c3a: Adapters[C3AMethod]) -> None:
        self.path, self.ledger, self.base_layer = base.path, base.ledger, base
        (n_out, n_in), block = integer_shape(base), whole(c3a.size_at(base.path))
        self.c3a_kernel = build.adapter(
            f"{self.path}.c3a_kernel", (n_out // block, n_in // block, block), c3a.adapter_dtype
        )

    def forward(self, x: Tensor) -> Tensor:
        previous_dtype = x.dtype
        result: Tensor = self.base_layer(x)
        x = ops.to(x, "float32")
        c3a_kernel = ops.to(self.c3a_kernel, "float32")
        x = ops.div(block_circular_convolution(x, c3a_kernel), ops.SCALAR)
        result = ops.add_(result, ops.to(x, result.dtype))
        result = ops.to(result, previous_dtype)
        return result


@saves(
    "BlockCircularConvolutionBackward",
    Kept("its input in blocks", (-1,)),
    Kept("its kernel", (-2,)),
    inputs=("input", "kernel"),
)
def block_circular_convolution(x: Tensor, w: Tensor) -> Tensor:
    """PEFT's ``BlockCircularConvolution``: x [..., n * b], w [m, n, b], float32 -> [..., m * b]."""
    ledger, (m, n, b), lead = x.ledger, w.shape, x.shape[:-1]
    blocks = ops.reshape(x.alias(), (*lead, n, b))

    def make() -> Tensor:
        x_fft, w_fft = ledger.empty((*lead, n, b), _COMPLEX), ledger.empty((m, n, b), _COMPLEX)
        y = _einsum((*lead, m, b), x_fft, (product(lead), n, m))
        del x_fft, w_fft
        y_fft = ledger.empty(y.shape, _COMPLEX)
        del y
        return ops.reshape(ops.real(y_fft), (*lead, m * b))

    return record("BlockCircularConvolutionBackward", make, (x, w), (blocks, w), _convolution_backward)


def _convolution_backward(call: Call) -> ops.Grads:
    ledger, (x, w) = call.ledger, call.saved
    (m, n, b), lead = w.shape, x.shape[:-2]
    rows = product(lead)
    grad_fft = ledger.empty((*lead, m, b), _COMPLEX)
    w_fft = ledger.empty(w.shape, _COMPLEX)
    x_grad = _einsum(x.shape, w_fft, (rows, m, n))
    del w_fft
    x_grad = ops.reshape(ops.real(ledger.empty(x_grad.shape, _COMPLEX)), (*lead, n * b))
    x_fft = ledger.empty(x.shape, _COMPLEX)
    w_grad = _einsum(w.shape, x_fft, (m, rows, n), over_rows=True)
    del x_fft
    w_grad = ops.real(ledger.empty(w_grad.shape, _COMPLEX))
    del grad_fft
    return x_grad, w_grad


_COMPLEX = "complex64"
_SMALL_PRODUCT = 400
"""Multiplications below which ``bmm`` makes no copies (``aten/src/ATen/native/LinearAlgebra.cpp``)."""


def _einsum(shape: Shape, conjugated: Tensor, sizes: tuple[Size, Size, Size], over_rows: bool = False) -> Tensor:
    """``torch.einsum`` of two spectra, with a result of ``shape``: a product [i, j] by [j, k] for each frequency.

    ``sizes`` is (i, j, k). ``conjugated`` is the spectrum that ``ifft`` of a real tensor gives: a conjugate view, whose
    data must be written out. With j = 1 einsum multiplies elementwise, and writes the conjugate out before its result.
    Otherwise it is a batched matrix product, which writes the conjugate out after its result. The frequency is the
    last dimension, so no matrix has a stride of one, and each is copied for its product. The copy is left out for a
    second factor of one column, whose stride has no meaning. With B and S as symbols, products are taken to be large.
    """
    ledger, (i, j, k) = conjugated.ledger, sizes
    if j == 1:
        resolved = ledger.empty(conjugated.shape, _COMPLEX)
        out = ledger.empty(shape, _COMPLEX)
        del resolved
        return out
    out = ledger.empty(shape, _COMPLEX)
    copied: Size = 0
    if not is_so(lambda work: work < _SMALL_PRODUCT, i * j * k) and conjugated.shape[-1] != 1:
        second = j * k if k != 1 or (over_rows and i == 1) else 0
        copied = (i * j + second) * ITEMSIZE[_COMPLEX]
    ledger.transient(conjugated.nbytes + copied)
    return out


class C3AMethod(LayerOptions):
    """C3A (peft.C3AConfig)."""

    plain_saved: ClassVar[bool] = False
    title: ClassVar[str] = "C3A"
    linear = C3ALinear
    size_key = "block_size"
    pattern_key = "block_size_pattern"
    pattern_form = patterns.BELOW
    open_sizes: ClassVar[bool] = False
    pattern_alone: ClassVar[bool] = True
    harmless: ClassVar[frozenset[str]] = frozenset({"init_weights"})
    adapts_conv1d: ClassVar[bool] = False
    name: Literal["c3a"] = "c3a"
    block_size: Rank = Field(256, description="size of a circulant block; divides both sides of the weight")
    block_size_pattern: dict[Pattern, Rank] | None = Field(None, description="block_size for modules by name")
    bias: Bias = Field("none", description="biases to train: none, all or c3a_only")
    exclude_modules: Absent = None

    def check_target(self, path: str, n_out: int, n_in: int, size: Size) -> None:
        block = whole(size)
        if n_out % block or n_in % block:
            raise InputError(
                f"block_size {block} does not divide both sides of {name_of(path)}'s weight, {n_out} x {n_in} "
                "(PEFT's rule); take a common divisor"
            )
