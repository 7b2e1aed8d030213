"""Attention on a CUDA device. No GPU runs here: the witnesses are the operators' meta kernels and autograd on
them, the math version on a CPU, and the kernels' own headers, which the installed PyTorch brings along.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as real_attention
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode

from estimator import operators as ops
from estimator.answers.estimate import estimate
from estimator.errors import InputError
from estimator.ledger import Call, Ledger, Node, Tensor, backward
from estimator.ledger.sizes import Poly, registered, symbol
from estimator.operators import Cuda, attention_cuda, attention_math
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.programs import attention_functions
from estimator.steps.step import run
from estimator.text import human
from tests.cases.small_models import write_config
from tests.helpers.operator_rules import Given, agree

F32, BF16, F16 = "float32", "bfloat16", "float16"
AMPERE, ADA, HOPPER, TURING, VOLTA = (8, 0), (8, 9), (9, 0), (7, 5), (7, 0)
HEADERS = Path(torch.__file__).parent / "include/ATen/native/transformers/cuda/mem_eff_attention"
aten = torch.ops.aten


def described(tensor: Any) -> tuple[Any, ...]:
    """Shape, strides of dimensions above one, dtype."""
    if isinstance(tensor, Tensor):
        shape, strides, dtype = tensor.shape, ops.strides_of(tensor), tensor.dtype
    else:
        shape, strides, dtype = tuple(tensor.shape), tensor.stride(), str(tensor.dtype)[6:].replace("uint64", "int64")
    return shape, tuple(stride for size, stride in zip(shape, strides, strict=True) if size != 1), dtype


def inputs(ledger: Ledger, heads: tuple[int, int, int], seq: int, dim: int, dtype: str, swapped: bool) -> list[Tensor]:
    """Queries, keys and values [2, heads, seq, dim], ``swapped`` if they are token-major in memory."""
    leaves = []
    for count in heads:
        shape = (2, seq, count, dim) if swapped else (2, count, seq, dim)
        leaves.append(ledger.empty(shape, dtype))
        leaves[-1].requires_grad = True
    return [ops.transpose(x, 1, 2) if swapped else x for x in leaves]


def on_meta(heads: tuple[int, int, int], seq: int, dim: int, dtype: str, swapped: bool) -> list[torch.Tensor]:
    """The same in PyTorch, on the meta device."""
    shapes = [(2, seq, count, dim) if swapped else (2, count, seq, dim) for count in heads]
    leaves = [torch.empty(s, dtype=getattr(torch, dtype), device="meta", requires_grad=True) for s in shapes]
    return [x.transpose(1, 2) if swapped else x for x in leaves]


FLASH, EFFICIENT, CUDNN = (
    aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_efficient_attention,
    aten._scaled_dot_product_cudnn_attention,
)


@pytest.mark.parametrize("swapped", [True, False])
@pytest.mark.parametrize(
    ("operator", "capability", "dtype", "heads", "seq", "dim", "masked"),
    [
        (FLASH, AMPERE, BF16, (6, 2, 2), 40, 16, False),
        (FLASH, ADA, F16, (4, 4, 4), 33, 128, False),
        (EFFICIENT, AMPERE, BF16, (4, 4, 4), 40, 16, True),
        (EFFICIENT, TURING, F16, (4, 4, 4), 33, 128, True),
        (EFFICIENT, AMPERE, F32, (4, 4, 4), 70, 160, False),
        (CUDNN, HOPPER, BF16, (6, 2, 2), 40, 16, True),
        (CUDNN, HOPPER, F16, (6, 2, 2), 33, 64, False),
    ],
)
def test_kernels(
    operator: Any,
    capability: tuple[int, int],
    dtype: str,
    heads: tuple[int, int, int],
    seq: int,
    dim: int,
    masked: bool,
    swapped: bool,
) -> None:
    """What is saved, the result and the gradients are those of the operator's meta kernel under autograd, and the work
    is what PyTorch's ``FlopCounterMode`` counts.

    The memory-efficient kernel's seed and offset are host tensors on a GPU and left out.
    """
    ledger = Ledger(Cuda(capability))
    ledger.counts_work = True
    mask = ledger.empty((2, 1, seq, seq), "bool") if masked else None
    out = attention_cuda.scaled_dot_product_attention(*inputs(ledger, heads, seq, dim, dtype, swapped), mask)
    node = out.node
    assert node is not None
    assert node.name.removesuffix("Backward0") == "".join(part.title() for part in operator.__name__.split("_") if part)
    saved = [described(x) for x, _ in node.saved if x is not None]
    shape = (2, heads[0], seq, dim)
    assert ledger.work == flop_counter.sdpa_flop_count(shape, shape, shape)
    grads = node.backward(Call(node, ledger.empty(out.shape, out.dtype, out.strides)))
    work = flop_counter.sdpa_flop_count(shape, shape, shape)
    assert ledger.work == work + flop_counter.sdpa_backward_flop_count(shape, shape, shape, shape)

    given = on_meta(heads, seq, dim, dtype, swapped)
    bias = None
    if masked:
        padded = seq if operator is CUDNN else -(-seq // 8) * 8
        bias = torch.empty(2, 1, seq, padded, dtype=given[0].dtype, device="meta")
    kept: list[torch.Tensor] = []
    extra = () if operator is FLASH else (None if bias is None else bias[..., :seq].expand(2, -1, -1, -1), True)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(x), x)[1], lambda x: x):
        result = operator(*given, *extra)[0]
    wanted = [described(x) for x in kept if operator is not EFFICIENT or x.dtype != torch.int64]
    assert sorted(saved, key=str) == sorted(wanted, key=str)
    assert described(out) == described(result)
    real_grads = torch.autograd.grad(result, given, torch.empty_like(result))
    if operator is EFFICIENT and not swapped:
        real_grads = tuple(x.transpose(1, 2).contiguous().transpose(1, 2) for x in real_grads)
    assert [described(x) for x in grads if x is not None] == [described(x) for x in real_grads]


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize(("seq", "keys"), [(40, 40), (33, 21)])
def test_a_mask_that_needs_a_gradient(seq: int, keys: int, rows: int) -> None:
    """T5's positions. cuDNN does not take it, so memory-efficient runs on Hopper, too (``check_attn_mask_shape`` in
    ``sdp_utils_cpp.h``). What is saved and the gradients are those of PyTorch's own steps on the meta device: the
    padding of ``preprocess_mask``, the expansion to all heads, and the kernel, whose gradient has rows of 16.
    """
    ledger = Ledger(Cuda(HOPPER))
    given = [*inputs(ledger, (4, 4, 4), seq, 16, BF16, True)[:1], *inputs(ledger, (4, 4, 4), keys, 16, BF16, True)[1:]]
    mask = ledger.empty((rows, 4, seq, keys), BF16)
    mask.requires_grad = True
    assert attention_cuda.select_kernel(*given, mask, trains=True) == "efficient"
    before = ledger.live
    out = attention_cuda.scaled_dot_product_attention(*given, mask)
    assert out.node is not None
    saved, held = [described(x) for x, _ in out.node.saved if x is not None], ledger.live - before
    grads = out.node.backward(Call(out.node, ledger.empty(out.shape, out.dtype, out.strides)))
    grad = grads[3]
    assert grad is not None

    real = [on_meta((4, 4, 4), n, 16, BF16, True)[0] for n in (seq, keys, keys)]
    bias = torch.empty(mask.shape, dtype=torch.bfloat16, device="meta", requires_grad=True)
    padded = -(-keys // 8) * 8
    aligned = torch.nn.functional.pad(bias, (0, padded - keys))[..., :keys] if padded > keys else bias
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(x), x)[1], lambda x: x):
        result = EFFICIENT(*real, aligned.expand(2, 4, seq, keys), True)[0]
    assert sorted(saved, key=str) == sorted((described(x) for x in kept if x.dtype != torch.int64), key=str)
    copied = rows * 4 * seq * padded * 2 if padded > keys else 0
    assert held == copied + sum(x.numel() * x.element_size() for x in kept if x.dtype == torch.float32) + out.nbytes
    of_kernel = aten._scaled_dot_product_efficient_attention_backward(
        result, *real, aligned.expand(2, 4, seq, keys), result, *kept[-3:], 0.0, [True] * 4
    )
    assert described(grad) == described(of_kernel[3])
    assert grad.storage.nbytes == of_kernel[3].untyped_storage().nbytes()
    backward(ledger, out)
    result.backward(torch.empty_like(result))
    assert mask.grad is not None
    assert described(mask.grad) == described(bias.grad)


def test_no_gradient_no_statistics() -> None:
    """``compute_log_sumexp`` off: the meta kernel's log-sum-exp is empty too, and nothing is left but the result."""
    ledger = Ledger(Cuda())
    mask = ledger.empty((2, 1, 40, 40), "bool")
    given = inputs(ledger, (4, 4, 4), 40, 16, BF16, True)
    before = ledger.live
    with ledger.no_grad():
        out = attention_cuda.scaled_dot_product_attention(*given, mask)
    assert ledger.live - before == out.nbytes
    assert EFFICIENT(*on_meta((4, 4, 4), 40, 16, BF16, True), None, False)[1].numel() == 0


