"""``estimator largest-quant``: the recipe of llama-quantize with the most bits that fits."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ...answers.offload import Quant, quants
from ...answers.result import SCHEMA
from ...plans.margins import MARGIN_HELP, Margin
from .estimate import asked, title
from .options import add_plan_options, plan_mapping
from .tables import Progress, gib, present, show, show_answer, show_assumptions, table


def configure(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Add the command's options."""
    add_plan_options(parser, arguments, without=("dtype",))
    own = parser.add_argument_group("largest-quant")
    own.add_argument("--margin", metavar="SIZE|SHARE", help=MARGIN_HELP)
    own.add_argument("--json", action="store_true", help="print one JSON object; sizes in bytes")


def execute(args: argparse.Namespace) -> int:
    """Print the recipes down to the one that fits. Returns 1 where none does."""
    keys = plan_mapping(args)
    with Progress() as progress:
        found = quants(keys, progress.step, Margin.parse(args.margin))
    fits = found[-1].verdict == "fits"
    record = {"schema": SCHEMA, "question": "largest-quant", "answer": found[-1].plan.dtype if fits else None}
    present(args, lambda: {**record, "recipes": [one.to_dict() for one in found]}, lambda: _print(found, fits))
    return 0 if fits else 1


def _print(found: list[Quant], fits: bool) -> None:
    show(asked(found[-1].plan.asked), title(found[-1].plan))
    limits = [column for one in found[-1].limits for column in (f"{one.against} GiB", "left GiB")]
    rows = [
        [
            one.plan.dtype.upper(),
            gib(one.result.bytes["weights"]),
            *(cell for limit in one.limits for cell in (gib(limit.needed), gib(limit.left))),
            one.verdict,
        ]
        for one in found
    ]
    show(table(["recipe", "weights GiB", *limits, "verdict"], rows, left=(0, len(limits) + 2)))
    for warning in found[-1].result.warnings:
        show(f"Note: {warning}")
    show_assumptions(found[-1].result.assumptions)
    name = found[-1].plan.dtype.upper()
    if fits:
        show_answer(f"largest recipe that fits: {name}", brief=name, style="good")
    else:
        show_answer(f"Does not fit: {name} is the smallest recipe.", brief="none", style="bad")
