"""Functions that write to their first argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ... import operators as ops
from ...errors import InputError
from ...ledger import Tensor
from .table import RULES, Result, operand, rule


@rule("add_")
def _add(out: Result, x: Tensor, other: Any, *, alpha: Any = None) -> Tensor:
    return ops.add_(x, operand(other), scaled=alpha is not None)


def _by(operator: Callable[[Tensor, Any], Tensor]) -> Any:
    def call(out: Result, x: Tensor, other: Any) -> Tensor:
        return operator(x, operand(other))

    return call


RULES["sub_"], RULES["mul_"], RULES["div_"] = _by(ops.sub_), _by(ops.mul_), _by(ops.div_)


def _alone(operator: Callable[[Tensor], Tensor]) -> Any:
    def call(out: Result, x: Tensor, *_: Any, **__: Any) -> Tensor:
        return operator(x)

    return call


for _name in ("pow_", "neg_", "relu_", "exp_", "sigmoid_", "tanh_"):
    RULES[_name] = _alone(getattr(ops, _name))
for _name in ("fill_", "zero_", "uniform_", "normal_", "exponential_", "bernoulli_", "random_"):
    RULES[_name] = _alone(ops.fill_)


@rule("clamp_", "clip_")
def _clamp(out: Result, x: Tensor, min: Any = None, max: Any = None) -> Tensor:
    return ops.clamp_(x, (min is not None) + (max is not None))


@rule("clamp_min_", "clamp_max_")
def _clamp_one(out: Result, x: Tensor, bound: Any) -> Tensor:
    return ops.clamp_(x, 1)


@rule("copy_")
def _copy(out: Result, x: Tensor, source: Tensor, *_: Any) -> Tensor:
    return ops.copy_(x, source)


@rule("index_copy_")
def _index_copy(out: Result, x: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    if x.requires_grad or source.requires_grad:
        raise InputError("index_copy_ in a trained model has no rule")
    return x


@rule("masked_fill_")
def _masked_fill(out: Result, x: Tensor, mask: Tensor, *_: Any) -> Tensor:
    return ops.masked_fill_(x, mask)


@rule(
    "bitwise_and_", "bitwise_or_", "bitwise_xor_", "logical_and_", "logical_or_", "logical_not_", "triu_", "tril_",
)  # fmt: skip
def _itself(out: Result, x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x


@rule("set_", "set_.source_Tensor")
def _set(out: Result, x: Tensor, source: Tensor) -> Tensor:
    if source.storage is not x.storage:
        raise InputError("the model puts another tensor's memory in the place of one's, for which there is no rule")
    return x
