"""What a step saves for backward, row by row: each kind of layer once, then what lies outside the layers."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, NamedTuple

from ..engines.registry import engine_of
from ..errors import InputError
from ..ledger import SavedBy, SavedRow, Size, whole
from ..ledger.sizes import Poly, symbol, symbols_of
from ..plans.plan import Plan
from ..plans.refusals import check_question
from ..plans.resolve import Resolved, resolve
from ..programs.heads import HEADS
from ..programs.layer_runs import Segment, layers_stood_for, segments
from ..programs.recorded import Sizes
from ..steps.checkpointing import segment_length
from ..steps.step import StepTotals, run
from ..text import human
from .config_names import NAMES, named, names_in
from .estimate import live_of, live_result
from .formulas import Compiled, compile_plan, is_known, regime_of
from .reasons import CHECKPOINTS, reason
from .result import RESIDENT, Result


@dataclass(frozen=True)
class Row:
    """A storage that is saved for backward, in one layer or outside of the layers."""

    module: str
    """The module that runs, in a layer relative to it; where none does, the part of the model."""
    operator: str
    """The node of the operator that saves it first, by PyTorch's name."""
    position: int
    """Its place among the tensors that the operator saves."""
    shape: tuple[int, ...]
    dtype: str
    times: int
    """How many equal ones there are, such as one for each chunk."""
    nbytes: int
    """Of all of them."""
    per_token: Fraction
    """Their bytes, divided by the tokens of the plan's batch."""
    why: str
    also: tuple[str, ...]
    """The other operators that hold the same storage, which is counted once: where they are, and their nodes."""
    symbols: tuple[Size, ...] | None = None
    """The shape as polynomials, where ``Part.condition`` says; ``None`` without a rule for polynomials."""
    formula: Size | None = None
    """The bytes as a polynomial, likewise."""

    def to_dict(self) -> dict[str, Any]:
        """The row as one JSON object."""
        return {
            "module": self.module,
            "operator": self.operator,
            "shape": list(self.shape),
            "shape_formula": None if self.symbols is None else [named(size) for size in self.symbols],
            "dtype": self.dtype,
            "times": self.times,
            "bytes": self.nbytes,
            "bytes_per_token": exact(self.per_token),
            "formula": None if self.formula is None else named(self.formula),
            "why": self.why,
            "also_held_by": list(self.also),
        }


@dataclass(frozen=True)
class Part:
    """A kind of layer, with the layers of that kind; or a part of the model outside of its layers."""

    name: str
    layers: tuple[tuple[int, ...], ...]
    """The layers of each unit: of a single layer, or of those that one checkpoint spans. Empty outside of layers."""
    rows: tuple[Row, ...]
    condition: str = ""
    """A Python expression that is true where the formulas hold; empty where there are none."""

    @property
    def count(self) -> int:
        """How many times the rows are there."""
        return len(self.layers) or 1

    @property
    def nbytes(self) -> int:
        """Bytes of the rows, once."""
        return sum(row.nbytes for row in self.rows)

    @property
    def per_token(self) -> Fraction:
        """Bytes of the rows, once, divided by the tokens."""
        return sum((row.per_token for row in self.rows), Fraction(0))

    @property
    def formula(self) -> Size | None:
        """Bytes of the rows, once, as a polynomial."""
        total: Size = 0
        for row in self.rows:
            if row.formula is None:
                return None
            total = total + row.formula
        return total

    def to_dict(self) -> dict[str, Any]:
        """The part as one JSON object."""
        return {
            "name": self.name,
            "layers": [list(unit) for unit in self.layers],
            "count": self.count,
            "bytes": self.nbytes,
            "bytes_per_token": exact(self.per_token),
            "formula": None if self.formula is None else named(self.formula),
            "formula_holds_where": self.condition or None,
            "rows": [row.to_dict() for row in self.rows],
        }


