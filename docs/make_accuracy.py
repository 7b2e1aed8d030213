"""Measure every case of the tests and the real models below, score the published runs; write ``docs/accuracy.md``.

Run it with ``make accuracy``. It takes some twenty minutes on two cores and about 8 GiB of memory; ``make published``
scores the published runs anew, in two minutes, ``make inference`` the calls of ``generate`` and the runs of
llama.cpp, in five; they leave the rest of the page as it is.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from estimator.answers.estimate import estimate
from estimator.answers.measurement import measure
from estimator.plans.plan import Plan, parse_plan
from estimator.plans.resolve import resolve
from estimator.text import human
from estimator.witnesses.measure import run_step

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.cases.generate_calls import random_call
from tests.cases.llama_cpp_runs import PADDED, device_logs, device_runs, devices_of_log, logs, usage_of_log
from tests.cases.llama_cpp_runs import predicted as predicted_usage
from tests.cases.llama_cpp_runs import runs as recorded_runs
from tests.cases.published_runs import BARS, METRICS, Run, left_out, runs, sources
from tests.cases.small_models import all_cases, write_config
from tests.cases.tables import MEASURED

Row = tuple[str, dict[str, int], dict[str, Any], Plan]
"""A case's name, what was predicted and measured, and its plan."""
EXACT = ("parameters", "buffers", "gradients", "optimizer", "saved")
REAL: list[dict[str, Any]] = [
    {"model": "smollm2-135m", "method": "full", "dtype": "float32", "batch": 2, "seq": 1024},
    {"model": "smollm2-135m", "method": "full", "dtype": "float32", "batch": 4, "seq": 512, "checkpointing": "layer"},
    {"model": "smollm2-135m", "method": "ia3", "dtype": "bfloat16", "batch": 4, "seq": 512, "attention": "eager"},
    {"model": "smollm2-135m", "method": "lora", "dtype": "float32", "batch": 1, "seq": 1024, "autocast": "bfloat16"},
    {"model": "smollm2-360m", "method": "full", "dtype": "float32", "batch": 1, "seq": 128},
    {"model": "smollm2-360m", "method": "full", "dtype": "bfloat16", "batch": 2, "seq": 512},
    {"model": "qwen2.5-0.5b", "method": "lora", "dtype": "bfloat16", "batch": 1, "seq": 512},
    {"model": "qwen2.5-0.5b", "method": "lora", "dtype": "float32", "batch": 2, "seq": 256},
    {"model": "qwen2.5-0.5b", "method": "ia3", "dtype": "float32", "batch": 1, "seq": 700, "keep_logits": False},
    {"model": "qwen3-0.6b", "method": {"name": "lora", "target_modules": "all-linear"}, "batch": 1, "seq": 300},
    {"model": "qwen3-0.6b", "method": "full", "dtype": "bfloat16", "batch": 1, "seq": 200, "optimizer": "sgd"},
    {"model": "llama-3.2-1b", "method": "lora", "dtype": "bfloat16", "batch": 1, "seq": 200},
]


GENERATED: list[dict[str, Any]] = [
    {"model": "qwen2.5-0.5b", "dtype": "float32", "seq": 1000, "generate": {"max_new_tokens": 20}},
    {"model": "smollm2-135m", "dtype": "float32", "batch": 4, "seq": 700,
     "generate": {"max_new_tokens": 30, "cache_implementation": "static"}},
    {"model": "smollm2-360m", "dtype": "float32", "batch": 2, "seq": 300,
     "generate": {"max_new_tokens": 40, "num_beams": 3, "cache_implementation": "quantized"}},
    {"model": "qwen3-0.6b", "dtype": "bfloat16", "seq": 600, "generate": {"max_new_tokens": 8, "num_beams": 2}},
]  # fmt: skip
CALLS = 160
"""Random calls of ``generate``."""

FIGURE = (
    "![Estimated against measured bytes](images/accuracy.png)",
    "",
    "Each point is one figure: a peak, a process, a buffer or a cache. `python docs/make_accuracy_figure.py` draws it "
    "from the committed records in seconds, outliers and held-out rows among them. Of public logs that do not print "
    "every setting, those whose answers differ by more than 10 % are left out.",
)
INFERENCE = "## Inference"
PUBLISHED = "## GPUs: what others measured and published"
PAGE = Path(__file__).with_name("accuracy.md")


def main() -> None:
    """Measure, score and write the page and its figure."""
    from make_accuracy_figure import main as draw

    write_page()
    draw()


