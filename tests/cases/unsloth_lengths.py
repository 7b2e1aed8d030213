"""The longest sequences that Unsloth published, and ours at the same memory.

Source: unsloth.ai/docs/basics/unsloth-benchmarks and its blog of Llama 3.3 (December 2024): QLoRA in 4 bits, rank 32 on
all linear layers, batch 1, rows padded to the maximum, against transformers with FlashAttention 2. The lengths grow by
the same number of tokens a GB over the whole table, so they were calculated. Not given: alpha, the optimizer, the
precision, the release of each library, whether GB are GiB, and the gradient checkpointing of transformers' side.

``python -m tests.cases.unsloth_lengths`` prints the longest sequences, and the slopes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PUBLISHED: Mapping[tuple[str, str], Mapping[int, int]] = {
    ("llama-3.1-8b", "unsloth"): {
        8: 2972,
        12: 21848,
        16: 40724,
        24: 78475,
        40: 153977,
        48: 191728,
        80: 342733,
    },
    ("llama-3.1-8b", "transformers"): {12: 932, 16: 2551, 24: 5789, 40: 12264, 48: 15502, 80: 28454},
    ("llama-3.3-70b", "unsloth"): {48: 12106, 80: 89389},
    ("llama-3.3-70b", "transformers"): {80: 6916},
}
"""Tokens by the GB of the GPU, of a model and whose modules run."""
_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_PLAN: Mapping[str, Any] = {
    "trainer": "trl-sft",
    "runtime": "torch-cuda",
    "method": {"name": "lora", "r": 32, "target_modules": _LAYERS},
    "dtype": "nf4",
    "rest_dtype": "bfloat16",
    "compute_dtype": "bfloat16",
    "double_quant": True,
    "autocast": "bfloat16",
    "attention": "flash",
    "use_reentrant": True,
    "data_collator": False,
    "optimizer": "adamw-8bit",
    "batch": 1,
}
_OF: Mapping[str, Mapping[str, Any]] = {
    "unsloth": {"checkpointing": "offloaded", "loss": "unsloth", "kernels": "unsloth"},
    "transformers": {"checkpointing": "layer", "loss": "standard"},
}


def plan(model: str, whose: str, gib: int) -> dict[str, Any]:
    """The plan of a row of the table, but for its length."""
    return {"model": model, **_PLAN, **_OF[whose], "budget": f"{gib}GiB"}


def slope(lengths: Mapping[int, int]) -> float:
    """Tokens a GiB between the least and the most memory."""
    least, most = min(lengths), max(lengths)
    return (lengths[most] - lengths[least]) / (most - least)


def main() -> None:
    """Print a line for each published length."""
    from estimator import estimate, max_seq

    for (model, whose), published in PUBLISHED.items():
        ours: dict[int, int] = {}
        for gib, tokens in published.items():
            asked = plan(model, whose, gib)
            ours[gib] = max_seq(asked, margin="0").value or 0
            needed = estimate({**asked, "seq": tokens}).bytes["process"]
            print(f"{model}\t{whose}\t{gib}\t{tokens}\t{ours[gib]}\t{needed / gib / 2**30:.3f}", flush=True)
        if len(published) > 1:
            print(f"{model}\t{whose}\tslope\t{slope(published):.0f}\t{slope(ours):.0f}", flush=True)


if __name__ == "__main__":
    main()