class Exchange(NamedTuple):
    """A figure of a sharded step beside that of the same step in one process. Sizes are bytes."""

    name: str
    alone: int
    rank: int

    @property
    def added(self) -> int:
        """What sharding adds; negative where it takes."""
        return self.rank - self.alone

    @property
    def cells(self) -> list[str]:
        """The figure as the cells of a row: what it is, one process, a rank, and what sharding takes or adds."""
        added = f"{'-' if self.added < 0 else '+'}{human(abs(self.added))}"
        return [self.name, human(self.alone), human(self.rank), added]

    def to_dict(self) -> dict[str, Any]:
        """The figure as one JSON object."""
        return {"name": self.name, "one_process": self.alone, "rank": self.rank, "added": self.added}


EXCHANGED = ("what", "one process", "a rank", "taken or added")
"""The heads of ``Exchange.cells``."""


@dataclass(frozen=True)
class Explanation:
    """What a plan's step saves for backward."""

    plan: Plan
    parts: tuple[Part, ...]
    saved: int
    """The bytes of all rows, each as often as it is there: the result's ``saved``."""
    values: tuple[tuple[str, int], ...]
    """The names in formulas, with their values in the plan."""
    sharding: tuple[Exchange, ...]
    """What sharding takes from a process, and what it adds to it."""
    tokens: int
    """The tokens of the batch: of its text, or of a decoder beside an encoder. Its rows if it has neither."""
    per: str
    """What ``tokens`` counts, ``token`` or ``row``."""

    def to_dict(self) -> dict[str, Any]:
        """The explanation as one JSON object; sizes are bytes."""
        return {
            "schema": 1,
            "plan": self.plan.model_dump(exclude_none=True),
            "saved": self.saved,
            "values": dict(self.values),
            "parts": [part.to_dict() for part in self.parts],
            **({"sharding": [one.to_dict() for one in self.sharding]} if self.sharding else {}),
        }


def exact(value: Fraction) -> int | str:
    """A fraction in JSON: an integer, or text such as ``257/2``."""
    return value.numerator if value.denominator == 1 else str(value)


def explain(plan: Plan) -> Explanation:
    """Explain what a plan saves for backward, row by row. Raises ``InputError``."""
    check_question("an explanation", plan)
    resolved = resolve(plan)
    sizes = resolved.sizes()
    totals = run(resolved.step, sizes, resolved.method, plan.batch, plan.seq, keep_rows=True)
    places = _places(resolved, totals, _units(resolved, sizes))
    values = _add_formulas(places, resolved, totals.rows)
    of_names = [size for place in places for row in place.rows for size in (row.formula or 0, *(row.symbols or ()))]
    names = tuple(names_in(of_names, values).items())
    exchanges = _exchanges(live_of(resolved, totals), plan)
    return Explanation(plan, _parts(places), whole(totals.saved), names, exchanges, *_tokens(resolved))


def _tokens(resolved: Resolved) -> tuple[int, str]:
    """How many tokens, or else rows, a batch has, and which of these they are."""
    plan = resolved.plan
    if HEADS[resolved.spec.head].text:
        return plan.batch * plan.seq, "token"
    return (plan.batch * plan.target_seq, "token") if resolved.step.lengths else (plan.batch, "row")


def _exchanges(rank: Result, plan: Plan) -> tuple[Exchange, ...]:
    """What differs between steps and within one, then the peaks above resident, then the peak, by the live bytes:
    all that differ.
    """
    if plan.sharding is None:
        return ()
    alone = live_result(plan.model_copy(update={"sharding": None}), {})
    kept = (*RESIDENT, "gradients", "saved")
    rows = engine_of(rank.runtime).rows
    resident = [(key, label) for key, label in rows if key in kept or key.startswith("host_")]
    figures = (
        *(Exchange(label, alone.bytes.get(key, 0), rank.bytes.get(key, 0)) for key, label in resident),
        *(
            Exchange(f"peak above resident: {moment}", alone.moments.get(moment, 0), nbytes)
            for moment, nbytes in rank.moments.items()
        ),
        Exchange("peak", alone.bytes["peak"], rank.bytes["peak"]),
        Exchange("sent to other ranks in a step", 0, rank.communicated),
    )
    return tuple(one for one in figures if one.added)


class _Unit(NamedTuple):
    """Layers that run together, once: their indices in the program, and the layers of the model that they stand for."""

    run: tuple[int, ...]
    stands_for: tuple[tuple[int, ...], ...]


