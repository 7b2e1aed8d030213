"""Functions that need handling of their own while they are recorded."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from ... import operators as ops
from ...errors import InputError
from ...ledger import Ledger, Storage, Tensor
from ...operators.layout import normalised
from ...operators.table import SAME
from .data import tensors_in
from .marks import dtype_name
from .mode import Recorder
from .names import cast_all, special


@special("to")
def _to(recorder: Recorder, function: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    dtype, copy = kwargs.get("dtype"), bool(kwargs.get("copy", False))
    for argument in (*args, kwargs.get("other")):
        if isinstance(argument, torch.dtype):
            dtype = argument
        elif isinstance(argument, torch.Tensor):
            dtype = argument.dtype
            recorder.asked_dtype(argument)
    return recorder.moved(x) if dtype is None and not copy else recorder.cast(x, dtype or x.dtype, copy)


for _name, _dtype in {
    "float": torch.float32,
    "half": torch.float16,
    "bfloat16": torch.bfloat16,
    "double": torch.float64,
    "long": torch.int64,
    "int": torch.int32,
    "bool": torch.bool,
}.items():
    special(_name)(partial(_to, dtype=_dtype))


@special("type")
def _type(recorder: Recorder, function: Any, x: torch.Tensor, dtype: Any = None, **kwargs: Any) -> Any:
    if dtype is None:
        return function(x)
    if isinstance(dtype, str):
        dtype = getattr(
            torch, {"torch.FloatTensor": "float32", "torch.LongTensor": "int64"}.get(dtype, dtype.rpartition(".")[2])
        )
    return recorder.cast(x, dtype, False)


@special("type_as")
def _type_as(recorder: Recorder, _: Any, x: torch.Tensor, other: torch.Tensor) -> Any:
    recorder.asked_dtype(other)
    return recorder.cast(x, other.dtype, False)


@special("cpu", "cuda", "register_hook", "retain_grad")
def _same(recorder: Recorder, _: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    return x


@special("__getitem__")
def _getitem(recorder: Recorder, function: Any, x: torch.Tensor, index: Any) -> Any:
    """``x[index]`` as the views and gathers that it is made of."""
    view, indices = _sliced(recorder, x, index)
    if indices:
        real = not any(t.is_meta for t in tensors_in((view, indices)))
        out = torch.ops.aten.index.Tensor(view, indices if real else _counted(recorder, indices))
        return recorder.note("index", (view, indices), {}, out)
    return recorder.note("alias", (x,), {}, x.view(x.shape)) if view is x else view


def _sliced(recorder: Recorder, x: torch.Tensor, index: Any) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """The view of ``x`` that the parts of an index give that are no tensors, and the tensors among the parts.

    Source: ``python_variable_indexing.cpp: applySlicing``.
    """
    parts = list(index) if isinstance(index, tuple) else [index]
    dims = sum(
        part.dim() if isinstance(part, torch.Tensor) and part.dtype in (torch.bool, torch.uint8)
        else part is not None and part is not Ellipsis and not isinstance(part, bool)
        for part in parts
    )  # fmt: skip
    original, dim = x, 0
    gathered: dict[int, torch.Tensor] = {}
    for part in parts:
        if part is Ellipsis:
            dim += original.dim() - dims
        elif part is None:
            x = recorder.note("unsqueeze", (x, dim), {}, x.unsqueeze(dim))
            dim += 1
        elif isinstance(part, slice):
            start, stop, step = (
                None if n is None else int(recorder.number(n)) for n in (part.start, part.stop, part.step)
            )
            first, last, _ = slice(start, stop, step).indices(x.shape[dim])
            if (first, step or 1) != (0, 1) or last < x.shape[dim]:
                out = torch.ops.aten.slice.Tensor(x, dim, first, last, step or 1)
                x = recorder.note("slice", (x, dim, out.shape[dim], step or 1), {}, out)
            dim += 1
        elif isinstance(part, (list, range)):
            numbers = torch.tensor(list(part), dtype=torch.int64, device="cpu")
            gathered[dim] = made = recorder.note("tensor", (tuple(part),), {}, recorder.new(numbers))
            recorder.data.set(made, numbers)
            dim += 1
        elif isinstance(part, torch.Tensor) and part.dtype == torch.bool and not (part.dim() or part.is_meta):
            x = recorder.note("unsqueeze", (x, dim), {}, x.unsqueeze(dim))  # of which it takes the one or none
            numbers = torch.zeros(int(part.item()), dtype=torch.int64)
            gathered[dim] = recorder.note("tensor", (tuple(numbers.tolist()),), {}, recorder.new(numbers))
            dim += 1
        elif isinstance(part, torch.Tensor) and (part.dim() or part.dtype == torch.bool):
            gathered[dim] = part
            dim += part.dim() if part.dtype in (torch.bool, torch.uint8) else 1
        elif isinstance(part, torch.Tensor) or (isinstance(part, int) and not isinstance(part, bool)):
            out = x.select(dim, 0 if isinstance(part, torch.Tensor) else part)
            x = recorder.note("select", (x, dim), {}, out)
        else:
            raise InputError(f"a forward pass that indexes a tensor by {type(part).__name__} cannot be recorded")
    return x, [gathered.get(i) for i in range(max(gathered) + 1)] if gathered else []


def _counted(recorder: Recorder, indices: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
    """Indices with as many integers in place of each mask as it has true elements."""
    found: list[torch.Tensor | None] = []
    for index in indices:
        if index is None or index.dtype not in (torch.bool, torch.uint8):
            found.append(index)
            continue
        mask = recorder.data.of(index)
        if mask is None:
            raise InputError("the model selects elements by numbers that it has computed; a recording has none")
        count = int(mask.count_nonzero())
        found.extend(torch.empty((count,), dtype=torch.int64, device="meta") for _ in range(max(1, index.dim())))
    return found


@special("nonzero", "argwhere", "where", "bincount", "_unique2", "unique_consecutive")
def _by_data(recorder: Recorder, function: Any, *args: Any, **kwargs: Any) -> Any:
    """A function whose result's shape depends on its operands' data."""
    name = function.__name__
    if name == "where" and len(args) + len(kwargs) > 1:
        if function is torch.Tensor.where:  # x.where(condition, other)
            condition, *others = [kwargs[key] for key in ("condition", "other") if key in kwargs] or args[1:]
            function, args, kwargs = torch.where, (condition, args[0], *others), {}
        return recorder.plain_call(function, name, args, kwargs)
    try:
        data = recorder.data.read(lambda *given: function(*given, **kwargs), args)
    except LookupError:
        raise InputError(f"the model asks {name} of numbers that it has computed; a recording has none") from None
    if name == "where" or kwargs.get("as_tuple"):  # TensorAdvancedIndexing.cpp: nonzero_numpy
        found = recorder.note("nonzero", args, {}, recorder.new(torch.stack(data, 1)))
        return recorder.note("unbind", (found, 1), {}, found.unbind(1))
    with torch._C.DisableTorchFunction():
        out = torch.utils._pytree.tree_map(recorder.new, data)
    return recorder.note(name, args, {}, out)


@special("masked_select")
def _masked_select(recorder: Recorder, function: Any, x: torch.Tensor, mask: torch.Tensor) -> Any:
    if (data := recorder.data.of(mask)) is None:
        raise InputError("the model selects elements by numbers that it has computed; a recording has none")
    count = int(data.expand(torch.broadcast_shapes(x.shape, mask.shape)).count_nonzero())
    return recorder.note("masked_select", (x, mask), {}, x.new_empty((count,), device="meta"))


@special("repeat_interleave")
def _repeat_interleave(recorder: Recorder, function: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    named = dict(kwargs)
    repeats = args[0] if args else kwargs.get("repeats", x)
    if isinstance(repeats, torch.Tensor) and named.get("output_size") is None:
        counts = recorder.data.of(repeats)
        if counts is None:
            raise InputError("the model repeats elements by numbers that it has computed; a recording has none")
        dim = args[1] if len(args) > 1 else kwargs.get("dim")
        times = 1 if repeats.numel() != 1 else x.numel() if dim is None else x.shape[dim]
        named["output_size"] = int(counts.sum()) * times
    return recorder.note("repeat_interleave", (x, *args), kwargs, function(x, *args, **named))


@special("_grouped_mm")
def _grouped_mm(recorder: Recorder, function: Any, a: Any, b: Any, *, offs: Any = None, **kwargs: Any) -> Any:
    """The product of each group of rows with its own matrix (``GroupedMMUtils.h: create_grouped_gemm_output_tensor``).

    The meta device knows it for bfloat16 alone. PyTorch refuses rows that are no multiple of 16 bytes in backward.
    """
    if a.dim() != 2 or b.dim() != 3:
        raise InputError("a grouped product other than of rows with experts' matrices has no rule")
    if any(n * a.element_size() % 16 for n in b.shape[1:]):
        raise InputError(
            f"experts' matrices of {b.shape[1]} x {b.shape[2]}: a grouped product takes rows of a multiple of 16 bytes"
        )
    return recorder.note("_grouped_mm", (a, b), {"offs": offs}, a.new_empty((a.shape[0], b.shape[-1]), device="meta"))


@special("clamp", "clamp_")
def _clamp(recorder: Recorder, function: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    """``clamp``. Beside a number a bound of one element is read as one, too (``python_arg_parser.cpp``)."""
    if any(isinstance(bound, (int, float)) for bound in (*args, *kwargs.values())):
        args = tuple(map(recorder.number, args))
        kwargs = {key: recorder.number(bound) for key, bound in kwargs.items()}
    return recorder.plain_call(function, function.__name__, (x, *args), kwargs)


@special("arange", "view", "reshape", "split_with_sizes", "new_zeros", "new_ones", "new_empty")
def _of_sizes(recorder: Recorder, function: Any, *args: Any, **kwargs: Any) -> Any:
    """Functions whose sizes may be tensors of one number."""

    def read(tree: Any) -> Any:
        return type(tree)(map(read, tree)) if type(tree) in (list, tuple) else recorder.number(tree)

    name = function.__name__
    first = () if name == "arange" else args[:1]
    named = {key: read(x) for key, x in kwargs.items()}
    return recorder.plain_call(function, SAME.get(name, name), (*first, *map(read, args[len(first) :])), named)


@special("tril", "triu")
def _triangle(recorder: Recorder, function: Any, x: torch.Tensor, diagonal: int = 0) -> Any:
    """``tril`` and ``triu``. Which diagonal it is changes no memory, and may be a size below zero."""
    return recorder.note(function.__name__, (x,), {}, function(x, diagonal))


@special("__iter__")
def _iter(recorder: Recorder, function: Any, x: torch.Tensor) -> Any:
    return iter(recorder.note("unbind", (x, 0), {}, x.unbind(0)))


@special("detach")
def _detach(recorder: Recorder, function: Any, x: torch.Tensor) -> Any:
    return recorder.note("detach", (x,), {}, x.view(x.shape))


@special("_set_grad_enabled", "set_grad_enabled")
def _set_grad_enabled(recorder: Recorder, _: Any, enabled: bool) -> None:
    recorder.grad_mode(enabled)


@special("requires_grad_")
def _require_grad(recorder: Recorder, _: Any, x: Any, value: bool = True) -> Any:
    return recorder.set_requires_grad(x, value)


@special("scaled_dot_product_attention")
def _sdpa(
    recorder: Recorder,
    function: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Attention. Its result on the meta device gets the layout that the operator's rule for a CPU gives it."""
    ledger = Ledger(ops.CPU)
    if recorder.autocasts:
        ledger.autocast = dtype_name(torch.get_autocast_dtype(recorder.device.type))

    def twin(x: torch.Tensor) -> Tensor:
        shape = tuple(x.shape)
        out = Tensor(Storage(ledger, 0), shape, dtype_name(x.dtype), normalised(shape, x.stride()))
        out.requires_grad = recorder.requires_grad(x)
        return out

    mask = None if attn_mask is None else twin(attn_mask)
    result = ops.scaled_dot_product_attention(
        twin(query), twin(key), twin(value), mask, dropout_p, is_causal, enable_gqa
    )
    dtype = getattr(torch, result.dtype)
    out = torch.empty_strided(result.shape, ops.strides_of(result), dtype=dtype, device="meta")
    named = {"attn_mask": attn_mask, "dropout_p": dropout_p, "is_causal": is_causal, "enable_gqa": enable_gqa}
    return recorder.note("scaled_dot_product_attention", (query, key, value), named, out)


