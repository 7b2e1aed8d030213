"""BEFT, which trains biases that it adds."""

from __future__ import annotations

from typing import Any

from tests.cases.kinds import Case, Formulas, Refused

SMALL = {"hidden_size": 96, "intermediate_size": 160, "head_dim": 16, "num_attention_heads": 6}
QWEN2 = {**SMALL, "model_type": "qwen2", "num_key_value_heads": 2}
QWEN3 = {**SMALL, "model_type": "qwen3", "num_hidden_layers": 4}


def plan_of(batch: int, seq: int, dtype: str, options: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return {"batch": batch, "seq": seq, "dtype": dtype, "method": {"name": "beft", **options}, **keys}


ALL = {"target_modules": "all-linear"}
MEASURED: list[Case] = [
    ("default", SMALL, plan_of(2, 33, "float32", {})),
    ("all", QWEN2, plan_of(3, 17, "bfloat16", ALL, attention="eager")),
    ("16-bit", QWEN3, plan_of(2, 31, "float16", {"adapter_dtype": "float16", "modules_to_save": ["norm"]})),
    ("recomputed", QWEN3, plan_of(1, 40, "bfloat16", {"target_modules": ".*1.mlp.*_proj"}, checkpointing="layer")),
    ("autocast", SMALL, plan_of(2, 33, "float32", {**ALL}, autocast="bfloat16")),
]
REFUSED: list[Refused] = [
    (SMALL, plan_of(1, 8, "float32", options), says)
    for options, says in (
        ({"target_modules": ["embed_tokens"]}, "linear layers only; take embed_tokens"),
        ({"exclude_modules": ["q_proj"]}, "must be left out"),
        ({"r": 4}, "unknown key 'method.r' of method beft"),
    )
]
FORMULAS = [
    Formulas(
        dtype,
        {**SMALL, "num_hidden_layers": 6},
        {"dtype": dtype, "method": {"name": "beft", **ALL}},
        [(2, 40), (3, 200), (1, 90)],
        every=True,
    )
    for dtype in ("float32", "bfloat16")
]