def _units(resolved: Resolved, sizes: Sizes) -> dict[tuple[int, int], _Unit]:
    """The layers of each segment and group that the ledger has numbers for."""
    length = segment_length(resolved.step.checkpointing) or 1
    ledger = resolved.step.ledger()
    stood_for = layers_stood_for(sizes.runs, ledger, length)
    found: list[Segment] = segments(sizes.runs, length, ledger)
    units = {}
    for number, segment in enumerate(found):
        for place, group in enumerate(segment.groups):
            run = tuple(index for index, _ in group)
            units[number, place] = _Unit(run, tuple(zip(*(stood_for[index] for index in run), strict=True)))
    return units


@dataclass
class _Place:
    """A unit of layers, or a part of the model outside of them, with the numbers of its rows in the ledger's list."""

    name: str
    unit: _Unit | None
    numbers: list[int] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    condition: str = ""


def _places(resolved: Resolved, totals: StepTotals, units: Mapping[tuple[int, int], _Unit]) -> list[_Place]:
    """Where rows are, in the order in which the forward pass comes there."""
    tokens, _ = _tokens(resolved)
    linear = {module.path for module in resolved.spec.config.modules.of("linear")}
    uses: list[list[SavedBy]] = [[] for _ in totals.rows]
    for use in totals.saved_by:
        uses[use.row].append(use)
    found: dict[object, _Place] = {}
    for number, saved in enumerate(totals.rows):
        first = uses[number][0]
        unit = units.get((first.segment, first.group))
        key = saved.scope if unit is None else (first.segment, first.group)
        place = found.setdefault(key, _Place(saved.scope, unit))
        place.numbers.append(number)
        place.rows.append(_row(saved, uses[number], unit, tokens, linear))
    return list(found.values())


def _parts(places: Iterable[_Place]) -> tuple[Part, ...]:
    """The parts of a model; units of layers with equal rows are one."""
    kinds: dict[object, list[_Place]] = {}
    for place in places:
        key = place.name if place.unit is None else (place.condition, *place.rows)
        kinds.setdefault(key, []).append(place)
    parts = []
    for first, *others in kinds.values():
        layers = tuple(sorted(unit for place in (first, *others) if place.unit for unit in place.unit.stands_for))
        name = layers_name(layers) if layers else first.name
        parts.append(Part(name, layers, tuple(first.rows), first.condition))
    return tuple(parts)


def _add_formulas(places: Sequence[_Place], resolved: Resolved, rows: Sequence[SavedRow]) -> dict[str, int]:
    """Add formulas to the places' rows, with as many symbols as the rules allow. Returns the symbols' values.

    Where the batch is one, other operators may run than elsewhere. In a place where they do not, its formulas of other
    batches are taken, since they hold here too: they are evaluated.
    """
    plan, own = resolved.plan, regime_of(resolved)
    values = {"B": plan.batch, "S": plan.seq}
    for symbolic in (True, False) if resolved.spec.config.open_sizes else (False,):
        for regime in dict.fromkeys((replace(own, batch_one=False), own)):
            left = [place for place in places if not place.condition]
            if not left or not is_known(resolved, regime):
                continue
            try:
                compiled = compile_plan(plan, regime, symbolic, keep_rows=True)
            except InputError:
                continue
            values |= {**compiled.values, **compiled.given}
            formulas = _of_heads(compiled)
            if len(formulas) != len(rows):
                continue
            for place in left:
                of = [formulas[number] for number in place.numbers]
                if all(_agree(one, rows[number], values) for one, number in zip(of, place.numbers, strict=True)):
                    place.condition = _condition(compiled, of)
                    place.rows = [
                        replace(row, symbols=tuple(one.shape), formula=one.nbytes * row.times)
                        for row, one in zip(place.rows, of, strict=True)
                    ]
    return values


_HEADS = ("K", "G", "D")


