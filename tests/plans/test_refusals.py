"""What does not go together. The witness is the tables: each of their rows has a plan that it refuses, and its sentence
says how to mend it; each pair that they call measured or published is found in the cases or in the published runs."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from estimator.engines.registry import KEYS
from estimator.errors import InputError, asked_in_a_shell
from estimator.methods.registry import METHODS
from estimator.plans import refusals
from estimator.plans.flat import BLOCKS
from estimator.plans.plan import Plan, parse_plan
from estimator.plans.resolve import resolve
from tests.cases import offloading
from tests.cases.causal_classes import CLASSES
from tests.cases.published_runs import plans, sources
from tests.cases.small_models import write_config
from tests.cases.tables import MEASURED

MODEL = "smollm-135m"
LORA = {"name": "lora", "r": 4, "target_modules": ["q_proj"]}
CUDA, LITGPT = {"runtime": "torch-cuda"}, {"implementation": "litgpt", "model": "tiny-llama-1.1b"}
GRPO = {"trainer": "trl-grpo", "batch": 8}
LLAMA_CPP = {"runtime": "llama.cpp"}
MLX = {"runtime": "mlx"}
EXECUTORCH = {"runtime": "executorch"}
PUBLISHED: list[dict[str, Any]] = [{"task": "train"}, {"dtype": "float32"}, {"batch": 2}]
VLLM = {"runtime": "vllm", "device": "h100-80gb"}
SGLANG = {**VLLM, "runtime": "sglang"}
PREFIX = {"name": "prefix_tuning", "num_virtual_tokens": 3}
PROMPT = {"name": "prompt_tuning", "num_virtual_tokens": 3}
ADAPTION = {"name": "adaption_prompt", "adapter_len": 3, "adapter_layers": 2}
C3A = {"name": "c3a", "block_size": 4, "target_modules": ["o_proj"]}
STATIC = {"cache_implementation": "static", "disable_compile": True}
QUANTISED_CACHE = {"generate": {"cache_implementation": "quantized"}}
EVALUATES = {"run": {"eval_samples": 9}}
SHARDED = {"name": "fsdp2", "world_size": 2}
BART = {
    "model_type": "bart",
    "is_encoder_decoder": True,
    "d_model": 32,
    "max_position_embeddings": 32,
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 40),
}
WHISPER = {**BART, "model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"], "pad_token_id": 0}
DDP = {"name": "ddp", "world_size": 2}
ON_HOST = {"saved_activations": "on-host"}
HEAD = {"head": "sequence-classification"}
CAUSAL: dict[str, Any] = {
    "loss": "chunked",
    "mlp_chunks": 2,
    "generate": {},
    "data_collator": True,
    "packing": True,
    "neftune_noise_alpha": 5.0,
    "run": {},
    "lengths": {"histogram": {8: 1}},
    "use_cache": True,
}
"""What only a causal language model has."""

REFUSED: list[dict[str, Any]] = [
    {"attention": "flash"},
    {"generate": {"cache_implementation": "offloaded"}},
    ON_HOST,
    {**CUDA, "generate": {"cache_implementation": "static"}},
    {**CUDA, "generate": {}, "sharding": {"name": "fsdp2", "world_size": 4}},
    {**CUDA, "device": "apple-16gb"},
    {**LLAMA_CPP, "task": "train"},
    {"model": "x.gguf", "dtype": "q8_0"},
    {**LLAMA_CPP, "dtype": "nf4"},
    {**LLAMA_CPP, "device": "gaudi-3"},
    {**LLAMA_CPP, "device": "raspberry-pi-5-8gb", "llama_cpp": {"backend": "metal"}},
    {**LLAMA_CPP, "device": "rtx-3090", "devices": ["rtx-3060"]},
    {**LLAMA_CPP, "llama_cpp": {"tensor_split": [3, 1]}},
    {**LLAMA_CPP, "devices": ["rpc"], "llama_cpp": {"tensor_split": [3, 1]}},
    {**LLAMA_CPP, "devices": ["rpc", "rpc"], "llama_cpp": {"tensor_split": [0, 0]}},
    {**LLAMA_CPP, "devices": ["rpc", "rpc"]},
    {**LLAMA_CPP, "devices": ["rpc", "rpc"], "llama_cpp": {"tensor_split": [3, 1], "split_mode": "none"}},
    {**LLAMA_CPP, "devices": ["rpc", "rpc"], "llama_cpp": {"main_gpu": 2, "split_mode": "none"}},
    {**LLAMA_CPP, "devices": ["rtx-3090", "rtx-3060"], "llama_cpp": {"main_gpu": 1}},
    {**LLAMA_CPP, "devices": ["rtx-3090", "rtx-3060"], "llama_cpp": {"split_mode": "row"}},
    {**LLAMA_CPP, "devices": ["rpc"], "llama_cpp": {"split_mode": "row", "build": "2025"}},
    {**CUDA, "model": "x.gguf"},
    {**CUDA, "dtype": "q8_0"},
    {**VLLM, "task": "infer"},
    {**VLLM, "dtype": "nf4"},
    {"runtime": "vllm"},
    {**CUDA, "task": "serve"},
    {**SGLANG, "task": "infer"},
    {**SGLANG, "dtype": "nf4"},
    {"runtime": "sglang"},
    {**MLX, "dtype": "nf4", "method": LORA},
    {**MLX, "method": "ia3"},
    {**MLX, "method": {**LORA, "bias": "all"}},
    {**MLX, "method": {**LORA, "lora_dropout": 0.1}},
    {**MLX, "checkpointing": "attention"},
    {**MLX, "optimizer": "lion"},
    {**MLX, "task": "infer", "method": LORA},
    {**MLX, "mlx": {"server": "vllm-mlx"}},
    {**MLX, "task": "infer", "batch": 2},
    {**MLX, "device": "rtx-4090"},
    {**MLX, "device": "apple-16gb", "mlx": {"default_device": "cpu"}},
    {**MLX, "mlx": {"iogpu_wired_limit_mb": 9000}},
    {**MLX, "device": "apple-16gb", "budget": "9GiB", "mlx": {"iogpu_wired_limit_mb": 9000}},
    {**CUDA, "dtype": "mlx-4bit"},
    {**EXECUTORCH, "task": "train"},
    {**EXECUTORCH, "batch": 2},
    {**EXECUTORCH, "dtype": "nf4"},
    {**EXECUTORCH, "executorch": {"delegate": "none"}},
    {**EXECUTORCH, "dtype": "bfloat16", "executorch": {"delegate": "xnnpack"}},
    {**EXECUTORCH, "seq": 64, "executorch": {"max_seq_length": 65}},
    {**EXECUTORCH, "executorch": {"quantize_kv_cache": True, "use_sdpa_with_kv_cache": False}},
    {**EXECUTORCH, "executorch": {"use_kv_cache": False, "use_sdpa_with_kv_cache": True}},
    {**CUDA, "model": "x.pte"},
    {**CUDA, "dtype": "8da4w"},
    *({"runtime": runtime, **keys} for runtime in ("litert", "mlc") for keys in PUBLISHED),
    {**LITGPT, "task": "infer"},
    {"method": "mezo", "task": "infer"},
    {"sharding": {**SHARDED, "name": "zero1"}, "task": "infer"},
    {"sharding": {**SHARDED, "name": "zero3"}, "task": "infer"},
    {"sharding": {**SHARDED, "world_size": 1}, "task": "infer"},
    {"sharding": {**SHARDED, "name": "fsdp1"}, "task": "infer", "generate": {}},
    {"sharding": DDP, "task": "infer", "generate": {}},
    {"generate": {}, "transformers": "4.57"},
    {"images": 3, "image_size": "64x64,32x32"},
    {"video_frames": 4, "images": 1},
    {"run": {}, "transformers": "4.57"},
    {"drop_output_before_step": True, "previous_output": True},
    {"host_memory": "64GiB"},
    {"device": "iphone-15", "ios_increased_memory_limit": True, "budget": "4GiB"},
    {"device": "iphone-15", "sharding": SHARDED},
    {"device": "pixel-8", "ios_increased_memory_limit": True},
    {"device": "iphone-13", "ios_increased_memory_limit": True},
    {**GRPO, "runtime": "torch-cpu", "use_vllm": True},
    {**GRPO, "device": "rtx-4090", "use_vllm": True, "dtype": "int8", "method": "lora"},
    {**GRPO, "device": "rtx-4090", "use_vllm": True, "vllm_tensor_parallel_size": 2},
    {"trainer": "trl-dpo", "loss": "chunked"},
    {"trainer": "trl-kto", "batch": 1},
    {"trainer": "trl-gkd"},
    {"trainer": "trl-distillation", "teacher": "smollm-360m", "beta": 1.5},
    {"trainer": "trl-gkd", "teacher": "smollm-360m", "seq_kd": True},
    {"trainer": "trl-dpo", "packing": True},
    {"trainer": "trl-dpo", "method": PROMPT},
    {"trainer": "sentence-transformers", "model": "all-minilm-l6-v2", "sharding": SHARDED},
    {"trainer": "trl-grpo", "sharding": SHARDED},
    LLAMA_CPP,
    {**CUDA, **ON_HOST, "dtype": "gptq", "method": LORA},
    {**CUDA, **ON_HOST, "mlp_chunks": 2},
    {"use_cache": True, "checkpointing": "matmul"},
    {"kernels": "unsloth"},
    {**CUDA, "kernels": "unsloth", "method": LORA, "mlp_chunks": 2},
    {"loss": "unsloth"},
    {"mlp_chunks": 4, "seq": 3},
    {"mlp_chunks": 4, "method": "lars"},
    {"loss": "cce", "method": PROMPT},
    {"packing": True, "attention_mask": True},
    {"sharding": SHARDED, "method": "mezo"},
    {"sharding": {**SHARDED, "name": "fsdp1", "groups": "transformers"}, "checkpointing": "matmul"},
    {"sharding": {"name": "zero2", "world_size": 2, "offload_optimizer": "cpu"}, "optimizer": "sgd"},
    {"sharding": {**SHARDED, "name": "fsdp1", "cpu_offload": True}},
    {
        **CUDA,
        "sharding": {**SHARDED, "name": "fsdp1", "cpu_offload": True, "sync_each_batch": True},
        "gradient_accumulation_steps": 2,
    },
    {"sharding": {**SHARDED, "groups": "accelerate"}, "loss": "linear-cross-entropy"},
    {"sharding": {"name": "zero1", "world_size": 2}, "autocast": "bfloat16"},
    {"sharding": {"name": "zero3", "world_size": 2, "offload_param": "cpu"}, "dtype": "nf4", "method": LORA},
    {**CUDA, "sharding": {"name": "zero1", "world_size": 2, "contiguous_gradients": False}},
    {"sharding": DDP, "dtype": "float8", "method": LORA},
    {**CUDA, "sharding": DDP, "dtype": "gptq", "method": LORA},
    {"sharding": DDP, "method": "mezo", "optimizer": "sgd"},
    {"sharding": DDP, "optimizer": "lomo"},
    {"sharding": {**DDP, "find_unused_parameters": True}, "checkpointing": "layer", "use_reentrant": True},
    {"sharding": {**DDP, "static_graph": True}, "gradient_accumulation_steps": 2},
    {"label_share": 0.5},
    {"saved_activations": "int8", "method": C3A},
    {**CUDA, "attention": "flash", "data_collator": True, "batch": 2},
    {**CUDA, "attention": "flash", "attention_mask": True},
    {**LITGPT, "optimizer": "lomo"},
    {**LITGPT, "dtype": "int8", "method": LORA},
    {**LITGPT, "checkpointing": "layer"},
    {**LITGPT, "dtype": "nf4", "compute_dtype": "float16", "method": "lora"},
    {**LITGPT, "method": "ia3"},
    {"optimizer": "lomo", "gradient_accumulation_steps": 2},
    {"method": "mezo", "optimizer": "lomo"},
    {"method": "mezo", "optimizer": "adamw"},
    {"method": "forward-ad", "attention": "sdpa"},
    {"method": "forward-ad", "autocast": "bfloat16"},
    {"method": PREFIX, "checkpointing": "layer"},
    {"method": C3A, "checkpointing": "matmul"},
    {"method": ADAPTION, "checkpointing": "attention"},
    {"method": LORA, "checkpointing": "matmul", "dtype": "nf4"},
    {**QUANTISED_CACHE, "autocast": "bfloat16"},
    {"task": "infer", "dtype": "nf4"},
    {"dtype": "fp8-blocks", "method": LORA},
    {**CUDA, "task": "infer", "dtype": "fp8-blocks", "transformers": "4.57"},
    {"dtype": "nf4"},
    {"dtype": "gptq", "method": "ia3"},
    {"dtype": "nf4", "method": C3A},
    {"dtype": "int8", "method": "ia3"},
    {"dtype": "nf4", "method": {**LORA, "use_dora": True}},
    {**EVALUATES, "loss": "liger"},
    {**EVALUATES, "sharding": SHARDED},
    {"run": {"processes_per_host": 2}},
    {"run": {"processes_per_host": 3}, "sharding": SHARDED},
    {"run": {"cpu_ram_efficient_loading": True}, "sharding": DDP},
    {"run": {"eval_samples": 9, "compute_metrics": True}, "loss": "chunked"},
    {**EVALUATES, "mlp_chunks": 2},
    {**EVALUATES, "packing": True},
    {**EVALUATES, "dtype": "nf4", "method": LORA},
    {"dtype": "float8", "method": {**LORA, "lora_bias": True}},
    {"dtype": "int8-weight-only", "method": {**LORA, "bias": "all"}},
    {"model": {"model_type": "helium"}, "dtype": "nf4", "method": LORA, "autocast": "float16"},
    {
        "model": {"model_type": "helium"},
        "dtype": "nf4",
        "method": LORA,
        "autocast": "bfloat16",
        "kbit_preparation": True,
    },
    {
        "model": {
            "model_type": "gemma4_text",
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention", "full_attention"],
        },
        "seq": 8,
        "batch": 2,
        "data_collator": True,
    },
    {"model": {"model_type": "ctrl", "dff": 64, "n_embd": 32, "n_head": 2, "n_layer": 2}, "checkpointing": "layer"},
    {"model": WHISPER, "seq": 99},
    {"target_seq": 4},
    {"images": 2, **HEAD},
    {"image_size": "64x64", **HEAD},
    {"video_frames": 4, **HEAD},
    {"audio_frames": 9},
    {"audio_seconds": 9.0},
    {
        "model": {"model_type": "vit", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
        "head": "image-classification",
        "image_size": "64x64,32x32",
    },
    {
        "model": {"model_type": "vit", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
        "head": "image-classification",
        "attention_mask": True,
    },
    {
        "model": {
            "model_type": "t5",
            "decoder_start_token_id": 0,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 64,
            "num_layers": 2,
            "num_heads": 4,
            "is_encoder_decoder": True,
        },
        "head": "seq2seq-lm",
        "method": {"name": "freeze", "top_layers": 1},
    },
    {**HEAD, "dtype": "gptq", "method": LORA},
    {**CUDA, "model": "qwen3-30b-a3b", "task": "infer", "dtype": "fp8-blocks", "generate": {}},
    {**HEAD, "trainer": "loop"},
    {"model": "all-minilm-l6-v2", "head": "feature-extraction", "seq": 64},
    *(
        {**({"model": BART, "head": "seq2seq-lm"} if key == "data_collator" else HEAD), key: CAUSAL[key]}
        for key in refusals.CAUSAL_KEYS
    ),
    {"model": {"model_type": "bert", "max_position_embeddings": 32}, "head": "masked-lm", "seq": 33},
    {"model": {"model_type": "roberta", "max_position_embeddings": 32}, "head": "masked-lm", "seq": 31},
    {"model": {**WHISPER, "max_target_positions": 8}, "target_seq": 9},
    {"model": BART, "head": "seq2seq-lm", "seq": 30, "target_seq": 33},
    {"packing": True, "method": PROMPT},
    {"model": {"model_type": "mixtral"}, "sharding": {**SHARDED, "name": "zero3"}},
    {"experts_implementation": "eager"},
    {"routing": "worst"},
    {"model": {"hidden_act": "gelu"}, "method": "forward-ad"},
    {"dtype": "nf4", "method": {**LORA, "modules_to_save": ["up_proj"]}},
    {"generate": {}, "method": PREFIX},
    {"model": {**CLASSES["bloom"], "model_type": "bloom"}, "generate": {}, "attention_mask": True},
    {"model": BART, "head": "seq2seq-lm", "generate": {**QUANTISED_CACHE["generate"], "max_new_tokens": 3}, "seq": 8},
    {"model": BART, "head": "seq2seq-lm", "generate": {"max_new_tokens": 33}, "seq": 8},
    {**CUDA, "model": BART, "head": "seq2seq-lm", "generate": {"max_new_tokens": 3}, "seq": 8},
    {**CUDA, "model": {"model_type": "lfm2"}, "generate": {"cache_implementation": "offloaded"}},
    {**CUDA, "model": {**CLASSES["granitemoehybrid"], "model_type": "granitemoehybrid"}, "generate": {}},
    {**CUDA, "model": {**CLASSES["bloom"], "model_type": "bloom"}, "generate": STATIC, "attention": "eager"},
    {**QUANTISED_CACHE, "model": {"model_type": "mistral"}},
    {**CUDA, "model": {"model_type": "mistral"}, "generate": {**STATIC, "cache_implementation": "offloaded_static"}},
    {"loss": "chunked", "method": {"name": "lars", "target_modules": ["lm_head", "q_proj"]}},
]
"""A plan of every row of ``PLAN``, ``STEP`` and ``MODEL``, in their order."""

NOT_ASKED: dict[str, list[dict[str, Any]]] = {
    "training by default": [{"device": "iphone-15"}],
    "a formula": [
        {"generate": {"num_beams": 2}},
        {"loss": "chunked"},
        {**GRPO, "device": "rtx-4090", "use_vllm": True},
        {"run": {}},
    ],
    "a formula of open sizes": [{"optimizer": "muon"}],
    "an explanation": [LLAMA_CPP, {"task": "infer"}, {"method": "mezo"}],
    "advice": [LLAMA_CPP, {"run": {}}],
    "a search for cards": [LLAMA_CPP, {"run": {}}],
    "a comparison of training steps": [LLAMA_CPP, {"task": "infer"}, {"run": {}}],
    "a timeline": [{}, LLAMA_CPP],
    "a memory snapshot": [LLAMA_CPP],
    "--phases": [{}],
    "a trace": [
        {"sharding": {"name": "ddp", "world_size": 2}},
        {"task": "infer"},
        {"method": "mezo"},
        {"saved_activations": "int8"},
        {"checkpointing": "offloaded", **CUDA},
        {**CUDA, "kernels": "unsloth", "method": LORA},
        {"autocast": "bfloat16"},
        {"dtype": "nf4", "method": LORA},
    ],
    "building the real model": [
        {**CUDA, "sharding": SHARDED},
        LITGPT,
        {**CUDA, "kernels": "unsloth", "method": LORA},
        {"loss": "chunked-nll"},
        {"dtype": "nf4", "method": LORA, "bitsandbytes": "0.49"},
    ],
}
"""A plan of every row of ``QUESTIONS``, in their order."""

VALUES: dict[str, Any] = {
    "sharding": SHARDED,
    "lengths": {"histogram": {8: 1}},
    "kbit_preparation": True,
    "checkpointing": "layer",
    "use_reentrant": True,
    "transformers": "4.48",
    "mlp_chunks": 2,
    "saved_activations": "int8",
    "activation_group_size": 32,
    "kernels": "unsloth",
    "loss": "chunked",
    "loss_chunk": 8,
    "num_output_chunks": 4,
    "method": "lora",
    "optimizer": "sgd",
    "optimizer_rank": 8,
    "embedding_optim_bits": 32,
    "gradient_accumulation_steps": 2,
    "keep_logits": False,
    "drop_output_before_step": True,
    "gradient_clipping": True,
    "previous_seq": 8,
    "empty_cache": True,
    "rest_dtype": "float16",
    "compute_dtype": "float16",
    "double_quant": True,
    "quant_storage": "bfloat16",
    "weight_group_size": 64,
    "bitsandbytes": "0.49",
    "expandable_segments": True,
    "torch": "2.10",
    "sdpa_kernel": "math",
    "attention": "eager",
    "experts_implementation": "eager",
    "routing": "worst",
    "generate": {},
    "run": {},
    "autocast": "bfloat16",
    "implementation": "litgpt",
    "trainer": "loop",
    "litgpt": "0.4.12",
    "llama_cpp": {"n_ctx": 512},
    "vllm": {"max_num_seqs": 8},
    "sglang": {"max_running_requests": 8},
    "devices": ["rtx-3090"],
    "mlx": {"num_layers": 2},
    "executorch": {"max_context_length": 512},
    "attention_mask": True,
    "data_collator": True,
    "convert_outputs_to_fp32": True,
    "neftune_noise_alpha": 5.0,
    "trl": "1.14",
    "prompt_seq": 9,
    "loss_type": "hinge",
    "beta": 0.1,
    "precompute_ref_log_probs": True,
    "num_generations": 4,
    "steps_per_generation": 2,
    "num_iterations": 2,
    "use_vllm": True,
    "vllm_mode": "server",
    "vllm_gpu_memory_utilization": 0.5,
    "vllm_enable_sleep_mode": True,
    "vllm_tensor_parallel_size": 2,
    "vllm_max_model_length": 512,
    "reference": "copy",
    "reward_model": "smollm-135m",
    "teacher": "smollm-360m",
    "lmbda": 0.1,
    "seq_kd": True,
    "anchor_seq": 9,
    "negatives": 1,
    "pooling_mode": "cls",
    "normalize": True,
    "matryoshka_dims": [64, 32],
    "label_share": 0.5,
    "packing": True,
    "return_seq_idx": True,
    "use_cache": True,
    "previous_output": True,
    "ios_increased_memory_limit": True,
    "head": "sequence-classification",
    "target_seq": 4,
    "images": 2,
    "image_size": "64x64",
    "video_frames": 4,
    "audio_frames": 9,
    "audio_seconds": 9.0,
    "freeze": "language",
}
"""A value of every key that belongs to something: not its default."""

WITHOUT: dict[str, dict[str, Any]] = {
    "vllm_mode: colocate": {**GRPO, "use_vllm": True, "vllm_mode": "server"},
    "runtime: torch-cpu or torch-cuda": LLAMA_CPP,
    "runtime: llama.cpp": {"runtime": "torch-cpu"},
    "runtime: mlx": {"runtime": "torch-cpu"},
    "runtime: executorch": {"runtime": "torch-cpu"},
    "task: train": {"task": "infer"},
    "task: infer": {"task": "train"},
    "one forward pass, not to generate": {"generate": {}},
    "attention: sdpa": {**CUDA, "attention": "eager"},
    "lengths": CUDA,
    "a plan of one length": {**CUDA, "lengths": {"histogram": {8: 1}}},
    "implementation: transformers": {**LITGPT, "dtype": "nf4", "method": "lora"},
    "methods with a backward pass": {"method": "mezo"},
}
"""A plan that has not what keys belong to, where the plainest one has it."""


def plan_of(keys: Mapping[str, Any], folder: Path) -> Plan:
    model = keys.get("model", MODEL)
    return parse_plan({**keys, "model": write_config(folder, model) if isinstance(model, dict) else model})


def says(sentence: str) -> str:
    """The sentence of a row as a regular expression."""
    return "^" + re.sub(r"\\{.*?\\}", ".+", re.escape(sentence)) + "$"


ROWS = refusals.listed()


@pytest.mark.parametrize(("sentence", "keys"), zip(ROWS, REFUSED, strict=True), ids=range(len(ROWS)))
def test_every_row_refuses(sentence: str, keys: dict[str, Any], tmp_path: Path) -> None:
    with asked_in_a_shell(), pytest.raises(InputError, match=says(sentence)[:250]) as refused:
        resolve(plan_of(keys, tmp_path))
    known = {
        *Plan.model_fields,
        *(key for block in (*BLOCKS.values(), *METHODS.values()) for key in block.model_fields),
    }
    assert refused.value.key in known or sentence.startswith("a "), sentence


@pytest.mark.extra("trace")
@pytest.mark.parametrize("question", refusals.QUESTIONS)
def test_every_row_of_a_question_refuses(question: str, tmp_path: Path) -> None:
    for sentence, keys in zip(refusals.QUESTIONS[question], NOT_ASKED[question], strict=True):
        with asked_in_a_shell(), pytest.raises(InputError, match=says(f"{question} does not go with {sentence}")):
            refusals.check_question(question, plan_of(keys, tmp_path))


def test_a_trace_of_gathered_parameters_and_of_none_of_split_ones() -> None:
    gathered = {"name": "fsdp2", "world_size": 4}
    refusals.check_question("a trace", parse_plan({"model": MODEL, "sharding": gathered}))
    with pytest.raises(InputError, match=r"^a trace does not go with sharding: fsdp2 x tp 2"):
        refusals.check_question("a trace", parse_plan({"model": MODEL, "sharding": {**gathered, "tp": 2}}))


@pytest.mark.parametrize(
    "keys",
    [
        {"model": {"model_type": "bert", "max_position_embeddings": 32}, "head": "masked-lm", "seq": 32},
        {"model": {"model_type": "roberta", "max_position_embeddings": 32}, "head": "masked-lm", "seq": 30},
        {"model": {**WHISPER, "max_target_positions": 8}, "target_seq": 8},
        {"model": BART, "head": "seq2seq-lm", "seq": 30, "target_seq": 32},
    ],
    ids=["bert", "roberta", "whisper", "bart"],
)
def test_as_many_tokens_as_positions(keys: dict[str, Any], tmp_path: Path) -> None:
    """One more is refused, in a row above."""
    with asked_in_a_shell():
        resolve(plan_of(keys, tmp_path))


@pytest.mark.parametrize("owner", [*refusals.OWNERS, *refusals.STEP_OWNERS], ids=lambda owner: owner.name)
def test_every_key_belongs_to_its_owner(owner: refusals.Owner) -> None:
    for key in owner.keys:
        keys = {"model": MODEL, **WITHOUT.get(owner.name, {}), key: VALUES[key]}
        owning, colon, _ = owner.name.partition(":")
        other = keys.get(owning, Plan.model_fields[owning].get_default()) if colon else None
        mend = "" if other is None else r", not \S+"
        mend += f"; leave it out, or set {owning}" if colon else "; leave it out"
        with pytest.raises(InputError, match=f"^{key} belongs to {re.escape(owner.name)}{mend}$") as refused:
            resolve(parse_plan(keys))
        assert (refused.value.key, refused.value.owner) == (key, owning if colon else "")


def test_sentences_have_one_pattern() -> None:
    asked = [f"{question} does not go with {row}" for question, rows in refusals.QUESTIONS.items() for row in rows]
    for sentence in (*ROWS, *asked):
        told, mended = sentence.split("; ")
        assert len(re.findall("does not go with|has no rule with", told)) == 1, sentence
        assert mended[0].islower(), sentence
        assert not sentence.endswith("."), sentence


def test_keys_of_pytorch() -> None:
    """A key is one of a step in PyTorch, one of an engine, or one of every plan."""
    of_engines = {key for keys in KEYS.values() for key in keys.names}
    shared = {"model", "task", "batch", "seq", "dtype", "runtime", "device", "ios_increased_memory_limit", "budget"}
    shared |= {"host_memory"}
    assert {*refusals.PYTORCH_KEYS, *shared, *of_engines} == set(Plan.model_fields)
    assert not shared & set(refusals.PYTORCH_KEYS)


# Which witness saw what goes together.


def choices(keys: Mapping[str, Any]) -> Iterator[str]:
    """The choices of a plan that the tables know, as they are written there."""
    for key in ("checkpointing", "loss", "saved_activations", "dtype"):
        value = str(keys.get(key, ""))
        yield f"{key}: {'every-K' if value.startswith('every-') else value}"
    if keys.get("mlp_chunks", 1) > 1:
        yield "mlp_chunks"


def method_of(keys: Mapping[str, Any], default: str) -> str:
    method = keys.get("method", default)
    return str(method["name"] if isinstance(method, Mapping) else method)


def test_what_is_called_measured_is_a_case() -> None:
    found: dict[str, set[str]] = defaultdict(set)
    moved = [{**keys, **offloaded} for _, _, keys, offloaded in offloading.MEASURED]
    for keys in (*moved, *(keys for rows in MEASURED.values() for _, _, keys in rows)):
        for choice in choices(keys):
            found[choice].add(method_of(keys, "full"))
    for choice, methods in refusals.MEASURED.items():
        assert set(methods) == found[choice] & set(METHODS), choice


def test_what_is_called_published_is_a_run() -> None:
    found: dict[str, set[str]] = defaultdict(set)
    for keys in (keys for source in sources() for keys in plans(source).values()):
        for choice in choices(keys) if keys.get("task", "train") == "train" else ():
            found[choice].add(method_of(keys, "full"))
    for choice, methods in refusals.PUBLISHED.items():
        assert set(methods) <= found[choice], choice
