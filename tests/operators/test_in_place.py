"""Rules of operators that write in place.

Witness everywhere: autograd's saved tensors and the real allocator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from estimator import operators as ops
from estimator.ledger import Tensor
from estimator.witnesses.measure import allocator_events
from tests.helpers.figures import assert_figures
from tests.helpers.operator_rules import (
    BF16,
    F16,
    F32,
    FLOATS,
    MIXED,
    PAIRS,
    TOLERANCE,
    Given,
    agree,
    ours,
    peak_and_left,
    varied,
)


@pytest.mark.parametrize(("dtype", "factor"), [(F32, F32), (BF16, BF16), (BF16, F32)])
def test_product_in_place_of_a_view(dtype: str, factor: str) -> None:
    given = (Given((60, 40), dtype), Given((60, 1), factor, grad=False))

    def function(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        weight = (-x).view(60, 40)
        weight *= y
        return weight

    def rule(x: Any, y: Any) -> Any:
        weight = ops.neg(x)
        weight = ops.view(weight, (60, 40))
        return ops.mul_(weight, y)

    agree(rule, function, *given)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(("dtype", "other"), [(F32, F32), (BF16, BF16), (F32, BF16)])
def test_add_in_place_of_scaled(dtype: str, other: str, scaled: bool) -> None:
    given = (Given((60, 40), dtype), Given((60, 40), other))
    agree(lambda x, y: ops.add_(ops.neg(x), y, scaled), lambda x, y: (-x).add_(y, alpha=2.0 if scaled else 1), *given)


@varied([((4, 6, 40), (4, 6, 40))], PAIRS, swaps=[None, None])
def test_add_in_place(given: Any) -> None:
    agree(lambda a, b: ops.add_(ops.neg(a), b), lambda a, b: (-a).add_(b), *given)


@varied([((4, 6, 40), (20, 40), (20,), (4, 6, 20))], [(d,) * 4 for (d,) in FLOATS], swaps=[None] * 4)
def test_add_in_place_to_a_view(given: Any) -> None:
    agree(
        lambda x, w, b, y: ops.add_(ops.linear(x, w, b), y),
        lambda x, w, b, y: functional.linear(x, w, b).add_(y),
        *given,
    )


def same_bytes(rule: Callable[..., Tensor], function: Callable[..., torch.Tensor], *given: Given) -> None:
    """As ``agree``, of what is live only: a sparse tensor has no storage that hooks could be shown."""
    leaves = [torch.zeros(g.shape, dtype=getattr(torch, g.dtype), requires_grad=g.grad) for g in given]

    def step() -> None:
        y = function(*leaves)
        y.backward(torch.ones_like(y))

    step()
    for leaf in leaves:
        leaf.grad = None
    footprint = ours(rule, given)
    peak, left = peak_and_left(allocator_events(step))
    assert_figures({"peak": footprint.peak, "left": footprint.left}, {"peak": peak, "left": left}, TOLERANCE)


@pytest.mark.parametrize("dtypes", [(F32, F32), (BF16, F32), (F16, F32), (BF16, BF16)])
def test_add_sparse(dtypes: tuple[str, str]) -> None:
    places = torch.stack([torch.arange(200) % 30, torch.arange(200) % 40]).to(torch.int32)
    same_bytes(
        lambda w, values: ops.add_sparse_(ops.clone(w), ops.mul(values, ops.SCALAR)),
        lambda w, values: w.clone().add_(torch.sparse_coo_tensor(places, values * 3.0, w.shape)),
        Given((30, 40), dtypes[0], grad=False),
        Given((200,), dtypes[1]),
    )


def test_a_sum_over_leading_dimensions_is_never_added_to() -> None:
    """``at::sum_to`` gives a view, which a second gradient is not added to in place."""
    given = Given((3, 8, 20), grad=False), Given((8, 20))
    agree(lambda a, b: ops.add(ops.add(a, b), b), lambda a, b: a + b + b, *given)


@varied([((20, 30, 40), (20, 30, 40)), ((20, 30, 40), (40,))], MIXED)
def test_add_in_place_of_other_shapes(given: tuple[Given, ...]) -> None:
    """Witness: autograd's saved tensors and the allocator."""

    def add(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        a = a.clone(memory_format=torch.contiguous_format)
        a += b
        return a

    agree(lambda a, b: ops.add_(ops.clone(a), b), add, *given)


def test_add_to_a_view_of_the_same_shape() -> None:
    def real(x: torch.Tensor, frozen: torch.Tensor) -> torch.Tensor:
        y = (x * 0.5).view(x.shape)
        y += frozen
        return y

    agree(
        lambda x, frozen: ops.add_(ops.view(ops.mul(x, ops.SCALAR), x.shape), frozen),
        real,
        Given((4, 6, 40)),
        Given((40,), grad=False),
    )
