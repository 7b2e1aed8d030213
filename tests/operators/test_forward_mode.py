"""Forward-mode rules. The witness is ``torch.func.jvp``: its allocations, and the layout of its result and tangent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from estimator import operators as ops
from estimator.errors import InputError
from estimator.ledger import Ledger, Tensor
from estimator.operators import CPU, forward_mode
from estimator.witnesses.measure import allocator_events
from tests.helpers.figures import assert_figures
from tests.helpers.operator_rules import (
    BF16,
    F16,
    F16_PRODUCTS,
    F32,
    HERE,
    MIXED,
    PAIRS,
    TOLERANCE,
    Cases,
    Given,
    peak_and_left,
    varied,
)


def agree_with_jvp(rule: Callable[..., Tensor], function: Callable[..., Any], *given: Given) -> None:
    """A rule's peak, and the bytes of its result and tangent, are those of ``torch.func.jvp``.

    Inputs that require a gradient have tangents.
    """
    if not any(g.grad for g in given):
        return
    ledger = Ledger(HERE)
    leaves = [ledger.empty(g.leaf_shape(), g.dtype) for g in given]
    for leaf, g in zip(leaves, given, strict=True):
        if g.grad:
            leaf.requires_grad, leaf.tangent = True, ledger.empty(leaf.shape, leaf.dtype)
    start = ledger.live
    ledger.peaks.clear()
    ledger.forward_mode = forward_mode.run
    out = rule(*(ops.transpose(x, *g.swapped) if g.swapped else x for x, g in zip(leaves, given, strict=True)))
    tangent = out.tangent
    assert tangent is not None
    ours = {"peak": max(ledger.peaks.values(), default=start) - start, "left": ledger.live - start}

    values = [torch.rand(g.leaf_shape()).to(getattr(torch, g.dtype)) for g in given]
    varying = [i for i, g in enumerate(given) if g.grad]
    directions = tuple(torch.rand_like(values[i]) for i in varying)

    def of(*varied: Any) -> Any:
        inputs = list(values)
        for i, x in zip(varying, varied, strict=True):
            inputs[i] = x
        return function(*(x.transpose(*g.swapped) if g.swapped else x for x, g in zip(inputs, given, strict=True)))

    kept: list[Any] = []

    def run() -> None:
        kept.append(torch.func.jvp(of, tuple(values[i] for i in varying), directions))

    run()
    primal, along = kept.pop()
    assert tuple(primal.shape) == out.shape
    assert (primal.stride(), along.stride()) == (ops.strides_of(out), ops.strides_of(tangent)) or 1 in out.shape
    assert str(along.dtype).removeprefix("torch.") == tangent.dtype
    del primal, along
    peak, left = peak_and_left(allocator_events(run))
    assert_figures(ours, {"peak": peak, "left": left}, TOLERANCE)


UNARY: dict[str, tuple[Callable[..., Tensor], Callable[..., Any]]] = {
    "transpose": (lambda x: ops.transpose(x, 0, -1), lambda x: x.transpose(0, -1)),
    "reshape": (lambda x: ops.reshape(x, (x.numel,)), lambda x: x.reshape(-1)),
    "unsqueeze": (lambda x: ops.unsqueeze(x, 1), lambda x: x.unsqueeze(1)),
    "contiguous": (ops.contiguous, lambda x: x.contiguous()),
    "narrow": (lambda x: ops.narrow(x, -1, 4), lambda x: x[..., :4]),
    "neg": (ops.neg, torch.neg),
    "to": (lambda x: ops.to(x, BF16), lambda x: x.to(torch.bfloat16)),
    "add a number": (lambda x: ops.add(x, ops.SCALAR), lambda x: x + 1e-6),
    "mul by a number": (lambda x: ops.mul(x, ops.SCALAR), lambda x: x * 2.5),
    "pow": (lambda x: ops.pow(x, ops.SCALAR), lambda x: x.pow(2)),
    "mean": (lambda x: ops.mean(x, -1, keepdim=True), lambda x: x.mean(-1, keepdim=True)),
    "rsqrt": (ops.rsqrt, torch.rsqrt),
    "silu": (ops.silu, functional.silu),
    "dropout": (lambda x: ops.dropout(x, 0.1), lambda x: functional.dropout(x, 0.1)),
}


@pytest.mark.parametrize("name", UNARY)
@varied([((4, 6, 40),)])
def test_forward_mode_of_one_input(name: str, given: Cases) -> None:
    if name != "mean" or given[0].dtype == F32:  # models take means of float32 only
        agree_with_jvp(*UNARY[name], *given)


@pytest.mark.parametrize(("rule", "function"), [(ops.add, torch.add), (ops.mul, torch.mul)], ids=("add", "mul"))
@varied([((4, 6, 40), (4, 6, 40)), ((4, 6, 40), (40,)), ((4, 6, 40), (1, 6, 40))], MIXED)
def test_forward_mode_of_two_inputs(rule: Any, function: Any, given: Cases) -> None:
    agree_with_jvp(rule, function, *given)


@varied([((4, 6, 40), (4, 6, 40))], PAIRS, swaps=[None, None])
def test_forward_mode_cat(given: Cases) -> None:
    if len({g.grad for g in given}) == 1:  # rotate_half's halves are of one tensor
        agree_with_jvp(lambda a, b: ops.cat((a, b), (4, 6, 80)), lambda a, b: torch.cat((a, b), -1), *given)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [F32, BF16, F16])
@pytest.mark.parametrize("tangents", [(1, 0, 0), (0, 1, 0), (1, 1, 0), (0, 0, 1), (1, 0, 1), (1, 1, 1)])
def test_forward_mode_linear(bias: bool, dtype: str, tangents: tuple[int, ...]) -> None:
    shapes = ((3, 20, 300), (70, 300), (70,))[: 2 + bias]
    agree_with_jvp(
        ops.linear,
        functional.linear,
        *(Given(shape, dtype, bool(wanted)) for shape, wanted in zip(shapes, tangents, strict=False)),
    )


@pytest.mark.parametrize("dtype", [F32, BF16, F16_PRODUCTS])
@pytest.mark.parametrize("tangents", [(1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("shapes", [((2, 6, 40, 16), (2, 6, 16, 40)), ((3, 2, 9, 70), (3, 2, 70, 21))], ids=str)
def test_forward_mode_matmul(dtype: str, tangents: tuple[int, ...], shapes: Any) -> None:
    if dtype == BF16 and not HERE.onednn_bfloat16:
        pytest.skip("this processor has no bfloat16 products of oneDNN, whose zeros differ from BLAS's")
    agree_with_jvp(
        ops.matmul,
        torch.matmul,
        *(
            Given(shape, dtype, bool(wanted), swap)
            for shape, wanted, swap in zip(shapes, tangents, (None, (2, 3)), strict=True)
        ),
    )


@varied([((4, 6, 40, 40),)], swaps=[None])
def test_forward_mode_softmax(given: Cases) -> None:
    agree_with_jvp(lambda x: ops.softmax(x, F32), lambda x: functional.softmax(x, -1, dtype=torch.float32), *given)


def test_forward_mode_embedding() -> None:
    ids = torch.arange(60).view(3, 20)
    agree_with_jvp(
        lambda w: ops.embedding(_tokens(w.ledger, (3, 20)), w), lambda w: functional.embedding(ids, w), Given((70, 90))
    )


def _tokens(ledger: Ledger, shape: tuple[int, ...]) -> Tensor:
    tokens = ledger.empty(shape, "int64")
    tokens.storage.resident = True
    ledger.free(tokens.nbytes)
    return tokens


def test_forward_mode_loss() -> None:
    target = torch.arange(60)
    agree_with_jvp(
        lambda x: ops.cross_entropy(x, _tokens(x.ledger, (60,))),
        lambda x: functional.cross_entropy(x, target),
        Given((60, 611)),
    )


def test_an_operator_without_a_forward_rule_is_refused() -> None:
    ledger = Ledger(CPU)
    x = ledger.parameter("x", (2, 3, 4, 5), F32, True)
    x.tangent, ledger.forward_mode = ledger.empty(x.shape, F32), forward_mode.run
    with pytest.raises(InputError, match="no rule for ScaledDotProduct"):
        ops.scaled_dot_product_attention(x, x, x, None)
