"""A plan's function as a query over a table ``plans``, built and written by sqlglot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Any

from sqlglot import exp
from sympy import And, Max, Min, Or, Piecewise

from .function import Assignment, Function, Variable
from .heading import filled, heading
from .polynomials import Quotient
from .statements import factors_of

_GIVEN = "given_"
"""What comes before the names of the table's own columns within the query."""
_TOO_LARGE = 2.0**63


def to_sql(f: Function, dialect: str = "duckdb") -> str:
    """A query that gives the variables, then the components, for each row of ``plans(batch, seq, ...)``.

    The components of a row are NULL where a variable is out of range, or bytes may not fit in 63 bits.
    """
    comment = "\n".join(f"-- {line}" for line in [*filled(heading(f)), "reads: a table plans with those columns"])
    return f"{comment}\n{query(f, dialect).sql(dialect=dialect, pretty=True)};\n"


def query(f: Function, dialect: str = "duckdb") -> Any:
    """The query as sqlglot's tree."""
    tree = _Trees(nulls_are_ignored=dialect != "bigquery")
    names = [v.name for v in f.variables]
    given = [_GIVEN + name for name in names]
    sizes, totals = f.needed
    in_range = _joined(exp.And, (test for v in f.variables for test in _tests(v)))
    fits = exp.LT(this=tree.of(f.largest, floating=True), expression=exp.Literal.number(repr(_TOO_LARGE)))
    select = exp.select()
    source = "plans"

    def level(name: str, columns: Sequence[Any]) -> None:
        nonlocal select, source
        # PostgreSQL would put expressions in the place of their names, which doubles them at every level.
        select = select.with_(name, as_=exp.select(*columns).from_(source), materialized=dialect == "postgres" or None)
        source = name

    level("plans_given", [*(exp.column(n).as_(_GIVEN + n) for n in names), in_range.as_("in_range")])
    known = list(names)
    level(
        "plans_checked",
        [
            *map(exp.column, given),
            *(_where("in_range", exp.cast(exp.column(_GIVEN + n), "BIGINT")).as_(n) for n in names),
        ],
    )
    for number, steps in enumerate(_levels(sizes, known), 1):
        level(f"sizes_{number}", [*map(exp.column, [*given, *known]), *map(tree.column, steps)])
        known += [step.name for step in steps]
    level("sizes", [*map(exp.column, [*given, *known]), fits.as_("fits")])
    level("sizes_checked", [*map(exp.column, given), *(_where("fits", exp.column(n)).as_(n) for n in known)])
    for number, steps in enumerate(_levels(totals, known), 1):
        level(f"bytes_{number}", [*map(exp.column, [*given, *known]), *map(tree.column, steps)])
        known += [step.name for step in steps]
    there = exp.Is(this=exp.column(names[0]), expression=exp.Null()).not_()
    return select.select(
        *(exp.column(_GIVEN + name).as_(name) for name in names),
        *(exp.case().when(there.copy(), exp.column(name)).as_(name) for name in f.components),
    ).from_(source)


def _levels(steps: Sequence[Assignment], known: Iterable[str]) -> list[list[Assignment]]:
    """Steps in groups, each of which needs the groups before it alone: a column cannot use one beside it."""
    done, waiting, levels = set(known), list(steps), []
    while waiting:
        ready = [step for step in waiting if {x.name for x in step.expression.free_symbols} <= done]
        done |= {step.name for step in ready}
        waiting = [step for step in waiting if step not in ready]
        levels.append(ready)
    return levels


def _tests(v: Variable) -> list[Any]:
    """Whether a column's value is one that the variable can have."""
    column = exp.column(v.name)
    found: list[Any] = [
        exp.Between(this=column, low=exp.Literal.number(v.least), high=exp.Literal.number(v.most)),
        exp.EQ(this=exp.cast(column.copy(), "BIGINT"), expression=column.copy()),
    ]
    if v.multiple_of > 1:
        rest = exp.Mod(this=column.copy(), expression=exp.Literal.number(v.multiple_of))
        found.append(exp.EQ(this=rest, expression=exp.Literal.number(0)))
    return found


def _where(condition: str, value: Any) -> Any:
    """``value`` where a column is true, else NULL."""
    return exp.case().when(exp.column(condition), value)


def _joined(kind: Any, parts: Iterable[Any]) -> Any:
    """All parts with an operator of two between them."""
    return reduce(lambda a, b: kind(this=a, expression=b), parts)


_RELATIONS = {"==": exp.EQ, ">=": exp.GTE, ">": exp.GT, "<=": exp.LTE, "<": exp.LT}


class _Trees:
    """Expressions in sqlglot's classes."""

    def __init__(self, nulls_are_ignored: bool) -> None:
        self.nulls_are_ignored = nulls_are_ignored
        """Whether the engine's GREATEST leaves NULLs out. No NULL ever reaches a result here."""

    def column(self, step: Assignment) -> Any:
        """A step as a column."""
        return self.of(step.expression).as_(step.name)

    def of(self, x: Any, floating: bool = False) -> Any:
        """An expression; ``floating`` computes with floating-point numbers."""

        def tree(x: Any) -> Any:
            return self.of(x, floating)

        if x.is_Integer:
            number = exp.Literal.number(repr(float(abs(int(x)))) if floating else abs(int(x)))
            return exp.Neg(this=number) if x < 0 else number
        if x.is_Symbol:
            column = exp.column(x.name)
            return exp.cast(column, "DOUBLE") if floating else column
        if x.is_Add:
            return _joined(exp.Add, map(tree, x.as_ordered_terms()))
        if x.is_Mul:
            return _joined(exp.Mul, (tree(y) if y.is_Atom or y.is_Pow else exp.paren(tree(y)) for y in factors_of(x)))
        if x.is_Pow:
            return _joined(exp.Mul, [tree(x.base) for _ in range(int(x.exp))])
        if isinstance(x, (Max, Min)):
            first, *rest = map(tree, x.args)
            made = exp.Greatest if isinstance(x, Max) else exp.Least
            return made(this=first, expressions=rest, ignore_nulls=self.nulls_are_ignored)
        if isinstance(x, Quotient):
            above, below = map(tree, x.args)
            return exp.IntDiv(this=exp.paren(above), expression=exp.paren(below))
        assert isinstance(x, Piecewise)
        *rows, (last, _) = x.args
        case = exp.case()
        for value, condition in rows:
            case = case.when(self._condition(condition), tree(value))
        return case.else_(tree(last))

    def _condition(self, x: Any) -> Any:
        if isinstance(x, (And, Or)):
            return _joined(exp.And if isinstance(x, And) else exp.Or, (exp.paren(self._condition(y)) for y in x.args))
        return _RELATIONS[x.rel_op](this=self.of(x.lhs), expression=self.of(x.rhs))
