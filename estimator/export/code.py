"""A plan's function as a program: Python, NumPy, a JavaScript module, C. sympy's printers write the expressions."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

from sympy import Integer, Max, Piecewise, true
from sympy.printing.c import C99CodePrinter
from sympy.printing.jscode import JavascriptCodePrinter
from sympy.printing.pycode import PythonCodePrinter

from ..errors import InputError
from .formula import plan_line
from .function import Assignment, Function
from .python import quoted

_WIDTH = 110
_MOST_INT64 = 2**63 - 1
_PYTHON_MULTIPLE = '        raise ValueError("{0.name} must be a multiple of {0.multiple_of}")'


class _Python(PythonCodePrinter):  # type: ignore[misc]
    def _print_Quotient(self, expression: Any) -> str:
        above, below = map(self._print, expression.args)
        return f"({above}) // {below if expression.args[1].is_Atom else f'({below})'}"

    def _print_Mul(self, expression: Any) -> str:
        return _product(self, expression)


class _NumPy(_Python):
    def _print_Max(self, expression: Any) -> str:
        return f"largest({', '.join(map(self._print, expression.args))})"

    def _print_Min(self, expression: Any) -> str:
        return f"smallest({', '.join(map(self._print, expression.args))})"

    def _print_Piecewise(self, expression: Any) -> str:
        *rows, (last, _) = expression.args
        conditions = ", ".join(self._print(condition) for _, condition in rows)
        values = ", ".join(self._print(value) for value, _ in rows)
        return f"np.select([{conditions}], [{values}], {self._print(last)})"

    def _print_And(self, expression: Any) -> str:
        return " & ".join(map(self._print, expression.args))

    def _print_Or(self, expression: Any) -> str:
        return " | ".join(f"({self._print(x)})" for x in expression.args)


class _JavaScript(JavascriptCodePrinter):  # type: ignore[misc]
    def _print_Integer(self, expression: Any) -> str:
        return f"{int(expression)}n"

    def _print_Pow(self, expression: Any) -> str:
        return f"{self._print(expression.base)} ** {self._print(expression.exp)}"

    def _print_Mul(self, expression: Any) -> str:
        return _product(self, expression)

    def _print_Max(self, expression: Any) -> str:
        return f"largest({', '.join(map(self._print, expression.args))})"

    def _print_Min(self, expression: Any) -> str:
        return f"smallest({', '.join(map(self._print, expression.args))})"

    def _print_Quotient(self, expression: Any) -> str:
        return "({}) / ({})".format(*map(self._print, expression.args))

    def _print_Piecewise(self, expression: Any) -> str:
        return _ternary(self, expression)

    def _print_Relational(self, expression: Any) -> str:
        sign = {"==": "==="}.get(expression.rel_op, expression.rel_op)
        return f"{self._print(expression.lhs)} {sign} {self._print(expression.rhs)}"


class _C(C99CodePrinter):  # type: ignore[misc]
    def _print_Integer(self, expression: Any) -> str:
        return f"{int(expression)}" if abs(int(expression)) < 2**15 else f"INT64_C({int(expression)})"

    def _print_Pow(self, expression: Any) -> str:
        return " * ".join([self._print(expression.base)] * int(expression.exp))

    def _print_Mul(self, expression: Any) -> str:
        return _product(self, expression)

    def _print_Max(self, expression: Any) -> str:
        return _nested("largest", [self._print(x) for x in expression.args])

    def _print_Min(self, expression: Any) -> str:
        return _nested("smallest", [self._print(x) for x in expression.args])

    def _print_Quotient(self, expression: Any) -> str:
        return "({}) / ({})".format(*map(self._print, expression.args))

    def _print_Piecewise(self, expression: Any) -> str:
        return _ternary(self, expression)


class _Double(_C):
    """C in floating point: for bounds, which may be larger than any integer."""

    def _print_Integer(self, expression: Any) -> str:
        return f"{float(int(expression))!r}"

    def _print_Pow(self, expression: Any) -> str:
        return " * ".join([self._print(expression.base)] * int(expression.exp))

    def _print_Symbol(self, expression: Any) -> str:
        return f"(double){expression.name}"


class _Floats(_NumPy):
    """NumPy in floating point, for bounds."""

    def _print_Integer(self, expression: Any) -> str:
        return f"{float(int(expression))!r}"


def factors_of(expression: Any) -> list[Any]:
    """The factors of a product: the number, if it is not 1, then names with their powers."""
    coefficient, rest = expression.as_coeff_mul()
    return [*([] if coefficient == 1 else [coefficient]), *rest]


def _product(printer: Any, expression: Any) -> str:
    """Factors in the order in which a person writes them. A factor of -1 is a sign."""
    factors = factors_of(expression)
    sign = "-" if factors[0] == -1 else ""
    texts = (printer._print(x) if x.is_Atom or x.is_Pow else f"({printer._print(x)})" for x in factors[len(sign) :])
    return sign + " * ".join(texts)


def _nested(name: str, parts: Sequence[str]) -> str:
    """A function of two arguments applied to all parts: as a balanced tree, so that nesting stays small."""
    if len(parts) == 1:
        return parts[0]
    middle = len(parts) // 2
    return f"{name}({_nested(name, parts[:middle])}, {_nested(name, parts[middle:])})"


def _ternary(printer: Any, expression: Any) -> str:
    *rows, (last, _) = expression.args
    text: str = printer._print(last)
    for value, condition in reversed(rows):
        text = f"(({printer._print(condition)}) ? {printer._print(value)} : {text})"
    return text


class _Syntax(NamedTuple):
    """How a language that computes one value at a time writes statements."""

    printer: Any
    indent: str
    first: str
    """What begins an assignment of a name that is assigned once."""
    declare: str
    """What comes before an assignment in branches; ``{}`` is the name. Empty where names need no declaration."""
    branches: tuple[str, str, str, str]
    """``if`` and ``else if`` with ``{}`` for the condition, ``else``, and what ends all of them."""
    stop: str
    """What ends a statement."""
    largest: str
    """A function of any number of arguments that gives the largest; empty where there is one of two only."""
    brackets: bool
    """Whether a statement of several lines needs brackets."""


def _statements(step: Assignment, syntax: _Syntax) -> list[str]:
    """The statements that compute a step."""
    expression = step.expression
    if not isinstance(expression, Piecewise):
        return _assigned(f"{syntax.indent}{syntax.first}{step.name} = ", step.name, expression, syntax)
    within = syntax._replace(indent=syntax.indent * 2)
    lines = [f"{syntax.indent}{syntax.declare.format(step.name)}"] if syntax.declare else []
    if_, else_if, else_, end = syntax.branches
    for number, (value, condition) in enumerate(expression.args):
        text = else_ if condition == true else (else_if if number else if_).format(syntax.printer._print(condition))
        lines.append(f"{syntax.indent}{text}")
        lines += _assigned(f"{within.indent}{step.name} = ", step.name, value, within)
    return [*lines, f"{syntax.indent}{end}"] if end else lines


def _assigned(start: str, name: str, expression: Any, syntax: _Syntax) -> list[str]:
    printed = syntax.printer._print
    if not isinstance(expression, Max):
        opened = ("(", ")") if syntax.brackets else ("", "")
        return [_wrapped(start, printed(expression), syntax.stop, *opened)]
    parts = [printed(x) for x in expression.args]
    if syntax.largest:
        inside = f"{syntax.indent}    "
        rows = [_wrapped(inside, part, ",") for part in parts]
        return [f"{start}{syntax.largest}(", *rows, f"{syntax.indent}){syntax.stop}"]
    again = f"{syntax.indent}{name} = largest({name}, "
    return [_wrapped(start, parts[0], syntax.stop), *(_wrapped(again, part, f"){syntax.stop}") for part in parts[1:])]


_PYTHON = ("if {}:", "elif {}:", "else:", "")
_BRACES = ("if ({}) {{", "}} else if ({}) {{", "} else {", "}")


def _wrapped(start: str, text: str, end: str = "", open_: str = "", close: str = "") -> str:
    """A statement in lines of at most ``_WIDTH`` where spaces allow it; ``open_`` and ``close`` are then around it."""
    if len(start + text + end) <= _WIDTH:
        return start + text + end
    indent = " " * (len(start) - len(start.lstrip()) + (4 if start.strip() else 0))
    lines = textwrap.wrap(
        text, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    if open_:
        return "\n".join([start + open_, *lines, indent[4:] + close + end])
    if not start.strip():
        return "\n    ".join(lines) + end
    return "\n".join([start.rstrip(), *lines]) + end


def heading(f: Function) -> list[str]:
    """What every exported file says first: model, plan, releases, and where it holds. The lines are ASCII."""
    from ..version import __version__
    from .releases import release_lines

    names = ", ".join(v.name for v in f.variables)
    ranges = "; ".join(f"{v.name} from {v.least} to {v.most}" for v in f.variables)
    return [
        f"estimate({names}): bytes of {f.plan.asked}, to the byte where a process is not meant.",
        f"model: {json.dumps(f.plan.model)}",
        f"plan: {plan_line(f.plan)}",
        *release_lines(f.plan),
        f"holds for whole numbers: {ranges}",
        *(f"{v.name}: {v.meaning} ({v.value} in the plan)" for v in f.variables),
        *f.notes,
        f"written by: estimator export, llm-memory-estimator {__version__}",
    ]


def filled(lines: Sequence[str], indent: str = "") -> list[str]:
    """Lines of text of at most ``_WIDTH``, all indented."""
    return [
        part
        for line in lines
        for part in textwrap.wrap(
            line,
            _WIDTH,
            initial_indent=indent,
            subsequent_indent=indent + "    ",
            break_on_hyphens=False,
            break_long_words=False,
        )
    ]


def to_python(f: Function) -> str:
    """A Python module without imports: ``estimate(batch, seq, ...) -> dict[str, int]``, exact for all integers."""
    arguments = ", ".join(f"{v.name}: int = {v.value}" for v in f.variables)
    rows = [f'        ("{v.name}", {v.name}, {v.least}, {v.most}),' for v in f.variables]
    multiples = [v for v in f.variables if v.multiple_of > 1]
    syntax = _Syntax(_Python(), "    ", "", "", _PYTHON, "", "max", True)
    lines = [
        '"""' + quoted("\n".join(filled(heading(f)))),
        '"""',
        "",
        "",
        f"def estimate({arguments}) -> dict[str, int]:",
        '    """The bytes of each component. Raises ``ValueError`` for what is out of range."""',
        "    for name, value, least, most in (",
        *rows,
        "    ):",
        "        if not isinstance(value, int) or not least <= value <= most:",
        '            raise ValueError(f"{name} must be a whole number from {least} to {most}, not {value!r}")',
        *(line for v in multiples for line in (f"    if {v.name} % {v.multiple_of}:", _PYTHON_MULTIPLE.format(v))),
        *(line for step in _code(f) for line in _statements(step, syntax)),
        "    return {",
        *(f'        "{name}": {name},' for name in f.components),
        "    }",
    ]
    return "\n".join(lines) + "\n"