SELECTION = [
    # dtype, head size, capability, mask, grouped heads, training -> kernel; what in sdp_utils.cpp decides
    (BF16, 128, AMPERE, False, True, True, "flash"),  # first in the default order, takes grouped heads
    (F16, 128, AMPERE, False, False, True, "flash"),
    (BF16, 128, AMPERE, True, False, True, "efficient"),  # check_for_attn_mask
    (F32, 128, AMPERE, False, False, True, "efficient"),  # check_dtypes_flash_attention
    (F32, 128, AMPERE, False, True, True, "math"),  # efficient: check_batch_size_and_num_heads_dense<false>
    (F32, 66, AMPERE, False, False, True, "math"),  # check_head_dim_size_mem_efficient: 4 elements
    (BF16, 66, AMPERE, False, False, True, "flash"),  # padded to 72 by attention.cpp: pad_last_dim
    (BF16, 66, AMPERE, True, False, True, "math"),  # 8 elements
    (F16, 128, TURING, False, False, True, "efficient"),  # check_flash_attention_hardware_support: sm80
    (F16, 128, TURING, False, True, True, "math"),
    (BF16, 128, TURING, False, False, True, "math"),  # less_than_sm80_mem_efficient_dtypes
    (F32, 3, VOLTA, False, False, True, "efficient"),  # no tensor cores for float32 before sm80
    (F16, 12, VOLTA, False, False, True, "math"),
    (BF16, 256, AMPERE, False, True, True, "flash"),
    (BF16, 256, ADA, False, True, True, "flash"),  # above 224 without dropout
    (BF16, 208, ADA, False, False, True, "efficient"),  # ..._gt192_constraints_on_sm86_89_or_120
    (BF16, 208, (12, 0), False, False, True, "efficient"),
    (BF16, 208, ADA, False, False, False, "flash"),  # input_requires_grad
    (BF16, 208, AMPERE, False, False, True, "flash"),
    (BF16, 320, AMPERE, False, False, True, "efficient"),  # check_head_dim_size_flash
    (BF16, 128, HOPPER, False, True, True, "cudnn"),  # check_prefer_cudnn_attention
    (BF16, 128, HOPPER, True, True, True, "cudnn"),  # check_attn_mask_shape
    (BF16, 256, HOPPER, True, False, True, "cudnn"),  # check_cudnn_tensor_shapes
    (BF16, 256, (10, 0), False, False, True, "flash"),
    (BF16, 128, (10, 3), False, False, True, "cudnn"),
    (BF16, 128, (12, 0), False, False, True, "flash"),
    (F32, 128, HOPPER, True, False, True, "efficient"),  # check_dtypes_low_precision
]


