"""A plan's function as an ES module, in exact integers."""

from __future__ import annotations

import json
from typing import Any

from sympy.printing.jscode import JavascriptCodePrinter

from .function import Function
from .heading import filled, heading, in_comment
from .statements import BRACES, Braced, Syntax, code_of, statements


class _JavaScript(Braced, JavascriptCodePrinter):  # type: ignore[misc]
    def _print_Integer(self, expression: Any) -> str:
        return f"{int(expression)}n"

    def _print_Pow(self, expression: Any) -> str:
        return f"{self._print(expression.base)} ** {self._print(expression.exp)}"

    def _print_Relational(self, expression: Any) -> str:
        sign = {"==": "==="}.get(expression.rel_op, expression.rel_op)
        return f"{self._print(expression.lhs)} {sign} {self._print(expression.rhs)}"


def to_javascript(f: Function) -> str:
    """An ES module: ``estimate({batch, seq, ...})``, in exact integers, ``variables`` and ``components``.

    Values are ``Number`` or ``BigInt``; a result is a ``Number``, and a ``BigInt`` above ``Number.MAX_SAFE_INTEGER``.
    """
    lines = ["/*", *(in_comment(line) for line in filled(heading(f), " * ")), " */", "", javascript(f)]
    return "\n".join([*lines, "export { components, estimate, variables };"]) + "\n"


def javascript(f: Function) -> str:
    """The statements of the module, which use nothing from a file's text."""
    syntax = Syntax(_JavaScript(), "  ", "const ", "let {};", BRACES, ";", "largest", False, "//")
    number = "number | bigint"
    given = ", ".join(f"{v.name}?: {number}" for v in f.variables)
    result = ", ".join(f"{name}: {number}" for name in f.components)
    table = [v._asdict() for v in f.variables]
    meanings = {step.name: step.meaning for step in f.totals if step.name in f.components}
    lines = [
        "/** The variables, with their values in the plan and their ranges.",
        " * @type {ReadonlyArray<{name: string, value: number, least: number, most: number, meaning: string,",
        " *     multiple_of: number}>} */",
        f"const variables = {json.dumps(table, indent=2)};",
        "",
        "/** What each component is.",
        " * @type {Readonly<Record<string, string>>} */",
        f"const components = {json.dumps(meanings, indent=2)};",
        "",
        "const largest = (...values) => values.reduce((a, b) => (b > a ? b : a));",
        "const smallest = (...values) => values.reduce((a, b) => (b < a ? b : a));",
        "",
        "function checked({ name, value, least, most, multiple_of }, values) {",
        "  const given = values[name] ?? value;",
        '  const whole = typeof given === "bigint" || Number.isInteger(given);',
        "  if (!whole || given < least || given > most) {",
        "    throw new RangeError(`${name} must be a whole number from ${least} to ${most}, not ${given}`);",
        "  }",
        "  if (BigInt(given) % BigInt(multiple_of)) {",
        "    throw new RangeError(`${name} must be a multiple of ${multiple_of}, not ${given}`);",
        "  }",
        "  return BigInt(given);",
        "}",
        "",
        "const exact = (value) => (value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : value);",
        "",
        "/**",
        " * The bytes of each component. Throws a RangeError for what is out of range.",
        *filled([f"@param {{{{{given}}}}} [values] those left out have the plan's value"], " * "),
        *filled([f"@returns {{{{{result}}}}} BigInt above Number.MAX_SAFE_INTEGER"], " * "),
        " */",
        "function estimate(values = {}) {",
        f"  const [{', '.join(v.name for v in f.variables)}] = variables.map((one) => checked(one, values));",
        *(line for step in code_of(f) for line in statements(step, syntax)),
        "  return {",
        *(f"    {name}: exact({name})," for name in f.components),
        "  };",
        "}",
    ]
    return "\n".join(lines) + "\n"
