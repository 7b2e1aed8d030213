"""Functions that are recorded on the meta device and run over a ledger, by the rows of the operators.

Witness everywhere: autograd's saved tensors and the real allocator, for the same function on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from estimator.ledger import Tensor
from estimator.programs.interpreter import Frame, Recorded
from estimator.programs.program import Ref
from estimator.recorder.calls import record
from tests.helpers.operator_rules import BF16, F32, Given, agree


def recorded(function: Callable[..., Any], given: tuple[Given, ...]) -> Callable[..., Tensor]:
    """A rule that runs what the function was recorded to call."""
    inputs = {
        f"input {i}": torch.empty(g.shape, dtype=getattr(torch, g.dtype), device="meta") for i, g in enumerate(given)
    }
    program = record(torch.nn.Module(), inputs, lambda: {"out": function(*inputs.values())})

    def rule(*tensors: Tensor) -> Tensor:
        run = Recorded(tensors[0].ledger)
        run.program = program
        run.start()
        frame = Frame()
        for slot, tensor in zip(program.inputs.values(), tensors, strict=True):
            frame[slot] = tensor
        run.run(program.before, 0, len(program.before), frame)
        out = program.outputs["out"]
        assert isinstance(out, Ref)
        return frame[out.slot]

    return rule


ROWS = [3, 0, 3, 7, 1]


def rows(x: torch.Tensor) -> torch.Tensor:
    return torch.arange(5, device=x.device)


def places(x: torch.Tensor, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    return torch.zeros((24, 5), dtype=dtype, device=x.device)


def setting(*place: Any) -> Callable[[torch.Tensor, Any], torch.Tensor]:
    def function(x: torch.Tensor, value: Any = 0.5) -> torch.Tensor:
        y = -x
        y[place if len(place) > 1 else place[0]] = value
        return y

    return function


def set_rows(x: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    y = -x
    y[rows(x)] = value
    return y


def set_masked(x: torch.Tensor) -> torch.Tensor:
    y = -x
    y[x > 0] = 0.0
    return y


def add_to_slice(x: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    y = -x
    y[:, :15] += value
    return y


def nested(x: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    y = torch.zeros_like(x)
    y[:8][:, 3:10] = value
    return y


def unique_numbers(x: torch.Tensor) -> torch.Tensor:
    numbers = (torch.arange(5000, device=x.device) % 40).float().unique()
    return x * numbers


ONE: dict[str, Callable[..., Any]] = {
    "1 - x": lambda x: 1 - x,
    "1 / x": lambda x: 1 / x,
    "2 ** x": lambda x: 2.0**x,
    "x ** 2": lambda x: x**2,
    "x ** 0.5": lambda x: x**0.5,
    "x + 1": lambda x: 1 + x,
    "x / 2": lambda x: x / 2,
    "square": torch.square,
    "abs": abs,
    "expm1": torch.expm1,
    "log1p": torch.log1p,
    "softplus": functional.softplus,
    "logsigmoid": functional.logsigmoid,
    "clamp": lambda x: x.clamp(min=-1.0, max=1.0),
    "clamp to the right": lambda x: torch.clamp(x, max=1.0),
    "clamp_min": lambda x: x.clamp_min(1e-6),
    "relu and square": lambda x: torch.square(functional.relu(x)),
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "where, other way": lambda x: torch.where(x > 0, -math.inf, x),
    "masked_fill": lambda x: x.masked_fill(x > 0, -math.inf),
    "masked_fill_": lambda x: (-x).masked_fill_(x > 0, -math.inf),
    "mul_": lambda x: (-x).mul_(0.5),
    "div_": lambda x: (-x).div_(0.5),
    "add_": lambda x: (-x).add_(1),
    "sub_": lambda x: (-x).sub_(1),
    "zero_": lambda x: (-x).zero_(),
    "fill_": lambda x: (-x).fill_(2.0),
    "clamp_": lambda x: (-x).clamp_(0.0, 1.0),
    "sum": lambda x: x.sum(),
    "sum(dim)": lambda x: x.sum(dim=-1, keepdim=True),
    "sum(dims)": lambda x: x.sum((0, 1)),
    "mean": lambda x: x.mean(),
    "mean in float32": lambda x: x.mean(-1, dtype=torch.float32),
    "var": lambda x: x.var(dim=-1, keepdim=True, unbiased=False),
    "std": lambda x: torch.std(x, dim=-1, keepdim=True, unbiased=False),
    "logsumexp": lambda x: torch.logsumexp(x, dim=-1, keepdim=True),
    "log_softmax": lambda x: functional.log_softmax(x, dim=-1, dtype=torch.float32),
    "softmax of columns": lambda x: x.softmax(0),
    "cumsum": lambda x: x.cumsum(-1),
    "norm": lambda x: x.norm(dim=-1, keepdim=True),
    "vector_norm": lambda x: torch.linalg.vector_norm(x, dim=-1),
    "normalize": lambda x: functional.normalize(x, dim=-1),
    "rms_norm": lambda x: functional.rms_norm(x, (40,)),
    "layer_norm": lambda x: functional.layer_norm(x, (40,)),
    "max": lambda x: x.max(dim=-1)[0],
    "min": lambda x: torch.min(x, dim=-1, keepdim=True).values,
    "amax": lambda x: x.amax(dim=-1),
    "topk": lambda x: x.topk(3, dim=-1)[0],
    "sort": lambda x: torch.sort(x, dim=-1, descending=True)[0],
    "gather": lambda x: x.gather(1, places(x)),
    "take_along_dim": lambda x: torch.take_along_dim(x, places(x), dim=1),
    "index rows": lambda x: x[rows(x)],
    "index columns": lambda x: x[:, rows(x)],
    "index places": lambda x: x[rows(x), rows(x)],
    "index by a list": lambda x: x[ROWS],
    "index_select": lambda x: x.index_select(0, rows(x)),
    "scatter_ of ones": lambda x: torch.zeros_like(x).scatter_(1, places(x), 1.0) * x,
    "triu": lambda x: x.triu(1),
    "flip": lambda x: x.flip(-1),
    "roll": lambda x: x.roll(1, -1),
    "unfold": lambda x: x.unfold(-1, 4, 1),
    "repeat_interleave": lambda x: x.repeat_interleave(3, dim=0),
    "repeat_interleave with its size": lambda x: x.repeat_interleave(3, dim=-1, output_size=120),
    "unflatten": lambda x: x.unflatten(-1, (4, 10)) * 2,
    "clone of a view": lambda x: x.t().clone(),
    "zeros_like": lambda x: torch.zeros_like(x.t()) + x.t(),
    "new_zeros": lambda x: x.new_zeros(24, 40) + x,
    "expand_as": lambda x: x[:1].expand_as(x) * x,
    "set a row": setting(3),
    "set columns": setting(slice(None), slice(0, 15)),
    "set by an ellipsis": setting(..., slice(0, 15)),
    "set by a mask": set_masked,
    "one_hot": lambda x: functional.one_hot(places(x), 7).to(x.dtype).sum() * x,
    "meshgrid": lambda x: torch.meshgrid(x[0], x[1], indexing="ij")[0] * 2,
    "maximum": lambda x: torch.maximum(x, -x),
    "max of a pair": lambda x: torch.max(x, -x),
    "unique": unique_numbers,
    "cross_entropy": lambda x: functional.cross_entropy(x, places(x)[:, 0]),
    "cross_entropy of each row": lambda x: functional.cross_entropy(x, places(x)[:, 0], reduction="none"),
    "complex": lambda x: torch.view_as_real(
        torch.view_as_complex(x.float().reshape(24, 20, 2))
        * torch.polar(x.detach().float()[:, :20], x.detach().float()[:, 20:])
    ),
}


@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("name", ONE)
def test_function_of_one_tensor(reference_threads: None, name: str, dtype: str) -> None:
    given = (Given((24, 40), dtype),)
    agree(recorded(ONE[name], given), ONE[name], *given)


TWO: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "sub": (lambda x, y: x - y, (40,)),
    "div": (lambda x, y: x / y, (24, 1)),
    "pow": (torch.pow, (24, 40)),
    "where": (lambda x, y: torch.where(x > y, x, y), (24, 40)),
    "copy_": (lambda x, y: (-x).copy_(y), (40,)),
    "add_": (lambda x, y: (-x).add_(y), (24, 40)),
    "mul_": (lambda x, y: (-x).mul_(y), (40,)),
    "div_": (lambda x, y: (-x).div_(y), (24, 1)),
    "set a row": (setting(3), (40,)),
    "set columns": (setting(slice(None), slice(0, 15)), (24, 15)),
    "set columns by a row": (setting(slice(None), slice(0, 15)), (1, 1, 15)),
    "set rows by index": (set_rows, (5, 40)),
    "set within a view": (nested, (8, 7)),
    "add to columns": (add_to_slice, (24, 15)),
    "scatter": (lambda x, y: x.scatter(1, places(x), y), (24, 5)),
    "scatter_add_": (lambda x, y: torch.zeros_like(x).scatter_add_(1, places(x), y) + x, (24, 5)),
    "index_add_": (lambda x, y: torch.zeros_like(x).index_add_(0, rows(x), y) + x, (5, 40)),
    "rms_norm": (lambda x, y: functional.rms_norm(x, (40,), y), (40,)),
    "layer_norm": (lambda x, y: functional.layer_norm(x, (40,), y), (40,)),
    "linear and an update": (lambda x, y: functional.linear(x.view(2, 12, 40), y).add_(1.0), (32, 40)),
}


@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("name", TWO)
def test_function_of_two_tensors(reference_threads: None, name: str, dtype: str) -> None:
    function, shape = TWO[name]
    given = (Given((24, 40), dtype), Given(shape, dtype))
    agree(recorded(function, given), function, *given)


INTEGERS: dict[str, Callable[..., Any]] = {
    "x + 1": lambda x: x + 1,
    "x - 1": lambda x: x - 1,
    "1 - x": lambda x: 1 - x,
    "x / 8": lambda x: x / 8,
    "x // 8": lambda x: x // 8,
    "x % 8": lambda x: x % 8,
    "x * 0.5": lambda x: x * 0.5,
    "div trunc": lambda x: x.div(2, rounding_mode="trunc"),
    "x == 0": lambda x: x == 0,
    "x < 0.5": lambda x: x < 0.5,
    "clamp": lambda x: x.clamp(0, 7),
    "masked_fill": lambda x: x.masked_fill(x == 0, 1),
    "where": lambda x: torch.where(x == 0, x, 0),
    "where of numbers": lambda x: torch.where(x == 0, 2, 0),
    "cumsum": lambda x: x.cumsum(-1),
    "cumsum of a mask": lambda x: (x != 0).cumsum(-1),
    "sum": lambda x: x.sum(-1),
    "sum of a mask": lambda x: (x != 0).sum(dim=-1),
    "sort": lambda x: torch.sort(x.view(-1))[0],
    "argsort": lambda x: x.view(-1).argsort(),
    "argmax": lambda x: x.float().argmax(-1),
    "diff": lambda x: torch.diff(x, prepend=x[:, :1], dim=-1),
    "histc": lambda x: torch.histc(x.float(), bins=6, min=0, max=5),
    "and": lambda x: (x == 0) & ~(x == 1),
    "pow": lambda x: x**2,
    "max": lambda x: x.max(),
    "set": setting(slice(None), 0),
    "rsub of a mask": lambda x: 1.0 - (x != 0).float(),
}


@pytest.mark.parametrize("name", INTEGERS)
def test_function_of_integers(reference_threads: None, name: str) -> None:
    given = (Given((24, 40), "int64", grad=False),)
    function = INTEGERS[name] if name != "set" else lambda x: setting(slice(None), 0)(x, 7)
    agree(recorded(function, given), function, *given)
