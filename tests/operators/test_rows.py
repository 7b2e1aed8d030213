"""Each operator's row: what PyTorch's function is recorded as on the meta device, run on a ledger by the row.

Witness everywhere: autograd's saved tensors and the real allocator, for the same function on a CPU. A case's name
begins with the row's, and the function must be recorded as that.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from estimator.ledger import Tensor
from estimator.operators import elementwise, table
from estimator.programs import event_loop
from estimator.programs.event_loop import EventLoop, Frame
from estimator.programs.program import Call, Weight
from estimator.recorder.calls import record
from tests.helpers.operator_rules import BF16, F32, Given, agree


def recorded(name: str, function: Callable[..., Any], given: tuple[Given, ...]) -> Callable[..., Tensor]:
    """A rule that runs what the function was recorded to call, among which must be the case's row."""
    inputs = {
        f"input {i}": torch.empty(g.shape, dtype=getattr(torch, g.dtype), device="meta") for i, g in enumerate(given)
    }
    program = record(torch.nn.Module(), inputs, lambda: {"out": function(*inputs.values())})
    assert row_of(name) in {event.op for event in program.before if isinstance(event, Call)}

    def rule(*tensors: Tensor) -> Tensor:
        run = EventLoop(tensors[0].ledger)
        run.program = program
        run.start()
        frame = Frame()
        for slot, tensor in zip(program.inputs.values(), tensors, strict=True):
            frame[slot] = tensor
        run.run(program.before, 0, len(program.before), frame)
        out = program.outputs["out"]
        return tensors[0] if isinstance(out, Weight) else frame[out.slot]

    return rule


def row_of(name: str) -> str:
    return name.partition(":")[0]


def upsampled(x: torch.Tensor, size: tuple[int, int], mode: str = "bilinear") -> torch.Tensor:
    return functional.interpolate(x, size=size, mode=mode)


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


def set_some(x: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    y = -x
    y[torch.arange(24, device=x.device) < 5] = values
    return y


def ctc(x: torch.Tensor, reduction: str, **keys: Any) -> torch.Tensor:
    labels = torch.arange(6, device=x.device) + 1
    lengths = torch.tensor([12, 12], device=x.device), torch.tensor([3, 3], device=x.device)
    return functional.ctc_loss(x.view(12, 2, 40).log_softmax(-1), labels, *lengths, reduction=reduction, **keys)


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
    "rsub: 1 - x": lambda x: 1 - x,
    "reciprocal: 1 / x": lambda x: 1 / x,
    "pow: 2 ** x": lambda x: 2.0**x,
    "pow: x ** 2": lambda x: x**2,
    "pow: x ** 0.5": lambda x: x**0.5,
    "add: 1 + x": lambda x: 1 + x,
    "div: x / 2": lambda x: x / 2,
    "square": torch.square,
    "abs": abs,
    "expm1": torch.expm1,
    "log1p": torch.log1p,
    "softplus": functional.softplus,
    "log_sigmoid": functional.logsigmoid,
    "clamp": lambda x: x.clamp(min=-1.0, max=1.0),
    "clamp: to the right": lambda x: torch.clamp(x, max=1.0),
    "clamp_min": lambda x: x.clamp_min(1e-6),
    "relu: and square": lambda x: torch.square(functional.relu(x)),
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "where: other way": lambda x: torch.where(x > 0, -math.inf, x),
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
    "sum: of rows": lambda x: x.sum(dim=-1, keepdim=True),
    "sum: of two": lambda x: x.sum((0, 1)),
    "mean": lambda x: x.mean(),
    "mean: in float32": lambda x: x.mean(-1, dtype=torch.float32),
    "nansum": lambda x: x.nansum(),
    "nansum: of rows": lambda x: x.nansum(dim=-1, keepdim=True),
    "nanmean": lambda x: x.nanmean(),
    "var": lambda x: x.var(dim=-1, keepdim=True, unbiased=False),
    "std": lambda x: torch.std(x, dim=-1, keepdim=True, unbiased=False),
    "logsumexp": lambda x: torch.logsumexp(x, dim=-1, keepdim=True),
    "log_softmax": lambda x: functional.log_softmax(x, dim=-1, dtype=torch.float32),
    "softmax: of columns": lambda x: x.softmax(0),
    "cumsum": lambda x: x.cumsum(-1),
    "logcumsumexp": lambda x: torch.logcumsumexp(x, dim=-1),
    "to_dense: of a dense one": lambda x: (x * 2).to_dense() * 2,
    "linalg_vector_norm: x.norm": lambda x: x.norm(dim=-1, keepdim=True),
    "linalg_vector_norm": lambda x: torch.linalg.vector_norm(x, dim=-1),
    "div: normalize": lambda x: functional.normalize(x, dim=-1),
    "rms_norm": lambda x: functional.rms_norm(x, (40,)),
    "layer_norm": lambda x: functional.layer_norm(x, (40,)),
    "max": lambda x: x.max(dim=-1)[0],
    "min": lambda x: torch.min(x, dim=-1, keepdim=True).values,
    "amax": lambda x: x.amax(dim=-1),
    "topk": lambda x: x.topk(3, dim=-1)[0],
    "sort": lambda x: torch.sort(x, dim=-1, descending=True)[0],
    "gather": lambda x: x.gather(1, places(x)),
    "take_along_dim": lambda x: torch.take_along_dim(x, places(x), dim=1),
    "index: rows": lambda x: x[rows(x)],
    "index: columns": lambda x: x[:, rows(x)],
    "index: places": lambda x: x[rows(x), rows(x)],
    "index: by a list": lambda x: x[ROWS],
    "index_select": lambda x: x.index_select(0, rows(x)),
    "scatter_: of ones": lambda x: torch.zeros_like(x).scatter_(1, places(x), 1.0) * x,
    "triu": lambda x: x.triu(1),
    "flip": lambda x: x.flip(-1),
    "roll": lambda x: x.roll(1, -1),
    "unfold": lambda x: x.unfold(-1, 4, 1),
    "repeat_interleave": lambda x: x.repeat_interleave(3, dim=0),
    "repeat_interleave: with its size": lambda x: x.repeat_interleave(3, dim=-1, output_size=120),
    "unflatten": lambda x: x.unflatten(-1, (4, 10)) * 2,
    "clone: of a view": lambda x: x.t().clone(),
    "zeros_like": lambda x: torch.zeros_like(x.t()) + x.t(),
    "new_zeros": lambda x: x.new_zeros(24, 40) + x,
    "expand_as": lambda x: x[:1].expand_as(x) * x,
    "fill_: a row": setting(3),
    "fill_: columns": setting(slice(None), slice(0, 15)),
    "fill_: by an ellipsis": setting(..., slice(0, 15)),
    "index_put_: by a mask": set_masked,
    "one_hot": lambda x: functional.one_hot(places(x), 7).to(x.dtype).sum() * x,
    "meshgrid": lambda x: torch.meshgrid(x[0], x[1], indexing="ij")[0] * 2,
    "maximum": lambda x: torch.maximum(x, -x),
    "max: of a pair": lambda x: torch.max(x, -x),
    "_unique2": unique_numbers,
    "cross_entropy_loss": lambda x: functional.cross_entropy(x, places(x)[:, 0]),
    "cross_entropy_loss: of each row": lambda x: functional.cross_entropy(x, places(x)[:, 0], reduction="none"),
    "polar: and complex numbers": lambda x: torch.view_as_real(
        torch.view_as_complex(x.float().reshape(24, 20, 2))
        * torch.polar(x.detach().float()[:, :20], x.detach().float()[:, 20:])
    ),
}


