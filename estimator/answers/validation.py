"""Formulas compared with a trace of the real model, coefficient by coefficient, and by tensor where they differ.

Saved bytes are a polynomial of degree one in batch and two in sequence. The coefficients of both are exact, so equal
coefficients mean equal bytes for every batch and every sequence of a regime.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

from ..errors import InputError
from ..ledger import SavedRow, Size, whole
from ..ledger.sizes import Poly
from ..plans.plan import Plan
from ..plans.resolve import Resolved, resolve
from ..programs.layer_runs import layers_stood_for
from ..steps.step import run
from ..witnesses.trace import Polynomial, TracedTensor, build, counts, saved_polynomial, trace
from .explanation import exact
from .formulas import Regime, compile_plan, regimes

Progress = Callable[[int], None]
"""A function that is called after each traced point, with the number of all points."""


class Coefficient(NamedTuple):
    """The coefficient of one monomial of the saved bytes, in the formula and in the trace."""

    monomial: str
    formula: Fraction
    trace: Fraction

    @property
    def equal(self) -> bool:
        """Whether the witnesses agree."""
        return self.formula == self.trace


class Difference(NamedTuple):
    """A saved tensor that only the formula or only the trace has, with its shape and bytes at the compared point."""

    only_in: str
    """``formula`` or ``trace``."""
    module: str
    operator: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    times: int
    """The number of layers with this difference, which is named after the first."""


class Count(NamedTuple):
    """A total that needs no forward pass, in the formula and in the trace: bytes, or a number of parameters."""

    name: str
    formula: int
    trace: int

    @property
    def equal(self) -> bool:
        """Whether the witnesses agree."""
        return self.formula == self.trace


@dataclass(frozen=True)
class RegimeResult:
    """The comparison in one regime."""

    condition: str
    """The batches and sequences of the regime, in B and S."""
    points: tuple[tuple[int, int], ...]
    """The traced (batch, sequence); the last one only checks the polynomial's degree."""
    coefficients: tuple[Coefficient, ...]
    check: tuple[Fraction, int] | None
    """The bytes at the last point, by the trace's polynomial and as traced; ``None`` for a single point."""
    differences: tuple[Difference, ...] = ()
    compared_at: tuple[int, int] = (0, 0)
    """The (batch, sequence) at which the differences were found."""

    @property
    def exact(self) -> bool:
        """Whether the trace's polynomial gives the traced bytes at the last point, too."""
        return self.check is None or self.check[0] == self.check[1]

    @property
    def equal(self) -> bool:
        """Whether saved bytes agree everywhere in the regime."""
        return self.exact and all(c.equal for c in self.coefficients)


@dataclass(frozen=True)
class Validation:
    """A plan's formulas against the trace of its model."""

    plan: Plan
    regimes: tuple[RegimeResult, ...]
    counts: tuple[Count, ...] = field(default=())

    @property
    def equal(self) -> bool:
        """Whether everything agrees."""
        return all(r.equal for r in self.regimes) and all(c.equal for c in self.counts)

    def to_dict(self) -> dict[str, Any]:
        """The comparison as one JSON object; sizes are bytes."""
        return {
            "plan": self.plan.model_dump(exclude_none=True),
            "equal": self.equal,
            "counts": [{**c._asdict(), "equal": c.equal} for c in self.counts],
            "regimes": [
                {
                    "condition": r.condition,
                    "equal": r.equal,
                    "trace_is_polynomial": r.exact,
                    "points": [{"batch": batch, "seq": seq} for batch, seq in r.points],
                    "coefficients": [
                        {
                            "monomial": c.monomial,
                            "formula": exact(c.formula),
                            "trace": exact(c.trace),
                            "equal": c.equal,
                        }
                        for c in r.coefficients
                    ],
                    "differences": [d._asdict() for d in r.differences],
                    "compared_at": {"batch": r.compared_at[0], "seq": r.compared_at[1]},
                }
                for r in self.regimes
            ],
        }


def validate(plan: Plan, progress: Progress = lambda total: None, chosen: Sequence[Regime] | None = None) -> Validation:
    """Compare a plan's formulas with a trace of its model, in every regime or in the ``chosen`` ones.

    Raises ``InputError`` where the plan is wrong or cannot be traced.
    """
    from ..witnesses.reference.sharding import as_rank

    resolved = resolve(plan)
    found = regimes(plan) if chosen is None else chosen
    grids = [_grid(regime) for regime in found]
    total = sum(len(batches) * len(lengths) + (check is not None) for batches, lengths, check in grids)
    traced = partial(progress, total)
    with as_rank(resolved.step.sharding):
        model = build(resolved)
        counted = counts_of(plan, model)  # before a forward pass, which leaves parameters gathered
        pairs = zip(found, grids, strict=True)
        results = tuple(_compare(resolved, model, regime, grid, traced) for regime, grid in pairs)
    return Validation(plan, results, counted)


def counts_of(plan: Plan, model: Any) -> tuple[Count, ...]:
    """The totals that need no forward pass, of a plan's formulas and of its traced model."""
    totals = compile_plan(plan).totals
    return tuple(Count(name, whole(getattr(totals, name)), value) for name, value in counts(model).items())


Grid = tuple[Sequence[int], Sequence[int], "tuple[int, int] | None"]


