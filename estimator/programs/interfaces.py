"""Rules of the calls that transformers chooses by the setting: attention, its mask, and what a cache gives."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from ..errors import InputError
from ..ledger import Size, Tensor
from ..ledger.sizes import Poly
from .attention_functions import WIDE, Cache, eager, flash, sdpa
from .masks import create_causal_mask
from .program import ATTENTION, MASK, UPDATE
from .step import Inputs


class Interfaces:
    """What one forward pass calls. ``cache`` is the one that it is given; ``dtype`` is what flash-attn casts to."""

    def __init__(self, inputs: Inputs, cache: Cache | None, dtype: str) -> None:
        self._inputs, self._dtype = inputs, dtype
        self._given = None if cache is None else weakref.ref(cache)  # the caller decides how long it lives

    def __call__(self, op: str, *args: Any, **keywords: Any) -> tuple[Tensor | None, ...]:
        """The results of a call. Raises ``InputError`` where a setting has no rule."""
        if self._cache is not None:
            self._cache.start()
        return _RULES[op](self, *args, **keywords)

    @property
    def _cache(self) -> Cache | None:
        return None if self._given is None else self._given()

    def attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
        sinks: Tensor | None = None,
        groups: Size = 1,
        dropout: float = 0.0,
        softcap: bool = False,
        widens: bool = True,
    ) -> tuple[Tensor | None, ...]:
        """``ALL_ATTENTION_FUNCTIONS``: [B, heads, S, D] -> [B, S, heads, D], and the weights if there are any."""
        kind = self._inputs.step.attention
        if not isinstance(groups, (int, Poly)) or query.shape[1] != key.shape[1] * groups:
            raise InputError(f"attention: {query.shape[1]} heads of queries are not {groups} for each of the keys'")
        if softcap and kind == "sdpa":
            raise InputError("sdpa attention does not support softcap, by transformers' words; take eager or flash")
        if kind == "eager":
            return eager(query, key, value, mask, groups, dropout, softcap, widens, sinks)
        if sinks is not None:
            raise InputError(f"attention: {kind} has no rule with attention sinks; take eager", "attention")
        if kind == "flash":
            return flash(query, key, value, self._dtype)
        width = value.shape[-1]
        wide = key.shape[-1] != width or (isinstance(width, int) and width > WIDE)
        return sdpa(query, key, value, mask, groups, wide, dropout)

    def mask(
        self, inputs_embeds: Tensor, position_ids: Tensor | None, windowed: bool, skips: bool
    ) -> tuple[Tensor | None]:
        """``create_causal_mask`` or ``create_sliding_window_causal_mask`` (``masking_utils.py``)."""
        generated = self._inputs.generated
        if generated is not None and windowed not in generated.keys:
            raise InputError("the model makes a mask of a sliding window that its config does not have")
        if generated is not None and generated.masks is not None:
            return (generated.masks[windowed],)
        looked_at = position_ids if self._cache is None else None
        return (create_causal_mask(self._inputs, inputs_embeds.dtype, looked_at, windowed, skips),)

    def update(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """``Cache.update`` (``cache_utils.py``). Without a cache it is not called: names stay as they are."""
        cache = self._cache
        return (key, value) if cache is None else cache.update(key, value)


_RULES: dict[str, Callable[..., tuple[Tensor | None, ...]]] = {
    ATTENTION: Interfaces.attention,
    MASK: Interfaces.mask,
    UPDATE: Interfaces.update,
}
