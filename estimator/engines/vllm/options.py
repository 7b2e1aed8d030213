"""What can be said of vLLM: the options of ``vllm serve``. No plan names it yet."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ...io.fields import Whole
from ..keys import Keys

BLOCK_SIZES = (1, 8, 16, 32, 64, 128, 256)
"""``vllm/config/cache.py: BlockSize``."""


def _block_size(size: int) -> int:
    if size not in BLOCK_SIZES:
        raise ValueError(f"must be one of {', '.join(map(str, BLOCK_SIZES))}")
    return size


BlockSize = Annotated[Whole, AfterValidator(_block_size)]


class ServingOptions(BaseModel):
    """Options of ``vllm serve`` on one GPU, under its names, and sizes from its log in place of derived ones."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    dtype: Literal["bfloat16", "float16", "float32"] = Field("bfloat16", description="dtype of weights and activations")
    kv_cache_dtype: Literal["auto", "fp8"] = Field("auto", description="dtype of the KV cache; auto: as dtype")
    block_size: BlockSize = Field(16, description="tokens in a block")
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1, description="share of the GPU that vLLM takes")
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
    weights: str | None = Field(
        None, description="'Model loading took', as in 5.2GiB, of a quantised checkpoint; by default of all weights"
    )
    activation: str | None = Field(None, description="'PyTorch activation peak memory', if known; derived by default")
    non_torch: str | None = Field(None, description="'non_torch_memory', if known; by default 0.35GiB, an RTX 3090's")

    def on(self, name: str, total: int) -> ServingOptions:
        """The options with the defaults of ``vllm serve`` on a GPU, by its name and its bytes of memory."""
        large = total >= 70 * 2**30 and not name.startswith("a100")
        tokens = self.max_num_batched_tokens or (8192 if large else 2048)
        rows = self.max_num_seqs or min(1024 if large else 256, tokens)
        return self.model_copy(update={"max_num_batched_tokens": tokens, "max_num_seqs": rows})

    @property
    def tokens(self) -> int:
        """``max_num_batched_tokens``, once the GPU is known."""
        assert self.max_num_batched_tokens is not None
        return self.max_num_batched_tokens

    @property
    def rows(self) -> int:
        """The requests of a step of the most tokens, once the GPU is known."""
        assert self.max_num_seqs is not None
        return min(self.max_num_seqs, self.tokens)


KEYS = Keys(instead="serves requests: `estimator serving` says how many a GPU holds at once")
