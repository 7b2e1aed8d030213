"""An explanation, of one method or of two side by side, as its table, its page and its figure show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from ..errors import InputError
from ..plans.plan import Plan
from .comparison import label
from .config_names import named
from .explanation import Explanation, Part, Row
from .two_methods import Pair, TwoMethods


@dataclass(frozen=True)
class Line:
    """A row, and for each method whether it keeps it."""

    row: Row
    kept: tuple[bool, ...]


@dataclass(frozen=True)
class Section:
    """A kind of layer, or a part of the model outside of its layers."""

    name: str
    layers: tuple[tuple[int, ...], ...]
    lines: tuple[Line, ...]
    parts: tuple[Part | None, ...]
    """What each method keeps there."""

    @property
    def count(self) -> int:
        """How many times the rows are there."""
        return len(self.layers) or 1

    @property
    def per_token(self) -> tuple[Fraction, ...]:
        """Bytes per token of each method, once."""
        return tuple(Fraction(0) if part is None else part.per_token for part in self.parts)

    @property
    def nbytes(self) -> tuple[int, ...]:
        """Bytes of each method, once."""
        return tuple(0 if part is None else part.nbytes for part in self.parts)

    @property
    def heading(self) -> str:
        """The name, and how many there are."""
        if self.count == 1:
            return self.name
        kind = "layers" if len(self.layers[0]) == 1 else "checkpoints"
        return f"{self.name} ({self.count} equal {kind})"

    def only(self, method: int) -> Fraction:
        """Bytes per token of what one of two methods alone keeps."""
        rows = (line.row for line in self.lines if line.kept[method] and not all(line.kept))
        return sum((row.per_token for row in rows), Fraction(0))


@dataclass(frozen=True)
class View:
    """What is shown of one explanation or of two."""

    plan: Plan
    labels: tuple[str, ...]
    """The methods' names; of two, first the one that the plan's own is compared with."""
    sections: tuple[Section, ...]
    saved: tuple[int, ...]
    values: tuple[tuple[str, int], ...]

    @property
    def total_per_token(self) -> tuple[Fraction, ...]:
        """Bytes per token of each method, of all layers and what lies outside of them."""
        tokens = self.plan.batch * self.plan.seq
        return tuple(Fraction(nbytes, tokens) for nbytes in self.saved)

    def of_layer(self, text: str) -> View:
        """The section of one layer alone. Raises ``InputError`` where there is none."""
        last = max((index for section in self.sections for unit in section.layers for index in unit), default=-1)
        if not text.isascii() or not text.isdecimal() or int(text) > last:
            raise InputError(
                f"--layer: '{text[:40]}' is no layer that saves anything; this model's are 0 to {last}"
                if last >= 0
                else "--layer: the layers of this plan save nothing by themselves; leave --layer out"
            )
        found = [s for s in self.sections if any(int(text) in unit for unit in s.layers)]
        if not found:
            raise InputError(f"--layer: layer {text} saves nothing; leave --layer out to see those that do")
        return View(self.plan, self.labels, tuple(found), self.saved, self.values)


def view_of(explanation: Explanation) -> View:
    """One method's rows."""
    return View(
        explanation.plan,
        (label_of(explanation.plan),),
        tuple(
            Section(part.name, part.layers, tuple(Line(row, (True,)) for row in part.rows), (part,))
            for part in explanation.parts
        ),
        (explanation.saved,),
        explanation.values,
    )


def view_of_two(two: TwoMethods) -> View:
    """Two methods' rows: what both keep, what the second drops, and what it adds."""
    return View(
        two.second.plan,
        (label_of(two.first.plan), label_of(two.second.plan)),
        tuple(Section(pair.name, pair.layers, _lines(pair), pair.parts) for pair in two.pairs),
        (two.first.saved, two.second.saved),
        tuple({**dict(two.first.values), **dict(two.second.values)}.items()),
    )


def _lines(pair: Pair) -> tuple[Line, ...]:
    """The rows of both methods in the order of the forward pass: what one method adds follows what both keep there."""
    first, second = (() if part is None else part.rows for part in pair.parts)
    place = {id(row): (number, 0) for number, row in enumerate(first)}
    same = {id(other): row for row, other in pair.both}
    at, lines = -1, [Line(row, (True, True)) for row, _ in pair.both]
    for number, row in enumerate(second):
        if id(row) in same:
            at = place[id(same[id(row)])][0]
        else:
            place[id(row)] = at, 1 + number
            lines.append(Line(row, (False, True)))
    lines += [Line(row, (True, False)) for row in pair.first]
    return tuple(sorted(lines, key=lambda line: place[id(line.row)]))


def label_of(plan: Plan) -> str:
    """A plan's method in a few words."""
    return label({"name": plan.method.name, **plan.method.model_dump(exclude_unset=True)})


def shape_of(row: Row) -> str:
    """A row's shape in the config's names where they are known, such as ``[batch, seq, hidden_size]``."""
    sizes: Sequence[str] = [str(size) for size in row.shape] if row.symbols is None else [named(s) for s in row.symbols]
    return f"{f'{row.times} x ' if row.times > 1 else ''}[{', '.join(sizes)}]"


def numbers_of(row: Row) -> str:
    """A row's shape in numbers; empty where ``shape_of`` has no others."""
    numbers = f"[{', '.join(map(str, row.shape))}]"
    return "" if shape_of(row).endswith(numbers) else numbers


def why_of(row: Row) -> str:
    """Why a row is kept, and who else holds it."""
    also = f"; held by {', '.join(row.also)} too, counted once" if row.also else ""
    return f"{row.why}{also}"


def mixed(value: Fraction) -> str:
    """An exact number for people: ``92,360``, ``4 1/2``."""
    whole, rest = divmod(value.numerator, value.denominator)
    fraction = f"{rest}/{value.denominator}" if rest else ""
    return f"{whole:,} {fraction}".strip() if whole or not rest else fraction
