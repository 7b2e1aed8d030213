"""``estimator timeline``: the memory of a process over its steps, as a figure, as JSON and as a memory snapshot."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ...engines.replay import KINDS, Timeline, Usage
from ...engines.snapshot import Snapshot, pickled
from ...plans.plan import Plan
from ...plans.refusals import check_question
from ...plans.resolve import resolve
from ...text import dumped, human
from .estimate import asked, title
from .options import add_plan_options, plan_from
from .tables import check_output, show, show_answer, show_assumptions, write_figure, written_to

SNAPSHOT = ".pickle"
"""How the file of a memory snapshot ends."""


def configure(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Add the command's options."""
    add_plan_options(parser, arguments)
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        help="write the figure: .png, .pdf or .svg; or a snapshot for pytorch.org/memory_viz: .pickle",
    )
    parser.add_argument("--json", action="store_true", help="print the timeline: bytes after every event")


def execute(args: argparse.Namespace) -> int:
    """Replay the plan's process. Returns 1 if it runs out of memory."""
    check_output(args.output, (SNAPSHOT,))
    plan = plan_from(args)
    plan.budget_bytes()  # refuses an unknown device or a budget that is no size
    to_snapshot = args.output is not None and args.output.suffix.lower() == SNAPSHOT
    check_question("a memory snapshot" if to_snapshot else "a timeline", plan)
    engine, timeline, snapshot = plan.engine, Timeline(), Snapshot() if to_snapshot else None
    resolved = resolve(plan)
    plan = resolved.plan
    used = engine.replay(resolved, engine.batches(plan), engine.capacity(plan), timeline, snapshot)
    failed = "" if used.out_of_memory is None else f"Out of memory in {used.out_of_memory}."
    if args.json:
        print(dumped(_record(used, timeline, failed, plan)))
    else:
        _print(used, failed, plan)
    if snapshot is not None:
        with written_to(args.output) as part:
            part.write_bytes(pickled(snapshot.to_dict(plan.expandable_segments)))
    elif args.output is not None:
        heading = failed or f"{human(used.reserved_peak)} reserved for {human(used.allocated_peak)} allocated"
        _draw(timeline, heading, plan, args.output)
    return 1 if failed else 0


def _record(used: Usage, timeline: Timeline, failed: str, plan: Plan) -> dict[str, object]:
    return {
        "kinds": KINDS,
        "parts": [{"event": at, "part": part} for at, part in timeline.parts],
        "live_bytes": timeline.live,
        "reserved_bytes": timeline.reserved,
        "allocated_peak": used.allocated_peak,
        "reserved_peak": used.reserved_peak,
        "out_of_memory": failed or None,
        "assumptions": [asdict(one) for one in plan.assumptions()],
    }


def _print(used: Usage, failed: str, plan: Plan) -> None:
    reserved = f", reserved peak {human(used.reserved_peak)}" if plan.engine.replays else ""
    show_answer(*filter(None, (failed,)), f"Allocated peak {human(used.allocated_peak)}{reserved}.")
    show(asked(plan.asked), title(plan))
    for phase in used.phases:
        show(f"  {phase.name}: allocated {human(phase.allocated)}, reserved {human(phase.reserved)}")
    show_assumptions(plan.assumptions())


def _draw(timeline: Timeline, heading: str, plan: Plan, path: Path) -> None:
    from ...figures.timeline import timeline_figure

    steps = [f"{one.rows} × {one.seq:,} tokens" for one in plan.engine.batches(plan)]
    capacity = plan.engine.capacity(plan)
    write_figure(lambda: timeline_figure(timeline, steps, heading, title(plan), capacity), path)
