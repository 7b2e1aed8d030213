"""``estimator smallest-cluster``: how many of which card a training step fits on, and how they share the model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ...answers.cluster import LOOKED_FOR, MAX_CARDS, Cluster, smallest_cluster
from ...answers.sentences import verdict
from ...errors import InputError
from ...plans.margins import MARGIN_HELP, Margin
from ...text import human
from .estimate import asked, title
from .options import add_plan_options, listed, plan_mapping
from .tables import Progress, check_output, gib, present, show, show_answer, show_assumptions, table, write_figure

MOST_ROWS = 24
"""The most layouts that are printed; ``--json`` prints all."""


def configure(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Add the command's options."""
    looked_for = ("device", "devices", "ios_increased_memory_limit", "budget", "sharding", *LOOKED_FOR)
    add_plan_options(parser, arguments, without=looked_for)
    for name in ("device", "budget", "sharding", *LOOKED_FOR[1:]):
        parser.add_argument(f"--{name.replace('_', '-')}", help=argparse.SUPPRESS)  # accepted here, and refused below
    own = parser.add_argument_group("smallest-cluster")
    own.add_argument(
        "--devices", dest="candidates", metavar="LIST", help="the cards to choose from, by name: h100-80gb,rtx-4090"
    )
    own.add_argument(
        "--max-cards", metavar="N", type=int, default=MAX_CARDS, help="the most cards (default: %(default)s)"
    )
    own.add_argument("--margin", metavar="SIZE|SHARE", help=MARGIN_HELP)
    own.add_argument(
        "--output", metavar="FILE", type=Path, help="write a figure, a rank's memory against cards: .png, .pdf or .svg"
    )
    own.add_argument("--json", action="store_true", help="print one JSON object; sizes in bytes")


def execute(args: argparse.Namespace) -> int:
    """Print the layouts that fit. Returns 1 where none does."""
    check_output(args.output)
    keys = plan_mapping(args)
    for key in ("device", "budget"):
        if key in keys:
            raise InputError(f"smallest-cluster looks for cards; leave {key} out of the plan, and name them: --devices")
    devices = () if args.candidates is None else listed(args.candidates, "devices")
    with Progress() as progress:
        answer = smallest_cluster(keys, devices, args.max_cards, progress.step, Margin.parse(args.margin))
    if args.output is not None:
        from ...figures.memory_per_rank import cluster_figure

        write_figure(lambda: cluster_figure(answer), args.output)
    present(args, answer.to_dict, lambda: _print(answer))
    return 0 if answer.layouts else 1


def _print(answer: Cluster) -> None:
    best = answer.best
    shown = best or answer.nearest
    show(asked(shown.plan.asked), title(shown.plan))
    if best is None:
        least = "" if shown.exact else "at least "
        show_answer(
            f"Does not fit on {answer.most} of any of these cards. The nearest is {shown.label}: it needs "
            f"{least}{human(shown.result.bytes['process'])}, {human(-shown.spare)} too much.",
            brief="none",
        )
        show("To fit: more cards (--max-cards), or `estimator advise` with this plan and a card.")
    else:
        show_answer(f"smallest cluster: {best.label}", brief=best.label)
        show(
            f"A rank needs {human(best.result.bytes['process'])}; the peak is at: {best.result.peak_at}.",
            verdict(best.result, best.margin),
        )
        rows = [
            [
                str(one.cards),
                one.device.name,
                one.way,
                gib(one.result.bytes["process"]),
                gib(one.spare) if one.verdict == "fits" else f"{gib(one.spare)} (tight)",
                gib(one.result.communicated),
            ]
            for one in answer.layouts[:MOST_ROWS]
        ]
        columns = ["cards", "device", "sharding", "a rank's GiB", "to spare", "sent a step"]
        show(table(columns, rows, left=(1, 2), title="layouts that fit, in GiB; the batch is one rank's"))
        if (more := len(answer.layouts) - MOST_ROWS) > 0:
            show(f"{more} more fit; --json lists them all.")
        for warning in best.result.warnings:
            show(f"Note: {warning}")
    show_assumptions(shown.result.assumptions)
    if answer.left_out:
        names_and_reasons = (f"{', '.join(names)} ({reason})" for reason, names in answer.left_out.items())
        show(f"Left out: {'; '.join(names_and_reasons)}.")
