"""What does not go together in a plan: every such refusal, in tables. Those of one engine are in its ``options.py``.

A sentence has one of three patterns. After its semicolon it says what to change:

- a key *belongs to* something that the plan does not ask for;
- one thing *does not go with* another: PyTorch, PEFT or the engine refuses the pair, or the pair makes no sense;
- one thing *has no rule with* another: the pair runs, and its bytes are not known here.

``check`` runs when a plan is read, ``check_step`` before its step in PyTorch is made, and ``check_model`` once its
model is known. ``check_question`` runs before a question that cannot be asked of every plan. A value that is wrong by
itself, such as a method's option, is refused where it is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from math import inf
from typing import Any, NamedTuple

from ..bases.formats import BITSANDBYTES, FORMATS, FOUR_BIT, FP8_BLOCKS, PACKED, TORCHAO, UPCAST, Base
from ..engines.devices import find
from ..engines.engine import Job
from ..engines.keys import Refusals
from ..engines.registry import KEYS as ENGINES
from ..engines.registry import RUNTIMES, refused_on
from ..errors import InputError, options
from ..ledger.sizes import symbol
from ..methods.base import AdapterMethod
from ..programs.heads import HEADS
from ..programs.releases import NEWEST
from ..steps.loss import SHIFTING
from ..steps.optimizers import OPTIMIZERS
from ..steps.trainers import TRAINERS as RECORDED
from ..steps.trainers import Trainer, least_batch


class Owner(NamedTuple):
    """A choice in a plan that keys belong to. Without that choice the keys have no effect."""

    name: str
    there: Callable[[Any], object]
    """Whether a plan makes the choice."""
    keys: tuple[str, ...]


QUANTISED_KEYS = ("rest_dtype", "kbit_preparation")
FOUR_BIT_KEYS = ("compute_dtype", "double_quant", "quant_storage", "bitsandbytes")
PACKED_KEYS = ("weight_group_size",)
VLLM_KEYS = (
    *("vllm_gpu_memory_utilization", "vllm_enable_sleep_mode", "vllm_tensor_parallel_size"),
    "vllm_max_model_length",
)
ONE_PASS_KEYS = ("use_cache", "previous_output")
EMBEDDING_KEYS = ("anchor_seq", "negatives", "pooling_mode", "normalize", "matryoshka_dims")
TRAINING_KEYS = (
    *("lengths", "kbit_preparation", "checkpointing", "use_reentrant", "saved_activations", "mlp_chunks"),
    *("activation_group_size", "kernels"),
    *("loss", "loss_chunk", "num_output_chunks", "optimizer", "optimizer_rank"),
    *("gradient_accumulation_steps", "keep_logits"),
    "embedding_optim_bits",
    *("drop_output_before_step", "gradient_clipping", "previous_seq", "empty_cache", "run"),
    *("data_collator", "convert_outputs_to_fp32", "neftune_noise_alpha", "label_share"),
    *("packing", "return_seq_idx", "trainer"),
    *(
        "trl",
        "prompt_seq",
        "loss_type",
        "beta",
        "precompute_ref_log_probs",
        "num_generations",
        "steps_per_generation",
        "num_iterations",
        *("use_vllm", "vllm_mode", *VLLM_KEYS),
        "reference",
        "reward_model",
        *("teacher", "lmbda", "seq_kd"),
        *EMBEDDING_KEYS,
    ),
)
"""Keys that only a step with labels, a backward pass and an update uses. ``mlp_chunks`` makes checkpoints."""
MEDIA_KEYS = ("images", "image_size", "video_frames", "audio_frames", "audio_seconds")
PYTORCH_KEYS = (
    *("method", "attention", "autocast", "implementation", "litgpt", "generate", "transformers"),
    *("experts_implementation", "routing", "head", "target_seq", *MEDIA_KEYS, "freeze"),
    *("sharding", *TRAINING_KEYS, *QUANTISED_KEYS, *FOUR_BIT_KEYS, *PACKED_KEYS),
    *("attention_mask", *ONE_PASS_KEYS),
)
LITGPT_FIXED = (
    *("attention", "autocast", "attention_mask", "drop_output_before_step", "keep_logits"),
    *("kbit_preparation", "kernels", "loss", "mlp_chunks", "run", "saved_activations", "transformers", "use_cache"),
    *("experts_implementation", "routing", "data_collator", "convert_outputs_to_fp32", "neftune_noise_alpha"),
    *("label_share", "packing", "return_seq_idx", "head", "target_seq", *MEDIA_KEYS, "freeze"),
)
"""Keys whose defaults are what litgpt's loop does. It leaves no other choice."""

CAUSAL_KEYS = (
    *(
        "loss",
        "mlp_chunks",
        "generate",
        "data_collator",
        "packing",
        "neftune_noise_alpha",
        "run",
        "lengths",
        "use_cache",
    ),
)
"""Keys that have rules for causal language models alone."""


def _has_step_with(key: str, plan: Any) -> bool:
    return plan.engine.runs_steps or key in ENGINES[plan.runtime].takes


def _has_engine_with(keys: tuple[str, ...], plan: Any) -> bool:
    return set(keys) <= set(ENGINES[plan.runtime].names)


OWNERS = (
    *(Owner("runtime: torch-cpu or torch-cuda", partial(_has_step_with, key), (key,)) for key in PYTORCH_KEYS),
    Owner("task: train", lambda p: p.task == "train", TRAINING_KEYS),
    Owner("task: infer", lambda p: p.task == "infer", ("generate",)),
    Owner("one forward pass, not to generate", lambda p: p.generate is None, ONE_PASS_KEYS),
    Owner(f"dtype: {', '.join(FORMATS)}", lambda p: p.dtype in FORMATS, QUANTISED_KEYS),
    Owner(f"dtype: {', '.join(FOUR_BIT)}", lambda p: p.dtype in FOUR_BIT, FOUR_BIT_KEYS),
    Owner(f"dtype: {', '.join(PACKED)}", lambda p: p.dtype in PACKED, PACKED_KEYS),
    Owner("implementation: litgpt", lambda p: p.implementation == "litgpt", ("litgpt",)),
    *(
        Owner(f"runtime: {name}", partial(_has_engine_with, ENGINES[name].names), ENGINES[name].names)
        for name in RUNTIMES
    ),
    Owner("attention: sdpa", lambda p: p.attention == "sdpa", ("sdpa_kernel",)),
    Owner("lengths", lambda p: p.lengths is not None, ("empty_cache",)),
    Owner("a plan of one length", lambda p: p.lengths is None, ("previous_seq",)),
    Owner("an iPhone or iPad as device", lambda p: p.device is not None, ("ios_increased_memory_limit",)),
)
"""Checked when a plan is read, in this order."""


def _of_trainers(has: Callable[[Trainer], object], *keys: str) -> Owner:
    """The owner of keys that belong to the recorded trainers of a kind."""
    names = [name for name, one in RECORDED.items() if has(one)]
    return Owner(f"trainer: {', '.join(names)}", lambda p: p.trainer in names, keys)


