"""Formulas: a plan's totals as polynomials, compiled once and evaluated for any batch and sequence.

A ledger that runs with symbols in place of sizes answers every plan of the same structure. The structure is another
one where the batch or the sequence is one, or the sequence is shorter than a sliding window: copies become views, masks
appear. So a plan has several *regimes*, each with its own formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from functools import cached_property, partial, reduce
from itertools import chain, pairwise
from math import lcm, prod
from typing import Any

from ..errors import InputError, OtherStructure
from ..ledger import APART, Size, whole
from ..ledger.sizes import Poly, Symbol, dominates, simplify, symbol, value_of
from ..plans.plan import Plan
from ..plans.refusals import check_question
from ..plans.resolve import Resolved, resolve, window_of
from ..programs.heads import CAUSAL, HEADS
from ..programs.modules import Method
from ..programs.step import Step
from ..steps.step import StepTotals, run
from ..steps.trainers import TRAINERS
from .result import BYTES, RESIDENT
from .result import COMPONENTS as TOTALS

COMPONENTS = (*BYTES, "resident")
"""The components of a result that are one polynomial each. The peak is a maximum over moments."""


MANY_TOKENS = 3
"""New tokens from which on a call of generate has all its kinds of passes."""


@dataclass(frozen=True)
class Regime:
    """The batches and sequences for which a set of formulas holds."""

    batch_one: bool = False
    seq_one: bool = False
    window_reached: bool | None = None
    """``None`` where no layer has a sliding window."""
    window: int | None = None
    new_tokens: int | None = None
    """Of a call of generate: 1, 2, or 3 for three and more. One token is the prefill's, and the second has one pass."""
    images_one: bool | None = None
    """``None`` where the number of images is no symbol."""

    def condition(self) -> str:
        """A Python expression in B and S that is true where the formulas hold."""
        parts = ["B == 1" if self.batch_one else "B >= 2", "S == 1" if self.seq_one else "S >= 2"]
        if self.images_one is not None:
            parts.append("M == 1" if self.images_one else "M >= 2")
        if self.window_reached is not None:
            parts.append(f"S {'>=' if self.window_reached else '<'} {self.window}")
        if self.new_tokens is not None:
            parts.append(f"N {'>=' if self.new_tokens == MANY_TOKENS else '=='} {self.new_tokens}")
        return " and ".join(parts)


@dataclass(frozen=True)
class Compiled:
    """A plan's totals as polynomials in B, S and, if symbolic, the architecture's sizes."""

    plan: Plan
    regime: Regime
    totals: StepTotals
    values: Mapping[str, int]
    """The values of the architecture's symbols in this plan; empty if not symbolic."""
    lengths: Mapping[str, int]
    """The plan's lengths of inputs beside the sequence (``Step.lengths``)."""

    def component(self, name: str) -> Size:
        """The formula of one of ``COMPONENTS``, in bytes."""
        if name == "resident":
            total: Size = sum((getattr(self.totals, part) for part in RESIDENT), 0)
            return total
        value: Size = getattr(self.totals, name)
        return value

    @cached_property
    def moments(self) -> list[tuple[str, Size]]:
        """(moment, bytes above resident), without those that are never more than another one."""
        kept: list[tuple[str, Size, list[int]]] = []
        for name, values in self.totals.moments.items():
            for value in values:
                # Two sample points show cheaply where one is less than the other.
                at = [_at(value, point) for point in _POINTS]
                if any(_covers(other, there, value, at) for _, other, there in kept):
                    continue
                kept = [row for row in kept if not _covers(value, at, row[1], row[2])]
                kept.append((name, value, at))
        return [(name, value) for name, value, _ in kept]

    @property
    def given(self) -> dict[str, int]:
        """The plan's batch, sequence, new tokens and other lengths, by their symbols."""
        new = {} if self.plan.generate is None else {"N": self.plan.generate.max_new_tokens}
        return {"B": self.plan.batch, "S": self.plan.seq, **new, **self.lengths}

    def function(self, moments: Sequence[Size]) -> Callable[[Mapping[str, Any]], tuple[list[Any], list[Any]]]:
        """A function from the symbols' values (integers or NumPy arrays) to the bytes of ``result.COMPONENTS`` and of
        the ``moments``.
        """
        return _generate([getattr(self.totals, name) for name in TOTALS], moments)

    def evaluate(self, batch: Any, seq: Any) -> dict[str, Any]:
        """The bytes of components, ``peak_above_resident`` and ``peak`` at batch and seq (integers or NumPy arrays)."""
        components, moments = self.function([m for _, m in self.moments])(
            {**self.values, **self.given, "B": batch, "S": seq}
        )
        result = dict(zip(TOTALS, components, strict=True))
        result["resident"] = sum(result[name] for name in RESIDENT)
        result["peak_above_resident"] = reduce(_maximum, moments)
        result["peak"] = result["resident"] + result["peak_above_resident"]
        return result


