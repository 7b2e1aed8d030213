"""``estimator max-context``: the longest context that an engine has room for, and the models that run at one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from ...answers.inverse import Solution, solve
from ...answers.max_context import RUNTIME, Fit, Row, by_engine, check_runtime, contexts_of, curve, runs_at
from ...answers.result import SCHEMA
from ...answers.sentences import counted
from ...engines.devices import find
from ...engines.engine import Engine, Limit
from ...engines.llama_cpp.options import CacheType, LlamaCppOptions
from ...engines.llama_cpp.recipes import RECIPES
from ...engines.registry import claimed
from ...errors import InputError, nearest
from ...methods.registry import METHODS
from ...plans.margins import MARGIN_HELP, NO_MARGIN, STATED, Margin
from ...plans.models import names_for
from ...plans.plan import parse_plan
from ...text import dumped, human
from .options import add_plan_options, add_spellings, listed, plan_mapping
from .tables import Progress, check_output, gib, present, show, show_answer, show_assumptions, table, write_figure

LINES_AT_MOST = 16
"""The most lines of a figure."""
_ASKED = ("dtype", "n_ctx", "seq")
"""Keys that the command looks for, or of which it takes a list."""


def configure(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Add the command's options."""
    add_plan_options(parser, arguments, without=_ASKED)
    own = parser.add_argument_group("max-context")
    own.add_argument(
        "--dtypes",
        metavar="LIST",
        help="recipes of llama-quantize to compare, as in Q4_K_M,Q8_0 (default: the released format, else Q4_K_M)",
    )
    own.add_argument(
        "--caches",
        metavar="LIST",
        help="types of the KV cache to compare, as in f16,q8_0, or q8_0/f16 for keys and values (default: the plan's, "
        "else f16)",
    )
    own.add_argument(
        "--engines",
        metavar="LIST",
        help=f"engines to compare: {', '.join(contexts_of())} (default: the plan's runtime, else {RUNTIME})",
    )
    add_spellings(own, "dtypes", "--dtype")
    add_spellings(own, "caches", "--cache")
    own.add_argument("--runs-at", metavar="N", type=int, help="built-in models that run with N tokens")
    own.add_argument("--methods", metavar="LIST", help="longest training sequence of each method, on runtime torch-cpu")
    own.add_argument(
        "--output", metavar="FILE", type=Path, help="write a figure, memory against the context: .png, .pdf or .svg"
    )
    own.add_argument("--margin", metavar="SIZE|SHARE", help=MARGIN_HELP)
    own.add_argument("--json", action="store_true", help="print one JSON object; sizes in bytes")


def execute(args: argparse.Namespace) -> int:
    """Print the contexts. Returns 1 where nothing fits."""
    check_output(args.output)
    margin = Margin.parse(args.margin)
    if args.methods is not None:
        return _training(args, margin)
    if args.runs_at is not None:
        return _catalogue(args, margin)
    data, recipes, caches = _asked(args)
    models = list(dict.fromkeys(listed(data["model"])))
    if not models:
        raise InputError("no model given; name one that `estimator models` lists, a .gguf file or a config.json")
    runtimes = _runtimes(args, data)
    lines = len(models) * max(len(recipes), 1) * len(caches) * len(runtimes)
    if args.output is not None and lines > LINES_AT_MOST:
        raise InputError(f"a figure has room for {LINES_AT_MOST} lines; name fewer models, dtypes, caches or engines")
    with Progress(lines) as progress:
        found, refused = by_engine(data, runtimes, models, recipes, caches, progress.step, margin)
    if args.output is not None:
        from ...figures.longest_context import context_figure

        curves = [curve(row) for row in found]
        write_figure(lambda: context_figure(curves), args.output)
    record = {"schema": SCHEMA, "question": "max-context", "rows": [row.to_dict() for row in found]}
    if refused:
        record["refused"] = refused
    present(args, lambda: record, lambda: _print(found, margin, refused))
    return 0 if any(row.without_margin is not None for row in found) else 1


def _asked(args: argparse.Namespace) -> tuple[dict[str, Any], list[str], list[tuple[str, str]]]:
    """The plan's other keys, and the recipes and the cache types to compare. Raises ``InputError``."""
    data = plan_mapping(args)
    if not isinstance(data["model"], str):
        parse_plan(data)  # refuses it
    runtime = data.get("runtime") or claimed({**data, "model": next(iter(listed(data["model"])), "")}) or RUNTIME
    check_runtime(runtime)
    block = data.get("llama_cpp", {})
    block = dict(block) if isinstance(block, dict) else block
    if "seq" in data or (isinstance(block, dict) and "n_ctx" in block):
        raise InputError("max-context looks for the context; leave seq and n_ctx out of the plan")
    own = (block.pop("type_k", "f16"), block.pop("type_v", "f16")) if isinstance(block, dict) else ("f16", "f16")
    only = runtime == RUNTIME and getattr(args, "engines", None) is None
    named = data.pop("dtype", None) if args.dtypes is None else args.dtypes
    recipes = [] if named is None else _recipes(str(named), only)
    caches = [own] if args.caches is None else _caches(args.caches)
    llama = {"llama_cpp": block} if only or block else {}
    return {**data, **llama, "runtime": runtime}, recipes, caches