_EMBEDDING = tuple(name for name, one in RECORDED.items() if one.embeds)
STEP_OWNERS = (
    Owner(
        "a trainer of rows with prompts",
        lambda p: p.trainer is not None and p.trainer not in _EMBEDDING,
        ("prompt_seq",),
    ),
    Owner(
        "a trainer of TRL",
        lambda p: p.trainer and not (p.trainer in RECORDED and RECORDED[p.trainer].release),
        ("trl",),
    ),
    _of_trainers(lambda one: one.embeds, *EMBEDDING_KEYS),
    _of_trainers(lambda one: one.loss_type, "loss_type"),
    _of_trainers(lambda one: not one.embeds, "reference"),
    _of_trainers(
        lambda one: one.scores, "num_generations", "steps_per_generation", "num_iterations", "reward_model", "use_vllm"
    ),
    _of_trainers(lambda one: one.has_teacher, "teacher"),
    Owner("trainer: trl-gkd", lambda p: p.trainer == "trl-gkd", ("lmbda", "seq_kd")),
    Owner("use_vllm: true", lambda p: p.use_vllm, ("vllm_mode", *VLLM_KEYS)),
    Owner("vllm_mode: colocate", lambda p: p.vllm_mode == "colocate", VLLM_KEYS),
    Owner(
        "a trainer of TRL with a beta",
        lambda p: p.trainer in RECORDED and p.trainer not in ("trl-reward", *_EMBEDDING),
        ("beta",),
    ),
    _of_trainers(lambda one: one.precomputes, "precompute_ref_log_probs"),
    Owner(
        "saved_activations: int8 or int4",
        lambda p: p.saved_activations not in ("as-is", "on-host"),
        ("activation_group_size",),
    ),
    Owner("checkpointing: layer or offloaded", lambda p: p.checkpointing in ("layer", "offloaded"), ("use_reentrant",)),
    Owner("loss: chunked", lambda p: p.loss == "chunked", ("loss_chunk",)),
    Owner(
        "loss: ce-chunked-output or linear-cross-entropy",
        lambda p: p.loss in ("ce-chunked-output", "linear-cross-entropy"),
        ("num_output_chunks",),
    ),
    Owner("implementation: transformers", lambda p: p.implementation == "transformers", LITGPT_FIXED),
    Owner("packing", lambda p: p.packing, ("return_seq_idx",)),
    Owner("autocast", lambda p: p.autocast is not None, ("convert_outputs_to_fp32",)),
    Owner("optimizer: adamw-8bit, paged-adamw-8bit", lambda p: "8bit" in p.optimizer, ("embedding_optim_bits",)),
    Owner("optimizer: galore-adamw", lambda p: p.optimizer == "galore-adamw", ("optimizer_rank",)),
    Owner(
        "methods with a backward pass",
        lambda p: p.method.procedure == "backpropagation",
        (
            *("checkpointing", "saved_activations", "loss", "mlp_chunks", "gradient_accumulation_steps"),
            "neftune_noise_alpha",
        ),
    ),
)
"""Checked before a step is made."""

_TRAINED = (*BITSANDBYTES, *PACKED, *TORCHAO)
BASES: Mapping[str, tuple[str, ...]] = {"lora": _TRAINED, "lora-fa": _TRAINED, "ia3": (*BITSANDBYTES, *TORCHAO)}
"""Formats of a quantised base that a method runs on. ``MEASURED`` and ``PUBLISHED`` say which have a witness."""

PLAN: Refusals = {
    "implementation: {p.implementation} has no rule with task: infer; leave implementation out": (
        lambda p: p.task == "infer" and p.implementation != "transformers"
    ),
    "method: {p.method.name} does not go with task: infer, since it is a way to train; take full, or an adapter": (
        lambda p: p.task == "infer" and p.method.procedure != "backpropagation"
    ),
    "sharding: {p.sharding.label} does not go with task: infer (`ZeRO inference only makes sense with ZeRO Stage 3`, "
    "transformers' words); take fsdp2": (lambda p: p.task == "infer" and (_shares(p, "zero1") or _shares(p, "zero2"))),
    "sharding: zero3 has no rule with task: infer; take fsdp2": (lambda p: p.task == "infer" and _shares(p, "zero3")),
    "sharding: {p.sharding.label} does not go with task: infer where one process has all parameters (`Inference "
    "tensors do not track version counter`, PyTorch's words); leave sharding out": (
        lambda p: p.task == "infer" and (_shares(p, "fsdp2") or _shares(p, "hsdp")) and p.sharding.shard == 1
    ),
    "sharding: fsdp1 does not go with generate, which calls the module within, whose parameters are in parts "
    "(`'weight' must be 2-D`, PyTorch's words); take fsdp2": (lambda p: p.generate is not None and _shares(p, "fsdp1")),
    "sharding: ddp does not go with generate, which DistributedDataParallel has not; leave sharding out, as each "
    "process generates alone": lambda p: p.generate is not None and _shares(p, "ddp"),
    "generate has no rule with transformers: {p.transformers}, whose caches are others; leave transformers out": (
        lambda p: p.generate is not None and p.transformers != NEWEST
    ),
    "images: {p.images} does not go with the number of sizes in image_size; give one size, or one for each image": (
        lambda p: len(p.media.image_sizes) not in (0, 1, p.media.images)
    ),
    "video_frames: {p.video_frames} does not go with images of other sizes in its row; leave images out, and give one "
    "image_size": lambda p: p.video_frames is not None and (p.images is not None or len(p.media.image_sizes) > 1),
    "run has no rule with transformers: {p.transformers}, whose loading and evaluation are others; leave transformers "
    "out": lambda p: p.run is not None and p.transformers != NEWEST,
    "drop_output_before_step: true does not go with previous_output: true, which holds the output longer; leave one of "
    "them out": lambda p: p.drop_output_before_step and p.previous_output,
    "host_memory does not go with runtime: {p.runtime}, whose memory is the machine's; give a budget in its place": (
        lambda p: p.host_memory is not None and not (p.engine.has_own_memory or p.engine.shares_with_host)
    ),
    "ios_increased_memory_limit: true does not go with a budget, which replaces the limit that it raises; leave one of "
    "them out": lambda p: p.ios_increased_memory_limit and p.budget is not None,
    "sharding: {p.sharding.label} does not go with device: {p.device}, for whose GPU torch.distributed has no backend; "
    "leave sharding out, or name a GPU with CUDA": (
        lambda p: (
            p.sharding is not None and p.device is not None and (find(p.device).is_phone or find(p.device).is_apple)
        )
    ),
    "ios_increased_memory_limit does not go with device: {p.device}, which runs no iOS; leave it out": (
        lambda p: p.ios_increased_memory_limit and find(p.device or "").kind not in ("iPhone", "iPad")
    ),
    "ios_increased_memory_limit has no rule with device: {p.device}, since nobody published its higher limit; leave it "
    "out, or give a budget": lambda p: p.ios_increased_memory_limit and find(p.device or "").entitled_bytes is None,
}
"""Checked when a plan is read."""


def _shares_trainer(plan: Any) -> bool:
    """Whether a way to share has rules with a trainer of TRL whose step is recorded."""
    trainer = RECORDED[plan.trainer]
    alone = trainer.num_generations or trainer.has_teacher or trainer.embeds
    shares = ("ddp",) if alone else ("ddp", "fsdp2", "hsdp")
    return plan.sharding.name in shares and plan.sharding.tp == 1 and plan.sharding.groups != "transformers"


