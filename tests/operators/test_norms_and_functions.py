"""Rules of norms and of functions of each element.

Witness everywhere: autograd's saved tensors and the real allocator.
"""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from estimator import operators as ops
from tests.helpers.operator_rules import (
    BF16,
    F16,
    F32,
    FLOATS,
    MIXED,
    PAIRS,
    Cases,
    Given,
    agree,
    varied,
)

unary = varied([((4, 6, 40),), ((1, 200),), ((200, 1),)])
plain = varied([((4, 6, 40),), ((1, 200),), ((200, 1),)], swaps=[None])
binary_shapes = [
    ((4, 6, 40), (4, 6, 40)),
    ((4, 6, 40), (40,)),
    ((4, 6, 40), (1, 6, 40)),
    ((4, 6, 40), (4, 6, 1)),
    ((96, 1), (1, 40)),
]
binary = varied(binary_shapes, MIXED)


@binary
def test_add(given: Cases) -> None:
    agree(ops.add, torch.add, *given)


@binary
def test_mul(given: Cases) -> None:
    agree(ops.mul, torch.mul, *given)


@unary
def test_add_scalar(given: Cases) -> None:
    agree(lambda x: ops.add(x, ops.SCALAR), lambda x: x + 0.5, *given)


@unary
def test_mul_scalar(given: Cases) -> None:
    agree(lambda x: ops.mul(x, ops.SCALAR), lambda x: x * 0.5, *given)


@unary
def test_neg(given: Cases) -> None:
    agree(ops.neg, torch.neg, *given)


@pytest.mark.parametrize("dtype", [F32, BF16, F16])
@unary
def test_to(given: Cases, dtype: str) -> None:
    agree(lambda x: ops.to(x, dtype), lambda x: x.to(getattr(torch, dtype)), *given)


@unary
def test_pow2(given: Cases) -> None:
    agree(lambda x: ops.pow(x, ops.SCALAR), lambda x: x.pow(2), *given)


@varied([((4, 6, 40),), ((1, 200),), ((200, 1),)], [(F32,)])
def test_mean_last(given: Cases) -> None:
    agree(lambda x: ops.mean(x, -1, keepdim=True), lambda x: x.mean(-1, keepdim=True), *given)


@unary
def test_rsqrt(given: Cases) -> None:
    agree(ops.rsqrt, torch.rsqrt, *given)


@unary
def test_silu(given: Cases) -> None:
    agree(ops.silu, functional.silu, *given)


@pytest.mark.parametrize("dtype", [F32, BF16])
@plain
def test_softmax_last(given: Cases, dtype: str) -> None:
    torch_dtype = getattr(torch, dtype)
    agree(lambda x: ops.softmax(x, dtype), lambda x: functional.softmax(x, -1, dtype=torch_dtype), *given)


@varied([((24, 40),), ((1, 200),), ((200, 1),)], swaps=[None])
def test_log_softmax(given: Cases) -> None:
    agree(ops.log_softmax, lambda x: functional.log_softmax(x, 1), *given)


@pytest.mark.parametrize("p", [0.0, 0.1])
@unary
def test_dropout(given: Cases, p: float) -> None:
    agree(lambda x: ops.dropout(x, p), lambda x: functional.dropout(x, p), *given)


@varied([((24, 40), (24,)), ((1, 200), (1,)), ((200, 1), (200,))], [(d, "int64") for d, _ in PAIRS], swaps=[None, None])
def test_cross_entropy(given: Cases) -> None:
    agree(ops.cross_entropy, functional.cross_entropy, *given)


@pytest.mark.parametrize("dtype", [F32, BF16])
def test_losses_under_autocast(dtype: str) -> None:
    """They run in float32, also on a CPU."""
    x, labels, y = Given((24, 40), dtype), Given((24,), "int64", grad=False), Given((24, 40), BF16, grad=False)
    agree(ops.cross_entropy, functional.cross_entropy, x, labels, autocast=BF16)
    agree(ops.mse_loss, functional.mse_loss, x, y, autocast=BF16)
    agree(
        lambda x, y: ops.nll_loss(ops.log_softmax(x), y),
        lambda x, y: functional.nll_loss(functional.log_softmax(x, 1), y),
        x,
        labels,
        autocast=BF16,
    )


