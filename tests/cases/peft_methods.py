"""A small block of each PEFT method, and the modules that it adapts in a small model of each of some families."""

from __future__ import annotations

from typing import Any

TARGETS = {
    "llama": ["q_proj", "down_proj"],
    "gpt2": ["c_attn", "c_proj"],
    "gemma2": ["q_proj", "down_proj"],
    "phi3": ["qkv_proj", "down_proj"],
    "bloom": ["query_key_value", "dense_4h_to_h"],
    "falcon": ["query_key_value", "dense_4h_to_h"],
    "mamba": ["in_proj", "x_proj"],
}
"""Two kinds of modules of each family."""
_TOKENS = {"num_virtual_tokens": 3}
OF_MODULES: dict[str, dict[str, Any]] = {
    "adamss": {"r": 8, "num_subspaces": 4, "subspace_rank": 1},
    "lora": {"r": 3},
    "adalora": {"init_r": 4, "total_step": 100},
    "boft": {"boft_block_size": 4},
    "c3a": {"block_size": 4},
    "deft": {"r": 4, "decomposition_method": "qr"},
    "delora": {"r": 3},
    "fourierft": {"n_frequency": 20},
    "frod": {},
    "glora": {"r": 4},
    "gralora": {"r": 4},
    "hira": {"r": 3},
    "hra": {"r": 4},
    "ia3": {"feedforward_modules": []},
    "lily": {"r": 4},
    "loha": {"r": 3},
    "lokr": {"r": 3},
    "miss": {"r": 4},
    "oft": {"oft_block_size": 4},
    "osf": {},
    "peanut": {"r": 4},
    "psoft": {"r": 4},
    "pvera": {"r": 6},
    "randlora": {"r": 4},
    "road": {"group_size": 8},
    "shira": {"r": 3},
    "supertuning": {},
    "tinylora": {},
    "unilora": {"theta_d_length": 64},
    "vblora": {"r": 2, "num_vectors": 8, "vector_length": 4},
    "vera": {"r": 6},
    "waveft": {"n_frequency": 20},
}
"""Methods that adapt modules."""
OTHERS: dict[str, dict[str, Any]] = {
    "cartridge": _TOKENS,
    "cpt": {"cpt_token_ids": [1, 2, 3, 4], "cpt_mask": [1, 1, 1, 1], "cpt_tokens_type_mask": [1, 2, 3, 4]},
    "ln_tuning": {},
    "p_tuning": {**_TOKENS, "encoder_hidden_size": 20},
    "prefix_tuning": _TOKENS,
    "prompt_tuning": _TOKENS,
    "trainable_tokens": {"token_indices": [1, 5]},
}
"""Methods that need no ``target_modules`` where PEFT has defaults."""


def block(method: str, family: str) -> dict[str, Any]:
    """A method's block for a family. ``bd-lora`` stands for LoRA with ``use_bdlora``."""
    if method == "bd-lora":
        a, b = TARGETS[family][1:], TARGETS[family][:1]
        halves = {"target_modules_bd_a": a, "target_modules_bd_b": b, "nblocks": 2}
        return {"name": "lora", "r": 4, "use_bdlora": halves, "target_modules": TARGETS[family]}
    if method in OTHERS:
        return {"name": method, **OTHERS[method]}
    return {"name": method, **OF_MODULES[method], "target_modules": TARGETS[family]}
