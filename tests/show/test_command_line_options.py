"""Every key of a plan, of its blocks and of every method is an option of the command line.

The command is compared with ``estimate``, so that both ask the same question.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import pytest

from estimator.answers.estimate import estimate
from estimator.engines.llama_cpp.options import LlamaCppOptions
from estimator.engines.mlx.options import MlxOptions
from estimator.engines.sglang.options import SglangOptions
from estimator.engines.vllm.options import VllmOptions
from estimator.methods.registry import METHODS
from estimator.moments.options import RunOptions
from estimator.plans.flat import IN_BLOCK_ALONE
from estimator.plans.plan import Plan
from estimator.plans.refusals import VLLM_KEYS
from estimator.plans.second_model import SecondModel
from estimator.show.cli import main
from estimator.show.commands.options import add_plan_options
from estimator.show.topics import EVERY_OPTION
from estimator.steps.generate_options import GenerateOptions
from tests.helpers.commands import answer

MODEL = "smollm-135m"
NF4 = ["--dtype", "nf4", "--method", "lora", "--seq", "1"]
"""One token, so that the peak is where a weight is dequantised."""
CUDA = ["--runtime", "torch-cuda"]
GRPO = ["--trainer", "trl-grpo", "--batch", "8", "--seq", "40"]
GKD = ["--trainer", "trl-gkd", "--seq", "40"]
TEXTS = ["--trainer", "sentence-transformers", "--batch", "3", "--seq", "40"]
OF_TEXTS = ("anchor_seq", "negatives", "pooling_mode", "normalize", "matryoshka_dims")
COLOCATED = ["--use-vllm", "--device", "rtx-4090", *GRPO]
LITGPT = ["--implementation", "litgpt", "--method", "lora"]
PLAN_OPTIONS: dict[str, tuple[list[str], Any]] = {
    "implementation": (["--implementation", "litgpt"], "litgpt"),
    "trainer": (["--trainer", "hf-trainer"], "hf-trainer"),
    "trl": (["--trl", "1.14", "--trainer", "trl-sft", "--seq", "40"], "1.14"),
    "prompt_seq": (["--prompt-seq", "9", *GRPO], 9),
    "loss_type": (["--loss-type", "sft", "--trainer", "trl-dpo", "--seq", "40"], "sft"),
    "beta": (["--beta", "0.1", *GRPO], 0.1),
    "precompute_ref_log_probs": (["--precompute-ref-log-probs", "--trainer", "trl-dpo", "--seq", "40"], True),
    "num_generations": (["--num-generations", "4", *GRPO], 4),
    "steps_per_generation": (["--steps-per-generation", "1", "--gradient-accumulation-steps", "2", *GRPO], 1),
    "num_iterations": (["--num-iterations", "2", *GRPO], 2),
    "use_vllm": (COLOCATED, True),
    "vllm_mode": (["--vllm-mode", "server", *COLOCATED], "server"),
    "vllm_gpu_memory_utilization": (["--vllm-gpu-memory-utilization", "0.4", *COLOCATED], 0.4),
    "vllm_enable_sleep_mode": (["--vllm-enable-sleep-mode", *COLOCATED], True),
    "vllm_tensor_parallel_size": (
        ["--vllm-tensor-parallel-size", "3", *COLOCATED, "--sharding", "ddp", "--world-size", "3"],
        3,
    ),
    "vllm_max_model_length": (["--vllm-max-model-length", "64", *COLOCATED], 64),
    "reward_model": (["--reward-model", "smollm-135m", *GRPO], SecondModel(model="smollm-135m")),
    "teacher": (["--teacher", "smollm-360m", *GKD], SecondModel(model="smollm-360m")),
    "lmbda": (["--lmbda", "0.0", "--teacher", "smollm-135m", *GKD], 0.0),
    "seq_kd": (["--seq-kd", "--lmbda", "0.0", "--teacher", "smollm-135m", *GKD], True),
    "anchor_seq": (["--anchor-seq", "7", *TEXTS], 7),
    "negatives": (["--negatives", "2", *TEXTS], 2),
    "pooling_mode": (["--pooling-mode", "cls", *TEXTS], "cls"),
    "normalize": (["--normalize", *TEXTS], True),
    "matryoshka_dims": (["--matryoshka-dims", "384,128", *TEXTS], (384, 128)),
    "reference": (["--reference", "copy", *GRPO, "--beta", "0.2", "--method", "lora"], "copy"),
    "embedding_optim_bits": (["--embedding-optim-bits", "32", "--optimizer", "adamw-8bit"], 32),
    "transformers": (["--transformers", "4.48"], "4.48"),
    "litgpt": (["--litgpt", "0.4.12", *LITGPT], "0.4.12"),
    "task": (["--task", "infer"], "infer"),
    "batch": (["--batch", "3"], 3),
    "seq": (["--seq", "100"], 100),
    "lengths": (["--lengths", "{histogram: {64: 9, 100: 1}}"], {"histogram": {64: 9, 100: 1}}),
    "dtype": (["--dtype", "float32"], "float32"),
    "rest_dtype": (["--rest-dtype", "float32", *NF4], "float32"),
    "compute_dtype": (["--compute-dtype", "bfloat16", *NF4], "bfloat16"),
    "double_quant": (["--double-quant", *NF4], True),
    "quant_storage": (["--quant-storage", "bfloat16", *NF4], "bfloat16"),
    "weight_group_size": (["--weight-group-size", 64, "--dtype", "awq", "--method", "lora"], 64),
    "bitsandbytes": (["--bitsandbytes", "0.43.1", *NF4], "0.43.1"),
    "kbit_preparation": (["--kbit-preparation", *NF4], True),
    "autocast": (["--autocast", "float16"], "float16"),
    "attention": (["--attention", "eager"], "eager"),
    "sdpa_kernel": (["--sdpa-kernel", "math", *CUDA], "math"),
    "experts_implementation": (["--experts-implementation", "eager", "--seq", "100"], "eager"),
    "head": (["--head", "sequence-classification"], "sequence-classification"),
    "freeze": (["--freeze", "embeddings"], ("embeddings",)),
    "routing": (["--routing", "worst", "--experts-implementation", "eager", "--seq", "100"], "worst"),
    "checkpointing": (["--checkpointing", "every-2"], "every-2"),
    "use_reentrant": (["--use-reentrant", "--checkpointing", "layer", "--seq", "16"], True),
    "saved_activations": (["--saved-activations", "int4"], "int4"),
    "activation_group_size": (["--activation-group-size", "32", "--saved-activations", "int8"], 32),
    "mlp_chunks": (["--mlp-chunks", "4"], 4),
    "loss": (["--loss", "liger"], "liger"),
    "kernels": (["--kernels", "unsloth", "--method", "lora", *CUDA], "unsloth"),
    "loss_chunk": (["--loss-chunk", "512", "--loss", "chunked"], 512),
    "num_output_chunks": (["--num-output-chunks", "4", "--loss", "ce-chunked-output"], 4),
    "method": (["--method", "ia3"], "ia3"),
    "optimizer": (["--optimizer", "sgd-momentum"], "sgd-momentum"),
    "optimizer_rank": (["--optimizer", "galore-adamw", "--optimizer-rank", "7"], 7),
    "gradient_accumulation_steps": (["--gradient-accumulation-steps", "2"], 2),
    "keep_logits": (["--no-keep-logits"], False),
    "drop_output_before_step": (["--drop-output-before-step", "--optimizer", "adamw-foreach", "--seq", "1"], True),
    "attention_mask": (["--attention-mask"], True),
    "data_collator": (["--data-collator"], True),
    "convert_outputs_to_fp32": (["--convert-outputs-to-fp32", "--autocast", "bfloat16"], True),
    "packing": (["--packing"], True),
    "return_seq_idx": (["--return-seq-idx", "--packing"], True),
    "label_share": (["--label-share", "0.5", "--data-collator", "--loss", "chunked-nll"], 0.5),
    "neftune_noise_alpha": (["--neftune-noise-alpha", "5", "--checkpointing", "layer", "--method", "lora"], 5.0),
    "use_cache": (["--use-cache", "--attention", "eager"], True),
    "previous_output": (["--no-previous-output", *CUDA], False),
    "gradient_clipping": (["--gradient-clipping"], True),
    "runtime": (["--runtime", "torch-cuda"], "torch-cuda"),
    "previous_seq": (["--previous-seq", "500", *CUDA], 500),
    "empty_cache": (
        ["--empty-cache", "--lengths", "{histogram: {64: 9, 700: 1}}", *CUDA],
        True,
    ),
    "expandable_segments": (["--expandable-segments", *CUDA], True),
    "torch": (["--torch", "2.10", "--seq", "1000", *CUDA], "2.10"),
    "device": (["--device", "rtx-4090"], "rtx-4090"),
    "ios_increased_memory_limit": (
        ["--device", "iphone-15", "--runtime", "torch-cpu", "--ios-increased-memory-limit"],
        True,
    ),
    "budget": (["--budget", "24 GB"], "24 GB"),
    "host_memory": (["--host-memory", "64GiB", "--saved-activations", "on-host", *CUDA], "64GiB"),
}
METHOD_OPTIONS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "target_modules": (
        ["--method", "lora", "--target-modules", "q_proj,o_proj"],
        {"target_modules": ["q_proj", "o_proj"]},
    ),
    "exclude_modules": (["--method", "lora", "--exclude-modules", "v_proj"], {"exclude_modules": ["v_proj"]}),
    "modules_to_save": (["--method", "lora", "--modules-to-save", "norm"], {"modules_to_save": ["norm"]}),
    "adapter_dtype": (["--method", "lora", "--adapter-dtype", "bfloat16"], {"adapter_dtype": "bfloat16"}),
    "r": (["--method", "lora", "--r", "32"], {"r": 32}),
    "lora_alpha": (["--method", "lora", "--lora-alpha", "16.5"], {"lora_alpha": 16.5}),
    "lora_dropout": (["--method", "lora", "--lora-dropout", "0.1"], {"lora_dropout": 0.1}),
    "bias": (["--method", "lora", "--bias", "all"], {"bias": "all"}),
    "lora_bias": (["--method", "lora", "--lora-bias"], {"lora_bias": True}),
    "use_rslora": (["--method", "lora", "--use-rslora"], {"use_rslora": True}),
    "layers_to_transform": (
        ["--method", "lora", "--layers-to-transform", "0,2", "--target-modules", "q_proj"],
        {"layers_to_transform": [0, 2], "target_modules": ["q_proj"]},
    ),
    "layers_pattern": (
        ["--method", "lora", "--layers-pattern", "layers", "--layers-to-transform", "1", "--target-modules", "q_proj"],
        {"layers_pattern": ["layers"], "layers_to_transform": [1], "target_modules": ["q_proj"]},
    ),
    "rank_pattern": (["--method", "lora", "--rank-pattern", "{q_proj: 2}"], {"rank_pattern": {"q_proj": 2}}),
    "feedforward_modules": (
        ["--method", "ia3", "--target-modules", "k_proj,up_proj", "--feedforward-modules", "up_proj"],
        {"name": "ia3", "target_modules": ["k_proj", "up_proj"], "feedforward_modules": ["up_proj"]},
    ),
    "adapter": (
        ["--method", "mezo", "--adapter", "{name: lora, r: 4}"],
        {"name": "mezo", "adapter": {"name": "lora", "r": 4}},
    ),
    "num_virtual_tokens": (
        ["--method", "prompt_tuning", "--num-virtual-tokens", "8"],
        {"name": "prompt_tuning", "num_virtual_tokens": 8},
    ),
    "token_dim": (
        ["--method", "prompt_tuning", "--num-virtual-tokens", "8", "--token-dim", "896"],
        {"name": "prompt_tuning", "num_virtual_tokens": 8, "token_dim": 896},
    ),
    "num_transformer_submodules": (
        ["--method", "prompt_tuning", "--num-virtual-tokens", "8", "--num-transformer-submodules", "1"],
        {"name": "prompt_tuning", "num_virtual_tokens": 8, "num_transformer_submodules": 1},
    ),
    "num_attention_heads": (
        ["--method", "prompt_tuning", "--num-virtual-tokens", "8", "--num-attention-heads", "32"],
        {"name": "prompt_tuning", "num_virtual_tokens": 8, "num_attention_heads": 32},
    ),
    "num_layers": (
        ["--method", "prompt_tuning", "--num-virtual-tokens", "8", "--num-layers", "24"],
        {"name": "prompt_tuning", "num_virtual_tokens": 8, "num_layers": 24},
    ),
    "prompt_tuning_init": (
        ["--method", "prompt_tuning", "--num-virtual-tokens", "8", "--prompt-tuning-init", "SAMPLE_VOCAB"],
        {"name": "prompt_tuning", "num_virtual_tokens": 8, "prompt_tuning_init": "SAMPLE_VOCAB"},
    ),
    "prompt_tuning_init_text": (
        ["--method", "prompt_tuning", "--num-virtual-tokens", "8", "--prompt-tuning-init-text", "Sort:"],
        {"name": "prompt_tuning", "num_virtual_tokens": 8, "prompt_tuning_init_text": "Sort:"},
    ),
    "tokenizer_name_or_path": (
        ["--method", "prompt_tuning", "--num-virtual-tokens", "8", "--tokenizer-name-or-path", "gpt2"],
        {"name": "prompt_tuning", "num_virtual_tokens": 8, "tokenizer_name_or_path": "gpt2"},
    ),
    "tokenizer_kwargs": (
        [
            "--method",
            "prompt_tuning",
            "--num-virtual-tokens",
            "8",
            "--prompt-tuning-init",
            "TEXT",
            "--prompt-tuning-init-text",
            "Sort:",
            "--tokenizer-name-or-path",
            "gpt2",
            "--tokenizer-kwargs",
            "{use_fast: 1}",
        ],
        {
            "name": "prompt_tuning",
            "num_virtual_tokens": 8,
            "prompt_tuning_init": "TEXT",
            "prompt_tuning_init_text": "Sort:",
            "tokenizer_name_or_path": "gpt2",
            "tokenizer_kwargs": {"use_fast": 1},
        },
    ),
    "encoder_reparameterization_type": (
        ["--method", "p_tuning", "--num-virtual-tokens", "8", "--encoder-reparameterization-type", "MLP"],
        {"name": "p_tuning", "num_virtual_tokens": 8, "encoder_reparameterization_type": "MLP"},
    ),
    "encoder_hidden_size": (
        ["--method", "p_tuning", "--num-virtual-tokens", "8", "--encoder-hidden-size", "100"],
        {"name": "p_tuning", "num_virtual_tokens": 8, "encoder_hidden_size": 100},
    ),
    "encoder_num_layers": (
        ["--method", "p_tuning", "--num-virtual-tokens", "8", "--encoder-num-layers", "3"],
        {"name": "p_tuning", "num_virtual_tokens": 8, "encoder_num_layers": 3},
    ),
    "encoder_dropout": (
        ["--method", "p_tuning", "--num-virtual-tokens", "8", "--encoder-dropout", "0.1"],
        {"name": "p_tuning", "num_virtual_tokens": 8, "encoder_dropout": 0.1},
    ),
    "prefix_projection": (
        ["--method", "prefix_tuning", "--num-virtual-tokens", "8", "--prefix-projection"],
        {"name": "prefix_tuning", "num_virtual_tokens": 8, "prefix_projection": True},
    ),
    "init_weights": (
        ["--method", "prefix_tuning", "--num-virtual-tokens", "8", "--init-weights", "zero"],
        {"name": "prefix_tuning", "num_virtual_tokens": 8, "init_weights": "zero"},
    ),
    "adapter_len": (
        ["--method", "adaption_prompt", "--adapter-len", "9", "--adapter-layers", "4"],
        {"name": "adaption_prompt", "adapter_len": 9, "adapter_layers": 4},
    ),
    "adapter_layers": (
        ["--method", "adaption_prompt", "--adapter-layers", "5", "--adapter-len", "9"],
        {"name": "adaption_prompt", "adapter_len": 9, "adapter_layers": 5},
    ),
    "top_layers": (["--method", "freeze", "--top-layers", "2"], {"name": "freeze", "top_layers": 2}),
    "train_norm": (
        ["--method", "freeze", "--top-layers", "2", "--no-train-norm"],
        {"name": "freeze", "top_layers": 2, "train_norm": False},
    ),
    "train_head": (
        ["--method", "freeze", "--top-layers", "2", "--no-train-head"],
        {"name": "freeze", "top_layers": 2, "train_head": False},
    ),
}
NEEDED = ("num_virtual_tokens", "adapter_len", "adapter_layers", "top_layers")
"""Keys without a default."""
WITHOUT_EFFECT = (
    "lora_alpha",
    "use_rslora",
    "token_dim",
    "num_transformer_submodules",
    "num_attention_heads",
    "num_layers",
    "prompt_tuning_init",
    "prompt_tuning_init_text",
    "tokenizer_name_or_path",
    "tokenizer_kwargs",
    "encoder_reparameterization_type",
    "encoder_num_layers",
    "encoder_dropout",
    "init_weights",
)
"""Keys that do not change memory."""


def test_every_key_has_an_example_here() -> None:
    """Asks the contract: every key is an option. A new key needs a row in the tables above."""
    blocks = {"llama_cpp", "mlx", "executorch", "vllm", "sglang", "generate", "run", "sharding"}
    of_no_built_in_model = {"target_seq", "images", "image_size", "video_frames", "audio_frames", "audio_seconds"}
    elsewhere = {"model", "devices"} | of_no_built_in_model | blocks
    assert PLAN_OPTIONS.keys() | elsewhere == Plan.model_fields.keys()
    assert ENGINE_OPTIONS.keys() | {"mmproj"} == LlamaCppOptions.model_fields.keys()  # a file
    assert MLX_OPTIONS.keys() == MlxOptions.model_fields.keys()
    assert VLLM_OPTIONS.keys() | {*IN_BLOCK_ALONE} == VllmOptions.model_fields.keys()
    assert SGLANG_OPTIONS.keys() | {"release"} == SglangOptions.model_fields.keys()  # one release
    assert {key for kind in METHODS.values() for key in kind.model_fields} >= {*IN_BLOCK_ALONE}
    assert GENERATE_OPTIONS.keys() == GenerateOptions.model_fields.keys()
    assert RUN_OPTIONS.keys() == RunOptions.model_fields.keys()
    assert {key for kind in METHODS.values() for key in kind.model_fields} >= METHOD_OPTIONS.keys()


ENGINE_OPTIONS: dict[str, tuple[list[str], Any]] = {
    "n_ctx": (["--n-ctx", "2048"], 2048),
    "n_batch": (["--n-batch", "64"], 64),
    "n_ubatch": (["--n-ubatch", "128"], 128),
    "type_k": (["--type-k", "q8_0"], "q8_0"),
    "type_v": (["--type-v", "Q4_0"], "q4_0"),
    "flash_attn": (["--no-flash-attn"], False),
    "n_seq_max": (["--n-seq-max", "3"], 3),
    "kv_unified": (["--kv-unified", "--n-seq-max", "2"], True),
    "swa_full": (["--swa-full"], True),
    "use_mmap": (["--no-use-mmap"], False),
    "repack": (["--no-repack"], False),
    "n_outputs_max": (["--n-outputs-max", "1"], 1),
    "backend": (["--backend", "cpu-arm"], "cpu-arm"),
    "n_gpu_layers": (["--n-gpu-layers", "3"], 3),
    "tensor_split": (["--tensor-split", "3,1"], [3, 1]),
    "split_mode": (["--split-mode", "none"], "none"),
    "main_gpu": (["--main-gpu", "1", "--split-mode", "none"], 1),
    "cache_ram": (["--cache-ram", "0"], 0),
    "no_kv_offload": (["--no-kv-offload"], True),
    "n_cpu_moe": (["--n-cpu-moe", "3"], 3),
    "override_tensor": (["--override-tensor", "ffn_up=CPU"], "ffn_up=CPU"),
    "preset": (["--preset", "ollama"], "ollama"),
    "model_draft": (["--model-draft", "gemma-3-270m"], "gemma-3-270m"),
    "n_gpu_layers_draft": (["--n-gpu-layers-draft", "3", "--model-draft", "gemma-3-270m"], 3),
    "build": (["--build", "b11739"], "b11739"),
}
OF_DEVICES = (
    "n_gpu_layers",
    "tensor_split",
    "split_mode",
    "main_gpu",
    "cache_ram",
    "no_kv_offload",
    "n_cpu_moe",
    "override_tensor",
    "n_gpu_layers_draft",
)
"""Options that are about a plan's devices."""


