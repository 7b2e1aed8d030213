"""What the ledger asks of the interpreter: reference counts that say what is alone, and temporaries that die early.

The lifetimes of tensors are those of Python's objects, so this is where the interpreter's part is stated:

- An object dies with its last reference, at once.
- An argument belongs to the function that is called: a temporary dies there when its name is assigned again. One
  given through ``*args`` of a function that itself calls another lives until that one returns.
- ``getrefcount`` of an item of a container, or of an attribute, counts the container's reference and its own argument.
  Of a local name the count depends on the release (from Python 3.14 on a name may lend its reference to the call), so
  it is never asked.

``check`` proves all of it on the running interpreter.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    from .tensors import Tensor

getrefcount: Callable[[Any], int] = getattr(sys, "getrefcount", lambda _: 0)
_ALONE = 2
"""The holder's reference and the argument of ``getrefcount``."""


def is_alone(holder: Any, key: Any) -> bool:
    """Whether nothing but ``holder`` refers to ``holder[key]``: the caller has no name for it."""
    return getrefcount(holder[key]) <= _ALONE


def shares_its_storage(tensor: Tensor | _Thing) -> bool:
    """Whether something beside the tensor refers to its storage: another tensor, or a name."""
    return getrefcount(tensor.storage) > _ALONE


class _Thing:
    """Notes its death."""

    def __init__(self, name: str, dead: list[str]) -> None:
        self.name, self.dead, self.storage = name, dead, object()

    def __del__(self) -> None:
        self.dead.append(self.name)


def _rebinds(thing: Any, dead: list[str]) -> list[str]:
    thing = None
    return [*dead] if thing is None else []


def _passes_on(*args: Any) -> list[str]:
    return _rebinds(*args)


def _closes_over(thing: Any, dead: list[str]) -> list[str]:
    def make() -> Any:
        return thing

    make()
    return list(dead)


def counts_as_expected() -> bool:
    """Whether this interpreter keeps the promises above."""
    dead: list[str] = []
    held = [_Thing("held", dead)]
    name = held[0]
    found = [is_alone(held, 0), shares_its_storage(name)]
    storage = name.storage
    del name
    found += [is_alone(held, 0), shares_its_storage(held[0])]
    del storage
    found += [shares_its_storage(held[0]), is_alone({0: held.pop()}, 0)]
    lives: list[Callable[..., list[str]]] = [_rebinds, _passes_on, _closes_over]
    deaths = [function(_Thing(function.__name__, dead), dead) for function in lives]
    seen = [["held", "_rebinds"], ["held", "_rebinds"], ["held", "_rebinds", "_passes_on"]]
    return found == [False, False, True, True, False, True] and deaths == seen and dead == [*seen[-1], "_closes_over"]


def check() -> None:
    """Raise ``InputError`` where it does not."""
    if not counts_as_expected():
        raise InputError(
            f"{platform.python_implementation()} {platform.python_version()} counts references in a way that estimator "
            "cannot rely on; use CPython, release 3.11 to 3.14"
        )
