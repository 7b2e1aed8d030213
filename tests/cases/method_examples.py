"""A few blocks of every method, small enough for the models of the tests."""

from __future__ import annotations

from typing import Any

TWO = {"target_modules": ["o_proj", "up_proj"]}
TOKENS = {"num_virtual_tokens": 3}
EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "full": [{"name": "full"}],
    "lora": [
        {"name": "lora", "r": 3},
        {"name": "lora", "r": 5, "target_modules": "all-linear", "lora_dropout": 0.1},
        {"name": "lora", "r": 2, "modules_to_save": ["lm_head"], "bias": "all"},
        {"name": "lora", "r": 2, "use_dora": True},
    ],
    "lora-fa": [{"name": "lora-fa", "r": 4, "target_modules": "all-linear"}],
    "adalora": [{"name": "adalora", "init_r": 5, "total_step": 100}],
    "vera": [{"name": "vera", "r": 12, **TWO}],
    "trainable_tokens": [{"name": "trainable_tokens", "token_indices": [1, 5]}],
    "delora": [{"name": "delora", "r": 3, **TWO}],
    "hra": [{"name": "hra", "r": 4, **TWO}],
    "road": [{"name": "road"}],
    "ia3": [{"name": "ia3"}, {"name": "ia3", **TWO, "feedforward_modules": ["up_proj"]}],
    "lars": [{"name": "lars", "r": 4}, {"name": "lars", "r": 2, **TWO}],
    "loha": [{"name": "loha", "r": 3, **TWO}],
    "lokr": [{"name": "lokr", "r": 3, **TWO}],
    "oft": [{"name": "oft", "oft_block_size": 4, "target_modules": ["q_proj", "v_proj"]}],
    "boft": [{"name": "boft", "target_modules": ["q_proj", "v_proj"]}],
    "miss": [{"name": "miss", "r": 6, **TWO}],
    "fourierft": [{"name": "fourierft", "n_frequency": 20, **TWO}],
    "c3a": [{"name": "c3a", "block_size": 4, "target_modules": ["o_proj"]}],
    "shira": [{"name": "shira", "r": 3, **TWO}],
    "randlora": [{"name": "randlora", "r": 4, **TWO}],
    "hira": [{"name": "hira", "r": 3, **TWO}],
    "mezo": [{"name": "mezo"}, {"name": "mezo", "adapter": {"name": "lora", "r": 3}}],
    "forward-ad": [{"name": "forward-ad", "adapter": {"name": "lora", "r": 3}}],
    "prompt_tuning": [{"name": "prompt_tuning", **TOKENS}],
    "p_tuning": [{"name": "p_tuning", **TOKENS, "encoder_hidden_size": 20}],
    "prefix_tuning": [{"name": "prefix_tuning", **TOKENS}],
    "adaption_prompt": [{"name": "adaption_prompt", "adapter_len": 3, "adapter_layers": 2}],
    "ln_tuning": [{"name": "ln_tuning"}],
    "beft": [{"name": "beft"}, {"name": "beft", **TWO}],
    "bitfit": [{"name": "bitfit"}],
    "freeze": [{"name": "freeze", "top_layers": 1}],
}
"""By the names of ``METHODS``: a new method needs a row."""
