"""``estimator max-context``: the longest context a device's memory allows, and which models run at one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from ..devices import find
from ..errors import InputError, nearest
from ..estimate import Result
from ..llama_cpp.options import CacheType, LlamaCppOptions
from ..llama_cpp.recipes import RECIPES
from ..max_context import SCHEMA, Row, curve, rows, runs_at
from ..methods import METHODS
from ..plan import parse_plan
from ..report import COUNTED, human
from ..solve import Solution, solve
from ..specs import builtin_names
from ..text import dumped
from .options import add_plan_options, plan_mapping
from .tables import Progress, check_output, gib, show, table, write_figure

LINES_AT_MOST = 16
_ASKED = ("dtype", "n_ctx", "type_k", "type_v", "seq")
"""Keys that the command looks for, or takes lists of."""


def configure(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Add the command's options."""
    add_plan_options(parser, arguments, without=_ASKED)
    own = parser.add_argument_group("max-context")
    own.add_argument(
        "--dtypes",
        metavar="LIST",
        help="recipes of llama-quantize to compare, as in Q4_K_M,Q8_0 (default: the plan's, else Q4_K_M)",
    )
    own.add_argument(
        "--caches",
        metavar="LIST",
        help="types of the KV cache to compare, as in f16,q8_0, or q8_0/f16 for keys and values (default: the plan's, "
        "else f16)",
    )
    own.add_argument("--runs-at", metavar="N", type=int, help="which built-in models run with N tokens of context")
    own.add_argument(
        "--methods", metavar="LIST", help="the longest training sequence of each method instead, on runtime torch-cpu"
    )
    own.add_argument(
        "--output", metavar="FILE", type=Path, help="write a figure, memory against the context: .png, .pdf or .svg"
    )
    own.add_argument("--json", action="store_true", help="print one JSON object; sizes in bytes")


def execute(args: argparse.Namespace) -> int:
    """Print the contexts. Returns 1 where nothing fits."""
    if args.output is not None:
        check_output(args.output)
    if args.methods is not None:
        return _training(args)
    if args.runs_at is not None:
        return _catalogue(args)
    data, recipes, caches = _asked(args)
    models = list(dict.fromkeys(name.strip() for name in data["model"].split(",") if name.strip()))
    if not models:
        raise InputError("no model given; name one that `estimator models` lists, a .gguf file or a config.json")
    if args.output is not None and len(models) * len(recipes) * len(caches) > LINES_AT_MOST:
        raise InputError(f"a figure has room for {LINES_AT_MOST} lines; name fewer models, dtypes or caches")
    with Progress(len(models) * len(recipes) * len(caches)) as progress:
        found = rows(data, models, recipes, caches, progress.step)
    if args.output is not None:
        from ..plots import context_figure

        curves = [curve(row) for row in found]
        write_figure(context_figure, curves, args.output)
    if args.json:
        print(dumped({"schema": SCHEMA, "question": "max-context", "rows": [r.to_dict() for r in found]}, indent=2))
    else:
        _print(found)
        if args.output is not None:
            print(f"figure written to {args.output}")
    return 0 if any(row.answer is not None for row in found) else 1


def _asked(args: argparse.Namespace) -> tuple[dict[str, Any], list[str], list[tuple[str, str]]]:
    """The plan's keys without those that are looked for, recipes and caches to compare. Raises ``InputError``."""
    data = plan_mapping(args)
    if data.get("runtime", "llama.cpp") != "llama.cpp":
        raise InputError(f"max-context is of llama.cpp, not {data['runtime']}; `estimator max-seq` asks PyTorch")
    block = data.get("llama_cpp", {})
    block = dict(block) if isinstance(block, dict) else block
    if "seq" in data or (isinstance(block, dict) and "n_ctx" in block):
        raise InputError("max-context looks for the context; leave seq and n_ctx out of the plan")
    own = (block.pop("type_k", "f16"), block.pop("type_v", "f16")) if isinstance(block, dict) else ("f16", "f16")
    recipes = _recipes(str(data.pop("dtype", "q4_k_m")) if args.dtypes is None else args.dtypes)
    caches = [own] if args.caches is None else _caches(args.caches)
    return {**data, "llama_cpp": block, "runtime": "llama.cpp"}, recipes, caches