_POINTS = (
    dict.fromkeys("BSNHIKGDVLrCTM", 1),
    {
        "B": 3,
        "S": 5,
        "N": 4,
        "H": 700,
        "I": 40,
        "K": 2,
        "G": 3,
        "D": 9000,
        "V": 60,
        "L": 90,
        "r": 5000,
        "C": 7,
        "T": 6,
        "M": 8,
    },
)


def _at(size: Size, point: Mapping[str, int]) -> int:
    if isinstance(size, int):
        return size
    return int(sum(c * prod(value_of(s, point) ** e for s, e in f) for c, f in size.monomials()))


def _covers(a: Size, at_a: list[int], b: Size, at_b: list[int]) -> bool:
    return all(x >= y for x, y in zip(at_a, at_b, strict=True)) and dominates(a, b)


def undominated(moments: list[tuple[str, Size]], regime: Regime) -> list[tuple[str, Size]]:
    """The moments, without those that are never more than the largest of the others in the regime.

    ``dominates`` assumes that symbols are at least 1; here B, S and M are at least 2, and N at least 3.
    """
    first = max(2, regime.window or 1) if regime.window_reached else 2
    shift: dict[str, Size] = {name: symbol(name) + by for name, by in (("B", 1), ("S", first - 1), ("N", 2), ("M", 1))}
    shifted = [value.substitute(shift) if isinstance(value, Poly) else value for _, value in moments]
    kept: list[int] = []
    for i, value in enumerate(shifted):
        if any(dominates(shifted[j], value) for j in kept):
            continue
        kept = [j for j in kept if not dominates(value, shifted[j])]
        kept.append(i)
    for i in list(kept):
        others = [shifted[j] for j in kept if j != i]
        if any(_mean_covers(a, b, shifted[i]) for n, a in enumerate(others) for b in others[:n]):
            kept.remove(i)
    return [moments[i] for i in kept]


def _mean_covers(a: Size, b: Size, c: Size) -> bool:
    """Whether some weighted mean of ``a`` and ``b`` has no coefficient below that of ``c``: then c <= max(a, b)."""
    of_a, of_b, of_c = (x.terms if isinstance(x, Poly) else {0: x} for x in (a, b, c))
    # The bounds of the weight of a, which is ``least / of_least`` to ``most / of_most``: cheaper than with Fraction.
    least: int | Fraction = 0
    most: int | Fraction = 1
    of_least: int | Fraction = 1
    of_most: int | Fraction = 1
    for key in {*of_a, *of_b, *of_c}:
        base = of_b.get(key, 0)
        slope, needed = of_a.get(key, 0) - base, of_c.get(key, 0) - base
        if slope > 0:
            if needed * of_least > least * slope:
                least, of_least = needed, slope
        elif slope < 0:
            if needed * of_most > most * slope:
                most, of_most = -needed, -slope
        elif needed > 0:
            return False
        if least * of_most > most * of_least:
            return False
    return True


