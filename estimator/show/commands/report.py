"""``estimator report``: a table of the runs that ``estimator.callback`` recorded."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ...answers.measured_runs import MEASURES, MeasuredRun, medians, read
from .tables import gib, present, show, show_answer, table


def configure(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Add the command's options."""
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="files of records, one JSON object per line; - reads stdin"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object; sizes in bytes")


def execute(args: argparse.Namespace) -> int:
    """Print predicted and measured bytes of each run."""
    rows = read(args.files)
    present(args, lambda: {"runs": [_record(row) for row in rows], "medians": medians(rows)}, lambda: _print(rows))
    return 0


def _record(row: MeasuredRun) -> dict[str, object]:
    run = {key: value for key, value in vars(row).items() if key != "plan"}
    return {**run, "off": {name: off for name in MEASURES if (off := row.off(name)) is not None}}


def _print(rows: list[MeasuredRun]) -> None:
    measures = [name for name in MEASURES if any(row.off(name) is not None for row in rows)]
    columns = ["model", "device", "date", *(f"{name}\npredicted GiB\nmeasured GiB\noff" for name in measures)]
    cells = [[row.model, row.device, row.date, *(_cell(row, name) for name in measures)] for row in rows]
    show(table(columns, cells, left=(0, 1, 2), title="runs"))
    for row in rows:
        if row.error:
            show(f"{row.model}: no estimate: {row.error}")
    found = medians(rows)
    if found:
        text = ", ".join(f"{name} {100 * value:.2f} %" for name, value in found.items())
        show_answer(f"Median difference of predicted and measured: {text}.", brief=text)


def _cell(row: MeasuredRun, name: str) -> str:
    off = row.off(name)
    return "" if off is None else f"{gib(row.predicted[name])} {gib(row.measured[name])} {100 * off:+.1f} %"
