"""Operator rules. The witness asked everywhere is autograd's real saved tensors and the real allocator.

Every case runs one expression twice, with our rules on a ledger and with PyTorch on a CPU, and
compares what is saved for backward, the result's layout, and the bytes live over forward and backward.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint as torch_checkpoint
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.llama import modeling_llama

from estimator import attention, ops
from estimator.ledger import FLOATING, Ledger, Shape, Tensor
from estimator.measure import allocator_events
from estimator.training.checkpointing import checkpoint

F32, BF16, F16 = "float32", "bfloat16", "float16"
FLOATS = ((F32,), (BF16,), (F16,))
PAIRS = ((F32, F32), (BF16, BF16), (F16, F16))
MIXED = (*PAIRS, (F32, BF16), (BF16, F32), (F16, F32), (F16, BF16))
TOLERANCE = 64
"""Bytes: the scalars that a kernel may take, none of which grows with the sizes."""


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """One thread, which waits for no other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def reference_threads(_threads: None) -> None:
    """The reference step's threads, with which the flash kernel's workspace grows."""
    torch.set_num_threads(ops.THREADS)


# ---- one description, both sides -----------------------------------------------------------


@dataclass(frozen=True)
class Given:
    """An input. ``swapped`` are two dimensions of the leaf that the expression sees transposed."""

    shape: tuple[int, ...]
    dtype: str = F32
    grad: bool = True
    swapped: tuple[int, int] | None = None

    def leaf_shape(self) -> tuple[int, ...]:
        shape = list(self.shape)
        if self.swapped:
            a, b = self.swapped
            shape[a], shape[b] = shape[b], shape[a]
        return tuple(shape)

    def __str__(self) -> str:
        sign = ("" if self.grad else "!") + ("T" if self.swapped else "")
        return f"{sign}{self.dtype}{list(self.shape)}".replace(" ", "")


Cases = tuple[Given, ...]


@dataclass(frozen=True)
class Footprint:
    """What is compared. Strides of dimensions of size one say nothing and are left out."""

    saved: int
    saved_inputs: tuple[bool, ...]
    """Which inputs are among what is saved."""
    saved_result: bool
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    storage: int
    peak: int
    left: int
    """Bytes above the start once only the gradients are left."""


def meaningful(shape: Shape, strides: Shape) -> tuple[Any, ...]:
    return tuple(stride for size, stride in zip(shape, strides, strict=True) if size != 1)


def first(out: Any) -> Any:
    return out[0] if isinstance(out, tuple) else out


def ours(rule: Callable[..., Any], given: Sequence[Given], autocast: str | None = None) -> Footprint:
    """Run a rule on a ledger."""
    ledger = Ledger()
    leaves = [ledger.empty(g.leaf_shape(), g.dtype) for g in given]
    for leaf, g in zip(leaves, given, strict=True):
        leaf.requires_grad = g.grad
    start = ledger.live
    ledger.peaks.clear()
    ledger.autocast = autocast
    out = rule(*(ops.transpose(x, *g.swapped) if g.swapped else x for x, g in zip(leaves, given, strict=True)))
    ledger.autocast = None
    ledger.clear_autocast_cache()
    y = first(out)
    kept = ledger.saved, tuple(x.storage.saved for x in leaves), y.storage.saved
    result = y.shape, meaningful(y.shape, ops.strides_of(y)), y.dtype, y.storage.nbytes
    if y.node is not None:
        ledger.backward(y)
    del out, y
    return Footprint(*kept, *result, max(ledger.peaks.values(), default=start) - start, ledger.live - start)


