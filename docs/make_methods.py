"""Write ``docs/methods.md``: every method and every saving at one setting, and what is odd about them."""

# ruff: noqa: E501

from __future__ import annotations

from pathlib import Path
from typing import Any

from estimator.answers.comparison import REQUIRED, all_methods, compare
from estimator.answers.estimate import to_result
from estimator.bases.formats import FORMATS
from estimator.errors import InputError
from estimator.figures.canvas import save
from estimator.figures.methods_compared import comparison_figure
from estimator.ledger import Ledger
from estimator.methods.registry import METHODS
from estimator.operators import CPU
from estimator.plans.plan import parse_plan
from estimator.plans.refusals import MEASURED, PUBLISHED
from estimator.plans.resolve import resolve
from estimator.steps.step import run
from estimator.text import few_digits

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
    save(comparison_figure(found), HERE / "images" / "methods.png")
    rows = []
    for row in sorted(found.rows, key=lambda row: -row.results[SEQ].bytes["peak"]):
        result, share = row.results[SEQ], row.shares[SEQ]
        sizes = (result.bytes[key] / 2**30 for key in ("saved", "peak"))
        shares = (f"{few_digits(100 * value, 1)}%" for value in (share.trainable, share.saved, share.peak))
        rows.append([row.label, f"`{row.method['name']}`", *(f"{size:.2f}" for size in sizes), *shares, result.peak_at])
    return table(["method", "name", "saved, GiB", "peak, GiB", "trains", "saved", "peak", "peak at"], rows, left=2)


def savings() -> str:
    """Every saving on LoRA: saved, peak, and the matrix products added."""
    rows, plain = [], 0
    for keys in SAVINGS:
        resolved = resolve(parse_plan({"model": MODEL, "seq": SEQ, "method": LORA, **keys}))
        ledger = Ledger(CPU, counts_work=True)
        totals = run(resolved.step, resolved.sizes(), resolved.method, 1, SEQ, ledger=ledger)
        assert isinstance(totals.work, int)
        plain = plain or totals.work
        sizes = to_result(resolved, totals).bytes
        name = ", ".join(f"{k}: {str(v).lower()}" for k, v in keys.items()) or "as it is"
        extra = f"{100 * (totals.work / plain - 1):+.1f}%"
        rows.append(
            [f"`{name}`" if keys else name, *(f"{sizes[k] / 2**30:.2f}" for k in ("resident", "saved", "peak")), extra]
        )
    return table(["plan keys", "resident, GiB", "saved, GiB", "peak, GiB", "extra compute"], rows)


CHOICES: dict[str, dict[str, Any]] = {
    "layer": {"checkpointing": "layer"},
    "every-K": {"checkpointing": "every-2"},
    "attention": {"checkpointing": "attention"},
    "matmul": {"checkpointing": "matmul"},
    **{loss: {"loss": loss} for loss in ("chunked", "liger", "cce")},
    "mlp_chunks": {"mlp_chunks": 8},
    **{kind: {"saved_activations": kind} for kind in ("int8", "int4")},
    **{f"base {dtype}": {"dtype": dtype, "kbit_preparation": True} for dtype in FORMATS},
}


def pairs() -> str:
    """Every method beside every choice of the plan: which witness saw the pair, or nothing where it is refused."""
    rows = []
    for name in METHODS:
        block = {"name": name, **REQUIRED.get(name, {}), **({"block_size": 64} if name == "c3a" else {})}
        rows.append([f"`{name}`", *(_pair(block, keys) for keys in CHOICES.values())])
    return table(["method", *CHOICES], rows)


def _pair(block: dict[str, Any], keys: dict[str, Any]) -> str:
    try:
        model = "qwen2.5-0.5b" if block["name"] == "bitfit" else MODEL  # one with biases
        resolve(parse_plan({"model": model, "seq": SEQ, "method": block, **keys}))
    except InputError:
        return ""
    key, value = next(iter(keys.items()))
    choice = "mlp_chunks" if key == "mlp_chunks" else f"{key}: {'every-K' if value == 'every-2' else value}"
    seen = {"m": MEASURED, "p": PUBLISHED}
    return " ".join(word for word, methods in seen.items() if block["name"] in methods.get(choice, ())) or "r"