def to_numpy(f: Function) -> str:
    """A module that needs NumPy: ``estimate(batch, seq, ...)`` of whole numbers or arrays, which are broadcast."""
    arguments = ", ".join(f"{v.name}={v.value}" for v in f.variables)
    names = ", ".join(v.name for v in f.variables)
    rows = [f'        ("{v.name}", {v.name}, {v.least}, {v.most}),' for v in f.variables]
    multiples = [v for v in f.variables if v.multiple_of > 1]
    printer = _NumPy()
    sizes, totals = f.needed
    lines = [
        '"""' + quoted("\n".join(filled(heading(f)))),
        '"""',
        "",
        "from functools import reduce",
        "",
        "import numpy as np",
        "",
        "",
        "def largest(*values):",
        "    return reduce(np.maximum, values)",
        "",
        "",
        "def smallest(*values):",
        "    return reduce(np.minimum, values)",
        "",
        "",
        f"def estimate({arguments}):",
        '    """The bytes of each component, as int64 arrays.',
        "",
        "    Raises ``ValueError`` for what is out of range, and ``OverflowError`` where bytes may exceed 63 bits.",
        '    """',
        "    given = []",
        "    for name, value, least, most in (",
        *rows,
        "    ):",
        "        value = np.asarray(value)",
        '        if value.dtype.kind not in "iu" or ((value < least) | (value > most)).any():',
        '            raise ValueError(f"{name} must be whole numbers from {least} to {most}")',
        "        given.append(value.astype(np.int64))",
        f"    {names}{',' if len(f.variables) == 1 else ''} = given",
        *(
            line
            for v in multiples
            for line in (f"    if np.any({v.name} % {v.multiple_of}):", _PYTHON_MULTIPLE.format(v))
        ),
        f"    shape = np.broadcast_shapes({', '.join(f'{v.name}.shape' for v in f.variables)})",
        *(line for step in sizes for line in _array_statement(step, printer)),
        *_numpy_bound(f),
        *(line for step in totals for line in _array_statement(step, printer)),
        "    return {",
        *(f'        "{name}": np.broadcast_to({name}, shape),' for name in f.components),
        "    }",
    ]
    return "\n".join(lines) + "\n"


