"""Write ``docs/command-reference.md`` from the plan's fields and the commands' own options."""

# ruff: noqa: E501

from __future__ import annotations

import argparse
from inspect import cleandoc
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from estimator.methods.registry import METHODS
from estimator.plans.flat import BLOCKS
from estimator.plans.lengths import LengthOptions
from estimator.plans.plan import Plan
from estimator.show.commands import module_of
from estimator.show.commands.options import add_plan_options
from estimator.show.topics import COMMANDS, EVERY_OPTION

PAGE = Path(__file__).with_name("command-reference.md")

HEAD = """# Command reference

Written by `python docs/make_reference.py`; do not edit by hand.

`estimator COMMAND [MODEL] [options]`. The exit status is one that job scripts can trust:

| status | means |
| --- | --- |
| 0 | it fits, tightly or not, or no budget was given; `validate`, `compare-snapshot`: everything is equal |
| 1 | it does not fit; `validate`, `compare-snapshot`: a coefficient or an allocation differs |
| 2 | anything else, with one line on stderr that says what is wrong and how to mend it |
| 130, 141 | interrupted with Ctrl-C; the reader of the output has closed the pipe, as `head -1` does |

`compare` and `estimate --plans` answer many plans at once and exit with 0.

## The plan

A plan is one YAML or JSON object: `--plan FILE`, a line of `--plans FILE`, or the keywords of `estimator.estimate`.
Every key is also an option, `--key value`, with dashes for underscores and `--no-key` for false. Keys of the blocks
`method`, `generate`, `sharding` and `llama_cpp` stand beside the others as options and as keywords: `--method lora --r
16`, `--sharding fsdp2 --world-size 8`, `estimate("llama-3.2-1b", method="lora", r=16)`.

A name in the singular is one value of the plan: `--seq 2048`, `--method lora`. Its plural is a list with commas, of
what a command compares or is asked about: `--seqs`, `--methods`, `--dtypes`, `--caches`, `--devices` (candidates, in
`compare` and `smallest-device`). Commands that take a list of a key take its singular as a list of one. In `sweep`
every key takes a list or a range, under its own name. Python's keywords are alike.

`--help` shows the options that decide most answers, `--help-TOPIC` those of a topic, `--help-method lora` those of a
method, and `--help-all` every one. Output is as wide as the terminal. Where it is piped it is as wide as COLUMNS says,
or 80. `--quiet` prints the verdict alone: what an answer assumes is in the whole answer and in `--json`. Lists that are
longer than a terminal are summed up by family or kind there; `--all`, a text to look for or a pipe shows them in full.
`estimator help COMMAND` is `COMMAND --help`, and `-V` the version. `estimator completion bash` (or zsh, fish) prints a
script that makes the shell complete commands, options and names.

```yaml
model: llama-3.2-1b
batch: 4
seq: 2048
dtype: bfloat16
method: {name: lora, r: 16, target_modules: [q_proj, v_proj]}
budget: 24GiB
```
"""

