"""What a call of ``generate`` allocates for each token behind the first, whichever it is.

Every pass over one token calls the same operators on tensors of which some have one token more. So a pass is run once
with a symbol for the token's number, and evaluated for each. It holds for the tokens of which all is so that was taken
for granted (``Taken``): a window that is full, keys that need padding. Others have a pass of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ...ledger import Events, Size
from ...ledger.sizes import Taken, symbol, taking
from ...steps.generate import CARRIED, KEPT
from .caching_allocator import SMALL_REQUEST, rounded

_NUMBER = "N"
"""The symbol of a token's number, of which the first is zero."""


def noted(events: Events, mark: str) -> dict[str, int]:
    """The allocations that a log says are ``CARRIED`` or ``KEPT``, by name."""
    return {called.about: called.given for called in events.calls.values() if called.name == mark and called.given >= 0}


class Pass(NamedTuple):
    """A pass that makes one token of each row. Sizes may be polynomials."""

    events: Events
    first: int
    """Where it begins among the entries of the log; before are tensors that it finds there."""
    stop: int
    taken: Taken
    carried: Mapping[str, int]
    """The allocations that it has from the pass before."""
    kept: Mapping[str, int]
    """Those that it leaves to the next one."""


def read(events: Events, taken: Taken) -> Pass:
    """A pass from the log of a step that has run it."""
    last = max(number for number, called in events.calls.items() if called.name == CARRIED)
    first, stop = events.order.index(last) + 1, events.marks["decode"]
    return Pass(events, first, stop, taken, noted(events, CARRIED), noted(events, KEPT))


class Tokens:
    """The passes of a call behind its first. ``run`` gives the log of one, by its token's number, or ``N`` for it."""

    def __init__(self, run: Callable[[Size], Events]) -> None:
        self._run = run
        self._passes: list[Pass] = []

    def at(self, number: int) -> tuple[Pass, Events]:
        """The pass that makes the token of a number, and its log in numbers."""
        values = {_NUMBER: number}
        one = next((one for one in self._passes if one.taken.holds(values)), None)
        if one is None:
            one = self._made(number)
            self._passes.append(one)
        return one, one.events.at(values)

    def _made(self, number: int) -> Pass:
        if number > 1:  # the first has what a pass over the whole prompt left
            with taking({_NUMBER: number}) as taken:
                taken.facts.add((_is_behind, (symbol(_NUMBER),), True))
                return read(self._run(symbol(_NUMBER)), taken)
        return self._numbered(number)

    def _numbered(self, number: int) -> Pass:
        """The pass of one number."""
        taken = Taken()
        taken.facts.add((int.__eq__, (symbol(_NUMBER), number), True))
        return read(self._run(number), taken)


class Piece(NamedTuple):
    """What a pass does in the small pool between two entries of the large one."""

    most: int
    """The most bytes that are allocated beyond those at its start."""
    more: int
    """Those that are in the end."""
    then: list[int]
    """The entry of the large pool that follows, if one does."""


class Token(NamedTuple):
    """A token that is made: its number, its pass with the log in numbers, and what it has from the one before."""

    number: int
    one: Pass
    events: Events
    names: Mapping[str, str]
    """By the names of what the pass before leaves the names by which this one has it."""
    kept: Mapping[str, int]
    """What it leaves to the next one, of what it has or makes."""
    small: tuple[Hashable, ...]
    """What decides how it goes on in the small pool: tokens that are alike in this ask the same of it."""

    @property
    def order(self) -> Sequence[int]:
        """The entries of its pass."""
        return self.events.order[self.one.first : self.one.stop]

    def pieces(self, held: Mapping[int, int]) -> list[Piece]:
        """What it does in the small pool, where it has blocks of these bytes from the pass before."""
        sizes, there, found, live, most = self.events.sizes, {**held}, list[Piece](), 0, 0
        for entry in self.order:
            if sizes[entry if entry >= 0 else ~entry] > SMALL_REQUEST:
                found.append(Piece(most, live, [entry]))
                live = most = 0
            elif entry >= 0:
                there[entry] = rounded(sizes[entry])
                live += there[entry]
                most = max(most, live)
            else:
                live -= there.pop(~entry, 0)
        return [*found, Piece(most, live, [])]


def tokens_of(passes: Tokens, kept: Mapping[str, int], sizes: Sequence[int], count: int) -> Iterator[Token]:
    """The tokens behind the first of ``count``, whose pass has left what is ``kept``, of these sizes."""
    made: dict[int, frozenset[int]] = {}
    for number in range(1, count):
        one, events = passes.at(number)
        had = {name: sizes[place] for name, place in kept.items()}
        names = matched(had, {name: events.sizes[place] for name, place in one.carried.items()})
        small = [rounded(size) if size <= SMALL_REQUEST else -1 for size in events.values]
        if id(one) not in made:
            made[id(one)] = frozenset(events.order[one.first : one.stop])
        there, sizes = made[id(one)].union(one.carried[name] for name in names.values()), events.sizes
        kept = {name: place for name, place in one.kept.items() if place in there and sizes[place]}
        yield Token(number, one, events, names, kept, (id(one), *small, *names.items()))


def _is_behind(number: int) -> bool:
    """Whether a pass is behind another one over a single token."""
    return number > 1


def matched(kept: Mapping[str, int], sizes: Mapping[str, int]) -> dict[str, str]:
    """By the names of what a pass leaves the names by which the next one has it, given the bytes of both.

    Tensors of a layer's cache are named by their places, which may be others in a pass of another regime. Those of one
    size are taken for the same, and what is left in its order.
    """
    found = {name: name for name, nbytes in kept.items() if sizes.get(name) == nbytes}
    rest = [name for name in sizes if name not in found]
    for name in (name for name in kept if name not in found):
        alike = [other for other in rest if other.rpartition(".")[0] == name.rpartition(".")[0]]
        same = next((other for other in alike if sizes[other] == kept[name]), None) or next(iter(alike), None)
        if same is not None:
            found[name] = same
            rest.remove(same)
    return found
