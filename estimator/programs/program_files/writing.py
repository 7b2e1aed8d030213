"""A family's program as text: JSON, an event a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...errors import InputError
from ...ledger.sizes import Poly, format_poly
from ..depth import Kinds
from ..expressions import polynomial
from ..family import Family
from ..program import (
    SPAN,
    Autocast,
    Backward,
    Call,
    Drop,
    DtypeOf,
    Enter,
    Exit,
    Function,
    GradMode,
    Rate,
    Ref,
    Repeat,
    Stored,
    Weight,
)
from ..rows import Rows
from ..setting import ALONE
from ..step import CACHED_SIZES, OF_STEPS
from .limits import FORMAT, MOST_PROGRAMS
from .near import LONG_PARTS, STORED, all_near, is_near


def slot_text(number: int) -> str:
    """A slot as files have it: a layer's own begins with a dot, an earlier layer's with the distance to it."""
    layer, own = divmod(number, SPAN)
    return str(own) if not layer else f"{layer - 1 if layer > 1 else ''}.{own}"


def plain(value: Any) -> Any:
    """An argument, a size or a shape as files have it."""
    if isinstance(value, Ref):
        return f"%{slot_text(value.slot)}"
    if isinstance(value, Weight):
        return f"@{value.name}"
    if isinstance(value, DtypeOf):
        return f"*{slot_text(value.slot)}"
    if isinstance(value, Rate):
        return f"?{value.key}"
    if isinstance(value, Poly):
        return f"={format_poly(value)}".replace(" ", "")
    if isinstance(value, str):
        return f"'{value}"
    if isinstance(value, tuple):
        return [plain(x) for x in value]
    return value


def _event(event: Any) -> list[Any]:
    if isinstance(event, Call):
        out = [[slot_text(m.slot), m.dtype, *map(plain, m.shape)] for m in event.out]
        keywords = {name: plain(x) for name, x in event.keywords}
        return [event.op, plain(event.args), *([keywords] if keywords else []), *out]
    if isinstance(event, Enter):
        return [">", event.path, plain(event.args), *([plain(event.keywords)] if event.keywords else [])]
    if isinstance(event, Exit):
        return ["<", event.path, plain(event.out)]
    if isinstance(event, GradMode):
        return ["!grad", event.enabled]
    if isinstance(event, Autocast):
        return ["!autocast", event.enabled, *([True] if event.clears else [])]
    if isinstance(event, Function):
        made = event.out
        return [
            "!function",
            event.name,
            plain(event.inputs),
            events_text(event.forward),
            [slot_text(made.slot), made.dtype, *map(plain, made.shape)],
            plain(event.inner),
            plain(event.saved),
            plain(event.attached),
            [None if slot < 0 else slot_text(slot) for slot in event.unpacked],
            None if event.grad < 0 else slot_text(event.grad),
            events_text(event.backward),
            plain(event.results),
        ]
    if isinstance(event, Repeat):
        return ["!repeat", plain(event.count), slot_text(event.first), event.stride, events_text(event.events)]
    if isinstance(event, Rows):
        return ["!rows", plain(event.number), events_text(event.events)]
    if isinstance(event, Backward):
        return ["!backward", plain(event.loss)]
    assert isinstance(event, Drop)
    return ["-", slot_text(event.slot)]


def events_text(events: Sequence[Any]) -> list[list[Any]]:
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
    if program.hooks:
        raise InputError(f"{min(program.hooks)} has a hook on its gradient, which a file cannot say")
    head: dict[str, Any] = {
        "format": FORMAT,
        "model_type": family.model_type,
        "recorded": dict(family.recorded),
        "settings": [
            {name: list(known) for name, known in one.items() if known != ALONE[name]} for one in family.settings
        ],
        "interfaces": family.interfaces,
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
        **({"tp_plan": dict(family.tp_plan)} if family.tp_plan else {}),
        "ones": [list(family.fixed), list(family.ones)],
        "harmless": list(family.harmless),
        "depth": family.layers,
        "kinds": _kinds(family.kinds),
        "dtype": program.dtype,
        "path": program.stacks[0].path if program.stacks else "",
        "layers": list(program.layers[: program.stacks[0].depth] if program.stacks else ()),
        "inputs": {name: slot_text(slot) for name, slot in program.inputs.items()},
        "outputs": {name: plain(ref) for name, ref in program.outputs.items()},
        "tied": dict(program.tied),
        **({"returns_cache": True} if program.returns_cache else {}),
        **({"checkpoints": sorted(program.checkpoints)} if program.checkpoints else {}),
        **({"beside": _beside(family)} if family.beside else {}),
    }
    long: dict[str, list[Any]] = {
        "modules": [
            [m.path, m.kind, [plain(n) for n in m.shape], int(m.bias), m.role, int(m.path in program.plain)]
            for m in program.modules
        ],
        "parameters": [_stored(p) for p in program.parameters],
        "buffers": [_stored(p) for p in program.buffers],
        "attributes": [_stored(p) for p in program.attributes],
        "before": events_text(program.before),
        "after": events_text(program.after),
    }
    lines = [f"{_json(key)}: {_json(value)}" for key, value in head.items()]
    lines += [f"{_json(key)}: {_lines(value)}" for key, value in long.items()]
    bodies = ",\n".join(f"[{body.exit}, {_lines(events_text(body.events))}]" for body in program.bodies)
    return "{\n" + ",\n".join([*lines, f'"bodies": [\n{bodies}\n]']) + "\n}\n"


def _kinds(kinds: Kinds) -> list[Any]:
    return [kinds.looks_at, [[list(map(_listed, key)), kind] for key, kind in kinds.table.items()]]


def _beside(family: Family) -> list[Any]:
    """Of each stack after the first: its layers' path, the key of its depth, its kinds, its layers, and what is called
    before it.
    """
    program = family.program
    numbers = [
        [n for n, k in zip(program.layers, program.stack_of, strict=True) if k == i] for i in range(len(program.stacks))
    ]
    return [
        [stack.path, key, _kinds(kinds), layers, events_text(events)]
        for stack, (key, kinds), layers, events in zip(
            program.stacks[1:], family.beside, numbers[1:], program.between, strict=True
        )
    ]


def _listed(value: Any) -> Any:
    return [_listed(x) for x in value] if isinstance(value, tuple) else value


def _stored(stored: Stored) -> list[Any]:
    flags = [stored.requires_grad, stored.added, stored.unreached]
    row = [stored.name, stored.dtype, [plain(n) for n in stored.shape]]
    if stored.storage is not None:
        return [*row, *map(int, flags), plain(stored.storage)]
    return [*row, *map(int, flags if any(flags) else ())]


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _lines(rows: Iterable[Any]) -> str:
    return "[\n" + ",\n".join(map(_json, rows)) + "\n]"


def written_together(families: Sequence[Family]) -> str:
    """The text of several programs. Of each but the first it has what differs from an earlier one's.

    That is the first, or the one that is its place under ``like``. Rows that both have in a row are written
    ``[start, stop]``, their places in the other one's list, and ``[start, stop, dtype]`` where weights have another
    dtype. A program of a fixed symbol is compared with the other where that symbol is 1. A layer is compared with that
    of the same place in the other program, or with the one whose number comes last: layers are numbered through the
    other program and this one. A pass of ``generate`` has some more tensors, which give those that follow other slots,
    so its slots are counted back (``with_near_slots``), as are those of a program of several stacks that is ``near``,
    since its text is shorter so.
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
        near = is_near(one)
        others = [(_changes(plain[k], one, near), k) for k in (passes if near else likely)]
        if "beside" in one:
            others += [({"near": True, **_changes(plain[k], one, True)}, k) for k in likely]
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
    base = with_ones(other, one["ones"][0])
    if near:
        base, one = all_near(base), all_near(dict(one))
    rows: dict[str, Any] = {}
    for key, value in one.items():
        if key == "ones" or base[key] != value:
            like = _like_stored if key in STORED else _like
            rows[key] = like(base[key], value) if key in LONG_PARTS else value
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
            text = _lines(value) if key in LONG_PARTS else _json(value)
        found.append(f"{_json(key)}: {text}")
    return "{\n" + ",\n".join(found) + "\n}"


