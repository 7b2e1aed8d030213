"""Matrix products, and operators that are made of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

from ..errors import InputError
from ..ledger import ITEMSIZE, RESULT, Beside, Call, Shape, Size, Storage, Tensor, product, record
from ..ledger.sizes import compared
from .casts import autocast
from .copies import triu
from .elementwise import elementwise, mul, with_number
from .in_place import add_
from .layout import Grads, broadcast, normalised, strides_of, view_of
from .reductions import sum
from .table import FACTORS, PRODUCT, SHAPE, Kept, first, operator, saves
from .views import (
    complex_backward,
    contiguous,
    expand,
    permute,
    real,
    reshape,
    squeeze,
    transpose,
    unsafe_view,
    unsqueeze,
    view,
)

P = ParamSpec("P")

_SYSTEM = ("matrix", "right-hand side")


def _product_of(x: Tensor, shape: Shape, inner: Size) -> Tensor:
    """Allocate the result of a matrix product of ``x`` that sums over ``inner`` elements."""

    def make() -> Tensor:
        x.ledger.multiply(*shape, inner)
        return x.ledger.empty(shape, x.dtype)

    return x.ledger.product(make)


def holds_operands(operator: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Make an operator's arguments live until it returns, although it goes on with autocast's casts of them."""

    @wraps(operator)
    def call(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        return operator(*args, **kwargs)

    return call


@operator("linear")
@holds_operands
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear(x, weight, bias)``: folds leading dimensions and multiplies by ``weight.t()``.

    Saves the folded input if the weight requires a gradient, and the weight if the input does (``at::native::linear``,
    ``matmul``). To an input that is not contiguous a bias is added after the product. Autocast casts both first, and
    caches the casts of trained parameters (``autocast_mode.cpp``).
    """
    if x.ledger.linear is not None and x.ledger.grad_enabled:
        return x.ledger.linear(x, weight, bias, linear)
    bias = None if bias is None else autocast(bias)
    weight = autocast(weight)
    x = autocast(x)
    if not weight.requires_grad and not _folds(x) and (bias is None or normalised(x.shape, strides_of(x)) is not None):
        out = _matmul(x, transpose(weight, 0, 1))
        return out if bias is None else add_(out, bias)
    out_features = weight.shape[0]
    rows: Size = product(x.shape[:-1])
    folded = len(x.shape) != 2
    flat = reshape(x, (rows, x.shape[-1])) if folded else x
    shape2 = (rows, out_features)
    factor = view_of(weight, (weight.shape[1], out_features), (1, weight.shape[1]))  # weight.t()
    factor.requires_grad = weight.requires_grad  # saved-tensor hooks read it
    saved = (factor if flat.requires_grad else None, flat if weight.requires_grad else None)
    name = "MmBackward0" if bias is None else "AddmmBackward0"

    def make() -> Tensor:
        out = _product_of(x, shape2, flat.shape[1])
        launch_product(flat, weight)
        return out

    out = record(name, make, (bias, flat, weight), saved, _linear_backward)
    if not folded:
        return out
    return (unsafe_view if bias is None else view)(out, (*x.shape[:-1], out_features))


def _folds(x: Tensor) -> bool:
    """``at::native::should_fold`` for a second factor that needs no gradient: whether leading dimensions can be joined
    without a copy. Dimensions of size one are compared too.
    """
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
        launch_product(grad, call.saved[1])
        grad_weight.is_view = True  # t() of the product's result, so no gradient is added to it in place
    if not needs_bias:
        grad_flat = _flat_gradient(call)
    return (grad if needs_bias else None), grad_flat, grad_weight


def _flat_gradient(call: Call) -> Tensor | None:
    if not call.needs[1]:
        return None
    call.ledger.multiply(*call.grad.shape, call.saved[0].shape[0])
    out = call.ledger.empty((call.grad.shape[0], call.saved[0].shape[0]), call.grad.dtype)
    launch_product(call.grad, call.saved[0])
    return out


@operator("mm")
@saves("MmBackward0", *PRODUCT, inputs=("input", "weight"))
@holds_operands
def mm(a: Tensor, mat2: Tensor) -> Tensor:
    """``a.mm(mat2)``: saves each factor if the other requires a gradient."""
    b = autocast(mat2)
    a = autocast(a)
    args = _column_major(a), _column_major(b)
    return record("MmBackward0", lambda: _multiplied(a, b), (a, b), _factors(a, b), _mm_backward, *args)


def _multiplied(a: Tensor, b: Tensor) -> Tensor:
    """Allocate the product of two matrices."""
    out = _product_of(a, (a.shape[0], b.shape[1]), a.shape[1])
    launch_product(a, b)
    return out


def _factors(a: Tensor, b: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """What a product saves: each factor if the other requires a gradient."""
    return b if a.requires_grad else None, a if b.requires_grad else None


def _column_major(x: Tensor) -> bool:
    return x.strides is not None and x.strides[0] == 1 and x.strides[1] == x.shape[0]


def _mm_backward(call: Call) -> Grads:
    grad, (b, a) = call.grad, call.saved
    grad_b = _mm_mat2_grad(grad, a, call.args[1]) if call.needs[1] else None
    return (_mm_mat1_grad(grad, b, call.args[0]) if call.needs[0] else None), grad_b


def _mm_mat1_grad(grad: Tensor, b: Tensor, transposed: bool) -> Tensor:
    """The first factor's gradient. A transposed factor's is a transposed product, so a view."""
    out = _product((grad.shape[0], b.shape[0]), grad, transposed)
    grad.ledger.multiply(*grad.shape, b.shape[0])
    launch_product(grad, b)
    return out


def _mm_mat2_grad(grad: Tensor, a: Tensor, transposed: bool) -> Tensor:
    """The second factor's gradient, likewise."""
    out = _product((a.shape[1], grad.shape[1]), grad, transposed)
    grad.ledger.multiply(*grad.shape, a.shape[1])
    launch_product(a, grad)
    return out


def _product(shape: Shape, grad: Tensor, transposed: bool) -> Tensor:
    if transposed:
        return transpose(grad.ledger.empty(shape[::-1], grad.dtype), 0, 1)
    return grad.ledger.empty(shape, grad.dtype)


@operator("addmm")
@saves("AddmmBackward0", *PRODUCT, inputs=("input", "weight"))
@holds_operands
def addmm(bias: Tensor, a: Tensor, b: Tensor, beta: bool = False, alpha: bool = False) -> Tensor:
    """``torch.addmm(bias, a, b, beta, alpha)``: saves each factor if the other requires a gradient.

    ``beta`` and ``alpha``: whether they are not one, so that the backward multiplies by them.
    """
    b = autocast(b)
    a = autocast(a)
    bias = autocast(bias)
    args = _column_major(a), _column_major(b), beta, alpha
    return record("AddmmBackward0", lambda: _multiplied(a, b), (bias, a, b), _factors(a, b), _addmm_backward, *args)


def _addmm_backward(call: Call) -> Grads:
    grad, (b, a) = call.grad, call.saved
    a_transposed, b_transposed, scales_bias, scales = call.args
    grad_a = _maybe_multiply(_mm_mat1_grad(grad, b, a_transposed), scales) if call.needs[1] else None
    grad_b = _maybe_multiply(_mm_mat2_grad(grad, a, b_transposed), scales) if call.needs[2] else None
    return (_maybe_multiply(grad, scales_bias) if call.needs[0] else None), grad_a, grad_b


def _maybe_multiply(x: Tensor, scales: bool) -> Tensor:
    return with_number(x, x.dtype) if scales else x


@operator("mv")
@saves("MvBackward0", *PRODUCT, inputs=FACTORS)
@holds_operands
def mv(a: Tensor, vec: Tensor) -> Tensor:
    """``a.mv(vec)`` of a matrix and a vector: saves each factor if the other requires a gradient."""
    b = autocast(vec)
    a = autocast(a)
    shape = a.shape[:1]
    return record("MvBackward0", lambda: _product_of(a, shape, a.shape[1]), (a, b), _factors(a, b), _mv_backward)


def _mv_backward(call: Call) -> Grads:
    # grad.ger(vec), self.t().mv(grad)
    grad, (b, a) = call.grad, call.saved
    grad_a = call.ledger.empty((grad.shape[0], b.shape[0]), grad.dtype) if call.needs[0] else None
    if not call.needs[1]:
        return grad_a, None
    call.ledger.multiply(*a.shape)
    return grad_a, call.ledger.empty(a.shape[1:], grad.dtype)


@saves("DotBackward0", *PRODUCT, inputs=FACTORS)
def dot(a: Tensor, b: Tensor) -> Tensor:
    """``a.dot(b)`` of two vectors: saves each if the other requires a gradient."""
    return record("DotBackward0", lambda: _product_of(a, (), a.shape[0]), (a, b), _factors(a, b), _dot_backward)


def _dot_backward(call: Call) -> Grads:
    b, a = call.saved
    grad_a = elementwise((call.grad, b), b.dtype) if call.needs[0] else None
    return grad_a, (elementwise((call.grad, a), a.dtype) if call.needs[1] else None)


@operator("matmul", same=("__matmul__",))
@holds_operands
def matmul(a: Tensor, other: Tensor) -> Tensor:
    """``torch.matmul(a, other)``, which is ``mm``, ``bmm``, ``mv`` or ``dot`` of views or copies of its operands."""
    b = autocast(other)
    a = autocast(a)
    return _matmul(a, b)


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    """``LinearAlgebra.cpp: _matmul_impl``."""
    dims = len(a.shape), len(b.shape)
    if dims == (1, 1):
        return dot(a, b)
    if dims == (2, 1):
        return mv(a, b)
    if dims == (1, 2):
        return squeeze(mm(unsqueeze(a, 0), b), b.shape[1:])
    if dims == (2, 2):
        return mm(a, b)
    if _should_fold(a, b):
        return _folded_matmul(a, b)
    if dims == (3, 3) and a.shape[0] != b.shape[0]:
        if a.shape[0] == 1 and a.requires_grad:
            return _matmul(squeeze(a, a.shape[1:]), b)
        if b.shape[0] == 1 and b.requires_grad:
            return _matmul(a, squeeze(b, b.shape[1:]))
    batch = broadcast(a.shape[:-2], b.shape[:-2])
    count = product(batch)
    rows = a.shape[-2:-1] or (1,)
    a3 = reshape(expand(a, (*batch, *rows, a.shape[-1])), (count, *rows, a.shape[-1]))
    if len(b.shape) == 1:
        b3 = unsqueeze(reshape(expand(b, (*batch, *b.shape)), (count, *b.shape)), 2)
        return unsafe_view(squeeze(bmm(a3, b3), (count, *rows)), (*batch, *a.shape[-2:-1]))
    b3 = reshape(expand(b, (*batch, *b.shape[-2:])), (count, *b.shape[-2:]))
    result = bmm(a3, b3)
    del b3  # C++ destroys in reverse
    return unsafe_view(result, (*batch, *a.shape[-2:-1], b.shape[-1]))


def _should_fold(a: Tensor, b: Tensor) -> bool:
    """``at::native::should_fold``: whether a tensor of three or more dimensions is multiplied as one matrix."""
    larger, other = (a, b) if len(a.shape) >= len(b.shape) else (b, a)
    if len(larger.shape) < 3 or len(other.shape) > 2:
        return False
    if other.requires_grad:
        return True
    return len(a.shape) != 2 and _folds(larger if larger is a else _transposed(larger))


def _transposed(x: Tensor) -> Tensor:
    """``x.mT``, outside the graph."""
    return transpose(x.alias(), -2, -1)


def _folded_matmul(a: Tensor, b: Tensor) -> Tensor:
    """The larger operand's leading dimensions become rows. If it is the second, transposed operands are multiplied."""
    swapped = len(b.shape) > len(a.shape)
    if swapped:
        a, b = transpose(b, -2, -1), transpose(a, 0, 1) if len(a.shape) == 2 else a
    flat = reshape(a, (product(a.shape[:-1]), a.shape[-1]))
    if len(b.shape) == 1:
        return unsafe_view(mv(flat, b), a.shape[:-1])
    out = unsafe_view(mm(flat, b), (*a.shape[:-1], b.shape[1]))
    return contiguous(transpose(out, -2, -1)) if swapped else out


@operator("bmm")
@saves("BmmBackward0", *PRODUCT, inputs=FACTORS)
@holds_operands
def bmm(a: Tensor, mat2: Tensor) -> Tensor:
    """``a.bmm(mat2)``: saves each factor if the other requires a gradient."""
    b = autocast(mat2)
    a = autocast(a)
    return record("BmmBackward0", lambda: _batch_multiplied(a, b), (a, b), _factors(a, b), _bmm_backward)


def _batch_multiplied(a: Tensor, b: Tensor) -> Tensor:
    """Allocate the products of two batches of matrices."""
    return a.ledger.product(lambda: _batched_product(a, b))


def _bmm_backward(call: Call) -> Grads:
    grad, (b, a) = call.grad, call.saved
    grad_a = grad_b = None
    if call.needs[1]:
        grad_b = _batched_product(_transposed(a), grad)
    if call.needs[0]:
        grad_a = _batched_product(grad, _transposed(b))
    return grad_a, grad_b


@operator("baddbmm")
@saves("BaddbmmBackward0", *PRODUCT, inputs=FACTORS)
@holds_operands
def baddbmm(x: Tensor, a: Tensor, b: Tensor, beta: bool = False, alpha: bool = False) -> Tensor:
    """``torch.baddbmm(x, a, b, beta, alpha)``: saves each factor if the other requires a gradient.

    ``beta`` and ``alpha``: see ``addmm``.
    """
    b = autocast(b)
    a = autocast(a)
    x = autocast(x)
    inputs, saved = (x, a, b), _factors(a, b)
    return record("BaddbmmBackward0", lambda: _batch_multiplied(a, b), inputs, saved, _baddbmm_backward, beta, alpha)


def _baddbmm_backward(call: Call) -> Grads:
    grad, (b, a) = call.grad, call.saved
    scales_input, scales = call.args
    grad_a = grad_b = None
    if call.needs[1]:
        grad_a = _maybe_multiply(_batched_product(grad, _transposed(b)), scales)
    if call.needs[2]:
        grad_b = _maybe_multiply(_batched_product(_transposed(a), grad), scales)
    return (_maybe_multiply(grad, scales_input) if call.needs[0] else None), grad_a, grad_b


def _batched_product(a: Tensor, b: Tensor) -> Tensor:
    shape = (*a.shape[:2], b.shape[2])
    a.ledger.multiply(*shape, a.shape[2])
    out = a.ledger.empty(shape, a.dtype)
    launch_product(a, b)
    if a.ledger.device.onednn_bfloat16 and (copies := _packed_bytes(a) + _packed_bytes(b)):
        a.ledger.transient(copies)
    return out


def launch_product(*operands: Tensor) -> None:
    """What a matrix product allocates after its result.

    Operands that are neither row- nor column-major in their last two dimensions are cloned (``cuBlasCommonArgs.h:
    prepare_matrix_for_cublas``, ``Blas.cpp: prepare_batch_matrix_for_cublas``), on a CPU those of one product
    (``LinearAlgebra.cpp: addmm_impl_cpu_``). cuBLAS gets its workspace in the first product of each thread; the log
    notes where.
    """
    ledger = operands[0].ledger
    on_gpu = ledger.device.uses_cublas
    if not on_gpu and len(operands[0].shape) > 2:
        return
    clones = [ledger.empty(x.shape, x.dtype) for x in operands if not _row_or_column_major(x)]
    if on_gpu and ledger.events is not None:
        thread = "backward" if ledger.phase in ("backward", "recomputation") else "main"
        ledger.events.products.setdefault(thread, len(ledger.events.order))
    del clones


def _row_or_column_major(x: Tensor) -> bool:
    if x.strides is None:
        return True
    (rows, columns), (row, column) = x.shape[-2:], x.strides[-2:]
    return (column == 1 and compared(row, columns) >= 0) or (row == 1 and compared(column, rows) >= 0)


def _packed_bytes(x: Tensor) -> Size:
    """Bytes of the contiguous copy that oneDNN's bfloat16 ``bmm`` makes of an operand [b, n, m] whose matrices are
    neither row- nor column-major (``mkldnn_matmul: is_mkldnn_optimized_format``; above 4096 multiplications).
    Processors with AVX512-FP16 copy float16 too. That is left out, since a plan names no processor.
    """
    if x.dtype != "bfloat16" or x.strides is None or normalised(x.shape, x.strides) is None:
        return 0
    if x.strides == (x.shape[1] * x.shape[2], 1, x.shape[1]):
        return 0
    return x.nbytes


@operator("kron")
def kron(a: Tensor, other: Tensor) -> Tensor:
    """``torch.kron`` of [m, n] and [p, q]: views [m, 1, n, 1] and [1, p, 1, q], their product viewed as [m p, n q]."""
    (m, n), (p, q) = a.shape, other.shape
    product = mul(unsafe_view(a, (m, 1, n, 1)), unsafe_view(other, (1, p, 1, q)))
    return unsafe_view(product, (m * p, n * q))


@operator("linalg_solve")
@saves(
    "LinalgSolveExBackward0",
    Kept("its matrix", because="kept beside its factors"),
    Kept("the matrix's LU factors", (-2, -1), "backward solves with them again"),
    Kept("the factors' row order", (-2, -1), "backward solves with them again"),
    Kept("its result", (-2,)),
    inputs=_SYSTEM,
)
def linalg_solve(a: Tensor, b: Tensor, *, left: bool = True) -> Tensor:
    """``torch.linalg.solve(a, b, left=False)`` of [..., m, m]: saves ``a``, its factors and pivots, and the result."""
    ledger = a.ledger
    factors, pivots = ledger.empty(a.shape, a.dtype), ledger.empty(a.shape[:-1], "int32")

    def solve() -> Tensor:
        out = ledger.empty(b.shape, b.dtype)
        info = ledger.empty(a.shape[:-2], "int32")
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
    call.ledger.multiply(*grad.shape, grad.shape[-2])
    product = call.ledger.empty(grad.shape, grad.dtype)
    return elementwise((product,), grad.dtype), grad_b


@operator("einsum", args=lambda out, equation, operands: (equation, *operands))
def einsum(equation: str, *operands: Tensor) -> Tensor:
    """``torch.einsum(equation, *operands)``, contracted from left to right (``Linear.cpp: einsum``).

    Operands are permuted to the order: dimensions of the result, then those summed over. A label may not be repeated
    within an operand. ``sumproduct_pair`` multiplies two operands.
    """
    operands = tuple(autocast(x) for x in operands)
    inputs, _, output = equation.replace(" ", "").partition("->")
    labels = [_labels(part, len(x.shape)) for part, x in zip(inputs.split(","), operands, strict=True)]
    if "->" not in equation:
        counts = "".join("".join(named) for named in labels)
        output = "..." + "".join(sorted(c for c in set(counts) if c.isalpha() and counts.count(c) == 1))
    spread = max(len([label for label in named if label.isdigit()]) for named in labels)
    kept = _labels(output, len(output.replace("...", "")) + spread)
    summed = sorted({label for named in labels for label in named} - set(kept))
    order = [*kept, *summed]
    terms = [_aligned(x, named, order) for x, named in zip(operands, labels, strict=True)]
    waiting = {d: len([x for x in terms if x.shape[d] != 1]) for d in range(len(kept), len(order))}
    out = terms.pop(0)
    while terms:
        out = _contract(out, terms.pop(0), waiting)
    if len(operands) == 1:
        return squeeze(_sum(out, [d for d in waiting if out.shape[d] != 1]), out.shape[: len(kept)])
    return view(out, out.shape[: len(kept)]) if summed else out


def _sum(x: Tensor, dims: list[int]) -> Tensor:
    if len(dims) > 1:
        raise InputError("einsum sums several dimensions of one operand at once, which has no rule; use sum")
    return sum(x, dims[0], keepdim=True) if dims else x


def _labels(part: str, rank: int) -> list[str]:
    """A label for each dimension. Those of an ellipsis are numbers that count down to 0, the last one."""
    before, ellipsis, after = part.partition("...")
    spread = rank - len(before) - len(after) if ellipsis else 0
    return [*before, *(str(i) for i in reversed(range(spread))), *after]


def _aligned(x: Tensor, labels: list[str], order: list[str]) -> Tensor:
    """An operand with its dimensions in ``order``, those that it lacks of size one."""
    missing = [label for label in order if label not in labels]
    for _ in missing:
        x = unsqueeze(x, len(x.shape))
    own = [*labels, *missing]
    return permute(x, tuple(own.index(label) for label in order))


def _contract(a: Tensor, b: Tensor, waiting: dict[int, int]) -> Tensor:
    """The product of two operands, summed over the dimensions that no further operand has (``waiting``: how many)."""
    both = [d for d in waiting if a.shape[d] != 1 and b.shape[d] != 1]
    for d in both:
        waiting[d] -= 1
    dims = [d for d in waiting if waiting[d] == 1 and (d in both or a.shape[d] != 1 or b.shape[d] != 1)]
    waiting.update(dict.fromkeys(dims, 0))
    a = _sum(a, [d for d in dims if d not in both and a.shape[d] != 1])
    b = _sum(b, [d for d in dims if d not in both and b.shape[d] != 1])
    return _sumproduct_pair(a, b, [d for d in dims if d in both])


def _sumproduct_pair(a: Tensor, b: Tensor, dims: list[int]) -> Tensor:
    """``Linear.cpp: sumproduct_pair`` with ``keepdim``: permutes, reshapes and multiplies by one ``bmm``."""
    if not dims:
        return mul(a, b)
    others = [d for d in range(len(a.shape)) if d not in dims]
    both = [d for d in others if a.shape[d] != 1 and b.shape[d] != 1]
    left = [d for d in others if a.shape[d] != 1 and b.shape[d] == 1]
    right = [d for d in others if a.shape[d] == 1]

    def sizes(x: Tensor, of: list[int]) -> Shape:
        return tuple(x.shape[d] for d in of)

    order = [*both, *left, *dims, *right]
    shape = (*sizes(a, both), *sizes(a, left), *(1 for _ in dims), *sizes(b, right))
    batch, rows, inner = product(sizes(a, both)), product(sizes(a, left)), product(sizes(a, dims))
    columns = product(sizes(b, right))
    a = reshape(permute(a, (*both, *left, *dims, *right)), (batch, rows, inner))
    b = reshape(permute(b, (*both, *dims, *right, *left)), (batch, inner, columns))
    return permute(view(bmm(a, b), shape), tuple(order.index(d) for d in range(len(order))))


@operator("fft_fft", "fft_ifft", args=first)
@saves("FftR2CBackward0", Kept("its input", because=SHAPE))
def fft(x: Tensor) -> Tensor:
    """``torch.fft.fft(x)`` or its inverse, over one dimension: one complex tensor. A real ``x`` is saved.

    It is not copied: the half that its transform computes is reflected into the other (``_fft_r2c``).
    """

    def make() -> Tensor:
        return x.ledger.empty(x.shape, "complex64")

    if x.dtype == "complex64":
        return record("FftC2CBackward0", make, (x,), (), complex_backward)
    return record("FftR2CBackward0", make, (x,), (x,), _r2c_backward)


def _r2c_backward(call: Call) -> Grads:
    return (real(call.ledger.empty(call.grad.shape, "complex64")),)


@operator("fft_ifft2", args=first)
def fft_ifft2(x: Tensor) -> Tensor:
    """``torch.fft.ifft2(x)`` of a real tensor: makes a complex copy and transforms it; saves nothing."""

    def make() -> Tensor:
        copy = x.ledger.empty(x.shape, "complex64")
        out = x.ledger.empty(x.shape, "complex64")
        del copy
        return out

    return record("FftC2CBackward0", make, (x,), (), _r2c_backward)


@operator("grouped_mm", "_grouped_mm")
@saves(
    "GroupedMmBackward0",
    *PRODUCT,
    Kept("the groups' last rows", because="they say which rows belong to which matrix"),
    inputs=FACTORS,
)
def grouped_mm(a: Tensor, b: Tensor, offs: Tensor | None = None, bias: Any = None, out_dtype: Any = None) -> Tensor:
    """``F.grouped_mm(a, b, offs=offs)`` of rows [T, k] by a matrix of each group [n, k, m] (``GroupedMMUtils.h``).

    Saves the offsets, and each factor if the other requires a gradient. Rows of results start at multiples of 16 bytes.
    What CUTLASS takes beside the result, some bytes for each group, is left out. Autocast leaves it alone.
    Raises ``InputError`` for other operands.
    """
    if offs is None or bias is not None or (len(a.shape), len(b.shape)) != (2, 3):
        raise InputError("grouped_mm of other operands than rows and a matrix of each group has no rule")
    saved = *_factors(a, b), offs
    strides = strides_of(b)
    column_major = strides[-2] == 1 and strides[-1] != 1

    def make() -> Tensor:
        a.ledger.multiply(*a.shape, b.shape[2])
        return _padded_rows(a, (a.shape[0], b.shape[2]))

    return record("GroupedMmBackward0", make, (a, b), saved, _grouped_mm_backward, column_major)


def _padded_rows(x: Tensor, shape: Shape) -> Tensor:
    """``create_grouped_gemm_output_tensor``: rows are padded to multiples of 16 bytes, the last one is not.

    A size that is a symbol is such a multiple: it is that of an operand's rows, too, of which the kernel asks it.
    """
    ledger, itemsize = x.ledger, ITEMSIZE[x.dtype]
    row = -(-shape[-1] // (16 // itemsize)) * (16 // itemsize) if isinstance(shape[-1], int) else shape[-1]
    rows = product(shape[:-1])
    storage = Storage(ledger, ((rows - 1) * row + shape[-1]) * itemsize)
    strides = (row, 1) if len(shape) == 2 else (shape[1] * row, row, 1)
    return Tensor(storage, shape, x.dtype, normalised(shape, strides))


def _grouped_mm_backward(call: Call) -> Grads:
    # _grouped_mm_mat2_grad, _grouped_mm_mat1_grad: transposed products for operands that are transposed
    grad, (b, a, offsets) = call.grad, call.saved
    grad_a = grad_b = None
    if call.needs[1]:
        call.ledger.multiply(*a.shape, grad.shape[1])
        groups, inner, columns = offsets.shape[0], a.shape[1], grad.shape[1]
        if call.args[0]:
            grad_b = transpose(_padded_rows(grad, (groups, columns, inner)), 1, 2)
        else:
            grad_b = _padded_rows(grad, (groups, inner, columns))
    if call.needs[0]:
        call.ledger.multiply(*grad.shape, b.shape[1])
        grad_a = _padded_rows(grad, (grad.shape[0], b.shape[1]))
    return grad_a, grad_b


@operator("linalg_solve_triangular")
@saves(
    "LinalgSolveTriangularBackward0",
    Kept("its matrix", (-2, -1)),
    Kept("its result", (-2,)),
    inputs=_SYSTEM,
)
def linalg_solve_triangular(
    a: Tensor, b: Tensor, upper: bool = False, left: bool = True, unitriangular: bool = False
) -> Tensor:
    """``torch.linalg.solve_triangular(a, b, upper=...)`` of [*, n, n] and [*, n, k]: saves ``a`` and the result.

    The result's matrices are column-major. Raises ``InputError`` for ``left=False``.
    """
    if not left:
        raise InputError("linalg.solve_triangular with left=False has no rule")
    shape = (*broadcast(a.shape[:-2], b.shape[:-2]), *b.shape[-2:])
    name = "LinalgSolveTriangularBackward0"
    return record(name, lambda: _column_major_of(a, shape), (a, b), (a, RESULT), _solve_triangular_backward)


def _column_major_of(x: Tensor, shape: Shape) -> Tensor:
    return transpose(x.ledger.empty((*shape[:-2], shape[-1], shape[-2]), x.dtype), -1, -2)


def _solve_triangular_backward(call: Call) -> Grads:
    # linalg_solve_triangular_backward: B's gradient gB by another solve, A's is the triangle of -gB X^H
    result = call.saved[1]
    grad_b = _column_major_of(call.grad, call.grad.shape)
    if not call.needs[0]:
        return None, grad_b
    grad_a = _negative_product(grad_b, transpose(result, -2, -1))
    triangle = call.ledger.empty(grad_a.shape, grad_a.dtype)
    del grad_a
    return triangle, (grad_b if call.needs[1] else None)


@operator("linalg_qr")
def linalg_qr(a: Tensor, mode: str = "reduced") -> tuple[Tensor, Tensor]:
    """``torch.linalg.qr(a)`` of [m, n] with m >= n: the factors, [m, n] and [n, n] in column-major order, are saved.

    The second one is no way for gradients here. LAPACK's and cuSOLVER's workspace is left out. Raises ``InputError``
    for other matrices.
    """
    if mode != "reduced" or len(a.shape) != 2 or compared(a.shape[0], a.shape[1]) < 0:
        raise InputError("linalg.qr has a rule for the reduced factors of one matrix with more rows than columns")
    m, n = a.shape
    triangle = _column_major_of(a, (n, n))
    name = "LinalgQrBackward0"
    q = record(name, lambda: _column_major_of(a, (m, n)), (a,), (RESULT, Beside(triangle)), _qr_backward)
    return q, triangle


def _qr_backward(call: Call) -> Grads:
    # linalg_qr_backward without a gradient of R: (gQ + Q syminvadj(triu(-Q^H gQ))) R^-H
    q = call.saved[0]
    negative = _negative_product(transpose(q, -2, -1), call.grad)
    upper = triu(negative)
    symmetric = elementwise((upper,), upper.dtype)
    product = _matmul(q, symmetric)
    del negative, upper, symmetric
    added = elementwise((product,), product.dtype)
    del product
    return (_column_major_of(added, added.shape),)


def _negative_product(a: Tensor, b: Tensor) -> Tensor:
    product = _matmul(a, b)
    return elementwise((product,), product.dtype)