STEP: Refusals = {
    "vllm_mode: colocate has no rule with runtime: {p.runtime}, since vLLM takes a share of a GPU; name a device, or "
    "set vllm_mode: server": lambda p: p.colocates and not p.engine.has_own_memory,
    "use_vllm does not go with dtype: int8, since vLLM does not support in-flight 8-bit quantization (TRL); take "
    "dtype: nf4, or leave use_vllm out": lambda p: p.use_vllm and p.dtype == "int8",
    "vllm_tensor_parallel_size: {p.vllm_tensor_parallel_size} does not go with {p.world_size} processes, whose number "
    "it must divide evenly (TRL); give another, or sharding": lambda p: p.world_size % p.vllm_tensor_parallel_size,
    "loss: {p.loss} does not go with trainer: {p.trainer}, which has a loss of its own; leave it out": (
        lambda p: p.trainer in RECORDED and p.loss != "standard"
    ),
    "batch: 1 does not go with trainer: {p.trainer} (`Actual (not effective) batch size must be > 1. KTO will not work "
    "properly because the KL term will be equivalent to the implied reward`, TRL's words); give a larger one": (
        lambda p: p.batch < least_batch(p.trainer, p.loss_type)
    ),
    "trainer: {p.trainer} does not go without a teacher, from which it learns; name one, such as teacher: qwen2.5-7b": (
        lambda p: p.trainer in RECORDED and RECORDED[p.trainer].has_teacher and p.teacher is None
    ),
    "beta: {p.beta} does not go with trainer: {p.trainer}, whose divergence takes 0 to 1; give a number between them": (
        lambda p: p.trainer in RECORDED and RECORDED[p.trainer].has_teacher and (p.beta or 0) > 1
    ),
    "seq_kd: true has no rule with lmbda: {p.lmbda}, where the model or its teacher generates, as it falls; set lmbda: "
    "0 for the teacher, or leave seq_kd out": lambda p: p.seq_kd and p.lmbda > 0,
    "trainer: {p.trainer} has no rule with packing; leave packing out": lambda p: p.trainer in RECORDED and p.packing,
    "trainer: {p.trainer} has no rule with method: {p.method.name}; take lora, or another adapter of linear layers": (
        lambda p: (
            p.trainer in RECORDED
            and (p.method.procedure != "backpropagation" or hasattr(p.method.inner, "num_virtual_tokens"))
        )
    ),
    "trainer: {p.trainer} has no rule with sharding: {p.sharding.name}; take ddp": (
        lambda p: p.trainer in _EMBEDDING and p.sharding is not None and not _shares_trainer(p)
    ),
    "trainer: {p.trainer} has no rule with sharding: {p.sharding.name}; take ddp, or fsdp2 where none generates": (
        lambda p: p.trainer in RECORDED and p.sharding is not None and not _shares_trainer(p)
    ),
    "a step in PyTorch does not go with runtime: {p.runtime}; ask `estimator estimate` or `estimator "
    "max-context`": lambda p: not p.engine.runs_steps,
    "saved_activations: on-host has no rule with dtype: {p.dtype}, which saves whole weights; take checkpointing: "
    "offloaded, or another dtype": (
        lambda p: p.saved_activations == "on-host" and p.dtype in FORMATS and p.dtype not in BITSANDBYTES
    ),
    "saved_activations: on-host does not go with mlp_chunks: {p.mlp_chunks}, since a chunk comes back contiguous and "
    "PyTorch recomputes it by another product (CheckpointError); set mlp_chunks: 1, or take checkpointing: offloaded": (
        lambda p: p.saved_activations == "on-host" and p.mlp_chunks > 1
    ),
    "use_cache: true does not go with checkpointing: {p.checkpointing}, which would write the cache again when it "
    "recomputes; set use_cache: false": (
        lambda p: p.use_cache and p.checkpointing not in ("none", "layer", "offloaded")
    ),
    "kernels: {p.kernels} has no rule with method: {p.method.name} on runtime: {p.runtime}; take lora on torch-cuda, "
    "or leave kernels out": (
        lambda p: p.kernels != "transformers" and not (p.method.name == "lora" and p.engine.has_own_memory)
    ),
    "kernels: {p.kernels} does not go with mlp_chunks: {p.mlp_chunks}, whose MLP it replaces; set mlp_chunks: 1": (
        lambda p: p.kernels != "transformers" and p.mlp_chunks > 1
    ),
    "loss: unsloth has no rule with runtime: {p.runtime}, since its chunks follow from a GPU's free memory; use loss: "
    "chunked": lambda p: p.loss == "unsloth" and not p.engine.has_own_memory,
    "mlp_chunks: {p.mlp_chunks} does not go with batch: {p.batch} and seq: {p.seq}, which are fewer tokens; use fewer "
    "chunks": lambda p: p.mlp_chunks > p.batch * p.seq,
    "mlp_chunks: {p.mlp_chunks} does not go with method: {p.method.name}, which makes one vector of a sequence; set "
    "mlp_chunks: 1": lambda p: not p.method.by_token and p.mlp_chunks > 1,
    "loss: {p.loss} does not go with method: {p.method.name}, whose added tokens have no label and would be left out; "
    "use loss: chunked": lambda p: p.method.pads_labels and p.loss in SHIFTING,
    "packing: true does not go with {p.packed_beside}; leave one of them out": lambda p: p.packing and p.packed_beside,
    "sharding: {p.sharding.label} has no rule with {p.beside_sharding}; leave one of them out": (
        lambda p: p.sharding is not None and p.beside_sharding
    ),
    "groups: transformers does not go with checkpointing: matmul under fsdp1, as PyTorch refuses to recompute "
    "what gathers (not found in storage); set checkpointing: layer": (
        lambda p: _shares(p, "fsdp1") and p.sharding.groups == "transformers" and p.checkpointing == "matmul"
    ),
    "sharding: {p.sharding.label} with offload_optimizer does not go with optimizer: {p.optimizer}, which DeepSpeed "
    "has not for the host (zero_force_ds_cpu_optimizer); set optimizer: adamw, or leave offload_optimizer out": (
        lambda p: p.sharding is not None and p.sharding.offload_optimizer != "none" and p.optimizer != "adamw"
    ),
    "sharding: fsdp1 with cpu_offload does not go with runtime: torch-cpu, which pins no memory; leave cpu_offload "
    "out, or set runtime: torch-cuda": (
        lambda p: _shares(p, "fsdp1") and p.sharding.cpu_offload and not p.engine.has_own_memory
    ),
    "sharding: fsdp1 with cpu_offload does not go with sync_each_batch, since PyTorch does not add up gradients on the "
    "host (no_sync); leave sync_each_batch out": (
        lambda p: (
            _shares(p, "fsdp1")
            and p.sharding.cpu_offload
            and p.sharding.sync_each_batch
            and p.gradient_accumulation_steps > 1
        )
    ),
    "groups: accelerate has no rule with loss: {p.loss}, each of whose chunks gathers the head; take groups: layers": (
        lambda p: (
            (_shares(p, "fsdp2") or _shares(p, "hsdp"))
            and p.sharding.groups == "accelerate"
            and p.loss in ("ce-chunked-output", "linear-cross-entropy")
        )
    ),
    "sharding: {p.sharding.label} does not go with autocast, which DeepSpeed switches off; take dtype: bfloat16, which "
    "it trains with float32 copies of the parameters": (
        lambda p: p.autocast and p.sharding is not None and str(p.sharding.name).startswith("zero")
    ),
    "offload_param: cpu has no rule with dtype: {p.dtype} under {p.sharding.label}; leave it out": (
        lambda p: p.sharding is not None and p.base is not None and p.sharding.offload_param != "none"
    ),
    "sharding: {p.sharding.label} has no rule with contiguous_gradients: false on runtime: {p.runtime}; leave it out": (
        lambda p: (
            p.sharding is not None and p.sharding.casts and not p.sharding.contiguous_gradients and p.engine.replays
        )
    ),
    "sharding: ddp does not go with dtype: {p.dtype}, whose weights torchao makes of several tensors, and "
    "DistributedDataParallel broadcasts them as one (NotImplementedError); take nf4, int8 or an unquantised dtype": (
        lambda p: _shares(p, "ddp") and p.dtype in TORCHAO
    ),
    "sharding: ddp has no rule with dtype: {p.dtype} on runtime: torch-cuda; take nf4, int8 or an unquantised dtype": (
        lambda p: _shares(p, "ddp") and p.dtype in PACKED and p.engine.replays
    ),
    "sharding: ddp has no rule with method: {p.method.name}, which has no backward pass to reduce gradients in; take "
    "another method": lambda p: _shares(p, "ddp") and p.method.procedure != "backpropagation",
    "sharding: ddp does not go with optimizer: {p.optimizer}, which applies gradients before they are reduced; take "
    "another optimizer": lambda p: _shares(p, "ddp") and OPTIMIZERS[p.optimizer].in_backward,
    "sharding: ddp with find_unused_parameters: true does not go with reentrant checkpoints, in whose backward a "
    "parameter is ready twice (PyTorch: Expected to mark a variable ready only once); set use_reentrant: false": (
        lambda p: (
            _shares(p, "ddp")
            and p.sharding.find_unused_parameters
            and not p.sharding.static_graph
            and p.checkpointing in ("layer", "offloaded")
            and p.reentrant
        )
    ),
    "sharding: ddp with static_graph: true does not go with gradient_accumulation_steps: "
    "{p.gradient_accumulation_steps}, whose first backward pass may not be without a reduction (PyTorch: "
    "expect_autograd_hooks_); leave static_graph out, or set sync_each_batch: true": (
        lambda p: (
            _shares(p, "ddp")
            and p.sharding.static_graph
            and p.gradient_accumulation_steps > 1
            and not p.sharding.sync_each_batch
        )
    ),
    "label_share: {p.label_share} does not go with data_collator: false, where token ids are their own labels; set "
    "data_collator: true": lambda p: p.label_share < 1 and not (p.data_collator or p.packing),
    "saved_activations: {p.saved_activations} has no rule with method: {p.method.name}, which saves sparse or "
    "transformed tensors; set saved_activations: as-is": (
        lambda p: not p.method.plain_saved and p.saved_activations != "as-is"
    ),
    "attention: flash has no rule with data_collator: true and batch: {p.batch}, whose shorter rows are padded; use "
    "batch: 1, packing: true or attention: sdpa": (
        lambda p: (
            p.attention == "flash"
            and p.data_collator
            and not p.packing
            and p.batch > 1
            and p.trainer not in RECORDED  # of which a row has seq tokens, and a mask of ones is dropped
        )
    ),
    "attention: flash has no rule with attention_mask: true; use attention: sdpa": (
        lambda p: p.attention == "flash" and p.attention_mask
    ),
    "optimizer: {p.optimizer} does not go with implementation: litgpt, whose loop does not update in backward; use "
    "adamw": lambda p: p.implementation == "litgpt" and OPTIMIZERS[p.optimizer].in_backward,
    "dtype: {p.dtype} has no rule with implementation: litgpt; of quantised bases take nf4 or fp4": (
        lambda p: p.implementation == "litgpt" and p.dtype in FORMATS and p.dtype not in FOUR_BIT
    ),
    "checkpointing: {p.checkpointing} does not go with implementation: litgpt, whose loop has checkpoints of blocks "
    "where FSDP shares the model, and nowhere else; set checkpointing: none, or checkpointing: layer with sharding: "
    "fsdp1": (
        lambda p: (
            p.implementation == "litgpt"
            and p.checkpointing != "none"
            and not (p.checkpointing == "layer" and _shares(p, "fsdp1"))
        )
    ),
    "compute_dtype: {p.compute_dtype} does not go with implementation: litgpt, which computes in rest_dtype; leave "
    "compute_dtype out": (
        lambda p: p.implementation == "litgpt" and p.compute_dtype not in (Base.compute_dtype, p.rest_dtype)
    ),
    "method: {p.method.name} has no rule with implementation: litgpt; take full or lora": (
        lambda p: p.implementation == "litgpt" and p.method.name not in ("full", "lora")
    ),
    "optimizer: {p.optimizer} does not go with gradient_accumulation_steps: {p.gradient_accumulation_steps}, since it "
    "applies each gradient in backward, and none is left to accumulate; set gradient_accumulation_steps: 1": (
        lambda p: p.gradient_accumulation_steps > 1 and OPTIMIZERS[p.optimizer].in_backward
    ),
    "optimizer: {p.optimizer} does not go with method: {p.method.name}, which has no backward pass to update in; take "
    "another optimizer": (lambda p: p.method.procedure != "backpropagation" and OPTIMIZERS[p.optimizer].in_backward),
    "optimizer: {p.optimizer} does not go with method: mezo, which updates in place as SGD does, without states; set "
    "optimizer: sgd": lambda p: p.method.name == "mezo" and p.optimizer != "sgd",
    "attention: {p.attention} does not go with method: forward-ad, since PyTorch's fused attention has no forward-mode "
    "formula (NotImplementedError); set attention: eager": (
        lambda p: p.method.name == "forward-ad" and p.attention != "eager"
    ),
    "autocast: {p.autocast} has no rule with method: forward-ad; leave autocast out and set dtype": (
        lambda p: p.method.name == "forward-ad" and p.autocast is not None
    ),
    "checkpointing: {p.checkpointing} does not go with method: prefix_tuning (PEFT's rule); use checkpointing: none": (
        lambda p: p.method.inner.name == "prefix_tuning" and p.checkpointing != "none"
    ),
    "checkpointing: {p.checkpointing} has no rule with method: c3a, whose products are complex; use checkpointing: "
    "layer": lambda p: p.method.inner.name == "c3a" and p.checkpointing in ("attention", "matmul"),
    "checkpointing: attention does not go with method: adaption_prompt, whose attention takes keyword arguments only; "
    "use checkpointing: layer": (lambda p: p.method.inner.name == "adaption_prompt" and p.checkpointing == "attention"),
    "checkpointing: matmul does not go with dtype: {p.dtype}, whose products are bitsandbytes', not PyTorch's; use "
    "checkpointing: layer": lambda p: p.checkpointing == "matmul" and p.dtype in FOUR_BIT,
    "cache_implementation: quantized does not go with autocast: {p.autocast}, under which PyTorch cannot join 8-bit "
    "floats; leave autocast out, or use cache_implementation: dynamic or static": (
        lambda p: p.autocast and p.generate is not None and p.generate.cache_implementation == "quantized"
    ),
    "dtype: {p.dtype} has no rule with task: infer on runtime: {p.runtime}, where its layers run other kernels than in "
    "training; take int8-weight-only, float8 or an unquantised dtype": (
        lambda p: p.task == "infer" and p.dtype in FORMATS and p.dtype not in p.engine.inference_formats
    ),
    "dtype: {p.dtype} has no rule with task: train, for which FineGrainedFP8Config(dequantize=True) is taken; set "
    "dtype: bfloat16": lambda p: p.task == "train" and p.dtype in FP8_BLOCKS,
    "dtype: {p.dtype} has no rule with transformers: {p.transformers}, whose layers round their inputs by themselves; "
    "leave transformers out": lambda p: p.dtype in FP8_BLOCKS and p.transformers != NEWEST,
    "dtype: {p.dtype} does not go with method: full, since packed weights have no gradient; add an adapter, as in "
    "method: lora": lambda p: p.task == "train" and p.dtype in FORMATS and p.method.name == "full",
    f"dtype: {{p.dtype}} has no rule with method: ia3; take {', '.join(BASES['ia3'])} or an unquantised dtype": (
        lambda p: p.dtype in FORMATS and p.method.name == "ia3" and p.dtype not in BASES["ia3"]
    ),
    "dtype: {p.dtype} has no rule with method: {p.method.name}; take method: lora, or an unquantised dtype": (
        lambda p: p.dtype in FORMATS and p.method.name not in ("full", *BASES)
    ),
    "method: ia3 does not go with dtype: {p.dtype} beside {p.held_dtype} weights, since its layers give float32 and "
    "PyTorch stops at the first product of both; set kbit_preparation, rest_dtype: float32 or autocast": (
        lambda p: (
            p.dtype in BITSANDBYTES and p.method.name == "ia3" and p.held_dtype != "float32" and p.autocast is None
        )
    ),
    "use_dora: true has no rule with dtype: {p.dtype}; set use_dora: false": (
        lambda p: p.dtype in FORMATS and getattr(p.method, "use_dora", False)
    ),
    "eval_samples has no rule with loss: {p.loss}; leave eval_samples out, or take loss: chunked": (
        lambda p: _evaluates(p) and p.loss == "liger"
    ),
    "eval_samples has no rule with sharding: {p.sharding.name}; leave eval_samples out": (
        lambda p: _evaluates(p) and p.sharding is not None
    ),
    "processes_per_host does not go with one process; leave it out, or add sharding": (
        lambda p: p.run is not None and p.run.processes_per_host is not None and p.sharding is None
    ),
    "processes_per_host: {p.run.processes_per_host} does not go with sharding, which has {p.sharding.world_size} "
    "processes in all; give fewer": (
        lambda p: p.run is not None and p.sharding and (p.run.processes_per_host or 1) > p.sharding.world_size
    ),
    "cpu_ram_efficient_loading: true does not go with a model that neither fsdp1 nor fsdp2 shards; leave it out": (
        lambda p: (
            p.run is not None
            and p.run.cpu_ram_efficient_loading
            and (p.sharding is None or p.sharding.name not in ("fsdp1", "fsdp2", "hsdp"))
        )
    ),
    "compute_metrics: true does not go with loss: {p.loss}, which makes no logits; leave compute_metrics out, or take "
    "loss: standard": lambda p: _evaluates(p) and p.loss != "standard" and p.run is not None and p.run.compute_metrics,
    "eval_samples has no rule with mlp_chunks: {p.mlp_chunks}; leave eval_samples out, or set mlp_chunks: 1": (
        lambda p: _evaluates(p) and p.mlp_chunks > 1
    ),
    "eval_samples has no rule with packing: true; leave eval_samples out": lambda p: _evaluates(p) and p.packing,
    "eval_samples has no rule with dtype: {p.dtype} on runtime: {p.runtime}, where its layers run other kernels than "
    "in training; leave eval_samples out": (
        lambda p: _evaluates(p) and p.dtype in FORMATS and p.dtype not in p.engine.inference_formats
    ),
    "lora_bias: true does not go with dtype: {p.dtype} (PEFT's rule); leave lora_bias out": (
        lambda p: p.dtype in TORCHAO and getattr(p.method, "lora_bias", False)
    ),
    "bias has no rule with dtype: {p.dtype}; set bias: none": (
        lambda p: p.dtype == "int8-weight-only" and getattr(p.method, "bias", "none") != "none"
    ),
}
"""Checked before a step is made."""