@varied([((40,), (40,)), ((24, 40), (24, 40)), ((1,), (1,))], PAIRS, swaps=[None, None])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_mse_loss(given: Cases, reduction: str) -> None:
    agree(
        lambda x, target: ops.mse_loss(x, target, reduction),
        lambda x, target: functional.mse_loss(x, target, reduction=reduction),
        *given,
    )


@binary
def test_sub(given: Cases) -> None:
    agree(ops.sub, lambda a, b: a - b, *given)


@binary
def test_div(given: Cases) -> None:
    agree(ops.div, lambda a, b: a / b, *given)


@unary
def test_div_scalar(given: Cases) -> None:
    agree(lambda x: ops.div(x, ops.SCALAR), lambda x: x / 3.0, *given)


@plain
@pytest.mark.parametrize(("dim", "keepdim"), [(0, False), (-1, True), (-2, False)])
def test_sum_dim(given: Cases, dim: int, keepdim: bool) -> None:
    agree(lambda x: ops.sum(x, dim, keepdim), lambda x: x.sum(dim, keepdim=keepdim), *given)


@plain
@pytest.mark.parametrize("dim", [0, 1])
def test_mean_dim(given: Cases, dim: int) -> None:
    agree(lambda x: ops.mean(x, dim), lambda x: x.mean(dim), *given)


@unary
@pytest.mark.parametrize("name", ["sqrt", "sigmoid", "tanh", "relu", "gelu", "exp"])
def test_unary_functions(given: Cases, name: str) -> None:
    function = functional.gelu if name == "gelu" else getattr(torch, name)
    agree(getattr(ops, name), function, *given)


@varied([((4, 6, 40), (40,), (40,)), ((3, 40), (40,), (40,))], [(F32,) * 3, (BF16,) * 3, (F16,) * 3], swaps=[None] * 3)
def test_layer_norm(reference_threads: None, given: Cases) -> None:
    agree(ops.layer_norm, lambda x, w, b: functional.layer_norm(x, (40,), w, b), *given)


@varied([((30, 70),), ((20, 30, 40),)], FLOATS)
def test_vector_norm(given: tuple[Given, ...]) -> None:
    """Witness: autograd's saved tensors and the allocator."""
    agree(lambda x: ops.linalg_vector_norm(x, 1), lambda x: torch.linalg.vector_norm(x, dim=1), *given)


@varied([((30, 70),)], FLOATS)
def test_vector_norm_of_all(given: tuple[Given, ...]) -> None:
    """Witness: autograd's saved tensors and the allocator."""
    agree(ops.linalg_vector_norm, lambda x: torch.norm(x, p="fro"), *given)


@pytest.mark.parametrize("name", ["cos", "sin"])
@varied([((20, 30),)], FLOATS)
def test_cosine_and_sine(given: tuple[Given, ...], name: str) -> None:
    """Witness: autograd's saved tensors and the allocator."""
    agree(getattr(ops, name), getattr(torch, name), *given)


@varied([((20, 30),)], FLOATS)
def test_clamp(given: tuple[Given, ...]) -> None:
    """Witness: autograd's saved tensors and the allocator."""
    agree(ops.clamp, lambda x: torch.clamp(x, min=1e-4), *given)


@pytest.mark.parametrize(
    "dims", [(0, 1), (0, 2), (0, 3), (1, 3), (2, 3), (0, 1, 2), (0, 2, 3), (1, 2, 3), (0, 1, 3), (2,), (1,)], ids=str
)
@pytest.mark.parametrize("shape", [(40, 1, 50, 60), (40, 3, 50, 1)], ids=str)
def test_a_16_bit_sum_over_dimensions_apart_has_a_copy(shape: tuple[int, ...], dims: tuple[int, ...]) -> None:
    """A dimension of one is no dimension between others."""
    agree(lambda x: ops.sum(x, dims), lambda x: x.sum(dims), Given(shape, BF16, grad=False))