def _recipes(text: str) -> list[str]:
    names = list(dict.fromkeys(name.strip().lower() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in RECIPES:
            raise InputError(f"--dtypes: '{name}' is no recipe{nearest(name, RECIPES)}; known are {', '.join(RECIPES)}")
    if not names:
        raise InputError("--dtypes is empty; name recipes such as Q4_K_M,Q8_0")
    return names


def _caches(text: str) -> list[tuple[str, str]]:
    pairs = [name.strip().lower().partition("/") for name in text.split(",") if name.strip()]
    if not pairs:
        raise InputError("--caches is empty; name types such as f16,q8_0")
    known = get_args(get_args(CacheType)[0])
    for name in (kind for keys, _, values in pairs for kind in (keys, values or keys)):
        if name not in known:
            raise InputError(f"--caches: '{name}' is no cache type{nearest(name, known)}; known are {', '.join(known)}")
    return list(dict.fromkeys((keys, values or keys) for keys, _, values in pairs))


def _limit(result: Result, device: str | None) -> str:
    assert result.budget_bytes is not None
    where = f"{device}: " if device else ""
    of = f" of {COUNTED[result.against]}" if result.against in COUNTED else ""
    if device is not None and result.against == "process" and find(device, limited=False).counts == "dirty":
        of = " of RAM, mapped weights included"
    return f"{where}{human(result.budget_bytes)}{of}"


def _print(found: list[Row]) -> None:
    each = found[0].plan.llama_cpp.sequences(found[0].plan.batch) > 1
    longest = "longest context of each" if each else "longest context"
    columns = ["model", "weights", "KV cache", longest, "needs GiB", "clean GiB", "to spare GiB", "binds"]
    limits = "; or ".join(dict.fromkeys(_limit(row.binding, row.plan.device) for row in found))
    show(f"Longest context in {limits}, llama.cpp {found[0].plan.llama_cpp.build}")
    cells = []
    for row in found:
        sizes = row.result.bytes
        cells.append(
            [
                row.plan.model,
                "as in the file" if row.plan.from_gguf else row.plan.recipe.upper(),
                row.plan.llama_cpp.cache,
                "none" if row.answer is None else f"{row.answer:,}",
                gib(sizes[row.result.against]),
                gib(sizes["clean"]),
                gib(row.result.margin_bytes or 0),
                row.binds,
            ]
        )
    show(table(columns, cells, left=(0, 1, 2, 7)))
    for note in dict.fromkeys(
        note for row in found for note in row.result.warnings if not note.startswith("the engine")
    ):
        show(f"Note: {note}")


def _catalogue(args: argparse.Namespace) -> int:
    if args.model is not None or args.output is not None:
        raise InputError("--runs-at looks through the built-in models; leave MODEL and --output out")
    if args.runs_at < 1:
        raise InputError(f"--runs-at is {args.runs_at}; give a context such as 8192")
    args.model = builtin_names()[0]  # a plan has one; each takes its place
    data, recipes, caches = _asked(args)
    with Progress(len(builtin_names()) * len(recipes) * len(caches)) as progress:
        found = runs_at(data, args.runs_at, recipes, caches, progress.step)
    fitting = [fit for fit in found if fit.result.fits]
    if args.json:
        print(
            dumped(
                {
                    "schema": SCHEMA,
                    "question": "runs-at",
                    "context": args.runs_at,
                    "models": [fit.to_dict() for fit in found],
                },
                indent=2,
            )
        )
    elif not found:
        show(f"No built-in model was made for {args.runs_at:,} tokens.")
    else:
        limits = "; ".join(dict.fromkeys(_limit(fit.result, fit.plan.device) for fit in found))
        what = "models" if len(recipes) * len(caches) == 1 else "models by recipe and cache"
        show(
            f"{len(fitting)} of {len(found)} {what} that were made for it run with {args.runs_at:,} tokens in {limits}"
        )
        cells = [
            [
                fit.plan.model,
                fit.plan.recipe.upper(),
                fit.plan.llama_cpp.cache,
                "unknown" if fit.parameters is None else f"{fit.parameters / 1e9:,.2f}",
                gib(fit.result.bytes[fit.result.against]),
                gib(fit.result.margin_bytes or 0),
            ]
            for fit in fitting
        ]
        columns = ["model", "weights", "KV cache", "10^9 parameters", "needs GiB", "to spare GiB"]
        show(table(columns, cells, left=(0, 1, 2)))
    return 0 if fitting else 1


def _training(args: argparse.Namespace) -> int:
    """The longest training sequence of each method within the budget, in PyTorch on the device's CPU."""
    names = list(dict.fromkeys(name.strip() for name in args.methods.split(",") if name.strip()))
    if not names:
        raise InputError("--methods is empty; name some such as full,lora,ia3")
    for option in ("dtypes", "caches", "runs_at", "output"):
        if getattr(args, option) is not None:
            raise InputError(
                f"--{option.replace('_', '-')} is no matter of --methods, a table of training; leave it out"
            )
    for name in names:
        if name not in METHODS:
            raise InputError(f"--methods: '{name}' is unknown{nearest(name, METHODS)}; known are {', '.join(METHODS)}")
    data = plan_mapping(args)
    if "," in data["model"]:
        raise InputError("--methods compares the methods of one model; name one")
    if data.get("device") is not None and find(data["device"], limited=False).kind.startswith("GPU"):
        raise InputError("--methods asks about training in a device's own RAM; for a GPU `estimator max-seq` answers")
    for key in LlamaCppOptions.model_fields:
        if key in data.get("llama_cpp", {}):
            raise InputError(f"{key} is llama.cpp's, which does not train; leave it out with --methods")
    found: list[tuple[str, Solution]] = []
    with Progress(len(names)) as progress:
        for name in names:
            plan = parse_plan({**data, "method": name, "runtime": "torch-cpu"})
            found.append((name, solve("max-seq", plan)))
            progress.step()
    if args.json:
        answers = [{"method": name, **solution.to_dict()} for name, solution in found]
        print(dumped({"schema": SCHEMA, "question": "max-context", "training": answers}, indent=2))
    else:
        first = found[0][1]
        show(f"Longest training sequence in {human(first.budget_bytes)}: {first.plan.model}, torch-cpu")
        cells = [
            [
                name,
                "none" if solution.answer is None else f"{solution.answer:,}",
                "" if solution.result is None else gib(solution.result.bytes["process"]),
                _binding(solution),
            ]
            for name, solution in found
        ]
        show(table(["method", "longest sequence", "needs GiB", "binds"], cells, left=(0, 3)))
    return 0 if any(solution.answer is not None for _, solution in found) else 1


def _binding(solution: Solution) -> str:
    result = solution.next_result or solution.result
    return "" if result is None else f"{result.peak_at} ({human(result.bytes['peak'])} live)"