def _runtimes(args: argparse.Namespace, data: dict[str, Any]) -> list[str]:
    """The engines to compare. Raises ``InputError``."""
    if args.engines is None:
        return [data["runtime"]]
    names = list(dict.fromkeys(listed(args.engines.lower(), "engines", "name some such as llama.cpp,executorch")))
    for name in names:
        if name not in contexts_of():
            known = ", ".join(contexts_of())
            raise InputError(f"--engines: '{name}' is none{nearest(name, contexts_of())}; known are {known}")
    return names


def _recipes(text: str, only: bool) -> list[str]:
    """The dtypes to compare; ``only``: of llama.cpp alone."""
    names = list(dict.fromkeys(listed(text.lower(), "dtypes", "name recipes such as Q4_K_M,Q8_0")))
    for name in names:
        if only and name not in RECIPES:
            raise InputError(f"--dtypes: '{name}' is no recipe{nearest(name, RECIPES)}; known are {', '.join(RECIPES)}")
    return names


def _caches(text: str) -> list[tuple[str, str]]:
    pairs = [name.partition("/") for name in listed(text.lower(), "caches", "name types such as f16,q8_0")]
    known = get_args(get_args(CacheType)[0])
    for name in (kind for keys, _, values in pairs for kind in (keys, values or keys)):
        if name not in known:
            raise InputError(f"--caches: '{name}' is no cache type{nearest(name, known)}; known are {', '.join(known)}")
    return list(dict.fromkeys((keys, values or keys) for keys, _, values in pairs))


def _where(found: Sequence[Row | Fit]) -> str:
    """The device and its limits, which are the same in all rows."""
    first = found[0]
    limits = [
        f"{human(limit.budget or 0)}{' of ' if of else ''}{of}"
        for limit in first.limits
        for of in (counted(first.result, limit.against),)
    ]
    where = first.plan.device or ", ".join(first.plan.devices or ())
    return f"{f'{where}: ' if where else ''}{' and '.join(limits)}"


def _columns(limits: Sequence[Limit]) -> list[str]:
    return [column for limit in limits for column in (f"{limit.against} GiB", "left GiB")]


def _cells(limits: Sequence[Limit]) -> list[str]:
    return [cell for limit in limits for cell in (gib(limit.needed), gib(limit.left))]


def _show_margin(margin: Margin, engine: Engine) -> None:
    """Print what the answers keep free, by default the engine's uncertainty."""
    kept = (
        f"{100 * engine.uncertainty:.2g} % of the process, {engine.uncertainty_of}"
        if margin == STATED
        else "nothing"
        if margin == NO_MARGIN
        else f"{100 * margin.share:g} % of the process"
        if margin.share is not None
        else human(margin.nbytes or 0)
    )
    show(f"Margin: answers keep free {kept}; --margin sets another.")


def _notes(found: Sequence[Row | Fit], margin: Margin) -> None:
    """Print whose figure the limit is, the margin, the assumptions and the warnings of the answers."""
    plan = found[0].plan
    device = None if plan.device is None else find(plan.device)
    if device is not None and device.is_phone and plan.budget is None and device.assumed is None:
        entitled = device.entitled_bytes
        more = f", {human(entitled)} with the increased-memory-limit entitlement" if entitled else ""
        show(f"One app on {device.label} gets {human(device.usable_bytes)}{more}: {device.confidence}. {device.source}")
    _show_margin(margin, found[0].plan.engine)
    if any(limit.against == "used" for limit in found[0].limits):
        show("Used: dirty memory, and the weights that are read for every token; other pages of the file can go.")
    show_assumptions(one for row in found for one in row.result.assumptions)
    for note in dict.fromkeys(note for row in found for note in row.warnings if not note.startswith("the engine")):
        having = list(dict.fromkeys(row.plan.model for row in found if note in row.warnings))
        others = any(note not in row.warnings for row in found)
        more = f" and {len(having) - 3} more" if len(having) > 3 else ""
        show(f"Note: {', '.join(having[:3])}{more}: {note}" if others else f"Note: {note}")


def _print(found: list[Row], margin: Margin, refused: Sequence[str]) -> None:
    first = found[0].plan
    longest = "longest context of each" if first.engine.sequences(first) > 1 else "longest context"
    engines = len({row.plan.runtime for row in found}) > 1
    sizes = ["needs GiB"] if engines else _columns(found[0].limits)
    columns = ["model", "weights", "KV cache", longest, "without margin", *sizes, "verdict", "binds"]
    what = "by engine" if engines else first.engine.release(first)
    show(f"Longest context in {_where(found)}, {what}")
    cells = []
    for row in found:
        cells.append(
            [
                f"{row.plan.model}, {row.plan.engine.title}" if engines else row.plan.model,
                recipe.upper() if (recipe := row.plan.engine.recipe_of(row.plan)) else "as in the file",
                row.plan.engine.cache_of(row.plan),
                *("none" if one is None else f"{one:,}" for one in (row.answer, row.without_margin)),
                *([gib(row.limits[0].needed)] if engines else _cells(row.limits)),
                row.verdict,
                row.binds,
            ]
        )
    text = len(columns)
    show(table(columns, cells, left=(0, 1, 2, text - 2, text - 1), keys=3))
    for cell in cells:
        show_answer(brief=f"{', '.join(cell[:3])}: {cell[3]}" if len(cells) > 1 else cell[3].replace(",", ""))
    _notes(found, margin)
    for reason in refused:
        show(f"No answer from {reason}")