def _shares(plan: Any, name: str) -> bool:
    return plan.sharding is not None and plan.sharding.name == name


def _may_route(r: Any) -> bool:
    """Whether tokens may choose experts. Of a model that is recorded when it is asked for, the recording says it."""
    config = r.spec.config
    return config.source.has_experts or not config.open_sizes


def _has_fixed_dtypes(r: Any) -> bool:
    """Whether the model's program is of one setting alone, with the dtypes and masks of its recording."""
    return r.spec.config.source.opened(r.step, None) is None


_OF_IMAGES = ("hf-trainer", "llama-factory", "axolotl", "trl-sft")
"""Trainers whose step is that of transformers' ``Trainer``, also of models that look at images. TRL's SFT puts its
fused head into these, too."""


_COLLATED = ("causal-lm", "image-text", "feature-extraction")
"""Heads that have rules for a collator's batch."""
_LABELLED = ("masked-lm", "sequence-classification", "token-classification", "question-answering")
"""Heads of models of text that shift no labels. Their batch in ``Trainer`` is a loop's."""


_GENERATING = tuple(name for name, head in HEADS.items() if head.decodes)


def _trains_head(r: Any) -> bool:
    """Whether a trainer has rules with a model's head. One of the user's own makes the loss of what a model gives."""
    trainer, head = r.plan.trainer, r.spec.head
    if trainer in _EMBEDDING or head == "feature-extraction":
        own = trainer not in RECORDED and not r.step.procedure.asks_loss
        return head == "feature-extraction" and (trainer in _EMBEDDING or own)
    if trainer == "trl-reward":
        return bool(head != "causal-lm")
    return (
        head == "causal-lm"
        or (head == "image-text" and trainer in _OF_IMAGES)
        or (head in _LABELLED and trainer == "hf-trainer")
    )


