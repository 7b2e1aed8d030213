"""The cache of ``generate`` in a recording, filled by transformers' own code. Needs PyTorch.

To be read beside ``transformers/generation/utils.py``: ``_sample``, ``_prefill``, ``_prepare_cache_for_generation``.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils._pytree import tree_map
from transformers.generation import GenerationConfig, GenerationMode, utils

from ..ledger import whole
from ..programs.step import CachedTokens
from .calls.data import tensors_in

GROWING = {"input_ids", "position_ids", "token_type_ids", "mm_token_type_ids"}
"""What has one more of its last size with each token (``_update_model_kwargs_for_generation``)."""


_OF_PREFILL = getattr(utils, "MULTIMODAL_INPUTS_TO_DROP_OUTSIDE_PREFILL", ())
"""Arguments of the prefill alone; releases without the list have no rules for ``generate``."""


def taken(model: Any) -> frozenset[str]:
    """The names of what a model's ``forward`` takes."""
    return frozenset(inspect.signature(model.forward).parameters)


def position_axes(model: Any) -> tuple[int, ...]:
    """The axes of position ids before [rows, tokens], of a batch of text alone."""
    ids = torch.empty((2, 3), dtype=torch.int64, device="meta")
    make = getattr(model, "_prepare_position_ids_for_generation", None)  # releases before 5 have none
    return () if make is None else tuple(make(ids, {"input_ids": ids}).shape[:-2])


def encoded(model: Any, given: Mapping[str, torch.Tensor], beams: int) -> dict[str, Any]:
    """What ``generate`` makes of a batch before its first forward pass: positions of a decoder's own prompt, what the
    encoder or the tower gives, and rows for each beam. Returns what it hands to each pass, the tokens among it.

    A mask is of ones alone where no encoder has one. A prompt of a decoder beside an encoder is in the batch.
    """
    beside, batch = model.config.is_encoder_decoder, dict(given)
    held: dict[str, torch.Tensor] = {}
    if (cut := getattr(model, "_get_input_segment", None)) is not None:  # Whisper's own generate
        x = batch["input_features"]
        rows, _, frames = x.shape
        # seek, max_frames, init_tokens, time_offset, seek_num_frames
        held["held numbers"] = torch.zeros((5, rows), dtype=torch.int64, device=x.device)
        batch["input_features"] = cut(x, [0] * rows, [frames] * rows, frames, rows, range(rows))
        held["held segment"] = batch["input_features"]
    inputs, name, kept = model._prepare_model_inputs(None, None, batch)
    if not beside:
        if "position_ids" in taken(model):
            kept["position_ids"] = model._prepare_position_ids_for_generation(inputs, kept)
        kept["attention_mask"] = None
    options = GenerationConfig()
    kept = model._maybe_prepare_encoder_kwargs_for_generation(inputs, kept, name, options)
    ids = kept.pop("decoder_input_ids") if beside else inputs
    ids, kept = model._expand_inputs_for_generation(beams, beside, ids, **kept)
    return {"input_ids": ids, **kept, **held}


def fresh(kept: Mapping[str, Any], tokens: int) -> dict[str, Any]:
    """Other tensors in the place of those that ``encoded`` gave, once there are so many tokens."""

    def other(x: Any) -> Any:
        return torch.empty_strided(x.size(), x.stride(), dtype=x.dtype, device=x.device) if _is_tensor(x) else x

    found: dict[str, Any] = tree_map(other, dict(kept))
    for name in GROWING & found.keys():
        x = found[name]
        if x.shape[-1] != tokens:
            found[name] = torch.empty((*x.shape[:-1], tokens), dtype=x.dtype, device=x.device)
    return found


def _is_tensor(x: Any) -> bool:
    return isinstance(x, torch.Tensor)


def forward(model: Any, cache: Any, ids: torch.Tensor, kept: Mapping[str, Any], first: bool) -> dict[str, Any]:
    """One forward pass of ``generate``'s loop; returns the logits, the cache and the pass's other inputs.

    ``ids`` are of all tokens so far, [rows, tokens]. ``kept`` are other arguments that each pass is given, such as the
    positions of all tokens. ``first``: the pass is the prefill.
    """
    given: dict[str, Any] = {"use_cache": True, **kept}
    if cache is not None:
        given["cache"] = cache
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


def filled(model: Any, cached: CachedTokens, rows: int, kept: Mapping[str, Any]) -> Any:
    """The cache with which a forward pass starts. ``None`` where the model makes its own in the prefill. ``kept`` are
    arguments of each pass, see ``forward``.
    """
    generation = copy.deepcopy(model.generation_config)
    generation.cache_implementation = None if cached.implementation == "dynamic" else cached.implementation
    generation.cache_config = {"backend": "fp8"} if cached.implementation == "quantized" else None
    generation.num_beams = generation.num_return_sequences = 1
    found: dict[str, Any] = dict(kept)
    vars(model).pop("_previous_max_cache_length", None)  # a static cache would be as long as the longest so far
    model._prepare_cache_for_generation(generation, found, GenerationMode.GREEDY_SEARCH, rows, cached.capacity)
    cache = found.get("cache")
    steps = (cached.past,) if cached.prefilled else (cached.past - 1, cached.past)
    kept = {name: x for name, x in kept.items() if name not in _OF_PREFILL}  # text makes a cache like that of images
    for past in steps if cached.past else ():
        given = fresh(kept, whole(past))
        ids = given.pop("input_ids")
        cache = forward(model, cache, ids, given, first=past == steps[0])["cache"]
        if cached.reordered:
            cache.reorder_cache(torch.zeros((rows,), dtype=torch.int64))
    return cache


def tensors_of(cache: Any) -> Iterator[list[torch.Tensor]]:
    """For each layer of a cache, the tensors that it holds. What is no layer's comes last."""
    both = [getattr(cache, f"{name}_attention_cache", None) for name in ("self", "cross")]  # beside an encoder
    for layers in zip(*(part.layers for part in (*both, cache) if hasattr(part, "layers")), strict=True):
        yield [x for layer in layers for x in tensors_in(vars(layer))]
    rest = {} if cache is None else {name: x for name, x in vars(cache).items() if name != "layers"}
    yield list(tensors_in(rest))
