"""Rules of products: bmm, kron, mm under autocast, solve, rotations by blocks, the inverse Fourier transform.

Witness everywhere: autograd's saved tensors and the real allocator.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from estimator import operators as ops
from estimator.ledger import Ledger
from estimator.operators.products import _packed_bytes
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

linear_shapes = [
    ((4, 6, 40), (24, 40)),
    ((24, 40), (32, 40)),
    ((1, 6, 40), (24, 40)),
    ((4, 1, 40), (24, 40)),
    ((1, 1, 200), (100, 200)),
    ((4, 6, 40), (1, 40)),
    ((40, 6, 1), (24, 1)),
]


@varied(linear_shapes, PAIRS, swaps=[None, None])
def test_linear(given: Cases) -> None:
    agree(ops.linear, functional.linear, *given)


@varied([(a, b, b[:1]) for a, b in linear_shapes], [(d, d, d) for d, _ in PAIRS], swaps=[None] * 3)
def test_linear_with_bias(given: Cases) -> None:
    agree(ops.linear, functional.linear, *given)


@varied([(a, b) for a, b in linear_shapes if len(a) == 3], PAIRS, swaps=[None, None])
def test_matmul_transposed(given: Cases) -> None:
    agree(ops.linear, lambda x, weight: x @ weight.T, *given)


@varied(
    [
        ((2, 3, 8, 20), (2, 3, 20, 12)),
        ((1, 3, 8, 20), (2, 3, 20, 12)),
        ((2, 3, 8, 20), (2, 1, 20, 12)),
        ((2, 3, 1, 20), (2, 3, 20, 12)),
        ((2, 3, 8, 20), (2, 3, 20, 1)),
        ((2, 3, 8, 1), (2, 3, 1, 12)),
        ((1, 1, 8, 20), (1, 1, 20, 12)),
    ],
    PAIRS,
)
def test_matmul(given: Cases) -> None:
    agree(ops.matmul, torch.matmul, *given)


@varied(
    [
        ((3, 8, 20), (2, 3, 20, 12)),
        ((2, 8, 20), (2, 20, 12)),
        ((1, 8, 20), (3, 20, 12)),
        ((3, 8, 20), (1, 20, 12)),
        ((3, 4, 8, 20), (20, 12)),
        ((8, 20), (3, 20, 12)),
        ((8, 20), (2, 3, 20, 12)),
        ((8, 20), (1, 20, 1)),
        ((5, 2, 3, 8, 20), (5, 1, 3, 20, 12)),
    ],
    PAIRS,
)
def test_matmul_of_any_dimensions(given: Cases) -> None:
    agree(ops.matmul, torch.matmul, *given)


@varied(
    [((40,), (40,)), ((30, 40), (40,)), ((40,), (40, 30)), ((3, 30, 40), (40,)), ((40,), (3, 40, 30))],
    [(F32, F32), (BF16, BF16)],
)
def test_matmul_of_vectors(given: Cases) -> None:
    agree(ops.matmul, torch.matmul, *given)


@varied([((2, 30, 40), (24, 40))], PAIRS, swaps=[(0, 1), None])
def test_linear_of_strided_rows(given: Cases) -> None:
    agree(ops.linear, functional.linear, *given)


@varied([((40,), (24, 40), (24,))], [(F32,) * 3, (BF16,) * 3], swaps=[None] * 3)
def test_linear_of_a_vector(given: Cases) -> None:
    agree(ops.linear, functional.linear, *given)
    agree(ops.linear, functional.linear, *given[:2])


@varied([((1, 40), (40, 24)), ((7, 1), (40, 24)), ((1, 1), (40, 24))], PAIRS)
def test_mm_of_an_expanded_factor(given: Cases) -> None:
    """Neither row- nor column-major, so it is copied; one expanded along its rows alone has rows at no distance."""
    agree(lambda a, b: ops.mm(ops.expand(a, (7, 40)), b), lambda a, b: a.expand(7, 40).mm(b), *given)
    agree(
        lambda a, b: ops.mm(ops.transpose(b, 0, 1), ops.transpose(ops.expand(a, (7, 40)), 0, 1)),
        lambda a, b: b.t().mm(a.expand(7, 40).t()),
        *given,
    )


@varied([((7, 40), (24, 40)), ((40,), (24, 40)), ((1, 7, 40), (24, 40))], PAIRS, swaps=[None, None])
def test_linear_whose_gradient_is_expanded(given: Cases) -> None:
    """The gradient of a sum is one number, expanded."""
    agree(
        lambda x, weight: ops.sum(ops.linear(x, weight)), lambda x, weight: functional.linear(x, weight).sum(), *given
    )


@pytest.mark.parametrize("beta", [1, 0.5])
@pytest.mark.parametrize("alpha", [1, 0.5])
@varied(
    [((24,), (7, 40), (40, 24)), ((7, 24), (7, 40), (40, 24)), ((1, 24), (1, 40), (40, 24))], [(F32,) * 3, (BF16,) * 3]
)
def test_addmm(given: Cases, alpha: float, beta: float) -> None:
    agree(
        lambda x, a, b: ops.addmm(x, a, b, beta != 1, alpha != 1),
        lambda x, a, b: torch.addmm(x, a, b, beta=beta, alpha=alpha),
        *given,
    )


@pytest.mark.parametrize("beta", [1, 0.5])
@pytest.mark.parametrize("alpha", [1, 0.5])
@varied([((6, 1, 30), (6, 22, 12), (6, 12, 30)), ((6, 22, 30), (6, 22, 12), (6, 12, 30))], [(F32,) * 3, (BF16,) * 3])
def test_baddbmm(given: Cases, alpha: float, beta: float) -> None:
    agree(
        lambda x, a, b: ops.baddbmm(x, a, b, beta != 1, alpha != 1),
        lambda x, a, b: torch.baddbmm(x, a, b, beta=beta, alpha=alpha),
        *given,
    )


@varied([((24,), (7, 40), (40, 24))], [(F32, F32, F32), (F32, BF16, F32)], swaps=[None] * 3)
def test_addmm_under_autocast(given: Cases) -> None:
    agree(ops.addmm, torch.addmm, *given, autocast=BF16)


@varied([((6, 8, 20), (6, 20, 12))], [(F32, F32), (BF16, F32)])
def test_bmm_under_autocast(given: Cases) -> None:
    agree(ops.bmm, torch.bmm, *given, autocast=BF16)


@varied([((6, 8, 20), (6, 20, 12)), ((1, 8, 20), (1, 20, 12)), ((6, 1, 20), (6, 20, 1))], PAIRS)
def test_bmm(given: Cases) -> None:
    agree(ops.bmm, torch.bmm, *given)


@pytest.mark.parametrize("dtype", [BF16, F16])
@varied(
    [((4, 6, 40), (24, 40)), ((40, 6, 40), (24, 40)), ((2, 6, 40), (400, 40))],
    [(F32, F32), (BF16, F32), (F32, BF16)],
    swaps=[None, None],
)
def test_linear_under_autocast(given: Cases, dtype: str) -> None:
    agree(ops.linear, functional.linear, *given, autocast=dtype)


@varied([((4, 6, 40), (24, 40), (24,))], [(F32, F32, F32)], swaps=[None] * 3)
def test_linear_with_bias_under_autocast(given: Cases) -> None:
    agree(ops.linear, functional.linear, *given, autocast=BF16)


@varied([((4, 6, 40), (40, 40))], [(F32, F32), (BF16, F32)], swaps=[None, None])
def test_cast_of_a_trainable_leaf_is_made_once(given: Cases) -> None:
    agree(
        lambda x, weight: ops.linear(ops.linear(x, weight), weight),
        lambda x, weight: functional.linear(functional.linear(x, weight), weight),
        *given,
        autocast=BF16,
    )


@varied([((2, 3, 8, 20), (2, 3, 20, 12))], [(BF16, F32), (F32, BF16)])
def test_matmul_under_autocast(given: Cases) -> None:
    agree(ops.matmul, torch.matmul, *given, autocast=BF16)


@varied([((7, 40), (40, 9)), ((1, 200), (200, 3))], PAIRS)
def test_mm(given: Cases) -> None:
    agree(ops.mm, torch.mm, *given)


@varied([((4, 6, 40), (40, 9)), ((1, 6, 40), (40, 1))], PAIRS, swaps=[None, (-1, -2)])
def test_matmul_2d(given: Cases) -> None:
    agree(ops.matmul, torch.matmul, *given)


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
        return ops.reshape(ops.einsum("...rk,rkc->...rc", x, blocks), (*shape[:2], shape[2] * shape[3]))

    agree(rule, function, Given(shape, dtype), Given((shape[2], shape[3], shape[3]), dtype))


EQUATIONS = {
    "bclhn,bcshn->bclsh": ((2, 2, 8, 6, 10), (2, 2, 8, 6, 10)),
    "bzch,bzhpn->bchpn": ((2, 3, 3, 6), (2, 3, 6, 16, 10)),
    "bntc,bncs->bnts": ((2, 4, 11, 12), (2, 4, 12, 11)),
    "ibh,hnd->ibnd": ((11, 2, 48), (48, 4, 12)),
    "ibnd,hnd->ibh": ((11, 2, 4, 12), (48, 4, 12)),
    "...i,ij->...j": ((2, 11, 40), (40, 30)),
    "i,j->ij": ((40,), (30,)),
    "bi,bi": ((11, 40), (11, 40)),
    "bi,bk->bk": ((11, 40), (11, 30)),
    "bij,jk->bik": ((11, 4, 1), (1, 30)),
}
"""The equations of transformers' models, and others."""


