"""The topics of ``--help``: one for each key of a plan, and the options that most questions need."""

from __future__ import annotations

from collections.abc import Mapping

from ..engines.registry import KEYS as ENGINES
from ..engines.registry import RUNTIMES

TOPICS: Mapping[str, str] = {
    "model": "model and task",
    "method": "method",
    "optimizer": "optimizer and update",
    "precision": "precision",
    "quantised": "quantised base",
    "attention": "attention",
    "lengths": "batch and length",
    "memory": "savings",
    "loss": "loss and the model's output",
    "where": "where it runs",
    "gpu": "GPUs (runtime torch-cuda)",
    "generate": "generate (transformers' names)",
    "run": "the run around the step (the Trainer's names)",
    **dict(keys.topic for keys in ENGINES.values() if keys.topic is not None),
}
"""The topics of ``--help-TOPIC``, and their titles."""

TOPIC_OF: Mapping[str, str] = {
    **{key: keys.topic[0] for keys in ENGINES.values() if keys.topic for key in keys.fields.model_fields},
    "model": "model",
    "task": "model",
    "implementation": "model",
    "litgpt": "model",
    "transformers": "model",
    "trainer": "model",
    "method": "method",
    "optimizer": "optimizer",
    "optimizer_rank": "optimizer",
    "embedding_optim_bits": "optimizer",
    "gradient_clipping": "optimizer",
    "dtype": "precision",
    "autocast": "precision",
    "rest_dtype": "quantised",
    "compute_dtype": "quantised",
    "double_quant": "quantised",
    "weight_group_size": "quantised",
    "bitsandbytes": "quantised",
    "kbit_preparation": "quantised",
    "attention": "attention",
    "sdpa_kernel": "attention",
    "head": "model",
    "experts_implementation": "model",
    "routing": "model",
    "attention_mask": "attention",
    "data_collator": "lengths",
    "packing": "lengths",
    "return_seq_idx": "lengths",
    "use_cache": "attention",
    "batch": "lengths",
    "seq": "lengths",
    "target_seq": "lengths",
    "lengths": "lengths",
    "gradient_accumulation_steps": "lengths",
    "previous_seq": "lengths",
    "checkpointing": "memory",
    "use_reentrant": "memory",
    "saved_activations": "memory",
    "activation_group_size": "memory",
    "mlp_chunks": "memory",
    "loss": "loss",
    "loss_chunk": "loss",
    "num_output_chunks": "loss",
    "label_share": "loss",
    "keep_logits": "loss",
    "convert_outputs_to_fp32": "loss",
    "neftune_noise_alpha": "optimizer",
    "previous_output": "loss",
    "drop_output_before_step": "loss",
    "runtime": "where",
    "device": "where",
    "budget": "where",
    "ios_increased_memory_limit": "where",
    "generate": "generate",
    "run": "run",
}
"""The topic of each key of a plan. The keys of a block have the block's topic."""

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
        "max_new_tokens": ("N", "tokens that generate adds to the prompt"),
    },
    "savings": {
        "checkpointing": ("KIND", "layer, attention, every-K, offloaded, ..."),
        "saved_activations": ("KIND", "as-is (default), int8, int4, on-host"),
        "loss": ("KIND", "standard (default), chunked, liger or cce"),
    },
    "where it runs": {
        "runtime": ("NAME", f"{', '.join(RUNTIMES[:-1])} or {RUNTIMES[-1]}"),
        "device": ("NAME", "a device to fit: `estimator devices`"),
        "budget": ("SIZE", "memory to fit: 8GiB, 24GB"),
    },
}
"""The options that ``--help`` shows, which decide most answers: for each, its argument and its description."""