def _catalogue(args: argparse.Namespace, margin: Margin) -> int:
    if args.model is not None or args.output is not None:
        raise InputError("--runs-at looks through the built-in models; leave MODEL and --output out")
    if args.runs_at < 1:
        raise InputError(f"--runs-at is {args.runs_at}; give a context such as 8192")
    args.model = names_for(RUNTIME)[0]  # a plan must have a model; each takes its place
    data, recipes, caches = _asked(args)
    each = max(len(recipes), 1) * len(caches)
    with Progress(len(names_for(data["runtime"])) * each) as progress:
        found = runs_at(data, args.runs_at, recipes, caches, progress.step, margin)
    fitting = [fit for fit in found if fit.result.fits]
    if args.json:
        models = [fit.to_dict() for fit in found]
        record = {"schema": SCHEMA, "question": "runs-at", "context": args.runs_at, "models": models}
        print(dumped(record, indent=2))
    elif not found:
        show_answer(f"No built-in model was made for {args.runs_at:,} tokens.")
    else:
        what = "models" if each == 1 else "models by recipe and cache"
        tight = sum(fit.verdict == "tight" for fit in fitting)
        show(
            f"{len(fitting)} of {len(found)} {what} that were made for it run with {args.runs_at:,} tokens "
            f"in {_where(found)}; {tight} of them tight"
        )
        limits = found[0].limits
        cells = [
            [
                fit.plan.model,
                fit.plan.dtype.upper(),
                fit.plan.engine.cache_of(fit.plan),
                "unknown" if fit.parameters is None else f"{fit.parameters / 1e9:,.2f}",
                *_cells(fit.limits),
                fit.verdict or "",
            ]
            for fit in fitting
        ]
        columns = ["model", "weights", "KV cache", "10^9 parameters", *_columns(limits), "verdict"]
        show(table(columns, cells, left=(0, 1, 2, len(columns) - 1), keys=3))
        show_answer(brief="\n".join(dict.fromkeys(fit.plan.model for fit in fitting)) or "none")
        _notes(fitting or found, margin)
    return 0 if fitting else 1


def _training(args: argparse.Namespace, margin: Margin) -> int:
    """Print the longest training sequence of each method, in PyTorch on the device's CPU."""
    names = list(dict.fromkeys(listed(args.methods, "methods", "name some such as full,lora,ia3")))
    for option in ("dtypes", "caches", "engines", "runs_at", "output"):
        if getattr(args, option) is not None:
            raise InputError(
                f"--{option.replace('_', '-')} does not go with --methods, which is about training; leave one out"
            )
    for name in names:
        if name not in METHODS:
            raise InputError(f"--methods: '{name}' is unknown{nearest(name, METHODS)}; known are {', '.join(METHODS)}")
    data = plan_mapping(args)
    if "," in data["model"]:
        raise InputError("--methods compares the methods of one model; name one")
    if data.get("device") is not None and find(data["device"]).kind.startswith("GPU"):
        raise InputError("--methods asks about training in a device's own RAM; for a GPU `estimator max-seq` answers")
    for key in LlamaCppOptions.model_fields:
        if key in data.get("llama_cpp", {}):
            raise InputError(f"{key} is llama.cpp's, which does not train; leave it out with --methods")
    found: list[tuple[str, Solution]] = []
    with Progress(len(names)) as progress:
        for name in names:
            plan = parse_plan({**data, "method": name, "runtime": "torch-cpu"})
            found.append((name, solve("max-seq", plan, margin=margin)))
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
                *("none" if one is None else f"{one:,}" for one in (solution.answer, solution.answer_without_margin)),
                "" if solution.result is None else gib(solution.result.bytes["process"]),
                solution.verdict,
                _binding(solution),
            ]
            for name, solution in found
        ]
        columns = ["method", "longest sequence", "without margin", "process GiB", "verdict", "binds"]
        show(table(columns, cells, left=(0, 4, 5)))
        for cell in cells:
            show_answer(brief=f"{cell[0]}: {cell[1]}")
        _show_margin(margin, first.plan.engine)
        show_assumptions(first.plan.assumptions())
    return 0 if any(solution.value is not None for _, solution in found) else 1


def _binding(solution: Solution) -> str:
    result = solution.next_result or solution.result
    return "" if result is None else f"{result.peak_at} ({human(result.bytes['peak'])} live)"
