"""``estimator estimate``: the answer to one plan, or to many."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from ..errors import InputError
from ..estimate import estimate
from ..files import STANDARD_INPUT, lines, opened, standard_input
from ..plan import Plan
from ..report import result_table, run_summary, runtime_of, summary, verdict
from ..text import dumped, printable
from .options import add_plan_options, given_options, plan_from


def configure(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Add the command's options."""
    add_plan_options(parser, arguments)
    parser.add_argument("--json", action="store_true", help="print the result object")
    parser.add_argument("--plans", metavar="FILE", help="one plan per line (JSON); one result per line, - reads stdin")


def execute(args: argparse.Namespace) -> int:
    """Print the estimate. Returns 1 if it does not fit the budget."""
    if args.plans is not None:
        if args.plan or given_options(args):
            raise InputError(
                "--plans answers the plans of a file as they are; leave MODEL, --plan and their options out"
            )
        return _many(args.plans)
    plan = plan_from(args)
    result = estimate(plan)
    if args.json:
        print(dumped(result.to_dict(), indent=2))
    else:
        from rich.console import Console

        console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
        console.print(result_table(result, title(plan)))
        console.print(summary(result))
        if result.run is not None:
            console.print(run_summary(result))
        for warning in result.warnings:
            console.print(f"Note: {printable(warning)}")
        if result.fits is not None:
            console.print(verdict(result), style="bold green" if result.fits else "bold red")
    return 1 if result.fits is False else 0


def title(plan: Plan) -> str:
    """The plan in a line."""
    if plan.runtime == "llama.cpp":
        return engine_title(plan)
    rank = getattr(plan.method, "r", None)
    method = plan.method.name if rank is None else f"{plan.method.name} r={rank}"
    parts = [plan.model, method, f"batch {plan.batch}", f"seq {plan.seq}", plan.dtype]
    if plan.implementation != "transformers":
        parts.append(plan.implementation)
    if plan.autocast:
        parts.append(f"autocast {plan.autocast}")
    parts += [plan.attention, plan.optimizer if plan.task == "train" else "inference", runtime_of(plan)]
    if plan.generate is not None:
        options = plan.generate
        parts.append(f"{options.max_new_tokens} new tokens, {options.cache_implementation} cache")
        if options.num_beams > 1:
            parts.append(f"{options.num_beams} beams")
    if plan.checkpointing != "none":
        parts.append(f"checkpointing {plan.checkpointing}")
    if plan.mlp_chunks > 1:
        parts.append(f"MLP in {plan.mlp_chunks} chunks")
    if plan.loss != "standard":
        parts.append(f"loss {plan.loss}")
    return ", ".join(parts)


def engine_title(plan: Plan) -> str:
    """A plan of runtime llama.cpp in a line."""
    from ..runtimes.llama_cpp import backend_of

    options = plan.llama_cpp
    parts = [plan.model] if plan.from_gguf else [plan.model, plan.recipe.upper()]
    if options.n_ctx is not None or "seq" in plan.model_fields_set:
        parts.append(f"n_ctx {options.n_ctx or plan.batch * plan.seq}")
    else:
        parts.append("the model's own context")
    parts.append(f"cache {options.cache}")
    sequences = options.sequences(plan.batch)
    if sequences > 1:
        parts.append(f"{sequences} sequences")
    return ", ".join([*parts, f"llama.cpp {options.build} ({backend_of(plan)})"])


def _many(source: str) -> int:
    if source == STANDARD_INPUT:
        return _answer(standard_input(), source)
    with opened(Path(source), "a file with one JSON plan per line") as file:
        return _answer(file, source)


def _answer(file: BinaryIO, source: str) -> int:
    from ..batch import estimate_lines

    for answer in estimate_lines(lines(file, source)):
        print(answer, flush=True)  # a planner may wait for it before it asks on
    return 0
