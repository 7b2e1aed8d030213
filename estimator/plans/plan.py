"""The plan: what a user asks about.

It is a pydantic model that forbids unknown keys. Outside programs may rely on it (``docs/command-reference.md``).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    StrictBool,
)

from ..bases.formats import FORMATS, FOUR_BIT, OPEN_SIZES, UPCAST, Base, Format
from ..engines.assumptions import Assumption
from ..engines.devices import THIS, assumptions, find, limit_of
from ..engines.engine import Engine
from ..engines.llama_cpp.options import is_gguf
from ..engines.registry import KEYS, RUNTIMES, claimed, commanded, engine_of, meant
from ..errors import InputError, shown
from ..io.fields import Block, FileName, FloatDtype, Rank, Whole, block_reader, checked, parse_size, torch_dtype
from ..io.files import NotYaml, parse_json_or_yaml, read_text
from ..methods.full import FullMethod
from ..methods.options import MethodOptions
from ..methods.registry import METHODS, method_options
from ..moments.options import RunOptions
from ..programs.heads import HEADS, HeadName, Part
from ..programs.images import Media
from ..programs.releases import NEWEST, is_older, release_of
from ..steps.generate_options import GenerateOptions
from ..steps.optimizers import OPTIMIZERS
from ..steps.sharding.options import ShardingOptions
from ..steps.sharding.options import read as read_sharding
from ..steps.trainers import TRAINERS as RECORDED
from ..steps.unsloth import UNCERTAINTY
from ..text import human
from .beside_sharding import without_a_rule
from .lengths import LengthOptions, length_options
from .models import load
from .presets import TRAINERS, preset_assumptions, with_presets
from .quantised_checkpoints import checkpoint_assumptions, with_checkpoint
from .refusals import check
from .second_model import SecondModel, plain, scoring_models, second_model, teacher_model


def _checkpointing(value: Any) -> Any:
    """A kind of gradient checkpointing. Raises ``ValueError``."""
    kinds = ("none", "layer", "attention", "matmul", "offloaded")
    if isinstance(value, str) and (value in kinds or re.fullmatch(r"every-[1-9][0-9]{0,5}", value)):
        return value
    raise ValueError(f"must be {', '.join(kinds)} or every-K (every-2: segments of two layers)")


def _dashed(value: Any) -> Any:
    """A name with dashes, in lower case: adamw-8bit for adamw_8bit."""
    return value.lower().replace("_", "-") if isinstance(value, str) else value


def _image_size(value: Any) -> Any:
    """One size in pixels, or a list of them: 1024x768, or a list of height and width. Raises ``ValueError``."""
    if isinstance(value, str) and "," in value:
        value = value.split(",")
    if isinstance(value, (list, tuple)) and value and not all(type(n) is int for n in value):
        sizes = tuple(map(_height_and_width, value))
        return sizes if len(sizes) > 1 else sizes[0]
    return _height_and_width(value)


def _height_and_width(value: Any) -> tuple[int, int]:
    sides = (
        re.fullmatch(r"\s*([1-9][0-9]{0,4})\s*[xX]\s*([1-9][0-9]{0,4})\s*", value) if isinstance(value, str) else None
    )
    if sides is not None:
        value = tuple(map(int, sides.groups()))
    if isinstance(value, (list, tuple)) and len(value) == 2 and all(type(n) is int and 0 < n < 10**5 for n in value):
        return value[0], value[1]
    raise ValueError("must be height x width in pixels, such as 1024x768, or one for each image: 1024x768,448x448")


def _several_losses(value: Any) -> Any:
    """TRL's list of losses, as one text."""
    several = isinstance(value, (list, tuple)) and value and all(isinstance(one, str) for one in value)
    return "+".join(value) if several else value


def _numbers(value: Any) -> Any:
    """A list of numbers, or one; a text has them between commas."""
    words = (value,) if isinstance(value, int) else _listed(value)
    return tuple(int(x) if isinstance(x, str) and x.isdecimal() else x for x in words) if words is not value else value


def _listed(value: Any) -> Any:
    """A list of words; a text has them between commas."""
    return tuple(word.strip() for word in value.split(",")) if isinstance(value, str) else value


if TYPE_CHECKING:
    from ..engines.llama_cpp.options import LlamaCppKeys
    from ..engines.torch_cuda.options import CudaKeys

_generate = block_reader(GenerateOptions, "generate", "{max_new_tokens: 256, cache_implementation: static}")
_run = block_reader(RunOptions, "run", "{eval_samples: 500, compute_metrics: true}")

if TYPE_CHECKING:
    TrainerName = str
    Runtime = str
    Dtype = str
    Optimizer = str
    _Keys = BaseModel
