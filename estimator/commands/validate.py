"""``estimator validate``: the formulas against a trace of the real model, coefficient by coefficient."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .options import add_plan_options, plan_from

if TYPE_CHECKING:
    from fractions import Fraction

    from rich.console import Console
    from rich.table import Table

    from ..validation import Progress, RegimeResult, Validation

_QUIET_SECONDS = 1.0
"""Shorter traces show no progress bar."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_plan_options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def execute(args: argparse.Namespace) -> int:
    """Run the command. Returns 0 if every coefficient and count is equal, 1 if not."""
    plan = plan_from(args)
    from ..validation import validate

    with _progress_bar() as progress:
        validation = validate(plan, progress)
    if args.json:
        print(json.dumps(validation.to_dict()))
    else:
        from rich.console import Console

        _show(validation, Console())
    return 0 if validation.equal else 1


@contextmanager
def _progress_bar() -> Iterator[Progress]:
    """A bar on stderr that appears once tracing has taken a while."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = TextColumn("traced points"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task("")
    started = time.monotonic()

    def advance(done: int, total: int) -> None:
        if time.monotonic() - started > _QUIET_SECONDS:
            bar.start()
        bar.update(task, completed=done, total=total)

    try:
        yield advance
    finally:
        bar.stop()


def _show(validation: Validation, console: Console) -> None:
    from rich.table import Table

    counts = Table(title="Without a forward pass", title_justify="left")
    for name, justify in (("", "left"), ("formula", "right"), ("trace", "right"), ("equal", "left")):
        counts.add_column(name, justify=justify)  # type: ignore[arg-type]
    for count in validation.counts:
        unit = "" if count.name.endswith("_parameters") else " (bytes)"
        counts.add_row(
            count.name.replace("_", " ") + unit, f"{count.formula:,}", f"{count.trace:,}", _word(count.equal)
        )
    console.print(counts)
    for result in validation.regimes:
        console.print()
        console.print(_coefficients(result))
        if result.equal:
            console.print(f"equal for every {result.condition}")
            continue
        if result.check is not None and not result.exact:
            batch, seq = result.points[-1]
            console.print(
                f"the trace is no polynomial of this degree: at B = {batch}, S = {seq} it has {result.check[1]:,} bytes, "
                f"its other points say {_format(result.check[0])}"
            )
        if result.differences:
            console.print(_differences(result))
    console.print()
    console.print("equal" if validation.equal else "not equal: a rule is wrong where the tables say so")


def _coefficients(result: RegimeResult) -> Table:
    from rich.table import Table

    table = Table(title=f"Saved for backward, bytes; {result.condition}", title_justify="left")
    table.add_column("monomial")
    table.add_column("formula", justify="right")
    table.add_column("trace", justify="right")
    table.add_column("equal")
    for c in result.coefficients:
        table.add_row(c.monomial, _format(c.formula), _format(c.trace), _word(c.equal))
    return table


def _differences(result: RegimeResult) -> Table:
    from rich.table import Table

    batch, seq = result.compared_at
    table = Table(title=f"Tensors that one side lacks, at B = {batch}, S = {seq}", title_justify="left")
    for name in ("only in", "module entered last", "operator", "shape", "dtype"):
        table.add_column(name, overflow="fold")
    table.add_column("bytes", justify="right")
    table.add_column("times", justify="right")
    for d in result.differences:
        shape = f"[{', '.join(map(str, d.shape))}]"
        table.add_row(
            d.only_in, d.module, d.operator, shape.replace("[", r"\["), d.dtype, f"{d.nbytes:,}", str(d.times)
        )
    return table


def _format(value: Fraction) -> str:
    return f"{value.numerator:,}" if value.denominator == 1 else str(value)


def _word(equal: bool) -> str:
    return "yes" if equal else "[bold red]no[/]"