RESULT = """
## The result

`estimate --json` prints one object, `--plans FILE` one per line in the order of the plans. A plan that is wrong gives
`{"error": ...}` in its place. Sizes are bytes.

    {"schema": 1, "model": "...", "asked": "a training step in PyTorch on a CPU", "task": "train",
     "runtime": "torch-cpu",
     "bytes": {"parameters": 0, "adapters": 0, "buffers": 0, "gradients": 0, "optimizer": 0, "saved": 0,
               "resident": 0, "peak_above_resident": 0, "peak": 0, "process": 0},
     "trainable_parameters": 0, "peak_at": "loss backward", "fits": true, "budget_bytes": 0, "warnings": [],
     "assumptions": [{"key": "device", "value": 0, "why": "..."}]}

| key | what it is |
| --- | --- |
| `asked` | what the answer is about, in words |
| `bytes.parameters` | every storage of parameters once, adapters and packed weights included |
| `bytes.buffers` | buffers, and the constants of packed weights: scales, zero points, code tables |
| `bytes.gradients` | gradients at the end of the backward pass |
| `bytes.optimizer` | the optimizer's states after the first step |
| `bytes.saved` | what is saved for the backward pass |
| `bytes.resident` | what is there before the step: parameters, buffers and optimizer states |
| `bytes.peak` | `resident` and `peak_above_resident` |
| `bytes.process` | what the operating system or the driver shows; a budget is compared with it |
| `peak_at` | the moment of the peak |
| `transformers` | the release of transformers whose modules run, where some do |
| `peft` | the release of PEFT whose adapters run, where some do: what the rules follow, or the installed one of a method that is recorded |
| `assumptions` | what the answer rests on although nobody published it: a limit of one application, the system's part of the RAM |

**Inference.** `task: infer` adds `kv_cache`, the bytes of the cache that the model returns (0 without `use_cache`).
Gradients, optimizer states, saved bytes and trainable parameters are 0. Keys that mean something in training only are
refused.

**llama.cpp.** `bytes` has `weights`, `mapped`, `repacked`, `kv_cache`, `recurrent_state`, `compute`, `output`,
`process`, `clean` and `dirty` ([llama.cpp](llama-cpp.md)), with `host_compute` and `device` where a GPU runs it.
`parameters` is `weights`.

**GPUs.** `bytes` also has `allocated_peak` and `reserved_peak`, which `torch.cuda.max_memory_allocated` and
`max_memory_reserved` return. `process` is what the driver shows: reserved bytes and the CUDA context. `host_pinned`,
where something waits in the host's memory, is no part of the others. No more are `host_parameters`, `host_gradients`,
`host_optimizer`, `host_peak` (of a process) and `host_all` (of all processes of a host), where these rest there;
with `host_memory` also `host_loading` (of all processes) and `host`, which it limits
([offloading](several-gpus.md#offloading)). `phases` lists `{"name", "allocated", "reserved"}` of `after load`,
`forward`, `backward`, `optimizer step` and `after step`. They are the largest bytes within a phase; for the first and
the last one, the bytes that are there.

**With a device or a budget** there are `verdict` (`fits`, `tight` or `does not fit`), `margin_bytes` (budget less
process) and `uncertainty_bytes`: 95 of 100 measured processes are within that of their prediction. *Tight* is what fits
by less. The exit status goes by `fits`, which is true of a tight plan.

**With `lengths`** there is `run`: `batches` (forward passes of the run), `longest_seq` and, with a budget,
`longest_seq_that_fits` and `oom_probability`. The first is the largest of the lengths that batches have and that fits,
0 if none does. The second is the probability of at least one longer batch in the run. On torch-cuda
`reserved_quantiles` has, by share of the run's batches, what none of them reserves more than, with cached memory given
back before each.

**With the block `run`** there are `run_moments`, a list of `{"moment", "where", "bytes", "why", "droppable", "beside"}`,
and `largest_moment` ([The moments of a run](run-moments.md)). `bytes` has `run`, the process in that moment, which
`fits`, `verdict` and `margin_bytes` are about.
"""


