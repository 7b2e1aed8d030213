"""Sparse tensors in coordinate format, on a CPU: int64 indices [2, n] and values [n] of a matrix.

Source: ``aten/src/ATen/native/sparse/SparseTensor.cpp`` and ``SparseTensorMath.cpp``. A gradient of a sparse tensor is
sparse, too: its entries at the tensor's indices.
"""

from __future__ import annotations

from ..errors import InputError
from ..ledger import Call, Shape, Tensor, record
from .indexing import INDICES
from .layout import Grads
from .table import SHAPE, Kept, operator, saves
from .views import pass_on


class SparseTensor(Tensor):
    """A matrix whose storage is that of its values, [n]."""

    __slots__ = ("entries", "indices")

    def __init__(self, indices: Tensor, values: Tensor, shape: Shape) -> None:
        super().__init__(values.storage, shape, values.dtype)
        self.indices, self.entries = indices, values.numel

    @property
    def values(self) -> Tensor:
        """The values, [n]."""
        return Tensor(self.storage, (self.entries,), self.dtype)

    def alias(self) -> Tensor:
        return SparseTensor(self.indices, self.values, self.shape)


def _parts(x: Tensor) -> tuple[Tensor, Tensor]:
    """A sparse tensor's indices and values. Raises ``InputError``."""
    if not isinstance(x, SparseTensor):
        raise InputError("a dense tensor where a program has a sparse one; record it again")
    return x.indices, x.values


@operator("sparse_coo_tensor", args=lambda out, indices, values, size=None: (indices, values, out.shape))
@saves(
    "SparseCooTensorWithDimsAndTensorsBackward0",
    INDICES,
    Kept("the values", because="part of the sparse tensor that is kept"),
    inputs=("values",),
)
def sparse_coo_tensor(indices: Tensor, values: Tensor, shape: Shape) -> Tensor:
    """``torch.sparse_coo_tensor(indices, values, shape)`` with int64 indices: shares and saves both.

    Raises ``InputError`` for values of several dimensions, and on a GPU, whose kernels have no rules.
    """
    if values.ledger.device.has_own_memory:
        raise InputError("sparse tensors have no rule on a GPU")
    if len(shape) != 2 or len(values.shape) != 1 or indices.dtype != "int64":
        raise InputError("sparse tensors have a rule as matrices of single values with int64 indices only")
    return record(
        "SparseCooTensorWithDimsAndTensorsBackward0",
        lambda: SparseTensor(indices.alias(), values.alias(), shape),
        (values,),
        (indices, values),
        _sparse_coo_tensor_backward,
    )


def _sparse_coo_tensor_backward(call: Call) -> Grads:
    """``sparse_mask`` of a sparse gradient: which of its entries are at places of the tensor."""
    ledger, (indices, values) = call.ledger, call.saved
    numbers = ledger.empty(values.shape, "int64")
    found = ledger.empty(values.shape, "int64")
    flat = ledger.empty(indices.shape, "int64")
    copied = ledger.empty(indices.shape, "int64")
    out = ledger.empty(values.shape, values.dtype)
    del numbers, found, flat, copied
    return (out,)


@operator("coalesce")
def coalesce(x: Tensor) -> Tensor:
    """``x.coalesce()`` of a tensor whose entries are in no order, each at a place of its own.

    Sorts flat indices, and copies the values in that order. Saves nothing.
    """
    indices, values = _parts(x)

    def run() -> Tensor:
        ledger = x.ledger
        flat = ledger.empty(values.shape, "int64")
        out = SparseTensor(ledger.empty(indices.shape, "int64"), ledger.empty(values.shape, values.dtype), x.shape)
        ordered = [ledger.empty(values.shape, "int64") for _ in range(2)]
        ledger.transient(values.numel * 8)
        del flat, ordered
        return out

    return record("CoalesceBackward0", run, (x,), (), pass_on)


@operator("sparse_mm")
@saves(
    "SparseAddmmBackward0",
    INDICES,
    Kept("its sparse factor", because="backward multiplies by it and reads its indices"),
    Kept("its second factor", (-2,)),
    inputs=("sparse factor", "second factor"),
)
def sparse_mm(x: Tensor, dense: Tensor) -> Tensor:
    """``torch.sparse.mm(x, dense)`` of x [m, k] and dense [k, n]: saves x, and dense if x requires a gradient.

    The product is added to a matrix of zeros (``_sparse_addmm``).
    """
    indices, values = _parts(x)
    saved = (indices, x, dense if x.requires_grad else None)

    def run() -> Tensor:
        return _added(dense, (x.shape[0], dense.shape[1]), values)

    return record("SparseAddmmBackward0", run, (x, dense), saved, _sparse_mm_backward)


def _added(dense: Tensor, shape: Shape, values: Tensor) -> Tensor:
    """The product of a sparse matrix and a dense one, made beside zeros."""
    zeros = dense.ledger.empty(shape, dense.dtype)
    dense.ledger.multiply(values.numel, dense.shape[1])
    out = dense.ledger.empty(shape, dense.dtype)
    del zeros
    return out


def _sparse_mm_backward(call: Call) -> Grads:
    """The sparse factor's gradient is a dense product first. The other's takes a transposed copy of the sparse one."""
    grad, (indices, x, _), ledger = call.grad, call.saved, call.ledger
    _, values = _parts(x)
    of_x = of_dense = None
    if call.needs[0]:
        product = ledger.empty(x.shape, grad.dtype)
        ledger.multiply(*x.shape, grad.shape[1])
        of_x = _masked(x)
        del product
    if call.needs[1]:
        copied = ledger.empty(values.shape, values.dtype), ledger.empty(indices.shape, "int64")
        ledger.transient(values.numel * 8)
        of_dense = _added(grad, (x.shape[1], grad.shape[1]), values)
        del copied
    return of_x, of_dense


@operator("to_dense")
@saves("ToDenseBackward0", INDICES, Kept("the sparse tensor", because=SHAPE))
def to_dense(x: Tensor) -> Tensor:
    """``x.to_dense()``: saves x. A tensor that is dense is given back."""
    if not isinstance(x, SparseTensor):
        return x
    indices, _ = _parts(x)
    return record("ToDenseBackward0", lambda: x.ledger.empty(x.shape, x.dtype), (x,), (indices, x), _to_dense_backward)


def _to_dense_backward(call: Call) -> Grads:
    return (_masked(call.saved[1]),)


def _masked(x: Tensor) -> Tensor:
    """``grad.sparse_mask(x)``: the dense gradient's entries at x's indices, times a mask of ones."""
    ledger, (indices, values) = x.ledger, _parts(x)
    one = ledger.empty((), values.dtype)
    entries = ledger.empty(values.shape, values.dtype)
    copied = ledger.empty(indices.shape, "int64")
    out = SparseTensor(copied, ledger.empty(values.shape, values.dtype), x.shape)
    del one, entries
    return out
