"""``estimator max-seq``, ``max-batch`` and their kin: the largest value that fits."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ...answers.inverse import LIMITS, QUESTIONS, Solution, curve, solve
from ...answers.sentences import verdict, what_binds
from ...errors import InputError
from ...methods.registry import METHODS
from ...plans.margins import MARGIN_HELP, Margin
from ...plans.plan import Plan, read_plan_mapping
from ...text import human
from .estimate import asked, title
from .options import add_plan_options, given_options, plan_from
from .tables import Progress, check_output, present, show, show_answer, show_assumptions, write_figure

NOUNS = {
    "max-seq": "longest sequence",
    "max-batch": "largest batch",
    "max-rank": "highest rank",
    "max-target-seq": "longest target",
    "max-images": "most images of a row",
    "max-image-size": "largest square image, a side in pixels",
}


def configure(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Add the options of the command, whose name is the question."""
    question = parser.prog.rpartition(" ")[2]
    parser.set_defaults(question=question)
    key = QUESTIONS[question]
    asked = (key,) if key in LIMITS else ()
    add_plan_options(parser, arguments, without=asked)
    for name in asked:
        parser.add_argument(f"--{name.replace('_', '-')}", help=argparse.SUPPRESS)  # accepted here, and refused below
    own = parser.add_argument_group(question)
    own.add_argument(
        "--multiple-of", metavar="N", type=int, default=1, help="look at multiples of N only (default: %(default)s)"
    )
    own.add_argument("--margin", metavar="SIZE|SHARE", help=MARGIN_HELP)
    own.add_argument(
        "--output", metavar="FILE", type=Path, help="write a figure, memory against the value: .png, .pdf or .svg"
    )
    own.add_argument("--json", action="store_true", help="print the solution object")


def execute(args: argparse.Namespace) -> int:
    """Print the largest value that fits. Returns 1 where even the smallest does not."""
    check_output(args.output)
    plan = plan_from(args)
    _refuse_key(args.question, plan, args)
    with Progress() as progress:
        solution = solve(args.question, plan, args.multiple_of, progress.step, Margin.parse(args.margin))
        if args.output is not None:
            from ...figures.largest_value import solution_figure

            points = curve(solution, progress.step)
    if args.output is not None:
        write_figure(lambda: solution_figure(solution, points), args.output)
    present(args, solution.to_dict, lambda: _print(solution))
    return 1 if solution.value is None else 0


def _refuse_key(question: str, plan: Plan, args: argparse.Namespace) -> None:
    """Raise ``InputError`` where the plan gives the key that is looked for, except a rank from an adapter's file."""
    key, given = QUESTIONS[question], plan.model_fields_set - {*plan.preset_keys}
    if key == "rank":
        options = plan.method.inner
        key, given = options.rank_key, options.model_fields_set
        named = given_options(args).get("method") or (read_plan_mapping(args.plan).get("method") if args.plan else None)
        if isinstance(named, str) and named not in METHODS and getattr(args, key, None) is None:
            return
    if key in given:
        raise InputError(f"{question} looks for {key}; leave {key} out of the plan")


def _print(solution: Solution) -> None:
    noun, budget = NOUNS[solution.question], human(solution.budget_bytes)
    show(asked(solution.plan.asked), title(solution.plan))
    if solution.value is None:
        show_answer(
            f"Does not fit in {budget}: with {solution.key} {solution.next_value:,}, the smallest, "
            f"{_excess(solution)}.",
            brief="none",
        )
    else:
        assert solution.result is not None
        result, predicted = solution.result, solution.answer_without_margin
        if solution.answer is None:
            show_answer(f"{noun}: {predicted:,}, and nothing with a margin", brief=f"{predicted} (tight)")
        else:
            show_answer(f"{noun}: {solution.answer:,}", brief=str(solution.answer))
        show(
            f"It needs {human(result.bytes[result.against])}; the peak is at: {result.binds}.",
            verdict(result, solution.margin),
        )
        if solution.answer is not None and predicted != solution.answer:
            show(
                f"Without a margin: {predicted:,}. The answer keeps {human(solution.kept_free_bytes)} free; "
                "--margin sets another."
            )
        if solution.next_result is not None:
            show(f"With {solution.key} {solution.next_value:,}, {_excess(solution)}.")
        elif solution.refusal is not None:
            show(f"With {solution.key} {solution.next_value:,} the plan is refused: {solution.refusal}")
        elif solution.key == "seq" and solution.limit + solution.multiple_of <= LIMITS["seq"]:
            show("A longer one has more tokens than the model has learned positions of.")
        elif solution.key in LIMITS:
            show(f"{solution.limit:,} is the largest {solution.key} that a plan takes.")
        else:
            show(f"It is the highest useful rank: above {solution.limit:,} no adapted weight gains any.")
    for warning in solution.warnings:
        show(f"Note: {warning}")
    show_assumptions(solution.plan.assumptions())
    plan = solution.plan
    if solution.missing is not None and plan.task == "train" and plan.run is None and plan.engine.runs_steps:
        show("To fit more: `estimator advise` with this plan finds the cheapest changes.")


def _excess(solution: Solution) -> str:
    """The bytes that the next value needs, those beyond the budget, and the moment of its peak."""
    result, missing = solution.next_result, solution.missing
    assert result is not None
    assert missing is not None
    with_margin = " with the margin" if solution.answer is not None and solution.kept_free_bytes else ""
    return (
        f"{human(solution.budget_bytes + missing)} are needed{with_margin}, {human(missing)} ({missing:,} bytes) too "
        f"much; {what_binds(result)}"
    )
