"""Speed, as ratios within one run: ``python benchmarks/run.py``. Reported, never asserted.

Times are the best of several; the unit of comparison is the start of a bare interpreter on the
same machine in the same run, so figures of different machines can be set side by side.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from startup import ENVIRONMENT, peak_mib

from estimator import estimate
from estimator.answers.bulk import estimate_lines
from estimator.answers.formulas import compile_plan
from estimator.engines.torch_cuda.process import Process
from estimator.export.build import function_of
from estimator.export.code_python import to_python
from estimator.export.sweep import KINDS, Sweep
from estimator.plans.models import builtin_names
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve


def best(function: Callable[[], object], times: int) -> float:
    """Seconds of the fastest of several calls."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        function()
        found.append(time.perf_counter() - start)
    return min(found)


def process(*arguments: str) -> Callable[[], object]:
    """A call that runs a fresh interpreter, which may say that a plan does not fit."""

    def run() -> None:
        done = subprocess.run([sys.executable, *arguments], capture_output=True, env=ENVIRONMENT)
        assert done.returncode in (0, 1)

    return run


def plans(count: int) -> list[str]:
    """Plans of a planner's kind: a few models and methods, any batch and length."""
    draw = random.Random(0)
    models = ["llama-3.2-1b", "llama-3.1-8b", "qwen2.5-7b", "mistral-7b-v0.3", "qwen3-8b"]
    methods = ["full", "ia3", *({"name": "lora", "r": r} for r in (4, 8, 16, 64))]
    return [
        json.dumps(
            {
                "model": draw.choice(models),
                "method": draw.choice(methods),
                "batch": draw.randint(1, 16),
                "seq": draw.randint(1, 8192),
                "checkpointing": draw.choice(["none", "layer"]),
            }
        )
        for _ in range(count)
    ]


def any_plans(count: int) -> list[str]:
    """Plans over every built-in model and dtype: the most different formulas."""
    names, draw = builtin_names(), random.Random(1)
    rows = [{**json.loads(line), "model": draw.choice(names)} for line in plans(count)]
    return [json.dumps({**row, "dtype": draw.choice(["float32", "bfloat16"])}) for row in rows]


def gpu_rows(row: Callable[..., None]) -> None:
    """Whole processes that answer for a GPU, beside one estimate of the same plan."""
    cli, deep = ("-m", "estimator.show.cli"), ("--method", "lora", "--checkpointing", "layer", "--device", "h200")
    shallow = best(process(*cli, "estimate", "llama-3.2-1b", *deep), 5)
    row("whole estimate process on a GPU, 16 layers, checkpointed", shallow)
    seconds = best(process(*cli, "estimate", "llama-3.1-405b", *deep), 5)
    row("the same, 126 layers", seconds, f"{seconds / shallow:.2f} of the 16-layer one")
    plan = ("llama-3.1-8b", "--method", "lora", "--device", "rtx-4090")
    asked = ("--batch", "4", "--seq", "8192")
    one = best(process(*cli, "estimate", *plan, *asked), 5)
    row("whole estimate process on a GPU, 32 layers", one)
    questions: dict[str, tuple[str, ...]] = {
        "advise": (*plan, *asked),
        "max-seq": (*plan, "--dtype", "nf4"),
        "max-batch": (*plan, "--dtype", "nf4", "--seq", "512"),
        "max-rank": (*plan, "--dtype", "nf4", "--seq", "1024", "--target-modules", "all-linear"),
        "smallest-device": plan[:3],
        "smallest-cluster": (*plan[:3], "--devices", "h100-80gb,a100-80gb,rtx-4090"),
    }
    for question, arguments in questions.items():
        seconds = best(process(*cli, question, *arguments), 2)
        row(f"whole {question} process on a GPU", seconds, f"{seconds / one:.1f} estimates")


def main() -> None:
    """Measure and print."""
    command = ("-m", "estimator.show.cli", "estimate", "llama-3.2-1b", "--method", "lora", "--r", "16")
    bare = best(process("-c", "pass"), 7)
    table = Table("what", "time", "in interpreter starts", "note")

    def row(what: str, seconds: float, note: str = "") -> None:
        table.add_row(what, f"{1000 * seconds:.1f} ms", f"{seconds / bare:.2f}", note)

    row("bare interpreter", bare, f"{peak_mib('-c', 'pass')} MiB")
    sympy = best(process("-c", "import sympy"), 7)
    row("importing sympy alone, for comparison", sympy)
    whole = best(process(*command), 7)
    row("whole estimate process", whole, f"{peak_mib(*command)} MiB, {whole / sympy:.2f} of sympy's import")
    gpu_rows(row)
    context = ("-m", "estimator.show.cli", "max-context", "qwen3-0.6b", "--budget", "4GiB")
    row("whole max-context process", best(process(*context), 7), f"{peak_mib(*context)} MiB")
    small = best(lambda: estimate(model="llama-3.2-1b", method="lora"), 20)
    large = best(lambda: estimate(model="llama-3.1-405b", method="lora"), 20)
    row("one estimate in process, 16 layers", small)
    row("one estimate in process, 126 layers", large, f"{large / small:.2f} of the 16-layer one")
    phone = {"model": "llama-3.2-1b", "runtime": "llama.cpp", "seq": 8192}
    engine = best(lambda: estimate(phone), 20)
    row("one estimate on llama.cpp, two graphs replayed", engine, f"{engine / small:.2f} of an estimate in PyTorch")
    generated = best(lambda: estimate(model="llama-3.2-1b", generate={"max_new_tokens": 500}), 20)
    row("one call of generate, three passes", generated, f"{generated / small:.2f} of a training step")
    on_gpu = {"model": "llama-3.1-8b", "method": "lora", "device": "a100-80gb"}
    written = resolve(parse_plan(on_gpu))
    replayed = best(lambda: Process(written).step(1, 2048), 5)
    row("a GPU's step of 32 layers, logged and replayed", replayed, f"{replayed / small:.0f} of an estimate on a CPU")
    row("one estimate on a GPU, 32 layers, two steps", best(lambda: estimate(on_gpu), 5))
    row("the same with checkpointing", best(lambda: estimate({**on_gpu, "checkpointing": "layer"}), 5))
    for name, lines in (("five models", plans(10_000)), ("every model", any_plans(10_000))):
        seconds = best(lambda lines=lines: list(estimate_lines(lines)), 1)  # type: ignore[misc]
        row(f"10,000 plans, {name}", seconds, f"{len(lines) / seconds:,.0f} plans/s")
    plan = parse_plan({"model": "llama-3.2-1b", "method": "lora", "batch": 4})
    batch, seq = np.meshgrid(np.arange(2, 1002), np.arange(2, 1002))
    row("a grid of a million (B, S), compiled and evaluated", best(lambda: compile_plan(plan).evaluate(batch, seq), 3))
    million = {"model": "llama-3.2-1b", "method": "lora", "batch": {"from": 1, "to": 100}}
    million |= {"seq": {"from": 10, "to": 10_000, "step": 10}, "r": {"from": 1, "to": 10}}
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            seconds = best(lambda kind=kind: Sweep(million).write(Path(folder) / f"table{kind}", kind), 1)  # type: ignore[misc]
            row(f"a million rows as {kind}", seconds, f"{1e6 / seconds:,.0f} rows/s")
    open_ = parse_plan({"model": "llama-3.2-1b", "method": "lora"})
    exported = best(lambda: to_python(function_of(open_, ["batch", "seq", "r"])), 3)
    row("a function of batch, seq and r in Python", exported, f"{exported / small:.0f} estimates")
    Console().print(table)


if __name__ == "__main__":
    main()
