"""The number of requests for which a GPU has room in vLLM's paged KV cache.

vLLM takes a share of the GPU's memory and runs a step with the most tokens that it would ever batch. The bytes that are
left become blocks of the cache (``engines/vllm``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..engines.devices import assumptions, find
from ..engines.llama_cpp.options import is_gguf
from ..engines.vllm.blocks import FAMILIES, blocks_of, layer_groups
from ..engines.vllm.engine import ENGINE
from ..engines.vllm.options import ServingOptions
from ..errors import InputError
from ..plans.models import load
from .estimate import estimate
from .result import SCHEMA


@dataclass(frozen=True)
class Context:
    """Requests of one length: the blocks that each takes, and the number of requests that fit at once."""

    tokens: int
    blocks: int
    requests: float


@dataclass(frozen=True)
class Serving:
    """The parts of the GPU's memory, and the requests that fit into the cache."""

    model: str
    device: str
    options: ServingOptions
    bytes: dict[str, int]
    """total (as CUDA reports it on an idle GPU), requested (vLLM's share of it), weights, activation, non_torch,
    kv_cache (the rest), block."""
    blocks: int
    contexts: tuple[Context, ...]
    trained: int | None
    """The positions that the model was made for, where its config says."""

    def to_dict(self) -> dict[str, Any]:
        """The answer as a JSON object."""
        return {
            "schema": SCHEMA,
            "question": "serving",
            "model": self.model,
            "device": self.device,
            "options": self.options.model_dump(),
            "bytes": self.bytes,
            "blocks": self.blocks,
            "contexts": [vars(one) for one in self.contexts],
            "trained_context": self.trained,
            "assumptions": [asdict(one) for one in assumptions(find(self.device))],
        }


def serving(model: str, device: str, contexts: Sequence[int], options: ServingOptions) -> Serving:
    """The blocks that vLLM has for a model on a GPU, and the requests of each length that fit into them.

    Raises ``InputError`` for a device that is no CUDA GPU, and for a model without rules.
    """
    gpu = find(device)
    ENGINE.check(options, gpu)
    if is_gguf(model):
        raise InputError(f"'{model}' is llama.cpp's file; give a config.json, a built-in name or a hub id")
    options = options.on(gpu.name, gpu.usable_bytes)
    spec = load(model)
    config, trained = spec.config, spec.raw.get("max_position_embeddings")
    if not ENGINE.knows(config.family):
        raise InputError(f"model_type {config.family} has no rules of vLLM's; known are {', '.join(FAMILIES)}")
    weights = estimate(model=model, task="infer", dtype=options.dtype, seq=1).bytes
    sizes = ENGINE.memory(config, options, gpu, weights["parameters"] + weights["buffers"])
    blocks, (groups, _) = sizes["kv_cache"] // sizes["block"], layer_groups(config)
    found = []
    for tokens in contexts:
        needed = sum(blocks_of(tokens, window, options) for window in groups)
        found.append(Context(tokens, needed, blocks / needed))
    return Serving(model, device, options, sizes, blocks, tuple(found), trained if isinstance(trained, int) else None)