else:
    _Keys = object  # fields are collected once, of ``Plan``
    TrainerName = Literal[tuple(TRAINERS)]
    Runtime = Literal[RUNTIMES]
    Optimizer = Literal[tuple(OPTIMIZERS)]
    _own = [keys.dtypes for keys in KEYS.values() if keys.dtypes is not None]
    Dtype = Union[(Literal["float32", "bfloat16", "float16"], Format, *_own)]


class _Question(_Keys):
    """The keys of a plan up to those that belong to an engine."""

    model: Annotated[FileName, Field(description="built-in name, config.json or its folder, hub id, or .gguf file")]
    implementation: Literal["transformers", "litgpt"] = Field(
        "transformers",
        description="whose model and training loop; litgpt has its own names for models and LoRA's parts",
    )
    transformers: Annotated[Literal["4.45", "4.48", "4.57", "5.24"], BeforeValidator(release_of)] = Field(
        NEWEST, description="transformers' release, whose modules run; 4.48.3 is read as 4.48"
    )
    litgpt: Literal["0.4.12", "0.5.13"] = Field(
        "0.5.13", description="litgpt's release; 0.4.12 stands for 0.3 to 0.4.12, which run alike"
    )
    task: Literal["train", "infer", "serve"] = Field(
        "train",
        description="an optimizer step; one forward pass over the whole prompts (prefill), or generate; a server of "
        "batch requests of seq tokens; if not given, infer where generate or llama.cpp is asked for, serve with vllm",
    )
    trainer: TrainerName | None = Field(
        None, description="a training tool whose defaults hold for keys that are not given"
    )
    trl: Literal["1.9", "1.14", "1.16"] = Field("1.16", description="TRL's release, whose trainer's step runs")
    prompt_seq: Annotated[Whole, Field(ge=1, le=10**8)] | None = Field(
        None, description="trainer: tokens of a row that are its prompt; half of seq if not given"
    )
    loss_type: Annotated[str, BeforeValidator(_several_losses)] | None = Field(
        None,
        description="trl-dpo, trl-kto, trl-cpo, trl-grpo: TRL's name of the loss; of trl-dpo several with + between; "
        "sentence-transformers: that of its class",
    )
    anchor_seq: Annotated[Whole, Field(ge=1, le=10**8)] | None = Field(
        None, description="sentence-transformers: tokens of a row's first text, such as a query; seq if not given"
    )
    negatives: Annotated[Whole, Field(ge=0, le=1000)] | None = Field(
        None, description="sentence-transformers: texts of a row beside an anchor and a positive; 0, or 1 for triplets"
    )
    pooling_mode: Literal["mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"] = Field(
        "mean", description="sentence-transformers: how a text's tokens become its embedding (Pooling)"
    )
    normalize: StrictBool = Field(False, description="sentence-transformers: embeddings have the length 1 (Normalize)")
    matryoshka_dims: Annotated[
        tuple[Annotated[Whole, Field(ge=1, le=10**6)], ...], BeforeValidator(_numbers), Field(max_length=8)
    ] = Field(
        (), description="sentence-transformers: MatryoshkaLoss around the loss, with these dimensions: 768,256,64"
    )
    beta: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        None,
        description="TRL's; with trl-grpo and trl-rloo there is no reference where it is 0; of a teacher's "
        "divergence 0 to 1",
    )
    precompute_ref_log_probs: StrictBool = Field(
        False, description="trl-dpo, trl-kto: the reference's log-probabilities come with the batch"
    )
    num_generations: Annotated[Whole, Field(ge=2, le=10**6)] | None = Field(
        None, description="trl-grpo, trl-rloo: completions of a prompt; 8, or 2 for trl-rloo"
    )
    steps_per_generation: Annotated[Whole, Field(ge=1, le=10**6)] | None = Field(
        None, description="trl-grpo, trl-rloo: batches from one generation; if not given, gradient_accumulation_steps"
    )
    num_iterations: Annotated[Whole, Field(ge=1, le=10**4)] = Field(
        1, description="trl-grpo, trl-rloo: how often a generation's batches train"
    )
    use_vllm: StrictBool = Field(False, description="trl-grpo, trl-rloo: vLLM generates, not transformers")
    vllm_mode: Literal["colocate", "server"] = Field(
        "colocate", description="use_vllm: in the trainer's processes, on their GPUs, or elsewhere"
    )
    vllm_gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = Field(
        0.3, description="vllm_mode colocate: the share of each GPU that vLLM takes beside the trainer"
    )
    vllm_enable_sleep_mode: StrictBool = Field(
        False, description="vllm_mode colocate: vLLM gives its weights and its cache back while the step runs"
    )
    vllm_tensor_parallel_size: Annotated[Whole, Field(ge=1, le=1024)] = Field(
        1, description="vllm_mode colocate: processes of the job that split vLLM's layers"
    )
    vllm_max_model_length: Annotated[Whole, Field(ge=1, le=10**8)] | None = Field(
        None, description="vllm_mode colocate: tokens of vLLM's longest request; the model's positions if not given"
    )
    reference: Annotated[str | SecondModel, Block(second_model, (SecondModel,).__iter__)] | None = Field(
        None,
        description="what the policy is compared with: none, adapter-off, copy, or a model, also as a block "
        "{model, dtype, device}; if not given, what the trainer takes",
    )
    reward_model: (
        Annotated[SecondModel | tuple[SecondModel, ...], Block(scoring_models, (SecondModel,).__iter__)] | None
    ) = Field(
        None,
        description="trl-grpo, trl-rloo: a model that scores the completions, also as a block {model, dtype, device}, "
        "or a list of them; if not given, functions that take nothing of the device",
    )
    teacher: Annotated[SecondModel, Block(teacher_model, (SecondModel,).__iter__)] | None = Field(
        None,
        description="trl-gkd, trl-distillation: the model whose next tokens are learnt, also as a block "
        "{model, dtype, device}",
    )
    lmbda: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="trl-gkd: the share of the batches whose completions the model generates itself"
    )
    seq_kd: StrictBool = Field(False, description="trl-gkd: the teacher generates the other completions")
    batch: Annotated[Whole, Field(ge=1, le=10**6, description="micro-batch: sequences per forward")] = 1
    seq: Annotated[Whole, Field(ge=1, le=10**8, description="sequence length in tokens")] = 2048
    target_seq: Annotated[
        Whole,
        Field(
            ge=1,
            le=10**8,
            description="head seq2seq-lm: tokens of the decoder, whose labels they are; with generate its prompt, 1 if "
            "not given",
        ),
    ] = 128
    images: Annotated[Whole, Field(ge=0, le=1000)] | None = Field(
        None, description="head image-text: images of a row, whose tokens are among seq; 1 if not given"
    )
    image_size: Annotated[tuple[int, int] | tuple[tuple[int, int], ...], BeforeValidator(_image_size)] | None = Field(
        None,
        description="height x width of each image in pixels, as the processor is given it: 1024x768, or one for each "
        "image: 1024x768,448x448",
    )
    video_frames: Annotated[Whole, Field(ge=1, le=10**5)] | None = Field(
        None, description="head image-text: frames of a video in each row in place of images, of image_size each"
    )
    audio_frames: Annotated[Whole, Field(ge=1, le=10**8)] | None = Field(
        None, description="frames of an audio encoder's features, or samples; if not given, as many as it takes"
    )
    audio_seconds: Annotated[float, Field(gt=0, le=10**5)] | None = Field(
        None, description="audio_frames as a time: 16,000 samples, or 100 frames of features, a second"
    )
    freeze: Annotated[tuple[Part, ...], BeforeValidator(_listed)] = Field(
        (),
        description="parts that do not train, beside the method: vision, projector, language, embeddings, encoder, "
        "feature_encoder, base_model",
    )
    head: HeadName | None = Field(
        None, description="what the model ends with; if not given, what the config's architectures say, else causal-lm"
    )
    lengths: Annotated[LengthOptions, Block(length_options)] | None = Field(
        None,
        description="lengths of the run's samples in place of seq: a JSONL or parquet file of token counts, or a "
        "mapping such as {histogram: {512: 900, 2048: 12}, pad_to_multiple_of: 8}",
    )
    dtype: Dtype = Field(
        "bfloat16",
        description="dtype of the base weights (bf16, fp16, fp32 mean PyTorch's), or how its linear layers are "
        "quantised; on llama.cpp the recipe of llama-quantize (Q4_K_M if not given)",
    )
    rest_dtype: FloatDtype = Field(
        "bfloat16", description="quantised base: dtype of the other weights (from_pretrained's dtype)"
    )
    compute_dtype: FloatDtype = Field("float32", description="nf4, fp4: dtype of the products (bnb_4bit_compute_dtype)")
    double_quant: StrictBool = Field(
        False, description="nf4, fp4: block scales are quantised too (bnb_4bit_use_double_quant)"
    )
    quant_storage: Literal["uint8", "bfloat16", "float16", "float32"] = Field(
        "uint8",
        description="nf4, fp4: dtype of the packed weights (bnb_4bit_quant_storage); for FSDP1 that of the others",
    )
    bitsandbytes: Literal["0.43.1", "0.49", "0.50"] = Field(
        "0.50", description="nf4, fp4: release of bitsandbytes; 0.49 stands for 0.43.2 to 0.49, which run alike"
    )
    weight_group_size: Annotated[Union[Literal[-1], Annotated[Whole, Field(ge=8, le=10**6)]], Field()] = Field(
        128, description="gptq, awq: inputs of a layer that share a scale and a zero point; -1 for all of them"
    )
    kbit_preparation: StrictBool = Field(
        False,
        description="quantised base: peft.prepare_model_for_kbit_training, without its checkpointing",
    )
    autocast: Annotated[Literal["bfloat16", "float16"], BeforeValidator(torch_dtype)] | None = Field(
        None, description="torch.autocast dtype"
    )
    attention: Literal["eager", "sdpa", "flash"] = Field(
        "sdpa", description="attention implementation; flash (the flash-attn package) on torch-cuda only"
    )
    sdpa_kernel: Literal["flash", "efficient", "cudnn", "math"] | None = Field(
        None, description="torch-cuda, sdpa: the one kernel allowed (torch.nn.attention.sdpa_kernel)"
    )
    experts_implementation: Literal["eager", "batched_mm", "grouped_mm"] | None = Field(
        None, description="how a mixture of experts runs (transformers' name); if not given, as transformers picks"
    )
    routing: Literal["balanced", "worst"] = Field(
        "balanced",
        description="how tokens choose experts, where memory depends on it: all of them evenly, or each token the same",
    )
    checkpointing: Annotated[
        Union[Literal["none", "layer", "attention", "matmul", "offloaded"], str],
        BeforeValidator(_checkpointing),
        Field(
            description="gradient checkpointing; every-K (as in every-2): of K layers together; offloaded "
            "(torch-cuda): of each layer, with its input held in the host's pinned memory"
        ),
    ] = "none"
    use_reentrant: StrictBool | None = Field(
        None,
        description="checkpointing layer, offloaded: torch.utils.checkpoint's use_reentrant; if not given, "
        "transformers' default, true before release 5",
    )
    saved_activations: Literal["as-is", "int8", "int4", "on-host"] = Field(
        "as-is",
        description="how activations saved for backward are held: as they are, quantised by group, or (torch-cuda) in "
        "the host's pinned memory (torch.autograd.graph.save_on_cpu, which moves saved weights too)",
    )
    activation_group_size: Annotated[
        Whole,
        Field(
            ge=2,
            le=10**6,
            multiple_of=2,
            description="elements that share a scale where saved activations are quantised",
        ),
    ] = 64
    kernels: Literal["transformers", "unsloth"] = Field(
        "transformers",
        description="whose modules run: transformers' and PEFT's, or (torch-cuda, lora) those that Unsloth puts in "
        "their place, with its own offloaded checkpoints",
    )
    mlp_chunks: Annotated[
        Whole, Field(ge=1, description="number of chunks of tokens that the MLP runs one after the other")
    ] = 1
    loss: Annotated[
        Literal[
            "standard",
            "chunked",
            "liger",
            "cce",
            "chunked-nll",
            "fused-lm-head",
            "ce-chunked-output",
            "linear-cross-entropy",
            "unsloth",
        ],
        BeforeValidator(_dashed),
    ] = Field(
        "standard",
        description="loss implementation; chunked-nll is the default of TRL 1.4 to 1.14, fused-lm-head that of 1.15 "
        "on, ce-chunked-output and linear-cross-entropy are torchtune's; unsloth's takes chunks by the free memory",
    )
    loss_chunk: Annotated[Whole, Field(ge=1)] | None = Field(
        None, description="tokens per chunk of the chunked loss; 256 if not given"
    )
    num_output_chunks: Annotated[Whole, Field(ge=1, le=1000)] = Field(
        8, description="torchtune's losses: number of chunks of tokens"
    )
    label_share: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="TRL's losses: share of the tokens that have a label; below 1 for a loss on completions only"
    )
    method: Annotated[MethodOptions, Block(method_options, METHODS.values)] = FullMethod.model_construct()
    optimizer: Annotated[Optimizer, BeforeValidator(_dashed)] = Field("adamw", description="optimizer")
    optimizer_rank: Rank | None = Field(None, description="rank of galore-adamw's projection; 128 if not given")
    embedding_optim_bits: Literal[8, 32] = Field(
        8, description="8-bit optimizers: bits of the states of embeddings; 32 in transformers' Trainer"
    )
    gradient_accumulation_steps: Annotated[
        Whole,
        Field(ge=1, le=10**6, description="micro-batches per step; above 1, gradients exist when a forward starts"),
    ] = 1
    keep_logits: StrictBool = Field(True, description="the loop holds the model's output during backward")
    drop_output_before_step: StrictBool = Field(
        False, description="the loop frees the model's output after backward, before the optimizer's step"
    )
    attention_mask: StrictBool = Field(False, description="a padding mask (with padding in it) is passed")
    data_collator: StrictBool = Field(
        False,
        description="the batch is a data collator's: labels are a tensor of their own, and a mask is passed even where "
        "nothing is padded",
    )
    packing: StrictBool = Field(
        False,
        description="the batch is one row of batch x seq tokens without padding, with position ids that start again in "
        "each sequence, and labels of its own (packed, padding-free)",
    )
    return_seq_idx: StrictBool = Field(
        False, description="packing: the batch also has the number of each token's sequence, in int32"
    )
    use_cache: StrictBool = Field(False, description="the model also returns its KV cache")
    generate: Annotated[GenerateOptions, Block(_generate)] | None = Field(
        None, description="infer: a call of transformers' generate, by its names, in place of one pass"
    )
    convert_outputs_to_fp32: StrictBool = Field(
        False, description="autocast: the model's output is cast to float32, as accelerate does"
    )
    neftune_noise_alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="NEFTune: noise is added to the embeddings"
    )
    previous_output: StrictBool | None = Field(
        None,
        description="the loop still holds the previous step's output while the next forward runs; if not given, true "
        "in training on torch-cuda with keep_logits and without drop_output_before_step, else false",
    )
    gradient_clipping: StrictBool = Field(False, description="clip_grad_norm_ before the optimizer's step")
    sharding: Annotated[ShardingOptions, Block(read_sharding)] | None = Field(
        None, description="how processes share the model: a block such as {name: fsdp2, world_size: 8}"
    )
    run: Annotated[RunOptions, Block(_run)] | None = Field(
        None,
        description="what surrounds the step, by the Trainer's names: loading, evaluation, saving; the verdict is on "
        "the largest moment",
    )
    runtime: Runtime = Field(
        RUNTIMES[0],
        description="what runs the model; if not given, llama.cpp for a .gguf file, a recipe of llama.cpp or the block "
        "llama_cpp, else torch-cuda where the device is a CUDA GPU",
    )


