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


def test_a_reshaped_copy_is_added_to() -> None:
    """``at::_unsafe_view`` of a copy is no view to autograd, so a second gradient is added to it in place."""

    def rule(x: Tensor) -> Tensor:
        y = ops.mul(x, ops.SCALAR)
        other = ops.view(ops.mul(y, ops.SCALAR), (8, 20, 30))
        return ops.add(other, ops.transpose(ops.view(y, (8, 30, 20)), 1, 2))

    def real(x: torch.Tensor) -> torch.Tensor:
        y = x * 3.0
        other = (y * 3.0).view(8, 20, 30)
        return other + y.view(8, 30, 20).transpose(1, 2)

    agree(rule, real, Given((240, 20)))


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


UPDATES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "add_": (ops.add_, torch.Tensor.add_),
    "sub_": (ops.sub_, torch.Tensor.sub_),
    "mul_": (ops.mul_, torch.Tensor.mul_),
    "div_": (ops.div_, torch.Tensor.div_),
    "copy_": (ops.copy_, torch.Tensor.copy_),
}


@pytest.mark.parametrize("name", UPDATES)
@varied([((4, 6, 40), (4, 6, 40)), ((4, 6, 40), (40,))], MIXED, swaps=[None, None])
def test_update(given: tuple[Given, ...], name: str) -> None:
    rule, function = UPDATES[name]
    agree(lambda x, y: rule(ops.neg(x), y), lambda x, y: function(-x, y), *given)


@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize("used", ["base", "view"])
@varied([((4, 6, 40), (4, 6, 15))], PAIRS[:2], swaps=[None, None])
def test_update_of_a_view(given: tuple[Given, ...], name: str, used: str) -> None:
    rule, function = UPDATES[name]

    def write(x: Any, y: Any) -> Any:
        base = ops.neg(x)
        part = ops.slice(base, -1, 15)
        rule(part, y)
        return base if used == "base" else part

    def real(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        base = -x
        part = base[..., :15]
        function(part, y)
        return base if used == "base" else part

    agree(write, real, *given)


ALONE: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "add_": (lambda x: ops.add_(x, ops.SCALAR), lambda x: x.add_(0.5)),
    "sub_": (lambda x: ops.sub_(x, ops.INTEGER), lambda x: x.sub_(1)),
    "mul_": (lambda x: ops.mul_(x, ops.SCALAR), lambda x: x.mul_(0.5)),
    "div_": (lambda x: ops.div_(x, ops.SCALAR), lambda x: x.div_(0.5)),
    "pow_": (ops.pow_, lambda x: x.pow_(2)),
    "clamp_": (lambda x: ops.clamp_(x, 2), lambda x: x.clamp_(0.0, 1.0)),
    "clamp_(max)": (ops.clamp_, lambda x: x.clamp_(max=1.0)),
    "neg_": (ops.neg_, torch.neg_),
    "relu_": (ops.relu_, torch.relu_),
    "exp_": (ops.exp_, torch.exp_),
    "sigmoid_": (ops.sigmoid_, torch.sigmoid_),
    "tanh_": (ops.tanh_, torch.tanh_),
    "fill_": (ops.fill_, lambda x: x.fill_(0.5)),
    "zero_": (ops.fill_, torch.zero_),
}


@pytest.mark.share(2)
@pytest.mark.parametrize("of_a_view", [False, True])
@pytest.mark.parametrize("name", ALONE)
@varied([((4, 6, 40),)], [(F32,), (BF16,)])
def test_update_by_a_number(given: tuple[Given, ...], name: str, of_a_view: bool) -> None:
    rule, function = ALONE[name]

    def write(x: Any) -> Any:
        base = ops.neg(x)
        rule(ops.slice(base, -1, 15) if of_a_view else base)
        return base

    def real(x: torch.Tensor) -> torch.Tensor:
        base = -x
        function(base[..., :15] if of_a_view else base)
        return base

    agree(write, real, *given)


@varied([((4, 6, 40), (4, 6, 40))], [(F32, "bool"), (BF16, "bool")], swaps=[None, None])
def test_masked_fill_in_place(given: tuple[Given, ...]) -> None:
    agree(lambda x, m: ops.masked_fill_(ops.neg(x), m), lambda x, m: (-x).masked_fill_(m, 0.0), *given)


def test_two_updates_of_one_view() -> None:
    """``base[..., :15] += y`` is an update of a view, which is then copied to itself."""

    def write(x: Any, y: Any) -> Any:
        base = ops.neg(x)
        part = ops.add_(ops.slice(base, -1, 15), y)
        ops.copy_(ops.slice(base, -1, 15), part)
        return base

    def real(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        base = -x
        base[..., :15] += y
        return base

    agree(write, real, Given((4, 6, 40)), Given((4, 6, 15)))


def test_update_of_a_tensor_without_a_gradient() -> None:
    """The frozen base takes part in the graph from the first update on."""

    def write(x: Any, y: Any) -> Any:
        base = ops.neg(x)
        ops.copy_(ops.select(base, 0), y)
        return base

    def real(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        base = -x
        base[0] = y
        return base

    agree(write, real, Given((4, 6, 40), grad=False), Given((6, 40)))
