"""An operator's rule held against the real operator.

An expression is run twice, with the rules on a ledger and with PyTorch on a CPU. Compared are what is saved for
backward, the result's layout, and the bytes live over forward and backward.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from estimator import operators as ops
from estimator.ledger import FLOATING, Ledger, Shape, backward
from estimator.operators import Cpu
from estimator.witnesses.measure import allocator_events
from tests.helpers.figures import assert_figures

F32, BF16, F16 = "float32", "bfloat16", "float16"
FLOATS = ((F32,), (BF16,), (F16,))
PAIRS = ((F32, F32), (BF16, BF16), (F16, F16))
MIXED = (*PAIRS, (F32, BF16), (BF16, F32), (F16, F32), (F16, BF16))
TOLERANCE = 64
"""Bytes: the scalars that a kernel may take, none of which grows with the sizes."""


HERE = Cpu(onednn_bfloat16=torch.ops.mkldnn._is_mkldnn_bf16_supported())
"""The processor that the tests run on."""


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
    work: int
    """Floating-point operations of matrix products, as ``FlopCounterMode`` counts them."""


def meaningful(shape: Shape, strides: Shape) -> tuple[Any, ...]:
    return tuple(stride for size, stride in zip(shape, strides, strict=True) if size != 1)


def first(out: Any) -> Any:
    return out[0] if isinstance(out, tuple) else out


def ours(rule: Callable[..., Any], given: Sequence[Given], autocast: str | None = None) -> Footprint:
    """Run a rule on a ledger."""
    ledger = Ledger(HERE)
    leaves = [ledger.empty(g.leaf_shape(), g.dtype) for g in given]
    for leaf, g in zip(leaves, given, strict=True):
        leaf.requires_grad = g.grad
    start = ledger.live
    ledger.peaks.clear()
    ledger.counts_work = True
    ledger.autocast = autocast
    out = rule(*(ops.transpose(x, *g.swapped) if g.swapped else x for x, g in zip(leaves, given, strict=True)))
    ledger.autocast = None
    ledger.clear_autocast_cache()
    y = first(out)
    kept = ledger.saved, tuple(x.storage.saved for x in leaves), y.storage.saved
    result = y.shape, meaningful(y.shape, ops.strides_of(y)), y.dtype, y.storage.nbytes
    if y.node is not None:
        backward(ledger, y)
    del out, y
    peak = max(ledger.peaks.values(), default=start)
    return Footprint(*kept, *result, peak - start, ledger.live - start, ledger.work)


def real(
    function: Callable[..., Any], given: Sequence[Given], autocast: str | None = None, counts_work: bool = False
) -> Footprint:
    """Run the same in PyTorch: once under saved-tensor hooks, once under the profiler."""
    leaves = [torch.zeros(g.leaf_shape(), dtype=getattr(torch, g.dtype), requires_grad=g.grad) for g in given]
    saved: dict[int, Any] = {}

    def pack(tensor: Any) -> Any:
        for part in (tensor._indices(), tensor._values()) if tensor.is_sparse else (tensor,):
            saved[part.untyped_storage()._cdata] = part.untyped_storage()
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
    counter = FlopCounterMode(display=False) if counts_work else None
    with counter or nullcontext():
        step()
    for leaf in leaves:
        leaf.grad = None
    return Footprint(
        *kept, *result, *peak_and_left(allocator_events(step)), counter.get_total_flops() if counter else 0
    )


F16_PRODUCTS = pytest.param(
    F16,
    marks=pytest.mark.skipif(
        torch.ops.mkldnn._is_mkldnn_fp16_supported(), reason="with AVX512-FP16 oneDNN copies float16 operands too"
    ),
)
"""The dtype of a test of products whose operands oneDNN does not copy."""
WITH_SCRATCH = ("mm", "bmm", "addmm", "baddbmm", "_scaled_dot_product_flash_attention_for_cpu_backward")
CONVOLUTIONS = ("mkldnn_convolution", "_convolution", "convolution_backward")
"""All that these take themselves is scratch: their results are made by ``empty``."""


def peak_and_left(events: Iterable[tuple[int, str]]) -> tuple[int, int]:
    """The highest and the last total, without the scratch of 16-bit matrix products and of convolutions.

    oneDNN takes it inside the operator and gives it back there, and its size depends on the processor.
    """
    live = peak = 0
    scratch: list[int] = []
    for where, group in itertools.groupby(events, key=lambda event: event[1]):
        sizes = [nbytes for nbytes, _ in group]
        operator = where.removesuffix("/[memory]").rpartition("/")[2]
        if operator in WITH_SCRATCH:
            sizes = without_scratch(sizes)
        if operator in CONVOLUTIONS:
            scratch += [-nbytes for nbytes in sizes if nbytes > 0]
            sizes = [nbytes for nbytes in sizes if nbytes < 0 and not _taken(scratch, nbytes)]
        for nbytes in sizes:
            live += nbytes
            peak = max(peak, live)
    return peak, live


def _taken(sizes: list[int], nbytes: int) -> bool:
    """Take a size out of a list, if it is there."""
    if nbytes not in sizes:
        return False
    sizes.remove(nbytes)
    return True


def without_scratch(sizes: list[int]) -> list[int]:
    kept: list[int] = []
    for nbytes in sizes:
        if -nbytes in kept and nbytes < 0:
            kept.remove(-nbytes)
        else:
            kept.append(nbytes)
    return kept


def agree(
    rule: Callable[..., Any],
    function: Callable[..., Any],
    *given: Given,
    autocast: str | None = None,
    work: bool = True,
) -> None:
    """Our rule's footprint is the real operator's. ``work``: so is that of its matrix products, where it has any. Of a
    convolution in groups, and of sparse matrices, PyTorch counts products that are not made; of packed weights none.
    """
    __tracebackhide__ = True
    found = ours(rule, given, autocast)
    rules = asdict(found)
    operator = asdict(real(function, given, autocast, counts_work=work and found.work != 0))
    if not operator["work"]:  # PyTorch counts no product with a vector
        del rules["work"], operator["work"]
    assert_figures(rules, operator, {"peak": TOLERANCE, "left": TOLERANCE})


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
