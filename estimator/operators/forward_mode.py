"""Forward-mode rules: what PyTorch's operators allocate to compute the tangent of their result.

There is one rule per operator, by the name of its backward node. The formulas are the ``result:`` lines of
``tools/autograd/derivatives.yaml``, with ``FunctionsManual.cpp``. Where a factor of a product has no tangent, autograd
computes all terms of the formula nonetheless, with ``_efficientzerotensor`` as the tangent. A matrix product allocates
these zeros while it runs (for a frozen layer, as many as the weight has elements). A sum with them is a copy.
``tests/operators/test_forward_mode.py`` compares each rule with ``torch.func.jvp``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from ..errors import InputError
from ..ledger import Shape, Tensor
from .elementwise import elementwise
from .layout import elementwise_strides, empty_like
from .views import expand

Inputs = Sequence["Tensor | None"]
Rule = Callable[[Tensor, Inputs], Tensor]


def run(name: str, make: Callable[[], Tensor], inputs: Inputs) -> Tensor:
    """Run an operator with inputs that have tangents. Raises ``InputError`` if it has no rule."""
    if name not in RULES:
        raise InputError(f"forward-mode differentiation has no rule for {name.removesuffix('0')} in this version")
    out = make()
    tangent = RULES[name](out, inputs)
    if tangent.strides != out.strides:  # set_fw_grad copies to the result's layout
        tangent = empty_like(out)
    out.tangent, out.requires_grad = tangent, True
    return out


def _tangents(inputs: Inputs) -> list[Tensor]:
    return [x.tangent for x in inputs if x is not None and x.tangent is not None]


def _linear(out: Tensor, inputs: Inputs) -> Tensor:
    """``result: auto_linear``: the operator itself is applied to the tangents."""
    return empty_like(out)


def _view(out: Tensor, inputs: Inputs) -> Tensor:
    (tangent,) = _tangents(inputs)
    return Tensor(tangent.storage, out.shape, out.dtype, out.strides, is_view=True)


def _add(out: Tensor, inputs: Inputs) -> Tensor:
    terms = _tangents(inputs)
    return elementwise(tuple(terms), out.dtype) if len(terms) == 2 else _copy(terms[0], out)


def _copy(term: Tensor, out: Tensor) -> Tensor:
    """A sum with zeros: a copy in the sum's shape and dtype."""
    strides = elementwise_strides(out.shape, (expand(term.alias(), out.shape),))
    return out.ledger.empty(out.shape, out.dtype, strides)


def _mul(out: Tensor, inputs: Inputs) -> Tensor:
    # other_t * self_p + self_t * other_p
    if len(inputs) == 1:
        return _copy(empty_like(out), out)
    a, b = inputs
    assert a is not None
    assert b is not None
    terms = [
        elementwise((tangent, other), out.dtype)
        for tangent, other in ((b.tangent, a), (a.tangent, b))
        if tangent is not None
    ]
    return elementwise(tuple(terms), out.dtype) if len(terms) == 2 else _copy(terms[0], out)


def _chain(out: Tensor, inputs: Inputs, factors: int) -> Tensor:
    """An elementwise formula in C++. Its ``factors`` intermediate results live until it returns."""
    terms = [empty_like(out) for _ in range(factors)]  # noqa: F841
    return empty_like(out)


def _softmax(out: Tensor, inputs: Inputs, log: bool) -> Tensor:
    # logsumexp_jvp: the largest of each row, self - largest, its exponential, the sum, the weighted tangent, its sum
    ledger, rows = out.ledger, (*out.shape[:-1], 1)
    largest = ledger.empty(rows, out.dtype)
    shifted = empty_like(out)
    exponential = empty_like(out)
    del shifted, largest
    total = ledger.empty(rows, out.dtype)
    weighted = empty_like(out)
    mean = ledger.empty(rows, out.dtype)
    del weighted, total, exponential
    difference = empty_like(out)  # self_t - logsumexp_jvp
    if log:
        return difference
    out = empty_like(out)
    del difference, mean
    return out


def _mm(out: Tensor, inputs: Inputs) -> Tensor:
    bias, x, weight = inputs
    assert x is not None
    assert weight is not None
    return _products(out, x, weight, (weight.shape, x.shape), bias)


def _bmm(out: Tensor, inputs: Inputs) -> Tensor:
    a, b = inputs
    assert a is not None
    assert b is not None
    # BLAS allocates the zeros for one matrix of the batch at a time, oneDNN (bfloat16) for all at once.
    first = 0 if out.dtype == "bfloat16" else 1
    return _products(out, a, b, (b.shape[first:], a.shape[first:]), None)


def _products(out: Tensor, a: Tensor, b: Tensor, shapes: tuple[Shape, Shape], bias: Tensor | None) -> Tensor:
    """``a_t b_p + a_p b_t``, the second product first. A missing tangent is zeros of its shape in ``shapes``."""
    ledger = out.ledger
    terms = []
    for factor, shape in ((b, shapes[0]), (a, shapes[1])):
        terms.append(empty_like(out))
        if factor.tangent is None:
            zeros = ledger.empty(shape, factor.dtype)
            del zeros
    if bias is not None:
        terms.append(empty_like(out))  # one product plus the bias's tangent or zeros
    return empty_like(out)


def _nll(out: Tensor, inputs: Inputs) -> Tensor:
    tangent, total_weight = empty_like(out), empty_like(out)
    del total_weight
    return tangent


RULES: dict[str, Rule] = {
    **dict.fromkeys(("Transpose", "View", "UnsafeView", "Unsqueeze", "Expand", "Slice", "Alias", "Squeeze"), _view),
    **dict.fromkeys(("Clone", "Neg", "ToCopy", "Cat", "Mean", "Embedding"), _linear),
    "Add": _add,
    "Mul": _mul,
    "Pow": partial(_chain, factors=2),  # self_t * (exponent * self_p.pow(exponent - 1))
    "Rsqrt": partial(_chain, factors=2),  # -0.5 * self_t * result.pow(3)
    "Silu": partial(_chain, factors=5),  # self_t * (sigmoid * (1 + self_p * (1 - sigmoid)))
    "Softmax": partial(_softmax, log=False),
    "LogSoftmax": partial(_softmax, log=True),
    "Mm": _mm,
    "Addmm": _mm,
    "Bmm": _bmm,
    "NllLoss": _nll,
}
RULES = {f"{name}Backward{1 if name == 'Mean' else 0}": rule for name, rule in RULES.items()}
