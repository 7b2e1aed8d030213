"""Records what a real module's forward pass calls, on the meta device, as a program (``program.py``). Needs PyTorch.

Every function of PyTorch that the module calls goes through a ``TorchFunctionMode``, which notes it with its operands.
A mark on each tensor's Python object notes when the object dies. No autograd runs, since its graph would keep tensors
alive; the interpreter's ledger has a graph of its own. Functions that PyTorch writes in Python (``F.softmax``) are
looked through: what they call is noted.

The meta device has no data. ``bool()`` of a tensor answers as unpadded, unpacked sequences would (``_truth``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torch._tensor
import torch.functional

from ..errors import InputError
from .module_table import Kind, NamedModule
from .program import (
    Autocast,
    Call,
    Drop,
    Enter,
    Event,
    Exit,
    Function,
    GradMode,
    Layer,
    Made,
    Program,
    Ref,
    Stored,
    Weight,
)

_MARK = "_estimator_mark"


class _Mark:
    """On a tensor's Python object: its slot. When the object dies, so does the mark, which notes that."""

    __slots__ = ("recorder", "requires_grad", "slot")

    def __init__(self, slot: int, recorder: Recorder, requires_grad: bool) -> None:
        self.slot, self.recorder, self.requires_grad = slot, recorder, requires_grad

    def __del__(self) -> None:
        self.recorder.events.append(Drop(self.slot))


def dtype_name(dtype: torch.dtype) -> str:
    """PyTorch's name of a dtype: ``bfloat16``."""
    return str(dtype).removeprefix("torch.")