def _generate(
    components: Sequence[Size], moments: Sequence[Size]
) -> Callable[[Mapping[str, Any]], tuple[list[Any], list[Any]]]:
    """A function that evaluates many polynomials and computes every monomial once."""
    names: dict[tuple[tuple[str, int], ...], str] = {}
    lines: list[str] = []
    symbols: dict[str, Symbol] = {}

    def monomial(powers: list[tuple[Symbol, int]]) -> str:
        if not powers:
            return "1"
        key = tuple((s.name, e) for s, e in powers)
        if key not in names:
            *rest, (last, exponent) = powers
            symbols[last.name] = last
            if exponent > 1:
                rest.append((last, exponent - 1))
            value = f"{monomial(rest)} * {last.name}" if rest else last.name
            names[key] = f"m{len(names)}"
            lines.append(f"    {names[key]} = {value}")
        return names[key]

    def formula(size: Size) -> str:
        if isinstance(size, int):
            return str(size)
        rows = size.monomials()
        scale = lcm(*(Fraction(c).denominator for c, _ in rows)) if rows else 1
        total = " + ".join(f"{int(c * scale)} * {monomial(powers)}" for c, powers in rows) or "0"
        return total if scale == 1 else f"({total}) // {scale}"

    results = [[formula(size) for size in sizes] for sizes in (components, moments)]
    head = ["def totals(values, functions):"]
    for name, sym in symbols.items():
        if sym.function is not None:
            arguments = ", ".join(f"values[{argument!r}]" for argument in sym.arguments)
            head.append(f"    {name} = functions[{name!r}]({arguments})")
        else:
            head.append(f"    {name} = values[{name!r}]")
    source = "\n".join([*head, *lines, f"    return [{', '.join(results[0])}], [{', '.join(results[1])}]"])
    scope: dict[str, Any] = {}
    exec(compile(source, "<formulas>", "exec"), scope)
    functions = {name: sym.function for name, sym in symbols.items() if sym.function is not None}
    totals = scope["totals"]
    return lambda values: totals(values, functions)


def _maximum(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b)
    import numpy as np

    return np.maximum(a, b)


def regimes(plan: Plan) -> list[Regime]:
    """All regimes of a plan, the general one first."""
    resolved = resolve(plan)
    window = window_of(resolved.spec.config, resolved.method)
    # A row of a prompt and a completion has more than one token, and one of sound alone has none.
    one_token = plan.trainer not in TRAINERS and images_of(resolved) is None and HEADS[resolved.spec.head].text
    found = []
    for reached in (None,) if window is None else (True, False):
        for batch_one in (False, True):
            for seq_one in (False, True) if one_token else (False,):
                if window is not None and (reached != (window <= 1) if seq_one else not reached and window <= 2):
                    continue  # the regime has no sequence
                found += [
                    Regime(batch_one, seq_one, reached, window, new, images_one)
                    for images_one in ((None,) if images_of(resolved) is None else (False, True))
                    for new in _new_tokens(resolved)
                ]
    return found


def images_of(resolved: Resolved) -> int | None:
    """How many images of one size each row has; ``None`` where their number cannot be a symbol."""
    plan = resolved.plan
    mixed = len(plan.media.image_sizes) > 1 or plan.video_frames is not None
    return None if mixed or resolved.spec.head != "image-text" else plan.media.images or None


def _new_tokens(resolved: Resolved) -> tuple[int | None, ...]:
    """The regimes of new tokens, the general one first. Raises ``InputError`` where a call of generate has windows, an
    encoder or a tower.
    """
    if resolved.plan.generate is None:
        return (None,)
    if resolved.spec.head != CAUSAL:
        raise InputError(
            f"a formula does not go with generate of head: {resolved.spec.head}, whose passes are recorded at one "
            "size; ask `estimator estimate`"
        )
    window = window_of(resolved.spec.config, resolved.method)
    if window is not None:
        raise InputError(
            "a formula does not go with generate of a model with a sliding window, whose cache changes once full; ask "
            "`estimator estimate`"
        )
    return (MANY_TOKENS, 1, 2)


def regime_of(resolved: Resolved) -> Regime:
    """The regime of a plan's own batch and sequence."""
    plan = resolved.plan
    window = window_of(resolved.spec.config, resolved.method)
    new = None if plan.generate is None else min(plan.generate.max_new_tokens, MANY_TOKENS)
    images = images_of(resolved)
    reached = None if window is None else plan.seq >= window
    return Regime(plan.batch == 1, plan.seq == 1, reached, window, new, None if images is None else images == 1)


