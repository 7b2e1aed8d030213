"""What a plan may say of MLX: the block ``mlx`` of mlx-lm's own options, and its quantised weights as dtypes."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from ...errors import InputError
from ...io.fields import Block, Whole, block_reader
from ..devices import find
from ..keys import Keys

Quantised = Literal["mlx-3bit", "mlx-4bit", "mlx-5bit", "mlx-6bit", "mlx-8bit"]
"""Affine, embedding and head too (``mlx_lm.convert -q --q-bits``)."""
DTYPES = ("bfloat16", "float16", "float32", *get_args(Quantised))
OPTIMIZERS = ("adamw", "sgd")
Server = Literal["mlx_lm.server", "mlx_vlm.server", "mlx-openai-server", "vllm-mlx"]
Count = Annotated[Whole, Field(ge=1, le=10**8)]


class MlxOptions(BaseModel):
    """Options of ``mlx_lm.lora`` and ``mlx_lm.generate``, under their names and with their defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    num_layers: Annotated[Whole, Field(ge=-1, le=10**6)] = Field(
        16, description="layers to train, from the last on; -1 for all"
    )
    max_tokens: Annotated[Whole, Field(ge=1, le=10**6)] = Field(1, description="tokens to generate after the prompt")
    prefill_step_size: Count = Field(2048, description="tokens of the prompt that are run at once")
    max_kv_size: Annotated[Whole, Field(ge=8, le=10**8)] | None = Field(
        None, description="tokens that a cache keeps, the first 4 always; without it all are kept"
    )
    kv_bits: Literal[4, 8] | None = Field(None, description="bits of a quantised cache")
    kv_group_size: Literal[32, 64, 128] = Field(64, description="elements of a quantised cache that share a scale")
    quantized_kv_start: Annotated[Whole, Field(ge=0, le=10**8)] = Field(
        5000, description="tokens in a cache from which on it is quantised"
    )
    server: Server | None = Field(
        None, description="what serves the model; its prompt caches stay between requests, and have no rule here"
    )
    q_group_size: Literal[32, 64, 128] = Field(64, description="weights that share a scale, of a quantised model")
    default_device: Literal["gpu", "cpu"] = Field(
        "gpu", description="mx.set_default_device: the GPU of Apple silicon (Metal), or any machine's CPU"
    )
    iogpu_wired_limit_mb: Count | None = Field(
        None, description="what sysctl iogpu.wired_limit_mb was set to, in MiB, in place of the device's limit"
    )


DEFAULTS = MlxOptions.model_construct()
"""The block of a plan that gives none."""


class MlxKeys(BaseModel):
    """The key of a plan with the block."""

    model_config = ConfigDict(defer_build=True)

    mlx: Annotated[MlxOptions, Block(block_reader(MlxOptions, "mlx", "{num_layers: -1}"))] = Field(
        DEFAULTS, description="runtime mlx: mlx-lm's options, by its names"
    )


_PACKED = r"(?i)(?:mlx-community/)?(.+?)(?:-mlx)?-(?:([34568])bit|bf16|fp16)(?:-mlx)?"


def unpacked(model: str) -> tuple[str, int | None]:
    """A model's name without what mlx-community's names say of its weights, and their bits, where the name has some."""
    found = re.fullmatch(_PACKED, model)
    if found is None or "bnb" in model.lower():
        return model.removeprefix("mlx-community/"), None
    return found[1], int(found[2]) if found[2] else None


_SERVERS = "|".join(name.replace(".", "[. ]") for name in get_args(Server))
_COMMAND = re.compile(rf"(?:\S*python3? -m )?(?:\S*/)?({_SERVERS})(?: launch| serve)? (.*)")


def _commanded(text: str) -> Mapping[str, Any] | None:
    """The keys that a command line of a server on MLX means: its model and its name. Raises ``InputError``."""
    words = _COMMAND.fullmatch(f"{' '.join(text.split())} ")
    if words is None:
        return None
    server = words[1].replace(" ", ".")
    model = re.search(r"(?:^|--model(?:-path)?[ =])([^\s-]\S*)", words[2])
    if model is None:
        raise InputError(f"the command line names no model; write it like {server} --model qwen3-8b")
    (block,) = MlxKeys.model_fields
    found = {"model": model[1], "runtime": "mlx", "task": "infer", block: {"server": server}}
    bits = unpacked(model[1])[1]
    return found if bits is None else {**found, "dtype": f"mlx-{bits}bit"}