@pytest.mark.parametrize(("dtype", "dim", "capability", "masked", "grouped", "trains", "kernel"), SELECTION)
def test_selection(
    dtype: str, dim: int, capability: tuple[int, int], masked: bool, grouped: bool, trains: bool, kernel: str
) -> None:
    """The table above, each row read off ``aten/src/ATen/native/transformers/cuda/sdp_utils.cpp``."""
    ledger = Ledger(Cuda(capability))
    query = ledger.empty((2, 8, 16, dim), dtype)
    key = ledger.empty((2, 2 if grouped else 8, 16, dim), dtype)
    mask = ledger.empty((2, 1, 16, 16), "bool") if masked else None
    assert attention_cuda.select_kernel(query, key, key, mask, trains) == kernel
    assert bool(ledger.notes.get("math attention")) is (kernel == "math")


FALLS_BACK: list[tuple[dict[str, Any], str, list[dict[str, Any]]]] = [
    # a plan that runs the math kernel, why, and every change that the warning names
    ({"dtype": F32}, "float32, .* grouped heads", [{"dtype": BF16}, {"dtype": F16}, {"attention_mask": True}]),
    ({"dtype": F16, "device": "t4"}, "float16 on .* 7.5, .* grouped heads", [{"attention_mask": True}]),
    (
        {"dtype": BF16, "device": "t4"},
        "bfloat16 on .* 7.5, .* grouped heads",
        [{"dtype": F16, "attention_mask": True}, {"dtype": F32, "attention_mask": True}],
    ),
    ({"dtype": F32, "autocast": F16, "device": "t4"}, "float16 on .* 7.5, .* grouped", [{"attention_mask": True}]),
    ({"dtype": BF16, "device": "t4", "model": "llama-2-7b"}, "7.5, .* bfloat16 on", [{"dtype": F16}, {"dtype": F32}]),
]


