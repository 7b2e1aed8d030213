"""The masks of attention, to be read beside ``transformers/masking_utils.py`` (release 5.24).

Each function is its namesake there, with the same local names, so that small temporaries live as long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import operators as ops
from ..ledger import Ledger, Shape, Size, Tensor
from ..ledger.sizes import compared
from ..operators.table import RULES, Result
from .step import Inputs

MaskFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From the indices of batch [B, 1, 1, 1], queries [1, 1, S, 1] and keys [1, 1, 1, T] to a boolean mask."""


def create_causal_mask(
    inputs: Inputs,
    dtype: str,
    position_ids: Tensor | None,
    windowed: bool,
    allow_is_causal_skip: bool,
) -> Tensor | None:
    """``create_causal_mask`` or, if ``windowed``, ``create_sliding_window_causal_mask``; ``None`` for no mask.

    Eager attention always has a float mask [B, 1, S, T]. SDPA has a boolean one only if there is padding, a sliding
    window no longer than the keys, packed sequences, or several queries behind cached keys. ``dtype`` is that of the
    embeddings. ``position_ids`` is ``None`` where there is a cache: packed sequences are not looked for there.
    """
    ledger, step = inputs.ledger, inputs.step
    attention_mask = ledger.empty((inputs.batch, inputs.past + inputs.seq), "bool") if step.takes_mask else None
    packed_sequence_mask = None
    if position_ids is not None and attention_mask is None:
        position_ids = ops.expand(position_ids, (inputs.batch, inputs.seq))
        packed_sequence_mask = find_packed_sequence_indices(position_ids, step.packing)
    if step.attention == "flash":  # no mask where none of its entries are zero (flash_attention_mask)
        if attention_mask is not None:
            ledger.empty((), "bool")
        return None
    mask_function: MaskFunction = sliding_window_causal if windowed else causal
    if packed_sequence_mask is not None:
        assert position_ids is not None
        remapped = remap_positions_for_packed_sequence(mask_function, position_ids)
        mask_function = and_masks(remapped, packed_sequence_mask_function(packed_sequence_mask))
    skips = allow_is_causal_skip and step.attention == "sdpa" and packed_sequence_mask is None
    mask = sdpa_mask(inputs, attention_mask, mask_function, windowed, skips)
    if mask is None or step.attention == "sdpa":
        return mask
    zero = ledger.empty((), dtype)
    floats = _call(ledger, "where", mask.shape, dtype, mask, zero, 1.0)
    del zero, mask  # before the padding mask dies
    return floats


def find_packed_sequence_indices(position_ids: Tensor, packed: bool) -> Tensor | None:
    """The number of each token's sequence [B, S], if the batch is ``packed``."""
    ledger, (batch, seq) = position_ids.ledger, position_ids.shape
    first_dummy_value = _call(ledger, "sub", (batch, 1), "int64", ops.narrow(position_ids, 1, 1), 1)
    position_diff = ops.diff(position_ids, -1, (first_dummy_value, None))
    differs = _call(ledger, "ne", (batch, seq), "bool", position_diff, 1)
    packed_sequence_mask = _call(ledger, "cumsum", (batch, seq), "int64", differs, -1)
    del differs
    last = _call(ledger, "select", (batch,), "int64", packed_sequence_mask, 1)
    ends = _call(ledger, "eq", (batch,), "bool", last, 0)
    del last
    are_all = _call(ledger, "all", (), "bool", ends)
    del ends, are_all
    return packed_sequence_mask if packed else None


def sdpa_mask(
    inputs: Inputs, padding_mask: Tensor | None, mask_function: MaskFunction, windowed: bool, skips: bool
) -> Tensor | None:
    """``sdpa_mask``: boolean [B, 1, S, T], expanded where the batch has no part in it."""
    ledger, batch, seq, keys = inputs.ledger, inputs.batch, inputs.seq, inputs.keys(windowed)
    if padding_mask is not None and compared(keys, inputs.past + seq) > 0:  # of a static cache: prepare_padding_mask
        padding_mask = ledger.empty((batch, keys), "bool")
    if skips and _ignore_causal_mask_sdpa(inputs, padding_mask, windowed):
        return None
    if padding_mask is not None:
        mask_function = and_masks(mask_function, padding_mask_function(padding_mask))
    batch_indices = ledger.empty((batch,), "int64")
    head_indices = ledger.empty((1,), "int64")  # noqa: F841 (lives until it returns)
    q_indices = _call(ledger, "add", (seq,), "int64", ledger.empty((seq,), "int64"), 0)
    kv_indices = _call(ledger, "add", (keys,), "int64", ledger.empty((keys,), "int64"), 0)
    attention_mask = mask_function(_at(batch_indices, 0), _at(q_indices, 2), _at(kv_indices, 3))
    return ops.expand(attention_mask, (batch, 1, seq, keys))


