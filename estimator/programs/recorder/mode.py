"""Records what a real module's forward pass calls, on the meta device, as a program (``program.py``). Needs PyTorch.

Every function of PyTorch that the module calls goes through a ``TorchFunctionMode``, which notes it with its operands.
A mark on each tensor's Python object notes when the object dies. No autograd runs, since its graph would keep tensors
alive; the interpreter's ledger has a graph of its own. Functions that PyTorch writes in Python (``F.softmax``) are
looked through: what they call is noted.

The meta device has no data. What the module reads is answered as for a batch without padding (``data.py``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch._tensor
import torch.functional

from ... import operators as ops
from ...errors import InputError
from ...ledger import Ledger, Storage, Tensor
from ...operators.layout import normalised
from ..module_table import Kind, NamedModule
from ..program import (
    Autocast,
    Call,
    Drop,
    Enter,
    Event,
    Exit,
    Function,
    GradMode,
    Made,
    Program,
    Ref,
    Stored,
    Weight,
    fold,
    renamed,
)
from .data import Data, Known, Routing, data_of_input, tensors_in, writes

_MARK = "_estimator_mark"


class _Memory:
    """What views of one tensor share. When one is written in place, the others are part of the graph as well."""

    __slots__ = ("trains",)

    def __init__(self) -> None:
        self.trains = False


class _Mark:
    """On a tensor's Python object: its slot. When the object dies, so does the mark, which notes that."""

    __slots__ = ("answer", "known", "memory", "own", "recorder", "slot")

    def __init__(self, slot: int, recorder: Recorder, requires_grad: bool, memory: _Memory) -> None:
        self.slot, self.recorder, self.own, self.memory = slot, recorder, requires_grad, memory
        self.known: Known | None = None
        """What is known of its data."""
        self.answer: bool | None = None
        """What it says of numbers that are not known, if it asks whether they are finite or valid: they are."""

    @property
    def requires_grad(self) -> bool:
        """What ``tensor.requires_grad`` would be if autograd ran."""
        return self.own or self.memory.trains

    def __del__(self) -> None:
        self.recorder.events.append(Drop(self.slot))


def dtype_name(dtype: torch.dtype) -> str:
    """PyTorch's name of a dtype: ``bfloat16``."""
    return str(dtype).removeprefix("torch.")