def _array_statement(step: Assignment, printer: Any) -> list[str]:
    """The statement that computes a step for arrays; conditions and values stand in rows of their own."""
    expression = step.expression
    if not isinstance(expression, Piecewise):
        return [_wrapped(f"    {step.name} = ", printer._print(expression), "", "(", ")")]
    *rows, (last, _) = expression.args
    return [
        f"    {step.name} = np.select(",
        "        [",
        *(_wrapped(" " * 12, printer._print(condition), ",") for _, condition in rows),
        "        ],",
        "        [",
        *(_wrapped(" " * 12, printer._print(value), ",") for value, _ in rows),
        "        ],",
        _wrapped(" " * 8, printer._print(last), ","),
        "    )",
    ]


def _numpy_bound(f: Function) -> list[str]:
    printer = _Floats()
    free = sorted(x.name for x in f.largest.free_symbols)
    floats = {x: type(x)(f"{x.name}_") for x in f.largest.free_symbols}
    text = printer._print(f.largest.xreplace(floats))
    return [
        *(f"    {name}_ = np.asarray({name}, dtype=np.float64)" for name in free),
        _wrapped("    bound = ", text, "", "(", ")"),
        "    if np.any(bound >= 2.0**63):",
        '        raise OverflowError("the bytes may not fit in 63 bits; give smaller values")',
    ]