def _at(x: Tensor, dim: int) -> Tensor:
    """A vector as a tensor of four dimensions."""
    for i in range(4):
        if i != dim:
            x = ops.unsqueeze(x, i)
    return x


def _ignore_causal_mask_sdpa(inputs: Inputs, padding_mask: Tensor | None, windowed: bool) -> bool:
    step = inputs.step
    generated = inputs.generated
    if generated is not None and generated.static and inputs.seq == 1:
        return False
    if windowed and step.window_reached:
        return False
    if inputs.past == 0 or inputs.seq == 1:
        if padding_mask is None or fast_all(padding_mask, not step.attention_mask):
            return True
        if inputs.past == 0:
            fast_all(padding_mask, False)
    return False


def fast_all(tensor: Tensor, answer: bool) -> bool:
    """Whether all are true, which is the ``answer``."""
    total = _call(tensor.ledger, "sum", (), "int64", tensor)
    equal = _call(tensor.ledger, "eq", (), "bool", total, 0)
    del total, equal
    return answer


def causal(batch_idx: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    """Keys up to the query."""
    return _compared("le", kv_idx, q_idx)


def sliding_window_causal(batch_idx: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    """Of these, the keys within the window."""
    return and_masks(_sliding_window_overlay, causal)(batch_idx, q_idx, kv_idx)


def _sliding_window_overlay(batch_idx: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return _compared("gt", kv_idx, _call(q_idx.ledger, "sub", q_idx.shape, "int64", q_idx, 1))


def and_masks(*mask_functions: MaskFunction) -> MaskFunction:
    """The intersection."""

    def and_mask(batch_idx: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        result = q_idx.ledger.empty((), "bool")
        for mask in mask_functions:
            result = _compared("bitwise_and", result, mask(batch_idx, q_idx, kv_idx))
        return result

    return and_mask


def padding_mask_function(padding_mask: Tensor) -> MaskFunction:
    """Keys that are no padding."""
    return lambda batch_idx, q_idx, kv_idx: _looked_up(padding_mask, batch_idx, kv_idx)


def remap_positions_for_packed_sequence(mask_function: MaskFunction, position_ids: Tensor) -> MaskFunction:
    """The mask by positions in place of indices."""

    def inner_mask(batch_idx: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        q_position = _looked_up(position_ids, batch_idx, q_idx)
        kv_position = _looked_up(position_ids, batch_idx, kv_idx)
        return mask_function(batch_idx, q_position, kv_position)

    return inner_mask


def packed_sequence_mask_function(packed_sequence_mask: Tensor) -> MaskFunction:
    """Keys of the query's sequence."""

    def inner_mask(batch_idx: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        q_sequence = _looked_up(packed_sequence_mask, batch_idx, q_idx)
        return _compared("eq", q_sequence, _looked_up(packed_sequence_mask, batch_idx, kv_idx))

    return inner_mask


def _looked_up(x: Tensor, batch_idx: Tensor, idx: Tensor) -> Tensor:
    shape = _broadcast(batch_idx.shape, idx.shape)
    return _call(x.ledger, "index", shape, x.dtype, x, (batch_idx, idx))


def _compared(op: str, a: Tensor, b: Tensor) -> Tensor:
    return _call(a.ledger, op, _broadcast(a.shape, b.shape), "bool", a, b)


def _broadcast(a: Shape, b: Shape) -> Shape:
    if not a or not b:
        return a or b
    shape: list[Size] = [y if isinstance(x, int) and x == 1 else x for x, y in zip(a, b, strict=True)]
    return tuple(shape)


def _call(ledger: Ledger, op: str, shape: Shape, dtype: str, *args: Any) -> Tensor:
    result: Tensor = RULES[op](Result(ledger, shape, dtype, ((0, shape, dtype),)), *args)
    return result