def real(function: Callable[..., Any], given: Sequence[Given], autocast: str | None = None) -> Footprint:
    """Run the same in PyTorch: once under saved-tensor hooks, once under the profiler."""
    leaves = [torch.zeros(g.leaf_shape(), dtype=getattr(torch, g.dtype), requires_grad=g.grad) for g in given]
    saved: dict[int, Any] = {}

    def pack(tensor: Any) -> Any:
        saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    def forward() -> Any:
        with torch.autocast("cpu", getattr(torch, autocast)) if autocast else nullcontext():
            return function(*(x.transpose(*g.swapped) if g.swapped else x for x, g in zip(leaves, given, strict=True)))

    def step() -> None:
        out = forward()
        y = first(out)
        if y.grad_fn is not None:
            y.backward(torch.ones(y.shape, dtype=y.dtype))

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = first(forward())
    result = tuple(y.shape), meaningful(y.shape, y.stride()), str(y.dtype)[6:], y.untyped_storage().nbytes()
    inputs = tuple(x.untyped_storage()._cdata in saved for x in leaves)
    kept = sum(storage.nbytes() for storage in saved.values()), inputs, y.untyped_storage()._cdata in saved
    del y
    saved.clear()
    step()
    for leaf in leaves:
        leaf.grad = None
    return Footprint(*kept, *result, *peak_and_left(allocator_events(step)))


F16_PRODUCTS = pytest.param(
    F16,
    marks=pytest.mark.skipif(
        torch.ops.mkldnn._is_mkldnn_fp16_supported(), reason="with AVX512-FP16 oneDNN copies float16 operands too"
    ),
)
"""The dtype of a test of products whose operands oneDNN does not copy."""

WITH_SCRATCH = ("mm", "bmm", "addmm", "_scaled_dot_product_flash_attention_for_cpu_backward")


def peak_and_left(events: Iterable[tuple[int, str]]) -> tuple[int, int]:
    """The highest and the last total, without the scratch of 16-bit matrix products: oneDNN takes it
    inside the operator and gives it back there, and its size depends on the processor."""
    live = peak = 0
    for where, group in itertools.groupby(events, key=lambda event: event[1]):
        sizes = [nbytes for nbytes, _ in group]
        if where.removesuffix("/[memory]").rpartition("/")[2] in WITH_SCRATCH:
            sizes = without_scratch(sizes)
        for nbytes in sizes:
            live += nbytes
            peak = max(peak, live)
    return peak, live


def without_scratch(sizes: list[int]) -> list[int]:
    kept: list[int] = []
    for nbytes in sizes:
        if -nbytes in kept and nbytes < 0:
            kept.remove(-nbytes)
        else:
            kept.append(nbytes)
    return kept


def agree(rule: Callable[..., Any], function: Callable[..., Any], *given: Given, autocast: str | None = None) -> None:
    """Our rule's footprint is the real operator's."""
    a, b = ours(rule, given, autocast), real(function, given, autocast)
    close = all(abs(x - y) <= TOLERANCE for x, y in ((a.peak, b.peak), (a.left, b.left)))
    assert replace(a, peak=0, left=0) == replace(b, peak=0, left=0)
    assert close, f"ours: peak {a.peak}, left {a.left}; real: peak {b.peak}, left {b.left}"


def varied(
    shapes: Sequence[tuple[tuple[int, ...], ...]],
    dtypes: Sequence[tuple[str, ...]] = FLOATS,
    swaps: Sequence[tuple[int, int] | None] | None = None,
) -> Any:
    """Parametrize a test with ``given``: shapes x dtypes x which inputs require a gradient x layouts.

    Everything is crossed for the first shapes and dtypes. The others are taken with no layout changed
    and with all of them; so are more than two inputs, of which all or none require a gradient then.
    """
    count = len(shapes[0])
    swaps = swaps or [(-1, -2)] * count
    extremes = [(False,) * count, (True,) * count]
    everything = list(itertools.product((True, False), repeat=count))
    cases: dict[Cases, None] = {}
    for (i, group), (j, types) in itertools.product(enumerate(shapes), enumerate(dtypes)):
        if i and j:
            continue
        grads = extremes if (i or j) and count > 2 else everything
        layouts = extremes if i or j or count > 2 else everything
        for wanted, swapped in itertools.product(grads, layouts):
            rows = zip(group, types, wanted, swapped, swaps, strict=True)
            case = tuple(
                Given(shape, dtype, grad and dtype in FLOATING, swap if turned and len(shape) > 1 else None)
                for shape, dtype, grad, turned, swap in rows
            )
            cases[case] = None
    return pytest.mark.parametrize("given", cases, ids=lambda given: "-".join(map(str, given)))


