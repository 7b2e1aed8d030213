"""``estimator smallest-device``: the smallest device that a plan fits."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ...answers.inverse import DeviceAnswer, DeviceFit, smallest_device
from ...answers.sentences import verdict, what_binds
from ...errors import InputError
from ...plans.margins import MARGIN_HELP, Margin
from ...text import human
from .estimate import asked, title
from .options import add_plan_options, listed, plan_mapping
from .tables import Progress, gib, present, show, show_answer, show_assumptions, table

MANY = 20
"""So many devices that are left out for one reason, or more, are counted and not named; ``--json`` names them all."""


def configure(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Add the command's options."""
    add_plan_options(parser, arguments, without=("device", "devices", "ios_increased_memory_limit", "budget"))
    for option in ("--device", "--budget"):
        parser.add_argument(option, help=argparse.SUPPRESS)  # accepted here, and refused below
    own = parser.add_argument_group("smallest-device")
    own.add_argument("--margin", metavar="SIZE|SHARE", help=MARGIN_HELP)
    own.add_argument(
        "--devices",
        dest="candidates",
        metavar="LIST",
        help="the candidates, by name (default: all that `estimator devices` lists)",
    )
    own.add_argument("--kind", metavar="TEXT", help="only devices whose kind has this text in it: GPU, Apple, phone")
    own.add_argument("--json", action="store_true", help="print one JSON object; sizes in bytes")


def execute(args: argparse.Namespace) -> int:
    """Print the device and the next ones. Returns 1 where none fits."""
    plan = plan_mapping(args)
    for key in ("device", "budget"):
        if key in plan:
            raise InputError(
                f"smallest-device looks for a device; leave {key} out of the plan, or name candidates with --devices"
            )
    devices = () if args.candidates is None else listed(args.candidates, "devices")
    with Progress() as progress:
        answer = smallest_device(plan, args.kind, progress.step, Margin.parse(args.margin), devices)
    present(args, answer.to_dict, lambda: _print(answer))
    return 1 if answer.found is None else 0


def _print(answer: DeviceAnswer) -> None:
    show(asked(answer.on_device.asked), title(answer.on_device))
    best, below = answer.found, answer.below
    if best is None:
        assert below is not None
        show_answer(
            f"Does not fit: no device is large enough. The largest, {below.device.label}: {_short_of(below)}.",
            brief="none",
        )
        if answer.plan.task == "train" and answer.plan.run is None:
            show("To fit: `estimator advise` with this plan and a device finds the cheapest changes.")
        _left_out(answer)
        return
    show_answer(f"smallest device: {best.device.label} ({best.device.name})", brief=best.device.name)
    show(
        f"It needs {human(best.result.bytes[best.result.against])}; the peak is at: {best.result.binds}.",
        verdict(best.result, best.margin),
    )
    show_assumptions(best.result.assumptions)
    if answer.best is not None and answer.tight is not None:
        show(
            f"Without a margin: {answer.tight.device.label} ({answer.tight.device.name}), "
            f"{human(answer.tight.margin_bytes)} to spare."
        )
    if below is not None:
        show(f"The next smaller, {below.device.label}: {_short_of(below)}.")
    if answer.others:
        rows = [
            [one.device.name, one.device.kind, gib(one.device.usable_bytes), gib(one.margin_bytes)]
            for one in answer.others
        ]
        show(table(["the next ones that fit", "kind", "usable GiB", "to spare GiB"], rows, left=(0, 1)))
    for warning in best.result.warnings:
        show(f"Note: {warning}")
    _left_out(answer)


def _left_out(answer: DeviceAnswer) -> None:
    for reason, names in answer.left_out.items():
        show(f"Left out: {len(names)} {reason}" + (f" ({', '.join(names)})." if len(names) < MANY else "."))


def _short_of(one: DeviceFit) -> str:
    process = one.result.bytes[one.result.against]
    if one.margin_bytes >= 0:
        return f"{human(process)} are needed, and only {human(one.margin_bytes)} are left for the margin"
    return (
        f"{human(process)} are needed, {human(-one.margin_bytes)} ({-one.margin_bytes:,} bytes) too much; "
        f"{what_binds(one.result)}"
    )