def is_known(resolved: Resolved, regime: Regime) -> bool:
    """Whether a regime has formulas without recording the model first."""
    step = resolved.step._replace(window_reached=bool(regime.window_reached))
    batch: Size = 1 if regime.batch_one else symbol("B")
    seq: Size = 1 if regime.seq_one else symbol("S")
    return resolved.with_step(step).knows(batch, seq)


def general_regime(plan: Plan) -> Regime:
    """The regime of batches and sequences above one, unless the plan gives a batch or a sequence of one itself."""
    given = plan.model_fields_set
    own = regime_of(resolve(plan))
    return replace(
        own,
        batch_one="batch" in given and own.batch_one,
        seq_one="seq" in given and own.seq_one,
        images_one=own.images_one and "images" in given,
    )


def compile_plan(
    plan: Plan,
    regime: Regime | None = None,
    symbolic: bool = False,
    open_rank: bool = False,
    keep_rows: bool = False,
    numbers: Sequence[str] = (),
    chunk: int | None = None,
    images: bool = False,
) -> Compiled:
    """The formulas of a plan; if ``symbolic``, with symbols for the architecture's sizes and the rank, too.

    ``numbers``: ``batch`` or ``seq``, where they are the plan's and no symbols.
    ``chunk``: the sequence is so many tokens times C, chunks of which a layer cuts it.
    ``images``: so is the number of images, where each row has some of one size (``images_of``).
    ``open_rank``: the rank alone is a symbol beside batch and sequence, where the method's rank can be one.
    ``regime`` is by default the one of the plan's own batch and sequence. Raises ``InputError``.
    """
    check_question("a formula", plan)
    resolved = resolve(plan)
    _new_tokens(resolved)
    regime = regime or regime_of(resolved)
    step = resolved.step._replace(window_reached=bool(regime.window_reached))
    if (new := regime.new_tokens) is not None:
        generate: Any = step.procedure
        step = step._replace(procedure=replace(generate, new=symbol("N") if new == MANY_TOKENS else new))
    method: Method = resolved.method
    values: dict[str, int] = {}
    if symbolic:
        check_question("a formula of open sizes", plan)
        values = {**resolved.spec.config.values(), **plan.method.open_values()}
    if (symbolic or open_rank) and plan.method.open_values():
        method = resolved.plan.method.build(resolved.spec.config, plan.dtype, symbol("r"))
    batch: Size = plan.batch if "batch" in numbers else 1 if regime.batch_one else symbol("B")
    seq: Size = plan.seq if "seq" in numbers else 1 if regime.seq_one else symbol("S")
    if chunk is not None:
        seq = chunk * symbol("C")
    lengths = {name: whole(size) for name, size in step.lengths}
    open_lengths = tuple([(name, symbol(name) if size > 1 else size) for name, size in lengths.items()])
    step = step._replace(lengths=open_lengths)

    def totals(batch: Size, one: Step = step, apart: bool = False) -> StepTotals:
        sizes = resolved.with_step(one).sizes(symbolic, batch, seq)
        ledger = one.ledger(symbolic=True, keep_rows=keep_rows, apart=apart)
        return run(one, sizes, method, batch, seq, ledger=ledger)

    def of_images(values: Mapping[str, int]) -> StepTotals:
        """The totals at a number of images, and of a batch that is no symbol."""
        count = values.get("M", plan.media.images)
        more = plan.model_copy(update={"images": count, "seq": plan.seq * count})
        own = step._replace(**{name: getattr(resolve(more).step, name) for name in ("media", "placeholders")})
        return totals(values.get("B", batch), own, apart=True)

    axes: tuple[str, ...] = ()
    if images and (count := images_of(resolved)) is not None:
        lengths["M"] = count
        axes = ("M",) * (not regime.images_one)
    try:
        found = _joined(axes, of_images) if axes else totals(batch)
    except OtherStructure:  # a model that walks the images of a batch one by one
        if isinstance(batch, int) or not step.media or keep_rows:
            raise
        found = _joined(("B", *axes), of_images)
    return Compiled(plan, regime, found, values, lengths)


