"""What ``--help`` shows: the commands, a topic for each key of a plan, and the options that most questions need."""

from __future__ import annotations

from collections.abc import Mapping

from ..engines.registry import KEYS as ENGINES
from ..engines.registry import RUNTIMES

EVERY_OPTION = "--help-all"
"""A word of a command line. Where it stands every option is added, else those that the command line names: argparse
takes 0.1 ms for each."""
COMMANDS = {
    "estimate": "bytes a training step or a forward pass needs, where the peak is, and whether it fits",
    "check": "the same for a training file: TrainingArguments, TRL, Axolotl, LLaMA-Factory, torchtune, a shell line",
    "compare": "methods against sequence lengths, as a table and a figure",
    "advise": "the cheapest changes after which a step fits, and the front of peak against compute",
    "timeline": "what a GPU's memory holds over two steps, allocation by allocation, as a figure",
    "compare-snapshot": "a recorded memory snapshot beside the prediction, and the first allocation that differs",
    "max-gpu-layers": "the most layers that GPUs have room for in llama.cpp, and the best split",
    "largest-quant": "the recipe of llama-quantize with the most bits that fits",
    "max-context": "the longest context that a device's memory allows llama.cpp; which models run at one",
    "serving": "how many requests of a length GPUs hold at once, with vLLM or SGLang",
    "max-seq": "the longest sequence that fits, and what binds",
    "max-batch": "the largest micro-batch that fits, and what binds",
    "max-rank": "the highest rank of an adapter that fits, and what binds",
    "max-target-seq": "the most tokens of a decoder beside an encoder that fit, and what binds",
    "max-images": "the most images of a row that fit, and what binds",
    "max-image-size": "the largest square image that fits, and what binds",
    "smallest-device": "the smallest device that a step fits",
    "smallest-cluster": "how many of which card a step fits on, and in which layout",
    "explain": "what a step saves for backward, row by row, and why; two methods side by side",
    "formula": "a component or the peak as a formula: text, LaTeX, sympy, JSON, Python",
    "export": "a plan's bytes as a function, in a planner's language, or as a page with sliders",
    "sweep": "a plan with lists and ranges as a table: CSV, Parquet or Arrow",
    "validate": "the formulas against a trace of the real model, coefficient by coefficient",
    "measure": "a real step on this machine next to its prediction",
    "report": "predicted against measured of the runs that estimator.callback recorded",
    "record": "a family's program from the installed transformers; what is answered without PyTorch",
    "page": "the estimator as a page in a browser, served from this machine, or as a folder for a static host",
    "mcp": "these questions as tools for assistants in editors (Model Context Protocol), on standard input and output",
    "models": "the built-in models",
    "devices": "the devices a plan may name",
    "completion": "a script that makes bash, zsh or fish complete the command's words",
}
"""Each command, and what it gives."""

_TOPICS: Mapping[str, tuple[str, str]] = {
    "model": (
        "model and task",
        "model task implementation litgpt transformers trainer head freeze experts_implementation routing",
    ),
    "method": ("method", "method"),
    "optimizer": (
        "optimizer and update",
        "optimizer optimizer_rank embedding_optim_bits gradient_clipping neftune_noise_alpha",
    ),
    "precision": ("precision", "dtype autocast"),
    "quantised": (
        "quantised base",
        "rest_dtype compute_dtype double_quant quant_storage weight_group_size bitsandbytes kbit_preparation",
    ),
    "attention": ("attention", "attention sdpa_kernel attention_mask use_cache"),
    "lengths": (
        "batch and length",
        "batch seq target_seq images image_size video_frames audio_frames audio_seconds lengths data_collator packing "
        "return_seq_idx gradient_accumulation_steps previous_seq",
    ),
    "memory": ("savings", "checkpointing use_reentrant saved_activations activation_group_size mlp_chunks kernels"),
    "loss": (
        "loss and the model's output",
        "loss loss_chunk num_output_chunks label_share keep_logits convert_outputs_to_fp32 previous_output "
        "drop_output_before_step",
    ),
    "preferences": (
        "preferences and rewards (TRL's names)",
        "trl prompt_seq loss_type beta precompute_ref_log_probs num_generations steps_per_generation num_iterations "
        "reference reward_model teacher lmbda seq_kd use_vllm vllm_mode vllm_gpu_memory_utilization "
        "vllm_enable_sleep_mode vllm_tensor_parallel_size vllm_max_model_length",
    ),
    "embeddings": (
        "embeddings (sentence-transformers' names)",
        "anchor_seq negatives pooling_mode normalize matryoshka_dims",
    ),
    "where": ("where it runs", "sharding runtime device budget host_memory ios_increased_memory_limit"),
    "gpu": ("GPUs (runtime torch-cuda)", ""),
    "generate": ("generate (transformers' names)", "generate"),
    "run": ("the run around the step (the Trainer's names)", "run"),
}
"""The title of each topic, and the keys of a plan that it is of. The keys of a block have the block's topic."""

TOPICS: Mapping[str, str] = {
    **{topic: title for topic, (title, _) in _TOPICS.items()},
    **dict(keys.topic for keys in ENGINES.values() if keys.topic is not None),
}
"""The topics of ``--help-TOPIC``, and their titles."""

TOPIC_OF: Mapping[str, str] = {
    **{key: keys.topic[0] for keys in ENGINES.values() if keys.topic for key in keys.fields.model_fields},
    **{key: topic for topic, (_, own) in _TOPICS.items() for key in own.split()},
}
"""The topic of each key of a plan."""

COMMON: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "model and task": {
        "task": ("TASK", "train (default) or infer"),
        "plan": ("FILE", "a plan in YAML or JSON; options override it"),
    },
    "method": {
        "method": ("NAME", "full (default), lora, ia3, ...: --help-method"),
        "r": ("N", "rank of the adapter"),
        "target_modules": ("LIST", "q_proj,v_proj or all-linear"),
        "optimizer": ("NAME", "adamw (default), adamw-8bit, sgd, ..."),
    },
    "precision": {
        "dtype": ("DTYPE", "bfloat16 (default), float32, nf4, Q4_K_M, ..."),
        "autocast": ("DTYPE", "mixed precision: bfloat16 or float16"),
        "attention": ("KIND", "sdpa (default), eager or flash"),
    },
    "batch and length": {
        "batch": ("N", "sequences per forward pass (default 1)"),
        "seq": ("N", "tokens of a sequence (default 2048)"),
        "lengths": ("FILE", "lengths of a data set in place of --seq"),
        "gradient_accumulation_steps": ("N", "micro-batches per step"),
    },
    "savings": {
        "checkpointing": ("KIND", "layer, attention, every-K, offloaded, ..."),
        "loss": ("KIND", "standard (default), chunked, liger or cce"),
    },
    "where it runs": {
        "runtime": ("NAME", f"{', '.join(RUNTIMES[:3])}, ...: --help-where"),
        "device": ("NAME", "a device to fit: `estimator devices`"),
        "budget": ("SIZE", "memory to fit: 8GiB, 24GB"),
    },
}
"""The options that ``--help`` shows, which decide most answers: for each, its argument and its description."""
