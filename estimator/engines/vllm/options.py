"""What can be said of vLLM: the options of ``vllm serve``, by its names."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from ...io.fields import Block, Whole, block_reader
from ..keys import Keys
from ..served.program import Server
from ..served.refusals import REFUSED

BLOCK_SIZES = (1, 8, 16, 32, 64, 128, 256)
"""``vllm/config/cache.py: BlockSize`` of 0.11. Later releases take any size that the kernels do."""
CHECKPOINTS = 64
"""Tokens to which FlashInfer's linear attention aligns states (``FLASHINFER_GDN_CHECKPOINT_ALIGNMENT``)."""

AUTO = -1
"""``max_model_len`` that is as long as fits (``human_readable_int_or_auto``)."""

Release = Literal["0.11", "0.33"]


def _block_size(size: int) -> int:
    if size not in BLOCK_SIZES and size % 16:
        raise ValueError(f"must be one of {', '.join(map(str, BLOCK_SIZES))}, or a multiple of 16")
    return size


def _cache_dtype(value: Any) -> Any:
    return "fp8" if value in ("fp8_e4m3", "fp8_e5m2", "fp8_ds_mla", "fp8_inc") else value


def _model_len(tokens: int | None) -> int | None:
    if tokens == 0:
        raise ValueError("must be at least 1, or auto")
    return tokens


def _model_len_of(value: Any) -> Any:
    return AUTO if isinstance(value, str) and value.lower() == "auto" else value


BlockSize = Annotated[Whole, Field(ge=1), AfterValidator(_block_size)]
Ranks = Annotated[Whole, Field(ge=1, le=1024)]


class VllmOptions(BaseModel):
    """Options of ``vllm serve`` under its names, and sizes from its log in place of derived ones."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    release: Release = Field("0.33", description="release whose rules hold; 0.11 stands for 0.6 to 0.11")
    kv_cache_dtype: Annotated[Literal["auto", "bfloat16", "float16", "fp8"], BeforeValidator(_cache_dtype)] = Field(
        "auto", description="dtype of the KV cache; auto: as dtype"
    )
    block_size: BlockSize | None = Field(None, description="tokens in a block; by default what the kernels like, 16")
    max_model_len: Annotated[Whole | None, AfterValidator(_model_len), BeforeValidator(_model_len_of)] = Field(
        None,
        ge=-1,
        le=10**8,
        description="tokens of a request, prompt and answer; by default the model's positions; auto (-1): of these as "
        "many as fit",
    )
    tensor_parallel_size: Ranks = Field(1, description="ranks that split each layer")
    pipeline_parallel_size: Ranks = Field(1, description="ranks that have some layers each")
    data_parallel_size: Ranks = Field(1, description="copies of the model, which share experts")
    decode_context_parallel_size: Ranks = Field(1, description="ranks among those of a layer that split its tokens")
    enable_expert_parallel: bool = Field(False, description="each rank has whole experts, not a part of all")
    gpu_memory_utilization: float | None = Field(
        None, gt=0, le=1, description="share of the GPU that vLLM takes; 0.9, from 0.20 on 0.92"
    )
    kv_cache_memory_bytes: str | None = Field(None, description="size of the cache, in place of what is left")
    max_num_batched_tokens: Whole | None = Field(
        None,
        ge=1,
        le=10**7,
        description="tokens of one step, of all requests; by default 8192 on GPUs of 70 GiB and more but the A100, "
        "else 2048",
    )
    max_num_seqs: Whole | None = Field(
        None, ge=1, le=10**6, description="requests of one step; by default 1024 on the same GPUs, else 256"
    )
    enforce_eager: bool = Field(False, description="no CUDA graphs")
    enable_prefix_caching: bool = Field(True, description="costs nothing: its blocks are those that are free")
    disable_hybrid_kv_cache_manager: bool = Field(False, description="layers with a window keep all tokens")
    async_scheduling: bool = Field(True, description="a step is scheduled while the one before runs")
    quantization: str | None = Field(None, description="method of a quantised checkpoint, by the name of vLLM")
    enable_lora: bool = Field(False, description="slots for adapters")
    max_loras: Annotated[Whole, Field(ge=1, le=10**4)] = Field(1, description="slots")
    max_lora_rank: Annotated[Whole, Field(ge=1, le=4096)] = Field(16, description="rank of a slot")
    num_speculative_tokens: Annotated[Whole, Field(ge=0, le=128)] = Field(0, description="drafted tokens of a step")
    draft_model: str | None = Field(None, description="model that drafts, beside the one that is served")
    kv_offloading_size: float | None = Field(None, gt=0, description="GiB of the host's memory for evicted blocks")
    swap_space: float | None = Field(
        None, ge=0, description="GiB of the host's memory for each rank's evicted blocks, which engine V0 pinned (0.11)"
    )
    cpu_offload_gb: float = Field(0, ge=0, description="GiB of weights of each rank that stay in the host's memory")
    free: str | None = Field(None, description="free memory of the GPU at start; by default all of it")
    weights: str | None = Field(
        None, description="'Model loading took', as in 5.2GiB, of a checkpoint; derived by default"
    )
    activation: str | None = Field(None, description="'PyTorch activation peak memory', if known; derived by default")
    non_torch: str | None = Field(None, description="'non_torch_memory', if known; by default by the ranks")
    cudagraph: str | None = Field(None, description="CUDA graphs' memory, if known; by default 0.13GiB a rank")


DEFAULTS = VllmOptions.model_construct()
"""The block of a plan that gives none."""


class VllmKeys(BaseModel):
    """The key of a plan with the block."""

    model_config = ConfigDict(defer_build=True)

    vllm: Annotated[
        VllmOptions, Block(block_reader(VllmOptions, "vllm", "{tensor_parallel_size: 2, max_model_len: 8192}"))
    ] = Field(DEFAULTS, description="runtime vllm: the options of `vllm serve`, by its names")


SERVER = Server(
    r"vllm(?:\.entrypoints\S*)?", "vllm serve", r"\S*/vllm-openai\S*", "vllm serve MODEL --max-model-len 8192"
)


KEYS = Keys(
    fields=VllmKeys,
    topic=("vllm", "vLLM (the engine's names)"),
    claims=lambda data: data.get("task") == "serve",
    serves=True,
    commanded=SERVER.refuse,
    refused=REFUSED,
    refused_elsewhere={
        "task: serve does not go with runtime: {p.runtime}, which runs no server; set runtime: vllm": (
            lambda p: p.task == "serve" and p.engine.defaults.get("task") != "serve"
        ),
    },
)