@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("grads", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("equation", EQUATIONS)
def test_einsum(equation: str, dtype: str, swapped: bool, grads: tuple[bool, bool]) -> None:
    given = [
        Given(shape, dtype, grad, (0, 1) if swapped and len(shape) > 1 else None)
        for shape, grad in zip(EQUATIONS[equation], grads, strict=True)
    ]
    agree(lambda *x: ops.einsum(equation, *x), lambda *x: torch.einsum(equation, *x), *given)


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
        return ops.linalg_solve(ops.add(a.ledger.empty((16, 16), F32), a), b)

    agree(rule, function, Given((12, 16, 16), F32, grads[0]), Given((12, 16, 16), F32, grads[1]))


def test_block_diagonal() -> None:
    agree(ops.block_diag_of, lambda x: torch.block_diag(*torch.unbind(x)), Given((12, 8, 8)))


@varied([((70, 40), (40, 30))], PAIRS)
def test_mm_under_autocast(given: Any) -> None:
    agree(ops.mm, torch.mm, *given, autocast=BF16)


@varied([((30, 40),), ((1, 40),), ((64, 64),)], [(F32,)], swaps=[None])
def test_inverse_fourier_transform(given: Any) -> None:
    agree(lambda x: ops.mul(ops.real(ops.fft_ifft2(x)), ops.SCALAR), lambda x: torch.fft.ifft2(x).real * 3.0, *given)


@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("grads", [(True, True), (True, False), (False, True)], ids=str)
@pytest.mark.parametrize("swapped", [None, (1, 2)], ids=["row-major", "column-major"])
@pytest.mark.parametrize("sizes", [(48, 80), (48, 16)], ids=str)
def test_grouped_mm(sizes: tuple[int, int], swapped: Any, grads: tuple[bool, bool], dtype: str) -> None:
    offsets = torch.tensor([10, 10, 22, 30, 40, 44], dtype=torch.int32)
    agree(
        lambda a, b, _: ops.grouped_mm(a, b, _),
        lambda a, b, _: functional.grouped_mm(a, b, offs=_.copy_(offsets)),
        Given((44, sizes[0]), dtype, grads[0]),
        Given((6, *sizes), dtype, grads[1], swapped),
        Given((6,), "int32", grad=False),
    )


@pytest.mark.parametrize("grads", [(True, True), (True, False), (False, True)], ids=str)
@pytest.mark.parametrize("swapped", [None, (-1, -2)])
@pytest.mark.parametrize("shapes", [((2, 4, 16, 16), (2, 4, 16, 10)), ((16, 16), (16, 10))], ids=str)
def test_solve_triangular(shapes: Any, swapped: Any, grads: tuple[bool, bool]) -> None:
    agree(
        lambda a, b: ops.linalg_solve_triangular(a, b),
        lambda a, b: torch.linalg.solve_triangular(a, b, upper=False, unitriangular=True),
        *(Given(shape, F32, grad, swapped) for shape, grad in zip(shapes, grads, strict=True)),
    )


def test_qr() -> None:
    """The peak is the backward pass's: LAPACK's workspace has no rule. Matrix and gradient are laid out alike."""
    agree(lambda a: ops.linalg_qr(a)[0], lambda a: torch.linalg.qr(a)[0], Given((3072, 32), F32, True, (-1, -2)))


@pytest.mark.usefixtures("reference_threads")
def test_histc() -> None:
    agree(
        lambda x: ops.histc(x, 600), lambda x: torch.histc(x, bins=600, min=0, max=5), Given((44000,), F32, grad=False)
    )


def test_block_diagonal_of_any_matrices() -> None:
    agree(ops.block_diag, torch.block_diag, Given((12, 8)), Given((20, 30)))


def test_solve_one_matrix() -> None:
    def rule(a: Any, b: Any) -> Any:
        return ops.linalg_solve(ops.add(a.ledger.empty((16, 16), F32), a), b)

    def function(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.linalg.solve(torch.eye(16) + a, b, left=False)

    agree(rule, function, Given((16, 16)), Given((16, 16)))


def test_fft() -> None:
    agree(lambda x: ops.real(ops.fft(x)), lambda x: torch.fft.fft(x).real, Given((12, 40)))


def test_which_matrices_are_packed() -> None:
    """By hand: two matrices of [6, 8] in 16 bits, row-major, column-major, and of which rows alternate in memory."""
    for dtype, packed in ((BF16, 2 * 6 * 8 * 2), (F16, 0), (F32, 0)):
        ledger = Ledger(ops.CPU)
        matrices = [
            ledger.empty((2, 6, 8), dtype),
            ops.transpose(ledger.empty((2, 8, 6), dtype), 1, 2),
            ops.transpose(ledger.empty((6, 2, 8), dtype), 0, 1),
        ]
        assert [_packed_bytes(x) for x in matrices] == [0, 0, packed]
