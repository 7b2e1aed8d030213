"""A family's program as a file, and back: JSON, an event a line.

A tensor is written ``%slot``, its dtype ``*slot``, a weight ``@name``, a text ``'text``, an expression of sizes
``=text`` and a rate of the config ``?key``. Slots of layers are the distance to the layer, a dot and a number
(``program.SPAN``); the layer's own begin with the dot.

A file may come from anywhere, so everything in it is checked as it is read: the calls by name, the slots that they use,
the modules that are entered and left, expressions, and how much there is of each. What is wrong is one ``InputError``.
Nothing in a file is executed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import SequenceMatcher
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NoReturn, get_args

from ..errors import InputError, shown
from ..files import parse_json, read_text
from ..ledger import ITEMSIZE
from ..ledger.sizes import Poly, Size, format_poly, is_registered, registered
from .depth import LOOKS_AT, Kinds
from .expressions import LARGEST, names, polynomial
from .family import DEPTH_KEYS, INDEX_KEYS, ONES, Family, Switch
from .fit import DTYPE, LAYER, PASS, sizes_symbol
from .module_table import KINDS, NamedModule
from .program import (
    CACHED,
    INTERFACES,
    LOSS,
    SPAN,
    Autocast,
    Body,
    Call,
    Drop,
    DtypeOf,
    Enter,
    Event,
    Exit,
    Function,
    GradMode,
    Made,
    Program,
    Rate,
    Ref,
    Repeat,
    Stored,
    Weight,
    layer_numbers,
    made,
)
from .repeats import with_passes
from .rules import RULES
from .shared import shared_slots
from .step import CACHED_SIZES, Part

FORMAT = 2
LONGEST_FILE = 2_000_000
MOST_PROGRAMS = 128
MOST_SETTINGS = 256
MOST_EVENTS, MOST_ROWS, MOST_SYMBOLS, MOST_LAYERS = 50_000, 20_000, 64, 64
_DIMS, _NESTING, _NAME = 16, 6, 300

# -- writing ---------------------------------------------------------------------------------------------------------


def _slot(number: int) -> str:
    layer, own = divmod(number, SPAN)
    return str(own) if not layer else f"{layer - 1 if layer > 1 else ''}.{own}"


def _plain(value: Any) -> Any:
    if isinstance(value, Ref):
        return f"%{_slot(value.slot)}"
    if isinstance(value, Weight):
        return f"@{value.name}"
    if isinstance(value, DtypeOf):
        return f"*{_slot(value.slot)}"
    if isinstance(value, Rate):
        return f"?{value.key}"
    if isinstance(value, Poly):
        return f"={format_poly(value)}".replace(" ", "")
    if isinstance(value, str):
        return f"'{value}"
    if isinstance(value, tuple):
        return [_plain(x) for x in value]
    return value


def _event(event: Event) -> list[Any]:
    if isinstance(event, Call):
        out = [[_slot(m.slot), m.dtype, *map(_plain, m.shape)] for m in event.out]
        return [event.op, _plain(event.args), {name: _plain(x) for name, x in event.keywords}, *out]
    if isinstance(event, Enter):
        return [">", event.path, _plain(event.args), *([_plain(event.keywords)] if event.keywords else [])]
    if isinstance(event, Exit):
        return ["<", event.path, _plain(event.out)]
    if isinstance(event, GradMode):
        return ["!grad", event.enabled]
    if isinstance(event, Autocast):
        return ["!autocast", event.enabled]
    if isinstance(event, Function):
        made = event.out
        return [
            "!function",
            event.name,
            _plain(event.inputs),
            _events(event.forward),
            [_slot(made.slot), made.dtype, *map(_plain, made.shape)],
            _plain(event.inner),
            _plain(event.saved),
            _plain(event.attached),
            [None if slot < 0 else _slot(slot) for slot in event.unpacked],
            None if event.grad < 0 else _slot(event.grad),
            _events(event.backward),
            _plain(event.results),
        ]
    if isinstance(event, Repeat):
        return ["!repeat", _plain(event.count), _slot(event.first), event.stride, _events(event.events)]
    assert isinstance(event, Drop)
    return ["-", _slot(event.slot)]


def _events(events: Sequence[Event]) -> list[list[Any]]:
    """Events as lists. What dies at once is one of them."""
    made: list[list[Any]] = []
    for event in events:
        one = _event(event)
        if one[0] == "-" and made and made[-1][0] == "-":
            made[-1] += one[1:]
        else:
            made.append(one)
    return made


def written(family: Family) -> str:
    """The text of a family's program."""
    program = family.program
    if program.checkpoints:
        raise InputError(f"{min(program.checkpoints)} has a checkpoint and is no layer, which a file cannot say")
    if program.hooks:
        raise InputError(f"{min(program.hooks)} has a hook on its gradient, which a file cannot say")
    head: dict[str, Any] = {
        "format": FORMAT,
        "model_type": family.model_type,
        "recorded": dict(family.recorded),
        "symbols": dict(family.symbols),
        "structure": dict(family.structure),
        "switches": {key: [one.value, list(one.fewer), dict(one.tied)] for key, one in family.switches.items()},
        "rates": list(family.rates),
        "defaults": dict(family.defaults),
        "nulls": dict(family.nulls),
        "lists": dict(family.lists),
        "aliases": dict(family.aliases),
        "window": [family.window, family.beyond_window],
        **({} if family.chunk is None else {"chunk": [family.chunk, family.whole_chunks]}),
        "ones": [list(family.fixed), list(family.ones)],
        "harmless": list(family.harmless),
        "depth": family.layers,
        "kinds": [family.kinds.looks_at, [[list(map(_listed, key)), kind] for key, kind in family.kinds.table.items()]],
        "dtype": program.dtype,
        "path": program.path,
        "layers": list(program.layers),
        "inputs": {name: _slot(slot) for name, slot in program.inputs.items()},
        "outputs": {name: _plain(ref) for name, ref in program.outputs.items()},
        "tied": dict(program.tied),
        **({"returns_cache": True} if program.returns_cache else {}),
    }
    long: dict[str, list[Any]] = {
        "modules": [
            [m.path, m.kind, [_plain(n) for n in m.shape], int(m.bias), m.role, int(m.path in program.plain)]
            for m in program.modules
        ],
        "parameters": [_stored(p) for p in program.parameters],
        "buffers": [_stored(p) for p in program.buffers],
        "attributes": [_stored(p) for p in program.attributes],
        "before": _events(program.before),
        "after": _events(program.after),
    }
    lines = [f"{_json(key)}: {_json(value)}" for key, value in head.items()]
    lines += [f"{_json(key)}: {_lines(value)}" for key, value in long.items()]
    bodies = ",\n".join(f"[{body.exit}, {_lines(_events(body.events))}]" for body in program.bodies)
    return "{\n" + ",\n".join([*lines, f'"bodies": [\n{bodies}\n]']) + "\n}\n"