@special("flash_attn_func")
def _flash_attn(recorder: Recorder, function: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Any:
    """Attention of the package flash-attn. Its result has the query's layout.

    The package takes no float32. Where queries still are, transformers 4.48 casts them beside values that are as well:
    those of a quantised layer.
    """
    casts = recorder.autocasts and q.dtype == torch.float32
    dtype = torch.get_autocast_dtype(recorder.device.type) if casts else q.dtype
    return recorder.note("flash_attn", (q, k, v), {}, torch.empty_like(q, dtype=dtype))


@special("ctc_loss")
def _ctc_loss(
    recorder: Recorder,
    function: Any,
    x: torch.Tensor,
    targets: torch.Tensor,
    frames: Any,
    lengths: Any,
    blank: int = 0,
    reduction: int = 1,
    zero_infinity: bool = False,
) -> Any:
    """``torch.ctc_loss``, which reads the lengths of the labels."""
    longest = max(recorder.data.read(torch.Tensor.tolist, (lengths,)) if isinstance(lengths, torch.Tensor) else lengths)
    named = {"reduction": ("none", "mean", "sum")[reduction], "zero_infinity": zero_infinity}
    out = torch.empty(() if reduction else (x.shape[1],), dtype=x.dtype, device="meta")
    return recorder.note("ctc_loss", (x, targets, longest), named, out)


@special("kl_div")
def _kl_div(
    recorder: Recorder,
    function: Any,
    x: torch.Tensor,
    target: torch.Tensor,
    reduction: int = 1,
    log_target: bool = False,
) -> Any:
    """``torch.kl_div`` as what it is put together from (``Loss.cpp: kl_div``)."""

    def call(name: str, *args: torch.Tensor) -> Any:
        return recorder.plain_call(getattr(torch, name), name, args, {})

    if log_target:
        out = call("mul", call("exp", target), call("sub", target, x))
    else:
        out = call("sub", call("xlogy", target, target), call("mul", target, x))
    return call(("mean", "sum")[reduction - 1], out) if reduction else out


_MATRICES = ("mat1", "batch1", "mat2", "batch2")


@special("addmm", "baddbmm")
def _scaled_product(recorder: Recorder, function: Any, x: Any, *matrices: Any, **kwargs: Any) -> Any:
    """``addmm`` and ``baddbmm``: of ``beta`` and ``alpha`` it is noted whether they differ from one."""
    factors = {name: kwargs.pop(name, 1) for name in ("beta", "alpha")}
    x, a, b = operands = (x, *matrices, *(kwargs.pop(name) for name in _MATRICES if name in kwargs))
    if kwargs:
        raise InputError(f"{function.__name__} with {', '.join(kwargs)} cannot be recorded")
    if recorder.autocasts:
        operands = cast_all(operands, torch.get_autocast_dtype(recorder.device.type))
    out = function(*operands)
    return recorder.note(function.__name__, (x, a, b), {name: f != 1 for name, f in factors.items()}, out)


@special("__setitem__")
def _setitem(recorder: Recorder, function: Any, x: torch.Tensor, index: Any, value: Any) -> None:
    """``x[index] = value`` as the views that it writes to, and what writes to them.

    A value of fewer elements is expanded first (``python_variable_indexing.cpp: copy_to``).
    """
    view, indices = _sliced(recorder, x, index)
    if not x.is_meta:
        function(x, index, value)
    if indices:
        named = {}
        masks = [i for i in indices if i is not None and i.dtype == torch.bool]
        if masks == indices and isinstance(value, torch.Tensor) and value.numel() > 1:
            data = recorder.data.of(masks[0])
            named = {} if data is None else {"places": (int(data.count_nonzero()), data.dim())}
        recorder.note("index_put_", (view, indices, value), named, view)
    elif isinstance(value, torch.Tensor) and (value.dim() or not view.dim()):
        shape = tuple(value.shape)
        while len(shape) > view.dim() and shape[0] == 1:
            shape = shape[1:]
        if shape != tuple(value.shape):
            value = recorder.note("view", (value, shape), {}, value.view(shape))
        if shape != tuple(view.shape):
            value = recorder.note("expand", (value, tuple(view.shape)), {}, value.expand(view.shape))
        recorder.note("copy_", (view, value), {}, view)
    else:
        recorder.note("fill_", (view, value), {}, view)


@special("lift_fresh.default")
def _lift_fresh(recorder: Recorder, function: Any, x: torch.Tensor) -> Any:
    """``torch.Tensor(data)``, which makes a tensor and then hands it over to autograd."""
    return recorder.note("tensor", ((),), {}, recorder.new(x))


@special("embedding")
def _embedding(recorder: Recorder, function: Any, weight: Any, ids: Any, *_: Any, **__: Any) -> Any:
    """A lookup. The row that padding has, which gets no gradient, changes no memory and is left out."""
    return recorder.note("embedding", (weight, ids), {}, function(weight, ids))


@special("sparse_coo_tensor")
def _sparse_coo_tensor(
    recorder: Recorder, function: Any, indices: torch.Tensor, values: torch.Tensor, size: Any, **_: Any
) -> Any:
    return recorder.note("sparse_coo_tensor", (indices, values), {}, _sparse(values.shape, values.dtype, size))


def _sparse(entries: Any, dtype: torch.dtype, size: Any) -> torch.Tensor:
    """A sparse tensor without data, of which the meta device knows the number of entries."""
    indices = torch.empty((len(size), *entries), dtype=torch.int64, device="meta")
    values = torch.empty(entries, dtype=dtype, device="meta")
    return torch.sparse_coo_tensor(indices, values, tuple(size), device="meta", check_invariants=False)


@special("coalesce")
def _coalesce(recorder: Recorder, function: Any, x: torch.Tensor) -> Any:
    return recorder.note("coalesce", (x,), {}, _sparse((x._nnz(),), x.dtype, x.shape))


@special("_sparse_mm")
def _sparse_mm(recorder: Recorder, function: Any, x: torch.Tensor, dense: torch.Tensor) -> Any:
    out = torch.empty((x.shape[0], dense.shape[1]), dtype=dense.dtype, device="meta")
    return recorder.note("sparse_mm", (x, dense), {}, out)


@special("to_dense")
def _to_dense(recorder: Recorder, function: Any, x: torch.Tensor) -> Any:
    return recorder.note("to_dense", (x,), {}, torch.empty(x.shape, dtype=x.dtype, device="meta"))
