"""``estimator smallest-device``: the smallest device that a plan fits."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..errors import InputError
from ..report import human, verdict
from ..solve import DeviceAnswer, DeviceFit, smallest_device
from ..text import dumped
from .estimate import title
from .options import add_plan_options, plan_from
from .tables import Progress, gib, show, table


def configure(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Add the command's options."""
    add_plan_options(parser, arguments, without=("device", "budget"))
    for option in ("--device", "--budget"):
        parser.add_argument(option, help=argparse.SUPPRESS)  # for the line that refuses it
    own = parser.add_argument_group("smallest-device")
    own.add_argument("--kind", metavar="TEXT", help="only devices whose kind has this text in it: GPU, Apple, phone")
    own.add_argument("--json", action="store_true", help="print one JSON object; sizes in bytes")


def execute(args: argparse.Namespace) -> int:
    """Print the device and the next ones. Returns 1 where none fits."""
    plan = plan_from(args)
    for key in ("device", "budget"):
        if key in plan.model_fields_set:
            raise InputError(f"smallest-device looks for a device; leave {key} out of the plan")
    with Progress(None) as progress:
        answer = smallest_device(plan, args.kind, progress.step)
    if args.json:
        print(dumped(answer.to_dict(), indent=2))
    else:
        _print(answer)
    return 1 if answer.best is None else 0


def _print(answer: DeviceAnswer) -> None:
    show(title(answer.on_device))
    best, below = answer.best, answer.below
    if best is None:
        assert below is not None
        show(f"Nothing of the catalogue fits. The largest, {below.device.label}: {_short_of(below)}.")
        if answer.plan.task == "train":
            show("To fit: `estimator advise` with this plan and a device finds the cheapest changes.")
        return
    show(
        f"smallest device: {best.device.label} ({best.device.name})",
        f"It needs {human(best.result.bytes['process'])}; the peak is at: {best.result.peak_at}.",
        verdict(best.result),
    )
    if below is not None:
        show(f"The next smaller, {below.device.label}: {_short_of(below)}.")
    if answer.others:
        rows = [
            [one.device.name, one.device.kind, gib(one.device.usable_bytes or 0), gib(one.margin)]
            for one in answer.others
        ]
        show(table(["the next ones that fit", "kind", "usable GiB", "to spare GiB"], rows, left=(0, 1)))
    for warning in best.result.warnings:
        show(f"Note: {warning}")


def _short_of(one: DeviceFit) -> str:
    process = one.result.bytes["process"]
    return (
        f"{human(process)} are needed, {human(-one.margin)} ({-one.margin:,} bytes) too much; "
        f"what binds is: {one.result.peak_at} ({human(one.result.bytes['peak'])} live)"
    )
