"""``estimator formula``: a plan's memory as formulas to read, to paste or to import."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...answers.formulas import compile_plan, general_regime, regimes
from ...errors import InputError
from ...export.components import EXPORTED, exported
from ...io.outputs import place_of
from ...text import dumped
from .options import add_plan_options, plan_from
from .tables import written_to

if TYPE_CHECKING:
    from ...export.function import Function

_FORMATS = ("text", "latex", "sympy", "json", "python")


def configure(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Add the command's options."""
    add_plan_options(parser, arguments)
    own = parser.add_argument_group("formula")
    own.add_argument(
        "--component",
        choices=(*EXPORTED, "all"),
        default="peak",
        metavar="|".join((*EXPORTED, "all")),
        help="what to give the formula of (default: peak)",
    )
    own.add_argument(
        "--symbolic",
        action="store_true",
        help="leave the architecture's sizes and the rank symbolic; the depth too where a model has more than four "
        "layers, all alike (such formulas hold from four layers on), and but on torch-cuda the head's size",
    )
    own.add_argument(
        "--format",
        choices=_FORMATS,
        default="text",
        metavar="|".join(_FORMATS),
        help="text (default), latex (amsmath), sympy (a script), json (one object; a list of them for all), or python "
        "(functions of B and S that hold for every batch and sequence; the other formats hold for batch and seq of at "
        "least 2, or for --batch 1 or --seq 1 where given)",
    )
    own.add_argument("--output", metavar="FILE", type=Path, help="write to a file")


def execute(args: argparse.Namespace) -> int:
    """Print or write the formulas. Returns 0."""
    if args.output is not None:
        place_of(args.output)
    plan = plan_from(args)
    if args.component not in (*exported(plan), "all"):
        missing = "--task infer" if args.component == "kv_cache" else "--runtime torch-cuda, or a GPU as --device"
        raise InputError(f"this plan has no {args.component}; add {missing}, or take another component")
    components = exported(plan) if args.component == "all" else [args.component]
    # python holds everywhere, the other formats where the plan is
    which = regimes(plan) if args.format == "python" else [general_regime(plan)]
    first, *others = (compile_plan(plan, regime, args.symbolic, images=True) for regime in which)
    from ...export.formula import formula

    text = _rendered([formula(first, name, *others) for name in components], args.format)
    if args.output is None:
        print(text)
        return 0
    with written_to(args.output) as part:
        part.write_text(text + "\n", encoding="utf-8")
    return 0


def _rendered(formulas: Sequence[Function], kind: str) -> str:
    from ...export import algebra, code_python, json_trees, latex, plain_text

    if kind == "text":
        return plain_text.to_text(formulas)
    if kind == "latex":
        return latex.to_latex(formulas, latex.about(formulas[0])).rstrip("\n")
    if kind == "sympy":
        return algebra.sympy_source(formulas)
    if kind == "python":
        return code_python.to_functions(formulas).rstrip("\n")
    records = [json_trees.to_record(f) for f in formulas]
    return dumped(records[0] if len(records) == 1 else records)
