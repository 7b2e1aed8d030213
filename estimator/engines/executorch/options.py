"""What a plan may say of ExecuTorch: the block ``executorch`` of ``export_llm``'s options, and the dtype ``8da4w``."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from ...io.fields import Block, Whole, block_reader
from ..keys import Keys

Length = Annotated[Whole, Field(ge=2, le=2**20)]


class ExecuTorchOptions(BaseModel):
    """How the program is exported, by the names of ``export_llm``; what is not given is as in ExecuTorch's recipes."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    delegate: Literal["xnnpack", "none"] | None = Field(
        None,
        description="what runs the linear layers: XNNPACK, or none (portable kernels); xnnpack if the dtype is 8da4w",
    )
    max_context_length: Length | None = Field(
        None, description="positions of the KV cache, fixed in the file; the plan's seq if not given"
    )
    max_seq_length: Length | None = Field(
        None, description="most tokens of one call; the exporter's 128 if not given, or the context if that is shorter"
    )
    use_kv_cache: StrictBool = Field(True, description="the program keeps keys and values")
    use_sdpa_with_kv_cache: StrictBool | None = Field(
        None, description="attention is ExecuTorch's own operator; as use_kv_cache if not given"
    )
    quantize_kv_cache: StrictBool = Field(False, description="keys and values in 8 bits")
    enable_dynamic_shape: StrictBool = Field(True, description="the number of tokens may vary from call to call")
    generate_full_logits: StrictBool = Field(False, description="logits of all tokens, not of the last alone")
    use_hf_rope: StrictBool | None = Field(
        None,
        description="rotary embeddings as Hugging Face has them; as the exporter has the model's family if not given",
    )
    quantization_group_size: Annotated[Whole, Field(ge=32, le=4096, multiple_of=32)] = Field(
        32, description="dtype 8da4w: weights of a group, which share a scale"
    )
    embedding_quantize: Literal["4,32", "8,0", "none"] = Field(
        "4,32", description="dtype 8da4w: bits and group of the embedding; group 0 is a row"
    )

    @property
    def fused(self) -> bool:
        """Whether attention is ExecuTorch's own operator."""
        return self.use_kv_cache if self.use_sdpa_with_kv_cache is None else self.use_sdpa_with_kv_cache


DEFAULTS = ExecuTorchOptions.model_construct()
"""The block of a plan that gives none."""


class ExecuTorchKeys(BaseModel):
    """The key of a plan with the block."""

    model_config = ConfigDict(defer_build=True)

    executorch: Annotated[
        ExecuTorchOptions,
        Block(block_reader(ExecuTorchOptions, "executorch", "{max_context_length: 2048, delegate: xnnpack}")),
    ] = Field(DEFAULTS, description="runtime executorch: the program's export, by the exporter's names")


BLOCK = next(iter(ExecuTorchKeys.model_fields))
"""The key of the block."""


def is_pte(model: Any) -> bool:
    """Whether a plan's model is the name of a program's file."""
    return isinstance(model, str) and model.lower().endswith(".pte")


def delegate_of(plan: Any) -> str:
    """What runs the linear layers."""
    return plan.executorch.delegate or ("xnnpack" if plan.dtype == "8da4w" else "none")


def _claims(data: Mapping[str, Any]) -> bool:
    return is_pte(data.get("model")) or BLOCK in data or data.get("dtype") == "8da4w"


def _exports(plan: Any) -> bool:
    return not is_pte(plan.model)


KEYS = Keys(
    words=("execu-torch", "execu_torch", "pte", "export_llm"),
    fields=ExecuTorchKeys,
    dtypes=Literal["8da4w"],
    topic=("executorch", "ExecuTorch (export_llm's names)"),
    claims=_claims,
    refused={
        "task: train does not go with runtime: executorch, which infers here; take runtime: torch-cpu or torch-cuda": (
            lambda p: p.task == "train"
        ),
        "batch: {p.batch} does not go with runtime: executorch, whose programs take one sequence; leave it out": (
            lambda p: p.batch > 1
        ),
        "dtype: {p.dtype} does not go with runtime: executorch; take 8da4w, float32, bfloat16 or float16": (
            lambda p: p.dtype not in ("8da4w", "float32", "bfloat16", "float16")
        ),
        "dtype: 8da4w does not go with delegate: none, whose kernels have no such weights; take delegate: xnnpack": (
            lambda p: _exports(p) and p.dtype == "8da4w" and delegate_of(p) == "none"
        ),
        "dtype: {p.dtype} does not go with delegate: xnnpack, for which export_llm has float32 and 8da4w; take one of "
        "them": lambda p: _exports(p) and p.dtype in ("bfloat16", "float16") and delegate_of(p) == "xnnpack",
        "max_seq_length: {p.executorch.max_seq_length} does not go with a shorter context; give a longer one": (
            lambda p: (p.executorch.max_seq_length or 0) > (p.executorch.max_context_length or max(p.seq, 2))
        ),
        "quantize_kv_cache: true does not go with use_sdpa_with_kv_cache: false; leave one of them out": (
            lambda p: p.executorch.quantize_kv_cache and not p.executorch.fused
        ),
        "use_sdpa_with_kv_cache: true does not go with use_kv_cache: false; leave one of them out": (
            lambda p: p.executorch.fused and not p.executorch.use_kv_cache
        ),
    },
    refused_elsewhere={
        "a .pte file does not go with runtime: {p.runtime}, since ExecuTorch alone runs it; leave runtime out": (
            lambda p: is_pte(p.model)
        ),
        "dtype: 8da4w does not go with runtime: {p.runtime}, since ExecuTorch alone has it; set runtime: executorch": (
            lambda p: p.dtype == "8da4w"
        ),
    },
)
