"""A plan's function in C99, in 64-bit integers whose overflow is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sympy.printing.c import C99CodePrinter

from .function import Function
from .heading import filled, heading, in_comment
from .statements import BRACES, Braced, Syntax, statements, wrapped

_MOST = 2**63 - 1


class _C(Braced, C99CodePrinter):  # type: ignore[misc]
    def _print_Integer(self, expression: Any) -> str:
        return f"{int(expression)}" if abs(int(expression)) < 2**15 else f"INT64_C({int(expression)})"

    def _print_Pow(self, expression: Any) -> str:
        return " * ".join([self._print(expression.base)] * int(expression.exp))

    def _called(self, name: str, arguments: Sequence[str]) -> str:
        """A function of two arguments applied to all: as a balanced tree, so that nesting stays small."""
        if len(arguments) == 1:
            return arguments[0]
        middle = len(arguments) // 2
        return f"{name}({self._called(name, arguments[:middle])}, {self._called(name, arguments[middle:])})"


class _Double(_C):
    """C in floating point: for bounds, which may be larger than any integer."""

    def _print_Integer(self, expression: Any) -> str:
        return f"{float(int(expression))!r}"

    def _print_Symbol(self, expression: Any) -> str:
        return f"(double){expression.name}"


def to_c(f: Function) -> str:
    """C99: ``estimate(batch, seq, ...)`` returns a structure of the components, and whether they are known."""
    syntax = Syntax(_C(), "    ", "int64_t ", "int64_t {};", BRACES, ";", "", False, "//")
    arguments = ", ".join(f"int64_t {v.name}" for v in f.variables)
    ranges = " || ".join(
        f"{v.name} < {v.least} || {v.name} > INT64_C({v.most})"
        + (f" || {v.name} % {v.multiple_of}" if v.multiple_of > 1 else "")
        for v in f.variables
    )
    sizes, totals = f.needed
    lines = [
        "/*",
        *(in_comment(line) for line in filled(heading(f), " * ")),
        " */",
        "",
        "#include <stdint.h>",
        "",
        "typedef struct {",
        "    int error; /* 0; 1 where a variable is out of range; 2 where bytes may not fit in 63 bits */",
        *(f"    int64_t {name};" for name in f.components),
        "} estimate_bytes;",
        "",
        "static int64_t largest(int64_t a, int64_t b) { return a > b ? a : b; }",
        "static int64_t smallest(int64_t a, int64_t b) { return a < b ? a : b; }",
        "",
        f"estimate_bytes estimate({arguments}) {{",
        "    estimate_bytes bytes = {0};",
        "    (void)largest, (void)smallest;",
        wrapped("    if (", ranges, ") {"),
        "        bytes.error = 1;",
        "        return bytes;",
        "    }",
    ]
    lines += [line for step in sizes for line in statements(step, syntax)]
    lines += [
        wrapped("    if (", f"{_Double()._print(f.largest)} >= {float(_MOST)!r}", ") {"),
        "        bytes.error = 2;",
        "        return bytes;",
        "    }",
    ]
    lines += [line for step in totals for line in statements(step, syntax)]
    lines += [*(f"    bytes.{name} = {name};" for name in f.components), "    return bytes;", "}"]
    return "\n".join(lines) + "\n"
