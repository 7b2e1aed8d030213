"""What a plan may say of PyTorch on a CUDA GPU."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool

from ...errors import InputError, shown
from ...io.fields import Whole
from ..devices import find
from ..keys import Keys

Release = Literal[
    "2.1", "2.2", "2.3", "2.4", "2.5", "2.6", "2.7", "2.8", "2.9", "2.10", "2.11", "2.12", "2.13", "2.14"
]  # fmt: skip


def _torch(value: Any) -> str:
    """A release of PyTorch without its patch and build. Raises ``InputError``."""
    releases = get_args(Release)
    known = ", ".join(releases)
    if not isinstance(value, str):
        raise InputError(f'torch: write the release as a text, as in "2.10" with quotes; known are {known}')
    release = ".".join(value.split("+")[0].split(".")[:2])
    if release not in releases or not re.fullmatch(r"[0-9]+\.[0-9]+(\.[0-9]+)?(\+[a-z0-9.]+)?", value):
        raise InputError(f"torch: release {shown(value)} is not modelled; known are {known}")
    return release


class CudaKeys(BaseModel):
    """The keys of a plan about the caching allocator."""

    model_config = ConfigDict(defer_build=True)

    previous_seq: Annotated[Whole, Field(ge=1, le=10**8)] | None = Field(
        None, description="torch-cuda: length of the batch before the longest one; an eighth of seq if not given"
    )
    empty_cache: StrictBool = Field(
        False, description="torch-cuda, with lengths: the loop calls torch.cuda.empty_cache() after each step"
    )
    expandable_segments: StrictBool = Field(
        False, description="torch-cuda: PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"
    )
    torch: Annotated[Release, BeforeValidator(_torch)] = Field(
        "2.14", description="torch-cuda: PyTorch's release, whose caching allocator runs"
    )


def _claims(data: Mapping[str, Any]) -> bool:
    """Whether the device is a GPU that runs CUDA. A wrong name is refused later."""
    device = data.get("device")
    try:
        return isinstance(device, str) and find(device).capability is not None
    except InputError:
        return False


KEYS = Keys(
    words=("cuda", "gpu"),
    fields=CudaKeys,
    of_steps=("sdpa_kernel",),
    topic=("gpu", "GPUs (runtime torch-cuda)"),
    claims=_claims,
    refused={
        "cache_implementation: {p.generate.cache_implementation} has no rule with runtime: {p.runtime}, where "
        "transformers compiles its passes to "
        "CUDA graphs; set disable_compile: true, or cache_implementation: dynamic": (
            lambda p: p.generate is not None and p.generate.on_device == "static" and not p.generate.disable_compile
        ),
        "generate has no rule with runtime: {p.runtime} and sharding: {p.sharding.label}; leave sharding out, or set "
        "runtime: torch-cpu": lambda p: p.generate is not None and p.sharding is not None,
    },
    refused_steps={
        "runtime: torch-cuda does not go with device: {p.device}, which runs no CUDA; leave runtime out, or name "
        "another device": lambda p: p.device is not None and find(p.device).capability is None,
    },
)
