"""``estimator sweep``: a plan with lists and ranges as a table, for millions of rows."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...io.outputs import place_of
from ...plans.plan import Plan, read_plan_mapping
from .options import add_plan_options, add_spellings, given_options, listed, takes_list, value_of
from .tables import Progress, refuse_input


def configure(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Add the command's options."""
    add_plan_options(parser, arguments, without=("lengths", "devices"))
    own = parser.add_argument_group("sweep")
    for key in ("method", "seq", "dtype", "device"):
        add_spellings(own, key, f"--{key}s")
    own.add_argument(
        "--only",
        metavar="LIST",
        help="components, by their names in the result's bytes (default: all but process_at_most, which is measured)",
    )
    own.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        help="write the table: .csv; with pyarrow .parquet or .arrow (default: CSV on standard output)",
    )


def execute(args: argparse.Namespace) -> int:
    """Write the table. Returns 0, whether or not anything fits."""
    if args.output is not None:
        place_of(args.output)
    keys = read_plan_mapping(args.plan) if args.plan else {}
    keys |= {name: _value(name, text, args.plan_fields) for name, text in given_options(args).items()}
    if "model" not in keys:
        raise InputError("no model given; name one that `estimator models` lists, a config.json, or a hub id")
    only = None if args.only is None else listed(args.only, "only")
    from ...export.sweep import Sweep

    with Progress() as progress:
        table = Sweep(keys, only, progress.step)
        if args.output is None:
            sys.stdout.flush()
            table.write(sys.stdout.buffer, ".csv")
            return 0
        table.structures  # noqa: B018 (reads the models' files)
        refuse_input(args.output)
        table.write(args.output)
    return 0


_RANGE = re.compile(r"(\d+):(\d+)(?::(\d+))?")


def _value(name: str, text: Any, fields: Mapping[str, Sequence[Any]]) -> Any:
    """An option's value, its values in a list, or its range. Commas of a key that takes a list are its own."""
    annotation = (Plan.model_fields[name] if name in Plan.model_fields else fields[name][0]).annotation
    if not isinstance(text, str) or (name not in ("model", "method") and takes_list(annotation)):
        return value_of(name, text, annotation)
    if found := _RANGE.fullmatch(text.strip()):
        first, last, step = (int(x[:19]) if x else 1 for x in found.groups())  # more digits are out of range, too
        return {"from": first, "to": last, "step": step}
    if "," not in text or (name in ("model", "method") and Path(text).exists()):
        return value_of(name, text, annotation) if name != "method" else text
    words = listed(text)
    return words if name == "method" else [value_of(name, word, annotation) for word in words]
