"""Formulas as plain data for JSON."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from ..answers.result import SCHEMA
from ..ledger import Size
from .formula import Formula, plan_summary, terms


def to_records(f: Formula) -> dict[str, Any]:
    """A formula as plain data: bytes = the sum of ``terms`` + the largest of ``moments``, if there are any.

    A moment is a sum of terms, too. A term is a coefficient times the symbols to their powers; a coefficient that is
    not whole is a string ``"p/q"``. ``definitions`` are those of functions, in Python's notation. ``values`` are the
    values of symbols in the plan's model. ``fixed`` are the sizes that could not be left symbolic.
    """
    symbols = f.symbols()
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "component": f.component,
        "unit": "bytes",
        "plan": plan_summary(f.plan),
        "condition": f.condition(),
        "symbols": {s.name: s.meaning for s in symbols},
        "definitions": {s.name: s.source for s in symbols if s.function is not None},
        "values": {s.name: f.values[s.name] for s in symbols if s.name in f.values},
        "fixed": dict(f.fixed),
        "terms": _rows(f.base),
    }
    if f.moments:
        record["moments"] = [{"moment": name, "terms": _rows(value)} for name, value in f.moments]
    return record


def _rows(size: Size) -> list[dict[str, Any]]:
    return [
        {
            "coefficient": str(coefficient) if isinstance(coefficient, Fraction) else coefficient,
            "powers": {s.name: exponent for s, exponent in powers},
        }
        for coefficient, powers in terms(size)
    ]