def _beyond_causal(key: str) -> Callable[[Any], object]:
    """A condition: the plan sets a key that has rules for causal language models alone, and the model is none."""
    own = {"data_collator": (*_COLLATED, *_LABELLED), "generate": _GENERATING}
    heads = own.get(key, ("causal-lm",))
    return lambda r: r.spec.head not in heads and _differs(r.plan, key) and not _fused_beside_images(r, key)


def _fused_beside_images(r: Any, key: str) -> bool:
    """Whether a key says that the loss of a model that looks at images is TRL's fused head, which it has rules for."""
    return key == "loss" and r.spec.head == "image-text" and r.plan.loss == "fused-lm-head"


def _other_media(key: str, heads: tuple[str, ...]) -> Callable[[Any], object]:
    """A condition: the plan sets a key of images or audio that a head does not take."""
    return lambda r: r.spec.head not in heads and _differs(r.plan, key)


_ON_TOKENS = (
    *("masked-lm", "seq2seq-lm", "sequence-classification", "token-classification", "question-answering"),
    "feature-extraction",
)


def positions_of(r: Any, key: str) -> float:
    """The most tokens that ``seq`` or ``target_seq`` may be; infinite where nothing is refused.

    They are the positions that a model with a head of ``_ON_TOKENS``, or the decoder of one of speech, has embeddings
    of. ``r`` is what the plan is resolved to.
    """
    if key == "target_seq" and r.spec.head == "speech-seq2seq":
        learned = any(m.path.endswith("decoder.embed_positions") for m in r.spec.config.modules.of("embedding"))
        return r.spec.raw.get("max_target_positions", inf) if learned else inf
    return r.spec.positions if r.spec.head in _ON_TOKENS else inf


def _differs(plan: Any, key: str) -> bool:
    """Whether a key has another value than its default."""
    return bool(getattr(plan, key) != type(plan).model_fields[key].get_default())


