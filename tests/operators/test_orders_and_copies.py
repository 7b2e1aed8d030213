"""Expressions where only an order of steps or a copy tells a right rule from a wrong one, and known differences.

Witness everywhere: autograd's saved tensors and the real allocator.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from estimator import operators as ops
from estimator.programs import attention_functions
from tests.helpers.operator_rules import (
    BF16,
    F32,
    Cases,
    Given,
    agree,
)


def heads_shapes(kv_heads: int, groups: int, seq: int = 12, dim: int = 16, batch: int = 2) -> Any:
    key = batch, kv_heads, seq, dim
    return (batch, kv_heads * groups, seq, dim), key, key


def causal(q: Any, k: Any, v: Any) -> Any:
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def attend_to(*shapes: tuple[int, ...], dtype: str = F32) -> Cases:
    return tuple(Given(shape, dtype, swapped=(1, 2)) for shape in shapes)


flash = pytest.mark.usefixtures("reference_threads")


def ours_sdpa(q: Any, k: Any, v: Any, mask: Any = None) -> Any:
    return attention_functions.sdpa(q, k, v, mask, q.shape[1] // k.shape[1], 0.0)


def real_sdpa(q: Any, k: Any, v: Any, mask: Any = None) -> Any:
    part = SimpleNamespace(num_key_value_groups=q.shape[1] // k.shape[1])
    return sdpa_attention_forward(part, q, k, v, mask)


ORDERS_AND_COPIES: dict[str, tuple[Any, ...]] = {
    "autocast casts matmul's second factor first": (
        ops.matmul,
        torch.matmul,
        (Given((2, 3, 8, 20)), Given((2, 3, 20, 12))),
        BF16,
    ),
    "autocast casts value first, then key, then query": (
        ours_sdpa,
        real_sdpa,
        attend_to(*heads_shapes(2, 2, seq=1, dim=64, batch=8)),
        BF16,
    ),
    "the flash kernel's backward makes the gradient contiguous as [B, S, heads, D]": (
        lambda q, k, v: ops.scaled_dot_product_attention(q, k, v, None),
        causal,
        attend_to(*heads_shapes(2, 2)),
    ),
    "one masked token, grouped heads: the gradient comes as [B, heads, groups, D] and is copied": (
        ours_sdpa,
        real_sdpa,
        (*attend_to(*heads_shapes(2, 3, seq=1, dim=64)), Given((2, 1, 1, 1), "bool", grad=False)),
    ),
    "one masked token, grouped heads: the kernel's blocks have the key's one column": (
        ours_sdpa,
        real_sdpa,
        (*attend_to(*heads_shapes(1, 8, seq=1, dim=16)), Given((2, 1, 1, 1), "bool", grad=False)),
    ),
    "softmax first makes a transposed input contiguous": (
        lambda x: ops.softmax(x, F32),
        lambda x: functional.softmax(x, -1),
        (Given((24, 40), grad=False, swapped=(0, 1)),),
    ),
    "log_softmax first makes a transposed input contiguous": (
        ops.log_softmax,
        lambda x: functional.log_softmax(x, 1),
        (Given((24, 40), grad=False, swapped=(0, 1)),),
    ),
    "linear does not fold a transposed input if nothing requires a gradient": (
        ops.linear,
        functional.linear,
        (Given((4, 6, 40), grad=False, swapped=(-1, -2)), Given((24, 40), grad=False)),
    ),
}


@flash
@pytest.mark.parametrize("case", ORDERS_AND_COPIES.values(), ids=list(ORDERS_AND_COPIES))
def test_orders_and_copies(case: tuple[Any, ...]) -> None:
    """Witness: the real operators, where only an order or a copy tells a right rule from a wrong one."""
    rule, function, given, *autocast = case
    agree(rule, function, *given, autocast=autocast[0] if autocast else None)


KNOWN: dict[str, tuple[Any, ...]] = {
    "mm gives a transposed factor a transposed gradient, which its leaf takes over": (
        ops.linear,
        functional.linear,
        (Given((24, 40), swapped=(0, 1)), Given((32, 40))),
    ),
}


@flash
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.xfail(strict=True, reason=why, raises=AssertionError), id=why)
        for why, case in KNOWN.items()
    ],
)
def test_known_difference(case: tuple[Any, ...]) -> None:
    rule, function, given, *autocast = case
    agree(rule, function, *given, autocast=autocast[0] if autocast else None)
