"""Rules of further functions of each element, of reductions and of copies, with numbers of every kind as operands.

Witness everywhere: autograd's saved tensors and the real allocator.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from estimator import operators as ops
from estimator.ledger import ITEMSIZE, Ledger
from estimator.operators import CPU
from estimator.operators.casts import PRECISION, promote, promote_types
from tests.helpers.operator_rules import BF16, F32, FLOATS, MIXED, PAIRS, Cases, Given, agree, varied

unary = varied([((4, 6, 40),), ((1, 200),)])
few = varied([((4, 6, 40),)], [(F32,), (BF16,)])
pairs = varied([((4, 6, 40), (4, 6, 40)), ((4, 6, 40), (40,))], MIXED)

FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{
        name: getattr(torch, name)
        for name in ("abs", "ceil", "erfinv", "expm1", "floor", "log", "log1p", "reciprocal", "sign", "square", "trunc")
    },
    "round": torch.round,
    "softplus": functional.softplus,
    "logsigmoid": functional.logsigmoid,
}


@pytest.mark.parametrize("name", FUNCTIONS)
@unary
def test_functions(given: Cases, name: str) -> None:
    agree(getattr(ops, name), FUNCTIONS[name], *given)


NUMBERS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "1 - x": (lambda x: ops.rsub(x, ops.SCALAR), lambda x: 1.0 - x),
    "1 / x": (lambda x: ops.mul(ops.reciprocal(x), ops.SCALAR), lambda x: 1.0 / x),
    "2 ** x": (lambda x: ops.pow(ops.SCALAR, x), lambda x: 2.0**x),
    "clamp(min, max)": (lambda x: ops.clamp(x, 2), lambda x: x.clamp(-1.0, 1.0)),
    "clamp(max)": (lambda x: ops.clamp(x, 1), lambda x: x.clamp(max=1.0)),
    "x + 1": (lambda x: ops.add(x, ops.INTEGER), lambda x: x + 1),
    "x * 2": (lambda x: ops.mul(x, ops.INTEGER), lambda x: x * 2),
}


@pytest.mark.parametrize("name", NUMBERS)
@few
def test_numbers(given: Cases, name: str) -> None:
    agree(*NUMBERS[name], *given)


INTEGERS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "x + 1": (lambda x: ops.add(x, ops.INTEGER), lambda x: x + 1),
    "x + 1.5": (lambda x: ops.add(x, ops.SCALAR), lambda x: x + 1.5),
    "1 - x": (lambda x: ops.rsub(x, ops.INTEGER), lambda x: 1 - x),
    "x * 2": (lambda x: ops.mul(x, ops.INTEGER), lambda x: x * 2),
    "x * 2.5": (lambda x: ops.mul(x, ops.SCALAR), lambda x: x * 2.5),
    "x / 2": (lambda x: ops.div(x, ops.INTEGER), lambda x: x / 2),
    "x / x": (lambda x: ops.div(x, x), lambda x: x / x),
    "x < 1.5": (lambda x: ops.without_gradient((x,), "bool", ops.SCALAR), lambda x: x < 1.5),
    "clamp": (lambda x: ops.clamp(x, 2), lambda x: x.clamp(0, 7)),
    "sum": (lambda x: ops.sum(x, -1), lambda x: x.sum(-1)),
    "cumsum": (lambda x: ops.cumsum(x, -1), lambda x: x.cumsum(-1)),
    "sort": (lambda x: ops.sort(x, -1), lambda x: tuple(x.sort(-1))),
    "diff": (lambda x: ops.diff(x, -1), torch.diff),
    "where": (lambda x: ops.where(ops.to(x, "bool"), x, ops.INTEGER), lambda x: torch.where(x.to(torch.bool), x, 0)),
}


@pytest.mark.parametrize("dtype", ["int64", "int32"])
@pytest.mark.parametrize("name", INTEGERS)
def test_integers(name: str, dtype: str) -> None:
    agree(*INTEGERS[name], Given((24, 40), dtype, grad=False))


BOOLEANS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "sum": (lambda x: ops.sum(x, -1), lambda x: x.sum(-1)),
    "cumsum": (lambda x: ops.cumsum(x, -1), lambda x: x.cumsum(-1)),
    "x * 2": (lambda x: ops.mul(x, ops.INTEGER), lambda x: x * 2),
    "1.0 - x": (lambda x: ops.rsub(ops.to(x, "float32"), ops.SCALAR), lambda x: 1.0 - x.float()),
}


@pytest.mark.parametrize("name", BOOLEANS)
def test_booleans(name: str) -> None:
    agree(*BOOLEANS[name], Given((24, 40), "bool", grad=False))


@pairs
def test_pow_of_tensors(given: Cases) -> None:
    agree(ops.pow, torch.pow, *given)


@pairs
@pytest.mark.parametrize("function", [torch.maximum, torch.minimum])
def test_maximum(given: Cases, function: Any) -> None:
    agree(ops.maximum, function, *given)


MASK = "bool"


@varied([((4, 6, 40), (4, 6, 40), (4, 6, 40)), ((6, 40), (4, 6, 40), (40,))], [(MASK, *pair) for pair in MIXED])
def test_where(given: Cases) -> None:
    agree(ops.where, torch.where, *given)


@varied([((4, 6, 40), (4, 6, 40)), ((6, 40), (4, 6, 40)), ((4, 6, 40), (1, 6, 40))], [(MASK, d) for (d,) in FLOATS])
@pytest.mark.parametrize("first", [False, True])
def test_where_with_a_number(given: Cases, first: bool) -> None:
    if first:
        agree(lambda m, x: ops.where(m, ops.SCALAR, x), lambda m, x: torch.where(m, 0.0, x), *given)
    else:
        agree(lambda m, x: ops.where(m, x, ops.SCALAR), lambda m, x: torch.where(m, x, 0.0), *given)


@varied([((4, 6, 40), (4, 6, 40)), ((4, 6, 40), (40,))], [(d, MASK) for (d,) in FLOATS])
def test_masked_fill(given: Cases) -> None:
    agree(ops.masked_fill, lambda x, m: x.masked_fill(m, -math.inf), *given)


@varied([((4, 6, 40), (4, 6, 1))], PAIRS[:2])
def test_clamp_by_a_tensor(given: Cases) -> None:
    x, bound = given
    bound = Given(bound.shape, bound.dtype, grad=False)
    agree(lambda x, low: ops.clamp_by(x, (low,)), lambda x, low: x.clamp(min=low), x, bound)


REDUCTIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "sum": (lambda x: ops.sum(x), lambda x: x.sum()),
    "sum of two": (lambda x: ops.sum(x, (0, 2)), lambda x: x.sum((0, 2))),
    "sum in float32": (lambda x: ops.sum(x, -1, dtype=F32), lambda x: x.sum(-1, dtype=torch.float32)),
    "mean": (lambda x: ops.mean(x), lambda x: x.mean()),
    "mean of two": (lambda x: ops.mean(x, (0, 2), True), lambda x: x.mean((0, 2), keepdim=True)),
    "mean in float32": (lambda x: ops.mean(x, -1, dtype=F32), lambda x: x.mean(-1, dtype=torch.float32)),
    "var": (lambda x: ops.var(x, -1, True), lambda x: x.var(-1, keepdim=True, unbiased=False)),
    "std": (lambda x: ops.std(x, -1), lambda x: x.std(-1)),
    "logsumexp": (lambda x: ops.logsumexp(x, -1), lambda x: x.logsumexp(-1)),
    "logsumexp, kept": (lambda x: ops.logsumexp(x, -1, True), lambda x: x.logsumexp(-1, keepdim=True)),
    "amax": (lambda x: ops.amax(x, -1), lambda x: x.amax(-1)),
    "cumsum": (lambda x: ops.cumsum(x, -1), lambda x: x.cumsum(-1)),
    "cumsum of rows": (lambda x: ops.cumsum(x, 1), lambda x: x.cumsum(1)),
    "norm, kept": (lambda x: ops.linalg_vector_norm(x, -1, True), lambda x: x.norm(p=2, dim=-1, keepdim=True)),
    "norm of two": (lambda x: ops.linalg_vector_norm(x, (0, 2)), lambda x: torch.linalg.vector_norm(x, dim=(0, 2))),
}


@pytest.mark.parametrize("name", REDUCTIONS)
@varied([((4, 6, 40),)], [(F32,), (BF16,)], swaps=[None])
def test_reductions(given: Cases, name: str) -> None:
    agree(*REDUCTIONS[name], *given)


@pytest.mark.parametrize("name", ["logsumexp", "cumsum", "amax", "sum in float32"])
@varied([((4, 6, 40),)], [(F32,), (BF16,)])
def test_reductions_of_strided_tensors(given: Cases, name: str) -> None:
    agree(*REDUCTIONS[name], *given)


COPIES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "triu": (ops.triu, torch.triu),
    "tril": (ops.triu, torch.tril),
    "flip": (ops.flip, lambda x: x.flip(-1)),
    "roll": (ops.roll, lambda x: x.roll(1, -1)),
    "unfold": (lambda x: ops.unfold(x, -1, 4, 1, x.shape[-1] - 3), lambda x: x.unfold(-1, 4, 1)),
    "clone": (lambda x: ops.clone(x, preserve=True), torch.clone),
    "repeat_interleave": (lambda x: ops.repeat_interleave(x, 3, 1), lambda x: x.repeat_interleave(3, 1)),
    "diff": (lambda x: ops.diff(x, -1), torch.diff),
}


@pytest.mark.parametrize("name", COPIES)
@few
def test_copies(given: Cases, name: str) -> None:
    agree(*COPIES[name], *given)


@varied([((4, 6, 40),)], [(F32,), (BF16,)])
def test_softmax_of_rows(given: Cases) -> None:
    dtype = given[0].dtype
    agree(lambda x: ops.softmax(x, dtype), lambda x: x.softmax(1), *given)
    agree(lambda x: ops.log_softmax(x), lambda x: x.log_softmax(1), *given)
    agree(lambda x: ops.log_softmax(x, F32), lambda x: x.log_softmax(-1, dtype=torch.float32), *given)


@varied([((4, 6, 40), (40,))], PAIRS[:2])
def test_layer_norm_without_bias(reference_threads: None, given: Cases) -> None:
    agree(lambda x, w: ops.layer_norm(x, w, None), lambda x, w: functional.layer_norm(x, (40,), w), *given)


@few
def test_layer_norm_without_weight(given: Cases) -> None:
    agree(lambda x: ops.layer_norm(x, None, None), lambda x: functional.layer_norm(x, (40,)), *given)


@varied([((4, 6, 40), (40,))], PAIRS[:2], swaps=[None, None])
def test_rms_norm(given: Cases) -> None:
    agree(lambda x, w: ops.rms_norm(x, w), lambda x, w: functional.rms_norm(x, (40,), w), *given)
    agree(lambda x, w: ops.rms_norm(x), lambda x, w: functional.rms_norm(x, (40,)), *given)


def test_histc(reference_threads: None) -> None:
    given = Given((24, 40), grad=False)
    agree(lambda x: ops.histc(x, 600), lambda x: torch.histc(x, bins=600, min=0, max=5), given)


def test_complex_rotation() -> None:
    """As Llama 4 rotates queries: ``view_as_real(view_as_complex(x) * rotations)``."""

    def rule(x: Any, angles: Any) -> Any:
        rotations = ops.polar(angles, angles)
        return ops.view_as_real(ops.mul(ops.view_as_complex(x), rotations))

    def function(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        rotations = torch.polar(angles, angles)
        return torch.view_as_real(torch.view_as_complex(x) * rotations)

    agree(rule, function, Given((12, 20, 2)), Given((12, 20), grad=False))


def test_bytes_of_dtypes() -> None:
    """Witness: PyTorch."""
    assert {name: getattr(torch, name).itemsize for name in ITEMSIZE} == ITEMSIZE


def test_promotion() -> None:
    """Witness: ``torch.promote_types``. No operator here joins float64 and complex numbers."""
    for a, b in itertools.product(PRECISION, repeat=2):
        if not (a == "float64" and b.startswith("complex")) and not (b == "float64" and a.startswith("complex")):
            real = torch.promote_types(getattr(torch, a), getattr(torch, b))
            assert (a, b, promote_types(a, b)) == (a, b, str(real).removeprefix("torch."))


@pytest.mark.parametrize("shapes", itertools.product([(), (3,)], repeat=2), ids=str)
def test_numbers_without_dimensions_widen_nothing_of_their_kind(shapes: Any) -> None:
    """Witness: ``torch.result_type``."""
    ledger = Ledger(CPU)
    for a, b in itertools.product(("bool", "int64", "bfloat16", "float32", "complex64"), repeat=2):
        real = torch.result_type(
            *(torch.zeros(shape, dtype=getattr(torch, dtype)) for shape, dtype in zip(shapes, (a, b), strict=True))
        )
        found = promote(*(ledger.empty(shape, dtype) for shape, dtype in zip(shapes, (a, b), strict=True)))
        assert (a, b, found) == (a, b, str(real).removeprefix("torch."))