@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("name", ONE)
def test_function_of_one_tensor(reference_threads: None, name: str, dtype: str) -> None:
    given = (Given((24, 40), dtype),)
    agree(recorded(name, ONE[name], given), ONE[name], *given)


KEYWORDS: dict[str, Callable[..., Any]] = {
    "permute": lambda x: x.permute(dims=(1, 0)),
    "chunk": lambda x: x.chunk(chunks=2, dim=-1)[0],
    "repeat": lambda x: x.repeat(repeats=(2, 1)),
    "tril": lambda x: torch.tril(input=x, diagonal=1),
    "clamp_min": lambda x: x.clamp_min(min=0.0),
    "clamp_max": lambda x: torch.clamp_max(x, max=1.0),
    "where": lambda x: torch.where(condition=x > 0, input=x, other=0.0),
    "where: a method": lambda x: x.where(x > 0, torch.zeros_like(x)),
    "where: a method's keywords": lambda x: x.where(condition=x > 0, other=torch.zeros_like(x)),
    "masked_fill_": lambda x: (-x).masked_fill_(mask=x > 0, value=0.0),
    "layer_norm": lambda x: torch.layer_norm(x, normalized_shape=(40,), eps=1e-5),
    "index_put: accumulates": lambda x: x.index_put((rows(x),), x[:5], accumulate=True),
    "index_put_: accumulates": lambda x: (-x).index_put_((rows(x),), x[:5], accumulate=True),
    "mm": lambda x: torch.mm(x, mat2=x.t()),
    "bmm": lambda x: torch.bmm(x.view(2, 12, 40), mat2=x.view(2, 40, 12)),
    "matmul": lambda x: torch.matmul(x, other=x.t()),
    "mv": lambda x: torch.mv(x, vec=x[0]),
    "addmm": lambda x: torch.addmm(input=x[:, :24], mat1=x, mat2=x.t(), beta=0, alpha=2),
    "kron": lambda x: torch.kron(x[:2, :3], other=x[:2, :3]),
    "searchsorted": lambda x: torch.searchsorted(torch.zeros_like(x[0]), input=x.detach()),
    "isin": lambda x: torch.isin(elements=places(x), test_elements=rows(x)),
}


@pytest.mark.parametrize("name", KEYWORDS)
def test_arguments_by_their_names(reference_threads: None, name: str) -> None:
    given = (Given((24, 40), F32),)
    agree(recorded(name, KEYWORDS[name], given), KEYWORDS[name], *given)


def test_wrong_arguments_name_the_function() -> None:
    """Asks Python; the interpreter puts its words into a refusal."""
    with pytest.raises(TypeError, match=r"^narrow\(\) got an unexpected keyword argument 'step'"):
        table.RULES["narrow"](None, None, step=3)


