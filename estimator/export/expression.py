"""A formula to go on with: a sympy expression whose symbols say what they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..answers.formulas import Regime
from ..answers.tabular import Brief
from ..plans.plan import Plan
from .algebra import to_sympy, variable
from .function import Function
from .json_trees import to_record
from .latex import about, to_latex
from .plain_text import to_text

if TYPE_CHECKING:
    import sympy


@dataclass(frozen=True, repr=False)
class Expression(Brief):
    """The bytes of one component, exact where ``condition`` is true."""

    formula: Function
    regime: Regime
    """The batches and sequences for which it holds."""

    def _brief(self) -> Mapping[str, object]:
        return {"model": self.plan.model, "component": self.formula.components[0], "condition": self.condition}

    @property
    def plan(self) -> Plan:
        """The plan."""
        return self.formula.plan

    @property
    def expression(self) -> sympy.Expr:
        """The bytes as a sympy expression in positive integer symbols."""
        return to_sympy(self.formula)

    @property
    def symbols(self) -> Mapping[sympy.Symbol, str]:
        """What each symbol of the expression is."""
        return {variable(v.name): v.meaning for v in self.formula.variables}

    @property
    def condition(self) -> str:
        """Where the expression holds, in Python."""
        return self.formula.condition

    @property
    def values(self) -> Mapping[str, int]:
        """The values of the architecture's symbols in the plan's model."""
        return self.formula.values

    def to_dict(self) -> dict[str, Any]:
        """The formula as plain data."""
        return to_record(self.formula)

    def to_latex(self) -> str:
        """The formula as LaTeX, for the ``amsmath`` package."""
        return to_latex([self.formula], about(self.formula))

    def _repr_html_(self) -> str:
        import html

        return f"<pre>{html.escape(str(self))}</pre>"

    def __str__(self) -> str:
        return to_text([self.formula])
