"""The cache of ``generate`` in a recording, filled by transformers' own code. Needs PyTorch.

To be read beside ``transformers/generation/utils.py``: ``_sample``, ``_prefill``, ``_prepare_cache_for_generation``.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from transformers.generation import GenerationMode

from ..programs.step import CachedTokens
from .calls.data import tensors_in

INPUTS = ("position_ids", "logits_to_keep")
"""What ``generate`` gives a model whose ``forward`` takes it."""


def taken(model: Any) -> frozenset[str]:
    """Which of ``INPUTS`` a model takes."""
    return frozenset(INPUTS) & set(inspect.signature(model.forward).parameters)


def forward(model: Any, cache: Any, ids: torch.Tensor, positions: torch.Tensor | None, first: bool) -> dict[str, Any]:
    """One forward pass of ``generate``'s loop; returns the logits, the cache and the pass's other inputs.

    ``ids`` and ``positions`` are of all tokens so far, [rows, tokens]. ``first``: the pass is the prefill.
    """
    given: dict[str, Any] = {"use_cache": True}
    if cache is not None:
        given["cache"] = cache
    if positions is not None:
        given["position_ids"] = positions
    if "logits_to_keep" in taken(model):
        given["logits_to_keep"] = 1
    inputs = model.prepare_inputs_for_generation(
        ids, next_sequence_length=None if first else 1, is_first_iteration=first, **given
    )
    out = model(**inputs, return_dict=True)
    found = {"logits": out.logits, "cache": out.get("cache")}
    if not first:  # the loop has the name ``model_inputs`` for them
        inputs.pop("cache", None)
        found.update(_named(inputs))
    return found


def _named(inputs: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    for name, x in inputs.items():
        if isinstance(x, Mapping):
            for kind, mask in _named(x):
                yield f"{name} {kind}", mask
        elif isinstance(x, torch.Tensor):
            yield f"input {name}", x


def filled(model: Any, cached: CachedTokens, rows: int) -> Any:
    """The cache with which a forward pass starts. ``None`` where the model makes its own in the prefill."""
    generation = copy.deepcopy(model.generation_config)
    generation.cache_implementation = None if cached.implementation == "dynamic" else cached.implementation
    generation.cache_config = {"backend": "fp8"} if cached.implementation == "quantized" else None
    generation.num_beams = generation.num_return_sequences = 1
    found: dict[str, Any] = {}
    vars(model).pop("_previous_max_cache_length", None)  # a static cache would be as long as the longest so far
    model._prepare_cache_for_generation(generation, found, GenerationMode.GREEDY_SEARCH, rows, cached.capacity)
    cache = found.get("cache")
    steps = (cached.past,) if cached.prefilled else (cached.past - 1, cached.past)
    for past in steps if cached.past else ():
        ids = torch.empty((rows, past), dtype=torch.int64, device="meta")
        positions = torch.empty_like(ids) if "position_ids" in taken(model) else None
        cache = forward(model, cache, ids, positions, first=past == steps[0])["cache"]
        if cached.reordered:
            cache.reorder_cache(torch.zeros((rows,), dtype=torch.int64))
    return cache


def tensors_of(cache: Any) -> Iterator[list[torch.Tensor]]:
    """For each layer of a cache, the tensors that it holds. What is no layer's comes last."""
    layers = getattr(cache, "layers", ())
    for layer in layers:
        yield list(tensors_in(vars(layer)))
    rest = {} if cache is None else {name: x for name, x in vars(cache).items() if name != "layers"}
    yield list(tensors_in(rest))