MODEL: Refusals = {
    "dtype: {r.plan.dtype} has no rule with autocast and rest_dtype: {r.plan.rest_dtype} on a model that was recorded "
    "in one setting, since its layers' outputs are not in autocast's dtype; set rest_dtype: {r.plan.autocast}": (
        lambda r: (
            r.plan.autocast is not None
            and r.plan.dtype in (*FOUR_BIT, "awq")
            and r.plan.rest_dtype != r.plan.autocast
            and _has_fixed_dtypes(r)
        )
    ),
    "kbit_preparation: true has no rule with autocast on a model that was recorded in one setting, since "
    "quantised layers give float32 behind float32 norms; leave kbit_preparation out, or autocast": lambda r: (
        r.plan.autocast is not None and r.plan.kbit_preparation and r.plan.dtype in UPCAST and _has_fixed_dtypes(r)
    ),
    "data_collator: true has no rule with batch: {r.plan.batch} where some layers have a window and the model was "
    "recorded in one setting; set attention_mask: true for a batch with padding, or batch: 1": (
        lambda r: (
            r.step.data_collator
            and not r.step.passes_mask
            and r.step.window_reached
            and r.plan.batch > 1
            and _has_fixed_dtypes(r)
        )
    ),
    "checkpointing: {r.plan.checkpointing} does not go with {r.spec.config.family}, whose class in transformers has no "
    "checkpoints; use checkpointing: none": lambda r: (
        r.plan.checkpointing in ("layer", "offloaded")
        and r.plan.implementation == "transformers"  # litgpt's are Fabric's, around any block
        and not r.spec.config.source.supports_checkpointing
    ),
    "seq: {r.plan.seq} does not go with head: {r.spec.head}, whose batch has no text; leave it out, or give the length "
    "of labels, where there is one, as target_seq": (
        lambda r: not HEADS[r.spec.head].text and "seq" in r.plan.model_fields_set and _differs(r.plan, "seq")
    ),
    "target_seq does not go with head: {r.spec.head}, which has no decoder beside an encoder; leave it out": (
        lambda r: not any(name == "T" for name, _ in r.step.lengths) and _differs(r.plan, "target_seq")
    ),
    **{
        f"{key} does not go with head: {{r.spec.head}}, whose batch has {what}; leave it out": _other_media(key, heads)
        for key, what, heads in (
            ("images", "no images in its rows", ("image-text",)),
            ("image_size", "no images", ("image-text", "image-classification")),
            ("video_frames", "no video", ("image-text",)),
            ("audio_frames", "no audio", ("speech-seq2seq", "ctc", "audio-classification")),
            ("audio_seconds", "no audio", ("speech-seq2seq", "ctc", "audio-classification")),
        )
    },
    "image_size of several images does not go with head: {r.spec.head}, whose rows have one; give one size": (
        lambda r: r.spec.head == "image-classification" and r.plan.media.images > 1
    ),
    "attention_mask: true does not go with head: {r.spec.head}, whose batch has no tokens to pad; leave it out": (
        lambda r: r.plan.attention_mask and not HEADS[r.spec.head].text
    ),
    "method: freeze has no rule with head: {r.spec.head}, whose encoder and decoder both have top layers; take another "
    "method": lambda r: r.plan.method.name == "freeze" and r.spec.head == "seq2seq-lm",
    "dtype: {r.plan.dtype} has no rule with head: {r.spec.head}; take nf4, fp4, int8 or an unquantised dtype": (
        lambda r: r.plan.base is not None and r.plan.dtype not in BITSANDBYTES and r.spec.head != "causal-lm"
    ),
    "generate has no rule with dtype: {r.plan.dtype} of a model with experts, which it multiplies for each token by "
    "itself; leave generate out": lambda r: (
        r.plan.generate is not None and r.plan.dtype in FP8_BLOCKS and r.spec.config.source.has_experts
    ),
    "trainer: {r.plan.trainer} has no rule with head: {r.spec.head}; leave it out": lambda r: (
        r.plan.trainer is not None and not _trains_head(r)
    ),
    "task: train does not go with head: {r.spec.head}, which makes no loss; set task: infer, or a trainer": lambda r: (
        not HEADS[r.spec.head].labels and r.step.procedure.trains and r.step.procedure.asks_loss
    ),
    **{f"{key} has no rule with head: {{r.spec.head}}; leave it out": _beyond_causal(key) for key in CAUSAL_KEYS},
    "seq: {r.plan.seq} does not go with the model's max_position_embeddings: {r.spec.raw[max_position_embeddings]}; "
    "give fewer tokens": lambda r: r.plan.seq > positions_of(r, "seq") and not r.spec.skipped_positions,
    "seq: {r.plan.seq} does not go with the model's max_position_embeddings: {r.spec.raw[max_position_embeddings]}, of "
    "which {r.spec.config.family} uses those behind pad_token_id; give fewer tokens": lambda r: (
        r.plan.seq > positions_of(r, "seq") and r.spec.skipped_positions
    ),
    "target_seq: {r.plan.target_seq} does not go with the model's max_target_positions: "
    "{r.spec.raw[max_target_positions]}; give fewer tokens": lambda r: (
        r.spec.head == "speech-seq2seq" and r.plan.decoder_seq > positions_of(r, "target_seq")
    ),
    "target_seq: {r.plan.target_seq} does not go with the model's max_position_embeddings: "
    "{r.spec.raw[max_position_embeddings]}; give fewer tokens": lambda r: (
        r.spec.head == "seq2seq-lm" and r.plan.decoder_seq > positions_of(r, "target_seq")
    ),
    "packing: true does not go with method: {r.plan.method.name}, with which PEFT drops position ids; take another "
    "method": lambda r: r.plan.packing and (r.method.virtual_tokens or r.plan.method.name == "prefix_tuning"),
    "sharding: zero3 has no rule with {r.spec.config.family}, which has experts, gathered as one module; take zero2": (
        lambda r: r.plan.sharding is not None and r.plan.sharding.name == "zero3" and r.spec.config.source.has_experts
    ),
    "experts_implementation does not go with {r.spec.config.family}, which has no experts whose weights are one "
    "parameter; leave it out": lambda r: (
        r.plan.experts_implementation is not None and not r.spec.config.source.has_experts
    ),
    "routing: worst does not go with {r.spec.config.family}, which is no mixture of experts; leave it out": (
        lambda r: r.plan.routing == "worst" and not _may_route(r)
    ),
    "method: forward-ad has no rule with hidden_act: {r.spec.raw[hidden_act]}; take a model with silu": (
        lambda r: r.plan.method.name == "forward-ad" and r.spec.raw.get("hidden_act", "silu") not in ("silu", "swish")
    ),
    "modules_to_save does not go with dtype: {r.plan.dtype} where it takes in a linear layer, whose packed weight "
    "cannot be trained; leave that layer out": lambda r: (
        r.plan.base is not None
        and isinstance(r.method, AdapterMethod)
        and any(r.method.saves(path) for path in r.spec.config.modules.all_linear)
    ),
    "generate has no rule with method: {r.plan.method.name}, with which PEFT prepares the prompt itself; leave "
    "generate out for one pass, or take another method": (
        lambda r: r.plan.generate is not None and (r.method.virtual_tokens or r.plan.method.name == "adaption_prompt")
    ),
    "generate has no rule with attention_mask: true and {r.spec.config.family}, whose masks are recorded without "
    "padding; leave attention_mask out": (
        lambda r: (
            r.plan.generate is not None
            and r.plan.attention_mask
            and r.spec.head != "seq2seq-lm"
            and not _calls_for_masks(r)
        )
    ),
    "cache_implementation: quantized does not go with head: {r.spec.head}, whose cache of two attentions transformers "
    "does not quantise; use cache_implementation: dynamic or static": lambda r: (
        r.plan.generate is not None
        and r.plan.generate.cache_implementation == "quantized"
        and HEADS[r.spec.head].has_target
    ),
    "max_new_tokens: {r.plan.generate.max_new_tokens} does not go with the model's decoder, which reads "
    "{r.plan.decoder_tokens} tokens, its prompt among them, and has fewer positions; take fewer": lambda r: (
        r.plan.generate is not None
        and HEADS[r.spec.head].has_target
        and r.plan.decoder_tokens > positions_of(r, "target_seq")
    ),
    "generate has no rule with head: {r.spec.head} on runtime: {r.plan.runtime}, as its passes are recorded for a CPU; "
    "set runtime: torch-cpu": lambda r: _generates_on_a_card(r) and r.spec.head != "causal-lm",
    "cache_implementation: {r.plan.generate.cache_implementation} has no rule with {r.spec.config.family}, whose cache "
    "is recorded where it stays on the device; take cache_implementation: {r.plan.generate.on_device}": lambda r: (
        r.plan.generate is not None and r.plan.generate.offloads and not _calls_for_masks(r)
    ),
    "generate has no rule with {r.spec.config.family} on runtime: {r.plan.runtime}, since no passes of it are shipped; "
    "take runtime: torch-cpu": (
        lambda r: _generates_on_a_card(r) and r.plan.generate.on_device == "dynamic" and not _knows_tokens(r)
    ),
    "generate has no rule with {r.spec.config.family} and this cache on runtime: {r.plan.runtime}, since no passes of "
    "it are shipped; take cache_implementation: dynamic, or runtime: torch-cpu": (
        lambda r: _generates_on_a_card(r) and r.plan.generate.on_device != "dynamic" and not _knows_tokens(r)
    ),
    "cache_implementation: quantized does not go with a model of sliding windows, which transformers' quantized cache "
    "does not take; use cache_implementation: dynamic or static": (
        lambda r: (
            r.plan.generate is not None
            and r.plan.generate.cache_implementation == "quantized"
            and any(r.spec.config.windowed_layers)
        )
    ),
    "cache_implementation: offloaded_static has no rule with a model of sliding windows, which stay on the device; "
    "take cache_implementation: offloaded": lambda r: (
        r.plan.generate is not None
        and r.plan.generate.cache_implementation == "offloaded_static"
        and any(r.spec.config.windowed_layers)
    ),
    "loss: chunked does not go with method: {r.plan.method.name} on the output embedding, which makes one vector of a "
    "sequence; take that layer out of target_modules": (
        lambda r: (
            r.plan.loss == "chunked"
            and not r.plan.method.by_token
            and r.method.adapts(r.spec.config.modules.path_of("output embedding"))
        )
    ),
}
"""Checked once the model and the method of a plan are known."""

