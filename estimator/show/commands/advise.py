"""``estimator advise``: the cheapest changes after which a step fits."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ...answers.advice import ANY, Advice, Candidate, advise
from ...answers.estimate import estimate
from ...answers.file_advice import FileAdvice, advise_file
from ...answers.sentences import shown_value, verdict
from ...errors import InputError
from ...plans.margins import MARGIN_HELP, Margin
from ...text import human
from .options import add_plan_options, given_options, keys_beside, plan_mapping
from .tables import (
    Progress,
    check_output,
    gib,
    present,
    show,
    show_answer,
    show_assumptions,
    show_lines,
    table,
    write_figure,
)


def configure(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Add the command's options."""
    add_plan_options(parser, arguments)
    tried = ", ".join(block["name"] for block in ANY)
    parser.description = f"{parser.description}. --method any tries {tried}."
    parser.add_argument(
        "--file", metavar="FILE", help="a training file (`estimator check`); the changes are its keys, as a patch"
    )
    parser.add_argument("--model", dest="model_of_file", metavar="MODEL", help="with --file: in place of its model")
    parser.add_argument(
        "--format", metavar="NAME", help="with --file: the tool whose file it is, where its keys fit several"
    )
    parser.add_argument("--margin", metavar="SIZE|SHARE", help=MARGIN_HELP)
    parser.add_argument("--output", metavar="FILE", type=Path, help="write a figure: .png, .pdf or .svg")
    parser.add_argument("--json", action="store_true", help="print one JSON object; sizes in bytes")


def execute(args: argparse.Namespace) -> int:
    """Print the advice. Returns 1 if nothing fits."""
    if args.model_of_file is not None:
        if args.file is None or args.model is not None:
            raise InputError("--model goes with --file, in place of a model before the options; give one of the two")
        args.model = args.model_of_file
    keys = _keys(args) if args.file is None else keys_beside(args)
    check_output(args.output)
    margin = Margin.parse(args.margin)
    found: FileAdvice | None = None
    with Progress() as progress:
        if args.file is None:
            advice = advise(keys, progress.step, margin)
        else:
            found = advise_file(args.file, keys, args.format, progress.step, margin)
            advice = [found.advice]
        for one in advice:  # whose front is replayed
            one.front  # noqa: B018
    if args.output is not None:
        from ...figures.memory_against_compute import advice_figure

        write_figure(lambda: advice_figure(advice), args.output)
    if found is None:
        present(args, lambda: _object(advice), lambda: _print(advice))
    else:
        present(args, found.to_dict, partial(_print_file, found))
    return 1 if advice[0].verdict == "does not fit" else 0


def _object(advice: Sequence[Advice]) -> dict[str, Any]:
    left_out = [{"method": name, "why": why} for name, why in advice[0].refused]
    return {"advice": [one.to_dict() for one in advice], **({"left_out": left_out} if left_out else {})}


def _keys(args: argparse.Namespace) -> dict[str, Any]:
    """The plan's keys; for ``--method any``, of which a plan knows nothing, with that."""
    if given_options(args).get("method") != "any":
        return plan_mapping(args)
    args.method = None
    keys = plan_mapping(args)
    if "method" in keys:
        raise InputError("method any takes no options of a method; leave them out, or name the method")
    return {**keys, "method": "any"}


def _print_file(found: FileAdvice) -> None:
    _print([found.advice])
    after = found.patched.result
    if found.edits and after is not None:
        what = "this patch" if found.patch else ", ".join(f"{key}: {value}" for key, value in found.edits.items())
        show(f"The file with {what}: {human(after.bytes['process'])}. {verdict(after)}")
        if found.patch:
            show_lines(found.patch)


def _print(advice: Sequence[Advice]) -> None:
    best = advice[0]
    budget = human(best.budget_bytes)
    if len(advice) > 1:
        rows = [[a.name, gib(a.base.bytes), gib(a.best.bytes), _percent(a, a.best), _answer(a)] for a in advice]
        columns = ["method", "plain GiB", "advised GiB", "extra compute", f"to fit {budget}"]
        show(table(columns, rows, left=(0, 4)))
    plan = best.base.plan
    show(f"{plan.model}, {best.name}, {plan.seq} tokens, {plan.checkpoints}: {human(best.base.bytes)} as it is")
    if not best.changes and best.fits:
        show_answer(verdict(best.base.result, best.limit.margin, "as it is"), brief=_answer(best))
    else:
        rows = [
            [step.text, human(step.gain), human(step.bytes), f"{100 * step.extra_compute:+.1f}%", step.fidelity]
            for step in best.steps
        ]
        does = f"what it does to the {'training' if best.base.plan.task == 'train' else 'model'}"
        show(table(["change", "gain", "then", "extra compute", does], rows, left=(0, 4)))
        changed = "this change" if len(rows) == 1 else "these changes"
        show_answer(verdict(best.best.result, best.limit.margin, f"with {changed}"), brief=_answer(best))
        if best.verdict == "does not fit":
            show(f"No other changes save more. {_shorter(best)}")
    show_assumptions(best.base.plan.assumptions())
    for name, why in best.refused:
        show(f"Left out: {name}: {why}")
    front = [[human(c.bytes), _percent(best, c), c.fidelity, _changes(c)] for c in best.front]
    show(table(["process", "extra compute", "fidelity", "changes: peak against compute"], front, left=(2, 3)))
    if best.too_long:
        show(f"Left out, because their estimates take too long: {best.too_long:,} of the sets of changes.")


def _shorter(advice: Advice) -> str:
    """A sentence on whether a shorter sequence would fit."""
    plan = advice.best.plan
    try:
        least = estimate(plan.model_copy(update={"seq": 1, "mlp_chunks": 1})).bytes["process"]
    except InputError:
        return "A shorter sequence needs less."
    if least <= advice.budget_bytes:
        return "A shorter sequence would fit."
    return f"A shorter sequence would not do: even one token needs {human(least)}."


def _answer(advice: Advice) -> str:
    return _changes(advice.best) if advice.fits else advice.verdict


_RESTS = ("cpu_offload", "offload_optimizer", "offload_param")


def _changes(candidate: Candidate) -> str:
    keys = [(key, value) for change in candidate.changes for key, value in change.keys.items()]
    blocks = [value for key, value in keys if key == "sharding"]
    keys = [(key, value.get("name") if isinstance(value, dict) else value) for key, value in keys]
    keys += [(key, block[key]) for block in blocks for key in ("tp", "world_size", *_RESTS) if key in block]
    said = (f"{key}: {shown_value(value)}" for key, value in keys if value is not None)
    return ", ".join(said) or "as it is"


def _percent(advice: Advice, candidate: Candidate) -> str:
    return f"{100 * advice.extra_compute(candidate):+.1f}%"
