"""Rules of sparse matrices. Witness everywhere: autograd's saved tensors and the real allocator."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from estimator import operators as ops
from estimator.errors import InputError
from estimator.ledger import Ledger
from estimator.operators import Cuda
from tests.helpers.operator_rules import BF16, F32, Given, agree

ENTRIES = [(40, 48, 18), (300, 320, 4000)]
"""Rows, columns and entries."""


def places(rows: int, columns: int, entries: int) -> torch.Tensor:
    """Indices [2, entries] of different places, in no order."""
    flat = torch.randperm(rows * columns, generator=torch.Generator().manual_seed(0))[:entries]
    return torch.stack([flat // columns, flat % columns])


@pytest.mark.parametrize(("rows", "columns", "entries"), ENTRIES)
@pytest.mark.parametrize("grads", [(True, True), (True, False), (False, True), (False, False)], ids=str)
@pytest.mark.parametrize("swapped", [None, (0, 1)], ids=["contiguous", "transposed"])
def test_product_of_a_sparse_matrix(
    grads: tuple[bool, bool], swapped: Any, rows: int, columns: int, entries: int
) -> None:
    found = places(rows, columns, entries)

    def mine(indices: Any, values: Any, dense: Any) -> Any:
        sparse = ops.coalesce(ops.sparse_coo_tensor(indices, values, (rows, columns)))
        return ops.transpose(ops.sparse_mm(sparse, dense), 0, 1)

    def real(indices: Any, values: Any, dense: Any) -> Any:
        indices.copy_(found)
        sparse = torch.sparse_coo_tensor(indices, values, (rows, columns)).coalesce()
        return torch.sparse.mm(sparse, dense).t()

    agree(
        mine,
        real,
        Given((2, entries), "int64", grad=False),
        Given((entries,), F32, grads[0]),
        Given((columns, 13), F32, grads[1], swapped),
        work=False,
    )


@pytest.mark.parametrize(("rows", "columns", "entries"), ENTRIES)
@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("grad", [True, False])
def test_to_dense(dtype: str, grad: bool, rows: int, columns: int, entries: int) -> None:
    found = places(rows, columns, entries)

    def mine(indices: Any, values: Any) -> Any:
        return ops.to_dense(ops.coalesce(ops.sparse_coo_tensor(indices, values, (rows, columns))))

    def real(indices: Any, values: Any) -> Any:
        indices.copy_(found)
        return torch.sparse_coo_tensor(indices, values, (rows, columns)).coalesce().to_dense()

    agree(mine, real, Given((2, entries), "int64", grad=False), Given((entries,), dtype, grad))


def test_a_gpu_has_no_rule() -> None:
    ledger = Ledger(Cuda((8, 0), None))
    with pytest.raises(InputError, match="no rule on a GPU"):
        ops.sparse_coo_tensor(ledger.empty((2, 3), "int64"), ledger.empty((3,), F32), (4, 4))


@pytest.mark.parametrize(("dtype", "copies"), [(F32, 0), (BF16, 2)])
def test_entries_that_are_added_on_a_gpu(dtype: str, copies: int) -> None:
    """By hand from ``add_out_dense_sparse_cuda``: two rows of scaled indices and the flat ones, all of eight bytes, and
    beside another dtype copies in the common one, of the dense matrix and of the result. Two rows of indices are saved.
    """
    ledger = Ledger(Cuda((8, 0)))
    dense, values = ledger.empty((64, 128), dtype), ledger.empty((1000,), F32)
    values.requires_grad = True
    before = ledger.live
    ledger.peaks.clear()
    summed = ops.add_sparse_(dense, values)
    assert max(ledger.peaks.values()) - before == 5 * 8 * 1000 + copies * 64 * 128 * 4
    assert ledger.live - before == 2 * 8 * 1000
    assert summed.shape == (64, 128)