class Recorder(torch.overrides.TorchFunctionMode):  # type: ignore[misc]
    """Notes the calls of one forward pass in ``events``.

    ``device`` is the type of the device that the module is told it runs on: ``cpu`` or ``cuda``. ``routing`` says how
    tokens choose experts where the program depends on it.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        device: str = "cpu",
        autocast: torch.dtype | None = None,
        plain: Callable[[str], str] = str,
        routing: Routing = "balanced",
    ) -> None:
        super().__init__()
        self.data = Data(routing, _known, _set_known)
        self.events: list[Event] = []
        self.attributes: list[Stored] = []
        self._device, self._autocast = torch.device(device), autocast
        self._slots = 0
        self._grad_enabled = self._autocast_on = True
        self._edges: dict[int, list[Ref | Weight]] = {}
        """For each slot, the operands that its gradient goes to."""
        self._bases: dict[int, int] = {}
        """For each slot of a view, that of what it is a view of."""
        self._names: dict[int, str] = {}
        """Names of parameters and buffers by the ``id`` of their objects."""
        self.paths = {id(module): plain(path) for path, module in model.named_modules() if path}
        self._held: list[Any] = []
        """Objects that must keep their ``id`` while the recorder runs."""
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            self._names.setdefault(id(tensor), plain(name))

    # -- slots ---------------------------------------------------------------------------------------------------

    def mark(self, tensor: torch.Tensor, requires_grad: bool = False, memory: _Memory | None = None) -> int:
        """Give a tensor a slot."""
        slot = self._slots
        self._slots += 1
        setattr(tensor, _MARK, _Mark(slot, self, requires_grad, memory or _Memory()))
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
        if isinstance(value, (tuple, list, range)):
            return tuple(self.encode(x) for x in value)
        if isinstance(value, type) and value in _PYTHON_DTYPES:
            return _PYTHON_DTYPES[value]
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
        operands = list(tensors_in((args, keywords)))
        trains = self._grad_enabled and any(self.requires_grad(x) for x in operands)
        made: list[Made] = []
        viewed = {_storage(x): x for x in reversed(operands) if not x.is_sparse}
        memories = {} if op in ("detach", "data") else {key: _memory(x) for key, x in viewed.items() if _memory(x)}
        out = self._give_slots(out, writes(op), trains, made, memories)
        if isinstance(out, torch.Tensor) and not out.is_sparse and not writes(op):
            base = self.operand(viewed[_storage(out)]) if _storage(out) in viewed else None
            if isinstance(base, Ref):
                self._bases[made[0].slot] = base.slot
        if trains:
            self.lead(made, [self.operand(x) for x in operands if self.requires_grad(x)])
        if isinstance(out, torch.Tensor):
            answers = [_ANSWERS.get(op), *(mark.answer for x in operands if (mark := getattr(x, _MARK, None)))]
            getattr(out, _MARK).answer = next((x for x in answers if x is not None), None)
        self.events.append(Call(op, encoded, tuple(named.items()), tuple(made)))
        return out

    def lead(self, made: Sequence[Made], operands: Sequence[Ref | Weight]) -> None:
        """Note where the gradients of results go. What is written to a view, its base has too."""
        for one in made:
            slot: int | None = one.slot
            while slot is not None:
                self._edges.setdefault(slot, []).extend(operands)
                slot = self._bases.get(slot)

    def reached(self, loss: Ref | Weight | None) -> set[str]:
        """The names of the weights that a loss depends on."""
        names: set[str] = set()
        seen: set[Ref | Weight] = set()
        stack = [] if loss is None else [loss]
        while stack:
            one = stack.pop()
            if one in seen:
                continue
            seen.add(one)
            if isinstance(one, Weight):
                names.add(one.name)
            else:
                stack.extend(self._edges.get(one.slot, ()))
        return names

    def _give_slots(
        self, out: Any, in_place: bool, trains: bool, made: list[Made], memories: Mapping[int, _Memory]
    ) -> Any:
        """Give the tensors of a result slots, and list them in ``made``."""
        if isinstance(out, torch.Tensor):
            mark = getattr(out, _MARK, None)
            if in_place and mark is not None:
                mark.memory.trains = mark.memory.trains or trains
                made.append(Made(mark.slot, tuple(out.shape), dtype_name(out.dtype)))
                return out
            if mark is not None or id(out) in self._names:
                out = out.view(out.shape)  # an operand is given back: a second name, which dies by itself
            floating = out.dtype.is_floating_point or out.dtype.is_complex
            slot = self.mark(out, trains and floating, memories.get(_storage(out)))
            made.append(Made(slot, tuple(out.shape), dtype_name(out.dtype)))
            return out
        if isinstance(out, (tuple, list)):
            items = [self._give_slots(x, in_place, trains, made, memories) for x in out]
            return items if type(out) is list else tuple(items) if type(out) is tuple else type(out)(items)
        return out

    # -- the mode ------------------------------------------------------------------------------------------------

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", str(function))
        if name in ("__get__", "__set__"):
            return self._attribute(function, name, args)
        if name in _READS:
            return self._read(name, function, args, kwargs)
        if name in _QUESTIONS:
            return function(*args, **kwargs)
        if name in _SPECIAL:
            out = _SPECIAL[name](self, function, *args, **kwargs)
            if name == "__setitem__":
                self.data.follow("setitem_", function, args, kwargs, args[0])
            elif isinstance(out, (torch.Tensor, tuple, list)):
                self.data.follow(name, function, args, kwargs, out)
            return out
        out = self._plain_call(function, _SAME.get(name, name), args, kwargs)
        self.data.follow(_SAME.get(name, name), function, args, kwargs, out)
        return out

    def _read(self, name: str, function: Any, args: Any, kwargs: Any) -> Any:
        """The answer of a function that reads data."""
        try:
            return self.data.read(function, args)
        except LookupError:
            mark = getattr(args[0], _MARK, None)
            if name in ("__bool__", "item") and mark is not None and mark.answer is not None:
                return mark.answer
            raise InputError(
                f"the model's forward pass reads numbers that it has computed ({name}), of which a recording has none"
            ) from None

    def _plain_call(self, function: Any, name: str, args: Any, kwargs: Any) -> Any:
        if "input" in kwargs:
            args, kwargs = (kwargs["input"], *args), {k: v for k, v in kwargs.items() if k != "input"}
        if isinstance(kwargs.get("out"), torch.Tensor):
            raise InputError(
                f"the model lets {name} write into a tensor that it gives (out=), for which there is no rule"
            )
        if "device" in kwargs or name in _FACTORIES:
            kwargs = {**kwargs, "device": "meta"}
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
        if not any(True for _ in tensors_in(out)):
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
            given = (tuple(self.operand(x) for x in tensors_in(tree)) for tree in (args, kwargs))
            self.events.append(Enter(path, *given))
            out = function(*args, **kwargs)
            self.events.append(Exit(path, tuple(self.operand(x) for x in tensors_in(out))))
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
        if not isinstance(out, torch.Tensor):
            return out
        out = self.note(name, args, {}, out)
        self.data.follow(name, function, args, {}, out)
        return out

    def _set_requires_grad(self, x: Any, value: bool = True) -> Any:
        mark = getattr(x, _MARK, None)
        if mark is not None:
            mark.own = value
            self.events.append(Call("requires_grad_", (Ref(mark.slot), value), (), ()))
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
            widest = max((x.dtype for x in tensors_in(args)), key=lambda d: d.itemsize)
            args, kwargs = _cast((args, kwargs), widest)
        return function(*args, **kwargs)


def _cast(tree: Any, dtype: torch.dtype) -> Any:
    def cast(x: Any) -> Any:
        return (
            x.to(dtype) if isinstance(x, torch.Tensor) and x.dtype.is_floating_point and x.dtype != torch.float64 else x
        )

    return torch.utils._pytree.tree_map(cast, tree)


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
    "__floordiv__": "floor_divide", "__mod__": "remainder", "__imod__": "remainder_", "__ifloordiv__": "floor_divide_",
    "__ipow__": "pow_", "__rxor__": "bitwise_xor", "__ixor__": "bitwise_xor_",
    "__lshift__": "bitwise_left_shift", "__rshift__": "bitwise_right_shift",
}  # fmt: skip
"""Names of one and the same operator."""
_PYTHON_DTYPES = {bool: "bool", int: "int64", float: "float64", complex: "complex128"}
"""What Python's types mean where a dtype is expected (``python_arg_parser.h: PythonArgs::scalartype``)."""
_READS = {
    "__bool__", "item", "tolist", "__int__", "__float__", "__index__", "__complex__", "__contains__", "numpy", "equal",
    "allclose", "is_nonzero", "__array__",
}  # fmt: skip
"""Functions whose answer is made of a tensor's data."""
_ANSWERS = {"isinf": False, "isnan": False, "isfinite": True, "_is_all_true": True}
"""What functions say of any numbers: they are finite, and within the bounds that a distribution checks."""
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
    "scaled_dot_product_attention", "chain_matmul", "mv", "addmv", "prelu",
}  # fmt: skip
_AUTOCAST_FLOAT32 = {
    "acos", "asin", "cosh", "erfinv", "exp", "expm1", "log", "log10", "log2", "log1p", "reciprocal", "rsqrt", "sinh",
    "tan", "pow", "softplus", "layer_norm", "group_norm", "norm", "nuclear_norm", "linalg_vector_norm", "cosine_similarity",
    "poisson_nll_loss", "cosine_embedding_loss", "nll_loss_nd", "nll_loss", "cross_entropy_loss", "hinge_embedding_loss",
    "kl_div", "l1_loss", "smooth_l1_loss", "mse_loss", "margin_ranking_loss", "binary_cross_entropy_with_logits", "dist",
    "pdist", "cdist", "renorm", "logsumexp", "softmax", "log_softmax", "prod", "sum", "cumprod", "cumsum", "rms_norm",
}  # fmt: skip


