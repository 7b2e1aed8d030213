"""Write ``docs/methods.md``: every method and every saving at one setting, and what is odd about them."""

# ruff: noqa: E501

from __future__ import annotations

from pathlib import Path
from typing import Any

from estimator.comparison import all_methods, compare, figures
from estimator.estimate import resolve, to_result
from estimator.ledger import Ledger
from estimator.operators import CPU
from estimator.plan import parse_plan
from estimator.plots import comparison_figure
from estimator.training.step import run

HERE = Path(__file__).parent
MODEL, SEQ = "llama-3.2-1b", 2048
LORA = {"name": "lora", "r": 16, "target_modules": "all-linear"}
SAVINGS: tuple[dict[str, Any], ...] = (
    {},
    {"keep_logits": False},
    {"loss": "chunked"},
    {"loss": "liger"},
    {"loss": "cce"},
    {"mlp_chunks": 8},
    {"checkpointing": "attention"},
    {"checkpointing": "matmul"},
    {"checkpointing": "layer"},
    {"checkpointing": "every-4"},
    {"saved_activations": "int8"},
    {"saved_activations": "int4"},
    {"checkpointing": "layer", "loss": "chunked"},
    {"dtype": "int8"},
    {"dtype": "nf4", "compute_dtype": "bfloat16"},
    {"dtype": "nf4", "compute_dtype": "bfloat16", "checkpointing": "layer", "loss": "chunked"},
)


def table(head: list[str], rows: list[list[str]], left: int = 1) -> str:
    """A Markdown table."""
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def methods() -> str:
    """Every method at its defaults, the largest peak first; draws the figure."""
    keys = {"model": MODEL}
    found = compare(keys, all_methods({**keys, "seq": SEQ}, {}), (SEQ,), SEQ)
    comparison_figure(found, HERE / "images" / "methods.png")
    rows = []
    for row in sorted(found.rows, key=lambda row: -row.results[SEQ].bytes["peak"]):
        result, share = row.results[SEQ], row.shares[SEQ]
        sizes = (result.bytes[key] / 2**30 for key in ("saved", "peak"))
        shares = (f"{figures(100 * value, 1)}%" for value in (share.trainable, share.saved, share.peak))
        rows.append([row.label, f"`{row.method['name']}`", *(f"{size:.2f}" for size in sizes), *shares, result.peak_at])
    return table(["method", "name", "saved, GiB", "peak, GiB", "trains", "saved", "peak", "peak at"], rows, left=2)


def savings() -> str:
    """Every saving on LoRA: saved, peak, and the matrix products added."""
    rows, plain = [], 0
    for keys in SAVINGS:
        resolved = resolve(parse_plan({"model": MODEL, "seq": SEQ, "method": LORA, **keys}))
        ledger = Ledger(CPU, counts_work=True)
        totals = run(resolved.options, resolved.sizes(), resolved.method, 1, SEQ, ledger=ledger)
        assert isinstance(totals.work, int)
        plain = plain or totals.work
        sizes = to_result(resolved, totals).bytes
        name = ", ".join(f"{k}: {str(v).lower()}" for k, v in keys.items()) or "as it is"
        extra = f"{100 * (totals.work / plain - 1):+.1f}%"
        rows.append(
            [f"`{name}`" if keys else name, *(f"{sizes[k] / 2**30:.2f}" for k in ("resident", "saved", "peak")), extra]
        )
    return table(["plan keys", "resident, GiB", "saved, GiB", "peak, GiB", "extra compute"], rows)


def page() -> str:
    """The page."""
    return f"""# Methods and savings

Written by `python docs/make_methods.py` from the rules; do not edit by hand. {MODEL}, batch 1, {SEQ} tokens, bfloat16
weights, AdamW, SDPA, PyTorch on a CPU. Each method has a file in `estimator/adapters/` that reads like PEFT's forward pass, and
measured cases in the tests at three settings or more: what is held equal to the byte, the peak within 64 bytes
([accuracy](accuracy.md)).

## Every method, at its defaults

![The memory of every method](images/methods.png)

{methods()}

Shares are of full fine-tuning. `estimator compare MODEL --methods all` draws this for another model; an option such as
`--target-modules all-linear` goes to every method that has it. Any other method of the installed PEFT is estimated too, by tracing
a whole step of PEFT's module on the meta device (seconds instead of milliseconds, and the answer says so).

## Savings, on LoRA r=16 (all-linear)

{savings()}

Extra compute counts matrix products, recomputed ones included. `estimator advise` searches among these. What each key does is in
[memory-savings.md](memory-savings.md), [optimizers.md](optimizers.md) and [how-it-works.md](how-it-works.md).

## What is odd about them

All measured or read in PEFT 0.21.2 and torch 2.13:

- **LoRA**: PEFT's float32 adapters copy every target's input to float32. PiSSA, OLoRA and the like change the frozen weight once;
  a step takes what LoRA's does. `lora-fa` freezes lora_A, and the copies of the inputs go.
- **DoRA** builds B A by a forward over an identity matrix: n_in^2 numbers per target are packed in forward (so `saved` counts
  them) and go before backward.
- **AdaLoRA**: its orthogonality loss runs with a `task_type` only. On a 16-bit base PEFT makes `ranknum` a trained parameter.
- **HRA** saves about r n_in^2 numbers per target: with 0.04 % of the parameters it keeps twice the activations of full fine-tuning.
- **LoHa, LoKr, HiRA, SHiRA, FourierFT, MiSS (bat)** make tensors of the weight's size in every forward and save some of them.
- **BOFT** has a buffer [1, n_in, n_in] in float32 per target. OFT's `module_dropout` does nothing.
- **VeRA, RandLora** hold frozen bases as large as the largest target, once.
- **SHiRA, FourierFT** keep index tensors as plain attributes, in neither parameters nor buffers.
- **Prompt and P-tuning** make the sequence longer by the virtual tokens, logits included. **Prefix tuning** makes SDPA take a mask,
  and so repeat keys and values.
- **Layer freezing** with a tied head trains the embedding as well, and then every layer saves: set `train_head: false`.
- **MeZO** runs two forward passes and saves nothing; **forward-mode differentiation** carries a tangent with
  every live tensor and makes zeros for frozen weights.
- **torchao's int8 and float8 weights, GPTQ and AWQ** hold a whole dequantised weight per layer for backward: more than no
  quantisation at all, until the layer is checkpointed.
"""


if __name__ == "__main__":
    (HERE / "methods.md").write_text(page())
