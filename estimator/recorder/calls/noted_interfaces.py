"""What transformers chooses by the setting, noted as one call each: attention, its mask, and what a cache gives.

The functions themselves do not run. What a program calls besides is then the same with every attention implementation,
with and without padding, and with every cache.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from transformers import DynamicCache, masking_utils, modeling_utils

from ...errors import InputError
from ...programs.program import ATTENTION, MASK, UPDATE
from .mode import Recorder

_MASKS = {"create_causal_mask": False, "create_sliding_window_causal_mask": True}
"""The functions of ``masking_utils`` that make masks, and whether of a sliding window."""
_OF_MASK = frozenset({
    "config", "inputs_embeds", "attention_mask", "cache", "past_key_values", "position_ids", "cache_position",
    "layer_idx", "allow_is_causal_skip",
})  # fmt: skip
"""Arguments of theirs that all masks have."""
_OF_ATTENTION = frozenset({
    "dropout", "scaling", "sliding_window", "position_ids", "use_cache", "cache", "past_key_values", "softcap",
    "is_causal", "output_attentions", "output_router_logits", "cache_position", "num_items_in_batch", "s_aux",
})  # fmt: skip
"""Arguments of attention that its rule knows, or that change no memory."""


class Cache(DynamicCache):  # type: ignore[misc]
    """A cache that is empty, and whose ``update`` is noted. What a layer stores there it gets back."""

    recorder: Recorder | None = None

    def update(self, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Note the call; returns tensors of the same shapes."""
        assert self.recorder is not None
        with torch._C.DisableTorchFunction():
            new = tuple(torch.empty(x.shape, dtype=x.dtype, device="meta") for x in (key, value))
            found: tuple[torch.Tensor, torch.Tensor] = self.recorder.note(UPDATE, (key, value), {}, new)
        return found


@contextmanager
def noted(recorder: Recorder, model: torch.nn.Module, cache: Cache) -> Iterator[None]:
    """Within it, the calls are noted. ``cache`` is the one that the model is given, if it is given any."""
    cache.recorder = recorder

    def get_interface(_: Any, implementation: str, default: Any) -> Callable[..., Any]:
        widens = "float32" in default.__code__.co_names  # the class's own eager attention: GPT-2's does not
        return lambda *args, **kwargs: attend(widens, *args, **kwargs)

    def attend(widens: bool, module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any) -> Any:
        if unknown := sorted(name for name in kwargs if name not in _OF_ATTENTION and kwargs[name] is not None):
            raise InputError(f"attention with {unknown[0]} is no call of its own")
        named = {
            "groups": getattr(module, "num_key_value_groups", 1),
            "softcap": kwargs.get("softcap") is not None,
            "widens": widens,
            "dropout": float(kwargs.get("dropout") or 0.0),
        }
        with torch._C.DisableTorchFunction():
            batch, heads, seq, _ = query.shape
            out = torch.empty((batch, seq, heads, value.shape[-1]), dtype=query.dtype, device="meta")
            weights = torch.empty((batch, heads, seq, seq), dtype=query.dtype, device="meta")
            sinks = (x for x in (kwargs.get("s_aux"),) if x is not None)
            return recorder.note(ATTENTION, (query, key, value, attention_mask, *sinks), named, (out, weights))

    def masks(windowed: bool) -> Callable[..., Any]:
        def create(config: Any, inputs_embeds: torch.Tensor, attention_mask: Any = None, **kwargs: Any) -> Any:
            if unknown := sorted(name for name in kwargs if name not in _OF_MASK and kwargs[name] is not None):
                raise InputError(f"a mask with {unknown[0]} is no call of its own")
            with torch._C.DisableTorchFunction():
                batch, seq = inputs_embeds.shape[:2]
                out = torch.empty((batch, 1, seq, seq), dtype=inputs_embeds.dtype, device="meta")
                named = {"windowed": windowed, "skips": bool(kwargs.get("allow_is_causal_skip", True))}
                return recorder.note(MASK, (inputs_embeds, kwargs.get("position_ids")), named, out)

        return create

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(modeling_utils.AttentionInterface, "get_interface", get_interface))
        for name in sorted({type(module).__module__ for module in model.modules()}):
            for function, windowed in _MASKS.items():
                if getattr(sys.modules[name], function, None) is getattr(masking_utils, function):
                    stack.enter_context(mock.patch.object(sys.modules[name], function, masks(windowed)))
        enter, exit_ = torch.autocast.__enter__, torch.autocast.__exit__

        def entered(self: Any) -> Any:
            if self._enabled:
                raise InputError("a model that turns autocast on has no program for all settings")
            recorder.turn_autocast(False)
            return enter(self)

        def left(self: Any, *error: Any) -> Any:
            recorder.turn_autocast(True)
            return exit_(self, *error)

        stack.enter_context(mock.patch.object(torch, "is_autocast_enabled", return_value=True))
        stack.enter_context(mock.patch.object(torch.autocast, "__enter__", entered))
        stack.enter_context(mock.patch.object(torch.autocast, "__exit__", left))
        yield