@pytest.mark.share(3)
@pytest.mark.parametrize("key", ENGINE_OPTIONS)
def test_every_key_of_the_engine_is_an_option(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Asks the contract: the option gives what the key gives, and something else than leaving it out."""
    options, value = ENGINE_OPTIONS[key]
    model = "qwen3-30b-a3b" if key == "n_cpu_moe" else "gemma-3-270m"
    plan: dict[str, Any] = {"model": model, "runtime": "llama.cpp", "dtype": "q4_0"}
    block = {
        "kv_unified": {"n_seq_max": 2},
        "main_gpu": {"split_mode": "none"},
        "n_gpu_layers_draft": {"model_draft": "gemma-3-270m"},
    }.get(key, {})
    arguments = ["estimate", model, "--runtime", "llama.cpp", "--dtype", "Q4_0", "--json"]
    if key in OF_DEVICES:
        plan["devices"] = ["rtx-3090", "rtx-3060"]
        arguments += ["--devices", "rtx-3090,rtx-3060"]
    assert main([*arguments, *options]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == estimate(plan, llama_cpp={**block, key: value}).to_dict()
    assert printed != estimate(plan, llama_cpp=block).to_dict()


LONG = ["--task", "infer", "--seq", "600"]
MLX_OPTIONS: dict[str, tuple[list[str], Any]] = {
    "num_layers": (["--num-layers", "2"], 2),
    "max_tokens": ([*LONG, "--max-tokens", "200"], 200),
    "prefill_step_size": ([*LONG, "--prefill-step-size", "256"], 256),
    "max_kv_size": ([*LONG, "--max-kv-size", "100"], 100),
    "kv_bits": ([*LONG, "--kv-bits", "8"], 8),
    "kv_group_size": ([*LONG, "--kv-group-size", "32"], 32),
    "quantized_kv_start": ([*LONG, "--quantized-kv-start", "5"], 5),
    "server": ([*LONG, "--server", "mlx_lm.server"], "mlx_lm.server"),
    "q_group_size": (["--dtype", "mlx-4bit", "--q-group-size", "32"], 32),
    "default_device": (["--default-device", "cpu"], "cpu"),
    "iogpu_wired_limit_mb": (["--iogpu-wired-limit-mb", "9000"], 9000),
}


@pytest.mark.share(9)
@pytest.mark.parametrize("key", MLX_OPTIONS)
def test_every_key_of_mlx_is_an_option(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Asks the contract: the option gives what the key gives, and something else than leaving it out."""
    options, value = MLX_OPTIONS[key]
    plan: dict[str, Any] = {"model": "qwen3-0.6b", "runtime": "mlx", "seq": 600 if "--seq" in options else 8}
    plan |= {"task": "infer"} if "--task" in options else {"dtype": "mlx-4bit"} if "--dtype" in options else {}
    block = {"quantized_kv_start": 0} if key == "kv_bits" else {"kv_bits": 4} if key == "quantized_kv_start" else {}
    block = {"kv_bits": 4, "quantized_kv_start": 0} if key == "kv_group_size" else block
    plan |= {"device": "apple-16gb"} if key == "iogpu_wired_limit_mb" else {}
    beside = ["--device", "apple-16gb"] if key == "iogpu_wired_limit_mb" else []
    beside += [text for name, own in block.items() for text in (f"--{name.replace('_', '-')}", str(own))]
    assert main(["estimate", "qwen3-0.6b", "--runtime", "mlx", "--seq", "8", "--json", *options, *beside]) in (0, 1)
    printed = json.loads(capsys.readouterr().out)
    assert printed == estimate(plan, mlx={**block, key: value}).to_dict()
    assert printed != estimate(plan, mlx=block).to_dict()


VLLM_OPTIONS: dict[str, tuple[list[str], Any]] = {
    "release": (["--release", "0.11"], "0.11"),
    "kv_cache_dtype": (["--kv-cache-dtype", "fp8"], "fp8"),
    "max_model_len": (["--max-model-len", "1024"], 1024),
    "tensor_parallel_size": (["--tensor-parallel-size", "2"], 2),
    "pipeline_parallel_size": (["--pipeline-parallel-size", "2"], 2),
    "data_parallel_size": (["--data-parallel-size", "2"], 2),
    "decode_context_parallel_size": (["--decode-context-parallel-size", "2", "--tensor-parallel-size", "2"], 2),
    "enable_expert_parallel": (["--enable-expert-parallel", "--data-parallel-size", "8"], True),
    "gpu_memory_utilization": (["--gpu-memory-utilization", "0.5"], 0.5),
    "kv_cache_memory_bytes": (["--kv-cache-memory-bytes", "2GiB"], "2GiB"),
    "max_num_batched_tokens": (["--max-num-batched-tokens", "4096"], 4096),
    "max_num_seqs": (["--max-num-seqs", "64"], 64),
    "enforce_eager": (["--enforce-eager"], True),
    "enable_prefix_caching": (["--no-enable-prefix-caching"], False),
    "disable_hybrid_kv_cache_manager": (["--disable-hybrid-kv-cache-manager"], True),
    "async_scheduling": (["--no-async-scheduling"], False),
    "quantization": (["--quantization", "fp8"], "fp8"),
    "enable_lora": (["--enable-lora"], True),
    "max_loras": (["--max-loras", "4", "--enable-lora"], 4),
    "max_lora_rank": (["--max-lora-rank", "64", "--enable-lora"], 64),
    "num_speculative_tokens": (["--num-speculative-tokens", "2"], 2),
    "draft_model": (["--draft-model", "smollm-135m"], "smollm-135m"),
    "kv_offloading_size": (["--kv-offloading-size", "8"], 8.0),
    "swap_space": (["--swap-space", "2", "--release", "0.11"], 2.0),
    "cpu_offload_gb": (["--cpu-offload-gb", "0.5"], 0.5),
    "free": (["--free", "79GB"], "79GB"),
    "weights": (["--weights", "3GiB"], "3GiB"),
    "activation": (["--activation", "1GiB"], "1GiB"),
    "non_torch": (["--non-torch", "1GiB"], "1GiB"),
    "cudagraph": (["--cudagraph", "1GiB"], "1GiB"),
}
SAME_BYTES = ("free",)
"""An option that decides whether it starts, and no bytes."""


@pytest.mark.parametrize("key", VLLM_OPTIONS)
def test_every_key_of_the_server_is_an_option(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Asks the contract: the option gives what the key gives, and something else than leaving it out."""
    options, value = VLLM_OPTIONS[key]
    others = {"enable_expert_parallel": "qwen1.5-moe-a2.7b", "async_scheduling": "gemma-3-4b"}
    others |= dict.fromkeys(("enable_prefix_caching", "num_speculative_tokens"), "qwen3.5-27b")
    model, block = others.get(key, "gemma-3-1b"), {"enable_lora": True} if "max_lora" in key else {}
    block |= {"data_parallel_size": 8} if key == "enable_expert_parallel" else {}
    block |= {"release": "0.11"} if key == "swap_space" else {}
    block |= {"tensor_parallel_size": 2} if key == "decode_context_parallel_size" else {}
    plan: dict[str, Any] = {"model": model, "task": "serve", "device": "h100-80gb", "seq": 30000, "batch": 4}
    arguments = [
        "estimate",
        model,
        "--task",
        "serve",
        "--device",
        "h100-80gb",
        "--seq",
        "30000",
        "--batch",
        "4",
        "--json",
    ]
    assert main([*arguments, *options]) in (0, 1, 2)
    printed = json.loads(capsys.readouterr().out)
    assert printed == estimate(plan, vllm={**block, key: value}).to_dict()
    assert (printed != estimate(plan, vllm=block).to_dict()) == (key not in SAME_BYTES)


SGLANG_OPTIONS: dict[str, tuple[list[str], Any]] = {
    "kv_cache_dtype": (["--kv-cache-dtype", "fp8_e5m2"], "fp8_e5m2"),
    "page_size": (["--page-size", "64"], 64),
    "context_length": (["--context-length", "1024"], 1024),
    "tp_size": (["--tp-size", "2"], 2),
    "pp_size": (["--pp-size", "2"], 2),
    "dp_size": (["--dp-size", "2", "--enable-dp-attention"], 2),
    "ep_size": (["--ep-size", "8"], 8),
    "enable_dp_attention": (["--enable-dp-attention", "--dp-size", "2"], True),
    "enable_dp_lm_head": (["--enable-dp-lm-head", "--dp-size", "2", "--enable-dp-attention"], True),
    "mem_fraction_static": (["--mem-fraction-static", "0.5"], 0.5),
    "max_total_tokens": (["--max-total-tokens", "100000"], 100000),
    "max_running_requests": (["--max-running-requests", "64", "--disable-radix-cache"], 64),
    "chunked_prefill_size": (["--chunked-prefill-size", "32768"], 32768),
    "max_prefill_tokens": (["--max-prefill-tokens", "20000", "--chunked-prefill-size", "-1"], 20000),
    "cuda_graph_max_bs_decode": (["--cuda-graph-max-bs-decode", "2000"], 2000),
    "disable_decode_cuda_graph": (["--disable-decode-cuda-graph"], True),
    "disable_prefill_cuda_graph": (["--disable-prefill-cuda-graph"], True),
    "disable_radix_cache": (["--disable-radix-cache", "--max-running-requests", "64"], True),
    "disable_overlap_schedule": (["--disable-overlap-schedule", "--max-running-requests", "64"], True),
    "swa_full_tokens_ratio": (["--swa-full-tokens-ratio", "0.5"], 0.5),
    "disable_hybrid_swa_memory": (["--disable-hybrid-swa-memory"], True),
    "max_mamba_cache_size": (["--max-mamba-cache-size", "50"], 50),
    "mamba_full_memory_ratio": (["--mamba-full-memory-ratio", "0.5"], 0.5),
    "mamba_ssm_dtype": (["--mamba-ssm-dtype", "bfloat16"], "bfloat16"),
    "quantization": (["--quantization", "fp8"], "fp8"),
    "enable_lora": (["--enable-lora"], True),
    "max_loras_per_batch": (["--max-loras-per-batch", "4", "--enable-lora"], 4),
    "max_lora_rank": (["--max-lora-rank", "64", "--enable-lora"], 64),
    "speculative_algorithm": (["--speculative-algorithm", "NGRAM"], "NGRAM"),
    "speculative_draft_model_path": (["--speculative-draft-model-path", "smollm-135m"], "smollm-135m"),
    "speculative_num_draft_tokens": (
        ["--speculative-num-draft-tokens", "6", "--speculative-algorithm", "NGRAM"],
        6,
    ),
    "cpu_offload_gb": (["--cpu-offload-gb", "0.5"], 0.5),
    "free": (["--free", "70GiB"], "70GiB"),
    "weights": (["--weights", "3GiB"], "3GiB"),
    "non_torch": (["--non-torch", "1GiB"], "1GiB"),
}
BESIDE: dict[str, dict[str, Any]] = {
    "dp_size": {"enable_dp_attention": True, "tp_size": 2},
    "enable_dp_attention": {"dp_size": 2, "tp_size": 2},
    "enable_dp_lm_head": {"dp_size": 2, "tp_size": 2, "enable_dp_attention": True},
    "ep_size": {"tp_size": 8},
    "max_running_requests": {"disable_radix_cache": True},
    "max_prefill_tokens": {"chunked_prefill_size": -1},
    "disable_radix_cache": {"max_running_requests": 64},
    "disable_overlap_schedule": {"max_running_requests": 64, "disable_radix_cache": True},
    "max_loras_per_batch": {"enable_lora": True},
    "max_lora_rank": {"enable_lora": True},
    "speculative_num_draft_tokens": {"speculative_algorithm": "NGRAM"},
}
"""What each option stands beside, in the block and on the command line."""
OTHERS = {
    "ep_size": "qwen1.5-moe-a2.7b",
    "enable_dp_lm_head": "qwen3-30b-a3b",
    **dict.fromkeys(
        ("max_mamba_cache_size", "mamba_full_memory_ratio", "mamba_ssm_dtype", "speculative_algorithm"), "qwen3.5-27b"
    ),
    "speculative_num_draft_tokens": "qwen3.5-27b",
    **dict.fromkeys(("swa_full_tokens_ratio", "disable_hybrid_swa_memory", "disable_overlap_schedule"), "gpt-oss-20b"),
}


@pytest.mark.parametrize("key", SGLANG_OPTIONS)
def test_every_key_of_the_other_server_is_an_option(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Asks the contract: the option gives what the key gives, and something else than leaving it out."""
    options, value = SGLANG_OPTIONS[key]
    block = BESIDE.get(key, {})
    model = OTHERS.get(key, "gpt-oss-20b" if "running" in key or "radix" in key else "llama-3.2-1b")
    plan: dict[str, Any] = {"model": model, "runtime": "sglang", "device": "h100-80gb", "seq": 30000, "batch": 4}
    arguments = ["estimate", model, "--runtime", "sglang", "--device", "h100-80gb", "--seq", "30000", "--batch", "4"]
    for name, own in block.items():
        spelt = f"--{name.replace('_', '-')}"
        arguments += [] if spelt in options else [spelt] if own is True else [spelt, str(own)]
    assert main([*arguments, "--json", *options]) in (0, 1, 2)
    printed = json.loads(capsys.readouterr().out)
    assert printed == estimate(plan, sglang={**block, key: value}).to_dict()
    without = {**plan, "sglang": block}
    assert printed != estimate(without).to_dict()


GENERATE_OPTIONS: dict[str, tuple[list[str], Any]] = {
    "max_new_tokens": (["--max-new-tokens", "700"], 700),
    "num_beams": (["--num-beams", "3"], 3),
    "cache_implementation": (["--cache-implementation", "quantized"], "quantized"),
    "disable_compile": (["--disable-compile"], True),
}


@pytest.mark.parametrize("key", GENERATE_OPTIONS)
def test_every_key_of_generate_is_an_option(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Asks the contract: the option gives what the key gives, and something else than one pass."""
    options, value = GENERATE_OPTIONS[key]
    plan: dict[str, Any] = {"model": "llama-3.2-1b", "seq": 100}
    assert main(["estimate", "llama-3.2-1b", "--seq", "100", "--json", *options]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == estimate(plan, generate={key: value}).to_dict()
    if key != "disable_compile":  # which decides what a GPU answers for static caches
        assert printed != estimate(plan, generate={}).to_dict()


SHARDED = ["--sharding", "fsdp2", "--world-size", "4"]
PRECOMPUTED = ["--trainer", "trl-dpo", "--precompute-ref-log-probs"]
RUN_OPTIONS: dict[str, tuple[list[str], Any]] = {
    "moment": (["--moment", "merging"], "merging"),
    "checkpoint_dtype": (["--checkpoint-dtype", "fp32"], "float32"),
    "device_map": (["--device-map", "auto"], "auto"),
    "disable_mmap": (["--disable-mmap"], True),
    "max_shard_size": (["--max-shard-size", "1GB"], "1GB"),
    "eval_samples": (["--eval-samples", "90"], 90),
    "per_device_eval_batch_size": (["--per-device-eval-batch-size", "3"], 3),
    "compute_metrics": (["--no-compute-metrics"], False),
    "prediction_loss_only": (["--prediction-loss-only"], True),
    "preprocess_logits_for_metrics": (["--preprocess-logits-for-metrics", "argmax"], "argmax"),
    "eval_accumulation_steps": (["--eval-accumulation-steps", "2"], 2),
    "batch_eval_metrics": (["--batch-eval-metrics"], True),
    "eval_do_concat_batches": (["--no-eval-do-concat-batches"], False),
    "save_total_limit": (["--save-total-limit", "3"], 3),
    "save_only_model": (["--save-only-model"], True),
    "merge_and_unload": (["--no-merge-and-unload"], False),
    "safe_merge": (["--safe-merge"], True),
    "dataloader_num_workers": (["--dataloader-num-workers", "2"], 2),
    "dataloader_prefetch_factor": (["--dataloader-prefetch-factor", "5"], 5),
    "dataloader_pin_memory": (["--no-dataloader-pin-memory"], False),
    "processes_per_host": ([*SHARDED, "--processes-per-host", "2"], 2),
    "cpu_ram_efficient_loading": ([*SHARDED, "--cpu-ram-efficient-loading"], True),
    "precompute_ref_batch_size": ([*PRECOMPUTED, "--precompute-ref-batch-size", "6"], 6),
}


@pytest.mark.share(10)
@pytest.mark.parametrize("key", RUN_OPTIONS)
def test_every_key_of_the_run_is_an_option(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Asks the contract: the option gives what the key gives, and something else than a run without it."""
    options, value = RUN_OPTIONS[key]
    block = {"checkpoint_dtype": "float16", "eval_samples": 40, "compute_metrics": True, "merge_and_unload": True}
    block["dataloader_num_workers"] = 1
    if key == "max_shard_size":
        block = {"disable_mmap": True}
    plan: dict[str, Any] = {"model": "llama-3.2-1b", "seq": 100, "runtime": "torch-cuda", "method": "lora"}
    if options[: len(SHARDED)] == SHARDED:
        plan["sharding"] = {"name": "fsdp2", "world_size": 4}
        del block["eval_samples"], block["compute_metrics"]
    if options[: len(PRECOMPUTED)] == PRECOMPUTED:
        plan |= {"trainer": "trl-dpo", "precompute_ref_log_probs": True}
        block = {"save_only_model": True}
    given = [f"--{name.replace('_', '-')}" for name in block if name != key]
    arguments = [x for name in given for x in (name, str(block[name[2:].replace("-", "_")])) if x != "True"]
    arguments = ["llama-3.2-1b", "--seq", "100", "--runtime", "torch-cuda", "--method", "lora", "--json", *arguments]
    arguments = ["estimate", *arguments]
    assert main([*arguments, *options]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == estimate(plan, run={**block, key: value}).to_dict()
    assert printed != estimate(plan, run=block).to_dict()


@pytest.mark.parametrize("name", METHODS)
def test_every_key_of_every_method_is_an_option(name: str) -> None:
    """Asks the contract: each key has an option, whether or not the method is named on the command line."""
    for arguments in ([EVERY_OPTION, "--method", name], [EVERY_OPTION, "--method", ""]):
        parser = argparse.ArgumentParser()
        add_plan_options(parser, arguments)
        options = {action.dest for action in parser._actions}
        assert METHODS[name].model_fields.keys() - {"name"} <= options


@pytest.mark.share(12)
@pytest.mark.parametrize("key", PLAN_OPTIONS)
def test_every_plan_key_is_an_option(key: str) -> None:
    """Asks the contract: the option gives what the key gives, and something else than leaving it out."""
    options, value = PLAN_OPTIONS[key]
    dpo, grpo = {"trainer": "trl-dpo", "seq": 40}, {"trainer": "trl-grpo", "batch": 8, "seq": 40}
    gkd = {"trainer": "trl-gkd", "seq": 40, "teacher": "smollm-135m"}
    texts = {"trainer": "sentence-transformers", "batch": 3, "seq": 40}
    colocated = {**grpo, "use_vllm": True, "device": "rtx-4090"}
    # With sdpa the cache of this plan is what backward keeps anyway, so eager shows that the option arrives.
    needed: dict[str, dict[str, Any]] = {
        "use_cache": {"attention": "eager"},
        "drop_output_before_step": {"optimizer": "adamw-foreach", "seq": 1},
        "optimizer_rank": {"optimizer": "galore-adamw"},
        "embedding_optim_bits": {"optimizer": "adamw-8bit"},
        "activation_group_size": {"saved_activations": "int8"},
        "weight_group_size": {"dtype": "awq", "method": "lora"},
        "loss_chunk": {"loss": "chunked"},
        "num_output_chunks": {"loss": "ce-chunked-output"},
        "convert_outputs_to_fp32": {"autocast": "bfloat16"},
        "return_seq_idx": {"packing": True},
        "label_share": {"data_collator": True, "loss": "chunked-nll"},
        "neftune_noise_alpha": {"checkpointing": "layer", "method": "lora"},
        "use_reentrant": {"checkpointing": "layer", "seq": 16},
        "litgpt": {"implementation": "litgpt", "method": "lora"},
        "empty_cache": {"lengths": {"histogram": {64: 9, 700: 1}}},
        "ios_increased_memory_limit": {"device": "iphone-15", "runtime": "torch-cpu"},
        "torch": {"seq": 1000},
        "host_memory": {"saved_activations": "on-host"},
        "kernels": {"method": "lora"},
        "experts_implementation": {"seq": 100},
        "routing": {"experts_implementation": "eager", "seq": 100},
        "trl": {"trainer": "trl-sft", "seq": 40},
        **dict.fromkeys(("prompt_seq", "beta", "num_generations", "num_iterations", "reward_model"), grpo),
        "steps_per_generation": {**grpo, "gradient_accumulation_steps": 2},
        **dict.fromkeys(("teacher", "lmbda"), gkd),
        "seq_kd": {**gkd, "lmbda": 0.0},
        **dict.fromkeys(OF_TEXTS, texts),
        "use_vllm": {**grpo, "device": "rtx-4090"},
        **dict.fromkeys(("vllm_mode", *VLLM_KEYS), colocated),
        "vllm_tensor_parallel_size": {**colocated, "sharding": {"name": "ddp", "world_size": 3}},
        **dict.fromkeys(("precompute_ref_log_probs", "loss_type"), dpo),
        "reference": {**grpo, "beta": 0.2, "method": "lora"},
    }
    mixture = "mixtral-8x7b"
    models = {"implementation": "llama-3.2-1b", "litgpt": "gemma-2-2b", "weight_group_size": "llama-3.2-1b"}
    models |= dict.fromkeys(OF_TEXTS, "all-minilm-l6-v2")
    model = {**models, "experts_implementation": mixture, "routing": mixture}.get(key, MODEL)
    rest: dict[str, Any] = {"model": model, **needed.get(key, {})}
    if options[-len(NF4) :] == NF4:
        rest |= {"dtype": "nf4", "method": "lora", "seq": 1}
    if options[-len(CUDA) :] == CUDA and key != "runtime":
        rest |= {"runtime": "torch-cuda"}
    result = answer(model, *options)
    assert result == estimate(rest, **{key: value}).to_dict()
    # The first two are small beside the optimizer's own temporaries, the last acts on shards alone.
    if key not in ("gradient_clipping", "routing", "quant_storage"):
        assert result != estimate(rest).to_dict()


@pytest.mark.share(2)
@pytest.mark.parametrize("key", METHOD_OPTIONS)
def test_every_method_key_is_an_option(key: str) -> None:
    """Asks the contract: PEFT's own names are options, hyphens for underscores."""
    options, block = METHOD_OPTIONS[key]
    method = {"name": "lora", **block}
    model = MODEL if method["name"] == "adaption_prompt" else "qwen2.5-0.5b"  # has biases
    result = answer(model, *options)
    assert result == estimate(model=model, method=method).to_dict()
    if key in NEEDED:
        assert result != estimate(model=model, method={**method, key: 1}).to_dict()
    elif key not in WITHOUT_EFFECT:
        rest = {name: value for name, value in method.items() if name == "name" or name in NEEDED}
        assert result != estimate(model=model, method=rest).to_dict()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("all-linear", "all-linear"),
        (".*[qv]_proj", ".*[qv]_proj"),
        ("model.layers.0.self_attn.q_proj", ["model.layers.0.self_attn.q_proj"]),
        (" q_proj , v_proj,", ["q_proj", "v_proj"]),
    ],
)
def test_target_modules_as_text(text: str, names: Any) -> None:
    """Asks the contract: PEFT's forms of target_modules, a list, a regular expression and all-linear."""
    expected = estimate(model=MODEL, method={"name": "lora", "target_modules": names}).to_dict()
    assert answer(MODEL, "--method", "lora", "--target-modules", text) == expected


def test_lengths_of_both_texts_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Of a model with an encoder the source's and the target's, of others one."""
    assert main(["estimate", "t5-small", "--seq", "64", "--target-seq", "9"]) == 0
    assert "seq 64, target_seq 9, " in " ".join(capsys.readouterr().out.split())
    assert main(["estimate", "smollm2-135m", "--seq", "64"]) == 0
    assert "target_seq" not in capsys.readouterr().out
