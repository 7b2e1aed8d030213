"""Questions about what commands show whose whole answers are recorded (``tests/helpers/whole_answers.py``): of answers
made up, so that what takes a measurement, a recording or a whole catalogue is printed at once.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from estimator.answers import advice
from estimator.answers.max_context import Fit
from estimator.engines.engine import Limit
from estimator.errors import InputError
from estimator.ledger.sizes import symbol
from estimator.plans import recorded_programs
from estimator.plans.margins import STATED
from estimator.plans.plan import parse_plan
from estimator.show import cli, completion, explanation_page, in_a_browser
from estimator.show.commands import advise, compare, estimate, max_context, record, tables
from tests.cases.whole_results import LORA, RESULTS, SMOL, _result, _Try
from tests.helpers.whole_answers import Each, Parts, here

Question = tuple[str, Callable[[], Parts]]


def _or_why(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except InputError as error:
        return error


def _printed(ask: Callable[[], Any], width: int = 100, terminal: bool = False) -> list[Any]:
    """What is printed, and what is returned."""
    out, err = io.StringIO(), io.StringIO()
    out.isatty = lambda: terminal  # type: ignore[method-assign]
    size = {"COLUMNS": str(width), "LINES": "24", "TERM": "xterm"}
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), patch.dict(os.environ, size):
        os.environ.pop("NO_COLOR", None)
        status = _or_why(ask)
    return [out.getvalue(), err.getvalue(), status]


def _asked(*words: str) -> list[Any]:
    return _printed(lambda: cli.main(list(words)))


# ---- measurements and recordings ---------------------------------------------------------------

_MEASURED = {"parameters": 500, "buffers": 40, "gradients": 300, "optimizer": 600, "communication": 7, "saved": 90,
             "peak_above_resident": 720, "kv_cache": 33, "peak_rss": 1 << 30, "peak_at": "loss", "allocated_peak": 900,
             "reserved_peak": 1000, "process": 2000}  # fmt: skip
_PREDICTED = {"parameters": 500, "buffers": 44, "gradients": 290, "optimizer": 600, "saved": 99, "kv_cache": 30,
              "peak_above_resident": 700, "allocated_peak": 901, "reserved_peak": 990, "process": 3 << 29}  # fmt: skip


def _measurements() -> Parts:
    """What ``measure`` prints of a step and of buffers."""

    def measure(plan: Any, default_malloc: bool) -> Any:
        return {
            "measured": _MEASURED,
            "predicted": {"bytes": _PREDICTED, "peak_at": "backward"},
            "given": default_malloc,
        }

    buffers = SimpleNamespace(engine="b9000", build="b8000", rows=[("KV cache", 200, 100), ("compute", 3000, 3030)])
    modules: dict[str, Any] = {
        "estimator.answers.measurement": SimpleNamespace(measure=measure),
        "estimator.witnesses.reference": SimpleNamespace(libraries=None),
        **{
            f"estimator.witnesses.{name}": SimpleNamespace(measured=lambda plan: buffers)
            for name in ("llama_cpp", "mlx")
        },
    }
    asked = ("", "--task infer", "--task infer --max-new-tokens 3", "--runtime torch-cuda", "--default-malloc --json",
             "--quiet", "--runtime llama.cpp", "--runtime llama.cpp --json", "--runtime llama.cpp --quiet",
             "--runtime vllm --device l4", "--runtime executorch", "--seq 0")  # fmt: skip
    with patch.dict(sys.modules, modules):
        return {one or "plain": _asked("measure", "smollm2-135m", *one.split()) for one in asked}


def _recordings() -> Parts:
    """What ``record`` lists of programs made up."""
    folder = recorded_programs.shipped_folder()
    one = {"trains": (True,), "attention": ("sdpa", "eager")}
    settings = [
        dict(zip(record.Setting._fields, ((value,) for value in record.Setting()), strict=True)) | more
        for more in ({"attention": ("sdpa", "eager")}, {"trains": (False,), "attention": ("eager",)}, one)
    ]

    def load(path: Path) -> Any:
        if "bad" in path.name:
            raise InputError("it cannot be read")
        family = path.name.partition(".")[0]
        return [
            SimpleNamespace(recorded={"transformers": "4.57"}, model_type=family, settings=settings[:n]) for n in (1, 3)
        ]

    found: dict[str, Any] = {}
    kinds: dict[str, Sequence[Path]] = {
        "few": [folder / "llama.abc.json", Path("/own/gpt2.def.json"), Path("/own/gpt2.bad.json")],
        "many": [folder / f"family{n % 7}.x{n}.json" for n in range(9)], "own": [Path(f"/own/llama.{n}.json") for n
        in range(9)],
    }  # fmt: skip
    for name, paths in kinds.items():
        with (
            patch.object(recorded_programs, "program_files", lambda release, paths=paths: paths),
            patch.object(recorded_programs, "load", load),
        ):
            for more in ([], ["--json"], ["llama"], ["nothing"], ["--all"], ["--quiet"]):
                ask = partial(cli.main, ["record", "--list", *more])
                found[f"{name} {' '.join(more)}"] = [_printed(ask, 100, terminal) for terminal in (False, True)]
    found["tasks"] = list(record._tasks(settings))
    shipped = [
        SimpleNamespace(interfaces=a, file=b, check_config=c)
        for a in (0, 1)
        for b in ("", "x")
        for c in (print, _refuse)
    ]
    for number, programs in enumerate(([], *([x] for x in shipped), shipped)):
        with patch.object(recorded_programs, "programs_of", lambda family, programs=programs: programs):
            found[f"shipped {number}"] = _printed(lambda: record._is_shipped({}, "llama"))
    return found


def _refuse(*given: Any) -> None:
    raise InputError("refused")


# ---- contexts ----------------------------------------------------------------------------------


def _contexts() -> Parts:
    """The models that run at a context, of which some fit; and the options that are refused."""
    limits = (Limit("dirty", 300 << 20, 400 << 20, 300), Limit("used", 1 << 30, 3 << 30, 9, "used!"))
    fits = []
    for number, (name, spare, parameters) in enumerate((("llama-3.2-1b", 100, 10**9), ("qwen3-0.6b", 10, None),
        ("qwen3-4b", -9, 4),
                                                        ("gemma-3-1b", 5, 7), ("smollm2-135m", 70,
                                                        135 * 10**6))):  # fmt: skip
        plan = parse_plan({"model": name, "runtime": "llama.cpp", "device": "iphone-15", "dtype": "q8_0"})
        one = _result(900, runtime="llama.cpp", against="dirty", sizes={"dirty": 900 - spare, "used": 30},
            budget_bytes=900,
                      fits=spare >= 0, limits={"dirty": 900, "used": 40}, warnings=("the engine says", "made for less",
                      *(("of one",) * (number == 1)), *(("of four",) * (number < 4))))  # fmt: skip
        fits.append(Fit(plan, parameters, one, limits, STATED))
    found: dict[str, Any] = {}
    for name, rows in {"all": fits, "one": fits[:1], "none fits": [fits[2]], "nothing": []}.items():
        with patch.object(max_context, "runs_at", lambda *given, rows=rows: rows):
            for more in ((), ("--json",), ("--quiet",), ("--caches", "f16,q8_0", "--margin", "5%"), ("--margin", "0"),
                         ("--margin", "300MiB", "--dtypes", "Q4_K_M,Q8_0")):  # fmt: skip
                found[f"{name} {' '.join(more)}"] = _asked(
                    "max-context", "--runs-at", "4096", "--device", "iphone-15", *more
                )
    refused = ("", "m --runs-at 3", "--runs-at 0 --device iphone-15", "llama-3.2-1b --n-ctx 4 --device t4",
        "llama-3.2-1b --engines x",
               "llama-3.2-1b --dtypes x --device iphone-15", "llama-3.2-1b --caches x --device iphone-15",
               "llama-3.2-1b --engines torch-cpu",
               "llama-3.2-1b --caches f16/x --device iphone-15", "llama-3.2-1b --runtime torch-cpu",
               "x --methods full --dtypes q8_0",
               "llama-3.2-1b,gpt2 --methods full", "smollm2-135m --methods full --device t4",
               "smollm2-135m --methods x",
               "smollm2-135m --methods full --type-k f16 --device iphone-15",
               "smollm2-135m --methods full --caches f16",
               "smollm2-135m --methods full --engines x", "smollm2-135m --methods full --runs-at 3",
               ", --device iphone-15",
               "gpt2 --output x.png --caches f16,q8_0,q4_0 --dtypes q4_0,q8_0,q6_k,q5_0,q5_1,q2_k")  # fmt: skip
    found["refused"] = Each([_asked("max-context", *one.split()) for one in refused])
    solved = SimpleNamespace(
        budget_bytes=3 << 30, plan=parse_plan(SMOL), result=RESULTS["fits"], next_result=None, verdict="fits",
            answer=1234,
        answer_without_margin=None, value=1234, to_dict=lambda: {"answer": 1234},
    )  # fmt: skip
    none = SimpleNamespace(**{**vars(solved), "result": None, "answer": None, "value": None, "verdict": "does not fit"})
    further = SimpleNamespace(**{**vars(solved), "next_result": RESULTS["too much"], "answer": 7})
    for name, one in {"solved": solved, "none": none, "further": further}.items():
        with patch.object(max_context, "solve", lambda *given, one=one, **more: one):
            for options in ((), ("--json",), ("--quiet",)):
                found[f"training {name} {' '.join(options)}"] = _asked(
                    "max-context", "smollm2-135m", "--methods", "full,lora", "--device", "apple-16gb", *options
                )
    return found


# ---- the page's worker, completion -------------------------------------------------------------


def _worker(folder: Path) -> Parts:
    files: dict[str, str] = {
        "a.json": '{"peft_type": "LORA", "r": 4}', "b.json": '{"model_type": "llama"}',
        "c.yaml": "model: gpt2\nseq: 8\n",
        "d.yaml": "model: gpt2\ncolour: 8\n", "e.yml": "a: [", "f.json": "[1]",
        "g.yaml": "base_model: gpt2\nadapter: lora\n",
        "h.txt": "x", "i.json": '{"peft_type": "X"}', "j.yaml": "model_name_or_path: gpt2\nmax_length: 64\n",
    }  # fmt: skip
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    plans = [SMOL, {**SMOL, "budget": "3GiB", "gradient_accumulation_steps": 2}, {"model": "no-such"}, {**SMOL,
        "seq": 0}, 3,
             {**SMOL, "lengths": {"histogram": {9: 5, 40: 2}}}]  # fmt: skip
    with patch.object(in_a_browser, "PLAN", folder / "plan.json"):
        found: dict[str, Any] = {"estimated": Each([in_a_browser.estimated(json.dumps(one)) for one in plans])}
    found["dropped"] = Each([in_a_browser.dropped(name) for name in (*files, "x.gguf", "X.GGUF", "missing.json", "y")])
    for name, printed in {
        "fits": (0, '{"a": 1}', ""),
        "not": (1, "[]", ""),
        "refused": (2, "", "why"),
        "odd": (0, "[", ""),
    }.items():
        answer = SimpleNamespace(status=printed[0], output=printed[1], error=printed[2])
        with patch.object(
            in_a_browser, "captured", lambda words, plan, answer=answer: (answer, found.setdefault("words", words))[0]
        ):
            found[name] = in_a_browser.run(["max-seq"], "{}")
    return found


def _completions() -> Parts:
    kinds = [("device", None, None), ("methods", None, None), ("model", None, None), ("output", "FILE", None),
        ("kind", "a|b", None),
             ("dtype", None, ("x", "y")), ("dtype", "LIST", ()), ("dtype", None, None)]  # fmt: skip
    found = []
    for dest, metavar, choices in kinds:
        action = argparse.Action(["--x"], dest, metavar=metavar, choices=choices)
        complete = _or_why(lambda action=action: completion._completer(action))
        found.append([list(complete(prefix)) for prefix in ("", "a", "t4,", "a,b,c")] if dest not in ("model",
            "output") else
                     type(complete).__name__)  # fmt: skip
    return {"completed": Each(found)}


# ---- tables and sentences ----------------------------------------------------------------------

TEXTS = (
    "", "short", "a sentence of some words, which is longer than most lines are, and ends",
    "5 GiB and 3 MiB/s, 40 % of it",
    "see https://example.org/a/long/path?x=1, or (https://example.org/b).",
    "  indented text that goes on and on and on until",
    "a-very-long-word-with/punctuation_in.it=and|more:of,it", "wörter ünd 漢字漢字漢字漢字 with e\u0301 accents",
    "x" * 70,
    "two\nlines of text\n\nand a blank", "docs.python.org/3/library; 12 kB",
)  # fmt: skip


def _formulas() -> Parts:
    """Sizes as formulas of a page, with and without what several terms share."""
    b, s, h = (symbol(name) for name in "BSH")
    sizes: list[Any] = [
        *(0, 5, -5, b, 2 * b * s, b * s + b * h, 3 * b * s - 4 * b * h + 7, b * s * s + s * s - h, (b * s) // 2)
    ]
    return {"mathml": Each([explanation_page.mathml(size) for size in sizes])}


def _bar_in_ascii(share: float) -> str:
    with patch.object(sys, "stdout", SimpleNamespace(encoding="ascii")):
        return tables.bar(share)


def _tables() -> Parts:
    rows = [["a first row", "1,234", "text that wraps in its own column because it is long", "9"], ["b", "5",
        "https://example.org/x/y",
            "12,345,678"], ["wörter 漢字", "", "", "0"]]  # fmt: skip
    columns = ["name", "bytes", "what it is", "more\nnumbers"]
    shapes: list[dict[str, Any]] = [
        {}, {"left": (0, 2)}, {"left": (0, 2), "optional": (3,)}, {"left": (0, 2), "keys": 2,
        "title": "a title of the table"},
        {"left": (0, 2), "ruled": (0, 2), "strong": (1,)}, {"left": (0, 1, 2, 3), "optional": (1, 2)},
    ]  # fmt: skip
    found: dict[str, Any] = {
        "tables": Each([tables.table(columns, rows, **shape).lines(width) for shape in shapes for width in (20, 30,
        45, 60, 80, 200)]),
        "wrapped": Each([tables.wrapped(text, width) for text in TEXTS for width in (1, 10, 11, 24, 40, 69, 70, 71)]),
        "columns": [tables._columns(text) for text in TEXTS],
        "bars": [tables.bar(share, *more) for share in (0, 0.001, 0.02, 0.5, 1) for more in ((), (5,))],
        "bars in ASCII": [_bar_in_ascii(share) for share in (0, 0.001, 0.5)],
        "gib": [tables.gib(n) for n in (0, 1 << 30, 1 << 40, 5368709)],
        "counted": tables.counted(["a", "b", "a"]),
        "outputs": [_or_why(partial(tables.check_output, path, *more)) for path in (None, Path("x.png"),
        Path("x.SVG"), Path("x.txt"))
                    for more in ((), ((".txt",),))],
    }  # fmt: skip
    item = tables.table(columns, rows, left=(0, 2), strong=(0,))
    long = tables.table(["n"], [[str(n)] for n in range(20)])

    def show(quiet: bool) -> None:
        tables.start(quiet)
        tables.show("a sentence", "another", item, "behind it", item, item)
        tables.show_answer("the answer", brief="brief", style="good")
        tables.show_answer("another answer")
        tables.show_answer(brief="only brief")
        tables.show("", style="bold")
        tables.show_lines("lines\nas they are")
        tables.show_lines("ended\n")
        tables.show_assumptions(RESULTS["images"].assumptions)
        tables.present(argparse.Namespace(json=True), lambda: {"a": 1}, lambda: None)
        tables.present(argparse.Namespace(json=False, output=Path("x.png")), dict, lambda: tables.show("said"))

    found["shown"] = Each([_printed(partial(show, quiet), width, terminal) for quiet in (False, True) for width
        in (10, 40, 90) for
                           terminal in (False, True)])  # fmt: skip
    found["fits"] = [_printed(partial(tables.fits_screen, one), 80, terminal)[2] for one in (item, long,
                     tables.table(["n"], [["1"]] * 18)) for terminal in (False, True)]  # fmt: skip
    return found


TITLED: tuple[dict[str, Any], ...] = (
    SMOL, {**SMOL, "method": LORA}, {"model": "t5-small", "seq": 40}, {"model": "vit-base", "batch": 2},
        {"model": "whisper-tiny"},
    {**SMOL, "autocast": "bfloat16", "transformers": "4.57", "checkpointing": "layer", "mlp_chunks": 3,
    "loss": "chunked"},
    {**SMOL, "task": "infer"}, {**SMOL, "generate": {"max_new_tokens": 3, "num_beams": 2}}, {**SMOL,
    "generate": {"max_new_tokens":
    4}}, {"model": "pythia-70m", "implementation": "litgpt", "seq": 40}, {**SMOL, "runtime": "torch-cuda",
        "device": "t4"},
    {"model": "llama-3.2-1b", "runtime": "llama.cpp"}, {**SMOL, "mlp_chunks": 2}, {**SMOL, "method": "full",
    "transformers": "4.57"},
)  # fmt: skip


def _estimates() -> Parts:
    found: dict[str, Any] = {"titles": [estimate.title(parse_plan(one)) for one in TITLED]}
    found["asked"] = [estimate.asked(text) for text in ("a step", "x")]
    for name, one in RESULTS.items():
        found[name] = [_printed(partial(_estimate, one, *more), 90, True) for more in ((), (True, False))]
    devices = tuple({"name": name, "bytes": {"weights": 5, "kv_cache": kv, "compute": 0, "output_x": 3}}
                    for name, kv in (("CUDA0", 4), ("CUDA1", 0), ("cpu", 0)))  # fmt: skip
    for number, some in enumerate((devices, devices[1:], devices[:1], (devices[1], devices[0]))):
        one = _result(
            900,
            runtime="llama.cpp",
            devices=some,
            sizes={"dirty": 9, "repacked": 4, "kv_cache": 3, "host_pinned": 5000},
        )
        found[f"devices {number}"] = _printed(partial(_estimate, one), 90)
    return found


def _estimate(*given: Any) -> None:
    tables.start(False)
    estimate.print_estimate(given[0], "a heading", *given[1:])


def _words() -> Parts:
    """Comparisons and advice in words."""
    lists = ([], ["a"], ["a", "b"], ["a", "b", "c", "d"], ["a", "b", "c", "d", "e"])
    blocks: tuple[Any, ...] = ("full", "lora,ia3", "[full, {name: lora, r: 16}]", "[full", "[]", "[3]", "nonsense",
        "missing.json", "x/y",
                               "[{r: 3}]", "[{name: nonsense}]", "lora", "")  # fmt: skip
    given: tuple[dict[str, Any], ...] = ({"name": "full"}, {"name": "full", "r": 9}, {"name": "lora", "r": 9},
        {"name": "full", "rho":
                                         3, "r": 1})  # fmt: skip
    found: dict[str, Any] = {
        "lists": [compare._listed(one) for one in lists if one],
        "whose": [
            compare._whose(of, places)
            for of in ([("a", "x")], [("a", "x"), ("b", "x"), ("a", "y")])
            for places in (0, 1, 2)
        ],
        "methods": Each([_or_why(partial(compare._methods, text, one)) for text in blocks for one in given]),
        "lengths": [
            _or_why(partial(compare._length, text, "at")) for text in ("1", "0", "x", "100000000", "100000001", "-1")
        ],
        "between": [compare._between(one) for one in ([4], [4, 5], [100, 900], [1, 10**8])],
        "percent": [compare._percent(one) for one in (0, 0.001, 0.5, 1, 12.3456)],
    }
    plan = parse_plan(SMOL)
    totals: Any = None
    base = _Try((), plan, totals, totals, 1000)
    changes = (
        advice._change("no logits", keep_logits=False), advice.Change("shared", {"sharding": {"name": "fsdp2",
            "world_size": 2,
        "cpu_offload": True, "tp": 2}}, 9, 2), advice.Change("lora_A frozen", {"method": {"name": "lora-fa", "r": 4}},
        7),
        advice.Change("nothing", {"dtype": None, "batch": 1}, 3),
    )  # fmt: skip
    for number, (own, budget, task) in enumerate(
        itertools.product(((), changes[:1], changes), (5000, 1500, 100), ("train", "infer"))
    ):
        best = _Try(own, plan.model_copy(update={"task": task}), totals, totals, 1234)
        start = _Try((), best.plan, totals, totals, 1000)
        steps = tuple(advice.Step(one.text, one.keys, advice.FIDELITY[one.fidelity], 900 - i, 40 + i, 0.25 * i) for i,
            one in
                      enumerate(own))  # fmt: skip
        one = advice.Advice(start, advice.Limit(budget, STATED), best, steps, (start, best))
        with patch.object(advise, "estimate", lambda plan, least=budget: _result(least + 50 - 100 * (least == 100))):
            found[f"advice {number}"] = [_printed(partial(_advice, many), 90) for many in ([one], [one, one])]
    found["changes"] = [
        advise._changes(_Try(own, plan, totals, totals, 1)) for own in ((), changes[:1], changes[1:], changes)
    ]
    found["percents"] = advise._percent(
        advice.Advice(base, advice.Limit(1, STATED), base, ()), _Try((), plan, totals, totals, 900)
    )
    return found


def _advice(several: Sequence[Any]) -> None:
    tables.start(False)
    advise._print(several)


def _reports() -> Parts:
    """Tables of runs of which some figures are absent."""
    sizes: list[dict[str, int]] = [
        {},
        {"process": 3 << 30},
        {"process": 1 << 30, "reserved": 5 << 30},
        {"allocated": 9},
    ]
    found = []
    for predicted, measured, error in itertools.product(sizes, sizes, ("", "why")):
        run = {
            "schema": 1,
            "model": "m",
            "device": "d",
            "date": "2026-01-02",
            "predicted": predicted,
            "measured": measured,
        }
        runs = [{**run, "versions": {}, "plan": {"model": "m"}, "error": error}]
        Path("runs.jsonl").write_text("\n".join(map(json.dumps, runs)), encoding="utf-8")
        found.append([_asked("report", "runs.jsonl", *more) for more in ((), ("--quiet",), ("--json",))])
    return {"reports": Each(found)}


def _shown(folder: Path) -> Iterator[Question]:
    """What is printed of answers made up."""
    folder.mkdir(exist_ok=True)
    asks: Mapping[str, Callable[[], Parts]] = {
        "measurements": _measurements, "recordings": _recordings, "contexts": _contexts,
        "worker": lambda: _worker(Path()),
        "completions": _completions, "tables": _tables, "estimates": _estimates, "words": _words, "reports": _reports,
        "formulas": _formulas,
    }  # fmt: skip
    for name, ask in asks.items():
        yield name, here(folder, ask)


GROUPS: dict[str, Callable[[Path], Iterator[Question]]] = {"shown": _shown}
"""By the name of a table, its questions; a folder is for files that are asked about."""
