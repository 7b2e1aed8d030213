"""The plan's ``llama_cpp`` block: the engine's own parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ...fields import Whole

if TYPE_CHECKING:  # every plan has these options, few need the engine
    from .context import Parameters


def _switch(value: Any) -> Any:
    """True or false, also given as 1 or 0, as the engine's own options are."""
    return bool(value) if type(value) is int and value in (0, 1) else value


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


Switch = Annotated[bool, Field(strict=True), BeforeValidator(_switch)]
CacheType = Annotated[
    Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"], BeforeValidator(_lower)
]
"""The types that llama.cpp's programs offer for a cache (``common/arg.cpp: kv_cache_types``)."""
Count = Annotated[Whole, Field(ge=1, le=2**31 - 1)]


class LlamaCppOptions(BaseModel):
    """A context's parameters; defaults are those of ``llama-cli`` and ``llama-server``."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    n_ctx: Count | None = Field(
        None, description="cells of the KV cache, of all sequences; if not given batch times seq, or the model's own"
    )
    n_batch: Count = Field(2048, description="most tokens submitted at once")
    n_ubatch: Count = Field(512, description="most tokens computed at once")
    type_k: CacheType = Field("f16", description="type of the keys in the cache")
    type_v: CacheType = Field("f16", description="type of the values in the cache")
    flash_attn: Switch = Field(True, description="flash attention, which the engine turns on where it can")
    n_seq_max: Annotated[Whole, Field(ge=1, le=256)] | None = Field(
        None, description="sequences at once; the plan's batch if not given"
    )
    kv_unified: Switch = Field(False, description="one cache for all sequences, instead of a part for each")
    swa_full: Switch = Field(False, description="a windowed layer's cache holds the whole context too")
    use_mmap: Switch = Field(True, description="weights are mapped from the file, not read")
    repack: Switch = Field(True, description="weights are kept in a second form that the CPU's kernels are faster with")
    n_outputs_max: Annotated[Whole, Field(ge=0, le=2**31 - 1)] = Field(
        0, description="most tokens of a batch whose logits are computed; 0 reserves for all, and decoding uses one"
    )
    backend: Literal["cpu", "cpu-avx512", "cpu-arm", "cpu-plain", "metal", "vulkan", "cuda"] | None = Field(
        None,
        description="what runs it: a CPU by its instructions (x86-64 with AVX2 or AVX-512, ARMv8.2, none of them), or "
        "a GPU; the device's if it is one of the catalogue, else cpu",
    )
    build: Literal["2025", "0c1e57098", "b11739"] = Field(
        "0c1e57098", description="build of the engine: 0c1e57098 is in llama-cpp-python 0.3.36"
    )

    @property
    def cache(self) -> str:
        """The cache's type: ``f16``, or ``q8_0/f16`` where keys and values have different ones."""
        return self.type_k if self.type_k == self.type_v else f"{self.type_k}/{self.type_v}"

    def sequences(self, batch: int) -> int:
        """Sequences at once, for a plan's ``batch``."""
        return self.n_seq_max or batch

    def parameters(self, batch: int, seq: int | None, n_ctx_train: int) -> Parameters:
        """The context's parameters for ``batch`` sequences of ``seq`` tokens, or of the model's own context."""
        from .context import Parameters

        sequences = self.sequences(batch)
        return Parameters(
            n_ctx=self.n_ctx or (n_ctx_train if seq is None else sequences * seq),
            n_batch=self.n_batch,
            n_ubatch=self.n_ubatch,
            type_k=self.type_k,
            type_v=self.type_v,
            flash_attn=self.flash_attn,
            n_seq_max=sequences,
            kv_unified=self.kv_unified,
            swa_full=self.swa_full,
            n_outputs_max=self.n_outputs_max,
        )


DEFAULTS = LlamaCppOptions.model_construct()
"""The block of a plan that gives none."""
