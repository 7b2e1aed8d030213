"""What is asked of ``sglang serve``: its options, with the dtype that a plan has in a key of its own."""

from typing import ClassVar, Literal

from pydantic import Field

from ..served.parallel import Parallel
from .options import SglangOptions


class ServingOptions(SglangOptions):
    """The options with the dtype, which is a plan's own key."""

    runtime: ClassVar[str] = "sglang"

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="dtype of weights and activations; auto: the checkpoint's, and float16 for float32"
    )

    @property
    def attention_ranks(self) -> int:
        """Ranks that split a layer's attention."""
        return self.tp_size // self.dp_size if self.enable_dp_attention else self.tp_size

    @property
    def attention_groups(self) -> int:
        """Groups of ranks with requests of their own, in one copy of the model."""
        return self.dp_size if self.enable_dp_attention else 1

    @property
    def parallel(self) -> Parallel:
        """How ranks share the model."""
        tp, groups = self.attention_ranks, self.attention_groups
        head = tp if self.enable_dp_lm_head else self.tp_size
        return Parallel(tp, self.pp_size, groups, self.ep_size, self.tp_size, head, "SGLang", "tp_size")

    @property
    def world(self) -> int:
        """All ranks."""
        return self.tp_size * self.pp_size * (1 if self.enable_dp_attention else self.dp_size)

    @property
    def rows(self) -> int:
        """``max_running_requests``, once it is known."""
        return self.max_running_requests or 0

    @property
    def tokens(self) -> int:
        """Tokens of a step of prompts, once ``chunked_prefill_size`` is known."""
        assert self.chunked_prefill_size is not None
        return self.chunked_prefill_size if self.chunked_prefill_size > 0 else self.max_prefill_tokens

    @property
    def drafted(self) -> int:
        """Drafted tokens of a step; 0 where nothing drafts."""
        return (self.speculative_num_draft_tokens or 0) if self.speculative_algorithm else 0