def _known(x: torch.Tensor) -> Known | None:
    mark = getattr(x, _MARK, None)
    return None if mark is None else mark.known


def _set_known(x: torch.Tensor, known: Known) -> None:
    mark = getattr(x, _MARK, None)
    if mark is not None:
        mark.known = known


def _memory(x: torch.Tensor) -> _Memory | None:
    mark = getattr(x, _MARK, None)
    return None if mark is None else mark.memory


def _storage(x: torch.Tensor) -> int:
    """What is one and the same for views of one tensor. Zero for a sparse one, which has no storage."""
    return 0 if x.is_sparse else int(x.untyped_storage()._cdata)


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
            start, stop, step = (None if n is None else int(n) for n in (part.start, part.stop, part.step))
            first, last, _ = slice(start, stop, step).indices(x.shape[dim])
            if (first, step or 1) != (0, 1) or last < x.shape[dim]:
                out = torch.ops.aten.slice.Tensor(x, dim, first, last, step or 1)
                x = recorder.note("slice", (x, dim, out.shape[dim], step or 1), {}, out)
            dim += 1
        elif isinstance(part, (list, range)):
            made = torch.empty((len(part),), dtype=torch.int64, device="meta")
            gathered[dim] = recorder.note("tensor", (tuple(part),), {}, made)
            recorder.data.set(made, torch.tensor(list(part), device="cpu"))
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