def _of_heads(compiled: Compiled) -> Sequence[SavedRow]:
    """The rows of compiled formulas. Of a single key/value head, there are as many heads as query heads of each."""
    rows = compiled.totals.rows
    if compiled.values.get("K") != 1:
        return rows
    heads: dict[str, Size] = {"G": symbol("K") * symbol("G")}

    def of(size: Size) -> Size:
        return size.substitute(heads) if isinstance(size, Poly) else size

    return [row._replace(nbytes=of(row.nbytes), shape=tuple(map(of, row.shape))) for row in rows]


def _condition(compiled: Compiled, rows: Iterable[SavedRow]) -> str:
    """Where formulas hold, in the config's names. With one head or one group, copies become views."""
    used = symbols_of(*(size for row in rows for size in (row.nbytes, *row.shape)))
    free = symbols_of(compiled.component("parameters"))
    parts = [" ".join(NAMES.get(word, word) for word in compiled.regime.condition().split(" "))]
    if used.isdisjoint(_HEADS):
        return parts[0]
    parts += [f"{NAMES['K']} >= 2"] if "K" in free else []
    parts += [f"{NAMES['G']} > {NAMES['K']}"] if "G" in free else []
    for name in _HEADS:
        if name in compiled.values and name not in free:
            equal = compiled.values[name] if name != "G" else NAMES["K"]
            parts.append(f"{NAMES[name]} == {equal}")
    return " and ".join(parts)


def _agree(formula: SavedRow, row: SavedRow, values: Mapping[str, int]) -> bool:
    """Whether a formula is of this row, and gives its sizes."""
    return (formula.scope, formula.operator, formula.dtype) == (row.scope, row.operator, row.dtype) and [
        int(size.evaluate(values)) if isinstance(size, Poly) else size
        for size in (formula.nbytes, formula.copies, *formula.shape)
    ] == [row.nbytes, row.copies, *row.shape]


def _row(saved: SavedRow, uses: Sequence[SavedBy], unit: _Unit | None, tokens: int, linear: Container[str]) -> Row:
    first, *others = uses
    place = first.segment, first.group
    where = "" if unit is None else _where(first.within, unit.run)
    copies = whole(saved.copies) // (1 if unit is None else len(unit.stands_for))
    nbytes = whole(saved.nbytes) * copies
    beside = [
        f"{_module(one, saved, unit)} ({one.operator})"
        for one in others
        if (one.segment, one.group) == place
        and (one.within, one.operator, one.position) != (first.within, first.operator, first.position)
    ]
    if any((one.segment, one.group) != place for one in others):
        beside.append("other layers" if unit is not None else "layers")
    return Row(
        _module(first, saved, unit),
        saved.operator,
        first.position,
        tuple(whole(size) for size in saved.shape),
        saved.dtype,
        copies,
        nbytes,
        Fraction(nbytes, tokens),
        reason(first, where, linear),
        tuple(dict.fromkeys(beside)),
    )


def _where(path: str, layers: Sequence[int]) -> str:
    """The beginning of a module's path, up to and with the layer that it is in; empty where it is in none of these."""
    parts = path.split(".")
    for place, part in enumerate(parts):
        if part.isdecimal() and int(part) in layers:
            return ".".join(parts[: place + 1]) + "."
    return ""


def _module(use: SavedBy, saved: SavedRow, unit: _Unit | None) -> str:
    """The module that runs, relative to its layer; in the layer itself, and outside of modules, what runs there."""
    if unit is None:
        return use.within or saved.scope
    where = _where(use.within, unit.run)
    if not where:
        return saved.module if use.operator in CHECKPOINTS else "layer"
    return f"{use.within}.".removeprefix(where).removesuffix(".") or "layer"


def layers_name(units: Sequence[tuple[int, ...]]) -> str:
    """The layers of one kind in words: ``layer 0``, ``layers 1 to 15``, ``layers 0 to 3 in checkpoints of 2``."""
    indices = [index for unit in units for index in unit]
    name = f"layer {indices[0]}" if len(indices) == 1 else f"layers {_ranges(indices)}"
    length = max(map(len, units))
    return name if length == 1 else f"{name} in checkpoints of {length}"


def _ranges(numbers: Iterable[int]) -> str:
    """Numbers in ascending order, with neighbours joined: ``0, 2 to 5, 7``."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}, {b}" if b == a + 1 else f"{a} to {b}" for a, b in found)
