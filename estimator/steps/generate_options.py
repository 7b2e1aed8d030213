"""The ``generate`` block of a plan."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from ..io.fields import Whole


class GenerateOptions(BaseModel):
    """What is asked of ``transformers.GenerationMixin.generate``, by its names: greedy decoding, or beam search."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    max_new_tokens: Whole = Field(128, ge=1, le=10**7, description="tokens generated behind each prompt of seq tokens")
    num_beams: Whole = Field(1, ge=1, le=1000, description="beams of the search; 1: greedy")
    cache_implementation: Literal["dynamic", "static", "quantized", "offloaded", "offloaded_static"] = Field(
        "dynamic",
        description="the cache: grown by each token, allocated for all of them at once, or dynamic and held in 8-bit "
        "floats (cache_config={'backend': 'fp8'}); offloaded: dynamic or static, and at rest on a GPU's host",
    )
    disable_compile: StrictBool = Field(
        False, description="torch-cuda: passes with a static cache are not compiled, as transformers does on a GPU"
    )

    @property
    def offloads(self) -> bool:
        """Whether the cache rests on the host."""
        return self.cache_implementation.startswith("offloaded")

    @property
    def on_device(self) -> str:
        """The cache that calls the same operators and stays on the device."""
        return {"offloaded": "dynamic", "offloaded_static": "static"}.get(
            self.cache_implementation, self.cache_implementation
        )
