"""A plan's function in Python and in NumPy, and its values, which these programs compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from sympy import Piecewise
from sympy.printing.pycode import PythonCodePrinter

from ..errors import InputError
from .components import EXPORTED
from .function import Assignment, Function, Variable
from .heading import filled, heading, origin
from .statements import Functions, Products, Syntax, code_of, statements, wrapped

_BRANCHES = ("if {}:", "elif {}:", "else:", "")


class _Python(Products, PythonCodePrinter):  # type: ignore[misc]
    def _print_Quotient(self, expression: Any) -> str:
        above, below = map(self._print, expression.args)
        return f"({above}) // {below if expression.args[1].is_Atom else f'({below})'}"


class _NumPy(Functions, _Python):
    def _print_Piecewise(self, expression: Any) -> str:
        *rows, (last, _) = expression.args
        conditions = ", ".join(self._print(condition) for _, condition in rows)
        values = ", ".join(self._print(value) for value, _ in rows)
        return f"np.select([{conditions}], [{values}], {self._print(last)})"

    def _print_And(self, expression: Any) -> str:
        return " & ".join(map(self._print, expression.args))

    def _print_Or(self, expression: Any) -> str:
        return " | ".join(f"({self._print(x)})" for x in expression.args)


class _Floats(_NumPy):
    """NumPy in floating point, for bounds."""

    def _print_Integer(self, expression: Any) -> str:
        return f"{float(int(expression))!r}"


def to_python(f: Function) -> str:
    """A Python module without imports: ``estimate(batch, seq, ...) -> dict[str, int]``, exact for all integers."""
    result = ["    return {", *(f'        "{name}": {name},' for name in f.components), "    }"]
    about = ["    The bytes of each component. Raises ``ValueError`` for what is out of range."]
    return _module(heading(f), [_function(f, "estimate", "dict[str, int]", about, result)])


def to_functions(formulas: Sequence[Function]) -> str:
    """The same module with ``<component>_bytes(B, S, ...) -> int`` for the one component of each formula."""
    made = []
    for f in formulas:
        (component,) = f.components
        about = [f"    Bytes: {EXPORTED[component]}. Raises ``ValueError`` for what is out of range."]
        about += ["", *(f"    {v.name}: {v.meaning} (default: {v.value})" for v in f.variables)]
        made.append(_function(f, f"{component}_bytes", "int", about, [f"    return {component}"]))
    first = formulas[0]
    about = [f"The bytes of {first.plan.asked}, in whole numbers: a function for each component."]
    return _module([*about, *origin(first, "formula")], made)


def _module(about: Sequence[str], functions: Sequence[Sequence[str]]) -> str:
    head = ['"""' + quoted("\n".join(filled(about))), '"""']
    return "\n\n\n".join("\n".join(lines) for lines in (head, *functions)) + "\n"


def _function(f: Function, name: str, kind: str, about: Sequence[str], result: Sequence[str]) -> list[str]:
    """The lines of a function that checks its arguments and computes what a function's components need."""
    arguments = [f"{v.name}: int = {v.value}" for v in f.variables]
    syntax = Syntax(_Python(), "    ", "", "", _BRANCHES, "", "max", True, "#")
    first, *rest = about
    return [
        wrapped(f"def {name}(", ", ".join(arguments), f") -> {kind}:"),
        f'    """{first.lstrip()}' + ("" if rest else '"""'),
        *([*rest, '    """'] if rest else []),
        "    for name, value, least, most in (",
        *(f'        ("{v.name}", {v.name}, {v.least}, {v.most}),' for v in f.variables),
        "    ):",
        "        if not isinstance(value, int) or not least <= value <= most:",
        '            raise ValueError(f"{name} must be a whole number from {least} to {most}, not {value!r}")',
        *(line for v in f.variables if v.multiple_of > 1 for line in _multiple(v)),
        *(line for step in code_of(f) for line in statements(step, syntax)),
        *result,
    ]


def quoted(text: str) -> str:
    """A text with the escapes that it needs in a docstring."""
    return text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')


def to_numpy(f: Function) -> str:
    """A module that needs NumPy: ``estimate(batch, seq, ...)`` of whole numbers or arrays, which are broadcast."""
    arguments = ", ".join(f"{v.name}={v.value}" for v in f.variables)
    names = ", ".join(v.name for v in f.variables)
    rows = [f'        ("{v.name}", {v.name}, {v.least}, {v.most}),' for v in f.variables]
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
        *(line for v in f.variables if v.multiple_of > 1 for line in _multiple(v, "np.any({})")),
        f"    shape = np.broadcast_shapes({', '.join(f'{v.name}.shape' for v in f.variables)})",
        *(line for step in sizes for line in _array_statement(step, printer)),
        *_numpy_bound(f),
        *(line for step in totals for line in _array_statement(step, printer)),
        "    return {",
        *(f'        "{name}": np.broadcast_to({name}, shape),' for name in f.components),
        "    }",
    ]
    return "\n".join(lines) + "\n"


def _multiple(v: Variable, any_of: str = "{}") -> list[str]:
    return [
        f"    if {any_of.format(f'{v.name} % {v.multiple_of}')}:",
        f'        raise ValueError("{v.name} must be a multiple of {v.multiple_of}")',
    ]


def _array_statement(step: Assignment, printer: Any) -> list[str]:
    """The statement that computes a step for arrays; conditions and values stand in rows of their own."""
    expression = step.expression
    if not isinstance(expression, Piecewise):
        return [wrapped(f"    {step.name} = ", printer._print(expression), "", "(", ")")]
    *rows, (last, _) = expression.args
    return [
        f"    {step.name} = np.select(",
        "        [",
        *(wrapped(" " * 12, printer._print(condition), ",") for _, condition in rows),
        "        ],",
        "        [",
        *(wrapped(" " * 12, printer._print(value), ",") for value, _ in rows),
        "        ],",
        wrapped(" " * 8, printer._print(last), ","),
        "    )",
    ]


def _numpy_bound(f: Function) -> list[str]:
    printer = _Floats()
    free = sorted(x.name for x in f.largest.free_symbols)
    floats = {x: type(x)(f"{x.name}_") for x in f.largest.free_symbols}
    text = printer._print(f.largest.xreplace(floats))
    return [
        *(f"    {name}_ = np.asarray({name}, dtype=np.float64)" for name in free),
        wrapped("    bound = ", text, "", "(", ")"),
        "    if np.any(bound >= 2.0**63):",
        '        raise OverflowError("the bytes may not fit in 63 bits; give smaller values")',
    ]


def steps_at(f: Function, values: Mapping[str, int]) -> dict[str, int]:
    """What each step is at some values of the variables, those that are no component too."""
    return evaluate(replace(f, components=tuple(step.name for step in f.all_needed)), values)


def evaluate(f: Function, values: Mapping[str, int]) -> dict[str, int]:
    """The bytes of each component, from the exported Python program. Raises ``InputError`` for what is out of range."""
    try:
        result: dict[str, int] = program(f)(**values)
    except ValueError as error:
        raise InputError(str(error)) from None
    return result


def program(f: Function) -> Any:
    """The exported Python program's ``estimate``, which raises ``ValueError`` for what is out of range."""
    return _compiled(to_python(f))


def arrays(f: Function) -> Any:
    """The exported NumPy program's ``estimate``."""
    return _compiled(to_numpy(f))


@lru_cache(maxsize=64)
def _compiled(source: str) -> Any:
    scope: dict[str, Any] = {}
    exec(compile(source, "<exported>", "exec"), scope)  # made of our own expressions, not of a file's text
    return scope["estimate"]
