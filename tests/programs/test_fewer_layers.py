"""Programs that are recorded with a few of a model's equal layers, against recordings of all layers."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")

from estimator.programs import live
from estimator.programs.fewer_layers import kept_layers
from estimator.programs.program import Program
from estimator.programs.step import Step

pytestmark = pytest.mark.extra("trace")
SIZES: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 13,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 131,
    "pad_token_id": 0,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "olmo2": SIZES,
    "gemma2": {**SIZES, "head_dim": 12},
    "gemma3_text": {**SIZES, "head_dim": 12, "sliding_window": 6},
    "gpt2": {"n_embd": 48, "n_layer": 13, "n_head": 4, "vocab_size": 131},
    "deepseek_v3": {
        **SIZES,
        "num_key_value_heads": 4,
        "first_k_dense_replace": 2,
        "n_routed_experts": 8,
        "n_group": 2,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 40,
        "q_lora_rank": 24,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 16,
        "v_head_dim": 12,
    },
}


@pytest.mark.parametrize("family", CONFIGS)
def test_equal_to_a_recording_of_all_layers(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Witness: the recording of every layer. Modules, weights and each layer's calls are equal."""
    raw = {**CONFIGS[family], "model_type": family}

    def program() -> Program:
        source = live.Live(raw, "the config")
        attention: Any = source.attention
        return source.at(Step(family, "float32", attention=attention), 2, 12)

    few = program()
    monkeypatch.setattr(live.Live, "_of_few_layers", lambda *_: None)
    every = program()
    for name in ("modules", "parameters", "buffers", "before", "after", "outputs", "plain", "tied", "path"):
        assert getattr(few, name) == getattr(every, name), name
    assert [few.bodies[i] for i in few.layers] == [every.bodies[i] for i in every.layers]


@pytest.mark.parametrize(
    ("layers", "kept"),
    [
        ("aaaa", [0, 1, 2, 3]),
        ("aaaaaaa", [0, 1, 2, 2, 2, 2, 6]),
        ("abababababab", [0, 1, 2, 3, 4, 5, 4, 5, 4, 5, 10, 11]),
        ("aabbbbbbb", [0, 1, 2, 3, 4, 4, 4, 4, 8]),
        ("abcdef", [0, 1, 2, 3, 4, 5]),
    ],
)
def test_which_layers_are_kept(layers: str, kept: list[int]) -> None:
    assert kept_layers(layers) == kept
