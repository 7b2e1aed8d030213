"""A plan's function as a workbook with live formulas, named cells and a chart, written by XlsxWriter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from sympy import Max, Piecewise, Symbol
from sympy.printing.str import StrPrinter

from ..errors import InputError
from ..text import human, printable
from .code_python import steps_at
from .function import Function, Variable
from .heading import heading
from .statements import Choices, Functions, factors_of

_LONGEST_FORMULA = 8192
"""Excel's limit in characters."""
_ROOM = _LONGEST_FORMULA - 200
"""Characters of a formula without what asks whether it is known."""
_EXACT = 2**53
"""Spreadsheets compute in floating point: whole numbers below it are exact."""
_POINTS = 25
"""Rows of the curve."""


class _Excel(Functions, Choices, StrPrinter):  # type: ignore[misc]
    """Formulas of a spreadsheet. ``cell`` gives the reference of a name."""

    names: Mapping[str, str] = {name: name.upper() for name in ("Max", "Min", "And", "Or", "Quotient")}
    choice = "IF({},{},{})"

    def __init__(self, cell: Callable[[str], str]) -> None:
        super().__init__()
        self.cell = cell

    def _called(self, name: str, arguments: Sequence[str]) -> str:
        return f"{name}({','.join(arguments)})"

    def _print_Symbol(self, expression: Any) -> str:
        return self.cell(expression.name)

    def _print_Mul(self, expression: Any) -> str:
        return "*".join(self._print(x) if x.is_Atom else f"({self._print(x)})" for x in factors_of(expression))

    def _print_Pow(self, expression: Any) -> str:
        return "*".join([self._print(expression.base)] * int(expression.exp))

    def _print_Relational(self, expression: Any) -> str:
        sign = {"==": "=", "!=": "<>"}.get(expression.rel_op, expression.rel_op)
        return f"{self._print(expression.lhs)}{sign}{self._print(expression.rhs)}"


def formulas(f: Function, cell: Callable[[str], str]) -> dict[str, str]:
    """The formula of each step, ``known`` among them: whether the variables are in range, and all numbers exact.

    A component is ``#N/A`` where ``known`` is false. A formula that would be too long has parts of its own, such as
    ``peak_1``. Raises ``InputError`` for one that cannot be cut.
    """
    printer = _Excel(cell)
    ranges = [
        part.format(cell(v.name), v)
        for v in f.variables
        for part in (
            f"{cell(v.name)}>={v.least}",
            f"{cell(v.name)}<={v.most}",
            f"MOD({cell(v.name)},{v.multiple_of})=0",
        )
    ]
    made: dict[str, str] = {}

    def add(name: str, expression: Any, gated: bool) -> None:
        made[name] = ""  # the name is taken
        text = printer._print(_shortened(name, expression))
        if len(text) > _ROOM:
            raise InputError(
                f"the formula of {name} has {len(text):,} characters, and a cell holds {_LONGEST_FORMULA:,}; "
                "take fewer variables, or --to python"
            )
        made[name] = f"=IF({cell('known')},{text},NA())" if gated else f"={text}"

    def _shortened(name: str, expression: Any) -> Any:
        """The expression, with names of parts where it is too long."""
        if len(printer._print(expression)) <= _ROOM:
            return expression

        def part(x: Any) -> Any:
            if x.is_Atom:
                return x
            number = sum(one.startswith(f"{name}_") and one[len(name) + 1 :].isdecimal() for one in made) + 1
            add(f"{name}_{number}", x, gated=False)
            return Symbol(f"{name}_{number}")

        if isinstance(expression, Piecewise):
            return Piecewise(*((part(value), condition) for value, condition in expression.args), evaluate=False)
        if isinstance(expression, Max):
            middle = len(expression.args) // 2
            halves = expression.args[:middle], expression.args[middle:]
            return Max(*(part(Max(*half, evaluate=False)) for half in halves), evaluate=False)
        return expression

    sizes, totals = f.needed
    for step in sizes:
        add(step.name, step.expression, gated=False)
    made["known"] = f"=AND({','.join([*ranges, f'{printer._print(f.largest)}<{_EXACT}'])})"
    for step in totals:
        add(step.name, step.expression, gated=True)
    return made


def write_workbook(f: Function, path: Path) -> None:
    """Write the workbook. Raises ``InputError`` for a formula that is too long, and ``OSError``."""
    import xlsxwriter

    content = BytesIO()
    book = xlsxwriter.Workbook(content, {"strings_to_formulas": False, "strings_to_urls": False, "in_memory": True})
    styles = {
        "title": book.add_format({"bold": True, "font_size": 14}),
        "head": book.add_format({"bold": True, "bottom": 1}),
        "input": book.add_format({"bg_color": "#FFF2CC", "num_format": "#,##0", "border": 1}),
        "bytes": book.add_format({"num_format": "#,##0"}),
        "gib": book.add_format({"num_format": "0.00"}),
        "text": book.add_format({"text_wrap": True, "valign": "top"}),
    }
    _estimate_sheet(book, f, styles)
    _curve_sheet(book, f, styles)
    _explanation(book, f, styles)
    book.close()
    path.write_bytes(content.getvalue())