def _grid(regime: Regime) -> Grid:
    """The batches and sequences that determine a regime's polynomial, and one more point to check it."""
    batches = [1] if regime.batch_one else [2, 3]
    spare = 1 if regime.batch_one else 5
    if regime.seq_one:
        return batches, [1], None if regime.batch_one else (spare, 1)
    if regime.window is None:
        first, last = 2, 59
    elif regime.window_reached:
        first = max(regime.window, 2)
        last = first + 57
    else:
        first, last = 2, regime.window - 1
    if last - first < 3:
        raise InputError(
            f"a sliding window of {regime.window} leaves too few lengths below it to tell a polynomial; "
            "a window of at least 6 can be traced"
        )
    step = (last - first) // 3
    return batches, [first, first + step, last], (spare, first + 2 * step)


def _compare(resolved: Resolved, model: Any, regime: Regime, grid: Grid, traced: Callable[[], None]) -> RegimeResult:
    batches, lengths, check = grid
    plan = resolved.plan
    of_trace = saved_polynomial(model, plan, batches, lengths, traced)
    of_formula = _coefficients(compile_plan(plan, regime).component("saved"))
    keys = sorted(of_trace.keys() | of_formula.keys(), key=lambda key: (-sum(key), key))
    coefficients = tuple(
        Coefficient(_monomial(key), of_formula.get(key, Fraction(0)), of_trace.get(key, Fraction(0))) for key in keys
    )
    checked = None
    if check is not None:
        batch, seq = check
        value = sum((c * batch**i * seq**j for (i, j), c in of_trace.items()), Fraction(0))
        checked = value, sum(row.nbytes for row in trace(model, plan, batch, seq))
        traced()
    point = batches[-1], lengths[-1]
    differences: tuple[Difference, ...] = ()
    if of_trace != of_formula:
        step = resolved.step._replace(window_reached=bool(regime.window_reached))
        sizes = resolved.sizes()
        rows = run(step, sizes, resolved.method, *point, keep_rows=True).rows
        differences = _differences(
            _all_layers(rows, layers_stood_for(sizes.runs, resolved.step.ledger())), trace(model, plan, *point)
        )
    points = [(batch, seq) for batch in batches for seq in lengths]
    return RegimeResult(
        regime.condition(),
        tuple(points if check is None else [*points, check]),
        coefficients,
        checked,
        differences,
        point,
    )


def _coefficients(size: Size) -> Polynomial:
    """The coefficients of a formula, by the exponents of B and S."""
    if not isinstance(size, Poly):
        return {(0, 0): Fraction(size)} if size else {}
    found: Polynomial = {}
    for coefficient, factors in size.monomials():
        exponents = {s.name: exponent for s, exponent in factors}
        found[exponents.pop("B", 0), exponents.pop("S", 0)] = Fraction(coefficient)
        assert not exponents
    return found


def _monomial(exponents: tuple[int, int]) -> str:
    names = [name if e == 1 else f"{name}**{e}" for name, e in zip("BS", exponents, strict=True) if e]
    return "*".join(names) or "1"


def _all_layers(rows: Sequence[SavedRow], layers: Mapping[int, Sequence[int]]) -> list[TracedTensor]:
    """The ledger's rows as the trace lists them: a row that stands for several ``layers`` becomes a tensor in each."""
    found = []
    for row in rows:
        shape = tuple(whole(n) for n in row.shape)
        match = re.match(r"(model\.layers\.)(\d+)(.*)", row.module)
        modules = (
            [f"{match[1]}{i}{match[3]}" for i in layers[int(match[2])]] if match else [row.module] * whole(row.copies)
        )
        found += [TracedTensor(m, row.operator, shape, row.dtype, whole(row.nbytes)) for m in modules]
    return found


def _differences(formula: list[TracedTensor], traced: list[TracedTensor]) -> tuple[Difference, ...]:
    """The tensors that only the formula or only the trace has.

    Tensors are paired by module, shape, dtype and bytes first. Formula and trace may name the module or the view
    differently, so the rest are paired by fewer of these; dtype and bytes must always be equal.
    """
    for key in (
        lambda t: (t.module, t.shape, t.dtype, t.nbytes),
        lambda t: (t.module, t.dtype, t.nbytes),
        lambda t: (t.shape, t.dtype, t.nbytes),
        lambda t: (t.dtype, t.nbytes),
    ):
        formula, traced = _unpaired(formula, traced, key), _unpaired(traced, formula, key)
    return tuple(d for side, rows in (("formula", formula), ("trace", traced)) for d in _grouped(side, rows))


def _unpaired(
    rows: list[TracedTensor], others: list[TracedTensor], key: Callable[[TracedTensor], Any]
) -> list[TracedTensor]:
    partners = Counter(key(t) for t in others)
    left = []
    for row in rows:
        if partners[key(row)]:
            partners[key(row)] -= 1
        else:
            left.append(row)
    return left


def _grouped(side: str, rows: list[TracedTensor]) -> list[Difference]:
    groups: dict[Any, list[TracedTensor]] = defaultdict(list)
    for row in rows:
        groups[(re.sub(r"\.\d+\.", ".*.", row.module), *row[1:])].append(row)
    return [Difference(side, *group[0], len(group)) for group in groups.values()]