@pytest.mark.share(2)
@pytest.mark.parametrize(("keys", "why", "ways"), FALLS_BACK, ids=lambda value: str(value)[:60])
def test_a_warning_where_attention_is_quadratic(keys: dict[str, Any], why: str, ways: list[dict[str, Any]]) -> None:
    """It says why and how to avoid it: each way named does, by the same rules, and no other dtype or mask does."""
    plan = {
        "model": "llama-3.2-1b",
        "method": "lora",
        "device": "rtx-4090",
        "runtime": "torch-cuda",
        "seq": 700,
        **keys,
    }

    def notes(**changes: Any) -> list[str]:
        return [note for note in estimate({**plan, **changes}).warnings if "math kernel" in note]

    (note,) = notes()
    assert re.search(why, note)
    assert "\n" not in note
    assert notes(sdpa_kernel="math") == notes(attention="eager") == []
    assert [way for way in ways if notes(**way)] == []
    named = note.partition("; ")[2].removesuffix(" avoids it").split(" or ")
    assert len(named) == len(ways)
    for way, text in zip(ways, named, strict=True):
        assert way.get("dtype", "") in text
        assert way.get("attention_mask", False) is ("padding" in text)
    with contextlib.suppress(InputError):
        least = estimate({**plan, "sdpa_kernel": "efficient"}).bytes["peak"]
        assert f"here {human(estimate(plan).bytes['peak'] - least)} more" in note


@pytest.mark.share(3)
def test_a_warning_of_a_traced_method(tmp_path: Path) -> None:
    """The trace of PEFT's own module meets the same kernels; what they cost is not known without rules."""
    model = write_config(tmp_path / "model", {})
    keys = {"model": model, "method": "psoft", "runtime": "torch-cuda", "seq": 64}
    assert any("math kernel, whose memory grows" in note for note in estimate(keys, dtype=F32).warnings)
    assert not any("math kernel" in note for note in estimate(keys, dtype=BF16).warnings)


