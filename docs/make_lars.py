"""Write ``docs/lars.md``: the seed paper's claim beside what the rules and the measured runs say."""

# ruff: noqa: E501

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from estimator.answers.estimate import to_result
from estimator.answers.result import Result
from estimator.operators import CPU, Cuda, Device
from estimator.plans.plan import parse_plan
from estimator.plans.resolve import resolve
from estimator.steps.step import run

PAGE = Path(__file__).parent / "lars.md"
MEASURED = Path(__file__).parent / "measured" / "lars.json"
"""Runs of ``estimator measure --json``, the paper's methods."""
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BASELINE = "LoRA, dropout 0.05"
METHODS: dict[str, dict[str, Any]] = {
    BASELINE: {"name": "lora", "r": 8, "target_modules": "all-linear", "lora_dropout": 0.05},
    "LoRA, no dropout": {"name": "lora", "r": 8, "target_modules": "all-linear"},
    "LoRA-FA, dropout 0.05": {"name": "lora-fa", "r": 8, "target_modules": "all-linear", "lora_dropout": 0.05},
    "LoRA-FA, no dropout": {"name": "lora-fa", "r": 8, "target_modules": "all-linear"},
    "IA3": {"name": "ia3", "target_modules": LINEAR, "feedforward_modules": ["gate_proj", "up_proj", "down_proj"]},
    "LARS": {"name": "lars", "r": 8},
}
DEVICES = {"cpu": "CPU", "cuda": "GPU"}
RULES: dict[str, Device] = {"cpu": CPU, "cuda": Cuda(sdpa_kernel="efficient")}
CLAIMS = {"cpu": "-51.95 %", "cuda": "-33.54 %"}
SHAPES = ((8, 256), (1, 1024), (1, 2048), (1, 4096), (1, 16384))
LAYERS = 16


def plan(method: Mapping[str, Any], **keys: Any) -> dict[str, Any]:
    """The paper's setting as far as it is known."""
    return {"model": "llama-3.2-1b", "dtype": "float32", "keep_logits": False, "method": dict(method), **keys}


def answer(method: Mapping[str, Any], device: str, **keys: Any) -> Result:
    """The estimate by a device's rules."""
    resolved = resolve(parse_plan(plan(method, **keys)))
    options = resolved.step._replace(device=RULES[device])
    totals = run(options, resolved.sizes(), resolved.method, resolved.plan.batch, resolved.plan.seq)
    return to_result(resolved, totals)


def per_token_and_layer(method: Mapping[str, Any], device: str) -> int:
    """Saved bytes that one more token costs in one inner layer."""
    resolved = resolve(parse_plan(plan(method)))
    options = resolved.step._replace(device=RULES[device])

    def saved(seq: int) -> int:
        rows = run(options, resolved.sizes(), resolved.method, 1, seq, keep_rows=True).rows
        return sum(int(row.nbytes * row.copies) for row in rows if row.scope == "inner block")

    more = 32  # the log-sum-exp of the GPU's kernel goes by 32 tokens
    return (saved(1024 + more) - saved(1024)) // more // (LAYERS - 2)


def share(one: int, other: int) -> str:
    """A difference in per cent."""
    return f"{100 * (one / other - 1):+.1f} %"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, numbers to the right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def trainable() -> str:
    """Trainable parameters and shares."""
    rows = []
    for name in (BASELINE, "LoRA-FA, no dropout", "IA3", "LARS"):
        result = answer(METHODS[name], "cpu", seq=64)
        count, total = result.trainable_parameters, result.total_parameters
        rows.append([name.partition(",")[0], f"{count:,}", f"{100 * count / total:.3f} %"])
    return table(["method", "trainable parameters", "share"], rows)


def tokens() -> str:
    """Saved bytes per token and layer."""
    rows = []
    for name, method in METHODS.items():
        cells = [name]
        for device in DEVICES:
            base = per_token_and_layer(METHODS["LARS"], device)
            own = per_token_and_layer(method, device)
            cells.append(f"{own:,} ({own - base:+,})")
        rows.append(cells)
    return table(["method", *(f"{name} rules" for name in DEVICES.values())], rows)


def totals(device: str, **keys: Any) -> str:
    """Peak (and saved) against the baseline, over shapes."""
    rows = []
    for batch, seq in SHAPES:
        results = {name: answer(m, device, batch=batch, seq=seq, **keys).bytes for name, m in METHODS.items()}
        base = results.pop(BASELINE)
        cells = [f"{batch} x {seq}", f"{base['peak'] / 1e9:.2f} GB"]
        cells += [f"{share(r['peak'], base['peak'])} ({share(r['saved'], base['saved'])})" for r in results.values()]
        rows.append(cells)
    return table(["batch x tokens", BASELINE, *list(METHODS)[1:]], rows)