def _listed(value: Any) -> Any:
    return [_listed(x) for x in value] if isinstance(value, tuple) else value


def _stored(stored: Stored) -> list[Any]:
    flags = [stored.requires_grad, stored.added, stored.unreached]
    row = [stored.name, stored.dtype, [_plain(n) for n in stored.shape]]
    if stored.storage is not None:
        return [*row, *map(int, flags), _plain(stored.storage)]
    return [*row, *map(int, flags if any(flags) else ())]


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _lines(rows: Iterable[Any]) -> str:
    return "[\n" + ",\n".join(map(_json, rows)) + "\n]"


# -- reading ---------------------------------------------------------------------------------------------------------


def load(path: Path) -> Family:
    """The family in a file. Raises ``InputError`` for anything that is no program."""
    return read(read_text(path, "a program that the estimator has written", LONGEST_FILE), str(path))


def read(text: str, where: str, known: Collection[str] = RULES) -> Family:
    """The family in a text. ``known`` are the functions that it may call."""
    if len(text) > LONGEST_FILE:
        raise InputError(f"'{where}' is longer than {LONGEST_FILE:,} characters")
    try:
        data = parse_json(text)
    except InputError as error:
        raise InputError(f"'{where}': {error}") from None
    return _Reader(where, known).family(data)


@dataclass(frozen=True)
class Unread(Family):
    """A family in a file of which only the head has been read."""

    read: Callable[[], Family] | None = None

    @cached_property
    def _whole(self) -> Family:
        assert self.read is not None
        return self.read()

    @property
    def whole(self) -> Family:
        """The family with its program. Raises ``InputError`` where that is damaged."""
        return self._whole


def written_together(families: Sequence[Family]) -> str:
    """The text of several programs. Of each but the first it has what differs from an earlier one's.

    That is the first, or the one that is its place under ``like``. Rows that both have in a row are written
    ``[start, stop]``, their places in the other one's list. A program of a fixed symbol is compared with the other
    where that symbol is 1. A layer is compared with that of the same place in the other program, or with the one whose
    number comes last: layers are numbered through the other program and this one. A pass of ``generate`` has some more
    tensors, which give those that follow other slots, so its slots are counted back (``_near``).
    """
    if len(families) > MOST_PROGRAMS:
        raise InputError(f"{len(families)} programs; {MOST_PROGRAMS} are the most of a file")
    plain = [json.loads(written(family)) for family in families]
    changed = [{**plain[0], "bodies": _bodies([], plain[0]["bodies"])}]
    likely = [0]
    """The programs that others may be like: the first, and those that are like it."""
    passes = [0]
    """The same for passes of ``generate``: the first, and all passes."""
    for i, one in enumerate(plain[1:], 1):
        near = _is_near(one)
        others = [(_changes(plain[k], one, near), k) for k in (passes if near else likely)]
        rows, like = min(others, key=lambda other: (len(_json(other[0])), other[1]))
        changed.append({**({"like": like} if like else {}), **rows})
        if near:
            passes.append(i)
        elif not like:
            likely.append(i)
    programs = ",\n".join(map(_parts, changed))
    return f'{{\n"format": {FORMAT},\n"programs": [\n{programs}\n]\n}}\n'


def _changes(other: dict[str, Any], one: Mapping[str, Any], near: bool) -> dict[str, Any]:
    """What a program has that another one has not."""
    base = _fixed(other, one["ones"][0])
    if near:
        base, one = _all_near(base), _all_near(one)
    rows: dict[str, Any] = {}
    for key, value in one.items():
        if key == "ones" or base[key] != value:
            rows[key] = _like(base[key], value) if key in _LONG else value
        if key == "bodies" and key in rows:
            rows[key] = _bodies(base[key], value)
    return rows


def _bodies(base: Sequence[Any], bodies: Sequence[Any]) -> list[list[Any]]:
    """Layers, with the places of what others have."""
    found: list[list[Any]] = []
    for i, (stop, events) in enumerate(bodies):
        ways = [_like(base[i][1] if i < len(base) else [], events)]
        if len(_json(ways[0])) > _ALIKE:
            ways += [[*_like(other, events), k] for k, (_, other) in enumerate([*base, *bodies[:i]])]
        best = min(ways, key=lambda rows: len(_json(rows)))
        number = [best.pop()] if best is not ways[0] else []
        found.append([stop, best, *number])
    return found


def _parts(data: Mapping[str, Any]) -> str:
    """The text of a program's parts."""
    found = []
    for key, value in data.items():
        if key == "bodies":
            bodies = ",\n".join(
                f"[{stop}, {_lines(events)}{''.join(f', {k}' for k in number)}]" for stop, events, *number in value
            )
            text = f"[\n{bodies}\n]"
        else:
            text = _lines(value) if key in _LONG else _json(value)
        found.append(f"{_json(key)}: {text}")
    return "{\n" + ",\n".join(found) + "\n}"


def _like(first: Sequence[Any], second: Sequence[Any]) -> list[Any]:
    """The second list, with the places of what the first one has."""
    matcher = SequenceMatcher(None, [_json(row) for row in first], [_json(row) for row in second], autojunk=False)
    made: list[Any] = []
    for tag, start, stop, from_, to in matcher.get_opcodes():
        if tag == "equal":
            made.append([start, stop])
        else:
            made += second[from_:to]
    return made


