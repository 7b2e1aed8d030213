"""``estimator explain``: what a step saves for backward, row by row, and why; two methods side by side."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...answers.comparison import label_of
from ...answers.config_names import named
from ...errors import InputError
from ...methods.registry import method_block
from ...plans.plan import parse_plan
from ...text import human
from .estimate import asked, title
from .options import add_plan_options, plan_mapping, value_of
from .tables import Table, check_output, present, show, show_answer, table, write_figure, written_to

if TYPE_CHECKING:
    from ...answers.explanation import Explanation
    from ...answers.explanation_view import Section, View

PAGE = (".html",)
"""How the file of a page ends."""


def configure(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Add the command's options."""
    add_plan_options(parser, arguments)
    own = parser.add_argument_group("explanation")
    own.add_argument(
        "--against",
        metavar="METHOD",
        help="another method, side by side: a name, an adapter_config.json or a block such as '{name: lora, r: 16}'; "
        "says what the plan's method adds and drops",
    )
    own.add_argument(
        "--layer",
        metavar="N",
        default="all",
        help="the kind of layer that layer N is of, alone (default: all kinds, and what lies outside of layers)",
    )
    own.add_argument("--json", action="store_true", help="print one JSON object; sizes in bytes")
    own.add_argument("--output", metavar="FILE", type=Path, help="write a page: .html; or a figure: .png, .pdf or .svg")


def execute(args: argparse.Namespace) -> int:
    """Print the explanation, and write its page or figure. Returns 0."""
    check_output(args.output, PAGE)
    keys = plan_mapping(args)
    plan = parse_plan(keys)
    from ...answers.explanation import explain
    from ...answers.explanation_view import side_by_side, view_of

    explanation = explain(plan)
    if args.against is None:
        view = view_of(explanation)
    else:
        block = value_of("against", args.against, dict) if args.against.lstrip().startswith("{") else args.against
        other = parse_plan({**keys, "method": method_block(block)})
        view = side_by_side(explain(other), explanation)
    record = view.to_dict
    if args.layer != "all":
        view = view.of_layer(args.layer)
    if args.output is not None:
        if not view.sections:
            raise InputError("no row is saved for backward, so there is nothing to draw; leave --output out")
        _write(view, args.output)
    present(args, lambda: _of_layer(record(), args.layer), lambda: _print(view))
    return 0


def _of_layer(record: dict[str, Any], layer: str) -> dict[str, Any]:
    """The JSON object of an explanation, or of two, with the parts that a layer is in; for ``all``, with all."""
    if layer == "all":
        return record
    kept: dict[str, Any] = {key: _of_layer(record[key], layer) for key in ("first", "second") if key in record}
    for key in ("parts", "pairs"):
        if key in record:
            kept[key] = [part for part in record[key] if any(int(layer) in unit for unit in part["layers"])]
    return {**record, **kept}


def _write(view: View, path: Path) -> None:
    if path.suffix.lower() in PAGE:
        from ..explanation_page import write_page

        about = f"{asked(view.plan.asked)} {title(view.plan)}"
        with written_to(path) as part:
            write_page(view, about, part)
    else:
        from ...figures.saved_by_module import explanation_figure

        write_figure(lambda: explanation_figure(view), path)


def _print(view: View) -> None:
    from ...answers.explanation_view import mixed

    show(asked(view.plan.asked), title(view.plan))
    if len(view.labels) > 1:
        show(f"Side by side: {view.labels[0]}, then {view.labels[1]} (this plan's method).")
    for section in view.sections:
        show(_table(section, view.labels, view.per))
        for name, part in zip(view.labels, section.parts, strict=True):
            if part is None or part.formula is None:
                continue
            of = f" of {name}" if len(view.labels) > 1 else ""
            each = " each" if section.count > 1 else ""
            show(f"  bytes{of}{each} = {named(part.formula)}, for {part.condition}")
    if view.values:
        show(f"Here {', '.join(f'{name} = {value:,}' for name, value in view.values)}.")
    for one in view.explanations:
        if one.sharding:
            show(_exchanges(one))
    for name, saved, per_token in zip(view.labels, view.saved, view.total_per_token, strict=True):
        of = f" by {name}" if len(view.labels) > 1 else ""
        show_answer(
            f"Saved for backward{of}: {human(saved)} ({saved:,} bytes, {mixed(per_token)} per {view.per}), the sum of "
            "all rows, each as often as it is there.",
            brief=f"{name}: {saved:,}" if len(view.labels) > 1 else f"{saved:,}",
        )


def _exchanges(explanation: Explanation) -> Table:
    """What sharding takes and adds."""
    from ...answers.explanation import EXCHANGED

    rows = [one.cells for one in explanation.sharding]
    return table(
        EXCHANGED,
        rows,
        title=f"what sharding takes and adds: {label_of(explanation.plan)}",
        strong=[number for number, row in enumerate(rows) if row[0] == "peak"],
    )


def _table(section: Section, labels: Sequence[str], per: str) -> Table:
    """A section's rows; of two methods, a column for each. Bytes are ``per`` token, or row."""
    from ...answers.explanation_view import mixed, numbers_of, shape_of, why_of

    two = len(labels) > 1
    heading = f"{section.heading}: {' and '.join(map(mixed, section.per_token))} bytes per {per}"
    heading += " each" if section.count > 1 else ""
    if two:
        heading += f"; {labels[1]} drops {mixed(section.only(0))} and adds {mixed(section.only(1))}"
    rows = []
    for number, line in enumerate(section.lines, 1):
        row = line.row
        amounts = [mixed(row.per_token) if kept else "-" for kept in line.kept]
        sizes = " = ".join(filter(None, (shape_of(row), numbers_of(row))))
        rows.append([str(number), row.module, f"{sizes} {row.dtype}", *amounts, row.operator, why_of(row)])
    rows.append(["", "sum", "", *map(mixed, section.per_token), "", ""])
    columns = ["row", "module", "tensor", *(labels if two else [f"bytes per {per}"]), "operator", "why it is kept"]
    last = len(columns) - 1
    return table(
        columns, rows, left=(1, 2, last - 1, last), title=heading, ruled=(len(rows) - 2,), strong=(len(rows) - 1,)
    )
