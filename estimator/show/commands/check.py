"""``estimator check``: what a training file needs, and what it was understood to mean."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

from ...answers.check import Checked, check
from ...answers.sentences import breakdown, moments_summary, run_summary, shown_value, summary
from ...errors import InputError
from ...plans.plan import Plan
from ...text import dumped, human
from ...trainers.formats import READERS
from .estimate import print_estimate, print_verdict, status_of, title
from .options import add_field, add_plan_options, keys_beside
from .tables import lines_of, show, table

SCREEN = 20
"""Lines of an answer without ``--all``."""
PARTS = ("parameters", "optimizer", "gradients", "saved", "weights", "kv_cache", "peak", "process")
"""The components that a screen names."""


def configure(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Add the command's options."""
    parser.add_argument(
        "file", metavar="FILE", help="a training file, a folder that holds one, or a shell line; - reads stdin"
    )
    add_plan_options(parser, arguments, without=("model",))
    add_field(parser, "model", Plan.model_fields["model"])
    parser.add_argument(
        "--format", metavar="|".join(READERS), help="the tool whose file it is, where its keys fit several"
    )
    parser.add_argument("--no-run", action="store_true", help="the step alone, without the moments of a run beside it")
    parser.add_argument("--all", action="store_true", help="print all of the answer, not a screen of it")
    parser.add_argument(
        "--json", action="store_true", help="print the result object, with the plan that was understood"
    )


def execute(args: argparse.Namespace) -> int:
    """Print the estimate of a training file. Returns 1 if it does not fit. Raises ``InputError`` for a refused plan."""
    keys = keys_beside(args)
    if args.no_run:
        if asked := keys.get("run"):
            raise InputError(f"--no-run leaves out what {', '.join(asked)} is about; leave one of them out")
        keys["run"] = None
    checked = check(args.file, keys, args.format)
    if args.json:
        print(dumped(checked.to_dict(), indent=2))
    if checked.result is None:
        raise InputError(checked.error)
    if not args.json:
        everything, lines = lines_of(partial(_print, checked)), lines_of(partial(_print_screen, checked))[: SCREEN - 1]
        shown = everything if args.all or args.quiet or len(everything) <= SCREEN else lines
        print("\n".join(shown))
        if left := len(everything) - len(shown):
            show(f"{left} more lines: --all")
    return status_of(checked.result)


def _print_screen(checked: Checked) -> None:
    """What matters most: the verdict, what was read, the largest parts, the moments, notes and assumptions by name."""
    result, plan = checked.result, checked.plan
    assert result is not None
    assert plan is not None
    print_verdict(result)
    show(f"Read as {checked.tool}: {plan.asked}.", f"{title(plan)}.")
    sizes = {key: (label, size) for key, label in breakdown(result) if key in PARTS and (size := result.bytes[key])}
    show(f"{', '.join(f'{label} {human(size)}' for label, size in sizes.values())}.")
    show(*filter(None, (summary(result), moments_summary(result), run_summary(result))))
    show(*(f"Note: {warning}" for warning in result.warnings))
    if checked.assumptions:
        values = dict.fromkeys(f"{one.key} {shown_value(one.value)}" for one in checked.assumptions)
        show(f"Assumed: {', '.join(values)}.")
    if checked.ignored:
        show(f"Ignored: {', '.join(dict.fromkeys(one.key for one in checked.ignored))}.")


def _print(checked: Checked) -> None:
    show(f"Read as {checked.tool}.")
    rows = [
        (key, shown_value(value), "" if (said := checked.said_by.get(key, "")) == key else said)
        for key, value in _cells(checked)
    ]
    show(table(("plan", "value", "the file's key"), rows, left=(0, 1, 2)))
    if checked.assumptions:
        together: dict[str, list[str]] = {}
        for assumption in checked.assumptions:
            together.setdefault(assumption.why, []).append(f"{assumption.key} {shown_value(assumption.value)}")
        show(table(("assumed", "why"), [("; ".join(names), why) for why, names in together.items()], left=(0, 1)))
    unread: dict[str, list[str]] = {}
    for one in checked.ignored:
        unread.setdefault(one.why, []).append(one.key)
    if unread:
        show(table(("ignored", "why"), [(", ".join(names), why) for why, names in unread.items()], left=(0, 1)))
    if checked.result is not None and checked.plan is not None:
        print_estimate(checked.result, title(checked.plan), with_assumptions=False)


def _cells(checked: Checked) -> list[tuple[str, Any]]:
    """The plan's keys that the file, its tool or an option set, and those of its blocks, one by one."""
    keys, plan = checked.keys, checked.plan
    given = set(keys) if plan is None else plan.model_fields_set
    found: list[tuple[str, Any]] = []
    for key in (key for key in Plan.model_fields if key in given and keys.get(key) is not None):
        block = keys[key]
        if not isinstance(block, dict):
            found.append((key, block))
            continue
        own = set(block) if plan is None else {"name", *getattr(plan, key).model_fields_set}
        found += [(key if name == "name" else name, value) for name, value in block.items() if name in own]
    return found