def _code(f: Function) -> tuple[Assignment, ...]:
    """The steps that the components need, without those that only the bound needs."""
    return replace(f, largest=Integer(0)).all_needed


def to_javascript(f: Function) -> str:
    """An ES module: ``estimate({batch, seq, ...})``, in exact integers, ``variables`` and ``components``.

    Values are ``Number`` or ``BigInt``; a result is a ``Number``, and a ``BigInt`` above ``Number.MAX_SAFE_INTEGER``.
    """
    lines = ["/*", *(line.replace("*/", "*\\/") for line in filled(heading(f), " * ")), " */", "", javascript(f)]
    return "\n".join([*lines, "export { components, estimate, variables };"]) + "\n"


def javascript(f: Function) -> str:
    """The statements of the module, which use nothing from a file's text."""
    syntax = _Syntax(_JavaScript(), "  ", "const ", "let {};", _BRACES, ";", "largest", False)
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
        *(line for step in _code(f) for line in _statements(step, syntax)),
        "  return {",
        *(f"    {name}: exact({name})," for name in f.components),
        "  };",
        "}",
    ]
    return "\n".join(lines) + "\n"


def to_c(f: Function) -> str:
    """C99: ``estimate(batch, seq, ...)`` returns a structure of the components, and whether they are known."""
    syntax = _Syntax(_C(), "    ", "int64_t ", "int64_t {};", _BRACES, ";", "", False)
    arguments = ", ".join(f"int64_t {v.name}" for v in f.variables)
    ranges = " || ".join(
        f"{v.name} < {v.least} || {v.name} > INT64_C({v.most})"
        + (f" || {v.name} % {v.multiple_of}" if v.multiple_of > 1 else "")
        for v in f.variables
    )
    sizes, totals = f.needed
    lines = [
        "/*",
        *(line.replace("*/", "*\\/") for line in filled(heading(f), " * ")),
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
        _wrapped("    if (", ranges, ") {"),
        "        bytes.error = 1;",
        "        return bytes;",
        "    }",
    ]
    lines += [line for step in sizes for line in _statements(step, syntax)]
    lines += [
        _wrapped("    if (", f"{_Double()._print(f.largest)} >= {float(_MOST_INT64)!r}", ") {"),
        "        bytes.error = 2;",
        "        return bytes;",
        "    }",
    ]
    lines += [line for step in totals for line in _statements(step, syntax)]
    lines += [*(f"    bytes.{name} = {name};" for name in f.components), "    return bytes;", "}"]
    return "\n".join(lines) + "\n"


def steps_at(f: Function, values: Mapping[str, int]) -> dict[str, int]:
    """What each step is at some values of the variables, those that are no component too."""
    return evaluate(replace(f, components=tuple(step.name for step in f.all_needed)), values)


def evaluate(f: Function, values: Mapping[str, int]) -> dict[str, int]:
    """The bytes of each component, from the exported Python program. Raises ``InputError`` for what is out of range."""
    try:
        result: dict[str, int] = _compiled(to_python(f))(**values)
    except ValueError as error:
        raise InputError(str(error)) from None
    return result


def arrays(f: Function) -> Any:
    """The exported NumPy program's ``estimate``."""
    return _compiled(to_numpy(f))


@lru_cache(maxsize=64)
def _compiled(source: str) -> Any:
    scope: dict[str, Any] = {}
    exec(compile(source, "<exported>", "exec"), scope)  # made of our own expressions, not of a file's text
    return scope["estimate"]