def _by_data(recorder: Recorder, function: Any, *args: Any, **kwargs: Any) -> Any:
    """A function whose result's shape depends on its operands' data."""
    name = function.__name__
    if name == "where" and len(args) + len(kwargs) > 1:
        return recorder._plain_call(function, name, args, kwargs)
    try:
        data = recorder.data.read(lambda *given: function(*given, **kwargs), args)
    except LookupError:
        raise InputError(f"the model asks {name} of numbers that it has computed; a recording has none") from None
    with torch._C.DisableTorchFunction():
        out = torch.utils._pytree.tree_map(
            lambda x: torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta"), data
        )
    return recorder.note(name, args, kwargs, out)


def _masked_select(recorder: Recorder, function: Any, x: torch.Tensor, mask: torch.Tensor) -> Any:
    shape = torch.broadcast_shapes(x.shape, mask.shape)
    (out,) = [torch.ops.aten.index.Tensor(x.expand(shape), _counted(recorder, [mask.expand(shape)]))]
    return recorder.note("masked_select", (x, mask), {}, out)


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


def _grouped_mm(recorder: Recorder, function: Any, a: Any, b: Any, *, offs: Any = None, **kwargs: Any) -> Any:
    """The product of each group of rows with its own matrix (``GroupedMMUtils.h: create_grouped_gemm_output_tensor``).

    The meta device knows it for bfloat16 alone.
    """
    if a.dim() != 2 or b.dim() != 3:
        raise InputError("a grouped product other than of rows with experts' matrices has no rule")
    return recorder.note("_grouped_mm", (a, b), {"offs": offs}, a.new_empty((a.shape[0], b.shape[-1]), device="meta"))


def _iter(recorder: Recorder, function: Any, x: torch.Tensor) -> Any:
    return iter(recorder.note("unbind", (x, 0), {}, x.unbind(0)))


def _detach(recorder: Recorder, function: Any, x: torch.Tensor) -> Any:
    return recorder.note("detach", (x,), {}, x.view(x.shape))


def _set_grad_enabled(recorder: Recorder, _: Any, enabled: bool) -> None:
    recorder.grad_mode(enabled)


def _require_grad(recorder: Recorder, _: Any, x: Any, value: bool = True) -> Any:
    return recorder._set_requires_grad(x, value)


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
        ledger.autocast = dtype_name(torch.get_autocast_dtype(recorder._device.type))

    def twin(x: torch.Tensor) -> Tensor:
        shape = tuple(x.shape)
        out = Tensor(Storage(ledger, 0, resident=True), shape, dtype_name(x.dtype), normalised(shape, x.stride()))
        out.requires_grad = recorder.requires_grad(x)
        return out

    operands = [None if x is None else twin(x) for x in (query, key, value, attn_mask)]
    result = ops.scaled_dot_product_attention(*operands, dropout_p, is_causal, enable_gqa)  # type: ignore[arg-type]
    dtype = getattr(torch, result.dtype)
    out = torch.empty_strided(result.shape, ops.strides_of(result), dtype=dtype, device="meta")
    named = {"attn_mask": attn_mask, "dropout_p": dropout_p, "is_causal": is_causal, "enable_gqa": enable_gqa}
    return recorder.note("scaled_dot_product_attention", (query, key, value), named, out)


