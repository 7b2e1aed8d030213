"""The table of rules: for each PyTorch function that a program may call, the operator rules that it is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ... import operators as ops
from ...ledger import Ledger, Shape, Tensor


class Result(NamedTuple):
    """What PyTorch gave: the shape and the dtype of the first result, and the slots, shapes and dtypes of all."""

    ledger: Ledger
    shape: Shape
    dtype: str
    all: tuple[tuple[int, Shape, str], ...]


Rule = Callable[..., Any]
RULES: dict[str, Rule] = {}
"""By the function's name in ``torch`` or ``torch.Tensor``."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Enter a function into ``RULES`` under these names."""

    def enter(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return enter


def operand(value: Any) -> Any:
    """A number as the operator rules take it."""
    if isinstance(value, Tensor):
        return value
    return ops.BOOLEAN if isinstance(value, bool) else ops.INTEGER if isinstance(value, int) else ops.SCALAR


def flattened(dims: tuple[Any, ...]) -> tuple[Any, ...]:
    """Dimensions or sizes given as one tuple, or one by one."""
    return tuple(dims[0]) if len(dims) == 1 and isinstance(dims[0], tuple) else dims
