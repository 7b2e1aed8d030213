"""Inference: one forward pass over whole prompts, and calls of ``generate``."""

from __future__ import annotations

from tests.cases.kinds import Case, Formulas, Refused

MODEL = "llama-3.2-1b"
LORA = {"name": "lora", "r": 5}
BIASES = {"attention_bias": True, "mlp_bias": True}
SHAPES = [(1, 1), (1, 31), (2, 17), (3, 45), (2, 24), (4, 1), (1, 23), (2, 70)]
OTHERS: list[Case] = [
    ("autocast", BIASES, {"autocast": "bfloat16", "method": LORA}),
    ("autocast-fp16-eager", {"model_type": "qwen3"}, {"autocast": "float16", "attention": "eager"}),
    ("attention-dropout", {"attention_dropout": 0.1}, {}),
    ("lora-dropout", {}, {"method": {**LORA, "lora_dropout": 0.1}}),
    ("save-head", {"tie_word_embeddings": True}, {"method": {**LORA, "modules_to_save": ["lm_head"]}}),
    ("some-layers", {"num_hidden_layers": 7}, {"method": {**LORA, "layers_to_transform": [2, 3]}, "use_cache": True}),
    (
        "windows",
        {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
        {"use_cache": True},
    ),
    ("previous-output", {}, {"previous_output": True, "use_cache": True}),
    ("previous-output-small", {"vocab_size": 19}, {"previous_output": True, "use_cache": True, "attention": "eager"}),
    ("deep", {"num_hidden_layers": 12}, {"use_cache": True, "dtype": "bfloat16"}),
    ("torchao-int8", {"model_type": "qwen2"}, {"dtype": "int8-weight-only", "use_cache": True}),
    ("torchao-float8", {}, {"dtype": "float8", "rest_dtype": "float32", "method": LORA}),
]
REFUSED: list[Refused] = [
    ({}, {"model": MODEL, "task": "infer", **keys}, says)
    for keys, says in (
        ({"optimizer": "sgd"}, "optimizer belongs to task: train"),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps belongs"),
        ({"checkpointing": "layer"}, "checkpointing belongs"),
        ({"loss": "chunked"}, "loss belongs"),
        ({"saved_activations": "int8"}, "saved_activations belongs"),
        ({"gradient_clipping": True}, "gradient_clipping belongs"),
        ({"keep_logits": False}, "keep_logits belongs"),
        ({"drop_output_before_step": True}, "drop_output_before_step belongs"),
        ({"mlp_chunks": 4}, "mlp_chunks belongs"),
        ({"kbit_preparation": True, "dtype": "nf4", "runtime": "torch-cuda"}, "kbit_preparation belongs"),
        ({"previous_seq": 9, "runtime": "torch-cuda"}, "previous_seq belongs"),
        ({"lengths": {"histogram": {9: 1}}}, "lengths belongs"),
        ({"method": "mezo"}, "is a way to train"),
        ({"method": "forward-ad"}, "is a way to train"),
        ({"implementation": "litgpt"}, "implementation: litgpt has no rule with task: infer"),
        ({"dtype": "nf4"}, "task: infer on runtime: torch-cpu, where its layers run other kernels"),
        (
            {"dtype": "gptq", "runtime": "torch-cuda"},
            "infer on runtime: torch-cuda, where its layers run other kernels",
        ),
    )
]
REFUSED += [
    ({}, {"model": MODEL, **keys}, says)
    for keys, says in (
        ({"generate": 5}, "generate must be a block"),
        ({"generate": {"max_new_tokens": 0}}, "generate.max_new_tokens"),
        ({"generate": {"new_tokens": 5}}, "unknown key 'generate.new_tokens'"),
        ({"generate": {"cache_implementation": "hybrid"}}, "dynamic"),
        ({"generate": {}, "task": "train"}, "generate belongs to task: infer"),
        (
            {"generate": {"cache_implementation": "static"}, "runtime": "torch-cuda"},
            "cache_implementation: static has no rule with runtime: torch-cuda",
        ),
        ({"generate": {}, "transformers": "4.57"}, "generate has no rule with transformers: 4.57"),
        ({"generate": {}, "use_cache": True}, "use_cache belongs to one forward pass"),
        ({"generate": {}, "previous_output": True}, "previous_output belongs to one forward pass"),
        (
            {"generate": {}, "method": {"name": "prefix_tuning", "num_virtual_tokens": 5}},
            "has no rule with method: prefix_tuning",
        ),
        ({"generate": {}, "runtime": "llama.cpp"}, "generate"),
        ({"generate": {"cache_implementation": "quantized"}, "autocast": "bfloat16"}, "8-bit floats"),
    )
]
REFUSED.append(
    ({"model_type": "mistral"}, {"generate": {"cache_implementation": "quantized"}}, "a model of sliding windows")
)
_WINDOW = {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1}
FORMULAS = [
    Formulas(
        f"{name}-{attention}-{'symbolic' if symbolic else 'numbers'}",
        {"model_type": "qwen3", "num_hidden_layers": 6, **_WINDOW},
        {"task": "infer", "use_cache": True, "attention": attention, "method": method},
        [(1, 1), (2, 23), (2, 24), (3, 193)],  # on either side of where blocks and masks change
        symbolic=symbolic,
        every=True,
    )
    for name, method in (("full", "full"), ("lora", {"name": "lora", "r": 5}))
    for attention in ("sdpa", "eager")
    for symbolic in (False, True)
]
