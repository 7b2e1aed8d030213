"""Checkpointing of other parts than a layer, MLP and loss in chunks, fused losses."""

from __future__ import annotations

from tests.cases.kinds import Case, Formulas, Refused
from tests.cases.small_models import METHODS

BF16 = "bfloat16"
LORA, DROPOUT = METHODS["lora"], METHODS["lora-all-dropout"]
WINDOWS = {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 4}
TIED = {"tie_word_embeddings": True}
IN_BFLOAT16 = {**LORA, "modules_to_save": ["lm_head"], "adapter_dtype": BF16}
HEAD = {**LORA, "target_modules": ["lm_head", "q_proj"]}
_ROWS: list[Case] = [
    ("every-2", {"num_hidden_layers": 9}, {"checkpointing": "every-2"}),
    ("every-3-windows", {**WINDOWS, "num_hidden_layers": 8}, {"checkpointing": "every-3", "dtype": "bfloat16"}),
    ("every-2-lora", {"num_hidden_layers": 5}, {"checkpointing": "every-2", "method": DROPOUT, "attention": "eager"}),
    ("attention", {"model_type": "mistral"}, {"checkpointing": "attention", "dtype": "float16", "attention": "eager"}),
    ("attention-lora", {"num_hidden_layers": 6}, {"checkpointing": "attention", "method": LORA}),
    ("matmul", {"model_type": "qwen3", "num_hidden_layers": 6}, {"checkpointing": "matmul", "dtype": "bfloat16"}),
    ("matmul-lora", {"mlp_bias": True}, {"checkpointing": "matmul", "method": DROPOUT, "attention": "eager"}),
    ("mlp-chunks", {"num_hidden_layers": 6}, {"mlp_chunks": 9, "autocast": "bfloat16"}),
    ("mlp-chunks-layer", {"num_hidden_layers": 6}, {"mlp_chunks": 9, "checkpointing": "layer", "method": DROPOUT}),
    ("mlp-chunks-matmul", {"mlp_bias": True}, {"mlp_chunks": 4, "checkpointing": "matmul", "dtype": "float16"}),
    ("chunked-loss", {}, {"loss": "chunked", "loss_chunk": 7}),
    ("chunked-loss-tied", TIED, {"loss": "chunked", "dtype": "bfloat16", "gradient_accumulation_steps": 2}),
    (
        "chunked-loss-lora-head",
        {},
        {"loss": "chunked", "loss_chunk": 11, "method": {**LORA, "target_modules": ["lm_head"]}, "dtype": "float16"},
    ),
    ("liger", {}, {"loss": "liger", "batch": 3, "seq": 90}),
    ("liger-lora", {}, {"loss": "liger", "method": LORA, "dtype": "bfloat16"}),
    ("liger-tied", TIED, {"loss": "liger", "dtype": "float16", "checkpointing": "layer"}),
    ("liger-saved-head", {}, {"loss": "liger", "method": {**LORA, "modules_to_save": ["lm_head"]}}),
    ("liger-autocast", {}, {"loss": "liger", "autocast": BF16, "batch": 3, "seq": 90}),
    ("liger-autocast-frozen", {}, {"loss": "liger", "autocast": BF16, "method": LORA, "batch": 3, "seq": 90}),
    ("liger-autocast-tied", TIED, {"loss": "liger", "autocast": "float16", "checkpointing": "layer"}),
    ("liger-autocast-16", {}, {"loss": "liger", "autocast": BF16, "dtype": BF16}),
    ("liger-autocast-mixed", {}, {"loss": "liger", "autocast": "float16", "dtype": BF16, "method": IN_BFLOAT16}),
    ("cce-autocast", {}, {"loss": "cce", "autocast": BF16, "batch": 3, "seq": 90}),
    ("cce-autocast-frozen", {}, {"loss": "cce", "autocast": BF16, "method": LORA, "checkpointing": "layer"}),
    ("cce-autocast-tied", TIED, {"loss": "cce", "autocast": "float16", "gradient_accumulation_steps": 2}),
    ("cce", {}, {"loss": "cce", "checkpointing": "layer"}),
    ("cce-lora", {}, {"loss": "cce", "method": LORA, "dtype": "bfloat16", "batch": 3, "seq": 90}),
    ("ce-chunked-output", {}, {"loss": "ce-chunked-output"}),
    ("ce-chunked-output-lora", {}, {"loss": "ce-chunked-output", "dtype": BF16, "method": LORA, "batch": 1}),
    ("ce-chunked-output-few", TIED, {"loss": "ce-chunked-output", "dtype": BF16, "num_output_chunks": 3}),
    ("ce-chunked-output-many", {}, {"loss": "ce-chunked-output", "num_output_chunks": 40, "method": HEAD}),
    ("linear-cross-entropy", {}, {"loss": "linear-cross-entropy"}),
    ("linear-cross-entropy-lora", {}, {"loss": "linear-cross-entropy", "dtype": BF16, "method": LORA, "batch": 1}),
    ("linear-cross-entropy-few", TIED, {"loss": "linear-cross-entropy", "dtype": BF16, "num_output_chunks": 3}),
    ("linear-cross-entropy-head", {}, {"loss": "linear-cross-entropy", "num_output_chunks": 7, "method": HEAD}),
    (
        "linear-cross-entropy-share",
        {},
        {"loss": "linear-cross-entropy", "dtype": BF16, "data_collator": True, "label_share": 0.4},
    ),
    ("cce-tied", TIED, {"loss": "cce", "dtype": "float16", "mlp_chunks": 3}),
]
MEASURED: list[Case] = [
    (name, config, {"batch": 2, "seq": 33, "dtype": "float32", **plan}) for name, config, plan in _ROWS
]
REFUSED: list[Refused] = [
    ({}, {"model": "llama-3.2-1b", **keys}, says)
    for keys, says in (
        ({"checkpointing": "every-x"}, "or every-K"),
        ({"checkpointing": 2}, "or every-K"),
        ({"checkpointing": "matmul", "use_cache": True}, "use_cache"),
        ({"mlp_chunks": 9, "seq": 4, "batch": 2}, "fewer tokens"),
        ({"mlp_chunks": 4, "method": "lars"}, "sequence"),
        ({"loss": "liger", "loss_chunk": 7}, "leave it out"),
        ({"loss": "cce", "seq": 1}, "longer seq"),
        ({"loss": "liger", "method": {**LORA, "target_modules": ["lm_head", "q_proj"]}}, "past the adapter"),
        ({"loss": "liger", "method": {**LORA, "target_modules": ["lm_head"]}}, "past the adapter"),
    )
]
FORMULAS = [
    Formulas(
        f"{checkpointing}-{name}",
        {"num_hidden_layers": 12},
        {"checkpointing": checkpointing, "method": method},
        [(2, 33), (7, 200), (3, 5000)],
    )
    for checkpointing in ("every-2", "every-5", "attention", "matmul")
    for name, method in (("full", "full"), ("lora", LORA))
]
