"""``estimator max-gpu-layers``: the most layers of a model that devices have room for in llama.cpp."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ...answers.offload import Layers, most_layers
from ...answers.result import SCHEMA
from ...plans.margins import MARGIN_HELP, Margin
from .estimate import asked, title
from .options import add_plan_options, plan_mapping
from .tables import Progress, gib, present, show, show_answer, show_assumptions, table


def configure(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Add the command's options."""
    add_plan_options(parser, arguments, without=("n_gpu_layers",))
    own = parser.add_argument_group("max-gpu-layers")
    own.add_argument("--margin", metavar="SIZE|SHARE", help=MARGIN_HELP)
    own.add_argument("--json", action="store_true", help="print one JSON object; sizes in bytes")


def execute(args: argparse.Namespace) -> int:
    """Print the number of layers and the split. Returns 1 where not even none fits."""
    keys = plan_mapping(args)
    with Progress() as progress:
        answer = most_layers(keys, progress.step, Margin.parse(args.margin))
    record = {"schema": SCHEMA, "question": "max-gpu-layers", **answer.to_dict()}
    present(args, lambda: record, lambda: _print(answer))
    return 1 if answer.answer is None else 0


def _print(answer: Layers) -> None:
    show(asked(answer.plan.asked), title(answer.plan))
    rows = [
        [
            one["name"],
            str(layers),
            *(gib(one["bytes"][key]) for key in ("weights", "kv_cache", "recurrent_state", "compute")),
        ]
        for one, layers in zip(answer.result.devices, (*answer.split, answer.of - sum(answer.split)), strict=True)
    ]
    show(table(["device", "layers", "weights GiB", "KV cache GiB", "states GiB", "compute GiB"], rows))
    limits = [[one.against, gib(one.needed), gib(one.budget or 0), gib(one.left)] for one in answer.limits]
    show(table(["limit", "needed GiB", "of GiB", "left GiB"], limits))
    for warning in answer.result.warnings:
        show(f"Note: {warning}")
    show_assumptions(answer.result.assumptions)
    if answer.answer is None:
        show_answer("Does not fit: the host has no room for what is left there.", brief="none", style="bad")
        return
    split = f", --tensor-split {','.join(map(str, answer.split))}" if len(answer.split) > 1 and answer.answer else ""
    show_answer(
        f"most layers on devices: {answer.answer} of {answer.of}, the output counted as one (--n-gpu-layers "
        f"{answer.answer}{split})",
        brief=f"{answer.answer}",
        style="good",
    )
