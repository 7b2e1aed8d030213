"""Rules of products: bmm, kron, mm under autocast, solve, rotations by blocks, the inverse Fourier transform.

Witness everywhere: autograd's saved tensors and the real allocator.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from estimator import ops
from tests.helpers.operator_rules import (
    BF16,
    F16,
    F16_PRODUCTS,
    F32,
    PAIRS,
    Cases,
    Given,
    agree,
    varied,
)


@pytest.mark.parametrize("grads", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("dtype", [F32, BF16, F16_PRODUCTS])
@pytest.mark.parametrize("swapped", [None, (0, 1), (1, 2)])
def test_bmm_of_strided_matrices(swapped: Any, dtype: str, grads: tuple[bool, bool]) -> None:
    given = (Given((12, 30, 16), dtype, grads[0], swapped), Given((12, 16, 24), dtype, grads[1]))
    agree(ops.bmm, torch.bmm, *given)


@pytest.mark.parametrize("dtype", [F32, BF16, F16])
@pytest.mark.parametrize("shape", [(2, 17, 6, 16), (1, 17, 6, 16), (1, 1, 6, 32), (2, 17, 1, 16)])
def test_rotated_blocks(shape: tuple[int, ...], dtype: str) -> None:
    def function(x: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
        return torch.einsum("...rk,rkc->...rc", x, blocks).reshape(*shape[:2], -1)

    def rule(x: Any, blocks: Any) -> Any:
        return ops.reshape(ops.rotate_blocks(x, blocks), (*shape[:2], shape[2] * shape[3]))

    agree(rule, function, Given(shape, dtype), Given((shape[2], shape[3], shape[3]), dtype))


@varied(
    [((12, 14), (8, 10)), ((12, 1), (8, 10)), ((1, 14), (8, 10)), ((12, 14), (1, 1))],
    [(F32, F32), (BF16, BF16)],
    swaps=[None, None],
)
def test_kron(given: Cases) -> None:
    agree(ops.kron, torch.kron, *given)


@pytest.mark.parametrize("grads", [(True, True), (True, False), (False, True)])
def test_solve(grads: tuple[bool, bool]) -> None:
    def function(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.linalg.solve(torch.eye(16) + a, b, left=False)

    def rule(a: Any, b: Any) -> Any:
        return ops.solve_right(ops.add(a.ledger.empty((16, 16), F32), a), b)

    agree(rule, function, Given((12, 16, 16), F32, grads[0]), Given((12, 16, 16), F32, grads[1]))


def test_block_diagonal() -> None:
    agree(ops.block_diagonal, lambda x: torch.block_diag(*torch.unbind(x)), Given((12, 8, 8)))


@varied([((70, 40), (40, 30))], PAIRS)
def test_mm_under_autocast(given: Any) -> None:
    agree(ops.autocast_mm, torch.mm, *given, autocast=BF16)


@varied([((30, 40),), ((1, 40),), ((64, 64),)], [(F32,)], swaps=[None])
def test_inverse_fourier_transform(given: Any) -> None:
    agree(lambda x: ops.mul_scalar(ops.real(ops.ifft2(x))), lambda x: torch.fft.ifft2(x).real * 3.0, *given)
