"""A plan's formulas, and its bytes as a function, for people and for other programs.

>>> from estimator.answers.formulas import compile_plan
>>> from estimator.export import formula, to_text
>>> print(to_text([formula(compile_plan(plan), "peak")]))  # doctest: +SKIP
"""

from __future__ import annotations

from .algebra import sympy_source, to_sympy
from .formula import EXPORTED, Formula, exported, formula
from .latex import to_latex
from .python import to_python
from .records import to_records
from .text import to_text

__all__ = [
    "EXPORTED",
    "Formula",
    "exported",
    "formula",
    "sympy_source",
    "to_latex",
    "to_python",
    "to_records",
    "to_sympy",
    "to_text",
]
