"""Rules of operators that look elements up, choose or write some.

Witness everywhere: autograd's saved tensors and the real allocator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from estimator import operators as ops
from estimator.ledger import Tensor
from tests.helpers.operator_rules import BF16, F32, FLOATS, PAIRS, Cases, Given, agree, varied

BOTH = [(F32,), (BF16,)]
ROWS = torch.tensor([3, 0, 3, 7, 1])
PLACES = torch.arange(24 * 5).reshape(24, 5) % 40


def held(values: torch.Tensor, x: Tensor) -> Tensor:
    """The ledger's tensor for one that was made outside of the operator."""
    return Tensor(x.ledger.attribute(tuple(values.shape), "int64").storage, tuple(values.shape), "int64")


def with_held(rule: Callable[..., Any], values: torch.Tensor) -> Callable[..., Any]:
    """A rule that is handed ``values``, which count as an input of the operator."""
    return lambda *xs: rule(*xs, held(values, xs[0]))


matrix = varied([((24, 40),)], FLOATS)


@matrix
def test_index_rows(given: Cases) -> None:
    agree(with_held(lambda x, i: ops.index(x, [i]), ROWS), lambda x: x[ROWS], *given)


@matrix
def test_index_columns(given: Cases) -> None:
    agree(with_held(lambda x, i: ops.index(x, [None, i]), ROWS), lambda x: x[:, ROWS], *given)


@matrix
def test_index_places(given: Cases) -> None:
    agree(with_held(lambda x, i: ops.index(x, [i, i]), ROWS), lambda x: x[ROWS, ROWS], *given)


@varied([((12, 10, 16),)], BOTH)
@pytest.mark.parametrize("layout", ["first and last", "two rows", "middle"])
def test_index_three_dimensions(given: Cases, layout: str) -> None:
    pairs: dict[str, tuple[Any, Any]] = {
        "first and last": (lambda x, i: ops.index(x, [i, None, i]), lambda x: x[ROWS, :, ROWS]),
        "two rows": (lambda x, i: ops.index(x, [ops.view(i, (5, 1)), i]), lambda x: x[ROWS[:, None], ROWS]),
        "middle": (lambda x, i: ops.index(x, [None, i]), lambda x: x[:, ROWS]),
    }
    rule, function = pairs[layout]
    agree(with_held(rule, ROWS), function, *given)


@matrix
@pytest.mark.parametrize("dim", [0, 1])
def test_index_select(reference_threads: None, given: Cases, dim: int) -> None:
    agree(with_held(lambda x, i: ops.index_select(x, dim, i), ROWS), lambda x: x.index_select(dim, ROWS), *given)


@matrix
@pytest.mark.parametrize("columns", [1, 3])
def test_index_select_by_a_column(reference_threads: None, given: Cases, columns: int) -> None:
    """A column among others is copied, one that is alone is not."""
    table = ROWS[:, None].repeat(1, columns)

    def rule(x: Tensor) -> Tensor:
        whole = held(table, x)
        column = Tensor(whole.storage, (len(ROWS),), whole.dtype, None if columns == 1 else (columns,))
        return ops.index_select(x, 0, column)

    agree(rule, lambda x: x.index_select(0, table[:, 0]), *given)


@pytest.mark.parametrize("in_place", [False, True])
@varied([((24, 40), (5, 40))], PAIRS[:2], swaps=[None, None])
def test_index_add(reference_threads: None, given: Cases, in_place: bool) -> None:
    if in_place:
        agree(
            with_held(lambda x, s, i: ops.index_add_(ops.neg(x), 0, i, s), ROWS),
            lambda x, s: (-x).index_add_(0, ROWS, s),
            *given,
        )
    else:
        agree(with_held(lambda x, s, i: ops.index_add(x, 0, i, s), ROWS), lambda x, s: x.index_add(0, ROWS, s), *given)


@matrix
def test_gather(given: Cases) -> None:
    agree(with_held(lambda x, i: ops.gather(x, 1, i), PLACES), lambda x: x.gather(1, PLACES), *given)


@varied([((24, 40),)], BOTH)
def test_take_along_dim(given: Cases) -> None:
    agree(
        with_held(lambda x, i: ops.take_along_dim(x, i, 1), PLACES),
        lambda x: torch.take_along_dim(x, PLACES, 1),
        *given,
    )


SCATTERS = {
    "scatter": lambda x, i, s: ops.scatter(x, 1, i, s),
    "scatter_": lambda x, i, s: ops.scatter_(ops.neg(x), 1, i, s),
    "scatter_add": lambda x, i, s: ops.scatter_add(x, 1, i, s),
    "scatter_add_": lambda x, i, s: ops.scatter_add_(ops.neg(x), 1, i, s),
}


@pytest.mark.parametrize("name", SCATTERS)
@varied([((24, 40), (24, 5))], PAIRS[:2], swaps=[None, None])
def test_scatter(given: Cases, name: str) -> None:
    def function(x: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        target = -x if name.endswith("_") else x
        out: torch.Tensor = getattr(target, name)(1, PLACES, source)
        return out

    agree(with_held(lambda x, s, i: SCATTERS[name](x, i, s), PLACES), function, *given)


@varied([((24, 40),)], BOTH, swaps=[None])
def test_scatter_of_a_number(given: Cases) -> None:
    agree(
        with_held(lambda x, i: ops.scatter_(ops.neg(x), 1, i, ops.SCALAR), PLACES),
        lambda x: (-x).scatter_(1, PLACES, 0.0),
        *given,
    )


CHOICES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "topk": (lambda x: ops.selected(x, (24, 3)), lambda x: tuple(x.topk(3, -1))),
    "sort": (lambda x: ops.sort(x, -1), lambda x: tuple(x.sort(-1))),
    "max": (lambda x: ops.selected(x, (24,)), lambda x: tuple(x.max(-1))),
    "min, kept": (lambda x: ops.selected(x, (24, 1)), lambda x: tuple(x.min(-1, keepdim=True))),
}


@pytest.mark.parametrize("name", CHOICES)
@varied([((24, 40),)], BOTH, swaps=[None])
def test_chosen_values(given: Cases, name: str) -> None:
    agree(*CHOICES[name], *given)


def set_rows(x: torch.Tensor, values: Any, *places: Any) -> torch.Tensor:
    y = -x
    y[places] = values
    return y


@varied([((24, 40), (5, 40))], PAIRS[:2], swaps=[None, None])
def test_index_put(given: Cases) -> None:
    agree(
        with_held(lambda x, v, i: ops.index_put_(ops.neg(x), [i], v), ROWS),
        lambda x, v: set_rows(x, v, ROWS),
        *given,
    )


@varied([((24, 40), (24, 5))], PAIRS[:2], swaps=[None, None])
def test_index_put_into_columns(given: Cases) -> None:
    agree(
        with_held(lambda x, v, i: ops.index_put_(ops.neg(x), [None, i], v), ROWS),
        lambda x, v: set_rows(x, v, slice(None), ROWS),
        *given,
    )


def test_index_put_by_a_mask() -> None:
    agree(
        lambda x, mask: ops.index_put_(ops.neg(x), [mask], ops.SCALAR),
        lambda x, mask: set_rows(x, 0.0, mask),
        Given((24, 40)),
        Given((24, 40), "bool", grad=False),
    )
