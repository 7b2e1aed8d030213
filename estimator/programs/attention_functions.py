"""Attention and the cache, as transformers runs them.

Sources: ``transformers/integrations/sdpa_attention.py``, ``transformers/cache_utils.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .. import operators as ops
from ..ledger import Counted, Ledger, Shape, Size, Tensor

WIDE = 256
"""The largest head whose keys and values SDPA repeats itself (``sdpa_attention.py: use_gqa_in_sdpa``)."""


class Cache:
    """``DynamicCache``: each layer's keys and values, [B, kv_heads, tokens, D], held until the step ends.

    ``past`` are the keys and values with which each layer that is run starts. ``windows`` are the layers with a sliding
    window, each of which holds its size in a tensor.
    """

    def __init__(self, ledger: Ledger, past: Iterable[tuple[Tensor, Tensor]] = (), windows: Size = 0) -> None:
        self._past = [[key, value] for key, value in past]
        self._windows = windows
        self._numbers: Tensor | None = None
        self._held = Counted(ledger)
        self._ledger = ledger
        self._layers: list[int] = []

    def start(self) -> None:
        """Make what it holds besides keys and values, as the model does that makes the cache."""
        if self._numbers is None:
            self._numbers = self._ledger.empty((self._windows,), "int64")

    def tensors(self) -> Iterator[tuple[Tensor, Size]]:
        """Each tensor of keys, values or states that a layer holds, and for how many layers it stands."""
        return ((tensor, copies) for tensor, copies in self._held if tensor.shape)

    @property
    def nbytes(self) -> Size:
        """Bytes of all layers' keys and values. A layer with a sliding window holds all tokens, seen through a view."""
        storages = {id(x.storage): x.storage.nbytes * copies for x, copies in self.tensors()}
        return sum(storages.values(), 0)

    def hold(self, tensor: Tensor, copies: Size, layer: int = -1) -> None:
        """Hold a tensor of a layer that stands for ``copies``."""
        self._held.add(tensor, copies)
        self._layers.append(layer)

    def of_layers(self) -> list[tuple[int, Tensor]]:
        """What ``hold`` was given, each with the number of its layer; -1 outside of the layers."""
        return [(layer, tensor) for layer, (tensor, _) in zip(self._layers, self._held, strict=True)]

    def copy(self, place: int, shape: Shape | None = None) -> Tensor:
        """Put a copy in the place of a tensor that is held, or of a part of this shape. Returns the tensor, which dies
        where nobody keeps it.
        """
        return self._held.copy(place, shape)

    def keep(self, x: Tensor) -> Tensor:
        """Hold the keys or the values of the layer that runs; returns them."""
        return self._held.add(x)

    def update(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append the next layer's keys and values to its past ones; returns all of them."""
        if not self._past:
            return self.keep(ops.cat((key,), key.shape)), self.keep(ops.cat((value,), value.shape))
        past = self._past.pop(0)
        return self.keep(behind(past.pop(0), key)), self.keep(behind(past.pop(0), value))


def behind(past: Tensor, x: Tensor) -> Tensor:
    """Keys or values [B, kv_heads, S, D] behind those of earlier tokens."""
    batch, heads, seq, dim = x.shape
    return ops.cat((past, x), (batch, heads, past.shape[2] + seq, dim))


def repeat_kv(x: Tensor, groups: Size) -> Tensor:
    """Repeat key/value heads: a copy. With one group it is ``x`` itself, and with one head a view."""
    if groups == 1:
        return x
    batch, heads, seq, dim = x.shape
    x = ops.expand(ops.unsqueeze(x, 2), (batch, heads, groups, seq, dim))
    return ops.reshape(x, (batch, heads * groups, seq, dim))


Attended = tuple[Tensor, "Tensor | None"]
"""The output [B, S, heads, D], and the weights [B, heads, S, keys] or ``None``."""


def eager(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    groups: Size,
    dropout: float,
    softcap: bool = False,
    widens: bool = True,
    sinks: Tensor | None = None,
) -> Attended:
    """``eager_attention_forward`` of [B, heads, S, D], with ``softcap`` that of Gemma 2, with ``sinks`` [heads] that of
    gpt-oss. ``widens``: its softmax is in float32.
    """
    key_states = repeat_kv(key, groups)
    value_states = repeat_kv(value, groups)
    weights = ops.mul(ops.matmul(query, ops.transpose(key_states, 2, 3)), ops.SCALAR)
    if softcap:
        weights = ops.div(weights, ops.SCALAR)
        weights = ops.tanh(weights)
        weights = ops.mul(weights, ops.SCALAR)
    if mask is not None:
        weights = ops.add(weights, mask)
    if sinks is not None:  # each head's is one more key, without a value
        batch, heads, seq, keys = weights.shape
        sinks = ops.expand(ops.reshape(sinks, (1, heads, 1, 1)), (batch, heads, seq, 1))
        combined_logits = ops.cat((weights, sinks), (batch, heads, seq, keys + 1))
        combined_logits = _below_largest(combined_logits)
        probs = ops.softmax(combined_logits, combined_logits.dtype)
        scores = ops.narrow(probs, -1, keys)
        weights = ops.to(ops.dropout(scores, dropout), value_states.dtype)
    elif widens:
        weights = ops.to(ops.softmax(weights, "float32"), query.dtype)
        weights = ops.dropout(weights, dropout)
    else:
        weights = ops.softmax(weights, "float32" if ops.widens(weights) else weights.dtype)
        weights = ops.to(weights, value.dtype)
        weights = ops.dropout(weights, dropout)
    out = ops.matmul(weights, value_states)
    out = ops.contiguous(ops.transpose(out, 1, 2))
    return out, weights


def _below_largest(x: Tensor) -> Tensor:
    """``x - x.max(dim=-1, keepdim=True).values``."""
    return ops.sub(x, ops.selected(x, (*x.shape[:-1], 1), "MaxBackward0")[0])


def sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    groups: Size,
    wide_heads: bool,
    dropout: float = 0.0,
) -> Attended:
    """``sdpa_attention_forward``. Keys and values of grouped heads are repeated if there is a mask, if heads are wider
    than 256 (``use_gqa_in_sdpa``), or if PyTorch is restricted to the memory-efficient kernel, which takes no groups.
    """
    batch, heads, seq, dim = query.shape
    kernel_groups = mask is None and not wide_heads and query.ledger.device.takes_grouped_heads
    if not kernel_groups and groups != 1 and seq == 1:
        query = ops.reshape(query, (batch, key.shape[1], groups, dim))  # pack_gqa
    elif not kernel_groups:
        key = repeat_kv(key, groups)
        value = repeat_kv(value, groups)
    if mask is None and seq != 1 and key.shape[2] != seq:  # the first tokens of a static cache
        key, value = ops.narrow(key, 2, seq), ops.narrow(value, 2, seq)
    out = ops.scaled_dot_product_attention(
        query, key, value, mask, dropout_p=dropout, is_causal=mask is None and seq != 1
    )
    out = ops.reshape(out, (batch, heads, seq, value.shape[-1]))
    out = ops.contiguous(ops.transpose(out, 1, 2))
    return out, None


def flash(query: Tensor, key: Tensor, value: Tensor, dtype: str) -> Attended:
    """``flash_attention_forward`` of transformers for a batch without padding. Grouped heads are not repeated."""
    query, key, value = (ops.transpose(x, 1, 2) for x in (query, key, value))
    width, size = value.shape[-1], query.shape[-1]
    if width != size:  # multi-head latent attention
        value = ops.pad(value, (*value.shape[:-1], size))
    out = ops.flash_attn(query, key, value, dtype)
    return (out if width == size else ops.narrow(out, -1, width)), None
