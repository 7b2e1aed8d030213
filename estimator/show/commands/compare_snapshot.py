"""``estimator compare-snapshot``: a recorded memory snapshot beside the prediction, and the first difference."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...answers.snapshot_comparison import Difference, SnapshotComparison, compare_snapshot
from ...io.fields import parse_size
from ...plans.refusals import check_question
from ...text import human
from .estimate import title
from .options import add_plan_options, plan_from
from .tables import present, show, show_answer, table

_ROWS = {
    "allocations": "allocations in the step",
    "live_at_start": "alive before the step",
    "peak": "peak of the step",
    "reserved_peak": "reserved at most",
}


def configure(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Add the command's options."""
    parser.add_argument(
        "snapshot", metavar="FILE", type=Path, help="a snapshot that torch.cuda.memory._dump_snapshot wrote"
    )
    add_plan_options(parser, arguments)
    parser.add_argument(
        "--at-least", metavar="SIZE", default="1B", help="compare allocations of at least so many bytes, as in 4KiB"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON record, with the frames of the difference")


def execute(args: argparse.Namespace) -> int:
    """Print the recorded bytes beside the predicted ones. Returns 1 where an allocation differs."""
    plan = plan_from(args)
    check_question("a memory snapshot", plan)
    found = compare_snapshot(args.snapshot, plan, parse_size(args.at_least))
    present(args, found.to_dict, lambda: _print(found, title(plan)))
    return 0 if found.first is None else 1


def _print(found: SnapshotComparison, heading: str) -> None:
    rows = []
    for key, label in _ROWS.items():
        recorded, predicted = found.recorded[key], found.predicted[key]
        unit = "" if key == "allocations" else " B"
        difference = f"{predicted - recorded:+,}{unit}"
        rows.append((label, f"{recorded:,}{unit}", f"{predicted:,}{unit}", difference))
    show(table(("", "recorded", "predicted", "difference"), rows, title=heading))
    for sentence in found.assumed:
        show(f"Assumed: {sentence}.")
    count = found.predicted["allocations"]
    alike = f"{found.equal_sizes:,} of {count:,} allocations are equal in size"
    show(f"{alike}, {found.equal_lifetimes:,} of them also in when they are freed.")
    if found.first is None:
        show_answer("Equal: no allocation differs.", brief="equal", style="good")
    else:
        show_answer(_sentence(found.first), style="bad")


def _sentence(found: Difference) -> str:
    recorded, predicted = found.recorded, found.predicted
    sides = []
    if recorded is not None:
        sides.append(f"recorded (entry {recorded['entry']:,}): {_size(recorded)} {_stack(recorded['frames'])}")
    if predicted is not None:
        operator = f"by {predicted['operator']} " if predicted["operator"] else ""
        sides.append(f"predicted: {_size(predicted)} {operator}in {predicted['module']}, {predicted['phase']}")
    return f"First difference, {found.kind}, at allocation {found.position:,} of the step; {'; '.join(sides)}."


def _size(side: dict[str, Any]) -> str:
    return f"{side['bytes']:,} B ({human(side['bytes'])})"


def _stack(frames: Sequence[dict[str, Any]]) -> str:
    """The innermost frames."""
    names = [f"{frame['filename'].rpartition('/')[2]}:{frame['line']}:{frame['name']}" for frame in frames[:3]]
    return f"by {' in '.join(names)}" if names else "without a stack"
