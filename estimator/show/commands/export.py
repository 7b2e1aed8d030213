"""``estimator export``: a plan's bytes as a function of some keys, in the language of a planner."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from ...errors import InputError
from .options import add_plan_options, plan_from

TARGETS = ("python", "numpy", "javascript", "c", "sql", "xlsx", "latex", "json")
DIALECTS = ("duckdb", "postgres", "bigquery", "spark")


def configure(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Add the command's options."""
    add_plan_options(parser, arguments)
    own = parser.add_argument_group("export")
    own.add_argument(
        "--vars",
        metavar="LIST",
        help="the keys that stay open, such as batch,seq,r: of the plan and, where its program is symbolic, the number "
        "of layers and the config's sizes (default: batch,seq; on llama.cpp n_ctx)",
    )
    own.add_argument("--to", required=True, choices=TARGETS, metavar="|".join(TARGETS), help="what is written")
    own.add_argument(
        "--dialect", choices=DIALECTS, metavar="|".join(DIALECTS), help="whose SQL it is (default: duckdb)"
    )
    own.add_argument(
        "--only", metavar="LIST", help="the components, by their names in the result's bytes (default: all)"
    )
    own.add_argument(
        "--short",
        action="store_true",
        help="the moment that is the peak most often in place of the largest of all, with a proved bound of what it "
        "leaves out",
    )
    own.add_argument("--output", metavar="FILE", type=Path, help="write to a file (needed for xlsx)")


def execute(args: argparse.Namespace) -> int:
    """Print or write the function. Returns 0."""
    if args.dialect and args.to != "sql":
        raise InputError(f"--dialect belongs to --to sql; leave it out, or export --to sql in place of {args.to}")
    if args.to == "xlsx" and args.output is None:
        raise InputError("a workbook is no text; name a file with --output, such as plan.xlsx")
    plan = plan_from(args)
    from ...export.build import default_names, function_of

    names = default_names(plan) if args.vars is None else _listed(args.vars)
    f = function_of(plan, names)
    if args.only is not None:
        f = f.only(_listed(args.only))
    if args.short:
        from ...export.short import shortened

        f = shortened(f)
    try:
        if args.to == "xlsx":
            from ...export.workbook import write_workbook

            write_workbook(f, args.output)
            return 0
        text = _writer(args.to, args.dialect or "duckdb")(f)
        if args.output is None:
            print(text, end="")
        else:
            args.output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write '{args.output}': {error.strerror}; name another file") from None
    return 0


def _writer(target: str, dialect: str) -> Callable[..., str]:
    from ...export import code

    writers: dict[str, Callable[..., str]] = {
        "python": code.to_python,
        "numpy": code.to_numpy,
        "javascript": code.to_javascript,
        "c": code.to_c,
    }
    if target == "sql":
        from ...export.sql import to_sql

        return lambda f: to_sql(f, dialect)
    if target == "json":
        from ...export.objects import to_json

        return to_json
    if target == "latex":
        from ...export.equations import to_equations

        return to_equations
    return writers[target]


def _listed(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
