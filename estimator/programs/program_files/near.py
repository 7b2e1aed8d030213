"""Slots that are counted back from the latest one, as files of ``generate`` have them: their lines are alike."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any


def is_near(data: Mapping[str, Any]) -> bool:
    """Whether a program is a pass of ``generate``, whose slots are counted back."""
    settings = data.get("settings")
    return data.get("interfaces") is False and isinstance(settings, list) and any("cache" in one for one in settings)


_NEAR = 64
"""How far back a slot is counted."""


_BACK = re.compile(r"~-?[0-9]{1,7}")


def with_near_slots(rows: Sequence[Any], own: str, back: bool) -> list[Any]:
    """Events whose slots are counted back from those that the events before them made: ``~1`` is the latest one.

    ``own`` is what the slots that are counted begin with: a dot in a layer. Those of loops and of custom functions, and
    those that are far, are written as they are. With ``back`` the slots as they are, from these.
    """
    count = 0

    def slot(text: Any) -> Any:
        if not isinstance(text, str):
            return text
        if back:
            return f"{own}{count - int(text[1:])}" if _BACK.fullmatch(text) else text
        number = text[len(own) :] if text.startswith(own) else ""
        near = number.isdecimal() and len(number) < 8 and count - int(number) < _NEAR
        return f"~{count - int(number)}" if near else text

    def tree(value: Any) -> Any:
        if isinstance(value, list):
            return [tree(x) for x in value]
        return f"%{slot(value[1:])}" if isinstance(value, str) and value.startswith("%") else value

    found: list[Any] = []
    for row in rows:
        if not isinstance(row, list) or not row or not isinstance(row[0], str) or row[0].startswith("!"):
            found.append(row)
        elif row[0] == "-":
            found.append(["-", *map(slot, row[1:])])
        elif row[0] in (">", "<"):
            found.append([*row[:2], *map(tree, row[2:])])
        else:
            at = 3 if len(row) > 2 and isinstance(row[2], dict) else 2  # keywords are left out where there are none
            keywords = [{k: tree(x) for k, x in one.items()} for one in row[2:at]]
            out = [[slot(made[0]), *made[1:]] if isinstance(made, list) and made else made for made in row[at:]]
            found.append([row[0], *map(tree, row[1:2]), *keywords, *out])
            slots = [made[0] for made in (out if back else row[at:]) if isinstance(made, list) and made]
            numbers = [text.removeprefix(own) for text in slots if isinstance(text, str)]
            count = max([count, *(int(x) + 1 for x in numbers if x.isdecimal() and len(x) < 8)])
    return found


def all_near(data: Mapping[str, Any], back: bool = False) -> dict[str, Any]:
    """A program's plain form with near slots in its events (``with_near_slots``); ``back``: with plain ones."""
    made = dict(data)
    for key in ("before", "after"):
        if isinstance(data.get(key), list):
            made[key] = with_near_slots(data[key], "", back)
    if isinstance(data.get("bodies"), list):
        made["bodies"] = [
            [body[0], with_near_slots(body[1], ".", back)]
            if isinstance(body, list) and len(body) == 2 and isinstance(body[1], list)
            else body
            for body in data["bodies"]
        ]
    return made


STORED = ("parameters", "buffers", "attributes")
"""Those whose rows are a name, a dtype and more."""
LONG_PARTS = ("modules", "parameters", "buffers", "attributes", "before", "after")
"""The parts of a file that have a line for each entry."""
