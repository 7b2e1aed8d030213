"""A family's program as text: JSON, an event a line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from ...errors import InputError
from ...ledger.sizes import Poly, format_poly
from ..depth import Kinds
from ..family import Family
from ..program import (
    Autocast,
    Backward,
    Call,
    Drop,
    DtypeOf,
    Enter,
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
)
from ..rows import Rows
from ..setting import ALONE
from .copies import LONG_PARTS, PARTS_WITH_LISTS, STORED, Writer
from .limits import FORMAT, MOST_PROGRAMS
from .slots import Slots, slot_text


def plain(value: Any, slots: Slots | None = None) -> Any:
    """An argument, a size or a shape as files have it. ``slots`` name the tensors of a list of events."""
    if isinstance(value, Ref):
        return f"%{slots.text(value.slot) if slots else slot_text(value.slot)}"
    if isinstance(value, Weight):
        return f"@{value.name}"
    if isinstance(value, DtypeOf):
        return f"*{slots.text(value.slot) if slots else slot_text(value.slot)}"
    if isinstance(value, Rate):
        return f"?{value.key}"
    if isinstance(value, Poly):
        return f"={format_poly(value)}".replace(" ", "")
    if isinstance(value, str):
        return f"'{value}"
    if isinstance(value, tuple):
        return [plain(x, slots) for x in value]
    return value


def _made(one: Made, slots: Slots) -> list[Any]:
    return [slots.text_of_made(one.slot), one.dtype, *map(plain, one.shape)]


def _event(event: Any, slots: Slots) -> list[Any]:
    """An event as a list. What has events of its own names its slots in the order of ``reading.py: function``."""
    if isinstance(event, Call):
        args, keywords = plain(event.args, slots), {name: plain(x, slots) for name, x in event.keywords}
        return [event.op, args, *([keywords] if keywords else []), *[_made(one, slots) for one in event.out]]
    if isinstance(event, Enter):
        args, more = (plain(given, slots) for given in (event.args, event.keywords))
        if event.path == "{}":
            slots.given(x.slot for x in (*event.args, *event.keywords) if isinstance(x, Ref))
        return [">", event.path, args, *([more] if more else [])]
    if isinstance(event, Exit):
        return ["<", event.path, plain(event.out, slots)]
    if isinstance(event, GradMode):
        return ["!grad", event.enabled]
    if isinstance(event, Autocast):
        return ["!autocast", event.enabled, *([True] if event.clears else [])]
    if isinstance(event, Function):
        inputs, forward = plain(event.inputs, slots), _events_text(event.forward, slots)
        kept = [plain(x, slots) for x in (event.inner, event.saved, event.attached)]
        gradients = [None if slot < 0 else slots.text_of_made(slot) for slot in (*event.unpacked, event.grad)]
        backward, results = _events_text(event.backward, slots), plain(event.results, slots)
        made = _made(event.out, slots)
        return [
            *("!function", event.name, inputs, forward, made, *kept),
            *(gradients[:-1], gradients[-1], backward, results),
        ]
    if isinstance(event, Repeat):
        first = slots.text_of_next(event.first)
        return ["!repeat", plain(event.count), first, event.stride, _events_text(event.events, slots)]
    if isinstance(event, Rows):
        return ["!rows", plain(event.number), _events_text(event.events, slots)]
    if isinstance(event, Backward):
        return ["!backward", plain(event.loss, slots)]
    assert isinstance(event, Drop)
    return ["-", slots.text(event.slot)]


def events_text(events: Sequence[Any], layer: bool = False) -> list[list[Any]]:
    """A list of events, a layer's or another, as lists. What dies at once is one of them."""
    return _events_text(events, Slots(layer))


def _events_text(events: Sequence[Any], slots: Slots) -> list[list[Any]]:
    made: list[list[Any]] = []
    for event in events:
        one = _event(event, slots)
        if one[0] == "-" and made and made[-1][0] == "-":
            made[-1] += one[1:]
        else:
            made.append(one)
    return made


def written(family: Family) -> str:
    """The text of a family's program."""
    return _text(_parts(family))


