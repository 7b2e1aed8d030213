"""A plan's function as a JSON object, whose expressions are trees: no parser is needed to compute it.

``docs/schemas/function-1.schema.json`` is its JSON Schema.
"""

from __future__ import annotations

from typing import Any

from sympy import Max, Min

from ..errors import InputError
from ..text import dumped
from .formula import plan_summary
from .function import Function, Quotient
from .heading import fixed_keys, heading
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
        "schema": 1,
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
