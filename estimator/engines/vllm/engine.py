"""The engine: the parts of a GPU's memory, of which the KV cache has what the others leave."""

from __future__ import annotations

from ...errors import InputError
from ...io.fields import parse_size
from ...programs import Config
from ..devices import Device
from ..engine import Engine
from .blocks import FAMILIES, NON_TORCH_BYTES, activation_bytes, layer_groups, page_bytes
from .options import ServingOptions


class Vllm(Engine):
    """vLLM on one GPU."""

    title = "vLLM"
    has_own_memory = True

    def knows(self, family: str) -> bool:
        return family in FAMILIES

    def check(self, options: ServingOptions, gpu: Device) -> None:
        """Raise ``InputError`` for a device that is no CUDA GPU, or on which vLLM refuses the options."""
        if gpu.capability is None:
            raise InputError(
                f"device {gpu.name} runs no CUDA; name a GPU that `estimator devices` lists, such as a100-80gb"
            )
        if gpu.capability < (7, 0):
            raise InputError(
                f"vLLM needs compute capability 7.0, and {gpu.label} has {'{}.{}'.format(*gpu.capability)}"
            )
        if options.dtype == "bfloat16" and gpu.capability < (8, 0):
            raise InputError(
                f"vLLM refuses bfloat16 below compute capability 8.0, which {gpu.label} is; set dtype to float16"
            )

    def memory(self, config: Config, options: ServingOptions, gpu: Device, weights: int) -> dict[str, int]:
        """The parts of the GPU's memory, and a block of the cache, in bytes."""
        assert gpu.capability is not None
        sizes = {
            "total": gpu.usable_bytes,
            "requested": int(gpu.usable_bytes * options.gpu_memory_utilization),
            "weights": _given(options.weights, weights),
            "activation": _given(options.activation, activation_bytes(config, options, gpu.capability)),
            "non_torch": _given(options.non_torch, NON_TORCH_BYTES),
        }
        left = sizes["requested"] - sizes["weights"] - sizes["activation"] - sizes["non_torch"]
        sizes["kv_cache"] = max(left, 0)
        sizes["block"] = page_bytes(config, options) * layer_groups(config)[1]
        return sizes


def _given(size: str | None, default: int) -> int:
    return default if size is None else parse_size(size)


ENGINE = Vllm()
