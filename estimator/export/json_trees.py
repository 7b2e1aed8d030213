"""Functions as JSON: expressions as trees, or a formula's polynomials as terms; no parser is needed to compute them.

``docs/schemas/function-1.schema.json`` is the JSON Schema of the former.
"""

from __future__ import annotations

from typing import Any

from sympy import Expr, Integer, Max, Min, Symbol

from ..answers.result import SCHEMA as VERSION
from ..errors import InputError
from ..ledger.sizes import registered
from ..text import dumped
from .components import plan_summary
from .function import Function
from .heading import fixed_keys, heading
from .polynomials import Quotient, exact
from .statements import factors_of

SCHEMA = "urn:llm-memory-estimator:schema:function-1"
_EXACT = 2**53
"""Integers below it are exact in every reader of JSON, also where numbers are floating-point."""


def to_json(f: Function) -> str:
    """One JSON object. Raises ``InputError`` where a number is larger than every reader of JSON can hold."""
    return dumped(to_object(f), indent=1) + "\n"


def to_object(f: Function) -> dict[str, Any]:
    """The object: ``variables``, the ``steps`` in an order in which each can be computed, and the ``components``."""
    return {
        "$schema": SCHEMA,
        "schema": VERSION,
        "about": heading(f),
        "model": f.plan.model,
        "plan": {**plan_summary(f.plan), **fixed_keys(f)},
        "unit": "bytes",
        "variables": [v._asdict() for v in f.variables],
        "steps": [
            {"name": step.name, "meaning": step.meaning, "expression": tree(step.expression)} for step in f.all_needed
        ],
        "components": list(f.components),
    }


def tree(x: Any) -> Any:
    """An expression: a number, a name, or an object of one operation and its operands."""
    if x.is_Integer:
        if abs(int(x)) >= _EXACT:
            raise InputError(f"the formula has the number {x}, which JSON's readers round; take --to python")
        return int(x)
    if x.is_Symbol:
        return x.name
    if x.is_Add:
        return {"add": [tree(one) for one in x.as_ordered_terms()]}
    if x.is_Mul:
        factors = [one for y in factors_of(x) for one in ([y.base] * int(y.exp) if y.is_Pow else [y])]
        return {"multiply": [tree(one) for one in factors]}
    if x.is_Pow:
        return {"multiply": [tree(x.base)] * int(x.exp)}
    if isinstance(x, (Max, Min)):
        return {"max" if isinstance(x, Max) else "min": [tree(one) for one in x.args]}
    if isinstance(x, Quotient):
        return {"quotient": [tree(one) for one in x.args]}
    *rows, (last, _) = x.args
    return {"cases": [{"if": _condition(c), "then": tree(value)} for value, c in rows], "else": tree(last)}


def _condition(x: Any) -> Any:
    if x.is_Boolean and not x.is_Relational:
        return {"all" if type(x).__name__ == "And" else "any": [_condition(one) for one in x.args]}
    return {x.rel_op: [tree(x.lhs), tree(x.rhs)]}


def to_record(f: Function) -> dict[str, Any]:
    """A formula as plain data: bytes = the sum of ``terms`` + the largest of ``moments``, if there are any.

    A moment is a sum of terms, too. A term is a coefficient times the symbols to their powers; a coefficient that is
    not whole is a string ``"p/q"``. ``definitions`` are those of functions, in Python's notation. ``values`` are the
    values of symbols in the plan's model. ``fixed`` are the sizes that could not be left symbolic.
    """
    sizes, totals = f.needed
    base: dict[Symbol, Expr] = {}
    for step in totals:
        base[Symbol(step.name)] = Integer(0) if step.moments else exact(step.expression).xreplace(base)
    (component,) = f.components
    record: dict[str, Any] = {
        "schema": VERSION,
        "component": component,
        "unit": "bytes",
        "plan": plan_summary(f.plan),
        "condition": f.condition,
        "symbols": {**{v.name: v.meaning for v in f.variables}, **{step.name: step.meaning for step in sizes}},
        "definitions": {step.name: registered(step.name).source for step in sizes},
        "values": f.values,
        "fixed": dict(f.fixed),
        "terms": _terms(base[Symbol(component)]),
    }
    if moments := [row for step in totals for row in step.moments]:
        record["moments"] = [{"moment": name, "terms": _terms(x)} for name, x in moments]
    return record


def _terms(polynomial: Expr) -> list[dict[str, Any]]:
    """A polynomial's terms, the highest degree first."""
    rows = []
    for monomial, coefficient in exact(polynomial).expand().as_coefficients_dict().items():
        powers = {registered(x.name): int(n) for x, n in monomial.as_powers_dict().items() if x.is_Symbol}
        ordered = sorted(powers.items(), key=lambda item: item[0].index)
        rows.append((-sum(powers.values()), [(s.index, -n) for s, n in ordered], coefficient, ordered))
    return [
        {"coefficient": int(c) if c.is_Integer else str(c), "powers": {s.name: n for s, n in ordered}}
        for _, _, c, ordered in sorted(rows, key=lambda row: row[:2])
        if c
    ]