def _scaled_product(recorder: Recorder, function: Any, x: Any, *factors_: Any, **kwargs: Any) -> Any:
    """``addmm`` and ``baddbmm``: of ``beta`` and ``alpha`` it is noted whether they differ from one."""
    a, b = (*factors_, *[kwargs.pop(name) for name in ("mat1", "mat2", "batch1", "batch2") if name in kwargs])
    factors = {name: kwargs.pop(name, 1) for name in ("beta", "alpha")}
    if kwargs:
        raise InputError(f"{function.__name__} with {', '.join(kwargs)} cannot be recorded")
    operands = (x, a, b)
    if recorder.autocasts:
        operands = _cast(operands, torch.get_autocast_dtype(recorder._device.type))
    out = function(*operands)
    return recorder.note(function.__name__, (x, a, b), {name: f != 1 for name, f in factors.items()}, out)


def _setitem(recorder: Recorder, function: Any, x: torch.Tensor, index: Any, value: Any) -> None:
    """``x[index] = value`` as the views that it writes to, and what writes to them."""
    view, indices = _sliced(recorder, x, index)
    if not x.is_meta:
        function(x, index, value)
    if indices:
        recorder.note("index_put_", (view, indices, value), {}, view)
    elif isinstance(value, torch.Tensor) and value.dim():
        recorder.note("copy_", (view, value), {}, view)
    else:
        recorder.note("fill_", (view, value), {}, view)


