"""``estimator measure``: a real step on this machine next to its prediction."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from ..estimate import resolve
from .options import add_plan_options, plan_from

_ROWS = ("parameters", "buffers", "gradients", "optimizer", "saved", "peak_above_resident")
_INFERENCE_ROWS = ("parameters", "buffers", "kv_cache", "peak_above_resident")
_CUDA_ROWS = ("allocated_peak", "reserved_peak", "process")


def configure(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Add the command's options."""
    add_plan_options(parser, arguments)
    parser.add_argument(
        "--default-malloc", action="store_true", help="leave glibc's mmap threshold alone (more resident memory)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON record, versions and machine included")


def execute(args: argparse.Namespace) -> int:
    """Run the step in a fresh process and print measured beside predicted bytes."""
    plan = plan_from(args)
    resolve(plan)  # before anything is drawn
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.table import Table

    from .. import reference  # noqa: F401 (says how to install PyTorch where it is missing)
    from ..measure import measure
    from ..report import human

    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=Console(file=sys.stderr),
        transient=True,
    )
    with progress:
        progress.add_task("building the model and running its step", total=None)
        record = measure(plan, args.default_malloc)
    if args.json:
        print(json.dumps(record, indent=2))
        return 0
    measured, predicted = record["measured"], record["predicted"]["bytes"]
    table = Table(title="One step, measured on this machine", title_justify="left")
    for column in ("component", "measured", "predicted", "difference"):
        table.add_column(column, justify="left" if column == "component" else "right")
    on_gpu = plan.runtime == "torch-cuda"
    for key in _CUDA_ROWS if on_gpu else _INFERENCE_ROWS if plan.task == "infer" else _ROWS:
        table.add_row(
            key.replace("_", " "),
            f"{measured[key]:,} B",
            f"{predicted[key]:,} B",
            f"{predicted[key] - measured[key]:+,} B",
        )
    if not on_gpu:
        difference = predicted["process"] / measured["peak_rss"] - 1
        table.add_row(
            "process (peak RSS)", human(measured["peak_rss"]), human(predicted["process"]), f"{100 * difference:+.1f} %"
        )
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    if not on_gpu:
        console.print(f"peak measured in: {measured['peak_at']}")
    console.print(f"peak predicted at: {record['predicted']['peak_at']}")
    return 0
