"""Inference: one forward pass over whole prompts, and calls of ``generate``."""

from __future__ import annotations

from tests.cases.kinds import Formulas, Refused

MODEL = "llama-3.2-1b"
REFUSED: list[Refused] = [
    ({}, {"model": MODEL, "task": "infer", **keys}, says)
    for keys, says in (
        ({"optimizer": "sgd"}, "optimizer belongs to task train"),
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
        ({"implementation": "litgpt"}, "training only"),
        ({"dtype": "nf4"}, "other kernels in inference on torch-cpu"),
        ({"dtype": "gptq", "runtime": "torch-cuda"}, "other kernels in inference on torch-cuda"),
        ({"method": {"name": "vblora"}}, "is of a training step"),
    )
]
REFUSED += [
    ({}, {"model": MODEL, **keys}, says)
    for keys, says in (
        ({"generate": 5}, "generate must be a block"),
        ({"generate": {"max_new_tokens": 0}}, "generate.max_new_tokens"),
        ({"generate": {"new_tokens": 5}}, "unknown key 'generate.new_tokens'"),
        ({"generate": {"cache_implementation": "hybrid"}}, "dynamic"),
        ({"generate": {}, "task": "train"}, "generate belongs to task infer"),
        ({"generate": {}, "runtime": "torch-cuda"}, "runtime torch-cpu only"),
        ({"generate": {}, "use_cache": True}, "use_cache is no matter of generate"),
        ({"generate": {}, "attention_mask": True}, "attention_mask is no matter of generate"),
        ({"generate": {}, "method": {"name": "prefix_tuning", "num_virtual_tokens": 5}}, "has no rules"),
        ({"generate": {}, "runtime": "llama.cpp"}, "generate"),
        ({"generate": {"cache_implementation": "quantized"}, "autocast": "bfloat16"}, "8-bit floats"),
    )
]
REFUSED.append(({"model_type": "mistral"}, {"generate": {"cache_implementation": "quantized"}}, "no sliding windows"))
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