def _joined(axes: Sequence[str], at: Callable[[Mapping[str, int]], StepTotals]) -> StepTotals:
    """Totals as polynomials in the sizes ``axes``, from those at some numbers and one point that must agree.

    They are linear in each of them, or of degree 2 where all images of a batch are one row of attention. An operator
    whose totals are neither, such as a kernel that takes other blocks in longer rows, must be below another one at all
    of these points. Raises ``OtherStructure`` where something else is no polynomial.
    """
    known: dict[tuple[int, ...], StepTotals] = {}

    def numbers(*values: int) -> StepTotals:
        if values not in known:
            known[values] = at(dict(zip(axes, values, strict=True)))
        return known[values]

    def between(of: Callable[[StepTotals], Any], degree: int, *values: int) -> Any:
        if len(values) == len(axes):
            return of(numbers(*values))
        steps = [between(of, degree, *values, 2 + i) for i in range(degree + 1)]
        found, basis = steps[0], Poly({0: 1})
        for i in range(degree):  # Newton's divided differences at 2, 3, 4
            steps = [_merged(a, b, lambda a, b: b - a) for a, b in pairwise(steps)]
            basis = basis * (symbol(axes[len(values)]) - (2 + i)) // (1 + i)
            found = _merged(found, steps[0], partial(_plus, basis))
        return found

    def polynomial(of: Callable[[StepTotals], Any], degree: int) -> Any:
        found, last = between(of, degree), [6] * len(axes)
        if _at_values(found, dict(zip(axes, last, strict=True))) != of(numbers(*last)):
            raise OtherStructure(_NO_POLYNOMIAL)
        return found

    def others(totals: StepTotals) -> StepTotals:
        return replace(totals, moments={})

    found: StepTotals
    try:
        degree, found = 1, polynomial(others, 1)
    except OtherStructure:
        degree, found = 2, polynomial(others, 2)
    moments: dict[str, list[Size]] = {}
    unlike = []
    for name in dict.fromkeys(name for totals in known.values() for name in totals.moments):
        of = partial(_of_moment, name)
        try:
            moments.setdefault(name.partition(APART)[0], []).extend(polynomial(of, degree))
        except OtherStructure:
            unlike.append(of)
    for point, totals in known.items():
        above = _at_values([*chain(*moments.values())], dict(zip(axes, point, strict=True)))
        if not all(any(dominates(a, b) for a in above) for of in unlike for b in of(totals)):
            raise OtherStructure(_NO_POLYNOMIAL)
    return replace(found, moments=moments)


def _of_moment(name: str, totals: StepTotals) -> list[Size]:
    return totals.moments.get(name, [])


def _plus(basis: Poly, a: Size, b: Size) -> Size:
    return simplify((basis * b + a) // 1)


def _at_values(found: Any, values: Mapping[str, int]) -> Any:
    """The same with numbers in place of symbols."""
    return _merged(found, found, lambda a, _: a.substitute(values) if isinstance(a, Poly) else a)


def _merged(a: Any, b: Any, of_sizes: Callable[[Size, Size], Size]) -> Any:
    """One of two totals of the same structure. Raises ``OtherStructure`` where one has other moments."""
    if isinstance(a, (int, Poly)) and not isinstance(a, bool):
        return of_sizes(a, b)
    if isinstance(a, dict) and list(a) == list(b):
        return {key: _merged(value, b[key], of_sizes) for key, value in a.items()}
    if isinstance(a, (list, tuple)) and len(a) == len(b):
        return type(a)([_merged(x, y, of_sizes) for x, y in zip(a, b, strict=True)])
    if isinstance(a, StepTotals):
        parts = {one.name: _merged(getattr(a, one.name), getattr(b, one.name), of_sizes) for one in fields(a)}
        return replace(a, **parts)
    if a != b or isinstance(a, (dict, list, tuple)):
        raise OtherStructure(_NO_POLYNOMIAL)
    return a


_NO_POLYNOMIAL = (
    "a formula does not go with this model's images, by whose number a step differs in other ways; ask `estimator "
    "estimate`"
)