def _claims(data: Mapping[str, Any]) -> bool:
    """Whether a plan has the block, or a dtype that MLX alone has."""
    dtype = data.get("dtype")
    return any(key in data for key in MlxKeys.model_fields) or (
        isinstance(dtype, str) and dtype.lower() in get_args(Quantised)
    )


LORA_KEYS = frozenset({"name", "r", "lora_alpha", "lora_dropout", "target_modules", "use_dora", "use_rslora"})
"""Options of LoRA that mlx-lm has, some under other names."""


def _has_more(method: Any) -> bool:
    """Whether LoRA has an option that mlx-lm has not."""
    fields = type(method).model_fields
    given = (name for name in method.model_fields_set if name in fields and name not in LORA_KEYS)
    return any(getattr(method, name) != fields[name].get_default() for name in given)


def _trains_lora(plan: Any) -> bool:
    return bool(plan.task == "train" and plan.method.name == "lora")


KEYS = Keys(
    words=("mlx-lm", "mlx_lm", "metal"),
    fields=MlxKeys,
    dtypes=Quantised,
    topic=("mlx", "MLX (mlx-lm's names)"),
    claims=_claims,
    commanded=_commanded,
    takes=("method", "checkpointing", "optimizer", "gradient_accumulation_steps"),
    refused={
        f"dtype: {{p.dtype}} does not go with runtime: mlx, which has it not; take {', '.join(DTYPES)}": (
            lambda p: p.dtype not in DTYPES
        ),
        "method: {p.method.name} does not go with runtime: mlx, whose mlx_lm.lora has lora, dora and full; take "
        "method: lora (with use_dora: true for DoRA) or full": lambda p: p.method.name not in ("full", "lora"),
        "method: lora has no rule with other options than r, lora_alpha, target_modules, use_rslora and use_dora on "
        "runtime: mlx; leave them out": lambda p: _trains_lora(p) and _has_more(p.method),
        "lora_dropout: {p.method.lora_dropout} has no rule with runtime: mlx, whose masks are not counted; set "
        "lora_dropout: 0 for the bytes without them": lambda p: _trains_lora(p) and p.method.lora_dropout,
        "checkpointing: {p.checkpointing} does not go with runtime: mlx, whose grad_checkpoint is of each layer; set "
        "checkpointing: layer": lambda p: p.checkpointing not in ("none", "layer"),
        "optimizer: {p.optimizer} has no rule with runtime: mlx; take adamw (mlx-lm's adam takes the same memory) or "
        "sgd": lambda p: p.task == "train" and p.optimizer not in OPTIMIZERS,
        "method: {p.method.name} has no rule with task: infer on runtime: mlx, whose adapters are fused before; leave "
        "method out": lambda p: p.task == "infer" and p.method.name != "full",
        "server: {p.mlx.server} does not go with task: train, since it answers requests; set task: infer": (
            lambda p: p.task == "train" and p.mlx.server
        ),
        "batch: {p.batch} has no rule with task: infer on runtime: mlx, whose generate_step takes one prompt; leave "
        "batch out": lambda p: p.task == "infer" and p.batch > 1,
        "device: {p.device} does not go with runtime: mlx, which runs on Apple silicon; name a Mac that "
        "`estimator devices` lists, or set default_device: cpu": (
            lambda p: p.device is not None and p.mlx.default_device == "gpu" and not find(p.device).is_apple
        ),
        "default_device: cpu has no rule with device: {p.device}, where the CPU's buffers are Metal's, too; leave it "
        "out": (lambda p: p.device is not None and p.mlx.default_device == "cpu" and find(p.device).is_apple),
        "iogpu_wired_limit_mb does not go with what is no Mac; name a Mac as device": (
            lambda p: (
                p.mlx.iogpu_wired_limit_mb is not None
                and (p.mlx.default_device == "cpu" or p.device is None or find(p.device).kind != "Apple silicon")
            )
        ),
        "iogpu_wired_limit_mb does not go with a budget, which replaces the limit that it raises; leave one of them "
        "out": lambda p: p.mlx.iogpu_wired_limit_mb is not None and p.budget is not None,
    },
    refused_elsewhere={
        "dtype: {p.dtype} does not go with runtime: {p.runtime}, since MLX alone has it; set runtime: mlx, or take "
        "float16 or nf4": lambda p: p.dtype in get_args(Quantised),
    },
)
