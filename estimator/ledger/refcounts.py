"""What the ledger relies on in the Python interpreter: when an object dies, and what ``getrefcount`` counts.

A tensor of the ledger lives exactly as long as its Python object:

- An object dies at once when its last reference goes.
- A temporary that is passed as an argument dies when the called function assigns its parameter anew. A temporary that
  is passed on through ``*args`` dies only when the function that passed it on returns.
- ``getrefcount`` of a container's item, or of an attribute, counts the container's reference and its own argument. For
  a local name the count depends on the Python release (from 3.14 on the call may borrow the name's reference), so no
  code here asks for that.

``check`` tests all of this on the running interpreter.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Protocol

from ..errors import InputError


class Sharing(Protocol):
    """A tensor."""

    storage: Any


getrefcount: Callable[[Any], int] = getattr(sys, "getrefcount", lambda _: 0)
_ALONE = 2
"""References to an object that only its holder refers to: the holder's, and the argument of ``getrefcount``."""


def is_alone(holder: Any, key: Any) -> bool:
    """Whether nothing but ``holder`` refers to ``holder[key]``. The caller must not have a name for it."""
    return getrefcount(holder[key]) <= _ALONE


def shares_its_storage(tensor: Sharing) -> bool:
    """Whether another tensor, or a name, refers to the tensor's storage."""
    return getrefcount(tensor.storage) > _ALONE


class _Thing:
    """Adds its name to ``dead`` when it dies."""

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
    """Whether this interpreter behaves as this module's docstring says."""
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
    """Raise ``InputError`` if the interpreter does not count references as expected."""
    if not counts_as_expected():
        raise InputError(
            f"{sys.implementation.name} {sys.version.split()[0]} counts references in a way that estimator cannot rely "
            "on; use CPython, release 3.11 to 3.14"
        )