def _like(first: Sequence[Any], second: Sequence[Any]) -> list[Any]:
    """The second list, with the places of what the first one has."""
    from difflib import SequenceMatcher  # not for a file that is read

    matcher = SequenceMatcher(None, [_json(row) for row in first], [_json(row) for row in second], autojunk=False)
    made: list[Any] = []
    for tag, start, stop, from_, to in matcher.get_opcodes():
        if tag == "equal":
            made.append([start, stop])
        else:
            made += second[from_:to]
    return made


def _like_stored(first: Sequence[Any], second: Sequence[Any]) -> list[Any]:
    """The same of parameters and buffers, also where another dtype is all that differs: ``[start, stop, dtype]``."""
    made: list[Any] = []
    rows = iter(second)
    for row in _like(*[[[name, *rest] for name, _, *rest in one] for one in (first, second)]):
        if type(row[0]) is not int:
            made.append(next(rows))
            continue
        for place in range(*row):
            dtype = next(rows)[1]
            kind = [] if first[place][1] == dtype else [dtype]
            if made and made[-1][1:] == [place, *kind]:
                made[-1][1] += 1
            else:
                made.append([place, place + 1, *kind])
    return made


def with_ones(data: dict[str, Any], symbols: Sequence[str]) -> dict[str, Any]:
    """A program's plain form where these symbols are 1."""
    if not symbols:
        return data
    known: dict[str, Any] = {}
    names_ = {*OF_STEPS, *data["symbols"], *CACHED_SIZES}

    def at_one(tree: Any) -> Any:
        if isinstance(tree, list):
            return [at_one(x) for x in tree]
        if isinstance(tree, dict):
            return {key: at_one(x) for key, x in tree.items()}
        if isinstance(tree, str) and tree.startswith("="):
            if tree not in known:
                size = polynomial(tree[1:], names_)
                known[tree] = plain(size.substitute(dict.fromkeys(symbols, 1)) if isinstance(size, Poly) else size)
            return known[tree]
        return tree

    return {key: at_one(value) if key in (*LONG_PARTS, "bodies") else value for key, value in data.items()}


_ALIKE = 500
"""Characters of what a layer has that the same one of another program has not, up to which no nearer one is sought."""
