"""``estimator validate``: the formulas against a trace of the real model, coefficient by coefficient."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from ...text import dumped
from .options import add_plan_options, plan_from
from .tables import Progress, Table, show, show_answer, table

if TYPE_CHECKING:  # needs PyTorch
    from ...answers.validation import RegimeResult, Validation


def configure(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Add the command's options."""
    add_plan_options(parser, arguments)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def execute(args: argparse.Namespace) -> int:
    """Print the comparison. Returns 0 if all coefficients and counts are equal, else 1."""
    plan = plan_from(args)
    from ...answers.validation import validate

    with Progress(of="traced points") as progress:
        validation = validate(plan, progress.step)
    if args.json:
        print(dumped(validation.to_dict()))
    else:
        _print(validation)
    return 0 if validation.equal else 1


def _print(validation: Validation) -> None:
    if validation.equal:
        show_answer(
            "equal for every B and every S: each B >= 1 and S >= 1 lies in one of the cases above", brief="equal"
        )
    else:
        show_answer("not equal: a rule is wrong", brief="not equal")
    show(_counts_table(validation), _coefficients_table(validation))
    for result in validation.regimes:
        if not validation.equal and result.equal:
            show(f"equal for every {result.condition}")
        elif not result.equal:
            _show_difference(result)


def _counts_table(validation: Validation) -> Table:
    rows = [
        [
            count.name.replace("_", " ") + ("" if count.name.endswith("_parameters") else ", bytes"),
            f"{count.formula:,}",
            f"{count.trace:,}",
            _word(count.equal),
        ]
        for count in validation.counts
    ]
    return table(["without a forward pass", "formula", "trace", "equal"], rows, left=(0, 3))


def _coefficients_table(validation: Validation) -> Table:
    rows = [
        ["" if number else result.condition, c.monomial, _format(c.formula), _format(c.trace), _word(c.equal)]
        for result in validation.regimes
        for number, c in enumerate(result.coefficients)
    ]
    columns = ["saved for backward, bytes, for every", "monomial", "formula", "trace", "equal"]
    return table(columns, rows, left=(0, 1, 4), keys=2)


def _show_difference(result: RegimeResult) -> None:
    show(f"not equal for every {result.condition}:")
    if result.check is not None and not result.exact:
        batch, seq = result.points[-1]
        expected, traced = result.check
        show(
            f"  the trace is no polynomial of this degree: at B = {batch}, S = {seq} it has {traced:,} bytes, "
            f"its other points say {_format(expected)}"
        )
    for d in result.differences:
        shape = ", ".join(map(str, d.shape))
        place = " in ".join(part for part in (d.operator, d.module) if part)
        times = "" if d.times == 1 else f", and in {d.times - 1} more places like it"
        show(f"  only in the {d.only_in}: {place}: [{shape}] {d.dtype}, {d.nbytes:,} bytes{times}")
    if result.differences:
        batch, seq = result.compared_at
        show(f"  (at B = {batch}, S = {seq}; the module is the one entered last before the tensor was saved)")


def _format(value: Fraction) -> str:
    return f"{value.numerator:,}" if value.denominator == 1 else str(value)


def _word(equal: bool) -> str:
    return "yes" if equal else "no"
