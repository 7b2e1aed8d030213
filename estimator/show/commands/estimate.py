"""``estimator estimate``: the answer to one plan, or to many."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ...answers.estimate import estimate
from ...answers.result import ON_HOST, Result
from ...answers.sentences import breakdown, moment_rows, moments_summary, run_summary, runtime_of, summary, verdict
from ...errors import InputError
from ...io.files import lines
from ...plans.margins import NOT_SURE
from ...plans.models import load
from ...plans.plan import Plan
from ...plans.refusals import check_question
from ...programs.heads import HEADS
from ...text import human, printable
from .options import add_plan_options, given_options, plan_from
from .tables import bar, present, show, show_answer, show_assumptions, table


def configure(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Add the command's options."""
    add_plan_options(parser, arguments)
    parser.add_argument(
        "--phases", action="store_true", help="allocated and reserved bytes by part of a step (torch-cuda)"
    )
    parser.add_argument("--json", action="store_true", help="print the result object")
    parser.add_argument("--plans", metavar="FILE", help="one plan per line (JSON); one result per line, - reads stdin")


def execute(args: argparse.Namespace) -> int:
    """Print the estimate. Returns 1 if it does not fit the budget."""
    if args.plans is not None:
        if args.phases or args.quiet:
            raise InputError("--plans prints one result object per line; leave --phases and --quiet out")
        if args.plan or given_options(args):
            raise InputError(
                "--plans answers the plans of a file as they are; leave MODEL, --plan and their options out"
            )
        return _many(args.plans)
    plan = plan_from(args)
    check_question("training by default", plan)
    if args.phases:
        check_question("--phases", plan)
    result = estimate(plan)
    present(args, result.to_dict, lambda: print_estimate(result, title(plan), args.phases))
    return status_of(result)


def status_of(result: Result) -> int:
    """The exit status: 0 it fits, or no budget was given; 1 it does not fit; 2 not sure."""
    return 2 if result.verdict == NOT_SURE else int(result.fits is False)


def print_estimate(result: Result, heading: str, phases: bool = False, with_assumptions: bool = True) -> None:
    """Print a result: its breakdown, notes and verdict."""
    show(asked(result.asked))
    rows = breakdown(result)
    largest = max(1, *(result.bytes[key] for key, _ in rows if key not in ON_HOST))
    keys = [key for key, _ in rows]
    ends = ("resident", "peak_above_resident", *(("repacked",) if "dirty" in result.bytes else ()))
    show(
        table(
            ("component", "size", "bytes", "against the process"),
            [
                (
                    label,
                    human(result.bytes[key]),
                    f"{result.bytes[key]:,}",
                    "" if key in ON_HOST else bar(result.bytes[key] / largest),  # no part of the process
                )
                for key, label in rows
            ],
            left=(0, 3),
            optional=(3,),
            title=heading,
            ruled=[keys.index(key) for key in ends if key in keys],
            strong=[keys.index(key) for key in ("resident", "peak", "process") if key in keys],
        )
    )
    if len(result.devices) > 2 or any(one["bytes"]["kv_cache"] for one in result.devices[-1:]):
        parts = [key for key in result.devices[0]["bytes"] if any(one["bytes"][key] for one in result.devices)]
        cells = [(one["name"], *(human(one["bytes"][key]) for key in parts)) for one in result.devices]
        columns = ("device", *(part.replace("_", " ").replace("kv", "KV") for part in parts))
        show(table(columns, cells, title="the buffers of each device, and of the host"))
    if phases:
        cells = [(phase.name, human(phase.allocated), human(phase.reserved)) for phase in result.phases]
        heading = "phases: the largest bytes in each, or what is there"
        show(table(("phase", "allocated", "reserved"), cells, title=heading))
    if result.run_moments:
        rows_of_moments = moment_rows(result)
        heading = "moments of the run, above what the process had before"
        show(table(("moment", "where", "size", "what binds"), rows_of_moments, left=(0, 1, 3), title=heading))
    show(summary(result))
    if result.run_moments:
        show(moments_summary(result))
    if result.run is not None:
        show(run_summary(result))
    for warning in result.warnings:
        show(f"Note: {warning}")
    if with_assumptions:
        show_assumptions(result.assumptions)
    print_verdict(result)


def print_verdict(result: Result) -> None:
    """Print whether a result fits, or if the command is quiet and there is no budget, what it needs."""
    if result.fits is not None:
        show_answer(verdict(result), style="good" if result.fits and not result.unknown else "bad")
    else:
        show_answer(brief=human(result.bytes[result.against]))


def asked(text: str) -> str:
    """The question of a plan (``Plan.asked``) as a sentence."""
    return f"{text[0].upper()}{text[1:]}."


def title(plan: Plan) -> str:
    """The plan in one line."""
    if not plan.engine.runs_steps:
        return plan.engine.heading(plan)
    rank = getattr(plan.method, "r", None)
    method = plan.method.name if rank is None else f"{plan.method.name} r={rank}"
    parts = [printable(plan.model), method, f"batch {plan.batch}", *_lengths(plan), plan.dtype]
    if plan.implementation != "transformers":
        parts.append(plan.implementation)
    if "transformers" in plan.model_fields_set:
        parts.append(f"transformers {plan.transformers}")
    if plan.autocast:
        parts.append(f"autocast {plan.autocast}")
    parts += [plan.attention, plan.optimizer if plan.task == "train" else "inference", runtime_of(plan)]
    if plan.generate is not None:
        options = plan.generate
        parts.append(f"{options.max_new_tokens} new tokens, {options.cache_implementation} cache")
        if options.num_beams > 1:
            parts.append(f"{options.num_beams} beams")
    if plan.mlp_chunks > 1:
        parts.append(f"MLP in {plan.mlp_chunks} chunks")
    if plan.loss != "standard":
        parts.append(f"loss {plan.loss}")
    return ", ".join(parts)


def _lengths(plan: Plan) -> list[str]:
    """The lengths of a row: of its text, and of what a decoder beside an encoder is given."""
    head = HEADS[load(plan.model).asked(plan.transformers, plan.head, plan.sees).head]
    target = [f"target_seq {plan.decoder_seq}"] if head.has_target else []
    return [f"seq {plan.seq}", *target] if head.text else target


def _many(source: str) -> int:
    from ...answers.bulk import estimate_lines

    for answer in estimate_lines(lines(source, "a file with one JSON plan per line")):
        print(answer, flush=True)  # another program may wait for it before it sends the next plan
    return 0
