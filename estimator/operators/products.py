"""Matrix products, and operators that are made of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from ..ledger import RESULT, Call, Shape, Size, Tensor, product, record
from ..ledger.sizes import sample
from .casts import autocast
from .elementwise import elementwise, mul
from .layout import Grads, broadcast, strides_of, view_of
from .views import contiguous, expand, permute, real, reshape, transpose, unsafe_view, view

P = ParamSpec("P")


def _product_of(x: Tensor, shape: Shape, inner: Size) -> Tensor:
    """Allocate the result of a matrix product of ``x`` that sums over ``inner`` elements."""

    def make() -> Tensor:
        x.ledger.multiply(*shape, inner)
        return x.ledger.empty(shape, x.dtype)

    return x.ledger.product(make)


def _holds_operands(operator: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Make an operator's arguments live until it returns, although it goes on with autocast's casts of them."""

    @wraps(operator)
    def call(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        return operator(*args, **kwargs)

    return call


@_holds_operands
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear(x, weight, bias)``: folds leading dimensions and multiplies by ``weight.t()``.

    Saves the folded input if the weight requires a gradient, and the weight if the input does (``at::native::linear``,
    ``matmul``). Autocast casts both first, and caches the casts of trained parameters (``autocast_mode.cpp``).
    """
    bias = None if bias is None else autocast(bias)
    weight = autocast(weight)
    x = autocast(x)
    out_features = weight.shape[0]
    rows: Size = product(x.shape[:-1])
    folded = len(x.shape) > 2
    flat = reshape(x, (rows, x.shape[-1])) if folded else x
    shape2 = (rows, out_features)
    factor = view_of(weight, (weight.shape[1], out_features), (1, weight.shape[1]))  # weight.t()
    factor.requires_grad = weight.requires_grad  # saved-tensor hooks read it
    saved = (factor if flat.requires_grad else None, flat if weight.requires_grad else None)
    name = "MmBackward0" if bias is None else "AddmmBackward0"

    def make() -> Tensor:
        out = _product_of(x, shape2, flat.shape[1])
        launch_cublas(flat, weight)
        if bias is None and not weight.requires_grad and _packs(x):
            # bmm: oneDNN wants contiguous operands, so the weight is copied for each element of the batch
            copies = product(x.shape[:-2])
            x.ledger.transient(copies * weight.nbytes + (0 if copies == 1 else x.nbytes))
        return out

    out = record(name, make, (bias, flat, weight), saved, _linear_backward)
    if not folded:
        return out
    return (unsafe_view if bias is None else view)(out, (*x.shape[:-1], out_features))


def _packs(x: Tensor) -> bool:
    return not x.ledger.device.uses_cublas and x.dtype == "bfloat16" and not _folds(x)


def _folds(x: Tensor) -> bool:
    """``at::native::should_fold`` for a weight that needs no gradient. Dimensions of size one are compared too."""
    strides = strides_of(x)
    return all(strides[i] == strides[i + 1] * x.shape[i + 1] for i in range(len(x.shape) - 2))


def _linear_backward(call: Call) -> Grads:
    # MmBackward computes the second factor's gradient first, AddmmBackward the first factor's. The bias's gradient is
    # the incoming one, which the engine then sums to the bias's shape.
    grad, needs_bias = call.grad, call.needs[0]
    grad_flat = _flat_gradient(call) if needs_bias else None
    grad_weight = None
    if call.needs[2]:
        grad_weight = call.ledger.empty((grad.shape[1], call.saved[1].shape[1]), grad.dtype)
        call.ledger.multiply(*grad.shape, call.saved[1].shape[1])
        launch_cublas(grad, call.saved[1])
        grad_weight.is_view = True  # t() of the product's result, so no gradient is added to it in place
    if not needs_bias:
        grad_flat = _flat_gradient(call)
    return (grad if needs_bias else None), grad_flat, grad_weight


def _flat_gradient(call: Call) -> Tensor | None:
    if not call.needs[1]:
        return None
    call.ledger.multiply(*call.grad.shape, call.saved[0].shape[0])
    out = call.ledger.empty((call.grad.shape[0], call.saved[0].shape[0]), call.grad.dtype)
    launch_cublas(call.grad, call.saved[0])
    return out


def mm(a: Tensor, b: Tensor) -> Tensor:
    """``a.mm(b)``: saves each factor if the other requires a gradient."""
    saved = (b if a.requires_grad else None, a if b.requires_grad else None)
    shape = (a.shape[0], b.shape[1])
    args = _column_major(a), _column_major(b)

    def make() -> Tensor:
        out = _product_of(a, shape, a.shape[1])
        launch_cublas(a, b)
        return out

    return record("MmBackward0", make, (a, b), saved, _mm_backward, *args)


def _column_major(x: Tensor) -> bool:
    return x.strides is not None and x.strides[0] == 1 and x.strides[1] == x.shape[0]


def _mm_backward(call: Call) -> Grads:
    # mm_mat2_grad, mm_mat1_grad: a transposed factor's gradient is a transposed product, so a view.
    grad, (b, a) = call.grad, call.saved
    grad_a = grad_b = None
    if call.needs[1]:
        grad_b = _product((a.shape[1], grad.shape[1]), grad, transposed=call.args[1])
        grad.ledger.multiply(*grad.shape, a.shape[1])
        launch_cublas(a, grad)
    if call.needs[0]:
        grad_a = _product((grad.shape[0], b.shape[0]), grad, transposed=call.args[0])
        grad.ledger.multiply(*grad.shape, b.shape[0])
        launch_cublas(grad, b)
    return grad_a, grad_b


def _product(shape: Shape, grad: Tensor, transposed: bool) -> Tensor:
    if transposed:
        return transpose(grad.ledger.empty(shape[::-1], grad.dtype), 0, 1)
    return grad.ledger.empty(shape, grad.dtype)


@_holds_operands
def matmul(a: Tensor, b: Tensor) -> Tensor:
    """``torch.matmul`` by a matrix, which folds leading dimensions (``at::native::should_fold``), or of two
    4-dimensional tensors, which are expanded, reshaped to 3 dimensions and multiplied by ``bmm``.
    """
    b = autocast(b)
    a = autocast(a)
    if len(b.shape) == 2:
        folds = len(a.shape) > 2
        flat = reshape(a, (product(a.shape[:-1]), a.shape[-1])) if folds else a
        out = mm(flat, b)
        return unsafe_view(out, (*a.shape[:-1], b.shape[1])) if folds else out
    batch = broadcast(a.shape[:-2], b.shape[:-2])
    count = product(batch)
    a3 = reshape(expand(a, (*batch, *a.shape[-2:])), (count, *a.shape[-2:]))
    b3 = reshape(expand(b, (*batch, *b.shape[-2:])), (count, *b.shape[-2:]))
    return unsafe_view(bmm(a3, b3), (*batch, a.shape[-2], b.shape[-1]))


def bmm(a: Tensor, b: Tensor) -> Tensor:
    """``a.bmm(b)``: saves each factor if the other requires a gradient."""
    saved = (b if a.requires_grad else None, a if b.requires_grad else None)
    shape = (a.shape[0], a.shape[1], b.shape[2])
    return record(
        "BmmBackward0",
        lambda: a.ledger.product(lambda: _batched_product(shape, a, b)),
        (a, b),
        saved,
        _bmm_backward,
    )


def _bmm_backward(call: Call) -> Grads:
    grad, (b, a) = call.grad, call.saved
    grad_a = grad_b = None
    if call.needs[1]:
        grad_b = _batched_product((grad.shape[0], a.shape[2], grad.shape[2]), a, grad)
    if call.needs[0]:
        grad_a = _batched_product((grad.shape[0], grad.shape[1], b.shape[1]), grad, b)
    return grad_a, grad_b


def _batched_product(shape: Shape, a: Tensor, b: Tensor) -> Tensor:
    a.ledger.multiply(*shape, a.shape[2])
    out = a.ledger.empty(shape, a.dtype)
    launch_cublas(a, b)
    if not a.ledger.device.uses_cublas and (copies := _packed_bytes(a) + _packed_bytes(b)):
        a.ledger.transient(copies)
    return out


def launch_cublas(*operands: Tensor) -> None:
    """What a matrix product on a GPU allocates after its result.

    Operands that are neither row- nor column-major in their last two dimensions are cloned (``cuBlasCommonArgs.h:
    prepare_matrix_for_cublas``, ``Blas.cpp: prepare_batch_matrix_for_cublas``). cuBLAS gets its workspace in the first
    product of each thread; the log notes where.
    """
    ledger = operands[0].ledger
    if not ledger.device.uses_cublas:
        return
    clones = [ledger.empty(x.shape, x.dtype) for x in operands if not _row_or_column_major(x)]
    if ledger.events is not None:
        thread = "backward" if ledger.phase in ("backward", "recomputation") else "main"
        ledger.events.products.setdefault(thread, len(ledger.events.order))
    del clones


def _row_or_column_major(x: Tensor) -> bool:
    if x.strides is None:
        return True
    (rows, columns), (row, column) = x.shape[-2:], x.strides[-2:]
    return (column == 1 and sample(row) >= sample(columns)) or (row == 1 and sample(column) >= sample(rows))


def _packed_bytes(x: Tensor) -> Size:
    """Bytes of the contiguous copy that oneDNN's bfloat16 ``bmm`` makes of an operand [b, n, m] whose matrices are
    neither row- nor column-major (``mkldnn_matmul: is_mkldnn_optimized_format``; above 4096 multiplications).
    Processors with AVX512-FP16 copy float16 too. That is left out, since a plan names no processor.
    """
    if x.dtype != "bfloat16" or x.strides is None or x.strides == (x.shape[1] * x.shape[2], 1, x.shape[1]):
        return 0
    return x.nbytes


def conv1d(x: Tensor, weight: Tensor) -> Tensor:
    """``F.conv1d`` of x [B, c, T] by a weight [n, c / groups, 1]: saves both, and copies them if not contiguous.

    Further workspace of oneDNN or cuDNN depends on the algorithm that they choose, and has no rule.
    """

    def run() -> Tensor:
        copy = contiguous(x.alias())
        x.ledger.multiply(*shape, weight.shape[1])
        out = x.ledger.empty(shape, x.dtype)
        del copy
        return out

    shape = (x.shape[0], weight.shape[0], x.shape[2])
    return record("ConvolutionBackward0", run, (x, weight), (x, weight), _conv1d_backward)


def _conv1d_backward(call: Call) -> Grads:
    # thnn and oneDNN first make contiguous copies of the input and the gradient
    grad, (x, weight) = call.grad, call.saved
    copies = contiguous(x), contiguous(grad)
    for need in call.needs:
        if need:
            call.ledger.multiply(*grad.shape, weight.shape[1])
    grad_x = call.ledger.empty(x.shape, x.dtype) if call.needs[0] else None
    grad_weight = call.ledger.empty(weight.shape, weight.dtype) if call.needs[1] else None
    del copies
    return grad_x, grad_weight


def kron(a: Tensor, b: Tensor) -> Tensor:
    """``torch.kron`` of [m, n] and [p, q]: views [m, 1, n, 1] and [1, p, 1, q], their product viewed as [m p, n q]."""
    (m, n), (p, q) = a.shape, b.shape
    product = mul(unsafe_view(a, (m, 1, n, 1)), unsafe_view(b, (1, p, 1, q)))
    return unsafe_view(product, (m * p, n * q))


def linalg_solve(a: Tensor, b: Tensor) -> Tensor:
    """``torch.linalg.solve(a, b, left=False)`` of [n, m, m]: saves ``a``, its factors and pivots, and the result."""
    ledger = a.ledger
    factors, pivots = ledger.empty(a.shape, a.dtype), ledger.empty(a.shape[:2], "int32")

    def solve() -> Tensor:
        out = ledger.empty(b.shape, b.dtype)
        info = ledger.empty(a.shape[:1], "int32")
        ledger.empty(pivots.shape, "bool")  # linalg_lu_solve looks for pivots out of range
        del info
        return out

    return record("LinalgSolveExBackward0", solve, (a, b), (a, factors, pivots, RESULT), _solve_backward)


def _solve_backward(call: Call) -> Grads:
    # linalg_solve_backward computes both: B's gradient gB from the factors, A's as -X^T gB
    grad = call.grad
    grad_b = call.ledger.empty(grad.shape, grad.dtype)
    call.ledger.empty(call.saved[2].shape, "bool")
    if not call.needs[0]:
        return None, grad_b
    product = call.ledger.empty(grad.shape, grad.dtype)
    return elementwise((product,), grad.dtype), grad_b


@_holds_operands
def einsum(equation: str, x: Tensor, blocks: Tensor) -> Tensor:
    """``torch.einsum(equation, x, blocks)`` of x [B, S, r, k] for one equation, ``...rk,rkc->...rc``.

    ``at::einsum`` (``sumproduct_pair``) runs one ``bmm`` over the blocks. It permutes the operands to views [r, B S, k]
    and [r, k, c], and permutes the product back. So the result's blocks are not neighbours in memory.
    """
    assert equation == "...rk,rkc->...rc"
    blocks = autocast(blocks)
    x = autocast(x)
    batch, seq, count, size = x.shape
    left = reshape(permute(x, (2, 0, 1, 3)), (count, batch * seq, size))
    product = view(bmm(left, blocks), (count, batch, seq, size))
    return permute(product, (1, 2, 0, 3))


def fft_ifft2(x: Tensor) -> Tensor:
    """``torch.fft.ifft2(x)`` of a real tensor: makes a complex copy and transforms it; saves nothing."""

    def make() -> Tensor:
        copy = x.ledger.empty(x.shape, "complex64")
        out = x.ledger.empty(x.shape, "complex64")
        del copy
        return out

    return record("FftC2CBackward0", make, (x,), (), _ifft2_backward)


def _ifft2_backward(call: Call) -> Grads:
    return (real(call.ledger.empty(call.grad.shape, "complex64")),)
