"""``estimator devices``: the devices a plan may name."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from .. import devices
from .tables import gib, matches, show, table


def configure(parser: argparse.ArgumentParser, _: Sequence[str]) -> None:
    """Add the command's options."""
    parser.add_argument(
        "filter", nargs="?", metavar="FILTER", help="show devices with this text in name, label or kind"
    )
    parser.add_argument(
        "--json", action="store_true", help="print a JSON list; sizes in bytes, with source and confidence"
    )


def execute(args: argparse.Namespace) -> int:
    """Print the catalogue. Always returns 0."""
    found = [d for d in devices.catalogue() if matches(args.filter, d.name, d.label, d.kind)]
    if args.json:
        print(json.dumps([asdict(device) for device in found], indent=2))
    elif not found:
        print(f"no device matches '{args.filter}'; leave the filter out to see all, or give plans a budget")
    else:
        rows = [
            (
                d.name,
                d.label,
                d.kind,
                gib(d.total_bytes),
                "unknown" if d.usable_bytes is None else gib(d.usable_bytes),
                d.confidence,
            )
            for d in found
        ]
        columns = ("name", "device", "kind", "total (GiB)", "usable (GiB)", "confidence")
        show(f"{len(found)} devices (1 GiB = 2^30 bytes; --json adds the sources)", table(columns, rows, (0, 1, 2, 5)))
    return 0