def _estimate_sheet(book: Any, f: Function, styles: Mapping[str, Any]) -> None:
    sheet = book.add_worksheet("Estimate")
    for column, width in enumerate((28, 22, 12, 80)):
        sheet.set_column(column, column, width)
    sheet.write(0, 0, f"Memory of {printable(f.plan.model)}", styles["title"])
    sheet.write_row(2, 0, ["variable", "value", "", "meaning"], styles["head"])
    values = {v.name: v.value for v in f.variables}
    computed = steps_at(f, values)
    rows: dict[str, int] = {}
    for row, v in enumerate(f.variables, 3):
        rows[v.name] = row
        sheet.write(row, 0, v.name)
        sheet.write_number(row, 1, v.value, styles["input"])
        sheet.write(row, 3, f"{v.meaning}; a whole number from {v.least:,} to {v.most:,}")
        rule = {"validate": "integer", "criteria": "between", "minimum": v.least, "maximum": min(v.most, 2**31 - 1)}
        sheet.data_validation(row, 1, row, 1, rule)
        book.define_name(_name(v.name), f"=Estimate!$B${row + 1}")
    start = 4 + len(f.variables)
    sheet.write_row(start, 0, ["component", "bytes", "GiB", "meaning"], styles["head"])
    made = formulas(f, _name)
    meanings = {step.name: step.meaning for step in f.all_needed}
    meanings["known"] = "whether the variables are in range, and all numbers exact in a spreadsheet"
    ordered = [*f.components, *(name for name in made if name not in f.components)]
    for row, name in enumerate(ordered, start + 1):
        sheet.write(row, 0, name)
        sheet.write_formula(row, 1, made[name], styles["bytes"], _cached(name, computed))
        if name in f.components:
            sheet.write_formula(row, 2, f"=B{row + 1}/2^30", styles["gib"], computed[name] / 2**30)
        sheet.write(row, 3, meanings.get(name, "a part of the formula that has its name"))
        book.define_name(_name(name), f"=Estimate!$B${row + 1}")
    sheet.freeze_panes(3, 0)


def _curve_sheet(book: Any, f: Function, styles: Mapping[str, Any]) -> None:
    """The components against one variable, the others as on the first sheet."""
    from xlsxwriter.utility import xl_col_to_name

    sheet = book.add_worksheet("Curve")
    along = next((v for v in f.variables if v.name in ("seq", "n_ctx")), f.variables[0])
    names = [v.name for v in f.variables]
    made = formulas(f, lambda name: name)
    columns = [*names, *made]
    letters = {name: xl_col_to_name(number) for number, name in enumerate(columns)}
    sheet.set_column(0, len(columns) - 1, 18)
    sheet.write_row(0, 0, columns, styles["head"])
    for row, value in enumerate(_points(along), 1):

        def cell(name: str, row: int = row) -> str:
            return f"${letters[name]}{row + 1}"

        values = {v.name: v.value for v in f.variables} | {along.name: value}
        computed = steps_at(f, values)
        for name in names:
            if name == along.name:
                sheet.write_number(row, columns.index(name), value, styles["input"])
            else:
                sheet.write_formula(row, columns.index(name), f"={_name(name)}", styles["bytes"], values[name])
        for name, text in formulas(f, cell).items():
            sheet.write_formula(row, columns.index(name), text, styles["bytes"], _cached(name, computed))
    chart = book.add_chart({"type": "scatter", "subtype": "straight_with_markers"})
    last = _POINTS
    shown = [name for name in ("peak", "process", "resident", "used", "weights") if name in f.components][:3]
    for name in shown or f.components[-1:]:
        chart.add_series(
            {
                "name": name,
                "categories": ["Curve", 1, columns.index(along.name), last, columns.index(along.name)],
                "values": ["Curve", 1, columns.index(name), last, columns.index(name)],
            }
        )
    chart.set_x_axis({"name": f"{along.name}: {along.meaning}"})
    chart.set_y_axis({"name": "bytes", "display_units": "millions", "display_units_visible": True})
    chart.set_title({"name": f"Memory of {printable(f.plan.model)}", "name_font": {"size": 12}})
    chart.set_size({"width": 720, "height": 400})
    sheet.insert_chart(last + 3, 0, chart)


def _explanation(book: Any, f: Function, styles: Mapping[str, Any]) -> None:
    sheet = book.add_worksheet("Explanation")
    sheet.set_column(0, 0, 110)
    lines = [
        *heading(f),
        "Change the yellow cells of the sheet Estimate. Every other cell is computed from them.",
        "Cells have names, for your own formulas: "
        + ", ".join(_name(name) for name in [*(v.name for v in f.variables), *f.components]),
        "The sheet Curve has the same formulas for several values of one variable; its yellow cells can be changed.",
        f"#N/A: a variable is out of range, or a number would exceed 2^53 ({human(_EXACT)}), where spreadsheets round.",
    ]
    for row, line in enumerate(lines):
        sheet.write_string(row, 0, line, styles["text"])


def _cached(name: str, computed: Mapping[str, int]) -> Any:
    """What a cell shows until it is computed: parts of formulas, which nobody reads, show nothing."""
    return True if name == "known" else computed.get(name, "")


def _points(v: Variable) -> list[int]:
    """Values of a variable around the plan's, evenly on a logarithmic scale."""
    least, most = max(v.least, v.value // 16), min(v.most, v.value * 8)
    shares = (i / (_POINTS - 1) for i in range(_POINTS))
    steps = {round(least * (most / least) ** share / v.multiple_of) for share in shares}
    found = sorted(step * v.multiple_of for step in steps if step * v.multiple_of >= v.least)
    while len(found) < _POINTS:
        found.append(found[-1] + v.multiple_of)
    return found


def _name(name: str) -> str:
    """The name of a cell. A prefix keeps it from being taken for a cell's address, such as R."""
    return f"estimate_{name}"