def _fixed(data: dict[str, Any], symbols: Sequence[str]) -> dict[str, Any]:
    """A program's plain form where these symbols are 1."""
    if not symbols:
        return data
    known: dict[str, Any] = {}
    names_ = {"B", "S", *data["symbols"], *CACHED_SIZES}

    def at_one(tree: Any) -> Any:
        if isinstance(tree, list):
            return [at_one(x) for x in tree]
        if isinstance(tree, dict):
            return {key: at_one(x) for key, x in tree.items()}
        if isinstance(tree, str) and tree.startswith("="):
            if tree not in known:
                size = polynomial(tree[1:], names_)
                known[tree] = _plain(size.substitute(dict.fromkeys(symbols, 1)) if isinstance(size, Poly) else size)
            return known[tree]
        return tree

    return {key: at_one(value) if key in (*_LONG, "bodies") else value for key, value in data.items()}


def _is_near(data: Mapping[str, Any]) -> bool:
    """Whether a program is a pass of ``generate``, whose slots are counted back."""
    return isinstance(data.get("recorded"), dict) and data["recorded"].get("cache") is not None


_NEAR = 64
"""How far back a slot is counted."""
_BACK = re.compile(r"~-?[0-9]{1,7}")


def _near(rows: Sequence[Any], own: str, back: bool = False) -> list[Any]:
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
            keywords = [{k: tree(x) for k, x in one.items()} if isinstance(one, dict) else one for one in row[2:3]]
            out = [[slot(made[0]), *made[1:]] if isinstance(made, list) and made else made for made in row[3:]]
            found.append([row[0], *map(tree, row[1:2]), *keywords, *out])
            slots = [made[0] for made in (out if back else row[3:]) if isinstance(made, list) and made]
            numbers = [text.removeprefix(own) for text in slots if isinstance(text, str)]
            count = max([count, *(int(x) + 1 for x in numbers if x.isdecimal() and len(x) < 8)])
    return found


def _all_near(data: Mapping[str, Any], back: bool = False) -> dict[str, Any]:
    """A program's plain form whose events have their slots as ``_near`` writes them, or ``back`` as they are."""
    made = dict(data)
    for key in ("before", "after"):
        if isinstance(data.get(key), list):
            made[key] = _near(data[key], "", back)
    if isinstance(data.get("bodies"), list):
        made["bodies"] = [
            [body[0], _near(body[1], ".", back)]
            if isinstance(body, list) and len(body) == 2 and isinstance(body[1], list)
            else body
            for body in data["bodies"]
        ]
    return made


_ALIKE = 500
"""Characters of what a layer has that the same one of another program has not, up to which no nearer one is sought."""
_LONG = ("modules", "parameters", "buffers", "attributes", "before", "after")
"""The parts of a file that have a line for each entry."""


def load_together(path: Path) -> list[Unread]:
    """The programs in a file, their heads alone. Raises ``InputError`` for anything that is no program."""
    return read_together(read_text(path, "a file that `estimator record` has written", LONGEST_FILE), str(path))


def read_together(text: str, where: str, known: Collection[str] = RULES) -> list[Unread]:
    """The programs in a text, their heads alone."""
    rows = _rows(text, where)  # not kept: of most files only the heads are asked for, and rows are large
    found: list[Unread] = []
    heads: list[dict[str, Any]] = []
    for i, row in enumerate(rows):
        title = f"{where}: program {i}"
        own = dict(row)
        like = _Reader(where, known).integer(own.pop("like", 0), "like", 0, max(i - 1, 0))
        heads.append({**heads[like], **own} if i else own)
        head = _Reader(title, known).head(heads[i])
        parts = {field.name: getattr(head, field.name) for field in fields(head)}
        found.append(Unread(**parts, read=partial(_read_whole, text, where, i, title, known)))
    return found


def _rows(text: str, where: str) -> list[dict[str, Any]]:
    """The programs in a text, each as what differs from another one's."""
    try:
        data = parse_json(text)
    except InputError as error:
        raise InputError(f"'{where}': {error}") from None
    reader = _Reader(where, ())
    data = reader.object_(data, "the file")
    if set(data) != {"format", "programs"}:
        reader.wrong("it must have format and programs, and nothing else")
    reader.format(data)
    return [reader.object_(row, "a program") for row in reader.list_(data["programs"], "programs", MOST_PROGRAMS)]


def _read_whole(text: str, source: str, i: int, where: str, known: Collection[str]) -> Family:
    reader = _Reader(where, known)
    return reader.family(_whole(reader, _rows(text, source), i))


def _whole(reader: _Reader, rows: Sequence[dict[str, Any]], i: int) -> dict[str, Any]:
    """A program's plain form, of what differs from another one's."""
    own = {key: value for key, value in rows[i].items() if key != "like"}
    other = _whole(reader, rows, rows[i].get("like", 0)) if i else {}
    ones = own.get("ones")
    fixed = [x for x in ones[0] if x in ONES] if isinstance(ones, list) and ones and isinstance(ones[0], list) else []
    near = bool(i) and _is_near({**other, **own})
    try:
        base = (_all_near(_fixed(other, fixed)) if near else _fixed(other, fixed)) if i else {}
    except (InputError, AttributeError, KeyError, TypeError):
        reader.wrong("an earlier program has an expression that is none")
    whole = {**base, **own}
    for key in _LONG:
        if i and key in own:
            whole[key] = reader.copied(base.get(key), own[key], key)
    if "bodies" in own:
        known = reader.list_(base.get("bodies", []), "bodies", MOST_LAYERS)
        whole["bodies"] = []
        for k, body in enumerate(reader.list_(own["bodies"], "bodies", MOST_LAYERS)):
            others = [*known, *whole["bodies"]]
            if len(reader.list_(body, "a body", 3)) not in (2, 3):
                reader.wrong("a layer has the index of its exit, its events, and perhaps a layer that is like it")
            like = k if len(body) == 2 else reader.integer(body[2], "a layer", 0, len(others) - 1)
            first = others[like] if len(body) == 3 or like < len(known) else [0, []]
            if len(reader.list_(first, "a body", 2)) != 2:
                reader.wrong("a layer has the index of its exit, and its events")
            whole["bodies"].append([body[0], reader.copied(first[1], body[1], "bodies")])
    return _all_near(whole, back=True) if near else whole


class OtherFormat(InputError):
    """A file that another version of the estimator wrote."""


_EMPTY = Program((), (), (), (), {}, {}, (), (), (), ())


