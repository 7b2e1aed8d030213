"""``estimator measure``: a real step on this machine beside its prediction."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from ...answers.result import SCHEMA
from ...errors import InputError
from ...plans.plan import Plan
from ...plans.resolve import resolve
from ...text import dumped, human
from .options import add_plan_options, plan_from
from .tables import show, show_answer, table

_ROWS = ("parameters", "buffers", "gradients", "optimizer", "communication", "saved", "peak_above_resident")
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
    """Run the step in a fresh process, and print the measured bytes beside the predicted ones."""
    plan = plan_from(args)
    if not plan.engine.runs_steps:
        return _buffers(plan, args.json)
    resolve(plan)  # refuses a plan before the progress bar appears
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from ...answers.measurement import measure
    from ...witnesses.reference import libraries  # noqa: F401 (says how to install PyTorch where it is missing)

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
        print(dumped(record, indent=2))
        return 0
    measured, predicted = record["measured"], record["predicted"]["bytes"]
    what = "step" if plan.task == "train" else "pass" if plan.generate is None else "call of generate"
    rows = []
    on_gpu = plan.engine.has_own_memory
    for key in _CUDA_ROWS if on_gpu else _INFERENCE_ROWS if plan.task == "infer" else _ROWS:
        if key in predicted:
            rows.append(_compared(key.replace("_", " "), measured[key], predicted[key]))
    if not on_gpu:
        resident, process = measured["peak_rss"], predicted["process"]
        off = f"{100 * (process / resident - 1):+.1f} %"
        rows.append(["process (peak RSS)", human(resident), human(process), off])
    columns = ("component", "measured", "predicted", "difference")
    show(table(columns, rows, title=f"One {what}, measured on this machine"))
    if not on_gpu:
        show(f"peak measured in: {measured['peak_at']}")
    show(f"peak predicted at: {record['predicted']['peak_at']}")
    show_answer(brief=f"process: {rows[-1][1]} measured, {rows[-1][2]} predicted")
    return 0


def _compared(name: str, measured: int, predicted: int) -> list[str]:
    return [name, f"{measured:,} B", f"{predicted:,} B", f"{predicted - measured:+,} B"]


def _buffers(plan: Plan, as_json: bool) -> int:
    """Ask the installed engine for its buffers, as the module of ``witnesses/`` does that the engine names."""
    if not plan.engine.witness:
        raise InputError(f"a measurement has no rule with runtime: {plan.runtime}; ask `estimator estimate`")
    found = import_module(f"estimator.witnesses.{plan.engine.witness}").measured(plan)
    if as_json:
        record = {name: {"measured": measured, "predicted": predicted} for name, measured, predicted in found.rows}
        about = {"schema": SCHEMA, "model": plan.model, "engine": found.engine, "build": found.build}
        print(dumped({**about, "bytes": record}, indent=2))
        return 0
    show(f"{plan.engine.title} {found.engine} on this machine, predicted for build {found.build}")
    cells = [[*_compared(name, a, b), f"{100 * (b / a - 1):+.2f} %"] for name, a, b in found.rows]
    show(table(["buffer", "measured", "predicted", "difference", ""], cells))
    show_answer(brief="\n".join(f"{name}: {a} measured, {b} predicted" for name, a, b, *_ in cells))
    return 0
