"""``estimator timeline``: the memory of a GPU over the steps of a process, as a figure and as JSON."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ...answers.torch_cuda import allocator_capacity, batches_of
from ...engines.torch_cuda.process import KINDS, Timeline, replay
from ...plans.refusals import check_question
from ...plans.resolve import resolve
from ...text import dumped, human
from .estimate import asked, title
from .options import add_plan_options, plan_from
from .tables import check_output, show, show_answer, show_assumptions, write_figure


def configure(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Add the command's options."""
    add_plan_options(parser, arguments)
    parser.add_argument("--output", metavar="FILE", type=Path, help="write the figure: .png, .pdf or .svg")
    parser.add_argument("--json", action="store_true", help="print the timeline: bytes after every event")


def execute(args: argparse.Namespace) -> int:
    """Replay the plan's process. Returns 1 if it runs out of memory."""
    if args.output is not None:
        check_output(args.output)
    plan = plan_from(args)
    plan.budget_bytes()  # refuses an unknown device or a budget that is no size
    check_question("a timeline", plan)
    timeline = Timeline()
    capacity = allocator_capacity(plan)
    resolved = resolve(plan)
    used = replay(resolved, batches_of(plan), capacity, timeline)
    failed = "" if used.out_of_memory is None else f"Out of memory in {used.out_of_memory}."
    if args.json:
        record = {
            "kinds": KINDS,
            "parts": [{"event": at, "part": part} for at, part in timeline.parts],
            "live_bytes": timeline.live,
            "reserved_bytes": timeline.reserved,
            "allocated_peak": used.allocated_peak,
            "reserved_peak": used.reserved_peak,
            "out_of_memory": failed or None,
            "assumptions": [asdict(one) for one in plan.assumptions()],
        }
        print(dumped(record))
    else:
        show(asked(plan.asked), title(plan))
        for phase in used.phases:
            show(f"  {phase.name}: allocated {human(phase.allocated)}, reserved {human(phase.reserved)}")
        show_answer(f"Allocated peak {human(used.allocated_peak)}, reserved peak {human(used.reserved_peak)}.")
        show_assumptions(plan.assumptions())
        if failed:
            show_answer(failed)
    if args.output is not None:
        from ..plots import timeline_figure

        heading = failed or f"{human(used.reserved_peak)} reserved for {human(used.allocated_peak)} allocated"

        def draw(what: Timeline, path: Path) -> None:
            timeline_figure(what, heading, title(plan), capacity, path)

        write_figure(draw, timeline, args.output)
    return 1 if failed else 0
