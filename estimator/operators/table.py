"""The table of operators. An operator's row stands at its rule, which these decorators enter into the table.

A row says which functions and methods of PyTorch are the operator, how the arguments of a recorded call are those of
its rule, and what the operator saves for backward, in words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from ..ledger import Ledger, Shape, Tensor


class Result(NamedTuple):
    """What PyTorch gave: the shape and the dtype of the first result, and the slots, shapes and dtypes of all."""

    ledger: Ledger
    shape: Shape
    dtype: str
    all: tuple[tuple[int, Shape, str], ...]


class Kept(NamedTuple):
    """A tensor that an operator saves. ``because``: a reason beside the gradients that need it."""

    what: str
    wanted: tuple[int, ...] = ()
    """The inputs whose gradient is made of it, counted from the last one (-1). None: of an operator with one input."""
    because: str = ""


class Saved(NamedTuple):
    """The inputs that may need a gradient, and what is saved, in order. Positions past the end are as the last one."""

    inputs: tuple[str, ...]
    kept: tuple[Kept, ...]


Rule = Callable[..., Any]
Arguments = Callable[..., "tuple[Any, ...]"]
R = TypeVar("R", bound=Rule)

FACTORS = ("first factor", "second factor")
"""The inputs of a product."""
PRODUCT = Kept("its second factor", (-2,)), Kept("its first factor", (-1,))
"""What a product saves."""
SHAPE = "backward reads its shape"
"""A reason."""

RULES: dict[str, Rule] = {}
"""What runs a recorded call, by the function's name. It takes the call's ``Result``, then its arguments."""
SAME: dict[str, str] = {}
"""Further names of a function in PyTorch, and the one under which it is recorded."""
SAVED: dict[str, Saved] = {}
"""What each operator saves, by its node's name in PyTorch."""


def operator(*names: str, same: Sequence[str] = (), args: Arguments | None = None) -> Callable[[R], R]:
    """Enter a rule under the names of the functions that it is the rule of; ``same`` are further names of the first.

    ``args`` makes the rule's arguments of a recorded call's ``Result`` and arguments. Without it they are the same.
    """
    if args is not None and args.__name__ == "<lambda>":
        args.__qualname__ = names[0]  # what Python says of wrong arguments names it

    def enter(rule: R) -> R:
        def call(out: Result, *given: Any, **keywords: Any) -> Any:
            return rule(*given, **keywords) if args is None else rule(*args(out, *given, **keywords))

        recorded(*names, same=same)(call)
        return rule

    return enter


def first(out: Result, x: Tensor, *_: Any, **__: Any) -> tuple[Tensor]:
    """The ``args`` of a rule that takes the first argument alone."""
    return (x,)


def recorded(*names: str, same: Sequence[str] = ()) -> Callable[[R], R]:
    """Enter what runs a recorded call, where it takes more than a line or the functions have no rule of their own."""

    def enter(call: R) -> R:
        RULES.update(dict.fromkeys(names, call))
        SAME.update(dict.fromkeys(same, names[0]))
        return call

    return enter


def saves(node: str, *kept: Kept, inputs: tuple[str, ...] = ("input",)) -> Callable[[R], R]:
    """Say what an operator saves, which its rule hands to ``record`` in this order.

    Sources: ``tools/autograd/derivatives.yaml`` of PyTorch, and the ``backward`` of each ``torch.autograd.Function``.
    """
    SAVED[node] = Saved(inputs, kept)
    return lambda rule: rule


def flattened(dims: tuple[Any, ...]) -> tuple[Any, ...]:
    """Dimensions or sizes given as one tuple, or one by one."""
    return tuple(dims[0]) if len(dims) == 1 and isinstance(dims[0], tuple) else dims