_ESTIMATE = "ask `estimator estimate`"
_MEASURE = "ask `estimator measure`, which runs it"
_RUNS_NO_STEP: Refusals = {
    "runtime: {p.runtime}, which runs no step in PyTorch; ask `estimator max-context` or `max-seq`": (
        lambda p: not p.engine.runs_steps
    ),
}
_IS_INFERENCE: Refusals = {
    **_RUNS_NO_STEP,
    "task: infer; ask `estimator estimate` what it takes, or `estimator max-seq` what fits": lambda p: (
        p.task == "infer"
    ),
}
_HAS_A_RUN: Refusals = {
    "run, whose moments outside the step it does not know; leave run out": lambda p: p.run is not None,
}
_IS_NO_GPU: Refusals = {
    "runtime: {p.runtime}, since it shows PyTorch's CUDA allocator; set runtime: torch-cuda, or a GPU": (
        lambda p: not p.engine.replays
    ),
}
_SAID_OF_INFERENCE = {"model", "device", "dtype", "seq", "budget", "ios_increased_memory_limit"}
"""Keys that say nothing about training."""


QUESTIONS: Mapping[str, Refusals] = {
    "a formula": {
        f"num_beams: {{p.generate.num_beams}}, whose copies are compared by size; {_ESTIMATE}": (
            lambda p: p.generate is not None and p.generate.num_beams > 1
        ),
        f"{{p.piecewise}}, which has not one formula for all numbers of tokens; {_ESTIMATE}": (lambda p: p.piecewise),
        f"vllm_mode: colocate, whose share is beside the step's bytes; {_ESTIMATE}": lambda p: p.colocates,
        **_HAS_A_RUN,
    },
    "a formula of open sizes": {
        "{p.closed_by}, whose rules compare sizes; leave the sizes filled in": lambda p: p.closed_by,
    },
    "an explanation": {
        "runtime: {p.runtime}, which saves nothing for backward; set runtime: torch-cpu": (
            lambda p: not p.engine.runs_steps
        ),
        "task: infer, which saves nothing for backward; set task: train, or sharding, whose cost is explained": (
            lambda p: p.task == "infer" and p.sharding is None
        ),
        "method: {p.method.name}, which saves nothing for backward; take a method that trains by backpropagation": (
            lambda p: p.method.procedure != "backpropagation"
        ),
    },
    "advice": {**_RUNS_NO_STEP, **_HAS_A_RUN},
    "a search for cards": {**_RUNS_NO_STEP, **_HAS_A_RUN},
    "a comparison of training steps": {**_IS_INFERENCE, **_HAS_A_RUN},
    "training by default": {
        "device: {p.device}, a phone, which runs models with llama.cpp, ExecuTorch, LiteRT or MLC; ask `estimator "
        "max-context`, or add dtype: Q4_K_M and n_ctx: 4096, or task: train for a training step on its CPU": (
            lambda p: (
                p.task == "train"
                and p.model_fields_set <= _SAID_OF_INFERENCE
                and p.device is not None
                and find(p.device).is_phone
            )
        ),
    },
    "a timeline": {
        "runtime: {p.runtime}, since it shows PyTorch's CUDA allocator; set runtime: torch-cuda, or a GPU, or write a "
        "memory snapshot: --output FILE.pickle": lambda p: p.engine.runs_steps and not p.engine.replays,
        "runtime: {p.runtime}, which has no caching allocator; set runtime: torch-cuda, or a GPU": (
            lambda p: not p.engine.runs_steps
        ),
    },
    "a memory snapshot": {
        "runtime: {p.runtime}, since the format is PyTorch's; set runtime: torch-cpu or torch-cuda": (
            lambda p: not p.engine.runs_steps
        ),
    },
    "--phases": _IS_NO_GPU,
    "a trace": {
        f"sharding: {{p.sharding.label}}, whose parameters it cannot tell from what is saved; {_MEASURE}": (
            lambda p: p.sharding is not None and (p.sharding.tp > 1 or p.sharding.name not in ("fsdp2", "hsdp"))
        ),
        f"task: infer, which saves nothing for backward; {_MEASURE}": lambda p: p.task == "infer",
        f"method: {{p.method.name}}, which saves nothing for backward; {_MEASURE}": (
            lambda p: p.method.procedure != "backpropagation"
        ),
        "saved_activations: {p.saved_activations}, since it sees what is saved and not how it is held; set "
        f"saved_activations: as-is, or {_MEASURE}": lambda p: p.saved_activations != "as-is",
        "checkpointing: offloaded, since it sees what is saved and not how it is held; set checkpointing: layer, or "
        f"{_MEASURE}": lambda p: p.checkpointing == "offloaded",
        f"kernels: {{p.kernels}}, which need a GPU; {_MEASURE}": lambda p: p.kernels != "transformers",
        f"autocast, which does not act on a model without data; {_MEASURE}": lambda p: p.autocast,
        f"dtype: {{p.dtype}}, which packs data; {_MEASURE}": lambda p: p.dtype in FORMATS,
    },
    "building the real model": {
        "sharding: {p.sharding.name} on runtime: {p.runtime}, where each process has a GPU; set runtime: torch-cpu": (
            lambda p: p.sharding is not None and p.engine.has_own_memory
        ),
        "implementation: litgpt; run tests/programs/test_litgpt.py, which measures it where litgpt is installed": (
            lambda p: p.implementation != "transformers"
        ),
        "kernels: {p.kernels} or loss: {p.loss}, which need a GPU; leave them out": (
            lambda p: "unsloth" in (p.kernels, p.loss)
        ),
        "loss: {p.loss}, which is TRL's; run tests/cases/trl_steps.py, which measures it where TRL is installed": (
            lambda p: p.loss in ("chunked-nll", "fused-lm-head")
        ),
        "bitsandbytes: {p.bitsandbytes}, which is estimated only; leave bitsandbytes out": (
            lambda p: p.bitsandbytes != Base.bitsandbytes
        ),
    },
}
"""What does not go with a question, by the question."""


