"""``estimator devices``: the devices a plan may name."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ...answers import catalogue as answers
from ...engines import devices
from ...errors import InputError
from ...io.fields import parse_size
from ...text import dumped, matches
from .tables import counted, fits_screen, gib, show, show_answer, table


def configure(parser: argparse.ArgumentParser, _: Sequence[str]) -> None:
    """Add the command's options."""
    parser.add_argument(
        "filter", nargs="?", metavar="FILTER", help="show devices with this text in name, label or kind"
    )
    parser.add_argument("--kind", help="show this kind only, or what its name has this text in: laptop, 'data centre'")
    parser.add_argument("--min-memory", metavar="SIZE", help="show devices with this much usable memory or more: 20GiB")
    parser.add_argument("--max-memory", metavar="SIZE", help="show devices with this much usable memory or less: 48GiB")
    parser.add_argument(
        "--capability", metavar="X.Y", help="show CUDA devices of this compute capability or a newer one: 8.0"
    )
    parser.add_argument("--all", action="store_true", help="show them all, however long the terminal")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print a JSON list; sizes in bytes, with source, confidence and the size of a CUDA context",
    )


def _select(args: argparse.Namespace) -> list[devices.Device]:
    """The devices that pass all filters, sorted by memory. Raises ``InputError``."""
    found = answers.devices(args.filter)
    if args.kind is not None:
        kinds = dict.fromkeys(d.kind for d in devices.catalogue())
        if not any(matches(args.kind, kind) for kind in kinds):
            raise InputError(f"no kind of device is called '{args.kind}'; kinds are {'; '.join(kinds)}")
        found = [d for d in found if matches(args.kind, d.kind)]
    if args.min_memory is not None:
        least = parse_size(args.min_memory)
        found = [d for d in found if d.usable_bytes >= least]
    if args.max_memory is not None:
        most = parse_size(args.max_memory)
        found = [d for d in found if d.usable_bytes <= most]
    if args.capability is not None:
        oldest = devices.capability(args.capability)
        found = [d for d in found if d.capability is not None and d.capability >= oldest]
    return found


def _record(device: devices.Device) -> dict[str, Any]:
    """All fields of a device, and its CUDA context, which is a similar device's where its own is not published."""
    record = asdict(device)
    if device.capability is not None:
        record["context_bytes"], record["context_source"] = devices.context_bytes(device)
    return record


def execute(args: argparse.Namespace) -> int:
    """Print the catalogue. Always returns 0. Raises ``InputError``."""
    found = _select(args)
    if args.json:
        print(dumped([_record(device) for device in found], indent=2))
    elif not found:
        what = f"'{args.filter}'{devices.hint(args.filter)}" if args.filter else "these options"
        show_answer(f"no device matches {what}; leave the filter out to see all, or give plans a budget")
    else:
        rows = [
            (
                d.name,
                d.label,
                d.kind,
                "" if d.capability is None else "{}.{}".format(*d.capability),
                gib(d.total_bytes),
                gib(d.usable_bytes),
                d.confidence,
            )
            for d in found
        ]
        columns = ("name", "device", "kind", "CUDA", "total (GiB)", "usable (GiB)", "confidence")
        whole = table(columns, rows, (0, 1, 2, 6))
        kinds = {d.kind for d in found}
        if args.all or fits_screen(whole):
            show(f"{len(found)} devices (1 GiB = 2^30 bytes; --json adds the sources)", whole)
        elif len(kinds) > 1:
            show(f"{len(found)} devices, by kind:", counted(d.kind for d in found))
            show("`estimator devices rtx` shows those with this text in name, label or kind; --all shows them all.")
        else:
            show(f"{len(found)} devices of the kind {kinds.pop()}, by maker:", counted(d.maker for d in found))
            show("`estimator devices sony` shows those with this text in name, label or kind; --all shows them all.")
        show_answer(brief="\n".join(d.name for d in found))
    return 0