def page() -> str:
    """The page."""
    return f"""# Methods and savings

Written by `python docs/make_methods.py` from the rules; do not edit by hand. {MODEL}, batch 1, {SEQ} tokens, bfloat16
weights, AdamW, SDPA, PyTorch on a CPU. Each method has a file in `estimator/methods/` that reads like PEFT's forward pass. The
tests measure it at three settings or more: everything is equal to the byte, the peak within 64 bytes ([Accuracy](accuracy.md)).

## Every method, at its defaults

![The memory of every method](images/methods.png)

{methods()}

The last three percentages are shares of full fine-tuning. `estimator compare MODEL --methods all` draws this for another model. An
option such as `--target-modules all-linear` goes to every method that has it. Any other method of the installed PEFT is estimated,
too: the module that PEFT makes is recorded as a program, and the rules run that. It takes seconds instead of milliseconds, and the answer says
so.

## Savings, on LoRA r=16 (all-linear)

{savings()}

Extra compute counts matrix products, recomputed ones included. `estimator advise` searches among these. What each key does is in
[Memory savings](memory-savings.md), [Optimizers](optimizers.md) and [How it works](how-it-works.md).

## What goes with what, and which witness saw it

{pairs()}

**m**: measured, a step on a CPU that the tests hold equal to its prediction (for the chunked loss, GPTQ and AWQ it runs this
project's own code, which shows consistency only). **p**: published, runs on GPUs by others. **r**: answered by the rules of both;
no test of its own measures the pair, though one of the random plans may. Empty: refused, with a line that says why. The tables of
what is refused are in `estimator/plans/refusals.py`.

## What is odd about them

All of this was measured, or read in PEFT 0.21.2 and torch 2.13:

- **LoRA**: PEFT's float32 adapters copy every target's input to float32. PiSSA, OLoRA and the like change the frozen weight once,
  before training; a step takes what LoRA's does. `lora-fa` freezes lora_A, and the copies of the inputs go.
- **DoRA** builds B A by a forward pass over an identity matrix. So n_in^2 numbers per target are packed in the forward pass, where
  `saved` counts them, and go before the backward pass.
- **AdaLoRA** runs its orthogonality loss only with a `task_type`. From PEFT 0.21 on, `ranknum` is trained on
  a 16-bit base; `peft_version: "0.20"` in the method's block asks about earlier releases, whose `ranknum` is frozen.
- **OSF** is recorded, so its answer is that of the installed PEFT. Up to 0.20 each pass builds the whole weight from its singular
  vectors; from 0.21 on it adds a product of rank 2r, which takes less.
- **HRA** saves about r n_in^2 numbers per target. With 0.04 % of the parameters it keeps twice the activations of full fine-tuning.
- **LoHa, LoKr, HiRA, SHiRA, FourierFT, MiSS (bat)** make tensors of the weight's size in every forward pass and save some of them.
- **BOFT** has a buffer [1, n_in, n_in] in float32 per target. OFT's `module_dropout` does nothing.
- **VeRA, RandLora** hold frozen bases as large as the largest target, once for all targets.
- **CPT** runs the model's own loss and then one of its own, which copies the logits. It replaces the data of its trained
  embedding in each forward pass. The answer is for the first step, which does not yet scale that embedding.
  An embedding of more than 65,536 numbers is refused, since a recording holds no data of it.
- **FRoD** multiplies by sparse matrices, which have rules on a CPU only.
- **WaveFT** adds up a transposed convolution per target and pass. What oneDNN takes inside it, such as copies in its own
  layout, is left out, as with other convolutions.
- **SHiRA, FourierFT** keep tensors of indices as plain attributes, so they are neither parameters nor buffers.
- **Prompt and P-tuning** make the sequence longer by the virtual tokens, logits included. **Prefix tuning** makes SDPA take a mask,
  and therefore repeat keys and values.
- **Layer freezing** with a tied head trains the embedding as well, and then every layer saves: set `train_head: false`.
- **MeZO** runs two forward passes and saves nothing. **Forward-mode differentiation** carries a tangent with every live tensor, and
  makes zeros for frozen weights.
- **torchao's int8 and float8 weights, GPTQ and AWQ** hold a whole dequantised weight per layer for the backward pass. That is more
  than without quantisation, until the layer is checkpointed.
"""


if __name__ == "__main__":
    (HERE / "methods.md").write_text(page())
