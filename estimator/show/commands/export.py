"""``estimator export``: a plan's bytes as a function of some keys, in the language of a planner."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...io.outputs import place_of
from ...methods.registry import method_block
from ...plans.plan import parse_plan
from .options import add_plan_options, listed, plan_from, plan_mapping
from .tables import Progress, written_to

TARGETS = ("python", "numpy", "javascript", "c", "sql", "xlsx", "latex", "json", "html")
DIALECTS = ("duckdb", "postgres", "bigquery", "spark")


def configure(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Add the command's options."""
    add_plan_options(parser, arguments, without=("lengths", "budget"))
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
        help="one moment in place of the largest of all; the bound of what that leaves out is proved, and stated",
    )
    own.add_argument(
        "--methods", metavar="LIST", help="html: the methods that can be picked (default: the plan's, and full)"
    )
    own.add_argument(
        "--dtypes",
        metavar="LIST",
        help="html: the precisions, or recipes of llama.cpp (default: the plan's, and others)",
    )
    own.add_argument("--output", metavar="FILE", type=Path, help="write to a file (needed for xlsx)")


def execute(args: argparse.Namespace) -> int:
    """Print or write the function. Returns 0."""
    if args.dialect and args.to != "sql":
        raise InputError(f"--dialect belongs to --to sql; leave it out, or export --to sql in place of {args.to}")
    if args.to == "xlsx" and args.output is None:
        raise InputError("a workbook is no text; name a file with --output, such as plan.xlsx")
    for option in ("methods", "dtypes"):
        if getattr(args, option) and args.to != "html":
            raise InputError(
                f"--{option} belongs to --to html; leave it out, or export --to html in place of {args.to}"
            )
    if args.output is not None:
        place_of(args.output)
    text = _page(args) if args.to == "html" else _function(args)
    if text is None:
        return 0
    if args.output is None:
        print(text, end="")
        return 0
    with written_to(args.output) as part:
        part.write_text(text, encoding="utf-8")
    return 0


def _function(args: argparse.Namespace) -> str | None:
    """The text of a function; ``None`` where it is a workbook, which is written."""
    plan = plan_from(args)
    from ...export.build import default_names, function_of

    names = default_names(plan) if args.vars is None else listed(args.vars)
    only = None if args.only is None else listed(args.only, "only")
    with Progress() as progress:
        f = function_of(plan, names, only is None or "process_at_most" in only, progress.step)
    if only is not None:
        f = f.only(only)
    if args.short:
        from ...export.short import shortened

        f = shortened(f)
    if args.to != "xlsx":
        return _writer(args.to, args.dialect or "duckdb")(f)
    from ...export.workbook import write_workbook

    with written_to(args.output) as part:
        write_workbook(f, part)
    return None


def _page(args: argparse.Namespace) -> str:
    """The text of a planner page."""
    if args.only is not None or args.short:
        raise InputError("a page shows every component; leave out --only and --short")
    keys = plan_mapping(args)
    plan = parse_plan(keys)
    from ...export.build import default_names
    from ...export.page import choices_of, to_page

    names = [*default_names(plan), "r"] if args.vars is None else listed(args.vars)
    dtypes = list(dict.fromkeys((str(plan.dtype), *plan.engine.page_dtypes)))
    if args.dtypes is not None:
        dtypes = listed(args.dtypes)
    methods: list[dict[str, Any]] = []
    if plan.engine.runs_steps:
        given = method_block(keys.get("method", "full"))
        named = ["full"] if args.methods is None else listed(args.methods)
        blocks = [given if name == given["name"] else method_block(name) for name in named]
        methods = blocks if args.methods is not None or given in blocks else [given, *blocks]
    elif args.methods is not None:
        raise InputError(f"--methods is for steps in PyTorch; {plan.runtime} infers without a method, so leave it out")
    with Progress() as progress:
        return to_page(choices_of(keys, methods, dtypes, names, args.dtypes is not None, progress.step))


def _writer(target: str, dialect: str) -> Callable[..., str]:
    from ...export import code_c, code_javascript, code_python

    writers: dict[str, Callable[..., str]] = {
        "python": code_python.to_python,
        "numpy": code_python.to_numpy,
        "javascript": code_javascript.to_javascript,
        "c": code_c.to_c,
    }
    if target == "sql":
        from ...export.sql import to_sql

        return lambda f: to_sql(f, dialect)
    if target == "json":
        from ...export.json_trees import to_json

        return to_json
    if target == "latex":
        from ...export.heading import heading
        from ...export.latex import to_latex

        return lambda f: to_latex([f], heading(f))
    return writers[target]