SOLUTION = """
## The inverse questions

`max-seq`, `max-batch`, `max-rank`, `max-target-seq`, `max-images` and `max-image-size` (a square's side in pixels) give
the largest value that fits the plan's budget or device. The plan must not give that key. The answer fits with the margin, and the next value does not, each by its own estimate. The margin is the
estimate's uncertainty, or what `--margin` says: a share of the prediction (`5%`), a size (`500MiB`), or `0`. Where
memory does not grow evenly, as what an allocator reserves, a larger value may fit by accident and is not looked for. A
rank is looked for up to the smaller side of the largest adapted weight. Exit status: 0 something fits, 1 not even the
smallest value does, 2 anything else. `--json` prints

    {"schema": 1, "question": "max-seq", "key": "seq", "answer": 4206, "answer_without_margin": 4366, "verdict": "fits",
     "margin_bytes": 0, "kept_free_bytes": 0, "uncertainty_bytes": 0, "bytes": {...}, "peak_at": "loss backward",
     "next": {"value": 4207, "process": 0, "peak_at": "loss backward"}, "binding": "loss backward",
     "budget_bytes": 0, "limit": 100000000, "plan": {...}, "assumptions": [], "warnings": []}

| key | what it is |
| --- | --- |
| `answer` | the value to use; null where something fits without the margin only, and all else is then of `answer_without_margin` |
| `verdict` | `fits`, `tight` (without the margin only) or `does not fit` |
| `margin_bytes`, `kept_free_bytes` | bytes left at the answer; bytes that the margin asks for |
| `bytes`, `peak_at` | those at the answer; null where nothing fits |
| `next` | the next value, which does not fit; the smallest value where nothing fits; null where even `limit` fits |
| `binding` | the moment of the peak at the next value, or why the plan is refused there |
| `limit` | the largest value looked at |
| `plan` | the plan at the answer, ready for `estimate` |

`smallest-device` gives the device of the catalogue with the least usable bytes that the plan fits. `below` is the next
smaller one, which it does not fit with the margin, and `binding` the moment of the peak there. `others` are the next
larger ones. `answer_without_margin` and `verdict` are as above, `margin` is the bytes that are left, and `left_out`
names the devices that are no part of the answer, by the reason. Where `answer` and `answer_without_margin` are null,
`below` is the largest device looked at. A GPU that runs CUDA is asked about torch-cuda, any other device about
torch-cpu, unless the plan names a runtime.

`smallest-cluster --devices LIST` gives every layout that fits on up to `--max-cards` of one of the cards, by the number
of cards and then by the bytes that a rank sends in a step ([Several GPUs](several-gpus.md)). `--json` prints

    {"schema": 1, "question": "smallest-cluster", "verdict": "fits",
     "layouts": [{"device": "rtx-4090", "cards": 2, "sharding": {"name": "fsdp2", "world_size": 2}, "process": 0,
                  "communicated": 0, "margin": 0, "verdict": "fits", "peak_at": "loss backward"}],
     "nearest": null, "max_cards": 8, "left_out": {}, "plan": {...}, "assumptions": [], "warnings": []}

A layout's `sharding` is the block of a plan, null on one card. `process` and `margin` are one rank's. `left_out` names
devices and ways to share, by the reason. Where nothing fits, `layouts` is empty and `nearest` the layout that misses
least; on a GPU its `process` may be the least that it takes. `plan` is that of the first layout that fits with the
margin.

## max-context and serving

`max-context --json` prints `rows`, one per model, recipe and pair of cache types:

    {"model": "qwen3-0.6b", "recipe": "q4_k_m", "type_k": "f16", "type_v": "f16", "answer": 14848,
     "trained_context": 40960, "binds": "memory: ...", "bytes": {...}, "counted": "process", "budget_bytes": 0,
     "margin_bytes": 0, "next_bytes": 0, "warnings": []}

`answer` is a multiple of 256 tokens or the model's own context, for each of `n_seq_max` sequences. `counted` names
which of `bytes` the budget is compared with (`dirty` on iOS, `device` on a GPU). `next_bytes` are the same with 256
more tokens, null where memory does not bind. With `--runs-at N` it prints `models`, with `fits` and `margin_bytes`
each, without those that the engine refuses a cache type for. With `--methods` it prints `training`, the answers of
`max-seq`. Exit status 1 where nothing fits.

`max-gpu-layers --json` prints `answer`, the layers on devices with the output counted as one, `of` so many, and
`tensor_split`, how many each device has; `verdict` is `all`, `some`, `none` or `does not fit`. `bytes`, `devices`, `limits`
and `warnings` are of that plan. `largest-quant --json` prints `answer`, a recipe or null, and `recipes` down to it, each
with `dtype`, `verdict` and the same. Exit status 1 where nothing fits.

`serving --json` prints `bytes` of one GPU (of vLLM `total`, `requested`, `weights`, `activation`, `non_torch`,
`cudagraph`, `available`, `kv_cache`, `block`; of SGLang also `free` before weights are loaded, `reserve` for steps and
CUDA graphs, `states`, and of a `token`), `blocks`, `kv_tokens`, `max_concurrency` (requests of the longest length),
`fits`, `error` and `mends` (the server's error, and options that let it start), `log`, and `contexts`: `tokens`, `blocks`
of one request, and `requests`, how many there is room for. Exit status 1 if there is not room for one of the shortest,
or if the server would not take the longest that a command line or an option asks for.

## The timeline

`timeline --json` prints one object: `kinds`, the names of the columns of `live_bytes`; `live_bytes` and
`reserved_bytes` after every allocation and release of the process; `parts`, the event at which a part of a step begins;
`allocated_peak`, `reserved_peak`, and `out_of_memory`, a sentence or null. Exit status 1 if it runs out.

`--output FILE.pickle` writes PyTorch's memory snapshot ([GPUs](gpus.md)), of runtime torch-cpu, too.

`compare-snapshot FILE MODEL --json` prints

    {"schema": 1, "question": "compare-snapshot",
     "recorded": {"allocations": 0, "live_at_start": 0, "peak": 0, "reserved_peak": 0}, "predicted": {...},
     "equal_sizes": 0, "equal_lifetimes": 0, "assumed": ["..."],
     "first_difference": {"kind": "size", "position": 0,
                          "recorded": {"entry": 0, "bytes": 0, "freed_at": 0, "frames": [...]},
                          "predicted": {"bytes": 0, "module": "...", "operator": "...", "phase": "forward"}}}

Both sides are of the step that is compared, and of what was asked for, before the allocator rounds it. `equal_sizes`
counts the allocations that both have in order, `equal_lifetimes` those of them that are freed before the same next one.
`kind` is `size`, `recorded only`, `predicted only`, `freed earlier` or `freed later` (recorded against predicted).
`position` counts the predicted step's allocations, `entry` and `freed_at` those of the trace. `first_difference` is
null, and the exit status 0, where nothing differs; 1 where something does.
"""