if TYPE_CHECKING:  # of engines' keys those that are read above the engines

    class _WithEngines(LlamaCppKeys, CudaKeys, _Question):
        pass

else:

    class _Bases:
        """The bases of ``Plan``, of which each costs the time in which pydantic collects the fields of one more."""

        def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
            return (*(keys.fields for keys in KEYS.values() if keys.names), _Question)

    _WithEngines = _Bases()


class Plan(_WithEngines):
    """One question: a model, what is done with it, and where."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=False)

    device: str | None = Field(
        None, description="device to fit, by name (`estimator devices`); this: what is free on this machine now"
    )
    ios_increased_memory_limit: StrictBool = Field(
        False, description="iPhone, iPad: the app has the increased-memory-limit entitlement, and a higher limit"
    )
    budget: str | None = Field(
        None,
        description="memory to fit, with a unit: 8GiB, 24GB; beside a device it replaces the limit of one application",
    )
    host_memory: str | None = Field(
        None,
        description="the machine's RAM (a size, or this) for what is offloaded, loaded or served from it beside a GPU",
    )

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        """The keys that are given."""
        return ((key, getattr(self, key)) for key in type(self).model_fields if key in self.model_fields_set)

    _whose: dict[str, str] = PrivateAttr(default_factory=dict)
    """For each key that a preset set, whose defaults it is."""

    @property
    def preset_keys(self) -> Iterable[str]:
        """The keys of the plan and of its method that presets set."""
        return self._whose

    @property
    def engine(self) -> Engine:
        """What runs the model: the engine of the plan's ``runtime``."""
        return engine_of(self.runtime)

    @property
    def from_gguf(self) -> bool:
        """Whether the model is a GGUF file."""
        return is_gguf(self.model)

    @property
    def asked(self) -> str:
        """In words: what the plan does, in which program, and whether a training step has gradient checkpointing."""
        return self.engine.asked(self) + (f", {self.checkpoints}" if self.task == "train" else "")

    @property
    def checkpoints(self) -> str:
        """In words: whether a training step has gradient checkpointing, and which."""
        if self.checkpointing == "none":
            return "without gradient checkpointing"
        return f"with gradient checkpointing ({self.checkpointing})"

    @property
    def base(self) -> Base | None:
        """The format of the linear layers' weights, where they are quantised."""
        if self.dtype not in FORMATS:
            return None
        if self.implementation == "litgpt":  # Lightning quantises from float16 and sets the compute dtype
            four_bit = self.rest_dtype, self.double_quant, self.bitsandbytes
            return Base(self.dtype, "float16", *four_bit, quantises_head=True)
        four_bit = self.compute_dtype, self.double_quant, self.bitsandbytes
        return Base(self.dtype, self.rest_dtype, *four_bit, self.weight_group_size, quant_storage=self.quant_storage)

    @property
    def held_dtype(self) -> str:
        """The dtype of all weights that are not quantised."""
        if self.dtype not in FORMATS:
            return self.dtype
        cast_back = self.sharding is not None and self.sharding.casts
        return "float32" if self.kbit_preparation and self.dtype in UPCAST and not cast_back else self.rest_dtype

    @property
    def uncertainty(self) -> float:
        """The share by which processes differ from predictions: the engine's, and of Unsloth's kernels their own."""
        return max(self.engine.uncertainty, UNCERTAINTY if self.kernels == "unsloth" else 0.0)

    @property
    def colocates(self) -> bool:
        """Whether vLLM generates in the trainer's processes."""
        return self.use_vllm and self.vllm_mode == "colocate"

    @property
    def world_size(self) -> int:
        """The processes of the job."""
        return 1 if self.sharding is None else self.sharding.world_size or 1

    @property
    def upcasts_trained(self) -> str | None:
        """The function of accelerate 1.16 that casts what trains to float32 where FSDP shards it under mixed precision.

        FSDP2 casts nothing beside packed 4-bit weights. Transformers' plan (``groups: transformers``) and Axolotl's own
        ``fsdp2_prepare_model`` (``groups: layers``) take the place of accelerate's.
        """
        block = self.sharding
        if block is None or self.autocast is None or self.task != "train":
            return None
        if block.name == "fsdp1" and block.groups in ("accelerate", "transformers"):
            return "Accelerator.prepare_model"
        return "fsdp2_prepare_model" if block.groups == "accelerate" and self.dtype not in FOUR_BIT else None

    @property
    def reentrant(self) -> bool:
        """Whether checkpoints of layers are reentrant."""
        return is_older(self.transformers, "5") if self.use_reentrant is None else self.use_reentrant

    @property
    def open_sizes(self) -> bool:
        """Whether formulas may keep the model's sizes as symbols. Else they hold for this plan's model only."""
        return self.closed_by is None

    @property
    def closed_by(self) -> str | None:
        """The key and value whose rules compare sizes, so that sizes cannot stay symbols; ``None`` without one."""
        if self.implementation == "litgpt":
            return "implementation: litgpt"
        if not (self.method.open_sizes and self.method.inner.open_sizes):
            return f"method: {self.method.name}"
        if self.trainer in RECORDED:
            return f"trainer: {self.trainer}"
        if self.sharding is not None:
            return f"sharding: {self.sharding.label}"
        if self.kernels != "transformers":
            return f"kernels: {self.kernels}"
        if self.saved_activations != "as-is":
            return f"saved_activations: {self.saved_activations}"
        if self.dtype in FORMATS and self.dtype not in OPEN_SIZES:
            return f"dtype: {self.dtype}"
        if self.checkpointing.startswith("every-"):
            return f"checkpointing: {self.checkpointing}"
        return None if OPTIMIZERS[self.optimizer].open_sizes else f"optimizer: {self.optimizer}"

    @property
    def piecewise(self) -> str | None:
        """The key that keeps totals from having a single formula in batch and sequence; ``None`` without such a key."""
        if self.implementation == "litgpt":
            return "implementation: litgpt"
        if self.packing:
            return "packing: true"
        return "mlp_chunks" if self.mlp_chunks > 1 else f"loss: {self.loss}" if self.loss != "standard" else None

    @property
    def packed_beside(self) -> str | None:
        """The key and value that a packed batch cannot have; ``None`` without one."""
        if self.attention_mask:
            return "attention_mask: true, since nothing in it is padded"
        if self.row == 1:
            return "a batch of one token, which is one sequence"
        return "lengths, which pad each batch to its longest sequence" if self.lengths is not None else None

    @property
    def beside_sharding(self) -> str | None:
        """The first key and value for which a sharded step has no rule yet; ``None`` without one."""
        return without_a_rule(self)

    @property
    def media(self) -> Media:
        """The images and the audio of a row."""
        seconds, size = self.audio_seconds, self.image_size or ()
        frames = self.audio_frames if seconds is None else None
        sizes = tuple([one for one in size if isinstance(one, tuple)]) or (size,) * bool(size)
        images = len(sizes) or 1 if self.images is None else self.images
        return Media(images, sizes, frames, seconds, video_frames=self.video_frames)  # type: ignore[arg-type]

    @property
    def sees(self) -> bool:
        """Whether the plan says something of images, or of the parts of a model that looks at some."""
        beside = any(part in self.freeze for part in ("vision", "projector"))
        media = (self.images, self.image_size, self.video_frames)
        return any(one is not None for one in media) or beside

    @property
    def tokens(self) -> int:
        """Tokens of a row that a model reads, those that it makes included."""
        return self.seq + (0 if self.generate is None else self.generate.max_new_tokens - 1)  # the last is not read

    @property
    def decoder_seq(self) -> int:
        """Tokens that a decoder beside an encoder is given: as many as there are labels, or the prompt of ``generate``,
        one if nothing is said.
        """
        return 1 if self.generate is not None and "target_seq" not in self.model_fields_set else self.target_seq

    @property
    def decoder_tokens(self) -> int:
        """Tokens of a row that a decoder beside an encoder reads, those that it makes included."""
        return self.decoder_seq + self.tokens - self.seq

    def tokens_of(self, head: str) -> int:
        """Tokens of a row of text that a model with a head reads. An encoder reads none of those that are made."""
        return self.seq if HEADS[head].has_target else self.tokens

    @property
    def row(self) -> int:
        """Tokens of a row of the batch."""
        return self.batch * self.seq if self.packing else self.seq

    @property
    def pins_memory(self) -> str | None:
        """The key and value that put what is saved for backward into the host's pinned memory, if any."""
        if self.saved_activations == "on-host":
            return "saved_activations: on-host"
        return "checkpointing: offloaded" if self.checkpointing == "offloaded" else None

    @property
    def holds_previous_output(self) -> bool:
        """Whether the loop still holds the previous step's output while the next forward runs."""
        if self.previous_output is None:
            holds = self.keep_logits and not self.drop_output_before_step
            return self.task == "train" and self.engine.holds_output and holds
        return self.previous_output

    @property
    def shorter_seq(self) -> int:
        """Tokens per sequence of the batch that comes before the longest one."""
        if self.previous_seq is not None:
            return self.previous_seq
        return max(self.seq // SHORTER, -(-self.mlp_chunks // self.batch), self.least_seq)

    @property
    def least_seq(self) -> int:
        """The fewest tokens of a row: of a trainer's a prompt and a token of the completion."""
        return 1 + (self.prompt_seq or 1) if self.has_prompts else 1

    @property
    def has_prompts(self) -> bool:
        """Whether a row of the trainer's is a prompt and a completion."""
        return self.trainer in RECORDED and not RECORDED[str(self.trainer)].embeds

    def budget_bytes(self) -> int | None:
        """Bytes of the budget, or of the device's limit for one application; ``None`` if neither was given.

        Raises ``InputError`` for a budget beside a GPU whose limit is known, and for one above the device's memory.
        """
        device = None if self.device is None else find(self.device)
        if self.budget is not None:
            # Beside a GPU it is more likely a mistake, since drivers report what a process can have.
            known = device is not None and device.kind.startswith("GPU") and device.assumed is None
            if known and not self.engine.takes_budget_on_cards:
                raise InputError(f"budget does not go with device: {self.device}; leave one of them out")
            budget = parse_size(self.budget)
            if device is not None and budget > device.total_bytes:
                raise InputError(
                    f"budget: {self.budget} does not go with device: {device.name}, which has "
                    f"{human(device.total_bytes)} in all; give a smaller one, or leave the device out"
                )
            return budget
        return None if device is None else limit_of(device, self.ios_increased_memory_limit)

    def host_memory_bytes(self) -> int | None:
        """Bytes of the machine's RAM, ``this`` those that are free here; ``None`` if they are not given."""
        if self.host_memory == THIS:
            from ..engines.this_machine import ram

            return ram().free
        return None if self.host_memory is None else parse_size(self.host_memory)

    def with_targets(self, why: str) -> "Plan":
        """The plan with its method on all linear layers, and ``why`` among the assumptions."""
        method = self.method.model_copy(update={"target_modules": "all-linear"})
        plan = self.model_copy(update={"method": method})
        plan._whose = {**self._whose, "target_modules": why}
        return plan

    def assumptions(self) -> tuple[Assumption, ...]:
        """What presets set, and what ``budget_bytes`` rests on where it is a device's limit that nobody published."""
        method = self.method.model_dump(exclude_unset=True)
        values = {**method, **{key: plain(getattr(self, key)) for key in self._whose if key in Plan.model_fields}}
        values |= {} if self.sharding is None else self.sharding.model_dump(exclude_unset=True)
        values |= {} if self.lengths is None else {"truncate": self.lengths.truncate}
        preset = preset_assumptions(values, self._whose)
        if self.upcasts_trained is not None and self.held_dtype != "float32":
            preset.append(
                Assumption("trained parameters", "float32", f"accelerate casts them ({self.upcasts_trained})")
            )
        if self.has_prompts and self.prompt_seq is None and self.task == "train":
            preset.append(Assumption("prompt_seq", self.seq // 2, "half of seq; give the key to replace it"))
        if self.engine.reads_checkpoints:
            preset += checkpoint_assumptions(self.model, lambda key: getattr(self, key))
        if self.device is None:
            return tuple(preset)
        return (
            *preset,
            *assumptions(find(self.device), self.ios_increased_memory_limit, self.budget is not None),
        )


SHORTER = 8
"""The longest batch's length over that of the batch before it, where a plan gives one length only.

An assumption about data, not a rule. From 5 to 20 it moves the reserved bytes of the runs in
``docs/measured/published/peft-metamathqa.yaml`` by about one per cent.
"""


@contextmanager
def words_explained(data: Mapping[Any, Any]) -> Iterator[None]:
    """Where a plan is refused and has a word of another program in it, say which keys that word stands for."""
    try:
        yield
    except InputError:
        from .words import refuse_words

        refuse_words(data)
        raise


def parse_plan(data: Mapping[str, Any]) -> Plan:
    """A plan from a mapping. Raises ``InputError`` with one line for the first thing that is wrong."""
    data = commanded(data)
    with words_explained(data):
        data, whose = with_presets(data)
        if data.get("lengths") is not None and "seq" in whose:  # the tool cuts longer samples
            data = _cut(data, whose)
        plan = _filled(data)
        plan._whose = whose
        return plan


def _filled(data: Mapping[str, Any]) -> Plan:
    if "method" in data:
        options = method_options(data["method"])
        data = {**(options.plan_defaults if data.get("task") != "infer" else {}), **data, "method": options}
    if data.get("lengths") is not None:
        data = _with_longest(data)
    if "runtime" not in data and (runtime := claimed(data)) is not None:
        data = {**data, "runtime": runtime}
    if data.get("generate") is not None:
        data = {"task": "infer", **data}
    engine = meant(data)
    data = {**engine.defaults_of(data.get("model"), load), **data}
    if "dtype" in data:
        named = engine.dtype(torch_dtype(data["dtype"]))
        known = isinstance(named, str) and named.lower() in _SPELT
        data = {**data, "dtype": named.lower() if known else named}
    plan = checked(Plan, with_checkpoint(data))
    if "seq" not in plan.model_fields_set:
        plan = _within_positions(plan)
    check(plan)
    return plan


def _within_positions(plan: Plan) -> Plan:
    """The plan with the default tokens, or as many as its model has learned positions of, if these are fewer."""
    if plan.engine.reads_checkpoints and plan.implementation == "transformers":
        with suppress(InputError):  # is raised where the model is needed
            spec = load(plan.model).asked(plan.transformers, plan.head, plan.sees)
            if (
                HEADS[spec.head].text
                and spec.made_for < (tokens := plan.tokens_of(spec.head))
                and (more := tokens - spec.positions) > 0
            ):
                plan = plan.model_copy(update={"seq": max(plan.seq - int(more), 1)})
                plan.model_fields_set.discard("seq")  # it is no plan's that looks for its longest sequence
    return plan


_SPELT = (*FORMATS, *(name for keys in KEYS.values() for name in get_args(keys.dtypes)))
"""Dtypes that are written in capitals, too."""


def _cut(data: Mapping[str, Any], whose: dict[str, str]) -> dict[str, Any]:
    """A plan's keys with samples of its ``lengths`` cut at a preset ``seq``, unless they say where."""
    options, preset = length_options(data["lengths"]), whose.pop("seq")
    if options.truncate is None:
        options, whose["truncate"] = options.model_copy(update={"truncate": data["seq"]}), preset
    return {**{key: value for key, value in data.items() if key != "seq"}, "lengths": options}


def _with_longest(data: Mapping[str, Any]) -> dict[str, Any]:
    """A plan's keys with ``seq``, the length of the longest batch of its ``lengths``. Raises ``InputError``."""
    options = length_options(data["lengths"])
    lengths = options.read()
    longest = lengths.padded(lengths.longest)
    if data.get("seq", longest) != longest:
        raise InputError(
            f"seq: {shown(data['seq'])} does not go with lengths, whose longest is {longest}; leave it out, or set "
            "lengths.truncate"
        )
    return {**data, "lengths": options, "seq": longest}


def read_plan_mapping(path: Path) -> dict[str, Any]:
    """The keys of a plan in a YAML or JSON file, ``-`` for standard input. Raises ``InputError``."""
    text = read_text(path, "a plan in YAML or JSON", limit=100_000, or_stdin=True)
    try:
        data = parse_json_or_yaml(text)
    except NotYaml as error:
        raise InputError(f"plan '{path}' is not valid YAML or JSON{error.where}; is the file cut off?") from None
    except InputError as error:
        raise InputError(f"plan '{path}': {error}") from None
    if not isinstance(data, dict):
        raise InputError(f"plan '{path}' holds no mapping; write keys such as model: llama-3.2-1b")
    return data