_IN_SEGMENTS = (
    *("adalora", "adaption_prompt", "beft", "boft", "c3a", "delora", "fourierft", "freeze", "full", "hira", "ia3"),
    *("lars", "ln_tuning", "loha", "lokr", "lora", "lora-fa", "miss", "oft", "p_tuning", "prompt_tuning", "randlora"),
    *("road", "shira", "trainable_tokens", "vera"),
)
MEASURED: Mapping[str, tuple[str, ...]] = {
    "checkpointing: layer": _IN_SEGMENTS,
    **dict.fromkeys(("checkpointing: every-K", "checkpointing: attention", "checkpointing: matmul"), ("full", "lora")),
    "checkpointing: offloaded": ("full", "lora"),
    **dict.fromkeys(("loss: chunked", "loss: liger", "loss: cce", "mlp_chunks"), ("full", "lora")),
    **dict.fromkeys(("loss: ce-chunked-output", "loss: linear-cross-entropy"), ("full", "lora")),
    "saved_activations: int8": ("full", "hira", "lora"),
    "saved_activations: int4": ("full", "ia3"),
    "saved_activations: on-host": ("full", "lora", "oft"),
    **dict.fromkeys(("dtype: nf4", "dtype: int8", "dtype: float8"), ("ia3", "lora")),
    **dict.fromkeys(("dtype: fp4", "dtype: int8-weight-only", "dtype: gptq", "dtype: awq"), ("lora",)),
}
"""Choices in a plan, and the methods that a step on a CPU was measured with for each (tables of ``tests/cases``).

The chunked loss and the layers of GPTQ and AWQ are this project's own code (``witnesses/reference/packed.py``): there
equality shows that the project agrees with itself, not with a library. Pairs in no row have rules. Their only witness
is the random plans of ``tests/steps/test_random_combinations.py``."""

PUBLISHED: Mapping[str, tuple[str, ...]] = {"checkpointing: layer": ("full", "lora"), "dtype: nf4": ("lora",)}
"""Choices in a plan, and the methods of runs on GPUs that others published (``docs/measured/published``)."""


def listed() -> list[str]:
    """Every sentence of the tables, those of engines among them, in the order in which they are checked."""
    of_engines: list[Refusals] = [
        rows for one in ENGINES.values() for rows in (one.refused, one.refused_elsewhere, one.refused_steps)
    ]
    return [sentence for rows in (*of_engines, PLAN, STEP, MODEL) for sentence in rows]


def check(plan: Any) -> None:
    """Raise ``InputError`` for what does not go together in a plan, before its model is known."""
    _check_owners(OWNERS, plan)
    for rows in refused_on(plan.runtime):
        _refuse(rows, plan)
    _refuse(PLAN, plan)
    if plan.device is not None and plan.engine.runs_steps:
        check_device(plan.device)


def check_device(name: str) -> None:
    """Raise ``InputError`` for a device that has no rules for a step in PyTorch."""
    device = find(name)
    if device.is_card and device.capability is None:
        ways = f"{options({'budget': 'SIZE'})} in its place for a step on a CPU, or {options({'runtime': 'llama.cpp'})}"
        raise InputError(f"device: {device.name}, which runs no CUDA, has no rule with PyTorch; give {ways}")


def _generates_on_a_card(resolved: Any) -> bool:
    return resolved.plan.generate is not None and bool(resolved.plan.engine.has_own_memory)


def _calls_for_masks(resolved: Any) -> bool:
    """Whether the program of a prompt's pass calls for its masks."""
    step, plan = resolved.step, resolved.plan
    first = step.procedure.passes(step, plan.batch, plan.seq)[0]
    return bool(resolved.spec.config.source.at(*first).asks_interfaces)


def _knows_tokens(resolved: Any) -> bool:
    """Whether there is a program of the pass that makes whichever token of a call of ``generate``."""
    step, plan = resolved.step, resolved.plan
    passes = step.procedure.at_token(symbol("N")).passes(step, plan.batch, plan.seq)
    return all(resolved.spec.config.source.knows(*one) for one in passes)


def check_step(plan: Any) -> None:
    """Raise ``InputError`` where a plan cannot be a step in PyTorch."""
    _check_owners(STEP_OWNERS, plan)
    _refuse(ENGINES[plan.runtime].refused_steps, plan)
    _refuse(STEP, plan)


def check_model(resolved: Job) -> None:
    """Raise ``InputError`` where a plan does not go with its model."""
    _refuse(MODEL, resolved)


def check_second(key: str, resolved: Job) -> None:
    """Raise ``InputError`` where a frozen second model, the plan's key ``key``, is refused by itself."""
    try:
        _refuse({**PLAN, **STEP}, resolved.plan)
        check_model(resolved)
    except InputError as error:
        raise InputError(f"{key}: {error}", key) from None


def check_question(question: str, plan: Any) -> None:
    """Raise ``InputError`` where a question, one of ``QUESTIONS``, does not go with a plan."""
    _refuse(QUESTIONS[question], plan, f"{question} does not go with ")


def budget_of(plan: Any) -> int:
    """The bytes that an answer has to fit into. Raises ``InputError`` where the plan names none."""
    budget: int | None = plan.budget_bytes()
    if budget is None:
        raise InputError("this question needs something to fit; give a budget such as 8GiB, or a device")
    return budget


def _evaluates(plan: Any) -> bool:
    """Whether a plan's run has an evaluation."""
    return plan.run is not None and plan.run.eval_samples is not None


def _check_owners(owners: Iterable[Owner], plan: Any) -> None:
    given = plan.model_fields_set
    for owner in owners:
        if given.isdisjoint(owner.keys) or owner.there(plan):
            continue
        for key in owner.keys:
            if key in given and getattr(plan, key) != type(plan).model_fields[key].default:
                owning, colon, _ = owner.name.partition(":")
                other = getattr(plan, owning) if colon else None
                here = "" if other is None else f", not {other}"
                mend = f"; leave it out, or set {owning}" if colon else "; leave it out"
                raise InputError(f"{key} belongs to {owner.name}{here}{mend}", key, owning if colon else "")


def _refuse(rows: Refusals, asked: Any, start: str = "") -> None:
    """Raise ``InputError`` for the first row whose condition holds. A sentence begins with the key that it is about."""
    for sentence, said_of in rows.items():
        if said_of(asked):
            line = sentence.format(p=asked, r=asked)
            key, *_ = re.split("[: ]", line, maxsplit=1)
            raise InputError(start + line, key)