def text(value: Any) -> str:
    """A cell of a table."""
    return str(value).replace("|", "\\|").replace("%%", "%")


def fields(model: Any, without: tuple[str, ...] = ("name",)) -> list[str]:
    """A table of a pydantic model's keys."""
    rows = ["| key | values | default | |", "| --- | --- | --- | --- |"]
    for name, field in model.model_fields.items():
        if name in without:
            continue
        values = getattr(field.annotation, "__args__", ()) or ()
        choices = [v for inner in values for v in (getattr(inner, "__args__", None) or (inner,)) if isinstance(v, str)]
        default = "required" if field.is_required() else "null" if field.default is None else text(field.default)
        if isinstance(field.default, BaseModel) and name != "method":
            default = "below"
        if name == "method":
            choices, default = list(METHODS), "full"
        rows.append(f"| `{name}` | {text(', '.join(choices))} | {default} | {text(field.description or '')} |")
    return rows


def own_options(command: str) -> list[str]:
    """A command's options that are not keys of the plan."""
    parser, shared = (
        argparse.ArgumentParser(f"estimator {command}", add_help=False),
        argparse.ArgumentParser(add_help=False),
    )
    module_of(command).configure(parser, [EVERY_OPTION, "--method", ""])
    add_plan_options(shared, [EVERY_OPTION, "--method", ""])
    known = {action.dest for action in shared._actions}
    if not any(action.dest == "plan" for action in parser._actions):
        known = set()
    rows = []
    for action in parser._actions:
        if action.dest not in known and action.help != argparse.SUPPRESS:
            name = ", ".join(f"`{option}`" for option in action.option_strings) or f"`{action.metavar or action.dest}`"
            description = (action.help or "") % {**vars(action), "prog": "estimator"}
            rows.append(f"- {name}: {text(description)}")
    return rows


def page() -> str:
    """The page."""
    lines = [HEAD, *fields(Plan), "", "`method` is a name, a block, or the path of a PEFT adapter_config.json."]
    for name, model in METHODS.items():
        if name != "full":
            lines += ["", f"### method: {name}", "", cleandoc(model.__doc__ or ""), "", *fields(model)]
    lines += ["", "### lengths", "", cleandoc(LengthOptions.__doc__ or ""), "", *fields(LengthOptions)]
    for key, block in BLOCKS.items():
        lines += ["", f"### {key}", "", cleandoc(block.__doc__ or ""), "", *fields(block)]
    lines += [RESULT.rstrip(), SOLUTION, "## Commands"]
    for name, description in COMMANDS.items():
        lines += ["", f"### {name}", "", description[0].upper() + description[1:] + ".", "", *own_options(name)]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
