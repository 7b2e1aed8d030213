"""The names that slots have in a list of events, so that calls which are alike have equal lines wherever they stand.

A tensor is named by how many tensors of its list were made since: ``~1`` is the latest one. What a layer is called with
is named by its place there: ``^0`` comes first. Others have the slot itself: a layer's own begin with a dot, an earlier
layer's with the distance to it. A result is ``~`` where its slot is the next number, else the slot.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..program import SPAN
from ..rows import LISTS
from .limits import MOST_LAYERS

NEAR = 64
"""How many results ago a tensor was made at most, to be named so."""


def slot_text(number: int) -> str:
    """A slot as it is."""
    layer, own = divmod(number, SPAN)
    return str(own) if not layer else f"{layer - 1 if layer > 1 else ''}.{own}"


def slot_number(text: object) -> int | None:
    """The slot of such a text; ``None`` for what is none."""
    layer, dot, own = text.rpartition(".") if isinstance(text, str) and len(text) < 16 else ("", "", "")
    if not (_is_number(own) and (not layer or _is_number(layer))):
        return None
    number, distance = int(own), int(layer or 0)
    if number >= SPAN or distance > MOST_LAYERS:
        return None
    return number if not dot else (distance + 1) * SPAN + number


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


class Slots:
    """The names of the slots of a list, to be asked for in the order of its events. ``layer``: it is a layer's."""

    def __init__(self, layer: bool = False) -> None:
        self._first = SPAN if layer else 0
        self._next = self._first
        self._made: list[int] = []
        self._places: dict[int, int] = {}
        self._given: dict[int, int] = {}

    def given(self, slots: Iterable[int]) -> None:
        """A layer is called with these."""
        if not self._given:
            for slot in slots:
                self._given.setdefault(slot, len(self._given))

    def text(self, slot: int) -> str:
        """The name of a tensor that is there."""
        if slot in self._given:
            return f"^{self._given[slot]}"
        ago = len(self._made) - self._places[slot] if slot in self._places else NEAR + 1
        return f"~{ago}" if ago <= NEAR else slot_text(slot)

    def text_of_next(self, slot: int) -> str:
        """The name of a slot where the next number may be."""
        return "~" if slot == self._next else slot_text(slot)

    def text_of_made(self, slot: int) -> str:
        """The name of a result, which is made now."""
        text = self.text_of_next(slot)
        self._make(slot)
        return text

    def number(self, text: object) -> int | None:
        """The slot of the tensor with this name; ``None`` for what is no name."""
        kind, place = (text[:1], text[1:6]) if isinstance(text, str) else ("", "")
        if kind in ("~", "^") and _is_number(place) and len(place) < 6:
            if kind == "^":
                return next((slot for slot, at in self._given.items() if at == int(place)), None)
            return self._made[-int(place)] if 0 < int(place) <= len(self._made) else None
        return slot_number(text)

    def number_of_next(self, text: object) -> int | None:
        """The slot of a name where the next number may be."""
        return self._next if text == "~" else slot_number(text)

    def number_of_made(self, text: object) -> int | None:
        """The slot of a result, which is made now."""
        if (slot := self.number_of_next(text)) is not None:
            self._make(slot)
        return slot

    def _make(self, slot: int) -> None:
        if self._first <= slot < self._first + LISTS:
            self._next = slot + 1
            self._places[slot] = len(self._made)
            self._made.append(slot)
