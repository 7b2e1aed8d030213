"""``estimator models``: the built-in models."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict

from ...answers.catalogue import models
from ...text import dumped
from .tables import counted, fits_screen, show, show_answer, table


def configure(parser: argparse.ArgumentParser, _: Sequence[str]) -> None:
    """Add the command's options."""
    parser.add_argument(
        "filter", nargs="?", metavar="FILTER", help="show models with this text in name, hub id or family"
    )
    parser.add_argument("--all", action="store_true", help="show them all, however long the terminal")
    parser.add_argument("--json", action="store_true", help="print a JSON list")


def execute(args: argparse.Namespace) -> int:
    """Print the built-in models. Always returns 0."""
    found = models(args.filter)
    if args.json:
        print(dumped([asdict(one) for one in found], indent=2))
    elif not found:
        show_answer(f"no built-in model matches '{args.filter}'; any config.json, folder or hub id works as MODEL too")
    else:
        columns = (
            "name",
            "family",
            "runtimes",
            "parameters",
            "layers",
            "hidden",
            "heads",
            "KV heads",
            "vocabulary",
            "tied",
            "source (hub id)",
        )
        rows = [
            (
                one.name,
                one.family,
                one.runtimes,
                "unknown" if one.parameters is None else f"{one.parameters:,}",
                *("" if size is None else str(size) for size in (one.layers, one.hidden, one.heads, one.kv_heads)),
                "" if one.vocabulary is None else f"{one.vocabulary:,}",
                "yes" if one.tied else "no",
                one.hub_id or one.source,
            )
            for one in found
        ]
        whole = table(columns, rows, (0, 1, 2, 10))
        if args.all or fits_screen(whole):
            show(f"{len(found)} built-in models", whole)
        elif args.filter is None:
            families = [one.family for one in found]
            show(f"{len(found)} built-in models of {len(set(families))} families:", counted(families))
            show("`estimator models qwen3` shows those with this text in name, hub id or family; --all shows them all.")
        else:
            show(f"{len(found)} built-in models; --all shows their sizes", whole._replace(optional=range(4, 11)))
        show_answer(brief="\n".join(one.name for one in found))
    return 0
