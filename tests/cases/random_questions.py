"""Questions at random about what the random plans leave out: other runtimes, several cards, trainers, images and audio,
the moments of a run, calls of ``generate`` on a GPU, litgpt, servers, and searches. Some of them are refused.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from estimator.steps.trainers import TRAINERS

TEXT = (
    "smollm2-135m", "qwen3-0.6b", "qwen2.5-0.5b", "llama-3.2-1b", "gemma-3-1b", "pythia-70m", "gpt2", "lfm2-700m",
    "ernie-4.5-0.3b", "bloom-560m", "opt-125m", "gemma-2-2b",
)  # fmt: skip
SEARCHED = (*TEXT[:5], "smollm2-360m")
"""Models whose layouts over several cards are all known without PyTorch."""
SERVED = (
    *TEXT, "mistral-7b-v0.1", "mixtral-8x7b", "deepseek-v2-lite", "gpt-oss-20b", "qwen3-30b-a3b", "gemma-3-27b",
    "granite-4.0-micro", "phi-4-mini", "nemotron-nano-9b-v2", "falcon-7b", "llama-3.1-70b", "qwen3.5-27b",
)  # fmt: skip
ON_MACS = ("smollm2-135m", "qwen3-0.6b", "qwen2.5-0.5b", "llama-3.2-1b", "gemma-3-1b", "gemma-2-2b", "mixtral-8x7b")
APPLE = ("apple-8gb", "apple-m2-16gb", "apple-m4-pro-48gb", "apple-m3-ultra-256gb")
CARDS = ("rtx-4090", "t4", "a100-80gb", "h100-80gb", "l40s", "h200")
LORA = {"name": "lora", "r": 4, "target_modules": "all-linear"}
Choices = dict[str, tuple[Any, ...]]
ALWAYS: Choices = {
    "batch": (1, 2, 3), "seq": (16, 65, 300, 1024), "dtype": ("bfloat16", "float32"), "method": ("full", LORA, LORA),
    "device": (None, None, *CARDS),
}  # fmt: skip
OFTEN: Choices = {
    "checkpointing": ("layer", "every-2"), "optimizer": ("sgd", "adamw-8bit", "adafactor"),
    "gradient_clipping": (True,),
    "gradient_accumulation_steps": (2, 4), "autocast": ("bfloat16",), "attention": ("eager",),
    "loss": ("chunked", "liger"), "attention_mask": (True,),
}  # fmt: skip
_DDP: Choices = {
    "gradient_as_bucket_view": (True,), "static_graph": (True,), "bucket_cap_mb": (1, 100), "sync_each_batch": (True,),
    "find_unused_parameters": (True,),
}  # fmt: skip
_FSDP: Choices = {
    "reshard_after_forward": (True, False), "param_dtype": ("bfloat16", "float16"), "reduce_dtype": ("float32",),
    "sync_each_batch": (True,), "cpu_offload": (True,), "replicate": (2,), "tp": (2,),
}  # fmt: skip
_ZERO: Choices = {
    "reduce_bucket_size": (10**6, 10**9), "overlap_comm": (True, False), "contiguous_gradients": (False,),
    "offload_optimizer": ("cpu",),
}  # fmt: skip
LAYOUTS: dict[str, Choices] = {
    "ddp": _DDP, "fsdp2": _FSDP, "fsdp1": _FSDP, "zero1": {**_ZERO, "allgather_bucket_size": (10**6,)},
    "zero2": {**_ZERO, "allgather_bucket_size": (10**6,)},
    "zero3": {
        **_ZERO, "offload_param": ("cpu",), "stage3_prefetch_bucket_size": (10**5,),
        "stage3_param_persistence_threshold": (1, 10**7),
    },
}  # fmt: skip
_SCORED: Choices = {"num_generations": (2, 4), "num_iterations": (2,), "beta": (0.2,), "steps_per_generation": (2,)}
TRAINED: dict[str, Choices] = {
    "trl-dpo": {
        "loss_type": ("ipo", "hinge", "apo_zero", "sigmoid_norm", "sigmoid+sft"), "precompute_ref_log_probs": (True,),
        "reference": ("copy", "smollm2-135m"), "prompt_seq": (9,),
    },
    "trl-kto": {"loss_type": ("apo_zero_unpaired",), "precompute_ref_log_probs": (True,), "prompt_seq": (9,)},
    "trl-cpo": {"loss_type": ("simpo", "hinge"), "prompt_seq": (9,)},
    "trl-grpo": {**_SCORED, "loss_type": ("dr_grpo", "grpo"), "reward_model": ("smollm2-135m",)},
    "trl-rloo": _SCORED,
    "trl-gkd": {"teacher": ("qwen3-0.6b",), "lmbda": (1.0, 0.0), "seq_kd": (True,), "beta": (0, 0.3, 1)},
    "trl-distillation": {"teacher": ("qwen3-0.6b",), "beta": (0, 0.3, 1)},
    "sentence-transformers": {"anchor_seq": (12,), "negatives": (1,), "normalize": (True,), "pooling_mode": ("cls",)},
}  # fmt: skip
SEEING: Choices = {
    "model": ("llava-1.5-7b", "gemma-3-4b", "smolvlm-256m", "internvl3-1b", "paligemma-3b", "smolvlm2-500m"),
    "images": (1, 1, 2), "seq": (1500, 2600),
}  # fmt: skip
LOOKING: Choices = {
    "freeze": (("vision",), ("vision", "projector"), ("language",)),
    "image_size": ("480x640", "300x900"),
}
ENCODERS: Choices = {
    "model": (
        "vit-base", "dinov2-small", "whisper-tiny", "wav2vec2-base-960h", "hubert-base", "t5-small", "bart-base",
        "pegasus-large", "bert-base", "roberta-base", "modernbert-base", "deberta-v3-xsmall",
        "electra-small-discriminator",
        "distilbert-base", "all-minilm-l6-v2", "bge-m3", "mt5-small", "nllb-200-distilled-600m",
    ),
    "seq": (16, 65, 300),
}  # fmt: skip
MEDIA_ALONE = ("vit", "dino", "whisper", "wav2vec2", "hubert")
"""How the names of models begin that take no text."""
HEARING: Choices = {
    "head": ("masked-lm", "token-classification", "question-answering", "sequence-classification"),
    "audio_seconds": (4, 21), "target_seq": (9, 60), "freeze": (("encoder",), ("base_model",), ("embeddings",)),
}  # fmt: skip
RUN: Choices = {
    "moment": ("loading", "saving"), "checkpoint_dtype": ("float32", "float16"), "disable_mmap": (True,),
    "max_shard_size": ("1GB",), "device_map": ("auto",), "eval_samples": (40,), "compute_metrics": (True,),
    "per_device_eval_batch_size": (4,), "prediction_loss_only": (True,), "eval_accumulation_steps": (3,),
    "save_total_limit": (2,), "save_only_model": (True,), "merge_and_unload": (True,), "safe_merge": (True,),
    "dataloader_num_workers": (3,), "dataloader_prefetch_factor": (4,), "dataloader_pin_memory": (True,),
    "batch_eval_metrics": (True,), "eval_do_concat_batches": (False,), "preprocess_logits_for_metrics": ("argmax",),
}  # fmt: skip
CALLED: Choices = {
    "max_new_tokens": (1, 2, 7, 40), "num_beams": (1, 1, 2, 3), "disable_compile": (True,),
    "cache_implementation": ("dynamic", "static", "quantized", "offloaded", "offloaded_static"),
}  # fmt: skip
OF_CALLS: Choices = {
    "batch": (1, 2, 3), "seq": (1, 5, 30, 300), "dtype": ("bfloat16", "float32"), "device": CARDS,
    "attention": ("sdpa", "eager"), "method": ("full", "full", LORA),
}  # fmt: skip
LITGPT: Choices = {
    "model": ("tiny-llama-1.1b", "Llama-3.2-1B", "Gemma-2b", "Gemma-2-2b", "phi-1_5", "stablelm-base-alpha-3b"),
    "method": (
        "full", {"name": "lora", "r": 8}, {"name": "lora", "r": 4, "target_modules": ["query", "key", "value", "proj"]},
        {"name": "lora", "r": 3, "target_modules": ["query", "mlp", "head"], "lora_dropout": 0.05},
    ),
    "litgpt": (None, None, "0.4.12"), "seq": (2, 65, 300, 700), "batch": (1, 2, 3),
    "dtype": ("bfloat16", "float32", "nf4"), "gradient_accumulation_steps": (None, 2),
    "device": (None, "a100-80gb", "rtx-4090"),
}  # fmt: skip
MLX: Choices = {
    "max_tokens": (50, 3000), "prefill_step_size": (512,), "max_kv_size": (1024,), "kv_bits": (4, 8),
    "kv_group_size": (32,), "quantized_kv_start": (0,), "q_group_size": (32, 128), "num_layers": (2, 8, -1),
    "iogpu_wired_limit_mb": (6000,),
}  # fmt: skip
MLX_TRAINING: Choices = {
    "batch": (1, 4), "method": ("full", "lora", "lora"), "optimizer": ("adamw", "sgd"),
    "checkpointing": (None, "layer"),
}  # fmt: skip
EXPORTED = ("smollm2-135m", "qwen3-0.6b", "qwen2.5-0.5b", "llama-3.2-1b", "llama-3.2-3b")
EXECUTORCH: Choices = {
    "delegate": ("xnnpack", "none"), "max_context_length": (256, 2048), "max_seq_length": (128, 256),
    "use_kv_cache": (True, False), "use_sdpa_with_kv_cache": (True, False), "quantize_kv_cache": (True,),
    "enable_dynamic_shape": (True, False), "generate_full_logits": (True,), "use_hf_rope": (True,),
    "quantization_group_size": (32, 64), "embedding_quantize": ("4,32", "8,0"),
}  # fmt: skip
VLLM: Choices = {
    "release": ("0.11", "0.33"), "kv-cache-dtype": ("fp8", "auto"), "max-model-len": (2048, 32768, "auto"),
    "tensor-parallel-size": (1, 2, 4, 8), "pipeline-parallel-size": (2,), "gpu-memory-utilization": (0.5, 0.8, 0.95),
    "max-num-batched-tokens": (2048, 16384), "max-num-seqs": (8, 256), "enforce-eager": ("",), "block-size": (32, 64),
    "quantization": ("fp8", "awq"), "enable-lora": ("",), "max-lora-rank": (64,), "cpu-offload-gb": (2,),
    "data-parallel-size": (2,),
    "enable-expert-parallel": ("",), "no-enable-prefix-caching": ("",), "decode-context-parallel-size": (2,),
    "kv-offloading-size": (4,), "num-speculative-tokens": (3,), "seqs": ("1000,4000",),
}  # fmt: skip
SGLANG: Choices = {
    "page-size": (16, 64), "context-length": (4096,), "tp-size": (1, 2, 4), "mem-fraction-static": (0.7, 0.9),
    "max-total-tokens": (20000,), "max-running-requests": (16, 300), "chunked-prefill-size": (2048, 8192),
    "kv-cache-dtype": ("fp8_e5m2", "auto"), "disable-radix-cache": ("",), "dp-size": (2,), "enable-dp-attention": ("",),
    "swa-full-tokens-ratio": (0.5,), "max-mamba-cache-size": (100,), "mamba-full-memory-ratio": (0.5,), "pp-size": (2,),
    "disable-decode-cuda-graph": ("",), "cuda-graph-max-bs-decode": (32,), "quantization": ("fp8",), "ep-size": (2,),
    "cpu-offload-gb": (2,), "seqs": ("1000,4000",), "enable-lora": ("",), "max-loras-per-batch": (4,),
}  # fmt: skip
SEARCHES: Choices = {
    "max-seq": ("--device=rtx-4090", "--budget=6GiB", "--device=t4 --checkpointing=layer",
    "--budget=9GiB --method=lora"),
    "max-batch": ("--device=rtx-4090 --seq=300", "--budget=5GiB --seq=200", "--budget=7GiB --seq=128 --method=lora"),
    "max-rank": ("--budget=4GiB --method=lora --seq=256", "--device=t4 --method=lora --seq=512"),
    "smallest-device": ("--method=lora --seq=512", "--seq=256 --optimizer=sgd"),
    "smallest-cluster": ("--devices=t4,l4 --seq=512", "--devices=h100-80gb --seq=2048"),
    "advise": ("--budget=3GiB --seq=1024", "--device=t4 --seq=2048", "--budget=2GiB --seq=700 --method=lora"),
    "max-context": ("--device=iphone-15", "--device=raspberry-pi-5-8gb", "--budget=4GiB", "--device=rtx-4060"),
    "largest-quant": ("--device=iphone-15 --n-ctx=4096", "--device=rtx-4060 --n-ctx=16384"),
    "max-gpu-layers": ("--device=rtx-4060 --n-ctx=4096", "--devices=t4,t4 --n-ctx=8192"),
    "explain": ("--seq=100", "--method=lora --seq=64 --checkpointing=layer"),
    "compare": ("--devices=t4,rtx-4090 --seqs=128,512 --methods=full,lora", "--budget=8GiB --seqs=64,256"),
}  # fmt: skip


def drawn(chance: random.Random, choices: Choices, most: int | None = None) -> dict[str, Any]:
    """A value of each key, or of at most so many keys; keys without a value are left out."""
    chosen = list(choices) if most is None else chance.sample(list(choices), chance.randint(0, min(most, len(choices))))
    values = {key: chance.choice(choices[key]) for key in chosen}
    return {key: value for key, value in values.items() if value is not None}


def random_plan(group: str, seed: int) -> dict[str, Any]:
    """A plan of a group."""
    chance = random.Random(f"{group} {seed}")
    plan = {**drawn(chance, ALWAYS), "model": chance.choice(TEXT), **drawn(chance, OFTEN, 2)}
    if group == "several_gpus":
        name = chance.choice(list(LAYOUTS))
        plan["sharding"] = {"name": name, "world_size": chance.choice([2, 4, 8]), **drawn(chance, LAYOUTS[name], 2)}
    elif group == "trainers":
        plan["trainer"] = name = chance.choice(list(TRAINERS))
        plan |= {"seq": chance.choice([24, 65, 200]), **drawn(chance, TRAINED.get(name, {}), 2)}
        if TRAINERS[name].has_teacher:
            plan |= {"model": "qwen3-0.6b", "teacher": "qwen3-1.7b"}
        if TRAINERS[name].embeds:
            plan["model"] = chance.choice(["all-minilm-l6-v2", "bge-small-en-v1.5", "bert-base", "modernbert-base"])
    elif group == "media":
        sees = chance.random() < 0.5
        plan |= {**drawn(chance, SEEING if sees else ENCODERS), **drawn(chance, LOOKING if sees else HEARING, 1)}
        if plan["model"].startswith(MEDIA_ALONE):
            del plan["seq"]
    elif group == "runs":
        plan["run"] = {"eval_samples": 20, **drawn(chance, RUN, 4)}
    elif group == "calls":
        plan = {"model": chance.choice(TEXT), **drawn(chance, OF_CALLS), "generate": drawn(chance, CALLED)}
    elif group == "litgpt":
        plan = {"implementation": "litgpt", **drawn(chance, LITGPT)}
    elif chance.random() < 0.6:
        plan = {"runtime": "mlx", "model": chance.choice(ON_MACS), **drawn(chance, {"device": APPLE})}
        plan |= drawn(chance, {"seq": (64, 700, 3000), "dtype": ("bfloat16", "float16", "mlx-4bit", "mlx-8bit")})
        if chance.random() < 0.5:
            plan |= {"task": "infer", "mlx": drawn(chance, MLX, 3)}
        else:
            plan |= {"mlx": drawn(chance, {"num_layers": MLX["num_layers"]}), **drawn(chance, MLX_TRAINING)}
    else:
        plan = {"runtime": "executorch", "model": chance.choice(EXPORTED), "executorch": drawn(chance, EXECUTORCH, 3)}
        plan |= drawn(chance, {"device": ("galaxy-s24", "iphone-15", "pixel-8"), "dtype": ("float32", "8da4w")})
    return plan


def commands(group: str) -> Iterator[list[str]]:
    """Command lines of a group."""
    chance = random.Random(group)
    if group == "searches":
        for command, options in SEARCHES.items():
            for model in SEARCHED:
                yield [command, model, *chance.choice(options).split()]
        return
    for server, choices in [("vllm", VLLM), ("sglang", SGLANG)] * 130:
        device = chance.choice([f"--device={chance.choice(CARDS[2:])}", "--device=a100-80gb"])
        words = [f"--{key}={value}" if value else f"--{key}" for key, value in drawn(chance, choices, 4).items()]
        yield ["serving", chance.choice(SERVED), f"--runtime={server}", device, *words]