def math_rule(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return attention_math.math(query, key, value, None)


def math_really(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    grouped = query.shape[1] != key.shape[1]
    with sdpa_kernel(SDPBackend.MATH):
        return real_attention(query, key, value, is_causal=query.shape[2] > 1, enable_gqa=grouped)


@pytest.mark.parametrize("swapped", [(1, 2), None])
@pytest.mark.parametrize("dtype", [F32, BF16, F16])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_math(dtype: str, kv_heads: int, swapped: tuple[int, int] | None) -> None:
    """The composite's footprint is that of PyTorch's math version on a CPU, whose code is the same."""
    query = Given((2, 4, 40, 16), dtype, swapped=swapped)
    other = Given((2, kv_heads, 40, 16), dtype, swapped=swapped)
    agree(math_rule, math_really, query, other, other)


@pytest.mark.parametrize(("keys", "dtype"), [(40, BF16), (33, F16), (33, F32)])
def test_mask_becomes_a_bias(keys: int, dtype: str) -> None:
    """A boolean mask is made additive as PyTorch makes it for a (fake) CUDA tensor: two scalars and a ``where``;
    rows are padded to 8 elements, the alignment that ``preprocess_mask`` asks for since pytorch#114173.
    """
    made: list[tuple[Any, ...]] = []

    class Log(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = function(*args, **(kwargs or {}))
            if function in (aten.scalar_tensor.default, aten.where.self):
                made.append((*described(out)[::2], str(out.device)[:4]))
            return out

    with FakeTensorMode(), torch.no_grad():
        query = torch.empty(2, 4, keys, 16, device="cuda", dtype=getattr(torch, dtype))
        mask = torch.empty(2, 1, keys, keys, device="cuda", dtype=torch.bool)
        with Log():
            real_attention(query, query, query, attn_mask=mask)
    ledger = Ledger(Cuda())
    bias = attention_math.additive_mask(ledger.empty((2, 1, keys, keys), "bool"), dtype)
    assert made == [((), dtype, "cuda"), ((), dtype, "cuda"), (bias.shape, dtype, "cuda")]
    aligned = attention_cuda.align_bias(bias)
    padded = 2 * keys * -(-keys // 8) * 8
    assert (aligned.shape, aligned.storage.nbytes) == (bias.shape, padded * (4 if dtype == F32 else 2))


def parsed(header: str, kernel: str, dtype: str, arch: int) -> list[list[str]]:
    """Template arguments of the kernels in the order in which the header's dispatch tries them, with its condition."""
    short = {BF16: "bf16", F16: "f16", F32: "f32"}[dtype]
    text = (HEADERS / "kernels" / header).read_text(encoding="utf-8")
    body = text.split(f"_{short}_sm{arch}(T cb, int cc) {{")[1].split("\n}")[0]
    rows = re.findall(rf"^ *(if \(.*?\) )?cb\({kernel}<(.*?)>", body, re.MULTILINE)
    return [[condition, *arguments.split(", ")] for condition, arguments in rows]


@pytest.mark.parametrize("capability", [VOLTA, TURING, AMPERE, (8, 6), ADA, HOPPER, (12, 0)])
@pytest.mark.parametrize("dtype", [F32, F16, BF16])
@pytest.mark.parametrize("dim", [32, 64, 80, 96, 128, 160, 256])
def test_backward_blocks(capability: tuple[int, int], dtype: str, dim: int) -> None:
    """The tile is the first in ``cutlassB.h`` that takes the head size, on devices with little shared memory the
    first with 64 queries (or the one made for sm86 and sm89); what it needs, the formulas of ``kernel_backward.h``.
    """
    arch = 80 if capability >= AMPERE else 75 if capability >= TURING else 70
    if dtype == BF16 and arch < 80:
        return
    small = capability in (TURING, (8, 6), ADA, (12, 0))
    for condition, _, _, aligned, dropout, _, *sizes in parsed("cutlassB.h", "AttentionBackwardKernel", dtype, arch):
        queries, keys, limit = (int(size) for size in sizes[:3])
        if aligned != "true" or dropout != "false" or limit < dim or sizes[3:] == ["true"]:
            continue
        if condition and capability not in ((8, 6), ADA):
            continue
        if condition or queries == 64 or not small:
            break
    half = dtype != F32
    in_registers = half and limit <= queries
    got = attention_cuda.backward_blocks(capability, dtype, dim)
    assert got == attention_cuda.Blocks(
        queries,
        keys,
        accumulates_keys=not in_registers and half,
        accumulates_queries=True,
        computes_delta=half and (in_registers or arch != 70),
    )


def test_forward_accumulates_in_a_buffer_above_128() -> None:
    """``kNeedsOutputAccumulatorBuffer``: ``cutlassF.h`` has no kernel above 128 that keeps its result in registers."""
    for arch, dtype in ((80, BF16), (80, F16), (75, F16), (70, F16)):
        for _, _, _, aligned, _, keys, limit, *_ in parsed("cutlassF.h", "AttentionKernel", dtype, arch):
            assert aligned != "true" or (int(limit) <= int(keys)) == (int(limit) <= 128)


def rise(capability: tuple[int, int], dtype: str, dim: int, masked: bool, kv_heads: int = 24) -> tuple[int, int]:
    """Bytes that the saved tensors add to the inputs, and what the backward adds at its highest (B 4, S 689)."""
    ledger = Ledger(Cuda(capability))
    leaves = [ledger.empty((4, 689, heads, dim), dtype) for heads in (24, kv_heads, kv_heads)]
    for leaf in leaves:
        leaf.requires_grad = True
    mask = ledger.empty((4, 1, 689, 689), "bool") if masked else None
    before = ledger.live
    out = attention_cuda.scaled_dot_product_attention(*(ops.transpose(x, 1, 2) for x in leaves), mask)
    node = out.node
    assert node is not None
    saved, grad = ledger.live - before, ledger.empty(out.shape, out.dtype, out.strides)
    ledger.peaks.clear()
    before = ledger.live
    node.backward(Call(node, grad))
    return saved, max(ledger.peaks.values()) - before


def test_bytes_at_llama_sizes() -> None:
    """Written out by hand from ``flash_api.cpp``, ``Params::workspace_size`` (efficient) and cuDNN's frontend."""
    out, tokens, heads = 4 * 689 * 24 * 128 * 2, 4 * 24 * 689, 4 * 24
    kv = 4 * 689 * 8 * 128 * 2
    accumulators = heads * 768 * 4 + heads * 768 * 128 * 4
    assert rise(AMPERE, BF16, 128, masked=False, kv_heads=8) == (
        out + tokens * 4 + 24,
        out + 2 * kv + accumulators + 2 * out,
    )
    saved = out + heads * 704 * 4 + 4 * 689 * 696 * 2
    assert rise(AMPERE, BF16, 128, masked=True) == (saved, 3 * out + tokens * 4 + heads * 6 * (16 + 4 * 128 * 128))
    tiles = heads * (2 * 64 * 128 * 2 * 4 + 11 * 2 * (16 + 4 * 64 * 64))  # 200 // 96 = 2 splits
    assert rise(ADA, BF16, 128, masked=True) == (saved, 3 * out + tokens * 4 + tiles)
    cudnn = out + tokens * 4 + 16 + 4 * 689 * 689 * 2
    assert rise(HOPPER, BF16, 128, masked=True) == (cudnn, 3 * out + heads * 704 * 704 * 2)


@pytest.mark.parametrize("dtype", [F16, BF16])
def test_eager_softmax(dtype: str) -> None:
    """A GPU's softmax of float16 in float32 converts as it reads, one of bfloat16 does not: what a fake CUDA tensor
    dispatches, and the meta kernel of the backward.
    """
    dispatched: list[str] = []

    class Log(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is not torch.ops.prim.device.default:
                dispatched.append(str(function))
            return function(*args, **(kwargs or {}))

    with FakeTensorMode(), torch.no_grad():
        x = torch.empty(4, 8, device="cuda", dtype=getattr(torch, dtype))
        with Log():
            torch.nn.functional.softmax(x, -1, dtype=torch.float32)
    ledger = Ledger(Cuda())
    ours = ledger.empty((4, 8), dtype)
    ours.requires_grad = True
    out = ops.softmax(ours, F32)
    assert out.node is not None
    fused = not isinstance(out.node.edges[0].target, Node)  # no conversion before it
    assert fused == (dispatched == ["aten._softmax.default"])
    (grad,) = out.node.backward(Call(out.node, ledger.empty((4, 8), F32)))
    meta = torch.empty(4, 8, device="meta")
    input_dtype = torch.float16 if fused else torch.float32
    assert grad is not None
    assert described(grad) == described(aten._softmax_backward_data(meta, meta, -1, input_dtype))


def test_flash_attn() -> None:
    """The package's function: its result is [B, S, heads, D], it saves queries, keys, values, result, log-sum-exp
    and 16 B of state (``flash_attn_interface.py``: ``ctx.save_for_backward``), and refuses what the package refuses.
    """
    ledger = Ledger(Cuda())
    query, key, value = inputs(ledger, (6, 2, 2), 40, 16, BF16, True)
    before = ledger.live
    out, weights = attention_functions.flash(query, key, value, BF16)
    assert (out.shape, out.strides, weights) == ((2, 40, 6, 16), None, None)
    assert ledger.live - before == out.nbytes + 2 * 6 * 40 * 4 + 16
    backward(ledger, out)
    for dtype, capability in ((F32, AMPERE), (BF16, TURING)):
        given = inputs(Ledger(Cuda(capability)), (4, 4, 4), 8, 16, dtype, True)
        with pytest.raises(InputError, match="attention flash needs"):
            attention_functions.flash(*given, dtype)


def test_flash_attn_pads_the_head_size() -> None:
    """A head size of 100 (OpenLLaMA 3B) is padded to 104: ``FlashAttnFunc.forward`` saves padded inputs and result."""
    ledger = Ledger(Cuda())
    query, key, value = inputs(ledger, (6, 2, 2), 40, 100, BF16, True)
    before = ledger.live
    out, _ = attention_functions.flash(query, key, value, BF16)
    assert out.shape == (2, 40, 6, 100)
    padded = 2 * 40 * 104 * 2 * (6 + 2 + 2 + 6)
    assert ledger.live - before == ledger.saved == padded + 2 * 6 * 40 * 4 + 16
    backward(ledger, out)


@pytest.mark.parametrize("capability", [AMPERE, ADA, HOPPER])
def test_symbols(capability: tuple[int, int]) -> None:
    """Formulas in B, S and the heads give the numbers that sizes written out give: a kernel's backward, exactly."""
    sizes = {"B": 3, "S": 77, "K": 2, "G": 4}

    def backward(value: Callable[[str], Any]) -> Any:
        ledger = Ledger(Cuda(capability), symbolic=isinstance(value("S"), Poly))
        heads = value("K") * value("G")
        query = ops.transpose(ledger.empty((value("B"), value("S"), heads, 128), BF16), 1, 2)
        blocks = attention_cuda.backward_blocks(capability, BF16, 128)
        bias = ledger.empty((value("B"), 1, value("S"), value("S")), BF16)
        total = attention_cuda.efficient_workspace(query, query, blocks)
        total = total + attention_cuda.cudnn_workspace(query, query)
        return total + attention_cuda.align_bias(bias).storage.nbytes

    formula = backward(symbol)
    assert formula.evaluate(sizes) == backward(sizes.__getitem__)
    for name in formula.symbols():
        source = registered(name).source
        if source is not None:
            assert eval(source, dict(sizes)) == registered(name).function(  # type: ignore[misc]
                *(sizes[argument] for argument in registered(name).arguments)
            )


@pytest.mark.parametrize(
    ("capability", "dtype", "padded"),
    [(AMPERE, BF16, True), (AMPERE, BF16, False), (ADA, BF16, True), (HOPPER, BF16, True), (TURING, F16, False)],
)
def test_formula_of_a_step(capability: tuple[int, int], dtype: str, padded: bool) -> None:
    """A step's saved bytes and highest total in open B and S are those of the numbers: here with Llama's head size."""
    plan = parse_plan({"model": "llama-3.2-1b", "method": "lora", "dtype": dtype, "attention_mask": padded})
    resolved = resolve(plan)
    options = resolved.step._replace(device=Cuda(capability))
    sizes = resolved.spec.config.sizes(lambda layer: None, options, symbol("B"), symbol("S"), symbolic=True)
    numbers = run(options, resolved.sizes(), resolved.method, 3, 77)
    formula = run(options, sizes, resolved.method, symbol("B"), symbol("S"), symbolic=True)
    values = {**resolved.spec.config.values(), "B": 3, "S": 77, "r": 8}
    assert isinstance(formula.saved, Poly)
    assert formula.saved.evaluate(values) == numbers.saved
    highest = max(size.evaluate(values) for sizes in formula.moments.values() for size in sizes)  # type: ignore[union-attr]
    assert highest == max(max(sizes) for sizes in numbers.moments.values())  # type: ignore[type-var]


def test_flash_attn_takes_no_padding() -> None:
    """A wrong input is refused in one line before anything runs (transformers would unpad the batch)."""
    keys = {"model": "llama-3.2-1b", "dtype": BF16, "runtime": "torch-cuda", "attention": "flash"}
    assert estimate(keys, seq=32).bytes["saved"]
    with pytest.raises(InputError, match="attention: flash has no rule with attention_mask: true"):
        resolve(parse_plan({**keys, "attention_mask": True}))


def test_why_math_runs_names_what_each_kernel_refuses() -> None:
    """By hand: from compute capability 8.0 on both kernels take 16 bits, and refuse the heads."""
    for capability, refused in (((8, 0), "heads of 512"), ((7, 5), "bfloat16 on compute capability 7.5")):
        why = attention_cuda.why_math(capability, BF16, 512, grouped=False, masked=False, trains=True)
        assert why.startswith(f"flash does not take {refused}, memory-efficient does not take {refused}")