_SPECIAL: dict[str, Callable[..., Any]] = {
    "nonzero": _by_data,
    "argwhere": _by_data,
    "where": _by_data,
    "bincount": _by_data,
    "_unique2": _by_data,
    "unique_consecutive": _by_data,
    "masked_select": _masked_select,
    "repeat_interleave": _repeat_interleave,
    "_grouped_mm": _grouped_mm,
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
    "addmm": _scaled_product,
    "baddbmm": _scaled_product,
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
    forward: list[Event] = []
    recorder.events, recorder._grad_enabled = forward, False
    if function.setup_context is torch.autograd.function._SingleLevelFunction.setup_context:
        out = function.forward(context, *args)
    else:
        out = function.forward(*args)
        function.setup_context(context, args, out)
    if not isinstance(out, torch.Tensor):
        raise InputError(f"the custom function {function.__name__} has several results, for which there is no rule")
    inner = recorder.operand(out)
    result = out
    if isinstance(inner, Weight) or any(out is x for x in args):
        with torch._C.DisableTorchFunction():
            result = out.view(out.shape)
        recorder.mark(result)
    getattr(result, _MARK).own = trains
    inputs = tuple(recorder.encode(x) if isinstance(x, torch.Tensor) else None for x in args)
    saved = tuple(recorder.operand(x) if isinstance(x, torch.Tensor) else None for x in context.to_save)
    attached = tuple(recorder.operand(x) for x in vars(context).values() if isinstance(x, torch.Tensor))
    backward: list[Event] = []
    results: tuple[Any, ...] = ()
    unpacked: tuple[int, ...] = ()
    incoming = -1
    recorder.events = []  # what dies from here on, the frame of the forward has held
    if trains:
        with torch._C.DisableTorchFunction():
            context.saved_tensors = tuple(x if x is None else x.view(x.shape) for x in context.to_save)
            grad = torch.empty_like(out)
        unpacked = tuple(-1 if x is None else recorder.mark(x) for x in context.saved_tensors)
        incoming = recorder.mark(grad)
        recorder.events = backward
        grads = function.backward(context, grad)
        recorder.events = []
        grads = grads if isinstance(grads, tuple) else (grads,)
        results = tuple(
            recorder.operand(x) if need and x is not None else None for x, need in zip(grads, needs, strict=True)
        )
        del grads, grad
    del context, out
    recorder.events, recorder._grad_enabled = outer, enabled
    if trains:
        gone_to = [x for x, grad in zip(inputs, results, strict=True) if x is not None and grad is not None]
        recorder.lead([Made(getattr(result, _MARK).slot, (), "")], gone_to)
    recorder.events.append(
        Function(
            function.__name__, inputs, tuple(forward), Made(getattr(result, _MARK).slot, tuple(result.shape), dtype_name(result.dtype)), inner, saved, attached, unpacked,
            incoming, tuple(backward), results,
        )
    )  # fmt: skip
    return result


def _refuse_backward(*_: Any, **__: Any) -> None:
    raise InputError("the model runs a backward pass of its own, for which there is no rule")


def _refuse_hooks(*_: Any) -> None:
    raise InputError("the model changes by hooks what is saved for its backward pass, for which there is no rule")


@contextmanager
def _recording(recorder: Recorder) -> Iterator[None]:
    """Within it, everything that PyTorch runs goes through the recorder."""
    call_module = torch.nn.Module.__call__
    paths = recorder.paths

    def call(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        path = paths.get(id(module))
        if path is None:
            return call_module(module, *args, **kwargs)
        given = (tuple(recorder.operand(x) for x in tensors_in(tree)) for tree in (args, kwargs))
        recorder.events.append(Enter(path, *given))
        out = call_module(module, *args, **kwargs)
        recorder.events.append(Exit(path, tuple(recorder.operand(x) for x in tensors_in(out))))
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
        stack.enter_context(mock.patch.object(torch.Tensor, "backward", _refuse_backward))
        stack.enter_context(mock.patch.object(torch.autograd, "grad", _refuse_backward))
        stack.enter_context(mock.patch.object(torch.autograd.graph.saved_tensors_hooks, "__enter__", _refuse_hooks))
        stack.enter_context(torch.inference_mode())  # views do not refer to their bases
        stack.enter_context(mock.patch.object(torch, "is_grad_enabled", lambda: recorder._grad_enabled))
        stack.enter_context(recorder)
        yield


LOSS = "loss"
"""The path of the loss function, which is no module, among the modules that are called."""


class Wrapped(NamedTuple):
    """What a library has wrapped: the model itself, and the parameters that it had before, by their names."""

    base: torch.nn.Module
    parameters: Mapping[str, torch.Tensor]

    def added(self, name: str, parameter: torch.Tensor) -> bool:
        """Whether the library added a parameter. It may have put a new one in the place of an old one."""
        return _WITHIN.sub("", name) not in self.parameters and not any(
            p is parameter for p in self.parameters.values()
        )


_WITHIN = re.compile(r"\.(base_layer|original_module)(?=\.|$)")


def record(
    model: torch.nn.Module,
    inputs: Mapping[str, torch.Tensor],
    call: Callable[[], Any],
    device: str = "cpu",
    autocast: torch.dtype | None = None,
    wrapped: Wrapped | None = None,
    routing: Routing = "balanced",
) -> Program:
    """Record ``call()``, which runs ``model`` with ``inputs``, all on the meta device. Its tensors are the outputs.

    ``call`` returns a mapping of names to tensors. Where a library has wrapped a model, as ``wrapped`` says, paths
    within it are as they were. ``routing`` says how tokens choose experts where the program depends on it. Raises
    ``InputError`` where the model reads numbers that depend on its weights.
    """
    base = model if wrapped is None else wrapped.base
    prefix = next(f"{path}." if path else "" for path, module in model.named_modules() if module is base)

    def plain(path: str) -> str:
        return path.removeprefix(prefix)

    recorder = Recorder(model, device, autocast, plain, routing)
    slots = {name: recorder.mark(x) for name, x in inputs.items()}
    for name, x in inputs.items():
        if (data := data_of_input(name, x, getattr(model, "config", None))) is not None:
            recorder.data.set(x, data)
    loss = getattr(base, "loss_function", None)
    with _recording(recorder), ExitStack() as stack:
        if callable(loss):
            base.loss_function = recorder.region(LOSS, loss)
            stack.callback(setattr, base, "loss_function", loss)
        out = call()
    outputs = {name: recorder.operand(x) for name, x in out.items() if isinstance(x, torch.Tensor)}
    events, recorder.events = tuple(recorder.events), []
    reached = recorder.reached(outputs.get("loss"))
    parameters = tuple(
        Stored(
            plain(name),
            tuple(p.shape),
            dtype_name(p.dtype),
            p.requires_grad,
            wrapped is not None and wrapped.added(plain(name), p),
            "loss" in outputs and plain(name) not in reached,
        )
        for name, p in model.named_parameters()
    )
    layers = _layers(model, events, plain)
    parts, renumbered = fold(events, layers)
    return Program(
        modules=tuple(modules_of(model, base, plain)),
        parameters=parameters,
        buffers=tuple(Stored(plain(name), tuple(x.shape), dtype_name(x.dtype)) for name, x in model.named_buffers()),
        attributes=tuple(recorder.attributes),
        inputs={name: renumbered(slot) for name, slot in slots.items()},
        outputs={name: renamed(ref, renumbered, str) for name, ref in outputs.items()},
        **parts,
        path=f"{layers[0].rpartition('.')[0]}.{{}}".removeprefix(".") if layers else "",
        dtype=_dtype(parameters),
        plain=frozenset(
            plain(path)
            for path, module in model.named_modules()
            if type(module).forward in (torch.nn.Linear.forward, torch.nn.Embedding.forward)
        ),
        tied=_tied(model, plain),
    )


def _dtype(parameters: Sequence[Stored]) -> str:
    """The dtype that most of the model's elements have."""
    counts: dict[str, int] = {}
    for p in parameters:
        if not p.added:
            counts[p.dtype] = counts.get(p.dtype, 0) + math.prod(p.shape)
    return max(counts, key=lambda dtype: counts[dtype], default="float32")


def _tied(model: torch.nn.Module, plain: Callable[[str], str]) -> dict[str, str]:
    first: dict[int, str] = {}
    tied = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        if first.setdefault(id(p), name) != name:
            tied[plain(name)] = plain(first[id(p)])
    return tied


def modules_of(
    model: torch.nn.Module, base: torch.nn.Module | None = None, plain: Callable[[str], str] = str
) -> Iterator[NamedModule[int]]:
    """The rows of the table of a model's modules. ``base`` is the model that a library has wrapped."""
    base = base or model
    embeddings = _wrapped_in(getattr(base, "get_input_embeddings", lambda: None)())
    heads = _wrapped_in(getattr(base, "get_output_embeddings", lambda: None)())
    for path, module in model.named_modules():
        if path:
            kind = _kind(module)
            role = (
                "input embedding"
                if any(module is x for x in embeddings)
                else "output embedding"
                if any(module is x for x in heads)
                else None
            )
            weight = getattr(module, "weight", None)
            shape: tuple[int, ...] = (
                tuple(weight.shape) if kind in ("linear", "embedding", "norm") and weight is not None else ()
            )
            if kind == "linear" and _is_conv1d(module):
                shape = shape[::-1]
            bias = kind in ("linear", "norm") and getattr(module, "bias", None) is not None
            yield NamedModule(plain(path), kind, shape, bias, role, None)


def _wrapped_in(module: Any) -> list[Any]:
    """A module, and what a library has wrapped in it."""
    found = []
    while module is not None:
        found.append(module)
        module = getattr(module, "base_layer", getattr(module, "original_module", None))
    return found


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


def _layers(model: torch.nn.Module, events: Sequence[Event], plain: Callable[[str], str]) -> list[str]:
    """The paths of the layers: the largest part of the model whose modules are called one after the other."""
    entered: dict[str, list[int]] = {}
    left: dict[str, int] = {}
    for i, event in enumerate(events):
        if isinstance(event, Enter):
            entered.setdefault(event.path, []).append(i)
        elif isinstance(event, Exit):
            left[event.path] = i
    best: list[str] = []
    most = 0
    for path, module in model.named_modules():
        if not isinstance(module, (torch.nn.ModuleList, torch.nn.Sequential)) or len(module) < 2:
            continue
        paths = [plain(f"{path}.{name}" if path else name) for name, _ in module.named_children()]
        if any(len(entered.get(p, ())) != 1 for p in paths):
            continue
        starts = [entered[p][0] for p in paths]
        count = sum(p.numel() for p in module.parameters())
        if starts != sorted(starts) or any(left[a] > entered[b][0] for a, b in zip(paths, paths[1:])) or count <= most:
            continue
        best = paths
        most = count
    return best