class _Reader:
    def __init__(self, where: str, known: Collection[str]) -> None:
        self.where, self.known = where, known
        self.place = "the file"
        self.symbols: set[str] = {"B", "S", PASS}
        self.generates = False
        """The program is a pass of ``generate``, which starts with a cache."""
        self.taken: set[tuple[str, int]] = set()
        """The part of the program and the slot of each tensor that is taken from the cache."""
        self.weights: set[str] = set()
        self.rates: set[str] = set()
        self.paths: set[str] = set()
        self.count = 0
        self.sizes: dict[str, Size] = {}

    def wrong(self, what: str) -> NoReturn:
        raise InputError(f"'{self.where}', {self.place}: {what}")

    # -- simple values -------------------------------------------------------------------------------------------

    def list_(self, value: Any, what: str, most: int = MOST_ROWS) -> list[Any]:
        if not isinstance(value, list):
            self.wrong(f"{what} is {shown(value)}; it must be a list")
        if len(value) > most:
            self.wrong(f"{what} has {len(value):,} entries; {most:,} are the most")
        return value

    def object_(self, value: Any, what: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.wrong(f"{what} is {shown(value)}; it must be an object")
        if len(value) > MOST_ROWS or any(len(key) > _NAME for key in value):
            self.wrong(f"{what} has too many or too long keys")
        return value

    def text(self, value: Any, what: str) -> str:
        if not isinstance(value, str) or len(value) > _NAME:
            self.wrong(f"{what} is {shown(value)}; it must be a short text")
        return value

    def flag(self, value: Any, what: str) -> bool:
        if value not in (True, False) or isinstance(value, float):
            self.wrong(f"{what} is {shown(value)}; it must be true or false")
        return bool(value)

    def integer(self, value: Any, what: str, least: int, most: int) -> int:
        if type(value) is not int or not least <= value <= most:
            self.wrong(f"{what} is {shown(value)}; it must be an integer from {least:,} to {most:,}")
        return value

    def scalar(self, value: Any, what: str, depth: int = 0) -> Any:
        """A value of a config."""
        if isinstance(value, list) and depth < 3:
            return [self.scalar(x, what, depth + 1) for x in self.list_(value, what, 256)]
        if isinstance(value, str):
            return self.text(value, what)
        if value is None or isinstance(value, bool) or (isinstance(value, (int, float)) and abs(value) <= LARGEST):
            return value
        return self.wrong(f"{what} is {shown(value)}, which no config has")

    def copied(self, first: Any, rows: Any, what: str) -> list[Any]:
        """The rows with those of another program in place of ``[start, stop]``."""
        first = self.list_(first, what, MOST_EVENTS)
        made: list[Any] = []
        for row in self.list_(rows, what, MOST_EVENTS):
            if isinstance(row, list) and len(row) == 2 and type(row[0]) is int and type(row[1]) is int:
                self.place = what
                start = self.integer(row[0], "a place", 0, len(first))
                made += first[start : self.integer(row[1], "a place", start, len(first))]
            else:
                made.append(row)
            if len(made) > MOST_EVENTS:
                self.wrong(f"{what} has too many entries")
        return made

    def slot(self, value: Any) -> int:
        layer, dot, own = value.rpartition(".") if isinstance(value, str) and len(value) < 16 else ("", "", "")
        if not (own.isascii() and own.isdigit() and (not layer or (layer.isascii() and layer.isdigit()))):
            self.wrong(f"{shown(value)} is no slot")
        number, distance = int(own), int(layer or 0)
        if number >= SPAN or distance > MOST_LAYERS:
            self.wrong(f"{shown(value)} is no slot")
        return number if not dot else (distance + 1) * SPAN + number

    def expression(self, text: str) -> Size:
        if text not in self.sizes:
            try:
                self.sizes[text] = polynomial(text, self.symbols)
            except InputError as error:
                self.wrong(str(error))
        return self.sizes[text]

    def shape(self, value: Any) -> tuple[Size, ...]:
        made: list[Size] = []
        for n in self.list_(value, "a shape", _DIMS):
            if isinstance(n, str) and n.startswith("="):
                made.append(self.expression(n[1:]))
            else:
                made.append(self.integer(n, "a size", 0, LARGEST))
        return tuple(made)

    def dtype(self, value: Any) -> str:
        if not isinstance(value, str) or (value not in ITEMSIZE and value != DTYPE):
            self.wrong(f"{shown(value)} is no dtype")
        return value

    def value(self, value: Any, depth: int = 0) -> Any:
        """An argument of a call."""
        if isinstance(value, str):
            kind, rest = value[:1], value[1:]
            if kind == "%":
                return Ref(self.slot(rest))
            if kind == "@":
                return Weight(self.text(rest, "a weight"))
            if kind == "=":
                return self.expression(rest)
            if kind == "'":
                return self.text(rest, "an argument")
            if kind == DTYPE:
                return DtypeOf(self.slot(rest), DTYPE)
            if kind == "?":
                if rest not in self.rates:
                    self.wrong(f"{shown(rest)} is none of the rates")
                return Rate(rest)
        elif isinstance(value, list):
            if depth >= _NESTING:
                self.wrong("an argument is nested too deeply")
            return tuple([self.value(x, depth + 1) for x in self.list_(value, "an argument", 4096)])
        elif (
            value is None
            or isinstance(value, bool)
            or (type(value) is float and value in (0.0, 1.0))
            or (type(value) is int and abs(value) <= LARGEST)
        ):
            return value
        return self.wrong(f"{shown(value)} is no argument of a call")

    def tensors(self, value: Any, what: str) -> tuple[Ref | Weight, ...]:
        found = self.value(self.list_(value, what))
        if any(not isinstance(x, (Ref, Weight)) for x in found):
            self.wrong(f"{what} has something that is no tensor")
        return tuple(found)

    # -- events --------------------------------------------------------------------------------------------------

    def events(self, value: Any, where: str, inner: int = 0) -> tuple[Event, ...]:
        made: list[Event] = []
        for i, row in enumerate(self.list_(value, where, MOST_EVENTS)):
            self.place = f"{where}[{i}]"
            row = self.list_(row, "an event", 256)
            if not row or not isinstance(row[0], str):
                self.wrong("an event begins with its name")
            if row[0] == "-":
                made += [Drop(self.slot(x)) for x in row[1:]]
            else:
                made.append(self.event(row, where, i, inner))
            self.count += max(len(row) - 1, 1) if row[0] == "-" else 1
            if self.count > MOST_EVENTS:
                self.wrong(f"the program has more than {MOST_EVENTS:,} events")
        return tuple(made)

    def event(self, row: list[Any], where: str, i: int, inner: int) -> Event:
        op = row[0]
        if op == ">" and len(row) in (3, 4):
            keywords = self.tensors(row[3], "keywords") if len(row) == 4 else ()
            return Enter(self.text(row[1], "a path"), self.tensors(row[2], "arguments"), keywords)
        if op == "<" and len(row) == 3:
            return Exit(self.text(row[1], "a path"), self.tensors(row[2], "results"))
        if op in ("!grad", "!autocast") and len(row) == 2:
            return (GradMode if op == "!grad" else Autocast)(self.flag(row[1], op))
        if op == "!function" and len(row) == 12:
            return self.function(row, f"{where}[{i}]", inner)
        if op == "!repeat" and len(row) == 5 and not inner:
            sizes_symbol(PASS)
            count, stride = self.value(row[1]), self.integer(row[3], "a stride", 1, SPAN)
            if type(count) is not int and not isinstance(count, Poly):
                self.wrong(f"{shown(row[1])} is no number of passes")
            passes = self.events(row[4], f"{where}[{i}].events", 1)
            return Repeat(count, self.slot(row[2]), stride, passes)
        if op == CACHED and self.generates and len(row) == 4 and not inner:
            return self.cached(row, where)
        if op not in self.known and op not in INTERFACES:
            self.wrong(f"{shown(op)} is no call that this version has a rule for")
        if len(row) < 3:
            self.wrong(f"{op} has no arguments")
        keywords_ = self.object_(row[2], "keywords")
        out = tuple([self.made(made) for made in row[3:]])
        args = self.value(self.list_(row[1], "arguments"))
        return Call(op, args, tuple([(name, self.value(x)) for name, x in keywords_.items()]), out)

    def cached(self, row: list[Any], where: str) -> Call:
        args, made = self.list_(row[1], "arguments", 2), self.made(row[3])
        if len(args) != 2 or row[2]:
            self.wrong("a cache's tensor has the elements of its storage and its strides")
        (elements,), strides = self.shape(args[:1]), self.shape(args[1])
        if len(strides) != len(made.shape):
            self.wrong("a cache's tensor has a stride for each of its sizes")
        if (where, made.slot) in self.taken:
            self.wrong(f"slot {_slot(made.slot)} is taken from the cache twice")
        self.taken.add((where, made.slot))
        return Call(CACHED, (elements, strides), (), (made,))

    def made(self, value: Any) -> Made:
        row = self.list_(value, "a result", _DIMS + 2)
        if len(row) < 2:
            self.wrong("a result has a slot, a dtype and its sizes")
        return Made(self.slot(row[0]), self.shape(row[2:]), self.dtype(row[1]))

    def function(self, row: list[Any], where: str, inner: int) -> Function:
        if inner >= 4:
            self.wrong("custom functions are nested too deeply")
        _, name, inputs, forward, out, result, saved, attached, unpacked, grad, backward, results = row
        plain = [self.value(self.list_(x, "a custom function")) for x in (inputs, saved, attached, results)]
        slots = tuple([-1 if x is None else self.slot(x) for x in self.list_(unpacked, "unpacked")])
        incoming = -1 if grad is None else self.slot(grad)
        title, made, returned = self.text(name, "a name"), self.made(out), self.tensors([result], "a result")[0]
        events = [self.events(x, f"{where}.{n}", inner + 1) for n, x in (("forward", forward), ("backward", backward))]
        self.place = where
        if any(x is not None and not isinstance(x, (Ref, Weight)) for x in (*plain[1], *plain[2], *plain[3])):
            self.wrong("a custom function keeps or gives back something that is no tensor")
        if len(slots) not in (0, len(plain[1])):
            self.wrong("a custom function unpacks other tensors than it saves")
        return Function(
            title, plain[0], events[0], made, returned, plain[1], plain[2], slots, incoming, events[1], plain[3]
        )

    # -- the whole -----------------------------------------------------------------------------------------------

    def family(self, data: Any) -> Family:
        head = self.head(data)
        program = self.program(data)
        if any(number >= len(program.layers) for number in head.kinds.table.values()):
            self.place = "kinds"
            self.wrong("a kind is of a layer that is not there")
        self.check_switches(head.switches, program)
        return replace(head, program=program)

    def check_switches(self, switches: Mapping[str, Switch], program: Program) -> None:
        """What switches take away must be there, and what they tie it to must stay, whatever the others say."""
        self.place = "switches"
        path = program.path.format
        of_layer = layer_numbers([one.name for one in program.parameters], [*map(path, range(len(program.layers)))])
        patterns: dict[str, Stored] = {}
        for one in program.parameters:
            layer = of_layer.get(one.name)
            patterns["{}" + one.name[len(path(layer)) :] if layer is not None else one.name] = one
        gone = {name for switch in switches.values() for name in switch.fewer}
        for key, switch in switches.items():
            for name in switch.fewer:
                if name not in patterns:
                    self.wrong(f"{key} takes {shown(name)} away, which is no parameter")
                target = switch.tied.get(name)
                if target is None and not name.endswith("bias"):
                    self.wrong(f"{key} takes {shown(name)} away, which is no bias, and ties it to nothing")
                if target is None:
                    continue
                other = patterns.get(target)
                if other is None or target in gone or "{}" in name:
                    self.wrong(f"{key} ties {shown(name)} to a parameter that is not there")
                if other[1:3] != patterns[name][1:3]:
                    self.wrong(f"{key} ties {shown(name)} to a parameter of another shape or dtype")
            if not {*switch.tied} <= {*switch.fewer}:
                self.wrong(f"{key} ties a parameter that it does not take away")

    def format(self, data: Mapping[str, Any]) -> None:
        given = data.get("format")
        if type(given) is not int or given != FORMAT:
            reason = f"its format is {shown(given)}, and this version reads {FORMAT}; remove it and record it again"
            raise OtherFormat(f"'{self.where}', {self.place}: {reason}")

    def checked(self, data: Any) -> dict[str, Any]:
        plain = data = self.object_(data, "the file")
        self.format(data)
        wanted = (
            "format", "model_type", "recorded", "symbols", "structure", "switches", "rates", "defaults", "nulls",
            "lists", "aliases", "window", "ones", "harmless", "depth", "kinds", "dtype", "path", "layers", "inputs",
            "outputs", "tied", "modules", "parameters", "buffers", "attributes", "before", "after", "bodies",
        )  # fmt: skip
        if missing := [key for key in wanted if key not in data]:
            self.wrong(f"it has no {missing[0]}")
        if unknown := [key for key in data if key not in (*wanted, "chunk", "returns_cache")]:
            self.wrong(f"{shown(unknown[0])} is no part of a program")
        return plain

    def head(self, data: Any) -> Family:
        """The family without its program."""
        data = self.checked(data)
        recorded = self.mapping(data, "recorded", self.scalar)
        self.place = "recorded"
        for key in ("transformers", "default_attention", "device", *({"part"} & recorded.keys())):
            self.text(recorded.get(key), key)
        if "part" in recorded:
            if recorded["part"] not in get_args(Part):
                self.wrong(f"part is {shown(recorded['part'])}; it must be one of {', '.join(get_args(Part))}")
            recorded.setdefault("settings", None)
        for key in {"settings", "reads"} & recorded.keys():
            recorded[key] = [self.text(x, key) for x in self.list_(recorded[key], key, MOST_SETTINGS)]
        if recorded.get("pass") == "decode":
            for name in CACHED_SIZES:
                sizes_symbol(name)
                self.symbols.add(name)
        self.generates = recorded.get("cache") is not None
        self.place = "dtype"
        program = replace(_EMPTY, dtype=self.dtype(data["dtype"]))
        symbols = self.definitions(data["symbols"])
        self.place = "the file"
        harmless = tuple([self.text(x, "harmless") for x in self.list_(data["harmless"], "harmless", 1024)])
        rates = tuple([self.text(x, "rates") for x in self.list_(data["rates"], "rates", 64)])
        self.rates.update(rates)
        switches = self.mapping(data, "switches", self.switch)
        self.place = "the file"
        sizes = {name for text in symbols.values() for name in names(text)}
        if twice := sorted(({*switches} & {*rates, *sizes}) | ({*rates} & sizes)):
            self.wrong(f"{twice[0]} is two of a size, a switch and a rate")
        return Family(
            model_type=self.text(data["model_type"], "model_type"),
            program=program,
            kinds=self.kinds(data["kinds"], MOST_LAYERS),
            symbols=symbols,
            harmless=harmless,
            structure=self.mapping(data, "structure", self.scalar),
            switches=switches,
            rates=rates,
            nulls=self.mapping(data, "nulls", self.defined),
            defaults=self.mapping(data, "defaults", self.default),
            lists=self.mapping(data, "lists", self.rule),
            layers=self.text(data["depth"], "depth"),
            **self.regime(data),
            aliases=self.mapping(data, "aliases", self.text),
            recorded=recorded,
        )

    def regime(self, data: Mapping[str, Any]) -> dict[str, Any]:
        self.place = "window"
        window = self.list_(data["window"], "window", 2)
        if len(window) != 2:
            self.wrong("the window has a key and a switch")
        key = None if window[0] is None else self.text(window[0], "window")
        self.place = "chunk"
        chunk = self.list_(data.get("chunk", [None, False]), "chunk", 2)
        if len(chunk) != 2:
            self.wrong("a chunk has a size and a switch")
        if chunk[0] is not None:
            self.definition(chunk[0], "chunk")
        self.place = "ones"
        if len(self.list_(data["ones"], "ones", 2)) != 2:
            self.wrong("there are two lists of symbols that are 1")
        fixed, ones = (
            tuple([self.text(x, "ones") for x in self.list_(part, "ones", len(ONES))]) for part in data["ones"]
        )
        if not {*fixed, *ones} <= set(ONES):
            self.wrong(f"{shown([fixed, ones])} has a symbol that is none of {', '.join(ONES)}")
        return {
            "window": key,
            "beyond_window": None if window[1] is None else self.flag(window[1], "window"),
            "chunk": chunk[0],
            "whole_chunks": self.flag(chunk[1], "chunk"),
            "fixed": fixed,
            "ones": ones,
        }

    def mapping(self, data: Mapping[str, Any], key: str, check: Callable[[Any, str], Any]) -> dict[str, Any]:
        self.place = key
        return {name: check(value, name) for name, value in self.object_(data[key], key).items()}

    def definitions(self, value: Any) -> dict[str, str]:
        self.place = "symbols"
        given = self.object_(value, "symbols")
        if len(given) > MOST_SYMBOLS:
            self.wrong(f"there are {len(given)} symbols; {MOST_SYMBOLS} are the most")
        for name, text in given.items():
            if not (name.isascii() and name.isidentifier() and len(name) <= 40) or name in (
                "B",
                "S",
                "int",
                "min",
                PASS,
                LAYER,
                *CACHED_SIZES,
            ):
                self.wrong(f"{shown(name)} is no name of a symbol")
            if is_registered(name) and registered(name).function is not None:
                self.wrong(f"{name} is a size that the rules derive")
            self.definition(text, name)
        if not {"H", "K"} <= given.keys():
            self.wrong("there must be H, the hidden size, and K, the heads of keys")
        for name in given:
            sizes_symbol(name)
            self.symbols.add(name)
        return dict(given)

    def switch(self, value: Any, what: str) -> Switch:
        row = self.list_(value, what, 3)
        if len(row) != 3:
            self.wrong(f"{what} has a value, the parameters that others lack, and those that are tied then")
        fewer = tuple([self.text(x, what) for x in self.list_(row[1], what, 1024)])
        if not fewer:
            self.wrong(f"{what} decides about no parameter")
        tied = {self.text(name, what): self.text(other, what) for name, other in self.object_(row[2], what).items()}
        return Switch(self.flag(row[0], what), fewer, tied)

    def defined(self, value: Any, what: str) -> str:
        self.definition(value, what)
        return str(value)

    def definition(self, text: Any, what: str) -> None:
        try:
            names(self.text(text, what))
        except InputError as error:
            self.wrong(str(error))

    def default(self, value: Any, what: str) -> Any:
        if isinstance(value, str) and value.startswith("="):
            self.definition(value[1:], what)
        return self.scalar(value, what)

    def rule(self, value: Any, what: str) -> Any:
        if value is None:
            return None
        rule = self.object_(value, what)
        if set(rule) in ({"period"}, {"period", "every"}):
            if not self.list_(rule["period"], what, 256):
                self.wrong(f"{what} repeats an empty list")
            every = {"every": self.text(rule["every"], what)} if "every" in rule else {}
            return {"period": [self.scalar(x, what, 2) for x in rule["period"]], **every}
        if set(rule) == {"runs"}:
            return {"runs": self.text(rule["runs"], what)}
        if set(rule) == {"text", "letters"}:
            letters = self.object_(rule["letters"], what)
            return {
                "text": self.text(rule["text"], what),
                "letters": {letter: self.scalar(entry, what, 2) for letter, entry in letters.items()},
            }
        if set(rule) == {"numbers", "listed", "others"} and rule["numbers"] in INDEX_KEYS:
            return {
                "numbers": rule["numbers"],
                **{key: self.scalar(rule[key], what, 2) for key in ("listed", "others")},
            }
        if set(rule) == {"from", "below", "above"} and rule["from"] in DEPTH_KEYS:
            return {"from": rule["from"], **{key: self.scalar(rule[key], what, 2) for key in ("below", "above")}}
        return self.wrong(f"{what} is no rule for a list of layers")

    def kinds(self, value: Any, layers: int) -> Kinds:
        self.place = "kinds"
        looks_at, rows = self.list_(value, "kinds", 2) if isinstance(value, list) and len(value) == 2 else (None, None)
        if looks_at not in LOOKS_AT:
            self.wrong(f"{shown(looks_at)} is nothing that a kind may depend on")
        table = {}
        for row in self.list_(rows, "kinds", 4096):
            if not isinstance(row, list) or len(row) != 2:
                self.wrong("a kind has a key and a number")
            key = self.list_(row[0], "a kind", 4)
            table[self.signature(key, 0)] = self.integer(row[1], "a kind", 0, layers - 1)
        return Kinds(looks_at, table)

    def signature(self, value: Any, depth: int) -> Any:
        if isinstance(value, list) and depth < 4:
            return tuple([self.signature(x, depth + 1) for x in self.list_(value, "a kind", 256)])
        return self.scalar(value, "a kind", 2)

    def stored(self, value: Any, name: str) -> tuple[Stored, ...]:
        rows = []
        for i, row in enumerate(self.list_(value, name)):
            self.place = f"{name}[{i}]"
            if len(self.list_(row, "a tensor", 7)) not in (3, 6, 7):
                self.wrong("a tensor has a name, a dtype and a shape")
            flags = [self.flag(x, "a switch") for x in row[3:6]]
            one = Stored(self.text(row[0], "a name"), self.shape(row[2]), self.dtype(row[1]), *flags)
            rows.append(one._replace(storage=self.shape(row[6:])[0]) if len(row) == 7 else one)
        return tuple(rows)

    def program(self, data: Mapping[str, Any]) -> Program:
        modules: list[NamedModule[Any]] = []
        plain = set()
        for i, row in enumerate(self.list_(data["modules"], "modules")):
            self.place = f"modules[{i}]"
            if len(self.list_(row, "a module", 6)) != 6:
                self.wrong("a module has a path, a kind, a shape, a bias, a role and a switch")
            path, kind, shape, bias, role, is_plain = row
            if kind not in KINDS or role not in (None, "input embedding", "output embedding"):
                self.wrong(f"{shown(kind)} with the role {shown(role)} is no module")
            made = NamedModule[Any](
                self.text(path, "a path"), kind, self.shape(shape), self.flag(bias, "bias"), role, None
            )
            dims = {"linear": (0, 2), "embedding": (0, 2), "norm": (0, 1, 2)}.get(kind, (0,))
            if len(made.shape) not in dims:
                self.wrong(f"a module of kind {kind} has a shape of {len(made.shape)} sizes")
            modules.append(made)
            if self.flag(is_plain, "plain"):
                plain.add(made.path)
        self.paths = {module.path for module in modules}
        if len(self.paths) < len(modules) or "" in self.paths:
            self.wrong("a module's path is empty or given twice")
        stored = {name: self.stored(data[name], name) for name in ("parameters", "buffers", "attributes")}
        tied = self.mapping(data, "tied", self.text)
        listed = [one.name for rows in stored.values() for one in rows]
        self.weights = {*listed, *tied}
        if len(self.weights) < len(listed) + len(tied):
            self.wrong("a tensor's name is given twice")
        if any(target not in set(listed) for target in tied.values()):
            self.wrong("a tied parameter has no other one")
        for name in ("parameters", "buffers"):
            for one in stored[name]:
                if (parent := one.name.rpartition(".")[0]) and parent not in self.paths:
                    self.wrong(f"{one.name} belongs to no module")
        before, after = (self.events(data[name], name) for name in ("before", "after"))
        bodies = []
        sizes_symbol(LAYER)
        self.symbols.add(LAYER)
        for i, row in enumerate(self.list_(data["bodies"], "bodies", MOST_LAYERS)):
            self.place = f"bodies[{i}]"
            if len(self.list_(row, "a body", 2)) != 2:
                self.wrong("a layer has the index of its exit, and its events")
            events = self.events(row[1], f"bodies[{i}]")
            self.place = f"bodies[{i}]"
            bodies.append(Body(events, self.integer(row[0], "exit", 1, max(len(events) - 1, 1))))
        self.place = "layers"
        layers = tuple(
            [self.integer(n, "a layer", 0, len(bodies) - 1) for n in self.list_(data["layers"], "layers", MOST_LAYERS)]
        )
        self.place = "path"
        path = self.text(data["path"], "path")
        if layers and (path.count("{}") != 1 or path.count("{") != 1 or path.count("}") != 1):
            self.wrong(f"{shown(path)} is no path of layers")
        program = Program(
            modules=tuple(modules),
            parameters=stored["parameters"],
            buffers=stored["buffers"],
            attributes=stored["attributes"],
            inputs=self.mapping(data, "inputs", lambda slot, _: self.slot(slot)),
            outputs=self.mapping(data, "outputs", lambda ref, name: self.tensors([ref], name)[0]),
            before=before,
            bodies=tuple(bodies),
            layers=layers,
            after=after,
            path=path,
            dtype=self.dtype(data["dtype"]),
            plain=frozenset(plain),
            tied=tied,
            checkpoints=frozenset(),
            returns_cache=self.flag(data.get("returns_cache", False), "returns_cache"),
        )
        _Flow(self, with_passes(program, 2)).check()
        return program


class _Flow:
    """Checks that what a program uses is there: slots, weights, and modules that are entered and left."""

    def __init__(self, reader: _Reader, program: Program) -> None:
        self.reader, self.program = reader, program
        self.layers = [program.path.format(i) for i in range(len(program.layers))]
        self.results: set[int] = {0}
        """The numbers of slots that a layer may leave to those that follow it."""
        self.shared = shared_slots(program)
        for body in program.bodies:
            for event in body.events:
                if isinstance(event, (Call, Function)):
                    out = [m.slot for m in event.out] if isinstance(event, Call) else [event.out.slot]
                    self.results.update(slot - SPAN for slot in out if SPAN <= slot < 2 * SPAN)

    def check(self) -> None:
        program, reader = self.program, self.reader
        reader.place = "layers"
        for i, layer in enumerate(self.layers):
            if layer not in reader.paths:
                reader.wrong(f"layer {i} is no module")
        numbers = layer_numbers([m.path for m in program.modules], self.layers)
        inside = [i for i, module in enumerate(program.modules) if module.path in numbers]
        if inside and len(inside) != inside[-1] + 1 - inside[0]:
            reader.wrong("a module that is in no layer is among those of the layers")
        live = set(program.inputs.values())
        open_: list[str] = []
        self.run(program.before, "before", live, open_, lambda name: [name])
        after_before = set(live)
        for number, body in enumerate(program.bodies):
            paths = [path for path, n in zip(self.layers, program.layers, strict=True) if n == number]

            def named(name: str, paths: Sequence[str] = tuple(paths)) -> list[str]:
                return [name.replace("{}", path, 1) for path in paths] if name.startswith("{}") else [name]

            events, place = body.events, f"bodies[{number}]"
            reader.place = place
            entered = next((event.path for event in events if isinstance(event, Enter)), None)
            if entered != "{}":
                reader.wrong("a layer does not enter its module first")
            exit_ = events[body.exit]
            if not isinstance(exit_, Exit) or exit_.path != "{}" or not exit_.out:
                reader.wrong("a layer's exit is no Exit of it")
            within: list[str] = []
            own = {slot for event in events for slot in made(event)}
            self.run(events, place, (after_before | self.shared) - own, within, named, body=True)
            if within:
                reader.wrong(f"{within[-1]} is entered and not left")
        last = len(self.layers) * SPAN
        if self.layers:
            live |= {last + number for number in self.results} | self.shared
        self.run(program.after, "after", live, open_, lambda name: [name])
        reader.place = "outputs"
        if open_:
            reader.wrong(f"{open_[-1]} is entered and not left")
        for name, ref in program.outputs.items():
            if isinstance(ref, Ref) and ref.slot not in live:
                reader.wrong(f"{name} is slot {_slot(ref.slot)}, which has no tensor at the end")

    def run(
        self,
        events: Sequence[Event],
        where: str,
        live: set[int],
        open_: list[str],
        named: Callable[[str], list[str]],
        body: bool = False,
    ) -> None:
        reader = self.reader
        dead: set[int] = set()

        def use(slot: int) -> None:
            earlier = body and slot >= 2 * SPAN and slot % SPAN in self.results
            if slot in dead or not (slot in live or earlier):
                reader.wrong(f"slot {_slot(slot)} is used, and it has no tensor there")

        def make(slot: int, again: bool) -> None:
            if slot in live and not again:
                reader.wrong(f"slot {_slot(slot)} is made twice")
            if body and not again and not (SPAN <= slot < 2 * SPAN or slot in self.shared):
                reader.wrong(f"a layer makes slot {_slot(slot)}, which is not its own")
            live.add(slot)
            dead.discard(slot)

        def operands(tree: Any) -> None:
            for x in _leaves(tree):
                if isinstance(x, Ref):
                    use(x.slot)
                elif any(name not in reader.weights for name in named(x.name)):
                    reader.wrong(f"{x.name} is no weight of the model")

        for i, event in enumerate(events):
            reader.place = f"event {i} of {where}"
            if isinstance(event, Call):
                operands((event.args, event.keywords))
                for made in event.out:
                    make(made.slot, event.op.endswith("_"))
            elif isinstance(event, Drop):
                use(event.slot)
                live.discard(event.slot)
                dead.add(event.slot)
            elif isinstance(event, Enter):
                if event.path != LOSS and any(path not in reader.paths for path in named(event.path)):
                    reader.wrong(f"{shown(event.path)} is no module")
                operands((event.args, event.keywords))
                open_.append(event.path)
                if len(open_) > 64:
                    reader.wrong("modules are nested too deeply")
            elif isinstance(event, Exit):
                if not open_ or open_[-1] != event.path:
                    reader.wrong(
                        f"{shown(event.path)} is left, and {shown(open_[-1] if open_ else None)} was entered last"
                    )
                open_.pop()
                operands(event.out)
            elif isinstance(event, Function):
                operands(event.inputs)
                inner = set(live)
                self.run(event.forward, f"{where}[{i}].forward", inner, [], named)
                reader.place = f"event {i} of {where}"
                held = {x.slot for x in _leaves((event.inner, event.saved, event.attached)) if isinstance(x, Ref)}
                if missing := held - inner - {event.out.slot}:
                    reader.wrong(f"slot {_slot(min(missing))} of a custom function has no tensor")
                back = {slot for slot in (*event.unpacked, event.grad) if slot >= 0}
                self.run(event.backward, f"{where}[{i}].backward", back, [], named)
                reader.place = f"event {i} of {where}"
                make(event.out.slot, False)


def _leaves(tree: Any) -> Iterator[Ref | Weight]:
    if isinstance(tree, (Ref, Weight)):
        yield tree
    elif isinstance(tree, tuple):
        for x in tree:
            yield from _leaves(x)