def of_zeros(name: str, *args: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Of an operator in place on a tensor that needs no gradient."""
    return lambda x: getattr(torch.zeros_like(x), name)(*args) + x


def each(name: str, *args: Any) -> Callable[[torch.Tensor], Any]:
    """Of a function of lists, as optimizers call it."""

    def function(x: torch.Tensor) -> Any:
        with torch.no_grad():
            tensors = [torch.zeros_like(x), torch.zeros_like(x)]
            out = getattr(torch, name)(tensors, *[tensors if arg is list else arg for arg in args])
            return (tensors if name.endswith("_") else out)[0]

    return function


def complex_numbers(x: torch.Tensor) -> torch.Tensor:
    return torch.view_as_complex(x.float().reshape(24, 20, 2))


IN_PLACE: dict[str, tuple[Any, ...]] = {
    "pow_": (2,), "neg_": (), "relu_": (), "exp_": (), "sigmoid_": (), "tanh_": (), "clamp_min_": (0,),
    "clamp_max_": (0,), "clip_": (0, 1), "sub_": (1,), "triu_": (), "tril_": (),
}  # fmt: skip
RANDOM: dict[str, tuple[Any, ...]] = {
    "uniform_": (),
    "normal_": (),
    "exponential_": (),
    "bernoulli_": (),
    "random_": (),
}
LISTS: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("sqrt", "neg", "abs", "sign", "reciprocal", "norm"), ()),
    **dict.fromkeys(("mul", "add", "sub", "div", "pow", "maximum"), (2.0,)),
    "lerp": (list, 0.5),
    **dict.fromkeys(("add_", "sub_", "mul_", "div_", "pow_", "maximum_", "clamp_max_", "clamp_min_"), (2.0,)),
    **dict.fromkeys(("neg_", "sqrt_", "zero_", "sign_"), ()),
    "lerp_": (list, 0.5), "addcmul_": (list, list, 2.0), "addcdiv_": (list, list, 2.0), "copy_": (list,),
}  # fmt: skip
UNARY = (
    "neg", "exp", "sqrt", "rsqrt", "cos", "sin", "log", "reciprocal", "erfinv", "sign", "floor", "ceil", "round",
    "trunc", "relu", "tanh", "sigmoid",
)  # fmt: skip

MORE: dict[str, Callable[..., Any]] = {
    **{name: getattr(torch, name) for name in UNARY},
    "gelu": functional.gelu,
    "silu": functional.silu,
    "dropout": lambda x: functional.dropout(x, 0.1),
    "minimum": lambda x: torch.minimum(x, -x),
    "clamp_max": lambda x: x.clamp_max(1.0),
    "float_power": lambda x: x.float_power(2),
    "fmod": lambda x: x.fmod(2.0),
    "fmod: by a tensor": lambda x: x.fmod(torch.ones_like(x)),
    "remainder": lambda x: x % 2.0,
    "floor_divide": lambda x: x.detach() // 2.0 + x,
    "set_.source_Tensor": lambda x: torch.ops.aten.set_.source_Tensor(y := torch.zeros_like(x), y) + x,
    **{name: (lambda x, name=name: getattr(torch, name)(x, 0.5)) for name in ("ne", "le", "gt", "ge")},
    **{name: (lambda x, name=name: getattr(torch, name)(x)) for name in ("isnan", "isinf", "isfinite", "logical_not")},
    **{
        name: (lambda x, name=name: getattr(torch, name)(x > 0, x < 1))
        for name in ("logical_and", "logical_or", "logical_xor")
    },
    **{f"{name}: of zeros": of_zeros(name, *args) for name, args in (IN_PLACE | dict.fromkeys(RANDOM, ())).items()},
    **{name: (lambda x, name=name, args=args: getattr(-x, name)(*args)) for name, args in IN_PLACE.items()},
    **{name: (lambda x, name=name: getattr(-x, name)()) for name in RANDOM},
    **{f"_foreach_{name}": each(f"_foreach_{name}", *args) for name, args in LISTS.items()},
    "lerp_": lambda x: torch.zeros_like(x).lerp_(x.detach(), 0.5) * x,
    "addcmul_": lambda x: torch.zeros_like(x).addcmul_(x.detach(), x.detach()) * x,
    "addcdiv_": lambda x: torch.zeros_like(x).addcdiv_(x.detach(), x.detach()) * x,
    **{name: of_zeros(name) for name in ("square_", "sqrt_", "rsqrt_", "sign_")},
    # views
    "view": lambda x: x.view(-1),
    "reshape": lambda x: x.t().reshape(-1),
    "flatten": torch.flatten,
    "view_as": lambda x: x.view_as(torch.zeros(40, 24, device=x.device)),
    "reshape_as": lambda x: x.reshape_as(torch.zeros(40, 24, device=x.device)),
    "T": lambda x: x.T * 2,
    "mT": lambda x: x.mT * 2,
    "t": lambda x: x.t() * 2,
    "adjoint": lambda x: x.adjoint() * 2,
    "transpose": lambda x: x.transpose(0, -1),
    "permute": lambda x: x.permute(1, 0),
    "movedim": lambda x: x.movedim(0, -1),
    "moveaxis": lambda x: x.view(2, 12, 40).moveaxis((0, 1), (1, 2)),
    "detach": lambda x: x.detach() * x,
    "data": lambda x: x.data * x,
    "alias": lambda x: x[:],
    "conj": lambda x: x.conj() * 2,
    "unsqueeze": lambda x: x.unsqueeze(-1),
    "squeeze": lambda x: x[:1].squeeze(0),
    "expand": lambda x: x[:1].expand(24, 40),
    "broadcast_to": lambda x: x[:1].broadcast_to(24, 40),
    "broadcast_tensors": lambda x: torch.broadcast_tensors(x[:1], x)[0],
    "narrow": lambda x: x.narrow(-1, 3, 15),
    "slice": lambda x: x[:, 3:30:2],
    "select": lambda x: x[3],
    "split": lambda x: x.split(10, dim=-1)[1],
    "split_with_sizes": lambda x: x.split_with_sizes([10, 30], -1)[1],
    "chunk": lambda x: x.chunk(3, -1)[1],
    "unbind": lambda x: x[:3].unbind(0)[1],
    "real": lambda x: complex_numbers(x).real,
    "view_as_real": lambda x: torch.view_as_real(complex_numbers(x)),
    "view_as_complex": complex_numbers,
    # copies and new tensors
    "contiguous": lambda x: x.t().contiguous(),
    "clone": torch.clone,
    "to": lambda x: x.to(torch.float64),
    "cat": lambda x: torch.cat((x, x), -1),
    "stack": lambda x: torch.stack((x, x), -1),
    "pad": lambda x: functional.pad(x, (1, 2)),
    "repeat": lambda x: x.repeat(2, 1),
    "tril": lambda x: x.tril(1),
    "block_diag": lambda x: torch.block_diag(x, x),
    **{
        name: (lambda x, name=name: x * getattr(torch, name)(24, 40, dtype=x.dtype, device=x.device))
        for name in ("zeros", "ones", "empty", "rand", "randn")
    },
    **{
        name: (lambda x, name=name: x * getattr(torch, name)(x))
        for name in ("ones_like", "empty_like", "rand_like", "randn_like")
    },
    "full_like": lambda x: x * torch.full_like(x, 2.0),
    "bernoulli": lambda x: x * torch.bernoulli(torch.zeros_like(x)),
    "full": lambda x: x * torch.full((24, 40), 2.0, dtype=x.dtype, device=x.device),
    "arange": lambda x: x * torch.arange(40, device=x.device),
    "linspace": lambda x: x * torch.linspace(0, 1, 40, dtype=x.dtype, device=x.device),
    "randint": lambda x: x * torch.randint(5, (24, 40), device=x.device),
    "randperm": lambda x: x[torch.randperm(24, device=x.device)],
    "eye": lambda x: x * torch.eye(24, 40, dtype=x.dtype, device=x.device),
    "tensor": lambda x: x * torch.tensor([2.0] * 40, dtype=x.dtype, device=x.device),
    "as_tensor": lambda x: x * torch.as_tensor([2.0] * 40, dtype=x.dtype, device=x.device),
    "scalar_tensor": lambda x: x * torch.scalar_tensor(2.0, dtype=x.dtype, device=x.device),
    "new_tensor": lambda x: x * x.new_tensor([2.0] * 40),
    "new_ones": lambda x: x * x.new_ones(24, 40),
    "new_empty": lambda x: x * x.new_empty(24, 40),
    "new_full": lambda x: x * x.new_full((24, 40), 2.0),
    "tril_indices": lambda x: x[tuple(torch.tril_indices(24, 24, device=x.device))],
    "triu_indices": lambda x: x[tuple(torch.triu_indices(24, 24, device=x.device))],
    # what is found, chosen and written
    **{name: (lambda x, name=name: getattr(x, name)(-1)) for name in ("argmax", "argmin")},
    **{
        name: (lambda x, name=name: getattr(torch, name)(x > 0))
        for name in ("all", "any", "_is_all_true", "_is_any_true")
    },
    "count_nonzero": lambda x: torch.count_nonzero(x),
    "nonzero": lambda x: (torch.arange(24, device=x.device) > 3).nonzero(),
    "argwhere": lambda x: torch.argwhere(torch.arange(24, device=x.device) > 3),
    "argsort": lambda x: x.detach().argsort(-1),
    "_softmax_backward_data": lambda x: torch._softmax_backward_data(x.detach(), x.detach(), -1, x.dtype) * x,
    "erf": torch.erf,
    "adaptive_avg_pool2d": lambda x: functional.adaptive_avg_pool2d(x.view(2, 3, 8, 20), 1),
    "adaptive_avg_pool1d": lambda x: functional.adaptive_avg_pool1d(x.view(2, 12, 40).mT, 1),
    "hardtanh": functional.relu6,
    "hardswish": functional.hardswish,
    "hardsigmoid": functional.hardsigmoid,
    "dropout_": lambda x: functional.dropout(-x, 0.5, inplace=True),
    "adaptive_avg_pool2d: to several": lambda x: functional.adaptive_avg_pool2d(x.view(2, 3, 8, 20), (2, 3)),
    "upsample_bilinear2d": lambda x: upsampled(x.view(2, 3, 8, 20), (9, 7)),
    "upsample_bilinear2d: large": lambda x: upsampled(x.view(2, 3, 8, 20), (60, 70)),
    "upsample_bilinear2d: one channel": lambda x: upsampled(x.view(6, 1, 8, 20), (9, 7)),
    "upsample_bilinear2d: channels last": lambda x: upsampled(x.view(2, 8, 10, 6).permute(0, 3, 1, 2), (9, 7)),
    "upsample_nearest2d": lambda x: functional.interpolate(x.view(2, 3, 8, 20), scale_factor=2),
    "upsample_bicubic2d": lambda x: upsampled(x.view(2, 3, 8, 20), (9, 7), "bicubic"),
    "upsample_bicubic2d: large": lambda x: upsampled(x.view(2, 3, 8, 20), (60, 70), "bicubic"),
    "upsample_bicubic2d: a long row": lambda x: upsampled(x.view(1, 1, 2, 480), (1, 4000), "bicubic"),
    "upsample_bilinear2d: a long row": lambda x: upsampled(x.view(1, 1, 2, 480), (1, 4000)),
    "upsample_bicubic2d: channels last": lambda x: (
        upsampled(x.view(2, 8, 10, 6).permute(0, 3, 1, 2), (9, 7), "bicubic").permute(0, 2, 3, 1).reshape(2, 63, 6)
    ),
    "as_strided": lambda x: x.as_strided((2, 12, 40), (480, 40, 1)),
    "as_strided: that overlaps": lambda x: x.as_strided((5, 8, 40), (160, 40, 1)),
    "glu": functional.glu,
    "glu: of strided numbers": lambda x: functional.glu(x.mT, 0),
    "im2col: larger columns": lambda x: functional.unfold(x.view(2, 3, 8, 20), 3),
    "im2col: of strided numbers": lambda x: functional.unfold(x.view(8, 20, 2, 3).permute(2, 3, 0, 1), 3),
    "im2col: fewer": lambda x: functional.unfold(x.view(2, 3, 8, 20), 2, stride=4),
    "avg_pool1d": lambda x: functional.avg_pool1d(x.view(2, 3, 160), 4, 4),
    "max_pool1d: of numbers that train": lambda x: functional.max_pool1d(x.view(2, 3, 160), 4, 4),
    "max_pool2d": lambda x: functional.max_pool2d(x.view(2, 3, 8, 20), 2),
    "max_pool2d: of strided numbers": lambda x: functional.max_pool2d(x.view(8, 20, 2, 3).permute(2, 3, 0, 1), 2),
    "max_pool1d": lambda x: functional.max_pool1d(x.detach().view(2, 3, 160), 4, 4) * x.sum(),
    "masked_select": lambda x: x.masked_select(torch.arange(40, device=x.device) < 7),
    "masked_select: of as many": lambda x: x.masked_select(torch.arange(960, device=x.device).view(24, 40) < 7),
    "ctc_loss": lambda x: ctc(x, "mean"),
    "ctc_loss: sum": lambda x: ctc(x, "sum"),
    "ctc_loss: without infinity": lambda x: ctc(x, "mean", zero_infinity=True),
    "avg_pool2d": lambda x: functional.avg_pool2d(x.view(2, 3, 8, 20), 2),
    "avg_pool2d: of strided numbers": lambda x: functional.avg_pool2d(x.view(8, 20, 2, 3).permute(2, 3, 0, 1), 2),
    "im2col": lambda x: functional.unfold(x.view(2, 3, 8, 20), 2, stride=2),
    "prod": lambda x: torch.arange(24, device=x.device).view(4, 6).prod(-1),
    "unique_consecutive": lambda x: torch.unique_consecutive(torch.arange(24, device=x.device)),
    "repeat_interleave: by a tensor": lambda x: x.repeat_interleave(torch.arange(24, device=x.device), dim=0),
    "repeat_interleave: of numbers": lambda x: torch.repeat_interleave(torch.arange(24, device=x.device)),
    "bincount": lambda x: torch.bincount(torch.arange(24, device=x.device)),
    "searchsorted": lambda x: torch.searchsorted(torch.zeros_like(x[0]), x.detach()),
    "bucketize": lambda x: torch.bucketize(x.detach(), torch.zeros_like(x[0])),
    "embedding": lambda x: functional.embedding(places(x), x),
    "index_put": lambda x: x.index_put((rows(x),), x[:5]),
    "index_add": lambda x: x.index_add(0, rows(x), x[:5]),
    "index_copy": lambda x: x.index_copy(0, rows(x), x[:5]),
    "index_copy_": lambda x: torch.zeros_like(x).index_copy_(0, rows(x), x.detach()[:5]) * x,
    "scatter_add": lambda x: x.scatter_add(1, places(x), x[:, :5]),
    **{name: (lambda x, name=name: getattr(x, name)(-1)[0]) for name in ("cummax", "cummin", "mode")},
    "kthvalue": lambda x: x.kthvalue(2, -1)[0],
    "to: a copy": lambda x: x.to(torch.float32, copy=True),
    "repeat: to more dimensions": lambda x: x.repeat(2, 1, 3),
    "repeat_interleave: of all, by a tensor": lambda x: x.repeat_interleave(torch.arange(960, device=x.device) % 3),
    "zeros_like: in order": lambda x: torch.zeros_like(x.t(), memory_format=torch.contiguous_format) * x.t(),
    "batch_norm: evaluated": lambda x: functional.batch_norm(x, x.detach()[0], x.detach()[1]),
    "batch_norm: of rows that do not train": lambda x: functional.batch_norm(x.detach(), None, None, x[0], x[1], True),
    "split: a shorter last one": lambda x: torch.cat(x.split(7, 1)[::2], 1),
    "var: keeping, by position": lambda x: x.var(0, True, True),
    "var: of all": lambda x: x.var(False),
    "scaled_dot_product_attention: of strided heads": lambda x: functional.scaled_dot_product_attention(
        *[x.view(1, 2, 40, 12).mT] * 3
    ),
    "scaled_dot_product_attention: of three dimensions": lambda x: functional.scaled_dot_product_attention(
        *[x.view(2, 12, 40)] * 3
    ),
    "scaled_dot_product_attention: of narrower values": lambda x: functional.scaled_dot_product_attention(
        *[x.view(1, 2, 12, 40)] * 2, x.view(1, 2, 12, 40)[..., :16]
    ),
    "amin": lambda x: x.amin(-1),
    "linalg_norm": lambda x: torch.linalg.norm(x, dim=-1),
    "nll_loss_nd": lambda x: functional.nll_loss(x, places(x)[:, 0]),
    "nll_loss": lambda x: torch._C._nn.nll_loss(x, places(x)[:, 0]),
    "scaled_dot_product_attention": lambda x: functional.scaled_dot_product_attention(*[x.view(1, 2, 12, 40)] * 3),
}


@pytest.mark.parametrize("name", MORE)
def test_further_function_of_one_tensor(reference_threads: None, name: str) -> None:
    given = (Given((24, 40), F32),)
    agree(recorded(name, MORE[name], given), MORE[name], *given)


SCALED: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "add": (lambda x, y, alpha: torch.add(x, y, alpha=alpha), (24, 40)),
    "add_": (lambda x, y, alpha: (-x).add_(y, alpha=alpha), (24, 40)),
    "sub": (lambda x, y, alpha: torch.sub(x, y, alpha=alpha), (24, 40)),
    "sub_": (lambda x, y, alpha: (-x).sub_(y, alpha=alpha), (24, 40)),
    "rsub": (lambda x, y, alpha: torch.rsub(x, y, alpha=alpha), (24, 40)),
    "index_add": (lambda x, y, alpha: x.index_add(0, rows(x), y, alpha=alpha), (5, 40)),
    "index_add_": (lambda x, y, alpha: torch.zeros_like(x).index_add_(0, rows(x), y, alpha=alpha) + x, (5, 40)),
}

TWO: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "diff: behind other rows": (lambda x, y: torch.diff(x, dim=0, prepend=y), (2, 40)),
    "diff: before other columns": (lambda x, y: torch.diff(x, dim=1, append=y), (24, 3)),
    "sub": (lambda x, y: x - y, (40,)),
    "div": (lambda x, y: x / y, (24, 1)),
    "pow": (torch.pow, (24, 40)),
    "where": (lambda x, y: torch.where(x > y, x, y), (24, 40)),
    "copy_": (lambda x, y: (-x).copy_(y), (40,)),
    "add_": (lambda x, y: (-x).add_(y), (24, 40)),
    "mul_": (lambda x, y: (-x).mul_(y), (40,)),
    "div_": (lambda x, y: (-x).div_(y), (24, 1)),
    "copy_: to a row": (setting(3), (40,)),
    "copy_: to columns": (setting(slice(None), slice(0, 15)), (24, 15)),
    "expand: set columns by a row": (setting(slice(None), slice(0, 15)), (1, 1, 15)),
    "index_put_: rows": (set_rows, (5, 40)),
    "copy_: within a view": (nested, (8, 7)),
    "add_: to columns": (add_to_slice, (24, 15)),
    **{
        f"{name}: alpha {alpha}": (lambda x, y, f=function, a=alpha: f(x, y, a), shape)
        for alpha in (1, 0.5)
        for name, (function, shape) in SCALED.items()
    },
    "scatter": (lambda x, y: x.scatter(1, places(x), y), (24, 5)),
    "scatter_add_": (lambda x, y: torch.zeros_like(x).scatter_add_(1, places(x), y) + x, (24, 5)),
    "index_copy_: of a source that trains": (lambda x, y: torch.zeros_like(x).index_copy_(0, rows(x), y) + x, (5, 40)),
    "index_copy_: in what trains": (lambda x, y: (-x).index_copy_(0, rows(x), y), (5, 40)),
    "index_add_": (lambda x, y: torch.zeros_like(x).index_add_(0, rows(x), y) + x, (5, 40)),
    "mse_loss": (functional.mse_loss, (24, 40)),
    "cosine_similarity": (functional.cosine_similarity, (24, 40)),
    "pairwise_distance": (functional.pairwise_distance, (24, 40)),
    "index_put_: by a mask": (lambda x, y: set_some(x, y), (40,)),
    "index_put_: a row for each true element": (lambda x, y: set_some(x, y), (5, 40)),
    "_weight_norm: of the last dimension": (lambda x, y: torch._weight_norm(x.view(2, 12, 40), y, 2), (1, 1, 40)),
    "_weight_norm: of the first dimension": (lambda x, y: torch._weight_norm(x, y, 0), (24, 1)),
    "batch_norm": (lambda x, y: functional.batch_norm(x.view(3, 8, 8, 5), None, None, y, y, True), (8,)),
    "batch_norm: of rows": (lambda x, y: functional.batch_norm(x, None, None, y, y, True), (40,)),
    "batch_norm: evaluated, of images that do not train": (
        lambda x, y: functional.batch_norm(x.detach().view(3, 8, 8, 5), y.detach(), y.detach(), y, y),
        (8,),
    ),
    "group_norm": (lambda x, y: functional.group_norm(x.view(4, 40, 6), 5, y, y), (40,)),
    "group_norm: of strided numbers": (lambda x, y: functional.group_norm(x.view(4, 6, 40).mT, 5, y, y), (40,)),
    "masked_scatter": (lambda x, y: x.masked_scatter((torch.arange(24, device=x.device) < 5)[:, None], y), (5, 40)),
    "rms_norm": (lambda x, y: functional.rms_norm(x, (40,), y), (40,)),
    "layer_norm": (lambda x, y: functional.layer_norm(x, (40,), y), (40,)),
    "linear: and an update": (lambda x, y: functional.linear(x.view(2, 12, 40), y).add_(1.0), (32, 40)),
}


@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("name", TWO)
def test_function_of_two_tensors(reference_threads: None, name: str, dtype: str) -> None:
    function, shape = TWO[name]
    given = (Given((24, 40), dtype), Given(shape, dtype))
    agree(recorded(name, function, given), function, *given)


PRODUCTS: dict[str, tuple[Callable[..., Any], tuple[tuple[int, ...], ...]]] = {
    "mm": (torch.mm, ((24, 40), (40, 8))),
    "mv": (torch.mv, ((24, 40), (40,))),
    "matmul": (torch.matmul, ((2, 12, 40), (40, 8))),
    "bmm": (torch.bmm, ((2, 12, 40), (2, 40, 8))),
    "addmm": (torch.addmm, ((8,), (24, 40), (40, 8))),
    "baddbmm": (torch.baddbmm, ((2, 12, 8), (2, 12, 40), (2, 40, 8))),
    "linear": (functional.linear, ((2, 12, 40), (8, 40), (8,))),
    "einsum": (lambda a, b: torch.einsum("bij,jk->bik", a, b), ((2, 12, 40), (40, 8))),
    "einsum: of three": (lambda a, b, c: torch.einsum("bij,jk,jk->bi", a, b, c), ((2, 12, 40), (40, 8), (40, 8))),
    "kron": (torch.kron, ((12, 4), (5, 8))),
    "conv1d": (functional.conv1d, ((2, 8, 40), (8, 8, 3), (8,))),
    "conv2d": (functional.conv2d, ((1, 3, 9, 9), (8, 3, 2, 2), (8,))),
    "conv1d: strided": (lambda x, w: functional.conv1d(x, w, stride=2), ((2, 8, 40), (8, 8, 3))),
    "conv2d: strided": (lambda x, w: functional.conv2d(x, w, stride=2), ((2, 8, 9, 9), (5, 8, 3, 3))),
    "conv2d: channels last": (
        lambda x, w, b: functional.conv2d(x.permute(0, 3, 1, 2), w, b, 2), ((2, 9, 9, 5), (8, 5, 3, 3), (8,))
    ),
    "conv2d: channels last, one each": (
        lambda x, w: functional.conv2d(x.permute(0, 3, 1, 2), w, padding=1, groups=8), ((2, 9, 9, 8), (8, 1, 3, 3))
    ),
    "conv2d: a gradient with channels last": (
        lambda x, w: functional.conv2d(x, w).permute(0, 2, 3, 1).contiguous() * 2.0, ((2, 5, 9, 9), (8, 5, 3, 3))
    ),
    "conv_transpose2d": (functional.conv_transpose2d, ((2, 8, 6, 6), (8, 1, 4, 4))),
    "linalg_solve": (lambda a, b: torch.linalg.solve(a + torch.eye(8), b, left=False), ((8, 8), (8, 8))),
    "linalg_solve_triangular": (
        lambda a, b: torch.linalg.solve_triangular(a + torch.eye(8), b, upper=True), ((8, 8), (8, 5))
    ),
    "linalg_qr": (lambda a: torch.linalg.qr(a + torch.eye(24, 8))[0], ((24, 8),)),
    "fft_fft": (lambda x: torch.fft.fft(x).real, ((24, 40),)),
    "fft_ifft": (lambda x: torch.fft.ifft(torch.fft.fft(x)).real, ((24, 40),)),
    "fft_ifft2": (lambda x: torch.fft.ifft2(x).real, ((24, 40),)),
    "sparse_coo_tensor": (lambda v: sparse(v).to_dense(), ((24,),)),
    "to_dense": (lambda v: sparse(v).to_dense(), ((24,),)),
    "sparse_mm": (lambda v, x: torch.sparse.mm(sparse(v).coalesce(), x), ((24,), (24, 8))),
    "coalesce": (lambda v: sparse(v).coalesce().to_dense(), ((24,),)),
}  # fmt: skip


def sparse(values: torch.Tensor) -> torch.Tensor:
    indices = torch.arange(24, device=values.device).expand(2, 24).contiguous()
    return torch.sparse_coo_tensor(indices, values, (24, 24))


@pytest.mark.parametrize("name", PRODUCTS)
def test_product(reference_threads: None, name: str) -> None:
    function, shapes = PRODUCTS[name]
    given = tuple(Given(shape) for shape in shapes)
    agree(recorded(name, function, given), function, *given, work=name not in OTHER_WORK)


OTHER_WORK = ("conv2d: channels last, one each", "sparse_mm")
"""Products of which PyTorch counts more than are made."""


INTEGERS: dict[str, Callable[..., Any]] = {
    "add: x + 1": lambda x: x + 1,
    "sub: x - 1": lambda x: x - 1,
    "rsub: 1 - x": lambda x: 1 - x,
    "div: x / 8": lambda x: x / 8,
    "floor_divide: x // 8": lambda x: x // 8,
    "remainder: x % 8": lambda x: x % 8,
    "mul: x * 0.5": lambda x: x * 0.5,
    "div: trunc": lambda x: x.div(2, rounding_mode="trunc"),
    "eq: x == 0": lambda x: x == 0,
    "lt: x < 0.5": lambda x: x < 0.5,
    "clamp": lambda x: x.clamp(0, 7),
    "masked_fill": lambda x: x.masked_fill(x == 0, 1),
    "where": lambda x: torch.where(x == 0, x, 0),
    "where: of numbers": lambda x: torch.where(x == 0, 2, 0),
    "cumsum": lambda x: x.cumsum(-1),
    "cumsum: of a mask": lambda x: (x != 0).cumsum(-1),
    "sum": lambda x: x.sum(-1),
    "sum: of a mask": lambda x: (x != 0).sum(dim=-1),
    "sort": lambda x: torch.sort(x.view(-1))[0],
    "argsort": lambda x: x.view(-1).argsort(),
    "argmax": lambda x: x.float().argmax(-1),
    "diff": lambda x: torch.diff(x, prepend=x[:, :1], dim=-1),
    "histc": lambda x: torch.histc(x.float(), bins=6, min=0, max=5),
    "bitwise_and: and bitwise_not": lambda x: (x == 0) & ~(x == 1),
    "pow": lambda x: x**2,
    "max": lambda x: x.max(),
    "fill_: set": lambda x: setting(slice(None), 0)(x, 7),
    "rsub: of a mask": lambda x: 1.0 - (x != 0).float(),
    **{
        name: (lambda x, name=name: getattr(torch, name)(x, x))
        for name in ("bitwise_or", "bitwise_xor", "bitwise_left_shift", "bitwise_right_shift")
    },
    "bitwise_not": lambda x: ~x,
    **{
        name: (lambda x, name=name: getattr(x + 1, name)(x + 1))
        for name in ("bitwise_and_", "bitwise_or_", "bitwise_xor_", "floor_divide_", "remainder_")
    },
    **{name: (lambda x, name=name: getattr(x > 0, name)(x > 1)) for name in ("logical_and_", "logical_or_")},
    "logical_not_": lambda x: (x > 0).logical_not_(),
    "unsqueeze_": lambda x: (x + 1).unsqueeze_(1) * 2,
    "isinf": lambda x: torch.isinf(x),
    "isfinite": lambda x: torch.isfinite(x),
    "isclose": lambda x: torch.isclose(x.float(), x.float() + 1),
    "nan_to_num": lambda x: torch.nan_to_num(x.float(), nan=0.0),
    "clamp: a number that is none": lambda x: x.clamp(min=1.0),
    "isin": lambda x: torch.isin(x, torch.arange(5, device=x.device)),
}


@pytest.mark.parametrize("name", INTEGERS)
def test_function_of_integers(reference_threads: None, name: str) -> None:
    given = (Given((24, 40), "int64", grad=False),)
    agree(recorded(name, INTEGERS[name], given), INTEGERS[name], *given)


ELSEWHERE = {
    "requires_grad_": "recorder/test_heads.py",  # of Wav2Vec 2, whose features ask for a gradient
    "flash_attn": "test_cuda_attention.py: no CPU runs it",
    "grouped_mm": "test_products.py: of 16-bit rows, with offsets",
    "_grouped_mm": "as grouped_mm",
}
"""Rows whose tests need more than a function and shapes."""


def test_every_row_has_a_case() -> None:
    cases = {row_of(name) for some in (ONE, TWO, MORE, PRODUCTS, INTEGERS) for name in some}
    assert cases | {*ELSEWHERE} >= {*table.RULES}, sorted({*table.RULES} - cases - {*ELSEWHERE})


PAGE = (Path(__file__).parents[2] / "docs" / "add-an-operator.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("grads", [(True, True), (True, False), (False, True)])
def test_the_page_that_adds_an_operator_works_as_written(monkeypatch: pytest.MonkeyPatch, grads: Any) -> None:
    """Witness as everywhere here; the page's code runs within ``elementwise.py``."""
    rules, saved = dict(table.RULES), dict(table.SAVED)
    monkeypatch.setattr(table, "RULES", rules)
    monkeypatch.setattr(table, "SAVED", saved)
    monkeypatch.setattr(event_loop, "RULES", rules)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(code, dict(vars(elementwise)))
    given = tuple(Given(shape, grad=grad) for shape, grad in zip(((24, 40), (40,)), grads, strict=True))
    agree(recorded("hypot", torch.hypot, given), torch.hypot, *given)
    assert len(saved["HypotBackward0"].kept) == 3
    assert '"hypot": (torch.hypot, (40,)),' in PAGE
