"""What can be said of SGLang: the options of ``sglang serve``, by its names."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ...io.fields import Block, Whole, block_reader
from ..keys import Keys
from ..served.program import Server
from ..served.refusals import REFUSED


def _cache_dtype(value: Any) -> Any:
    return {"bf16": "bfloat16", "fp8": "fp8_e4m3"}.get(value, value) if isinstance(value, str) else value


Ranks = Annotated[Whole, Field(ge=1, le=1024)]
Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[Whole, Field(ge=1, le=10**8)]


class SglangOptions(BaseModel):
    """Options of ``sglang serve`` under its names, and sizes from its log in place of derived ones."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    release: Literal["0.5.23"] = Field("0.5.23", description="release whose rules hold")
    kv_cache_dtype: Annotated[Literal["auto", "bfloat16", "fp8_e4m3", "fp8_e5m2"], BeforeValidator(_cache_dtype)] = (
        Field("auto", description="dtype of the KV cache; auto: as dtype")
    )
    page_size: Annotated[Whole, Field(ge=1, le=4096)] | None = Field(
        None, description="tokens in a page; by default what the kernels like, 1"
    )
    context_length: Count | None = Field(
        None, description="tokens of a request, prompt and answer; by default the model's positions"
    )
    tp_size: Ranks = Field(1, description="ranks that split each layer")
    pp_size: Ranks = Field(1, description="ranks that have some layers each")
    dp_size: Ranks = Field(1, description="copies of the model; with enable_dp_attention, of attention alone")
    ep_size: Ranks = Field(1, description="ranks among those of a layer that have whole experts")
    enable_dp_attention: bool = Field(False, description="dp_size groups of the tp_size ranks have own requests")
    enable_dp_lm_head: bool = Field(False, description="with it each of these groups has the whole output layer")
    mem_fraction_static: Share | None = Field(
        None, description="share of the free memory for weights and pools; by default what steps are estimated to leave"
    )
    max_total_tokens: Count | None = Field(None, description="tokens of the cache, if there is room for as many")
    max_running_requests: Count | None = Field(
        None, description="requests at once; by default 2048 to 4096, and 48 with a model that drafts"
    )
    chunked_prefill_size: Annotated[Whole, Field(ge=-1, le=10**7)] | None = Field(
        None, description="tokens of a prompt at once, -1: all; by default 2048 to 16384, by the GPU's memory"
    )
    max_prefill_tokens: Count = Field(16384, description="tokens of a step of prompts")
    cuda_graph_max_bs_decode: Count | None = Field(
        None, description="requests of the largest CUDA graph; by default 8 to 512, by the GPU's memory and tp_size"
    )
    disable_decode_cuda_graph: bool = Field(False, description="no CUDA graphs of answers' steps")
    disable_prefill_cuda_graph: bool = Field(False, description="no CUDA graphs of prompts' steps")
    disable_radix_cache: bool = Field(False, description="no cache of prefixes, which costs nothing but states")
    disable_overlap_schedule: bool = Field(False, description="a step is scheduled after the one before")
    swa_full_tokens_ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        0.8, description="tokens of layers with a window, as a share of the others'"
    )
    disable_hybrid_swa_memory: bool = Field(False, description="layers with a window keep all tokens")
    max_mamba_cache_size: Count | None = Field(None, description="states in the pool; derived by default")
    mamba_full_memory_ratio: Annotated[float, Field(gt=0, le=100)] = Field(
        0.9, description="memory of states for that of keys and values"
    )
    mamba_ssm_dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="dtype of recurrent states; by default the model's, else float32"
    )
    quantization: str | None = Field(None, description="method of a quantised checkpoint, by the name of SGLang")
    enable_lora: bool = Field(False, description="slots for adapters")
    max_loras_per_batch: Annotated[Whole, Field(ge=1, le=10**4)] = Field(8, description="slots")
    max_lora_rank: Annotated[Whole, Field(ge=1, le=4096)] = Field(16, description="rank of a slot")
    speculative_algorithm: Literal["EAGLE", "EAGLE3", "NEXTN", "STANDALONE", "NGRAM"] | None = Field(
        None, description="what drafts: a layer of the model's own, another model, or the text so far"
    )
    speculative_draft_model_path: str | None = Field(None, description="model that drafts, beside the one served")
    speculative_num_draft_tokens: Annotated[Whole, Field(ge=1, le=1024)] | None = Field(
        None, description="drafted tokens of a step; 8 with Llama, 12 with NGRAM, else 4"
    )
    cpu_offload_gb: float = Field(0, ge=0, description="GiB of weights of each rank that stay in the host's memory")
    free: str | None = Field(
        None, description="'Load weight begin. avail mem', if known; by default the GPU's less non_torch"
    )
    weights: str | None = Field(None, description="'Load weight end. mem usage', if known; derived by default")
    non_torch: str | None = Field(
        None, description="what a process takes before weights are loaded, if known; by default by the ranks"
    )


DEFAULTS = SglangOptions.model_construct()
"""The block of a plan that gives none."""


class SglangKeys(BaseModel):
    """The key of a plan with the block."""

    model_config = ConfigDict(defer_build=True)

    sglang: Annotated[
        SglangOptions, Block(block_reader(SglangOptions, "sglang", "{tp_size: 2, context_length: 8192}"))
    ] = Field(DEFAULTS, description="runtime sglang: the options of `sglang serve`, by its names")


SERVER = Server(
    r"sglang(?:(?:_router)?\.launch_server|\.srt\S*)?",
    "sglang serve",
    r"\S*/sglang:\S*",
    "sglang serve --model-path MODEL --tp-size 2",
)


KEYS = Keys(
    fields=SglangKeys,
    topic=("sglang", "SGLang (the engine's names)"),
    serves=True,
    commanded=SERVER.refuse,
    refused=REFUSED,
)
