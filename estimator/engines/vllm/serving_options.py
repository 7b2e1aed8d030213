"""What is asked of ``vllm serve``: its options, with the dtype that a plan has in a key of its own."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from ..served.parallel import Parallel
from .options import VllmOptions

LATENT_BLOCKS, INDEXED_BLOCKS = 64, 64
"""Tokens of a block of FlashMLA's and of a sparse attention's kernels."""


class ServingOptions(VllmOptions):
    """The options with the dtype, which is a plan's own key."""

    runtime: ClassVar[str] = "vllm"

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="dtype of weights and activations; auto: the checkpoint's, but never float32"
    )

    def on(self, name: str, total: int) -> "ServingOptions":
        """The options with the defaults of ``vllm serve`` on a GPU, by its name and its bytes of memory
        (``engine/arg_utils.py: get_batch_defaults``).
        """
        large = total >= 70 * 2**30 and not name.startswith("a100")
        huge = total >= 160 * 2**30 and not self.is_old
        tokens = self.max_num_batched_tokens or (16384 if huge else 8192 if large else 2048)
        rows = self.max_num_seqs or min(1024 if large else 256, tokens)
        share = self.gpu_memory_utilization or (0.9 if self.is_old else 0.92)
        update = {"max_num_batched_tokens": tokens, "max_num_seqs": rows, "gpu_memory_utilization": share}
        return self.model_copy(update=update)

    @property
    def is_old(self) -> bool:
        """Whether the rules are those of 0.11."""
        return self.release == "0.11"

    @property
    def parallel(self) -> Parallel:
        """How ranks share the model."""
        tp, dp = self.tensor_parallel_size, self.data_parallel_size
        return Parallel(tp, self.pipeline_parallel_size, dp, tp * dp if self.enable_expert_parallel else 1)

    @property
    def world(self) -> int:
        """All ranks."""
        return math.prod(self.parallel[:3])

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

    @property
    def share(self) -> float:
        """``gpu_memory_utilization``, once the GPU is known."""
        assert self.gpu_memory_utilization is not None
        return self.gpu_memory_utilization

    @property
    def cache_itemsize(self) -> int:
        """Bytes of a number in a cache whose dtype is given."""
        return 1 if self.kv_cache_dtype == "fp8" else 2

    @property
    def drafted(self) -> int:
        """Drafted tokens, whose inputs a convolution keeps."""
        return self.num_speculative_tokens

    @property
    def in_flight(self) -> int:
        """Tokens whose blocks a window still holds: of two steps where one is scheduled while the other runs."""
        return self.tokens * (self.pipeline_parallel_size + (self.async_scheduling and not self.is_old))

    def tokens_of_block(self, latent: bool, indexed: bool) -> int:
        """Tokens of a block before layers with states ask for more."""
        return self.block_size or (INDEXED_BLOCKS if indexed else LATENT_BLOCKS if latent and self.is_old else 16)

    def states_of_request(self, raw: Mapping[str, Any]) -> int:
        """Blocks with states of a request: with prefix caching also the last whole block's, and one for a prefill."""
        if self.is_old or not self.enable_prefix_caching:
            return 1 + self.drafted
        return 2 + self.drafted + ("conv_L_cache" not in raw and "linear_num_value_heads" not in raw)

    def checkpoint_alignment(self, raw: Mapping[str, Any]) -> int:
        """Tokens to which states inside a prompt are aligned."""
        return 1
