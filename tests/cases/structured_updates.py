"""Updates of a structure of their own: MiSS, HiRA, RandLoRA, FourierFT, C3A and SHiRA."""

from __future__ import annotations

from typing import Any

from tests.cases.kinds import Case, Formulas, Refused

F32, BF16, F16 = "float32", "bfloat16", "float16"
NAMES = ("miss", "hira", "randlora", "fourierft", "c3a", "shira")
SMALL = {
    "hidden_size": 96,
    "intermediate_size": 160,
    "head_dim": 16,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}
QWEN3 = {**SMALL, "model_type": "qwen3", "num_hidden_layers": 6}
QWEN2 = {**SMALL, "model_type": "qwen2", "num_hidden_layers": 2}
MISTRAL = {**SMALL, "model_type": "mistral", "num_hidden_layers": 5}


def plan_of(name: str, batch: int, seq: int, dtype: str, options: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return {"batch": batch, "seq": seq, "dtype": dtype, "method": {"name": name, **options}, **keys}


EAGER: dict[str, Any] = {"attention": "eager"}
RECOMPUTED: dict[str, Any] = {"checkpointing": "layer"}
ALL = {"target_modules": "all-linear"}
MEASURED: list[Case] = [
    ("miss", SMALL, plan_of("miss", 2, 33, F32, {})),
    ("miss-padded", MISTRAL, plan_of("miss", 3, 17, BF16, {"r": 10, "miss_dropout": 0.1, **ALL}, **EAGER)),
    ("miss-recomputed", QWEN3, plan_of("miss", 1, 40, F16, {"r": 8, "bias": "MiSS_only"}, **RECOMPUTED)),
    ("miss-bat", QWEN2, plan_of("miss", 2, 21, BF16, {"r": 16, "init_weights": "bat", "bias": "all"})),
    ("miss-bat-float32", SMALL, plan_of("miss", 2, 40, F32, {"r": 8, "init_weights": "bat", **ALL}, **EAGER)),
    ("miss-mini", QWEN3, plan_of("miss", 2, 31, F16, {"r": 8, "init_weights": "mini", "mini_r": 8, **ALL})),
    ("miss-mini-whole", SMALL, plan_of("miss", 1, 1, F32, {"init_weights": "mini", "mini_r": 32, **ALL, "r": 96})),
    ("miss-autocast", SMALL, plan_of("miss", 2, 33, F32, {"r": 8, "layers_to_transform": [1]}, autocast=BF16)),
    ("hira", SMALL, plan_of("hira", 2, 33, F32, {})),
    ("hira-dropout", QWEN2, plan_of("hira", 3, 17, BF16, {"r": 5, "hira_dropout": 0.1, **ALL}, **EAGER)),
    ("hira-embedding", QWEN3, plan_of("hira", 2, 40, F16, {"target_modules": ["embed_tokens", "o_proj"]})),
    ("hira-recomputed", MISTRAL, plan_of("hira", 2, 31, BF16, {"rank_pattern": {"v_proj": 3}}, **RECOMPUTED)),
    ("hira-autocast", SMALL, plan_of("hira", 2, 33, F32, {"r": 4}, autocast=F16)),
    ("randlora", SMALL, plan_of("randlora", 2, 33, F32, {})),
    ("randlora-all", QWEN2, plan_of("randlora", 3, 17, BF16, {"r": 10, "randlora_dropout": 0.1, **ALL}, **EAGER)),
    ("randlora-16-bit", QWEN3, plan_of("randlora", 2, 31, F16, {"r": 8, "adapter_dtype": F16, "sparse": True})),
    ("randlora-recomputed", MISTRAL, plan_of("randlora", 1, 40, BF16, {"layers_to_transform": [1, 2]}, **RECOMPUTED)),
    ("fourierft", SMALL, plan_of("fourierft", 2, 33, F32, {})),
    ("fourierft-all", QWEN2, plan_of("fourierft", 3, 17, BF16, {"n_frequency": 90, **ALL, "bias": "fourier_only"})),
    ("fourierft-pattern", QWEN3, plan_of("fourierft", 2, 31, F16, {"n_frequency_pattern": {"q_proj": 70}}, **EAGER)),
    ("fourierft-recomputed", MISTRAL, plan_of("fourierft", 1, 40, BF16, {"adapter_dtype": BF16}, **RECOMPUTED)),
    ("c3a", SMALL, plan_of("c3a", 2, 33, F32, {"block_size": 16})),
    ("c3a-all", MISTRAL, plan_of("c3a", 3, 17, BF16, {"block_size": 8, **ALL}, **EAGER)),
    ("c3a-biases", QWEN2, plan_of("c3a", 2, 40, F16, {"block_size": 32, "bias": "c3a_only"})),
    (
        "c3a-one-block",
        QWEN3,
        plan_of("c3a", 2, 31, BF16, {"block_size": 96, "target_modules": ["q_proj"]}, **RECOMPUTED),
    ),
    ("c3a-one-token", SMALL, plan_of("c3a", 1, 1, F32, {"block_size": 32, "block_size_pattern": {"v_proj": 1}})),
    ("shira", SMALL, plan_of("shira", 2, 33, F32, {"r": 5})),
    ("shira-all", QWEN2, plan_of("shira", 3, 17, BF16, {"r": 8, **ALL}, **EAGER)),
    ("shira-16-bit", QWEN3, plan_of("shira", 2, 31, F16, {"r": 2, "adapter_dtype": F16, "modules_to_save": ["norm"]})),
    ("shira-recomputed", MISTRAL, plan_of("shira", 1, 40, BF16, {"r": 3, "random_seed": 4}, **RECOMPUTED)),
]
_WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "miss rank": ({"name": "miss", "r": 97}, "r 97 is above the 96 input features of q_proj"),
    "miss bat": ({"name": "miss", "r": 10, "init_weights": "bat"}, "take an r that divides both"),
    "miss mini": ({"name": "miss", "r": 8, "init_weights": "mini", "mini_r": 5}, "mini_r 5 does not divide"),
    "miss bias": ({"name": "miss", "bias": "some"}, "must be none, all, or a name that ends in _only"),
    "miss embedding": ({"name": "miss", "target_modules": ["embed_tokens"]}, "linear layers only; take embed_tokens"),
    "hira norm": (
        {"name": "hira", "target_modules": ".*"},
        "linear layers and embeddings only; take model out of target_modules",
    ),
    "layers and text": ({"name": "miss", "target_modules": ".*q_proj", "layers_to_transform": 1}, "(PEFT's rule)"),
    "layers": ({"name": "hira", "layers_to_transform": [3]}, "the model's layers are 0 to 2"),
    "fourierft pattern": ({"name": "fourierft", "layers_pattern": "layers"}, "needs layers_to_transform"),
    "fourierft count": (
        {"name": "fourierft", "n_frequency": 4000},
        "n_frequency 4000 is above the 3072 entries of v_p",
    ),
    "c3a block": ({"name": "c3a"}, "block_size 256 does not divide both sides of q_proj's weight, 96 x 96"),
    "c3a exclude": ({"name": "c3a", "exclude_modules": ["q_proj"]}, "must be left out"),
    "shira rank": ({"name": "shira"}, "r 32 trains 4096 entries, but v_proj's weight has 3072"),
    "shira mask": ({"name": "shira", "mask_type": "mine"}, "method.mask_type"),
    "randlora rank": ({"name": "randlora", "r": 0}, "method.r"),
}
REFUSED: list[Refused] = [(SMALL, {"method": method}, says) for method, says in _WRONG.values()]
_OPTIONS: dict[str, dict[str, Any]] = {"c3a": {"block_size": 16}, "shira": {"r": 4}, "randlora": {"r": 7, **ALL}}
FORMULAS = [
    Formulas(
        f"{name}-{dtype}",
        {**SMALL, "num_hidden_layers": 6},
        {"dtype": dtype, "method": {"name": name, **_OPTIONS.get(name, {})}},
        [(2, 40), (3, 200), (1, 90), (70, 1)],
        every=True,
    )
    for name in NAMES
    for dtype in (F32, BF16)
]