def measured() -> str:
    """The measured runs beside their predictions."""
    rows = []
    for row in json.loads(MEASURED.read_text()):
        real, predicted = row["measured"], row["predicted"]
        rows.append(
            [
                f"{row['model']}, {row['method']}, {row['batch']} x {row['seq']}",
                f"{real['saved']:,}",
                f"{real['peak']:,}",
                f"{predicted['saved'] - real['saved']:+,} / {predicted['peak'] - real['peak']:+,}",
                f"{real['peak_rss'] / 1e9:.2f} GB",
                share(predicted["process"], real["peak_rss"]),
            ]
        )
    head = ["run", "saved, measured", "peak, measured", "predicted less measured", "peak RSS", "process, predicted"]
    return table(head, rows)


def page() -> str:
    """The page."""
    lars = {device: per_token_and_layer(METHODS["LARS"], device) for device in DEVICES}
    lora = {device: per_token_and_layer(METHODS[BASELINE], device) for device in DEVICES}
    limits = {device: share(lars[device], lora[device]) for device in DEVICES}
    return f"""# LARS, checked

Written by `python docs/make_lars.py`; do not edit by hand. Sizes here are GB of 10^9 bytes, as in the paper.

The paper this project starts from (LARS, arXiv 2604.22783) claims, against LoRA, {CLAIMS["cuda"]} memory on GPUs and
{CLAIMS["cpu"]} on CPUs on average. This page computes LARS, LoRA, LoRA-FA and IA3 at the paper's setting as far as it is known:
Llama-3.2-1B, float32, all linear layers, r = 8, LoRA with dropout 0.05. The rules are those that every estimate uses
(`estimator/methods/lars.py`). The layer that they mirror is trained and measured (`estimator/witnesses/reference/lars.py`).

## Is it the paper's module?

{trainable()}

The paper reports 0.67 % for LARS and 0.45 % for LoRA. The module rebuilt from its steps gives both at r = 8, and no other
rank does. That is strong evidence, not proof: no released library holds the method.

## What a token costs in a layer

Bytes saved for backward per token and inner layer. In brackets is what a method saves more than LARS, which saves nothing of its
own that grows with the sequence.

{tokens()}

On a CPU PyTorch's dropout keeps a float mask of four bytes per number, on a GPU one of one byte. This alone makes the CPU's figure
the larger one, as it is in the paper. For long inputs, saved activations alone change by {limits["cpu"]} on a CPU and {limits["cuda"]} on a GPU.

## What a step costs

Peak of the step's tensors against LoRA with dropout 0.05 (in brackets, what is saved for backward). Causal language modelling with
the full logits, CPU rules; the paper claims {CLAIMS["cpu"]}:

{totals("cpu")}

The same, GPU rules; the paper claims {CLAIMS["cuda"]}:

{totals("cuda")}

The published script trains a classifier (`LlamaForSequenceClassification`), which has no logits over the vocabulary. The loss
taken over chunks of tokens comes near to that: no logits are kept. CPU rules:

{totals("cpu", loss="chunked")}

GPU rules:

{totals("cuda", loss="chunked")}

## Measured

`estimator measure`, float32, AdamW, two threads, in bytes. The peak is what is resident plus the allocator's peak above it. Peak RSS
is the process's. Here bitsandbytes and torchao are imported, which the prediction does not count.

{measured()}

## What follows

- The direction of the claim holds: LARS saves nothing of its own that grows with the sequence. Memory is not flat in the
  sequence all the same: what the frozen base saves grows as before.
- The size of the claim is that of the saved activations, not of the whole step. Parameters, logits and gradients dilute it, the
  more so the shorter the input is. A total of {CLAIMS["cpu"]} needs inputs so long, or a loss so small, that little else counts.
- LoRA's dropout is nearly half of the advantage over this baseline on the GPU, and two thirds on the CPU. Without dropout most of
  the difference is gone.
- LoRA-FA without dropout, which freezes lora_A, does the same without pooling the sequence. It keeps r numbers per token and
  target, which is 224 bytes per token and layer more than LARS, and trains half of LoRA's parameters. In every row above it needs
  as little as LARS or less. It is the baseline that LARS has to beat, and the abstract does not name it.
- IA3 trains the fewest parameters of all and needs more memory than LoRA without dropout. Parameter-efficient is not
  memory-efficient.

## What cannot be known

- Which GPU kernel ran. The GPU rules here are those of the memory-efficient kernel, the only fused one that takes float32. Keys and
  values are repeated for it to every query head. A padded batch also gets a mask for every layer. With no mask at all PyTorch falls
  back to its math version, which keeps the weights of attention. Both make the base larger, and LARS's share of it smaller.
- The lengths, batches and padding behind the averages, whether the logits were alive, and whether "memory" is allocated, reserved or the
  process's. On CPUs the resident set also depends on the C library ([Accuracy](accuracy.md)).
- The quality: LARS gives every position the same update, which depends on the whole input. Nothing here measures what that costs.
"""


if __name__ == "__main__":
    PAGE.write_text(page())
