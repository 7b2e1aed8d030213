"""bitsandbytes' linear layers in training.

Sources, of release 0.50: ``nn/modules.py`` and ``autograd/_functions.py``; on a CPU ``backends/cpu/ops.py`` and
``backends/default/ops.py``, on a GPU ``backends/cuda/ops.py``. Both layers are autograd functions in Python, which
keep tensors for backward as attributes of ``ctx``. Hooks do not see such tensors, and checkpointing does not drop
them. They are freed with the graph, not as soon as the node has run.
"""

from __future__ import annotations

from .. import operators as ops
from ..errors import InputError
from ..ledger import Call, Ledger, Shape, Size, Tensor, product, record, whole
from ..ledger.sizes import is_so
from ..programs import Builder
from .linear import Quantisation, QuantLinear

BLOCK = 64
"""Weights that share a scale."""
NESTED_BLOCK = 256
"""Scales that share a scale where the scales are quantised too."""
FUSED_TOKENS = 4
"""The most tokens that release 0.50 always multiplies without dequantising on a GPU (``_GEMM_4BIT_CUSTOM_FLOOR_M``).
For 5 to 1536 tokens a table of GPUs decides (``_gemm_4bit_use_custom_cuda``); here the weight is dequantised then."""


class Linear4bit(QuantLinear):
    """NF4 or FP4 (arXiv 2305.14314): two weights in a byte, and a float32 scale per block.

    ``functional.py: quantize_4bit`` makes the tensors of the ``QuantState``.
    """

    def pack(self, n_out: Size, n_in: Size) -> Size:
        n_in, n_out = whole(n_in), whole(n_out)
        if n_in % 2:
            raise InputError(
                f"{self.path} has {n_in} inputs: bitsandbytes unpacks an odd number of 4-bit weights per row with "
                "compiled code, for which there is no rule; use int8"
            )
        constant, blocks = self.ledger.constant, _blocks(n_out * n_in)
        constant((16,), "float32")  # code
        if self.base.double_quant:
            constant((blocks,), "uint8")  # absmax
            constant((-(-blocks // NESTED_BLOCK),), "float32")  # state2.absmax
            constant((256,), "float32")  # state2.code
            constant((), "float32")  # offset
        else:
            constant((blocks,), "float32")  # absmax
        return n_out * n_in // 2

    def make_bias(self, build: Builder, path: str, n_out: Size) -> Tensor:
        # The layer casts its bias in the first forward pass.
        return build.parameter(path, n_out, dtype=self.base.compute_dtype)

    def forward(self, x: Tensor) -> Tensor:
        inp_dtype = x.dtype
        x = ops.to(x, self.base.compute_dtype)
        return ops.to(matmul_4bit(x, self.weight.shape, self.bias, self.base), inp_dtype)


class Linear8bitLt(QuantLinear):
    """LLM.int8() (arXiv 2208.07339): a byte per weight and a float32 scale per row.

    On a GPU the input is quantised too, all but its columns with outliers.
    """

    def pack(self, n_out: Size, n_in: Size) -> Size:
        self.ledger.constant((n_out,), "float32")  # SCB
        return n_out * n_in

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is not None and self.bias.dtype != x.dtype:
            self.bias.recast(x.dtype)
        return matmul_8bit(x, self.weight.shape, self.bias)


def _blocks(count: Size) -> int:
    return -(-whole(count) // BLOCK)


def matmul_4bit(x: Tensor, shape: Shape, bias: Tensor | None, base: Quantisation) -> Tensor:
    """``bitsandbytes.matmul_4bit`` by a weight of ``shape`` [n_out, n_in].

    Release 0.50 dequantises the weight to ``x``'s dtype unless a fused kernel multiplies (``gemm_4bit``; on a CPU
    ``_gemm_4bit_default_impl``, on a GPU ``_dequant_linear_fallback``). In earlier releases forward dequantises as
    backward does. Up to 0.43.1 it keeps ``x`` for backward, too (bitsandbytes commit 9e753741).
    """

    def make() -> Tensor:
        scales = without_offset = None
        if _fused(x, shape, base):
            return _fused_product(x, shape, base)
        if base.bitsandbytes == "0.50":
            if base.double_quant:
                without_offset = _scales(x.ledger, shape)
                scales = _scales(x.ledger, shape)
                if not x.ledger.device.compiled_bitsandbytes:
                    without_offset = None
            weight = x.ledger.empty(shape, x.dtype)
        else:
            weight = dequantize(x, shape, base)
        out = ops.linear(x.alias(), weight, None if bias is None else bias.alias())
        del scales, without_offset, weight
        return out.alias()

    out = record("MatMul4Bit", make, (x, bias), (), _matmul_4bit_backward, shape, base)
    if out.node is not None and base.bitsandbytes == "0.43.1":
        out.node.attach(x)
    return out


def _fused(x: Tensor, shape: Shape, base: Quantisation) -> bool:
    """Whether a GPU multiplies by the packed weight itself (``matmul_4bit``), whose rows must be whole blocks.

    Release 0.50 does so for a few tokens, earlier ones for a single token that needs no gradient.
    """
    tokens = product(x.shape[:-1])
    compiled = x.ledger.device.compiled_bitsandbytes
    if not compiled or not isinstance(shape[1], int) or shape[1] % BLOCK:
        return False
    if base.bitsandbytes == "0.50":
        return is_so(lambda tokens: tokens <= FUSED_TOKENS, tokens)
    return tokens == 1 and not x.requires_grad


def _fused_product(x: Tensor, shape: Shape, base: Quantisation) -> Tensor:
    scales = None
    if base.double_quant and base.bitsandbytes != "0.50":  # gemv_4bit
        without_offset = _scales(x.ledger, shape)
        scales = _scales(x.ledger, shape)
        del without_offset
    x.ledger.multiply(*x.shape, shape[0])
    out = x.ledger.empty((*x.shape[:-1], shape[0]), x.dtype)
    del scales
    return out


def dequantize(x: Tensor, shape: Shape, base: Quantisation) -> Tensor:
    """``functional.dequantize_4bit(...).to(x.dtype)``: first to the dtype that the weight had before quantisation."""
    scales = _scales(x.ledger, shape) if base.double_quant else None  # their offset is added in place
    weight = x.ledger.empty(shape, base.dtype)
    del scales
    return ops.to(weight, x.dtype)


def _scales(ledger: Ledger, shape: Shape) -> Tensor:
    return ledger.empty((_blocks(product(shape)),), "float32")


def _matmul_4bit_backward(call: Call) -> ops.Grads:
    grad_bias = ops.sum(call.grad, 0) if call.needs[1] else None
    if not call.needs[0]:
        return None, grad_bias
    shape, base = call.args
    weight = dequantize(call.grad, shape, base)
    grad_x = _times_weight(call.grad, shape)
    del weight
    return grad_x, grad_bias


def matmul_8bit(x: Tensor, shape: Shape, bias: Tensor | None) -> Tensor:
    """``bitsandbytes.matmul`` by an int8 weight of ``shape`` [n_out, n_in].

    ``MatMul8bitFp`` (CPU) dequantises the weight to ``x``'s dtype in forward and in backward. ``MatMul8bitLt`` (GPU)
    multiplies integers in forward. Both keep ``x`` for backward, though only a trained weight would need it.
    """
    compiled = x.ledger.device.compiled_bitsandbytes
    held = ops.reshape(x.alias(), (product(x.shape[:-1]), shape[1])) if compiled else x

    def make() -> Tensor:
        if compiled:
            return _integer_product(held, x.shape, shape)
        weight = _scaled_rows(x.ledger, shape, x.dtype)
        out = ops.linear(x.alias(), weight, None if bias is None else bias.alias())
        del weight
        return out.alias()

    name = "MatMul8bitLt" if compiled else "MatMul8bitFp"
    out = record(name, make, (x, bias), (), _matmul_8bit_backward, shape, x.dtype)
    if out.node is not None:
        out.node.attach(held)
    return out


def _integer_product(x: Tensor, shape: Shape, weight: Shape) -> Tensor:
    """``MatMul8bitLt.forward`` of x [tokens, n_in]: quantises rows, multiplies to int32, scales to float16.

    It looks for columns with outliers (above ``llm_int8_threshold``, 6). Here there are none, since they depend on
    the data; each would add a column of ``x`` in its dtype and one of the weight.
    """
    ledger, (tokens, _) = x.ledger, x.shape
    half = ops.to(x, "float16")
    scales, rows = ledger.empty((tokens,), "float32"), ledger.empty(x.shape, "int8")
    magnitudes = ledger.empty(x.shape, "float16")
    outliers = ledger.empty(x.shape, "bool")
    del magnitudes
    anywhere = ledger.empty((), "bool")
    del half, outliers, anywhere
    ledger.multiply(*x.shape, weight[0])
    accumulated = ledger.empty((tokens, weight[0]), "int32")
    out = ops.to(ledger.empty((tokens, weight[0]), "float16"), x.dtype)
    del scales, rows, accumulated
    return ops.view(out, (*shape[:-1], weight[0])).alias()


def _matmul_8bit_backward(call: Call) -> ops.Grads:
    (shape, dtype), grad = call.args, call.grad
    grad_bias = ops.sum(call.grad, 0) if call.needs[1] else None
    if not call.needs[0]:
        return None, grad_bias
    grad = ops.contiguous(ops.reshape(grad, (product(grad.shape[:-1]), shape[0])))
    weight = _scaled_rows(call.ledger, shape, dtype)
    grad_x = _times_weight(ops.to(grad, dtype), shape)
    del weight
    return ops.view(grad_x, (*call.grad.shape[:-1], shape[1])), grad_bias


def _scaled_rows(ledger: Ledger, shape: Shape, dtype: str) -> Tensor:
    """``CB.to(dtype).mul_(SCB.unsqueeze(1) / 127)``. On a CPU ``TensorIterator`` multiplies in float32: a weight of
    another dtype has two float32 copies, one as a factor and one as the result.
    """
    weight = ledger.empty(shape, dtype)
    scale = ledger.empty((shape[0], 1), "float32")
    if not ledger.device.converts_on_load and dtype != "float32":
        copies = ledger.empty(shape, "float32"), ledger.empty(shape, "float32")
        del copies
    del scale
    return weight


def _times_weight(grad: Tensor, shape: Shape) -> Tensor:
    """``grad.matmul(weight)``: [..., n_out] -> [..., n_in]."""
    grad.ledger.multiply(*grad.shape, shape[1])
    out = grad.ledger.empty((*grad.shape[:-1], shape[1]), grad.dtype)
    ops.launch_product(grad)
    return out
