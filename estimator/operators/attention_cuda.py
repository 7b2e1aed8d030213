"""``F.scaled_dot_product_attention`` on a CUDA device: which kernel runs, what it saves, what workspace it takes.

Sources, PyTorch 2.13: ``aten/src/ATen/native/transformers/cuda/sdp_utils.cpp`` (selection),
``transformers/attention.cpp`` (masks, padding, the math version), ``transformers/cuda/attention.cu`` and
``attention_backward.cu``, ``transformers/cuda/flash_attn/flash_api.cpp``,
``transformers/cuda/mem_eff_attention/kernel_backward.h`` with ``kernels/cutlassB.h``;
``tools/autograd/derivatives.yaml`` (what is saved). Shapes are [B, heads, S, D]; kernels use [B, S, heads, D].

Kernels are chosen by head size, so ``D`` must be a number. The other sizes may be polynomials.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..errors import InputError
from ..ledger import ITEMSIZE, RESULT, Backward, Call, Ledger, Size, Tensor, ceiling, product, record, whole
from ..ledger.sizes import derived, format_poly, is_so
from .attention_math import INPUTS, LSE, MASK, OUT, QKV, additive_mask, math
from .casts import to
from .copies import pad
from .device import REDUCED
from .layout import empty_like, strides_of
from .table import Kept, operator, saves
from .views import contiguous, expand, narrow, transpose

_RANDOM = Kept("the state of the random numbers", because="kept even without dropout")

Capability = tuple[int, int]


def head_size(x: Tensor) -> int:
    """``D`` as a number. Kernels depend on it, so it is never a symbol."""
    return whole(x.shape[-1])


def select_kernel(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, trains: bool, enable_gqa: bool = True
) -> str:
    """``select_sdp_backend``: the first of ``cudnn``, ``flash``, ``efficient`` and ``math`` that takes the call.

    Only memory-efficient takes values of another head size than queries'. Heads or batches that broadcast, and fewer
    than four dimensions, are left to math. cuDNN takes no mask that needs a gradient (``check_attn_mask_shape``).

    cuDNN comes first on Hopper and on data-centre Blackwell only (``check_prefer_cudnn_attention``, with cuDNN 9.15.1
    or newer, as in wheels for CUDA 13). Elsewhere it comes after math, which takes every call.
    """
    device, dtype, dim = query.ledger.device, query.dtype, head_size(query)
    grouped = query.shape[-3] != key.shape[-3]
    fused = all(len(x.shape) == 4 and x.shape[0] == query.shape[0] for x in (query, key, value))
    fused = fused and key.shape[1] == value.shape[1] and (enable_gqa or not grouped)
    same = fused and query.shape[-1] == value.shape[-1]
    learnt = mask is not None and mask.requires_grad
    takes = {
        "cudnn": same and not learnt and device.ask(cudnn_takes, dtype, dim, key.shape[-2]),
        "flash": same and mask is None and device.ask(flash_takes, dtype, dim, trains),
        "efficient": fused
        and not grouped
        and all(device.ask(efficient_takes, dtype, head_size(x)) for x in (query, value)),
        "math": True,
    }
    only: str | None = device.sdpa_kernel
    if only is not None:
        if not takes[only]:
            capability = device.capability
            raise InputError(
                f"sdpa_kernel {only} does not take this attention ({dtype}, head size {dim}, capability "
                f"{capability[0]}.{capability[1]}{'' if mask is None else ', a mask'}"
                f"{' that needs a gradient' if learnt else ''}); leave it out, or use efficient"
            )
        return only
    if device.ask(prefers_cudnn) and takes["cudnn"]:
        return "cudnn"
    kernel = next(kernel for kernel in ("flash", "efficient", "math") if takes[kernel])
    if kernel == "math" and same:
        why: str = device.ask(why_math, dtype, dim, grouped, mask is not None, trains)
        query.ledger.notes["math attention"] = why
    return kernel


def why_math(capability: Capability, dtype: str, dim: int, grouped: bool, masked: bool, trains: bool) -> str:
    """A sentence for the reader: why flash and memory-efficient refuse the call, and what would avoid math attention.

    That may be another dtype, or a mask, since transformers repeats grouped keys and values if there is a mask.
    """

    def runs_math(dtype: str, masked: bool) -> bool:
        flash = not masked and flash_takes(capability, dtype, dim, trains)
        efficient = (masked or not grouped) and efficient_takes(capability, dtype, dim)
        return not (flash or efficient or (prefers_cudnn(capability) and cudnn_takes(capability, dtype, dim, keys=2)))

    def refused(of_device: bool, of_dtype: bool) -> str:
        if of_device:
            return f"{dtype} on compute capability {capability[0]}.{capability[1]}"
        return dtype if of_dtype else f"heads of {dim}"

    flash = "a mask" if masked else refused(dtype in REDUCED and capability < (8, 0), dtype not in REDUCED)
    of_device = dtype == "bfloat16" and capability < (8, 0)
    efficient = "grouped heads without a mask" if grouped else refused(of_device, of_dtype=False)
    others = [other for other in ("bfloat16", "float16", "float32") if other != dtype]
    ways = [other for other in others if not runs_math(other, masked)]
    ways += [] if masked or runs_math(dtype, masked=True) else ["a batch with padding (attention_mask)"]
    ways = ways or [f"{other} and a batch with padding" for other in others if not runs_math(other, masked=True)]
    avoided = f"; {' or '.join(ways)} avoids it" if ways else ""
    return f"flash does not take {flash}, memory-efficient does not take {efficient}{avoided}"


def prefers_cudnn(capability: Capability) -> bool:
    """``check_prefer_cudnn_attention``: Hopper and data-centre Blackwell."""
    return capability[0] in (9, 10) and capability[1] in (0, 3)


def cudnn_takes(capability: Capability, dtype: str, dim: int, keys: Size) -> bool:
    """``can_use_cudnn_attention``: 16-bit calls with two or more keys; masks and grouped heads are allowed.

    Head sizes are multiples of 8 up to 128, on Hopper up to 256 (``check_cudnn_tensor_shapes``).
    """
    limit = 256 if capability == (9, 0) else 128
    return dtype in REDUCED and dim % 8 == 0 and dim <= limit and keys != 1


def flash_takes(capability: Capability, dtype: str, dim: int, trains: bool) -> bool:
    """``can_use_flash_attention`` for a call without a mask: 16-bit, from sm80 on, head sizes up to 256.

    Training on sm86 to sm89 and on sm120 excludes head sizes from 193 to 224
    (``check_requires_grad_and_head_dim_gt192_constraints_on_sm86_89_or_120``).
    """
    if not (8, 0) <= capability <= (12, 1) or dtype not in REDUCED or dim > 256:
        return False
    small = (8, 6) <= capability <= (8, 9) or (12, 0) <= capability <= (12, 1)
    return not (small and trains and 192 < dim <= 224)


def efficient_takes(capability: Capability, dtype: str, dim: int) -> bool:
    """``can_use_mem_efficient_attention`` for equal head counts: float32, float16 and, from sm80 on, bfloat16.

    ``minimum_gemm_alignment`` says which number the head size must be a multiple of.
    """
    if not (5, 0) <= capability <= (12, 1) or (dtype == "bfloat16" and capability < (8, 0)):
        return False
    alignment = 4 if capability >= (8, 0) else 1
    if capability >= (8, 0) or (capability >= (7, 0) and dtype in REDUCED):
        alignment = max(alignment, 8 if dtype in REDUCED else 4)
    return dtype in (*REDUCED, "float32") and dim % alignment == 0


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout_p: float = 0.0,
    is_causal: bool = True,
    enable_gqa: bool = True,
) -> Tensor:
    """Attention by the kernel that PyTorch picks. ``mask`` is [B, 1, S, keys] or another shape that broadcasts.

    Dropout changes no kernel's memory but that of math. Only random numbers' seeds are kept, as without dropout.
    """
    ledger = query.ledger
    trains = ledger.grad_enabled and any(x.requires_grad for x in (query, key, value))
    kernel = select_kernel(query, key, value, mask, trains, enable_gqa)
    bias = mask if mask is None or mask.dtype != "bool" else additive_mask(mask, query.dtype)
    del mask
    if kernel == "flash":
        return _padded(_flash, query, key, value)
    if kernel == "cudnn":
        return _cudnn(query, key, value, bias, trains)
    if kernel == "efficient":
        aligned = None if bias is None else align_bias(bias)
        del bias
        if aligned is not None and aligned.requires_grad:  # the kernel's gradient is that of each row and head
            aligned = expand(aligned, (*query.shape[:3], key.shape[2]))
        return _efficient(query, key, value, aligned, trains)
    return math(query, key, value, bias, dropout_p, is_causal, enable_gqa)


def align_bias(bias: Tensor) -> Tensor:
    """``preprocess_mask``: a part of a copy with rows padded to a multiple of 8 elements, unless they fit.

    The kernel expands the heads with a stride of zero. A length that is a symbol is taken to need padding.
    """
    keys = bias.shape[-1]
    if is_so(lambda keys: keys % 8 == 0, keys):
        return bias
    return narrow(pad(bias, (*bias.shape[:-1], ceiling(keys, 8) * 8)), -1, keys)


def _token_major(x: Tensor) -> Tensor:
    """A new tensor of ``x``'s shape [B, heads, S, D] that is contiguous as [B, S, heads, D]."""
    batch, heads, seq, dim = x.shape
    return transpose(x.ledger.empty((batch, seq, heads, dim), x.dtype), 1, 2)