unary = varied([((4, 6, 40),), ((1, 200),), ((200, 1),)])
plain = varied([((4, 6, 40),), ((1, 200),), ((200, 1),)], swaps=[None])
binary_shapes = [
    ((4, 6, 40), (4, 6, 40)),
    ((4, 6, 40), (40,)),
    ((4, 6, 40), (1, 6, 40)),
    ((4, 6, 40), (4, 6, 1)),
    ((96, 1), (1, 40)),
]
binary = varied(binary_shapes, MIXED)


# ---- views ---------------------------------------------------------------------------------


@unary
def test_transpose(given: Cases) -> None:
    agree(lambda x: ops.transpose(x, 0, -1), lambda x: x.transpose(0, -1), *given)


@varied([((4, 6, 40),), ((1, 6, 40),), ((4, 1, 40),), ((4, 6, 1),)], swaps=[None])
def test_view(given: Cases) -> None:
    agree(lambda x: ops.view(x, (x.numel,)), lambda x: x.view(x.numel()), *given)


@varied([((4, 6, 40),), ((1, 6, 40),), ((4, 1, 40),), ((4, 6, 1),)], swaps=[(0, 1)])
def test_view_of_a_transposed_tensor(given: Cases) -> None:
    shape = (*given[0].shape[:2], 2, max(given[0].shape[2] // 2, 1)) if given[0].shape[2] > 1 else given[0].shape
    agree(lambda x: ops.view(x, shape), lambda x: x.view(shape), *given)


@varied([((4, 6, 40),), ((1, 6, 40),), ((4, 1, 40),), ((4, 6, 1),)], swaps=[(0, 1)])
def test_reshape(given: Cases) -> None:
    last = given[0].shape[-1]
    agree(lambda x: ops.reshape(x, (x.numel // last, last)), lambda x: x.reshape(-1, last), *given)


@unary
def test_reshape_flat(given: Cases) -> None:
    agree(lambda x: ops.reshape(x, (x.numel,)), lambda x: x.reshape(-1), *given)


@unary
def test_contiguous(given: Cases) -> None:
    agree(ops.contiguous, lambda x: x.contiguous(), *given)


@unary
def test_clone_contiguous(given: Cases) -> None:
    agree(ops.clone_contiguous, lambda x: x.clone(memory_format=torch.contiguous_format), *given)


@pytest.mark.parametrize("dim", [0, 1, -1])
@unary
def test_unsqueeze(given: Cases, dim: int) -> None:
    agree(lambda x: ops.unsqueeze(x, dim), lambda x: x.unsqueeze(dim), *given)


@varied([((1, 6, 40),), ((4, 1, 40),), ((1, 1, 40),), ((4, 6, 40),), ((40,),)])
def test_expand(given: Cases) -> None:
    agree(lambda x: ops.expand(x, (4, 6, 40)), lambda x: x.expand(4, 6, 40), *given)


@varied([((4, 6, 40),), ((1, 200),)])
def test_narrow(given: Cases) -> None:
    agree(lambda x: ops.narrow(x, -1, 17), lambda x: x[..., :17], *given)


# ---- elementwise ---------------------------------------------------------------------------


@binary
def test_add(given: Cases) -> None:
    agree(ops.add, torch.add, *given)


@binary
def test_mul(given: Cases) -> None:
    agree(ops.mul, torch.mul, *given)


@unary
def test_add_scalar(given: Cases) -> None:
    agree(ops.add_scalar, lambda x: x + 0.5, *given)


@unary
def test_mul_scalar(given: Cases) -> None:
    agree(ops.mul_scalar, lambda x: x * 0.5, *given)


@unary
def test_neg(given: Cases) -> None:
    agree(ops.neg, torch.neg, *given)


@pytest.mark.parametrize("dtype", [F32, BF16, F16])
@unary
def test_to(given: Cases, dtype: str) -> None:
    agree(lambda x: ops.to(x, dtype), lambda x: x.to(getattr(torch, dtype)), *given)


@unary
def test_pow2(given: Cases) -> None:
    agree(ops.pow2, lambda x: x.pow(2), *given)


@varied([((4, 6, 40),), ((1, 200),), ((200, 1),)], [(F32,)])
def test_mean_last(given: Cases) -> None:
    agree(ops.mean_last, lambda x: x.mean(-1, keepdim=True), *given)


@unary
def test_rsqrt(given: Cases) -> None:
    agree(ops.rsqrt, torch.rsqrt, *given)


@unary
def test_silu(given: Cases) -> None:
    agree(ops.silu, functional.silu, *given)


@pytest.mark.parametrize("dtype", [F32, BF16])
@plain
def test_softmax_last(given: Cases, dtype: str) -> None:
    torch_dtype = getattr(torch, dtype)
    agree(lambda x: ops.softmax_last(x, dtype), lambda x: functional.softmax(x, -1, dtype=torch_dtype), *given)


@varied([((24, 40),), ((1, 200),), ((200, 1),)], swaps=[None])
def test_log_softmax(given: Cases) -> None:
    agree(ops.log_softmax, lambda x: functional.log_softmax(x, 1), *given)


@pytest.mark.parametrize("p", [0.0, 0.1])
@unary
def test_dropout(given: Cases, p: float) -> None:
    agree(lambda x: ops.dropout(x, p), lambda x: functional.dropout(x, p), *given)


@varied([((4, 6, 40), (4, 6, 24)), ((1, 200), (1, 100)), ((200, 1), (200, 1))], PAIRS)
def test_cat(given: Cases) -> None:
    shape = (*given[0].shape[:-1], given[0].shape[-1] + given[1].shape[-1])
    agree(lambda *parts: ops.cat(parts, shape), lambda *parts: torch.cat(parts, -1), *given)


@varied([((2, 4, 6, 40),), ((1, 1, 6, 40),), ((2, 4, 1, 40),)], swaps=[(1, 2)])
def test_cat_growing(given: Cases) -> None:
    empty = torch.empty(0, dtype=getattr(torch, given[0].dtype))
    agree(ops.cat_growing, lambda x: torch.cat([empty, x], -2), *given)


# ---- matrix products -----------------------------------------------------------------------

linear_shapes = [
    ((4, 6, 40), (24, 40)),
    ((24, 40), (32, 40)),
    ((1, 6, 40), (24, 40)),
    ((4, 1, 40), (24, 40)),
    ((1, 1, 200), (100, 200)),
    ((4, 6, 40), (1, 40)),
    ((40, 6, 1), (24, 1)),
]


@varied(linear_shapes, PAIRS, swaps=[None, None])
def test_linear(given: Cases) -> None:
    agree(ops.linear, functional.linear, *given)


@varied([(a, b, b[:1]) for a, b in linear_shapes], [(d, d, d) for d, _ in PAIRS], swaps=[None] * 3)
def test_linear_with_bias(given: Cases) -> None:
    agree(ops.linear, functional.linear, *given)


@varied([(a, b) for a, b in linear_shapes if len(a) == 3], PAIRS, swaps=[None, None])
def test_matmul_transposed(given: Cases) -> None:
    agree(ops.linear, lambda x, weight: x @ weight.T, *given)


@varied(
    [
        ((2, 3, 8, 20), (2, 3, 20, 12)),
        ((1, 3, 8, 20), (2, 3, 20, 12)),
        ((2, 3, 8, 20), (2, 1, 20, 12)),
        ((2, 3, 1, 20), (2, 3, 20, 12)),
        ((2, 3, 8, 20), (2, 3, 20, 1)),
        ((2, 3, 8, 1), (2, 3, 1, 12)),
        ((1, 1, 8, 20), (1, 1, 20, 12)),
    ],
    PAIRS,
)
def test_matmul(given: Cases) -> None:
    agree(ops.matmul, torch.matmul, *given)


@varied([((6, 8, 20), (6, 20, 12)), ((1, 8, 20), (1, 20, 12)), ((6, 1, 20), (6, 20, 1))], PAIRS)
def test_bmm(given: Cases) -> None:
    agree(ops.bmm, torch.bmm, *given)


# ---- autocast ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [BF16, F16])
@varied(
    [((4, 6, 40), (24, 40)), ((40, 6, 40), (24, 40)), ((2, 6, 40), (400, 40))],
    [(F32, F32), (BF16, F32), (F32, BF16)],
    swaps=[None, None],
)
def test_linear_under_autocast(given: Cases, dtype: str) -> None:
    agree(ops.linear, functional.linear, *given, autocast=dtype)


@varied([((4, 6, 40), (24, 40), (24,))], [(F32, F32, F32)], swaps=[None] * 3)
def test_linear_with_bias_under_autocast(given: Cases) -> None:
    agree(ops.linear, functional.linear, *given, autocast=BF16)


@varied([((4, 6, 40), (40, 40))], [(F32, F32), (BF16, F32)], swaps=[None, None])
def test_cast_of_a_trainable_leaf_is_made_once(given: Cases) -> None:
    agree(
        lambda x, weight: ops.linear(ops.linear(x, weight), weight),
        lambda x, weight: functional.linear(functional.linear(x, weight), weight),
        *given,
        autocast=BF16,
    )


@varied([((2, 3, 8, 20), (2, 3, 20, 12))], [(BF16, F32), (F32, BF16)])
def test_matmul_under_autocast(given: Cases) -> None:
    agree(ops.matmul, torch.matmul, *given, autocast=BF16)


# ---- embedding, mask, loss -----------------------------------------------------------------


@varied(
    [((4, 6), (50, 24)), ((1, 1), (50, 24)), ((4, 6), (50, 1))], [("int64", d) for d, _ in PAIRS], swaps=[None, (0, 1)]
)
def test_embedding(given: Cases) -> None:
    agree(ops.embedding, functional.embedding, *given)


@pytest.mark.parametrize("dtype", [F32, BF16, F16])
@pytest.mark.parametrize("shape", [(3, 1, 20, 20), (1, 1, 1, 1)])
def test_select_mask(shape: tuple[int, ...], dtype: str) -> None:
    """Of a mask whose batch is expanded, as ``eager_mask`` in transformers writes it."""
    torch_dtype = getattr(torch, dtype)
    agree(
        lambda mask: ops.select_mask(ops.expand(mask, shape), dtype),
        lambda mask: torch.where(mask.expand(shape), torch.zeros((), dtype=torch_dtype), torch.finfo(torch_dtype).min),
        Given((1, *shape[1:]), "bool", grad=False),
    )


@varied([((24, 40), (24,)), ((1, 200), (1,)), ((200, 1), (200,))], [(d, "int64") for d, _ in PAIRS], swaps=[None, None])
def test_cross_entropy(given: Cases) -> None:
    agree(ops.cross_entropy, functional.cross_entropy, *given)


# ---- attention -----------------------------------------------------------------------------

TRIPLES = ((F32, F32, F32), (BF16, BF16, BF16), (F16, F16, F16))


def heads_shapes(kv_heads: int, groups: int, seq: int = 12, dim: int = 16, batch: int = 2) -> Any:
    key = batch, kv_heads, seq, dim
    return (batch, kv_heads * groups, seq, dim), key, key


HEADS = [heads_shapes(2, 2), heads_shapes(2, 1), heads_shapes(1, 3), heads_shapes(1, 1)]
SINGLE = [heads_shapes(2, 2, seq=1), heads_shapes(2, 1, seq=1)]
attended = varied(HEADS, TRIPLES, swaps=[(1, 2)] * 3)
MASKS = {"none": None, "per sequence": 2, "shared": 1}
masked = pytest.mark.parametrize("mask", MASKS.values(), ids=list(MASKS))


def module(given: Cases) -> Any:
    """The parts of an attention module that transformers' functions read."""
    return SimpleNamespace(num_key_value_groups=given[0].shape[1] // given[1].shape[1], is_causal=True, training=True)


def with_mask(given: Cases, batch: int | None, dtype: str = "bool") -> Cases:
    seq = given[0].shape[2]
    return given if batch is None else (*given, Given((batch, 1, seq, seq), dtype, grad=False))


def shown(mask: Any, given: Cases) -> Any:
    """A mask as every sequence of the batch sees it."""
    if mask is None:
        return None
    shape = given[0].shape[0], *mask.shape[1:]
    return ops.expand(mask, shape) if isinstance(mask, Tensor) else mask.expand(shape)


@pytest.mark.parametrize("groups", [1, 3])
@varied([((2, 4, 6, 20),), ((2, 1, 6, 20),), ((1, 4, 6, 20),), ((2, 4, 1, 20),), ((1, 1, 1, 64),)], swaps=[(1, 2)])
def test_repeat_kv(given: Cases, groups: int) -> None:
    agree(lambda x: attention.repeat_kv(x, groups), lambda x: modeling_llama.repeat_kv(x, groups), *given)


def causal(q: Any, k: Any, v: Any) -> Any:
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def attend_to(*shapes: tuple[int, ...], dtype: str = F32) -> Cases:
    return tuple(Given(shape, dtype, swapped=(1, 2)) for shape in shapes)


flash = pytest.mark.usefixtures("reference_threads")
BLOCKS = (1, 31, 33, 191, 192, 767, 768)
"""Sequence lengths on either side of where the kernel's blocks change."""


@flash
@pytest.mark.parametrize("dtype", [F32, BF16, F16])
@pytest.mark.parametrize("shapes", [*HEADS, *(heads_shapes(1, 1, seq, 8, batch=1) for seq in BLOCKS)], ids=str)
def test_scaled_dot_product_attention(shapes: Any, dtype: str) -> None:
    """Transposed afterwards, so that the gradient comes in the layout that the kernel works in."""
    agree(
        lambda q, k, v: ops.transpose(attention.scaled_dot_product_attention(q, k, v, None), 1, 2),
        lambda q, k, v: causal(q, k, v).transpose(1, 2),
        *attend_to(*shapes, dtype=dtype),
    )


@flash
@varied(SINGLE, TRIPLES, swaps=[(1, 2)] * 3)
def test_sdpa_of_one_token(given: Cases) -> None:
    part = module(given)
    agree(
        lambda q, k, v: attention.sdpa(q, k, v, None, part.num_key_value_groups, 0.0),
        lambda q, k, v: sdpa_attention_forward(part, q, k, v, None),
        *given,
    )


@flash
@masked
@attended
def test_sdpa(given: Cases, mask: int | None) -> None:
    part = module(given)
    agree(
        lambda q, k, v, m=None: attention.sdpa(q, k, v, shown(m, given), part.num_key_value_groups, 0.0),
        lambda q, k, v, m=None: sdpa_attention_forward(part, q, k, v, shown(m, given)),
        *with_mask(given, mask),
    )


@flash
@varied([heads_shapes(2, 2)], [(F32, F32, F32), (F32, F32, BF16)], swaps=[(1, 2)] * 3)
def test_sdpa_under_autocast(given: Cases) -> None:
    part = module(given)
    agree(
        lambda q, k, v: attention.sdpa(q, k, v, None, part.num_key_value_groups, 0.0),
        lambda q, k, v: sdpa_attention_forward(part, q, k, v, None),
        *given,
        autocast=BF16,
    )


@pytest.mark.parametrize(("mask", "dropout"), [(None, 0.0), (2, 0.0), (1, 0.0), (2, 0.1)])
@attended
def test_eager(given: Cases, mask: int | None, dropout: float) -> None:
    part = module(given)
    agree(
        lambda q, k, v, m=None: attention.eager(q, k, v, shown(m, given), part.num_key_value_groups, dropout),
        lambda q, k, v, m=None: modeling_llama.eager_attention_forward(part, q, k, v, shown(m, given), 0.25, dropout),
        *with_mask(given, mask, given[0].dtype),
    )


# ---- checkpointing -------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [1, 2, 3])
@varied(
    [((4, 6), (50, 24), (72, 24), (24, 72)), ((1, 40), (50, 24), (72, 24), (24, 72))],
    [("int64", F32, F32, F32), ("int64", BF16, BF16, BF16)],
    swaps=[None] * 4,
)
def test_checkpoint(given: Cases, blocks: int) -> None:
    """Blocks with a residual, behind an embedding."""

    def expression(ids: Any, table: Any, up: Any, down: Any, op: Any, embed: Any, recomputed: Any) -> Any:
        def block(x: Any) -> Any:
            y = op.linear(x, up)
            return op.add(x, op.linear(op.mul(op.silu(y), y), down))

        hidden = embed(ids, table)
        for _ in range(blocks):
            hidden = recomputed(block, hidden)
        return hidden

    torch_ops = SimpleNamespace(linear=functional.linear, silu=functional.silu, mul=torch.mul, add=torch.add)
    agree(
        lambda *x: expression(*x, ops, ops.embedding, lambda block, h: checkpoint(block, h)),
        lambda *x: expression(
            *x, torch_ops, functional.embedding, lambda block, h: torch_checkpoint(block, h, use_reentrant=False)
        ),
        *given,
    )


# ---- known differences ---------------------------------------------------------------------


def ours_sdpa(q: Any, k: Any, v: Any, mask: Any = None) -> Any:
    return attention.sdpa(q, k, v, mask, q.shape[1] // k.shape[1], 0.0)


def real_sdpa(q: Any, k: Any, v: Any, mask: Any = None) -> Any:
    part = SimpleNamespace(num_key_value_groups=q.shape[1] // k.shape[1])
    return sdpa_attention_forward(part, q, k, v, mask)


ORDERS_AND_COPIES: dict[str, tuple[Any, ...]] = {
    "autocast casts matmul's second factor first": (
        ops.matmul,
        torch.matmul,
        (Given((2, 3, 8, 20)), Given((2, 3, 20, 12))),
        BF16,
    ),
    "autocast casts value first, then key, then query": (
        ours_sdpa,
        real_sdpa,
        attend_to(*heads_shapes(2, 2, seq=1, dim=64, batch=8)),
        BF16,
    ),
    "the flash kernel's backward makes the gradient contiguous as [B, S, heads, D]": (
        lambda q, k, v: attention.scaled_dot_product_attention(q, k, v, None),
        causal,
        attend_to(*heads_shapes(2, 2)),
    ),
    "one masked token, grouped heads: the gradient comes as [B, heads, groups, D] and is copied": (
        ours_sdpa,
        real_sdpa,
        (*attend_to(*heads_shapes(2, 3, seq=1, dim=64)), Given((2, 1, 1, 1), "bool", grad=False)),
    ),
    "one masked token, grouped heads: the kernel's blocks have the key's one column": (
        ours_sdpa,
        real_sdpa,
        (*attend_to(*heads_shapes(1, 8, seq=1, dim=16)), Given((2, 1, 1, 1), "bool", grad=False)),
    ),
}


@flash
@pytest.mark.parametrize("case", ORDERS_AND_COPIES.values(), ids=list(ORDERS_AND_COPIES))
def test_orders_and_copies(case: tuple[Any, ...]) -> None:
    """Witness: the real operators, where only an order or a copy tells a right rule from a wrong one."""
    rule, function, given, *autocast = case
    agree(rule, function, *given, autocast=autocast[0] if autocast else None)


KNOWN: dict[str, tuple[Any, ...]] = {
    "softmax first makes a transposed input contiguous": (
        lambda x: ops.softmax_last(x, F32),
        lambda x: functional.softmax(x, -1),
        (Given((24, 40), grad=False, swapped=(0, 1)),),
    ),
    "log_softmax first makes a transposed input contiguous": (
        ops.log_softmax,
        lambda x: functional.log_softmax(x, 1),
        (Given((24, 40), grad=False, swapped=(0, 1)),),
    ),
    "linear does not fold a transposed input if nothing but the input requires a gradient": (
        ops.linear,
        functional.linear,
        (Given((4, 6, 40), grad=False, swapped=(-1, -2)), Given((24, 40), grad=False)),
    ),
    "mm gives a transposed factor a transposed gradient, which its leaf takes over": (
        ops.linear,
        functional.linear,
        (Given((24, 40), swapped=(0, 1)), Given((32, 40))),
    ),
}


@flash
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.xfail(strict=True, reason=why, raises=AssertionError), id=why)
        for why, case in KNOWN.items()
    ],
)
def test_known_difference(case: tuple[Any, ...]) -> None:
    rule, function, given, *autocast = case
    agree(rule, function, *given, autocast=autocast[0] if autocast else None)


@plain
@pytest.mark.parametrize("dim", [0, -1])
def test_select(given: Cases, dim: int) -> None:
    agree(lambda x: ops.select(x, dim), lambda x: x.select(dim, 0), *given)


@binary
def test_sub(given: Cases) -> None:
    agree(ops.sub, lambda a, b: a - b, *given)


@binary
def test_div(given: Cases) -> None:
    agree(ops.div, lambda a, b: a / b, *given)


@unary
def test_div_scalar(given: Cases) -> None:
    agree(ops.div_scalar, lambda x: x / 3.0, *given)


@plain
@pytest.mark.parametrize(("dim", "keepdim"), [(0, False), (-1, True), (-2, False)])
def test_sum_dim(given: Cases, dim: int, keepdim: bool) -> None:
    agree(lambda x: ops.sum_dim(x, dim, keepdim), lambda x: x.sum(dim, keepdim=keepdim), *given)


@plain
@pytest.mark.parametrize("dim", [0, 1])
def test_mean_dim(given: Cases, dim: int) -> None:
    agree(lambda x: ops.mean_dim(x, dim), lambda x: x.mean(dim), *given)


@unary
@pytest.mark.parametrize("name", ["sqrt", "sigmoid", "tanh", "relu", "gelu", "exp"])
def test_unary_functions(given: Cases, name: str) -> None:
    function = functional.gelu if name == "gelu" else getattr(torch, name)
    agree(getattr(ops, name), function, *given)


@varied([((7, 40), (40, 9)), ((1, 200), (200, 3))], PAIRS)
def test_mm(given: Cases) -> None:
    agree(ops.mm, torch.mm, *given)


@varied([((4, 6, 40), (40, 9)), ((1, 6, 40), (40, 1))], PAIRS, swaps=[None, (-1, -2)])
def test_matmul_2d(given: Cases) -> None:
    agree(ops.matmul_2d, torch.matmul, *given)


@varied([((4, 6, 40), (40,), (40,)), ((3, 40), (40,), (40,))], [(F32,) * 3, (BF16,) * 3, (F16,) * 3], swaps=[None] * 3)
def test_layer_norm(reference_threads: None, given: Cases) -> None:
    agree(ops.layer_norm, lambda x, w, b: functional.layer_norm(x, (40,), w, b), *given)