def _parts(family: Family) -> dict[str, Any]:
    """The parts of a family's program, as its file has them."""
    program = family.program
    if program.hooks:
        raise InputError(f"{min(program.hooks)} has a hook on its gradient, which a file cannot say")
    modules = [
        [m.path, m.kind, [plain(n) for n in m.shape], int(m.bias), m.role, int(m.path in program.plain)]
        for m in program.modules
    ]
    return {
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
        "chunk": [family.chunk, family.whole_chunks],
        "tp_plan": dict(family.tp_plan),
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
        "returns_cache": program.returns_cache,
        "checkpoints": sorted(program.checkpoints),
        "beside": _beside(family),
        "modules": _of_layers(modules, program),
        "parameters": _of_layers([_stored(p) for p in program.parameters], program),
        "buffers": _of_layers([_stored(p) for p in program.buffers], program),
        "attributes": _of_layers([_stored(p) for p in program.attributes], program),
        "before": events_text(program.before),
        "after": events_text(program.after),
        "between": [events_text(events) for events in program.between],
        "bodies": [[body.exit, events_text(body.events, layer=True)] for body in program.bodies],
    }


def _of_layers(rows: Sequence[list[Any]], program: Program) -> list[Any]:
    """Rows whose names within a layer begin with ``{}``, each layer's behind its number."""
    numbers = layer_numbers([row[0] for row in rows], program.paths)
    found: list[Any] = []
    layer = None
    for name, *rest in rows:
        if (number := numbers.get(name)) is None:
            found.append([name, *rest])
            continue
        if number != layer:
            found.append(number)
            layer = number
        found.append(["{}" + name[len(program.paths[number]) :], *rest])
    return found


def _text(parts: Mapping[str, Any]) -> str:
    """The text of a program's parts, a row a line."""
    found = []
    for key, value in parts.items():
        if key == "bodies":
            text = "[\n" + ",\n".join(f"[{stop}, {_lines(rows)}]" for stop, rows in value) + "\n]"
        elif key == "between":
            text = "[\n" + ",\n".join(map(_lines, value)) + "\n]"
        else:
            text = _lines(value) if key in LONG_PARTS else _json(value)
        found.append(f"{_json(key)}: {text}")
    return "{\n" + ",\n".join(found) + "\n}\n"


def _kinds(kinds: Kinds) -> list[Any]:
    return [kinds.looks_at, [[list(map(_listed, key)), kind] for key, kind in kinds.table.items()]]


def _beside(family: Family) -> list[Any]:
    """Of each stack after the first: its layers' path, the key of its depth, its kinds, and its layers."""
    program = family.program
    numbers = [
        [n for n, k in zip(program.layers, program.stack_of, strict=True) if k == i] for i in range(len(program.stacks))
    ]
    return [
        [stack.path, key, _kinds(kinds), layers]
        for stack, (key, kinds), layers in zip(program.stacks[1:], family.beside, numbers[1:], strict=True)
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

    That is the first, or the one that is its place under ``like``. Of its lists a program has the rows that are in none
    of the lists before (``copies.py``), or nothing where the earlier one's are the same.
    """
    if len(families) > MOST_PROGRAMS:
        raise InputError(f"{len(families)} programs; {MOST_PROGRAMS} are the most of a file")
    wholes = [_parts(family) for family in families]
    writer = Writer({name for one in wholes for name in one["symbols"]})
    same: dict[tuple[str, ...], list[dict[str, str]]] = {}
    """The texts of all programs' parts, where some symbols are 1."""
    made = []
    for i, one in enumerate(wholes):
        fixed, form = tuple(one["ones"][0]), writer.form(one["ones"][0])
        known = same.setdefault(fixed, [])
        for other in wholes[len(known) : i]:
            known.append({key: _json(form(part) if key in PARTS_WITH_LISTS else part) for key, part in other.items()})
        texts = {key: _json(part) for key, part in one.items()}
        differing = [{key for key in texts if texts[key] != other[key]} for other in known[:i]] or [{*texts}]
        like = min(range(max(i, 1)), key=lambda k: sum(len(texts[key]) for key in differing[k]))
        own = {key: part for key, part in one.items() if key in differing[like]}
        for key in PARTS_WITH_LISTS:
            if key in own:
                own[key] = _lists(key, own[key], partial(writer.written, symbols=fixed, stored=key in STORED))
        made.append(_text({**({"like": like} if like else {}), **own}).strip())
    return f'{{\n"format": {FORMAT},\n"programs": [\n' + ",\n".join(made) + "\n]\n}\n"


def _lists(key: str, part: Any, write: Callable[[list[Any]], list[Any]]) -> Any:
    """A part of a program with its lists as they are written."""
    if key == "between":
        return [write(rows) for rows in part]
    if key == "bodies":
        return [[stop, write(rows)] for stop, rows in part]
    return write(part)
