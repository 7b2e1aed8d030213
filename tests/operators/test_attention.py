"""Rules of attention on a CPU: eager, and the flash kernel behind SDPA.

Witness everywhere: autograd's saved tensors and the real allocator.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.utils import flop_counter
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.llama import modeling_llama

from estimator import operators as ops
from estimator.errors import InputError
from estimator.ledger import Ledger, Tensor, backward
from estimator.operators import CPU, Cuda
from estimator.programs import attention_functions
from tests.helpers.operator_rules import (
    BF16,
    F16,
    F32,
    Cases,
    Given,
    agree,
    varied,
)

TRIPLES = ((F32, F32, F32), (BF16, BF16, BF16), (F16, F16, F16))


def heads_shapes(kv_heads: int, groups: int, seq: int = 12, dim: int = 16, batch: int = 2) -> Any:
    key = batch, kv_heads, seq, dim
    return (batch, kv_heads * groups, seq, dim), key, key


HEADS = [heads_shapes(2, 2), heads_shapes(2, 1), heads_shapes(1, 3), heads_shapes(1, 1)]
SINGLE = [heads_shapes(2, 2, seq=1), heads_shapes(2, 1, seq=1)]
attended = varied(HEADS, TRIPLES, swaps=[(1, 2)] * 3)
MASKS = {"none": None, "per sequence": 2, "shared": 1}
masked = pytest.mark.parametrize("mask", MASKS.values(), ids=list(MASKS))


def module(given: Cases) -> Any:
    """The parts of an attention module that transformers' functions read."""
    return SimpleNamespace(num_key_value_groups=given[0].shape[1] // given[1].shape[1], is_causal=True, training=True)


def with_mask(given: Cases, batch: int | None, dtype: str = "bool") -> Cases:
    seq = given[0].shape[2]
    return given if batch is None else (*given, Given((batch, 1, seq, seq), dtype, grad=False))


def shown(mask: Any, given: Cases) -> Any:
    """A mask as every sequence of the batch sees it."""
    if mask is None:
        return None
    shape = given[0].shape[0], *mask.shape[1:]
    return ops.expand(mask, shape) if isinstance(mask, Tensor) else mask.expand(shape)


@pytest.mark.parametrize("groups", [1, 3])
@varied([((2, 4, 6, 20),), ((2, 1, 6, 20),), ((1, 4, 6, 20),), ((2, 4, 1, 20),), ((1, 1, 1, 64),)], swaps=[(1, 2)])
def test_repeat_kv(given: Cases, groups: int) -> None:
    agree(lambda x: attention_functions.repeat_kv(x, groups), lambda x: modeling_llama.repeat_kv(x, groups), *given)


def causal(q: Any, k: Any, v: Any) -> Any:
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def attend_to(*shapes: tuple[int, ...], dtype: str = F32) -> Cases:
    return tuple(Given(shape, dtype, swapped=(1, 2)) for shape in shapes)


flash = pytest.mark.usefixtures("reference_threads")
BLOCKS = (1, 31, 33, 191, 192, 767, 768)
"""Sequence lengths on either side of where the kernel's blocks change."""


@flash
@pytest.mark.parametrize("dtype", [F32, BF16, F16])
@pytest.mark.parametrize("shapes", [*HEADS, *(heads_shapes(1, 1, seq, 8, batch=1) for seq in BLOCKS)], ids=str)
def test_scaled_dot_product_attention(shapes: Any, dtype: str) -> None:
    """Transposed afterwards, so that the gradient comes in the layout that the kernel works in."""
    agree(
        lambda q, k, v: ops.transpose(ops.scaled_dot_product_attention(q, k, v, None), 1, 2),
        lambda q, k, v: causal(q, k, v).transpose(1, 2),
        *attend_to(*shapes, dtype=dtype),
    )


@flash
@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("tokens", [(2, 5), (1, 5), (2, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("dim", [2, 3], ids=["gpt2", "gpt-neox"])
def test_sdpa_of_fused_queries(dim: int, tokens: tuple[int, int], joined: bool, dtype: str) -> None:
    """GPT-2's layer gives [B, S, 3, heads, D], GPT-NeoX's [B, S, heads, 3, D]: the result is dense though the queries
    are not, so the heads are joined without a copy."""

    def mine(x: Tensor) -> Tensor:
        q, k, v = (ops.transpose(ops.select(x, dim), 1, 2) for _ in range(3))
        out = ops.scaled_dot_product_attention(q, k, v, None)
        return ops.reshape(ops.transpose(out, 1, 2), (*tokens, 32)) if joined else out

    def real(x: Any) -> Any:
        out = causal(*(x.select(dim, i).transpose(1, 2) for i in range(3)))
        return out.transpose(1, 2).reshape(*tokens, 32) if joined else out

    shape = (*tokens, 3, 4, 8) if dim == 2 else (*tokens, 4, 3, 8)
    agree(mine, real, Given(shape, dtype))


@flash
@varied(SINGLE, TRIPLES, swaps=[(1, 2)] * 3)
def test_sdpa_of_one_token(given: Cases) -> None:
    part = module(given)
    agree(
        lambda q, k, v: attention_functions.sdpa(q, k, v, None, part.num_key_value_groups, 0.0),
        lambda q, k, v: sdpa_attention_forward(part, q, k, v, None),
        *given,
    )


@pytest.mark.parametrize(("device", "dtype"), [(CPU, F32), (Cuda(), BF16), (Cuda(), F32)])
def test_the_work_of_a_kernel(device: Any, dtype: str) -> None:
    """Witness: PyTorch's counter, of a GPU's kernel. A CPU's makes the same products: two forward, five backward."""
    shape = (2, 3, 5, 8)
    ledger = Ledger(device)
    ledger.counts_work = True
    q, k, v = (ledger.parameter(name, shape, dtype, True) for name in "qkv")
    out = ops.scaled_dot_product_attention(q, k, v, None)
    assert ledger.work == flop_counter.sdpa_flop_count(shape, shape, shape)
    forward = ledger.work
    backward(ledger, ops.sum(out))
    assert ledger.work - forward == flop_counter.sdpa_backward_flop_count(shape, shape, shape, shape)


@flash
@masked
@attended
def test_sdpa(given: Cases, mask: int | None) -> None:
    part = module(given)
    agree(
        lambda q, k, v, m=None: attention_functions.sdpa(q, k, v, shown(m, given), part.num_key_value_groups, 0.0),
        lambda q, k, v, m=None: sdpa_attention_forward(part, q, k, v, shown(m, given)),
        *with_mask(given, mask),
    )


@flash
@varied([heads_shapes(2, 2)], [(F32, F32, F32), (F32, F32, BF16)], swaps=[(1, 2)] * 3)
def test_sdpa_under_autocast(given: Cases) -> None:
    part = module(given)
    agree(
        lambda q, k, v: attention_functions.sdpa(q, k, v, None, part.num_key_value_groups, 0.0),
        lambda q, k, v: sdpa_attention_forward(part, q, k, v, None),
        *given,
        autocast=BF16,
    )


@pytest.mark.share(2)
@pytest.mark.parametrize(("mask", "dropout"), [(None, 0.0), (2, 0.0), (1, 0.0), (2, 0.1)])
@attended
def test_eager(given: Cases, mask: int | None, dropout: float) -> None:
    part = module(given)
    agree(
        lambda q, k, v, m=None: attention_functions.eager(q, k, v, shown(m, given), part.num_key_value_groups, dropout),
        lambda q, k, v, m=None: modeling_llama.eager_attention_forward(part, q, k, v, shown(m, given), 0.25, dropout),
        *with_mask(given, mask, given[0].dtype),
    )


CALLS: dict[str, tuple[dict[str, Any], tuple[tuple[int, ...], ...]]] = {
    "values of another head size": ({"is_causal": True}, ((2, 4, 11, 24), (2, 4, 11, 24), (2, 4, 11, 12))),
    "one query": ({"is_causal": True}, ((2, 4, 1, 24), (2, 4, 1, 24), (2, 4, 1, 12))),
    "dropout": ({"is_causal": True, "dropout_p": 0.1}, ((2, 4, 11, 16), (2, 4, 11, 16), (2, 4, 11, 16))),
    "dropout of grouped heads": (
        {"is_causal": True, "dropout_p": 0.1, "enable_gqa": True},
        ((2, 4, 11, 16), (2, 2, 11, 16), (2, 2, 11, 16)),
    ),
    "heads that broadcast": ({"is_causal": False}, ((2, 4, 11, 16), (2, 1, 11, 16), (2, 1, 11, 16))),
    "one head of queries": ({"is_causal": False}, ((2, 1, 11, 16), (2, 4, 11, 16), (2, 4, 11, 16))),
    "other lengths in three dimensions": ({"is_causal": False}, ((4, 5, 16), (4, 7, 16), (4, 7, 16))),
    "grouped heads": ({"is_causal": True, "enable_gqa": True}, ((2, 4, 11, 16), (2, 2, 11, 16), (2, 2, 11, 16))),
    "three dimensions": ({"is_causal": True}, ((4, 11, 16), (4, 11, 16), (4, 11, 16))),
    "a batch that broadcasts": ({"is_causal": False}, ((2, 4, 5, 16), (1, 4, 11, 16), (1, 4, 11, 16))),
}


@pytest.mark.share(2)
@flash
@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("swapped", [None, (-2, -3)], ids=["heads first", "tokens first"])
@pytest.mark.parametrize("grads", [(True, True, True), (True, False, False), (False, True, True)], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_calls_of_sdpa(name: str, grads: tuple[bool, ...], swapped: Any, dtype: str) -> None:
    options, shapes = CALLS[name]
    given = [Given(shape, dtype, grad, swapped) for shape, grad in zip(shapes, grads, strict=True)]
    agree(
        lambda q, k, v: ops.scaled_dot_product_attention(
            q, k, v, None, options.get("dropout_p", 0.0), options["is_causal"], options.get("enable_gqa", False)
        ),
        lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, **options),
        *given,
    )


def test_heads_that_no_kernel_takes() -> None:
    """PyTorch refuses them on a device. A recording on meta does not tell."""
    given = [torch.zeros(2, heads, 11, 16) for heads in (4, 3, 3)]
    with pytest.raises(RuntimeError):
        functional.scaled_dot_product_attention(*given, enable_gqa=True)
    with pytest.raises(RuntimeError):
        functional.scaled_dot_product_attention(*given)
    ledger = Ledger(CPU)
    mine = [ledger.empty((2, heads, 11, 16), F32) for heads in (4, 3, 3)]
    for grouped in (True, False):
        with pytest.raises(InputError, match="4 heads of queries for 3 of keys"):
            ops.scaled_dot_product_attention(*mine, None, enable_gqa=grouped)


MASK_SHAPES = ((2, 1, 11, 11), (2, 4, 11, 11), (11, 11), (1, 1, 1, 11), (4, 11, 11))


@pytest.mark.share(2)
@flash
@pytest.mark.parametrize("dtypes", [(F32, "bool"), (BF16, "bool"), (F32, F32), (BF16, BF16), (BF16, F32)], ids=str)
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("dim", [16, 12], ids=["one head size", "smaller values"])
@pytest.mark.parametrize("mask", MASK_SHAPES, ids=str)
def test_masks_of_sdpa(mask: tuple[int, ...], dim: int, dropout: float, dtypes: tuple[str, str]) -> None:
    shapes = ((2, 4, 11, 16), (2, 4, 11, 16), (2, 4, 11, dim))
    agree(
        lambda q, k, v, m: ops.scaled_dot_product_attention(q, k, v, m, dropout),
        lambda q, k, v, m: functional.scaled_dot_product_attention(q, k, v, m, dropout),
        *(Given(shape, dtypes[0], swapped=(1, 2)) for shape in shapes),
        Given(mask, dtypes[1], grad=False),
    )


@flash
@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("mask", [(2, 4, 11, 11), (1, 4, 11, 11), (2, 1, 11, 11)], ids=str)
@pytest.mark.parametrize("kv_heads", [2, 4])
def test_sdpa_with_a_mask_that_trains(kv_heads: int, mask: tuple[int, ...], dtype: str) -> None:
    shapes = ((2, 4, 11, 16), (2, kv_heads, 11, 16), (2, kv_heads, 11, 16))
    agree(
        lambda q, k, v, m: ops.scaled_dot_product_attention(q, k, v, m),
        lambda q, k, v, m: functional.scaled_dot_product_attention(q, k, v, m, enable_gqa=True),
        *(Given(shape, dtype, swapped=(1, 2)) for shape in shapes),
        Given(mask, dtype),
    )


@flash
def test_sdpa_with_a_mask_under_autocast() -> None:
    shapes = ((2, 4, 11, 16), (2, 4, 11, 16), (2, 4, 11, 16))
    agree(
        lambda q, k, v, m: ops.scaled_dot_product_attention(q, k, v, m),
        lambda q, k, v, m: functional.scaled_dot_product_attention(q, k, v, m),
        *(Given(shape, F32, swapped=(1, 2)) for shape in shapes),
        Given((2, 1, 11, 11), F32, grad=False),
        autocast=BF16,
    )