def write_page() -> None:
    """Write the page, or the sections that the command line names."""
    console = Console(stderr=True)
    if "--published" in sys.argv:
        kept, _, _ = PAGE.read_text().partition(PUBLISHED)
        PAGE.write_text(kept + published())
        return
    if "--inference" in sys.argv:
        kept, _, rest = PAGE.read_text().partition(PUBLISHED)
        PAGE.write_text(kept.partition(INFERENCE)[0] + inference(console) + PUBLISHED + rest)
        return
    rows = measured(all_cases(), console)
    others = measured(topic_cases(), console)
    real = []
    for number, plan in enumerate(track(REAL, "real models", console=console)):
        record = measure(parse_plan(plan))
        if number % 2 == 0:
            default = measure(parse_plan(plan), default_malloc=True)
            record["default_malloc_rss"] = default["measured"]["peak_rss"]
        real.append(record)
    PAGE.write_text(page(rows, others, real) + inference(console) + published())


def topic_cases() -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """The cases of methods, savings, quantised bases and optimizers."""
    return [
        (f"{subject}-{name}", config, plan)
        for subject, table in MEASURED.items()
        if subject != "small_models"
        for name, config, plan in table
    ]


def measured(cases: list[tuple[str, dict[str, Any], dict[str, Any]]], console: Console) -> list[Row]:
    """Every case's step."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, config, plan) in enumerate(track(cases, "small models", console=console)):
            parsed = parse_plan({"model": write_config(Path(folder) / str(number), config), **plan})
            rows.append((name, dict(estimate(parsed).bytes), run_step(resolve(parsed)), parsed))
    return rows


def groups(rows: list[Row]) -> list[str]:
    """What was measured, key by key: how many steps, how many exact, the largest difference at the peak."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        plan = row[3]
        found.setdefault(("method", plan.method.name), []).append(row)
        for key in ("dtype", "checkpointing", "loss", "saved_activations", "optimizer"):
            value = getattr(plan, key)
            if value != Plan.model_fields[key].default and value not in ("float32", "float16"):
                found.setdefault((key, value), []).append(row)
        if plan.mlp_chunks > 1:
            found.setdefault(("mlp_chunks", "above 1"), []).append(row)
    lines = [
        "| key | value | steps | exact | largest difference at the peak, bytes |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for (key, value), group in sorted(found.items(), key=lambda item: (item[0][0] != "method", item[0])):
        exact = sum(all(p[k] == m[k] for k in EXACT) for _, p, m, _ in group)
        worst = max(abs(p["peak_above_resident"] - m["peak_without_matmul_scratch"]) for _, p, m, _ in group)
        lines.append(f"| {key} | `{value}` | {len(group)} | {exact} | {worst} |")
    return lines


SHOWN = 20
"""Cases that are named one by one."""


def page(rows: list[Row], others: list[Row], real: list[dict[str, Any]]) -> str:
    """The page's text."""
    peaks = {name: p["peak_above_resident"] - m["peak_above_resident"] for name, p, m, _ in rows}
    ruled = [abs(p["peak_above_resident"] - m["peak_without_matmul_scratch"]) for _, p, m, _ in rows]
    exact = sum(all(p[key] == m[key] for key in EXACT) for _, p, m, _ in rows)
    differing = sorted((abs(d), name) for name, d in peaks.items() if abs(d) > 64)
    versions = real[0]["measured"]["versions"]
    machine = real[0]["measured"]["machine"]
    spread = Counter(0 if d == 0 else 8 if d <= 8 else 64 if d <= 64 else 65 for d in map(abs, peaks.values()))
    lines = [
        "# Accuracy",
        "",
        *FIGURE,
        "",
        "Written by `make accuracy` from the measured cases of the tests; do not edit by hand.",
        f"Machine: {machine['processor']}, {machine['threads']} intra-op threads. "
        + ", ".join(f"{k} {v}" for k, v in versions.items())
        + ".",
        "",
        "## Small models, every setting",
        "",
        f"{len(rows)} steps of small models of all families (the tests' cases), on PyTorch's CPU allocator:",
        "",
        f"- parameters, buffers, gradients, optimizer states, saved activations: {exact} of {len(rows)} exactly equal;",
        f"- peak above resident: {spread[0]} equal, {spread[8]} within 8 bytes, {spread[64]} within 64 bytes, "
        f"{spread[65]} further off;",
        f"- peak with oneDNN's scratch left out: largest difference {max(ruled)} bytes.",
        "",
        "One allocation has no rule: the scratch of packed blocks that oneDNN takes inside a 16-bit `mm`, `bmm`, "
        "`addmm` or `baddbmm`, or inside the products of the 16-bit flash backward "
        "(`aten/src/ATen/native/mkldnn/Matmul.cpp`). Its "
        "size depends on how oneDNN cuts the shape into blocks for the processor's instruction set. Here it is between "
        "13 KiB and a few MiB, and it is given back when the product is done. It shows only where a 16-bit product is "
        "the peak itself: very short sequences, tiny vocabularies, checkpointed blocks of tiny models. float32 takes "
        "none, and float16 only on processors with AVX512-FP16.",
        "",
    ]
    if differing:
        lines += ["| case | predicted - measured peak (bytes) | measured peak in |", "| --- | ---: | --- |"]
        where = {name: m["peak_at"] for name, _, m, _ in rows}
        for _, name in reversed(differing[-SHOWN:]):
            lines.append(f"| {name} | {peaks[name]:+,} | `{where[name].removesuffix('/[memory]')}` |")
        lines += ["", f"The {SHOWN} largest; the others are like them."] if len(differing) > SHOWN else []
        lines.append("")
    lines += [
        "## Methods, savings, quantised bases, optimizers",
        "",
        f"{len(others)} more steps, of the tests' other cases. *Exact* means that parameters, buffers, gradients, "
        "optimizer states and saved activations are equal in every byte. The peak is compared with oneDNN's scratch "
        "left out. Liger, CCE, GPTQ and AWQ run as plain PyTorch here (`estimator/witnesses/reference/`). MeZO, LARS, "
        "GaLore and Lion run as short implementations of this project's own. All others are PEFT's, PyTorch's, "
        "bitsandbytes' and torchao's.",
        "",
        *groups([*rows, *others]),
        "",
        "## Real models",
        "",
        "Each in a fresh process (`estimator measure`). Differences are predicted minus measured. RSS is the peak "
        "resident set with glibc's mmap threshold fixed (`MALLOC_MMAP_THRESHOLD_=131072`). Then it follows live bytes. "
        "The last column is the same step with glibc left alone (`--default-malloc`). Then its heap keeps freed "
        "blocks, since small objects that live long are between them, and the process shows that much more than "
        "predicted. Setting the variable is worth it on a small machine. Where SciPy is installed "
        "transformers imports it, which takes 35 MiB more than predicted: 9 % of the process of a tiny model.",
        "",
        "| model | step | saved | peak above resident | RSS measured | predicted | difference | default malloc |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for record in real:
        plan, m, p = record["plan"], record["measured"], record["predicted"]["bytes"]
        step = ", ".join(
            str(part)
            for part in (
                plan["method"]["name"],
                plan["dtype"],
                plan.get("autocast") and f"autocast {plan['autocast']}",
                plan["attention"],
                plan["checkpointing"] != "none" and "checkpointing",
                plan["optimizer"],
                f"B {plan['batch']}",
                f"S {plan['seq']}",
            )
            if part
        )
        lines.append(
            f"| {plan['model']} | {step} | {p['saved'] - m['saved']:+,} B "
            f"| {p['peak_above_resident'] - m['peak_above_resident']:+,} B "
            f"| {human(m['peak_rss'])} | {human(p['process'])} | {100 * (p['process'] / m['peak_rss'] - 1):+.1f} % "
            f"| {_default_malloc(record)} |"
        )
    return "\n".join([*lines, "", ""])


def inference(console: Console) -> str:
    """The section on ``generate``, measured here, and on llama.cpp, from the recorded runs."""
    calls = measured([(str(seed), *random_call(seed)) for seed in range(CALLS)], console)
    equal = sum(p["kv_cache"] == m["kv_cache"] for _, p, m, _ in calls)
    peaks = [abs(p["peak_above_resident"] - m["peak_without_matmul_scratch"]) for _, p, m, _ in calls]
    lines = [
        INFERENCE,
        "",
        f"`generate` on a CPU: {len(calls)} random calls of small models of all families: "
        "dynamic, static and 8-bit caches, windows, beams, LoRA, float32 and bfloat16. "
        f"KV cache: {equal} of {len(calls)} equal in every byte. Peak, oneDNN's scratch left out: "
        f"{peaks.count(0)} equal, largest difference {max(peaks)} bytes. Real models, each in a fresh process:",
        "",
        "| model | call | KV cache | peak above resident | RSS measured | predicted | difference |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for plan in track(GENERATED, "generate", console=console):
        record = measure(parse_plan(plan))
        m, p = record["measured"], record["predicted"]["bytes"]
        call = ", ".join(f"{key} {value}" for key, value in {**plan, **plan["generate"]}.items() if key in _CALL_KEYS)
        lines.append(
            f"| {plan['model']} | {call} | {p['kv_cache'] - m['kv_cache']:+,} B "
            f"| {p['peak_above_resident'] - m['peak_without_matmul_scratch']:+,} B | {human(m['peak_rss'])} "
            f"| {human(p['process'])} | {100 * (p['process'] / m['peak_rss'] - 1):+.1f} % |"
        )
    return "\n".join([*lines, "", *llama_cpp(), "", ""])


_CALL_KEYS = ("dtype", "batch", "seq", "max_new_tokens", "num_beams", "cache_implementation")


def llama_cpp() -> list[str]:
    """What the recorded runs and the public logs say of runtime llama.cpp."""
    equal: Counter[str] = Counter()
    compared: Counter[str] = Counter()
    resident = []
    found = [run for run in recorded_runs() if run.bytes is not None]
    for run in found:
        use, theirs = predicted_usage(run), run.bytes or {}
        ours = {
            "KV cache and recurrent state": (use.context.kv_bytes + use.context.recurrent_bytes, "kv_and_state"),
            "compute buffer": (use.reserved[0], "compute"),
            "output buffer": (use.context.output_bytes, "output"),
            "weights": (use.weights.total, "weights"),
            "of them repacked": (use.weights.repacked, "repacked"),
        }
        if not run.no_alloc:
            ours["mapped from the file"] = (use.weights.mapped, "mapped")
        for name, (size, key) in ours.items():
            compared[name] += 1
            equal[name] += size == theirs[key]
        if "resident" in theirs:
            resident.append(abs((use.clean + use.dirty) / theirs["resident"] - 1))
    resident.sort()
    refused = len(recorded_runs()) - len(found)
    lines = [
        f"llama.cpp: {len(found)} recorded runs of build 0c1e57098 on a CPU (`docs/measured/llama_cpp/runs.json`), of "
        f"{len({run.name for run in found})} files' shapes. The engine refused {refused} more, and they are refused "
        "here. Equal in every byte:",
        "",
        "| buffer | equal |",
        "| --- | ---: |",
        *(f"| {name} | {equal[name]} of {count} |" for name, count in compared.items()),
        "",
        f"Resident set of {len(resident)} runs that decoded: median difference {_percent(statistics.median(resident))}"
        f", largest {_percent(resident[-1])}. The graphs of 21 models are compared with those of the installed engine "
        "(b11739) node by node in the tests, and the recipes of `llama-quantize` tensor by tensor.",
        "",
        f"{len(logs())} public logs of other builds and backends: KV cache equal to the printed digit in all. Where "
        "one prints the compute buffer, in MiB:",
        "",
        "| model | backend | n_ctx | log | predicted |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for log in logs():
        use = usage_of_log(log)
        if "compute" in log["mib"]:
            name, backend = log["model"], log["llama_cpp"]["backend"]
            computed = f"{log['mib']['compute']:.2f} | {use.reserved[0] / 2**20:.2f}"
            lines.append(f"| {name} | {backend} | {log['llama_cpp']['n_ctx']} | {computed} |")
    return [*lines, *llama_cpp_devices()]


def llama_cpp_devices() -> list[str]:
    """What runs over workers, and public logs of several GPUs or partly offloaded, say of runtime llama.cpp."""
    lines = [
        "",
        f"llama.cpp over one, two and three workers of its RPC backend (b11739): {len(device_runs())} recorded runs "
        "(`docs/measured/llama_cpp/devices.json`), partly offloaded, of 15 models with windows, experts, latent "
        "attention and states. Weights, cache and states, compute and output of each device and of the host are equal "
        "to the byte in all; `make witness` asks 200 others.",
        "",
        f"{len(device_logs())} public logs of GPUs that share a model, or have a part of its layers "
        "(`docs/measured/llama_cpp/device_logs.json`, most of the fork ik_llama.cpp). The cache of each GPU and of the "
        "host is equal to the printed digit (a quantised one of the fork has up to 0.05 MiB more), and so are the "
        "weights where the file is a plain recipe. *By free memory*: the log does not say how much each card had free, "
        "and the sums are equal. Of the compute buffers that of the last GPU is shown. The fork keeps a second hidden "
        "state beside the logits there (2.6 % more), and copies no weights of the host to a GPU, which mainline does:",
        "",
        "| log | GPUs | KV cache, MiB | weights, MiB | compute, log | predicted |",
        "| --- | ---: | --- | --- | ---: | ---: |",
    ]
    for log in device_logs():
        found, last = devices_of_log(log), max(name for name in log["mib"] if name != "cpu")
        cells = []
        for part in ("kv_cache", "weights"):
            printed = {name: sizes[part] for name, sizes in log["mib"].items() if part in sizes}
            equal = all(abs(found[name][part] / 2**20 - size) <= PADDED for name, size in printed.items())
            told = " + ".join(f"{size:,.2f}" for size in printed.values())
            cells.append(f"{told}{'' if equal else ', by free memory'}")
        compute = log["mib"][last].get("compute")
        cells.append("" if compute is None else f"{compute:,.2f}")
        cells.append("" if compute is None else f"{found[last]['compute'] / 2**20:,.2f}")
        lines.append(f"| {log['id'].removeprefix('ik-').removesuffix('-')} | {log['devices']} | {' | '.join(cells)} |")
    return lines


def published() -> str:
    """The section on published runs, from the tables in ``docs/measured/published``."""
    lines = [
        PUBLISHED,
        "",
        "Steps on GPUs that this project did not run, each predicted from the configuration it really had "
        "(`docs/measured/published/`, one file per source: figures, versions, plans, notes). No constant was fitted to "
        "them but two lengths that PEFT does not publish, 689 and 105, each read off one LoRA row. *Held out* are rows "
        "that nobody looked at while the rules were written. *Several GPUs* are runs whose sharding a plan says; "
        "which ones are scored was decided before any of them was predicted (`several-gpus.yaml`). Of those with "
        "*upper bounds* the length at the peak is not published, but the longest.",
        "",
        "| source | metric | rows | runs | mean | median | worst | within |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    outliers: dict[tuple[str, str, str], list[str]] = {}
    missing: Counter[tuple[str, str]] = Counter()
    for source in sources():
        found = runs(source)
        missing.update((source, reason) for run in found if (reason := _left_out(run)))
        missing.update((source, reason) for reason in left_out(source).values())
        for metric in METRICS:
            bar = BARS.get((source, metric))
            scored = [run for run in found if run.error(metric) is not None and not run.mislabelled]
            for kind in ("scored", "held out", "several GPUs", "several GPUs, upper bounds"):
                errors = sorted(abs(run.error(metric) or 0.0) for run in scored if _kind(run) == kind)
                if not errors:
                    continue
                cells = [source, metric.replace("_", " "), kind, str(len(errors))]
                cells += [_percent(value) for value in (statistics.mean(errors), statistics.median(errors), errors[-1])]
                inside = sum(error <= bar for error in errors) if bar else 0
                cells.append(f"{inside} of {len(errors)} within {100 * bar:g} %" if bar else "")
                lines.append(f"| {' | '.join(cells)} |")
            for run in scored:
                error = run.error(metric) or 0.0
                if bar is not None and abs(error) > bar:
                    key = source, metric.replace("_", " "), run.outlier or "unexplained"
                    outliers.setdefault(key, []).append(f"{run.name} ({100 * error:+.1f} %)")
    lines += ["", "Outliers, all of them:", "", "| source | metric | runs | why |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {source} | {metric} | {', '.join(names)} | {why} |" for (source, metric, why), names in outliers.items()
    ]
    lines += ["", "Rows without a prediction, or not scored:", "", "| source | rows | why |", "| --- | ---: | --- |"]
    lines += [f"| {source} | {count} | {reason} |" for (source, reason), count in missing.items()]
    verdicts = [run for source in sources() for run in runs(source) if run.outcome and run.fits is not None]
    alone = [run for run in verdicts if not run.shared and "gpus" not in run.name]
    right = sum(run.fits is (run.outcome == "completed") for run in alone)
    lines += [
        "",
        f"Of {len(alone)} runs on one GPU of which only the outcome is published (completed, or out of memory), "
        f"{right} have the verdict they had.",
        "",
    ]
    return "\n".join(lines)


def _kind(run: Run) -> str:
    if run.shared:
        return "several GPUs, upper bounds" if run.incomplete else "several GPUs"
    return "held out" if run.held_out else "scored"


def _left_out(run: Run) -> str:
    if run.mislabelled:
        return f"mislabelled: {run.mislabelled}"
    return run.refused.partition("; known")[0].replace("|", "/")[:160]


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _default_malloc(record: dict[str, Any]) -> str:
    rss = record.get("default_malloc_rss")
    return "" if rss is None else f"{100 * (record['predicted']['bytes']['process'] / rss - 1):+.1f} %"


if __name__ == "__main__":
    main()