class Recorder(torch.overrides.TorchFunctionMode):  # type: ignore[misc]
    """Notes the calls of one forward pass in ``events``.

    ``device`` is the type of the device that the module is told it runs on: ``cpu`` or ``cuda``.
    """

    def __init__(self, model: torch.nn.Module, device: str = "cpu", autocast: torch.dtype | None = None) -> None:
        super().__init__()
        self.events: list[Event] = []
        self.attributes: list[Stored] = []
        self._device, self._autocast = torch.device(device), autocast
        self._slots = 0
        self._grad_enabled = self._autocast_on = True
        self._names: dict[int, str] = {}
        """Names of parameters and buffers by the ``id`` of their objects."""
        self.paths = {id(module): path for path, module in model.named_modules() if path}
        self._held: list[Any] = []
        """Objects that must keep their ``id`` while the recorder runs."""
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            self._names.setdefault(id(tensor), name)

    # -- slots ---------------------------------------------------------------------------------------------------

    def mark(self, tensor: torch.Tensor, requires_grad: bool = False) -> int:
        """Give a tensor a slot."""
        slot = self._slots
        self._slots += 1
        setattr(tensor, _MARK, _Mark(slot, self, requires_grad))
        return slot

    def operand(self, tensor: torch.Tensor) -> Ref | Weight:
        """What stands for a tensor in a call. One that was made before the recording is an attribute of a module."""
        mark = getattr(tensor, _MARK, None)
        if mark is not None and mark.recorder is self:
            return Ref(mark.slot)
        if id(tensor) not in self._names:
            name = f"attribute {len(self.attributes)}"
            self.attributes.append(Stored(name, tuple(tensor.shape), dtype_name(tensor.dtype)))
            self._names[id(tensor)] = name
            self._held.append(tensor)
        return Weight(self._names[id(tensor)])

    def requires_grad(self, tensor: torch.Tensor) -> bool:
        """What ``tensor.requires_grad`` would be if autograd ran."""
        mark = getattr(tensor, _MARK, None)
        return bool(torch._C.TensorBase.requires_grad.__get__(tensor)) if mark is None else bool(mark.requires_grad)

    def encode(self, value: Any) -> Any:
        """An argument as a program writes it."""
        if isinstance(value, torch.Tensor):
            return self.operand(value)
        if isinstance(value, torch.dtype):
            return dtype_name(value)
        if isinstance(value, torch.memory_format):
            return str(value).removeprefix("torch.")
        if isinstance(value, (torch.device, torch.layout, torch.Generator)):
            return None
        if isinstance(value, bool) or value is None or isinstance(value, str):
            return value
        if isinstance(value, int):
            return int(value)
        if isinstance(value, (float, complex)):
            return 1.0 if value else 0.0
        if isinstance(value, (tuple, list)):
            return tuple(self.encode(x) for x in value)
        if isinstance(value, slice):
            return ("slice", self.encode(value.start), self.encode(value.stop), self.encode(value.step))
        raise InputError(f"a forward pass with an argument of type {type(value).__name__} cannot be recorded")

    def note(self, op: str, args: Sequence[Any], keywords: Mapping[str, Any], out: Any) -> Any:
        """Note a call. Returns its result, whose new tensors have slots now."""
        encoded = tuple(self.encode(x) for x in args)
        named = {
            name: self.encode(x)
            for name, x in keywords.items()
            if name not in ("device", "layout", "pin_memory", "generator", "non_blocking", "requires_grad", "out")
        }
        trains = self._grad_enabled and any(self.requires_grad(x) for x in _tensors((args, keywords)))
        made: list[Made] = []
        out = self._give_slots(out, op.endswith("_"), trains, made)
        self.events.append(Call(op, encoded, named, tuple(made)))
        return out

    def _give_slots(self, out: Any, in_place: bool, trains: bool, made: list[Made]) -> Any:
        """Give the tensors of a result slots, and list them in ``made``."""
        if isinstance(out, torch.Tensor):
            mark = getattr(out, _MARK, None)
            if in_place and mark is not None:
                mark.requires_grad = mark.requires_grad or trains
                made.append(Made(mark.slot, tuple(out.shape), dtype_name(out.dtype)))
                return out
            if mark is not None or id(out) in self._names:
                out = out.view(out.shape)  # an operand is given back: a second name, which dies by itself
            floating = out.dtype.is_floating_point or out.dtype.is_complex
            made.append(Made(self.mark(out, trains and floating), tuple(out.shape), dtype_name(out.dtype)))
            return out
        if isinstance(out, (tuple, list)):
            items = [self._give_slots(x, in_place, trains, made) for x in out]
            return items if type(out) is list else tuple(items) if type(out) is tuple else type(out)(items)
        return out

    # -- the mode ------------------------------------------------------------------------------------------------

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", str(function))
        if name in ("__get__", "__set__"):
            return self._attribute(function, name, args)
        if name in _SPECIAL:
            return _SPECIAL[name](self, function, *args, **kwargs)
        if name in _QUESTIONS:
            return function(*args, **kwargs)
        name = _SAME.get(name, name)
        if "input" in kwargs:
            args, kwargs = (kwargs["input"], *args), {k: v for k, v in kwargs.items() if k != "input"}
        if "device" in kwargs or name in _FACTORIES:
            kwargs["device"] = "meta"
        if self._autocast is not None:
            self._note_autocast()
        if self.autocasts:
            out = self._autocast_call(function, name, args, kwargs)
        else:
            try:
                out = function(*args, **kwargs)
            except NotImplementedError as error:
                raise InputError(
                    f"PyTorch cannot run {name} without data ({str(error).splitlines()[0][:100]})"
                ) from None
            except RuntimeError as error:
                if "meta" not in str(error):
                    raise
                raise InputError(f"the model reads data in {name} ({str(error).splitlines()[0][:100]})") from None
        if not any(True for _ in _tensors(out)):
            return out
        return self.note(name, args, kwargs, out)

    @property
    def autocasts(self) -> bool:
        """Whether autocast is on now."""
        return self._autocast is not None and bool(torch.is_autocast_enabled(self._device.type))

    def cast(self, x: torch.Tensor, dtype: torch.dtype, copy: bool) -> torch.Tensor:
        """Note ``x.to(dtype, copy=copy)``."""
        out = x.to(dtype) if x.dtype != dtype else x.clone() if copy else x
        named = {"copy": True} if copy else {}
        result: torch.Tensor = self.note("to", (x, dtype), named, out)
        return result

    def grad_mode(self, enabled: bool) -> None:
        """Note ``torch.set_grad_enabled(enabled)``."""
        if enabled != self._grad_enabled:
            self._grad_enabled = enabled
            self.events.append(GradMode(enabled))

    def region(self, path: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function whose calls are noted as a module's are."""

        def call(*args: Any, **kwargs: Any) -> Any:
            given = (tuple(self.operand(x) for x in _tensors(tree)) for tree in (args, kwargs))
            self.events.append(Enter(path, *given))
            out = function(*args, **kwargs)
            self.events.append(Exit(path, tuple(self.operand(x) for x in _tensors(out))))
            return out

        return call

    def _attribute(self, function: Any, access: str, args: Any) -> Any:
        name = function.__self__.__name__
        x = args[0]
        if access == "__set__":
            if name == "requires_grad":
                return self._set_requires_grad(x, args[1])
            raise InputError(f"the model sets {name} of a tensor in its forward pass, which has no rule")
        if name == "device":
            return self._device
        if name == "requires_grad":
            return self.requires_grad(x)
        if name == "is_leaf":
            return not self.requires_grad(x) or id(x) in self._names
        if name in ("is_cuda", "is_cpu", "is_meta"):
            return name == f"is_{self._device.type}"
        if name in ("grad_fn", "grad"):
            return None
        out = function(*args)
        return self.note(name, args, {}, out) if isinstance(out, torch.Tensor) else out

    def _set_requires_grad(self, x: Any, value: bool = True) -> Any:
        mark = getattr(x, _MARK, None)
        if mark is not None:
            mark.requires_grad = value
            self.events.append(Call("requires_grad_", (Ref(mark.slot), value), {}, ()))
        return x

    def _note_autocast(self) -> None:
        if self.autocasts != self._autocast_on:
            self._autocast_on = self.autocasts
            self.events.append(Autocast(self._autocast_on))

    def _autocast_call(self, function: Any, name: str, args: Any, kwargs: Any) -> Any:
        """Call a function as autocast would: with its operands in autocast's dtype. The rules make the casts anew."""
        dtype = torch.get_autocast_dtype(self._device.type)
        if name in _AUTOCAST_LOWER:
            args, kwargs = _cast((args, kwargs), dtype)
        elif self._device.type == "cuda" and name in _AUTOCAST_FLOAT32:
            args, kwargs = _cast((args, kwargs), torch.float32)
        elif name in ("cat", "stack"):
            widest = max((x.dtype for x in _tensors(args)), key=lambda d: d.itemsize)
            args, kwargs = _cast((args, kwargs), widest)
        return function(*args, **kwargs)


def _cast(tree: Any, dtype: torch.dtype) -> Any:
    def cast(x: Any) -> Any:
        return (
            x.to(dtype) if isinstance(x, torch.Tensor) and x.dtype.is_floating_point and x.dtype != torch.float64 else x
        )

    return torch.utils._pytree.tree_map(cast, tree)


def _tensors(tree: Any) -> Iterator[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for x in tree.values():
            yield from _tensors(x)
    elif isinstance(tree, (tuple, list)):
        for x in tree:
            yield from _tensors(x)
    elif hasattr(tree, "to_legacy_cache") or hasattr(tree, "layers"):
        return


_SAME = {
    "__add__": "add", "__radd__": "add", "__iadd__": "add_", "__sub__": "sub", "__isub__": "sub_",
    "__mul__": "mul", "__rmul__": "mul", "__imul__": "mul_", "__truediv__": "div", "__itruediv__": "div_",
    "__matmul__": "matmul", "__pow__": "pow", "__neg__": "neg", "__invert__": "bitwise_not", "__abs__": "abs",
    "__and__": "bitwise_and", "__rand__": "bitwise_and", "__or__": "bitwise_or", "__ror__": "bitwise_or", "__xor__": "bitwise_xor",
    "__ipow__": "pow_", "__iand__": "bitwise_and_", "__ior__": "bitwise_or_",
    "__eq__": "eq", "__ne__": "ne", "__lt__": "lt", "__le__": "le", "__gt__": "gt", "__ge__": "ge",
    "less": "lt", "less_equal": "le", "greater": "gt", "greater_equal": "ge", "not_equal": "ne",
    "subtract": "sub", "multiply": "mul", "divide": "div", "true_divide": "div", "concat": "cat", "concatenate": "cat",
    "absolute": "abs", "negative": "neg", "clip": "clamp", "swapaxes": "transpose", "swapdims": "transpose",
    "__floordiv__": "floor_divide", "__mod__": "remainder",
}  # fmt: skip
"""Names of one and the same operator."""
_QUESTIONS = {
    "size", "dim", "ndimension", "numel", "nelement", "stride", "storage_offset", "is_contiguous", "is_floating_point",
    "is_complex", "element_size", "__len__", "get_device", "data_ptr", "is_inference", "__hash__", "__repr__", "__format__",
    "is_tensor", "result_type", "can_cast", "promote_types", "is_signed", "is_set_to", "untyped_storage", "_is_zerotensor",
    "is_conj", "is_neg", "has_names", "__dir__", "__deepcopy__", "is_same_size", "storage",
}  # fmt: skip
"""Functions that answer something about a tensor without its data."""
_FACTORIES = {
    "arange", "zeros", "ones", "empty", "full", "tensor", "rand", "randn", "eye", "linspace", "tril_indices",
    "triu_indices", "randint", "randperm", "scalar_tensor", "as_tensor", "from_numpy", "full_like", "zeros_like",
    "ones_like", "empty_like", "rand_like", "randn_like", "new_zeros", "new_ones", "new_empty", "new_full", "new_tensor",
}  # fmt: skip
_AUTOCAST_LOWER = {
    "linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "addbmm", "conv1d", "conv2d", "conv3d", "einsum",
    "scaled_dot_product_attention", "chain_matmul", "mv", "addmv", "prelu", "grouped_mm",
}  # fmt: skip
_AUTOCAST_FLOAT32 = {
    "acos", "asin", "cosh", "erfinv", "exp", "expm1", "log", "log10", "log2", "log1p", "reciprocal", "rsqrt", "sinh",
    "tan", "pow", "softplus", "layer_norm", "group_norm", "norm", "nuclear_norm", "linalg_vector_norm", "cosine_similarity",
    "poisson_nll_loss", "cosine_embedding_loss", "nll_loss_nd", "nll_loss", "cross_entropy_loss", "hinge_embedding_loss",
    "kl_div", "l1_loss", "smooth_l1_loss", "mse_loss", "margin_ranking_loss", "binary_cross_entropy_with_logits", "dist",
    "pdist", "cdist", "renorm", "logsumexp", "softmax", "log_softmax", "prod", "sum", "cumprod", "cumsum", "rms_norm",
}  # fmt: skip


def _truth(recorder: Recorder, _: Any, x: torch.Tensor) -> bool:
    """``bool(x)``: conditions on data hold as for a batch without padding, packing or images."""
    return True


def _no_values(recorder: Recorder, function: Any, *args: Any, **kwargs: Any) -> Any:
    raise InputError(f"the model's forward pass reads data ({function.__name__}), of which a recording has none")


def _to(recorder: Recorder, function: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    dtype, copy = kwargs.get("dtype"), bool(kwargs.get("copy", False))
    for argument in (*args, kwargs.get("other")):
        if isinstance(argument, torch.dtype):
            dtype = argument
        elif isinstance(argument, torch.Tensor):
            dtype = argument.dtype
    return recorder.cast(x, dtype or x.dtype, copy)


def _as_dtype(dtype: torch.dtype) -> Callable[..., Any]:
    def to(recorder: Recorder, _: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return recorder.cast(x, dtype, False)

    return to


def _type(recorder: Recorder, function: Any, x: torch.Tensor, dtype: Any = None, **kwargs: Any) -> Any:
    if dtype is None:
        return function(x)
    if isinstance(dtype, str):
        dtype = getattr(
            torch, {"torch.FloatTensor": "float32", "torch.LongTensor": "int64"}.get(dtype, dtype.rpartition(".")[2])
        )
    return recorder.cast(x, dtype, False)


def _type_as(recorder: Recorder, _: Any, x: torch.Tensor, other: torch.Tensor) -> Any:
    return recorder.cast(x, other.dtype, False)


def _same(recorder: Recorder, _: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    return x


def _getitem(recorder: Recorder, function: Any, x: torch.Tensor, index: Any) -> Any:
    """``x[index]`` as the views and gathers that it is made of (``python_variable_indexing.cpp: applySlicing``)."""
    sliced, indices = _sliced(recorder, x, index)
    if indices:
        try:
            out = torch.ops.aten.index.Tensor(sliced, indices)
        except (NotImplementedError, RuntimeError) as error:
            raise InputError(f"the model selects elements by their data ({str(error).splitlines()[0][:80]})") from None
        return recorder.note("index", (sliced, indices), {}, out)
    if sliced is x:
        return recorder.note("alias", (x,), {}, x.view(x.shape))
    return sliced


def _sliced(recorder: Recorder, x: torch.Tensor, index: Any) -> tuple[torch.Tensor, list[Any]]:
    """The views of ``x`` that an index makes, noted, and the tensors by which it then looks elements up."""
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
            start, stop, step = (None if n is None else int(n) for n in (part.start, part.stop, part.step))
            first, last, _ = slice(start, stop, step).indices(x.shape[dim])
            if (first, step or 1) != (0, 1) or last < x.shape[dim]:
                out = torch.ops.aten.slice.Tensor(x, dim, first, last, step or 1)
                x = recorder.note("slice", (x, dim, out.shape[dim], step or 1), {}, out)
            dim += 1
        elif isinstance(part, (list, range)):
            gathered[dim] = recorder.note(
                "tensor", (tuple(part),), {}, torch.empty((len(part),), dtype=torch.int64, device="meta")
            )
            dim += 1
        elif isinstance(part, torch.Tensor) and (part.dim() or part.dtype == torch.bool):
            gathered[dim] = part
            dim += part.dim() if part.dtype in (torch.bool, torch.uint8) else 1
        elif isinstance(part, torch.Tensor) or (isinstance(part, int) and not isinstance(part, bool)):
            out = x.select(dim, 0)
            x = recorder.note("select", (x, dim), {}, out)
        else:
            raise InputError(f"a forward pass that indexes a tensor by {type(part).__name__} cannot be recorded")
    return x, [gathered.get(i) for i in range(max(gathered, default=-1) + 1)]


def _iter(recorder: Recorder, function: Any, x: torch.Tensor) -> Any:
    return iter(recorder.note("unbind", (x, 0), {}, x.unbind(0)))


def _detach(recorder: Recorder, function: Any, x: torch.Tensor) -> Any:
    return recorder.note("detach", (x,), {}, x.view(x.shape))


def _set_grad_enabled(recorder: Recorder, _: Any, enabled: bool) -> None:
    recorder.grad_mode(enabled)


def _require_grad(recorder: Recorder, _: Any, x: Any, value: bool = True) -> Any:
    return recorder._set_requires_grad(x, value)


def _sdpa(recorder: Recorder, function: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
    """Attention. Its result on the meta device gets the layout that the kernel of a CPU gives it."""
    out = torch.empty_like(
        query[..., :1].expand(*query.shape[:-1], value.shape[-1]) if query.shape[-1] != value.shape[-1] else query
    )
    if recorder.autocasts:
        out = out.to(torch.get_autocast_dtype(recorder._device.type))
    return recorder.note("scaled_dot_product_attention", (query, key, value, *args), kwargs, out)


def _setitem(recorder: Recorder, function: Any, x: torch.Tensor, index: Any, value: Any) -> None:
    """``x[index] = value``: a write to views of ``x`` (``python_variable_indexing.cpp: THPVariable_setitem``)."""
    whole = x
    x, indices = _sliced(recorder, x, index)
    number = not isinstance(value, torch.Tensor)
    if number and indices:
        value = recorder.note("scalar_tensor", (value,), {}, torch.empty((), dtype=x.dtype, device="meta"))
    if indices:
        masks = any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices)
        if masks and (value.dim() or len(indices) > 1):
            raise InputError("the model writes several elements by a mask, of which a recording has no data")
        recorder.note("index_put_", (x, indices, value), {}, x)
    elif number or (value.dim() == 0 and x.dim()):
        recorder.note("fill_", (x, value), {}, x)
    else:
        shape = tuple(value.shape)
        while len(shape) > x.dim() and shape[0] == 1:
            shape = shape[1:]
        if shape != tuple(value.shape):
            value = recorder.note("view", (value, shape), {}, value.view(shape))
        if shape != tuple(x.shape):
            value = recorder.note("expand", (value, tuple(x.shape)), {}, value.expand(x.shape))
        recorder.note("copy_", (x, value), {}, x)
    trains = recorder._grad_enabled and any(recorder.requires_grad(t) for t in _tensors((x, value)))
    mark = getattr(whole, _MARK, None)
    if mark is not None and trains:
        mark.requires_grad = True


_SPECIAL: dict[str, Callable[..., Any]] = {
    "__bool__": _truth,
    "item": _no_values,
    "tolist": _no_values,
    "__int__": _no_values,
    "__float__": _no_values,
    "__index__": _no_values,
    "__contains__": _no_values,
    "numpy": _no_values,
    "to": _to,
    "float": _as_dtype(torch.float32),
    "half": _as_dtype(torch.float16),
    "bfloat16": _as_dtype(torch.bfloat16),
    "double": _as_dtype(torch.float64),
    "long": _as_dtype(torch.int64),
    "int": _as_dtype(torch.int32),
    "bool": _as_dtype(torch.bool),
    "type": _type,
    "type_as": _type_as,
    "cpu": _same,
    "cuda": _same,
    "register_hook": _same,
    "retain_grad": _same,
    "__getitem__": _getitem,
    "__setitem__": _setitem,
    "__iter__": _iter,
    "detach": _detach,
    "requires_grad_": _require_grad,
    "_set_grad_enabled": _set_grad_enabled,
    "set_grad_enabled": _set_grad_enabled,
    "scaled_dot_product_attention": _sdpa,
}


class _Context:
    """The ``ctx`` of a custom ``torch.autograd.Function``."""

    def __init__(self, needs_input_grad: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs_input_grad
        self.to_save: tuple[Any, ...] = ()
        self.saved_tensors: tuple[Any, ...] = ()
        self.materialize_grads = True

    def save_for_backward(self, *tensors: Any) -> None:
        self.to_save = tensors

    def mark_non_differentiable(self, *_: Any) -> None:
        pass

    def mark_dirty(self, *_: Any) -> None:
        pass

    def set_materialize_grads(self, value: bool) -> None:
        self.materialize_grads = value


def _apply(recorder: Recorder, function: Any, args: tuple[Any, ...]) -> Any:
    """Note a custom function: its forward, and its backward for a gradient of the shape of its result."""
    needs = tuple(isinstance(x, torch.Tensor) and recorder.requires_grad(x) for x in args)
    trains = recorder._grad_enabled and any(needs)
    context = _Context(needs)
    outer, enabled = recorder.events, recorder._grad_enabled
    recorder.events, recorder._grad_enabled = [], False
    with recorder:
        if function.setup_context is torch.autograd.function._SingleLevelFunction.setup_context:
            out = function.forward(context, *args)
        else:
            out = function.forward(*args)
            function.setup_context(context, args, out)
    forward = recorder.events
    if not isinstance(out, torch.Tensor):
        raise InputError(f"the custom function {function.__name__} has several results, for which there is no rule")
    mark = getattr(out, _MARK, None)
    if mark is None or out in args:
        out = out.view(out.shape)
        recorder.mark(out)
    getattr(out, _MARK).requires_grad = trains
    inputs = tuple(recorder.encode(x) if isinstance(x, torch.Tensor) else None for x in args)
    saved = tuple(recorder.operand(x) if isinstance(x, torch.Tensor) else None for x in context.to_save)
    attached = tuple(recorder.operand(x) for x in vars(context).values() if isinstance(x, torch.Tensor))
    backward: list[Event] = []
    results: tuple[Any, ...] = ()
    unpacked: tuple[int, ...] = ()
    incoming = -1
    if trains:
        recorder.events = backward
        context.saved_tensors = tuple(x if x is None else x.view(x.shape) for x in context.to_save)
        unpacked = tuple(-1 if x is None else recorder.mark(x) for x in context.saved_tensors)
        grad = torch.empty_like(out)
        incoming = recorder.mark(grad)
        with recorder:
            grads = function.backward(context, grad)
        del grad
        grads = grads if isinstance(grads, tuple) else (grads,)
        results = tuple(recorder.operand(x) if isinstance(x, torch.Tensor) else None for x in grads)
        recorder.events = []  # what dies from here on, the backward's frame has held
        del grads
    del context
    recorder.events, recorder._grad_enabled = outer, enabled
    recorder.events.append(
        Function(
            function.__name__, inputs, tuple(forward), Ref(getattr(out, _MARK).slot), saved, attached, unpacked,
            incoming, tuple(backward), results,
        )
    )  # fmt: skip
    return out


@contextmanager
def _recording(recorder: Recorder) -> Iterator[None]:
    """Within it, everything that PyTorch runs goes through the recorder."""
    call_module = torch.nn.Module.__call__
    paths = recorder.paths

    def call(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        path = paths.get(id(module))
        if path is None:
            return call_module(module, *args, **kwargs)
        given = (tuple(recorder.operand(x) for x in _tensors(tree)) for tree in (args, kwargs))
        recorder.events.append(Enter(path, *given))
        out = call_module(module, *args, **kwargs)
        recorder.events.append(Exit(path, tuple(recorder.operand(x) for x in _tensors(out))))
        return out

    def apply(function: Any, *args: Any, **kwargs: Any) -> Any:
        return _apply(recorder, function, args)

    with ExitStack() as stack:
        for module in (torch.functional, torch.nn.functional, torch._tensor):
            for name in ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"):
                if hasattr(module, name):
                    stack.enter_context(mock.patch.object(module, name, lambda *_: False))
        stack.enter_context(mock.patch.object(torch.nn.Module, "__call__", call))
        stack.enter_context(mock.patch.object(torch.autograd.Function, "apply", classmethod(apply)))
        stack.enter_context(torch.inference_mode())  # views do not refer to their bases
        stack.enter_context(mock.patch.object(torch, "is_grad_enabled", lambda: recorder._grad_enabled))
        stack.enter_context(recorder)
        yield


LOSS = "loss"
"""The path of the loss function, which is no module, among the modules that are called."""


def record(
    model: torch.nn.Module,
    inputs: Mapping[str, torch.Tensor],
    call: Callable[[], Any],
    device: str = "cpu",
    autocast: torch.dtype | None = None,
) -> Program:
    """Record ``call()``, which runs ``model`` with ``inputs``, all on the meta device. Its tensors are the outputs.

    ``call`` returns a mapping of names to tensors. Raises ``InputError`` where the model reads data.
    """
    recorder = Recorder(model, device, autocast)
    if callable(loss := getattr(model, "loss_function", None)):
        model.loss_function = recorder.region(LOSS, loss)
    slots = {name: recorder.mark(x) for name, x in inputs.items()}
    with _recording(recorder):
        out = call()
    outputs = {name: recorder.operand(x) for name, x in out.items() if isinstance(x, torch.Tensor)}
    events, recorder.events = tuple(recorder.events), []
    return Program(
        modules=tuple(_modules(model)),
        parameters=tuple(_stored(model.named_parameters())),
        buffers=tuple(_stored(model.named_buffers())),
        attributes=tuple(recorder.attributes),
        inputs=slots,
        outputs=outputs,
        events=events,
        layers=tuple(_layers(model, events)),
        dtype=_dtype(model),
        plain=frozenset(
            path
            for path, module in model.named_modules()
            if type(module).forward in (torch.nn.Linear.forward, torch.nn.Embedding.forward)
        ),
        tied=_tied(model),
    )


def _dtype(model: torch.nn.Module) -> str:
    """The dtype that most of the model's elements have."""
    counts: dict[str, int] = {}
    for p in model.parameters():
        counts[dtype_name(p.dtype)] = counts.get(dtype_name(p.dtype), 0) + p.numel()
    return max(counts, key=lambda dtype: counts[dtype], default="float32")


def _stored(named: Any) -> Iterator[Stored]:
    for name, x in named:
        yield Stored(name, tuple(x.shape), dtype_name(x.dtype), x.requires_grad)


def _tied(model: torch.nn.Module) -> dict[str, str]:
    first: dict[int, str] = {}
    tied = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        if first.setdefault(id(p), name) != name:
            tied[name] = first[id(p)]
    return tied


def _modules(model: torch.nn.Module) -> Iterator[NamedModule[int]]:
    embedding = getattr(model, "get_input_embeddings", lambda: None)()
    head = getattr(model, "get_output_embeddings", lambda: None)()
    for path, module in model.named_modules():
        if path:
            kind = _kind(module)
            role = "input embedding" if module is embedding else "output embedding" if module is head else None
            weight = getattr(module, "weight", None)
            shape: tuple[int, ...] = (
                tuple(weight.shape) if kind in ("linear", "embedding", "norm") and weight is not None else ()
            )
            if kind == "linear" and _is_conv1d(module):
                shape = shape[::-1]
            bias = kind in ("linear", "norm") and getattr(module, "bias", None) is not None
            yield NamedModule(path, kind, shape, bias, role, None)


def _is_conv1d(module: torch.nn.Module) -> bool:
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def _kind(module: torch.nn.Module) -> Kind:
    name = type(module).__name__
    if type(module).forward is torch.nn.Linear.forward or _is_conv1d(module):
        return "linear"
    if isinstance(module, torch.nn.Embedding):
        return "embedding"
    if isinstance(module, torch.nn.LayerNorm) or name.endswith(("RMSNorm", "LayerNorm", "Norm")):
        return "norm"
    if name.endswith("Attention"):
        return "attention"
    return "mlp" if name.endswith("MLP") else "container"


def _layers(model: torch.nn.Module, events: Sequence[Event]) -> list[Layer]:
    """The longest part of the model whose modules are called one after the other: its layers."""
    entered: dict[str, list[int]] = {}
    left: dict[str, int] = {}
    for i, event in enumerate(events):
        if isinstance(event, Enter):
            entered.setdefault(event.path, []).append(i)
        elif isinstance(event, Exit):
            left[event.path] = i
    best: list[Layer] = []
    most = 0
    for path, module in model.named_modules():
        if not isinstance(module, (torch.nn.ModuleList, torch.nn.Sequential)) or len(module) < 2:
            continue
        paths = [f"{path}.{name}" if path else name for name, _ in module.named_children()]
        if any(len(entered.get(p, ())) != 1 for p in paths):
            continue
        starts = [entered[p][0] for p in paths]
        count = sum(p.numel() for p in module.parameters())
        if starts != sorted(starts) or any(left[a] > entered[b][0] for a, b in zip(paths, paths[1:])) or count <= most:
            continue
        end = left[paths[-1]] + 1
        while end < len(events) and isinstance(events[end], Drop):
            end += 1
        stops = [*starts[1:], end]
        best = [Layer(p, start, stop, left[p]) for p, start, stop in zip(paths, starts, stops)]
        most = count
    return best