def _wanted(call: Call, grads: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
    return tuple(grad if need else None for grad, need in zip(grads, call.needs, strict=True))


def _contiguous_tokens(x: Tensor) -> Tensor:
    """``x.transpose(1, 2).contiguous()``."""
    return contiguous(transpose(x, 1, 2))


def _run(
    name: str,
    outputs: Callable[[], tuple[Tensor, ...]],
    inputs: tuple[Tensor, Tensor, Tensor],
    bias: Tensor | None,
    backward: Backward,
) -> Tensor:
    """Record a kernel. It saves its inputs, the bias, its result and its other ``outputs``, in this order.

    A bias that needs a gradient is an input, whose gradient ``backward`` gives last.
    """
    others: list[Tensor] = []

    def make() -> Tensor:
        out, *rest = outputs()
        others.extend(rest)
        return out

    learnt = (bias,) if bias is not None and bias.requires_grad else ()
    out = record(name, make, (*inputs, *learnt), (*inputs, bias, RESULT), backward)
    if out.node is not None:
        out.node.saved += [out.ledger.pack(x, name, i, inputs) for i, x in enumerate(others, len(out.node.saved))]
    return out


def _count_products(ledger: Ledger, query: Tensor, key: Tensor, products: int, sequences: Size = 0) -> None:
    """``sequences``: those of a packed row, each of which attends to itself alone."""
    if ledger.counts_work:
        keys = whole(key.shape[2]) // whole(sequences) if sequences else key.shape[2]
        for _ in range(products):
            ledger.multiply(*query.shape, keys)


def _padded(kernel: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """``pad_last_dim``: a head size that is no multiple of 8 is padded to one, and the result is sliced."""
    dim = head_size(query)
    if dim % 8 == 0:
        return kernel(query, key, value)
    query, key, value = (pad(x, (*x.shape[:-1], dim + -dim % 8)) for x in (query, key, value))
    return narrow(kernel(query, key, value), -1, dim)


@saves("ScaledDotProductFlashAttentionBackward0", *QKV, MASK, OUT, LSE, _RANDOM, _RANDOM, inputs=INPUTS)
def _flash(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """``mha_fwd``: saves its inputs, its result in the query's layout and the log-sum-exp [B, heads, S] in float32.

    Even without dropout it saves the random state: two numbers and an unused one, of 8 B each, on the device. Left out
    are the accumulators of ``set_params_splitkv``, used if there are fewer blocks than multiprocessors.
    """
    ledger = query.ledger

    def outputs() -> tuple[Tensor, ...]:
        _count_products(ledger, query, key, 2)
        return (
            ledger.product(lambda: empty_like(query)),
            ledger.product(lambda: ledger.empty(query.shape[:3], "float32")),
            ledger.product(lambda: ledger.empty((2,), "int64")),
            ledger.product(lambda: ledger.empty((), "int64")),
        )

    return _run("ScaledDotProductFlashAttentionBackward0", outputs, (query, key, value), None, _flash_backward)


def _flash_backward(call: Call) -> tuple[Tensor | None, ...]:
    # _flash_attention_backward: contiguous copies, which live until it returns
    query, key, value, _, out = call.saved[:5]
    held = _contiguous_tokens(call.grad), _contiguous_tokens(out)
    grads = _flash_gradients(query, key, value)
    del held
    return _wanted(call, grads)


def _flash_gradients(query: Tensor, key: Tensor, value: Tensor, sequences: Size = 0) -> tuple[Tensor, ...]:
    """``mha_bwd``: the gradients, in their inputs' layouts.

    Its workspace is, in float32, row sums [B, heads, ceil128(S)] and the query's gradient [B, ceil128(S), heads, D
    rounded up]. For grouped heads it is also the gradients of keys and values per query head [B, keys, heads, D]. A row
    of ``sequences`` (``mha_varlen_bwd``) has 128 rows more for each, in place of the rounding.
    """
    ledger = query.ledger
    batch, heads, seq, _ = query.shape
    dim = head_size(query)
    rows, width = seq + 128 * sequences if sequences else ceiling(seq, 128) * 128, _up(dim, 32 if dim <= 128 else 64)
    grads = empty_like(query), empty_like(key), empty_like(value)
    scratch = [
        ledger.empty((batch, heads, rows), "float32"),
        ledger.empty((batch, rows, heads, width), "float32"),
    ]
    if heads != key.shape[1]:
        scratch += [ledger.empty((batch, key.shape[2], heads, dim), query.dtype) for _ in range(2)]
    _count_products(ledger, query, key, 5, sequences)
    del scratch
    return grads


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


@operator(  # of values in 16 bits, the program has the casts
    "flash_attn", args=lambda out, *inputs: (*inputs, out.dtype if inputs[2].dtype == "float32" else None)
)
def flash_attn(query: Tensor, key: Tensor, value: Tensor, dtype: str | None = None) -> Tensor:
    """``flash_attn_func`` of the package flash-attn 2, without padding, of [B, S, heads, D].

    A packed row goes through ``flash_attn_varlen_func``, which takes the lengths of its sequences.

    With a ``dtype`` it is behind ``fa_peft_integration_check`` of transformers: if queries are float32, as float32
    norms make them, then queries, keys and values are cast to autocast's dtype, without autocast to ``dtype``. That is
    the one of a quantised base before it was quantised, else of the projections' weights (``get_target_dtype``).

    Saves its inputs, its result, the log-sum-exp [B, heads, S] in float32 and the random state (16 B). A head size that
    is no multiple of 8 is padded to one by ``FlashAttnFunc.forward``. Raises
    ``InputError`` for a dtype, a device or a head size that it does not take. Source:
    ``flash_attn/flash_attn_interface.py``, ``csrc/flash_attn/flash_api.cpp``.
    """
    ledger = query.ledger
    if dtype is not None and query.dtype == "float32":
        dtype = ledger.autocast or dtype
        query, key, value = to(query, dtype), to(key, dtype), to(value, dtype)
    if query.dtype not in REDUCED or not ledger.device.runs_flash_attn or head_size(query) > 256:
        raise InputError(
            "attention flash needs 16-bit weights (rest_dtype of a quantised base) or autocast, a GPU of compute "
            "capability 8.0 or higher and head sizes up to 256; use attention sdpa"
        )
    return _padded(_flash_attn, query, key, value)


@saves("FlashAttnFuncBackward", *QKV, MASK, OUT, LSE, _RANDOM, inputs=INPUTS)
def _flash_attn(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    ledger = query.ledger
    batch, seq, heads, _ = query.shape

    def outputs() -> tuple[Tensor, ...]:
        _count_products(ledger, transpose(query, 1, 2), transpose(key, 1, 2), 2, ledger.sequences)
        return (
            ledger.product(lambda: empty_like(query)),
            ledger.product(lambda: ledger.empty((batch, heads, seq), "float32")),
            ledger.product(lambda: ledger.empty((2,), "int64")),
        )

    return _run("FlashAttnFuncBackward", outputs, (query, key, value), None, _flash_attn_backward)


def _flash_attn_backward(call: Call) -> tuple[Tensor | None, ...]:
    query, key, value = (transpose(x, 1, 2) for x in call.saved[:3])
    grads = _flash_gradients(query, key, value, call.ledger.sequences)
    del query, key, value
    return _wanted(call, tuple(transpose(grad, 1, 2) for grad in grads))


@saves("ScaledDotProductEfficientAttentionBackward0", *QKV, MASK, OUT, LSE, inputs=INPUTS)
def _efficient(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, trains: bool) -> Tensor:
    """``_efficient_attention_forward``: saves its inputs, the bias and its result, contiguous as [B, S, heads, D].

    In training it also saves the log-sum-exp [B, heads, ceil32(S)] in float32. Seed and offset are on the host. 16-bit
    heads above 128 are summed in a float32 buffer (``kernel_forward.h: kNeedsOutputAccumulatorBuffer``).
    """
    ledger = query.ledger
    batch, heads, seq, _ = query.shape

    def outputs() -> tuple[Tensor, ...]:
        shape, rows = (batch, seq, heads, value.shape[-1]), ceiling(seq, 32) * 32 if trains else 0
        out = ledger.product(lambda: transpose(ledger.empty(shape, query.dtype), 1, 2))
        logsumexp = ledger.product(lambda: ledger.empty((batch, heads, rows), "float32"))
        if head_size(value) > 128 and query.dtype in REDUCED:
            ledger.transient(product(shape) * ITEMSIZE["float32"])
        _count_products(ledger, query, key, 2)
        return out, logsumexp

    return _run("ScaledDotProductEfficientAttentionBackward0", outputs, (query, key, value), bias, _efficient_backward)


def _efficient_backward(call: Call) -> tuple[Tensor | None, ...]:
    # _efficient_attention_backward: gradients [B, S, heads, D]; delta and workspace are freed after the kernel's launch
    query, key, value, bias, out, _ = call.saved
    ledger = call.ledger
    batch, heads, seq, _ = query.shape
    grad = _contiguous_tokens(call.grad)
    grads: tuple[Tensor, ...] = _token_major(query), _token_major(key), _token_major(value)
    if len(call.needs) > len(grads):  # that of the bias, with rows of a multiple of 16 elements
        keys = bias.shape[-1]
        grads += (narrow(ledger.empty((*bias.shape[:-1], ceiling(keys, 16) * 16), bias.dtype), -1, keys),)
    blocks: Blocks = ledger.device.ask(backward_blocks, query.dtype, max(head_size(query), head_size(value)))
    if blocks.computes_delta:
        delta = ledger.empty((batch, heads, seq), "float32")
    else:  # (grad.to(float) * out.to(float)).sum(-1).transpose(-2, -1).contiguous()
        factors = [to(grad, "float32"), to(out, "float32")]
        terms = ledger.empty(grad.shape, "float32")
        sums = ledger.empty((batch, seq, heads), "float32")
        delta = ledger.empty((batch, heads, seq), "float32")
        del factors, terms, sums
    workspace = efficient_workspace(query, value, blocks)
    if workspace:
        ledger.transient(workspace)
    _count_products(ledger, query, key, 5)
    del delta
    return _wanted(call, grads)


class Blocks(NamedTuple):
    """A backward kernel of ``cutlassB.h``: its tile is ``queries`` rows by ``keys`` columns."""

    queries: int
    keys: int
    accumulates_keys: bool
    """It sums the gradients of keys and values in float32 in the workspace (``kNeedsAccumGradK``), not in registers."""
    accumulates_queries: bool
    """It sums the gradient of queries in the workspace (``kNeedsAccumGradQ``)."""
    computes_delta: bool
    """It computes the row sums of gradient times result itself (``kKernelComputesDelta``)."""


def backward_blocks(capability: Capability, dtype: str, dim: int) -> Blocks:
    """The first kernel of ``dispatch_cutlassB`` that takes the head size and fits the shared memory.

    Compute capabilities 7.5, 8.6, 8.9 and 12.x have 64 or 99 KiB of shared memory per block, the others 163 KiB or more
    (CUDA C++ Programming Guide, table of compute capabilities). Tiles of 128 queries need the larger one, with few
    exceptions (``mem_eff_attention/kernels/generate_kernels.py: BwdKernel.get_all``).
    """
    reduced, sm80 = dtype in REDUCED, capability >= (8, 0)
    roomy = capability not in ((7, 5), (8, 6), (8, 9)) and capability[0] < 12
    queries = keys = 64
    limit = 32 if dim <= 32 else 64 if dim <= 64 else 128 if dim <= 128 else 65536
    if sm80 and reduced and capability in ((8, 6), (8, 9)) and 64 < dim <= 96:
        queries, limit = 128, 96
    elif dim > 64 and roomy and (sm80 or (reduced and capability >= (7, 0))):
        queries, keys = 128, 128 if sm80 and reduced and dim <= 128 else 64
    in_registers = reduced and limit <= queries
    volta = (7, 0) <= capability < (7, 5)
    return Blocks(
        queries,
        keys,
        accumulates_keys=reduced and not in_registers,
        accumulates_queries=reduced or capability >= (7, 0),
        computes_delta=reduced and (in_registers or not volta),
    )


def efficient_workspace(query: Tensor, value: Tensor, blocks: Blocks) -> Size:
    """``Params::workspace_size`` in bytes: float32 sums for each head.

    Each tile of queries has sums of the tile's size and 16 B of locks. If the kernel accumulates keys, each split of
    the keys has a tile for the gradient of keys and one for that of values.
    """
    batch, heads, seq, _ = query.shape
    dim = head_size(query)
    per_head: Size = 0  # float32 elements; all terms are multiples of 4 already, which is their alignment
    if blocks.accumulates_keys:
        splits = key_splits(batch * heads, value.shape[2], blocks.keys)
        widths = _up(dim, blocks.queries) + _up(head_size(value), blocks.queries)
        per_head = splits * (blocks.keys * widths)
    if blocks.accumulates_queries:
        tiles = ceiling(seq, blocks.queries) * -(-dim // blocks.keys)
        per_head = per_head + tiles * (4 + blocks.queries * blocks.keys)
    return batch * heads * per_head * ITEMSIZE["float32"]


def key_splits(heads: Size, keys: Size, block: int) -> Size:
    """``num_splits_key``: one split per block of keys, but at most 200 splits for all ``heads`` of the batch."""
    blocks = ceiling(keys, block)
    if isinstance(heads, int) and isinstance(blocks, int):
        return max(1, min(blocks, 200 // heads))
    text = f"max(1, min(({format_poly(keys)} + {block - 1}) // {block}, 200 // ({format_poly(heads)})))"
    return derived("key_splits", "splits of the keys in a backward of memory-efficient attention", text, heads, keys)


DP_WORKSPACE_LIMIT = 256 * 2**20
"""The most bytes of the attention weights' gradient in cuDNN (``CUDNN_FRONTEND_ATTN_DP_WORKSPACE_LIMIT``)."""


@saves("ScaledDotProductCudnnAttentionBackward0", *QKV, MASK, OUT, LSE, _RANDOM, _RANDOM, inputs=INPUTS)
def _cudnn(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, trains: bool) -> Tensor:
    """``_cudnn_attention_forward``: saves its inputs, the bias, its result in the query's layout, and seed and offset
    (8 B each, on the device). In training it also saves the softmax's statistics [B, heads, S, 1] in float32.
    """
    ledger = query.ledger

    def outputs() -> tuple[Tensor, ...]:
        seed, offset = (ledger.product(lambda: ledger.empty((), "int64")) for _ in range(2))
        out = ledger.product(lambda: empty_like(query))
        shape = *query.shape[:2], query.shape[2] if trains else 0, 1
        statistics = ledger.product(lambda: ledger.empty(shape, "float32"))
        _count_products(ledger, query, key, 2)
        return out, statistics, seed, offset

    return _run("ScaledDotProductCudnnAttentionBackward0", outputs, (query, key, value), bias, _cudnn_backward)


def _cudnn_backward(call: Call) -> tuple[Tensor | None, ...]:
    # run_cudnn_SDP_bprop: copies the incoming gradient to the result's layout; gradients have their inputs' layouts
    query, key, value, _, out = call.saved[:5]
    grads = empty_like(query), empty_like(key), empty_like(value)
    grad = call.grad if strides_of(call.grad) == strides_of(out) else empty_like(out)  # noqa: F841 (held)
    call.ledger.transient(cudnn_workspace(query, key))
    _count_products(call.ledger, query, key, 5)
    return _wanted(call, grads)


def cudnn_workspace(query: Tensor, key: Tensor) -> Size:
    """The documented part of the backward's workspace, in bytes. Further workspace is not published.

    It is the attention weights' 16-bit gradient [B, heads, ceil64(S), ceil64(keys)] up to ``DP_WORKSPACE_LIMIT``, and
    above that the query's gradient in float32. Source: NVIDIA/cudnn-frontend,
    ``node/scaled_dot_product_flash_attention.h: SDPABackwardNode`` and the attention page of ``docs/operations``.
    """
    batch, heads, seq, dim = query.shape
    rows, columns = ceiling(seq, 64) * 64, ceiling(key.shape[2], 64) * 64
    weights = batch * heads * rows * columns * ITEMSIZE["float16"]
    queries = batch * heads * seq * dim * ITEMSIZE["float32"]
    if isinstance(weights, int):
        return weights if weights <= DP_WORKSPACE_LIMIT else queries
    rounded = [f"({format_poly(x)} + 63) // 64" for x in (seq, key.shape[2])]
    text = f"8192 * ({format_poly(batch * heads)}) * ({rounded[0]}) * ({rounded[1]})"
    text = f"{format_poly(queries)} if {text} >= {DP_WORKSPACE_LIMIT + 1} else {text}"
    return derived("cudnn_workspace", "workspace of a cuDNN attention backward", text, queries, key.shape[2])
