"""Records what a real module's forward pass calls, on the meta device, as a program (``program.py``). Needs PyTorch.

Every function of PyTorch that the module calls goes through a ``TorchFunctionMode``, which notes it with its operands.
A mark on each tensor's Python object notes when the object dies. No autograd runs, since its graph would keep tensors
alive; the ledger that runs the program has a graph of its own. Functions that PyTorch writes in Python (``F.softmax``)
are looked through: what they call is noted.

The meta device has no data. What the module reads is answered as for a batch without padding (``data.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ...errors import InputError
from ...operators import DEVICES
from ...operators.factories import FACTORIES
from ...operators.table import SAME
from ...programs.program import (
    CACHED,
    Autocast,
    Call,
    Drop,
    DtypeOf,
    Enter,
    Event,
    Exit,
    GradMode,
    Made,
    Ref,
    Stored,
    Weight,
)
from .data import Data, Routing, tensors_in, writes
from .marks import MARK, Mark, Memory, dtype_name, elements_held, known_of, memory_of, set_known, storage_of
from .names import (
    ANSWERS,
    AUTOCAST_FLOAT32,
    AUTOCAST_LOSSES,
    AUTOCAST_LOWER,
    PYTHON_DTYPES,
    QUESTIONS,
    READS,
    SPECIAL,
    cast_all,
)
from .results import Results

torch.empty(1, device="meta").sin()  # a process's first such call leaves its operands in a cycle of references


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
        self.data = Data(routing, known_of, set_known)
        self._results = Results()
        self.events: list[Event] = []
        self.attributes: list[Stored] = []
        self.device, self._autocast = torch.device(device), autocast
        self._slots = 0
        self.grad_enabled = self._autocast_on = True
        self._edges: dict[int, list[Ref | Weight]] = {}
        """For each slot, the operands that its gradient goes to."""
        self._bases: dict[int, int] = {}
        """For each slot of a view, that of what it is a view of."""
        self._names: dict[int, str] = {}
        """Names of parameters and buffers by the ``id`` of their objects."""
        self.paths = {id(module): plain(path) for path, module in model.named_modules() if path}
        self.sources: list[tuple[torch.dtype, int]] | None = None
        """The dtypes of tensors that the module has asked for, and their slots. ``None``: they are not noted."""
        self._held: list[Any] = []
        """Objects that must keep their ``id`` while the recorder runs."""
        self._cached: dict[int, list[tuple[int, Call]]] = {}
        """For each slot of a cache's tensor that nothing has used yet: the calls that take its layer's."""
        self._beside: dict[int, Call] = {}
        """For each slot of a cache's single number, the call that takes the last array of its layer."""
        self._left: set[int] = set()
        """The slots of tensors that were made before the recording, and are none of the cache's."""
        self.functions: dict[str, Callable[[Any, tuple[Any, ...]], Any]] = {}
        """What notes a custom autograd function that has a rule of its own, by the function's name."""
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            self._names.setdefault(id(tensor), plain(name))

    # -- slots ---------------------------------------------------------------------------------------------------

    def mark(self, tensor: torch.Tensor, requires_grad: bool = False, memory: Memory | None = None) -> int:
        """Give a tensor a slot."""
        slot = self._slots
        self._slots += 1
        setattr(tensor, MARK, Mark(slot, self, requires_grad, memory or Memory()))
        return slot

    def died(self, slot: int) -> None:
        """Note that a tensor's object has died."""
        self._take(slot)
        self.events.append(Drop(slot))

    def start_with(self, filled: Callable[[], Iterable[Sequence[torch.Tensor]]]) -> None:
        """Fill a cache, and forget what that called. The first use of a tensor of the cache's layers takes it.

        All tensors of a layer are taken at once, but for single numbers, which layers may look up in each other. What
        else is left, the model's modules hold.
        """
        first, layers = self._slots, filled()
        found = {one.name for one in self.attributes}
        self._names = {key: name for key, name in self._names.items() if name not in found}
        self.events, self.attributes = [], []
        self._left = {*range(first, self._slots)}
        for tensors in layers:
            tensors = [x for x in tensors if x.numel()]
            calls = [self._cached_call(x) for x in tensors]
            arrays = [call for x, call in zip(tensors, calls, strict=True) if x.dim()]
            self._left -= {slot for slot, _ in calls}
            for x, call in zip(tensors, calls, strict=True):
                self._cached[call[0]] = arrays if x.dim() else [call]
                if arrays and not x.dim():
                    self._beside[call[0]] = arrays[-1][1]

    def _cached_call(self, x: torch.Tensor) -> tuple[int, Call]:
        """A tensor's slot, and the call that takes it."""
        mark = getattr(x, MARK, None)
        slot = self.mark(x) if mark is None else int(mark.slot)
        made = Made(slot, tuple(x.shape), dtype_name(x.dtype))
        return slot, Call(CACHED, (elements_held(x), tuple(x.stride())), (), (made,))

    def _take(self, slot: int) -> None:
        for other, call in self._cached.get(slot, ()):
            if self._cached.pop(other, None) is not None:
                self.events.append(call)

    def take_unused(self) -> None:
        """Take the cache's tensors that nothing used: single numbers where the rest of their layer was taken."""
        for slot in sorted(self._cached, key=self._beside.__contains__):
            if slot in self._beside:
                ((_, call),) = self._cached.pop(slot)
                self.events.insert(self.events.index(self._beside[slot]) + 1, call)
            else:
                self._take(slot)

    def operand(self, tensor: torch.Tensor) -> Ref | Weight:
        """What stands for a tensor in a call. One that was made before the recording is an attribute of a module."""
        mark = getattr(tensor, MARK, None)
        if mark is not None and mark.recorder is self and mark.slot not in self._left:
            self._take(mark.slot)
            return Ref(mark.slot)
        if id(tensor) not in self._names:
            self._names[id(tensor)] = self.found(tensor)
            self._held.append(tensor)
        return Weight(self._names[id(tensor)])

    def found(self, tensor: torch.Tensor) -> str:
        """Note a tensor that was made before the recording and that nothing registered. Returns its name."""
        name = f"attribute {len(self.attributes)}"
        self.attributes.append(Stored(name, tuple(tensor.shape), dtype_name(tensor.dtype)))
        return name

    def requires_grad(self, tensor: torch.Tensor) -> bool:
        """What ``tensor.requires_grad`` would be if autograd ran."""
        mark = getattr(tensor, MARK, None)
        return bool(torch._C.TensorBase.requires_grad.__get__(tensor)) if mark is None else bool(mark.requires_grad)

    def encode(self, value: Any) -> Any:
        """An argument as a program writes it."""
        if isinstance(value, torch.Tensor):
            return self.operand(value)
        if isinstance(value, torch.dtype):
            return self._dtype(value)
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
        if isinstance(value, type) and value in PYTHON_DTYPES:
            return PYTHON_DTYPES[value]
        if isinstance(value, slice):
            return ("slice", self.encode(value.start), self.encode(value.stop), self.encode(value.step))
        raise InputError(f"a forward pass with an argument of type {type(value).__name__} cannot be recorded")

    def _dtype(self, dtype: torch.dtype) -> str | DtypeOf:
        """A dtype, as that of the tensor which the module asked for it last."""
        for known, slot in reversed(self.sources or ()):
            if known is dtype:
                return DtypeOf(slot, dtype_name(dtype))
        return dtype_name(dtype)

    def asked_dtype(self, x: torch.Tensor) -> None:
        """Note that the module asks for a tensor's dtype."""
        mark = getattr(x, MARK, None)
        if self.sources is not None and mark is not None and mark.recorder is self:
            self.sources.append((torch._C.TensorBase.dtype.__get__(x), mark.slot))

    def new(self, data: torch.Tensor) -> torch.Tensor:
        """A new tensor like one with data. It has the data where new tensors have some (``partly_real.py``)."""
        out = torch.empty_strided(data.shape, data.stride(), dtype=data.dtype, device="meta")
        return out if out.is_meta else out.copy_(data)

    def turn_autocast(self, enabled: bool) -> None:
        """Note that the module turns autocast off or on again, if there is one."""
        self.events.append(Autocast(enabled))

    def note(self, op: str, args: Sequence[Any], keywords: Mapping[str, Any], out: Any) -> Any:
        """Note a call. Returns its result, whose new tensors have slots now."""
        data = args[0] if op == "tensor" else None
        if isinstance(data, np.ndarray) or (type(data) is list and any(isinstance(x, float) for x in data)):
            args = ((), *args[1:])  # data, of which memory depends on the result's shape alone
        encoded = tuple(self.encode(x) for x in args)
        named = {
            name: self.encode(x)
            for name, x in keywords.items()
            if name not in ("device", "layout", "pin_memory", "generator", "non_blocking", "requires_grad", "out")
        }
        operands = list(tensors_in((args, keywords)))
        detaches = op in ("detach", "data")
        trains = self.grad_enabled and not detaches and any(self.requires_grad(x) for x in operands)
        made: list[Made] = []
        viewed = {storage_of(x): x for x in reversed(operands) if not x.is_sparse}
        memories = {key: memory for key, x in viewed.items() if (memory := memory_of(x)) is not None and not detaches}
        out = self._give_slots(out, writes(op), trains, made, memories)
        if isinstance(out, torch.Tensor) and not out.is_sparse and not writes(op) and not detaches:
            base = self.operand(viewed[storage_of(out)]) if storage_of(out) in viewed else None
            if isinstance(base, Ref):
                self._bases[made[0].slot] = base.slot
        if trains:
            self.lead(made, [self.operand(x) for x in operands if self.requires_grad(x)])
        if isinstance(out, torch.Tensor):
            answers = [ANSWERS.get(op), *(mark.answer for x in operands if (mark := getattr(x, MARK, None)))]
            getattr(out, MARK).answer = next((x for x in answers if x is not None), None)
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
        self, out: Any, in_place: bool, trains: bool, made: list[Made], memories: Mapping[int, Memory]
    ) -> Any:
        """Give the tensors of a result slots, and list them in ``made``."""
        if isinstance(out, torch.Tensor):
            mark = getattr(out, MARK, None)
            if in_place and mark is not None and mark.recorder is self:
                mark.memory.trains = mark.memory.trains or trains
                made.append(Made(mark.slot, tuple(out.shape), dtype_name(out.dtype)))
                return out
            if mark is not None or id(out) in self._names:
                out = out.view(out.shape)  # an operand is given back: a second name, which dies by itself
            floating = out.dtype.is_floating_point or out.dtype.is_complex
            slot = self.mark(out, trains and floating, memories.get(storage_of(out)))
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
        if not args and (first := next((key for key in ("condition", "input") if key in kwargs), "")):
            args, kwargs = (kwargs[first],), {key: x for key, x in kwargs.items() if key != first}
        if name in ("__get__", "__set__"):
            return self._attribute(function, name, args)
        if name in READS:
            return self._read(name, function, args, kwargs)
        if name in QUESTIONS:
            return function(*args, **kwargs)
        if name in SPECIAL:
            if self._autocast is not None:
                self._note_autocast()
            out = SPECIAL[name](self, function, *args, **kwargs)
            if name == "__setitem__":
                self.data.follow("setitem_", function, args, kwargs, args[0])
            elif isinstance(out, (torch.Tensor, tuple, list)):
                self.data.follow(name, function, args, kwargs, out)
            return out
        out = self.plain_call(function, SAME.get(name, name), args, kwargs)
        self.data.follow(SAME.get(name, name), function, args, kwargs, out)
        return out

    def _read(self, name: str, function: Any, args: Any, kwargs: Any) -> Any:
        """The answer of a function that reads data."""
        try:
            return self.data.read(function, args)
        except LookupError:
            mark = getattr(args[0], MARK, None)
            if name in ("__bool__", "item") and mark is not None and mark.answer is not None:
                return mark.answer
            return self.read_unknown(name)

    def number(self, x: Any) -> Any:
        """A number, or the one that a tensor has."""
        return self._read("item", torch.Tensor.item, (x,), {}) if isinstance(x, torch.Tensor) else x

    def read_unknown(self, name: str) -> Any:
        """The answer of a function that reads numbers which are not known."""
        raise InputError(
            f"the model's forward pass reads numbers that it has computed ({name}), of which a recording has none"
        )

    def plain_call(self, function: Any, name: str, args: Any, kwargs: Any) -> Any:
        if isinstance(kwargs.get("out"), torch.Tensor):
            raise InputError(
                f"the model lets {name} write into a tensor that it gives (out=), for which there is no rule"
            )
        if "device" in kwargs or name in FACTORIES:
            kwargs = {**kwargs, "device": "meta"}
        if self._autocast is not None:
            self._note_autocast()
        if self.autocasts:
            out = self._autocast_call(function, name, args, kwargs)
        else:
            try:
                out = self._results.of(function, args, kwargs)
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
        return self._autocast is not None and bool(torch.is_autocast_enabled(self.device.type))

    def cast(self, x: torch.Tensor, dtype: torch.dtype, copy: bool) -> torch.Tensor:
        """Note ``x.to(dtype, copy=copy)``."""
        out = x.to(dtype) if x.dtype != dtype else x.clone() if copy else x
        named = {"copy": True} if copy else {}
        result: torch.Tensor = self.note("to", (x, dtype), named, out)
        return result

    def moved(self, x: torch.Tensor) -> torch.Tensor:
        """Note ``x.to(device)``."""
        return self.cast(x, x.dtype, False)

    def grad_mode(self, enabled: bool) -> None:
        """Note ``torch.set_grad_enabled(enabled)``."""
        if enabled != self.grad_enabled:
            self.grad_enabled = enabled
            self.events.append(GradMode(enabled))

    def enter(self, path: str, args: Sequence[Any], keywords: Mapping[str, Any]) -> None:
        """Note that a module's forward starts. Tensors in a list are no arguments: a checkpoint does not save them."""
        direct = [x for x in args if isinstance(x, torch.Tensor)]
        others = [x for x in args if not isinstance(x, torch.Tensor)]
        given = (tuple(self.operand(x) for x in tensors_in(tree)) for tree in (direct, (others, keywords)))
        self.events.append(Enter(path, *given))

    def region(self, path: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function whose calls are noted as a module's are."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self.enter(path, args, kwargs)
            out = function(*args, **kwargs)
            self.events.append(Exit(path, tuple(self.operand(x) for x in tensors_in(out))))
            return out

        return call

    def _attribute(self, function: Any, access: str, args: Any) -> Any:
        name = function.__self__.__name__
        x = args[0]
        if access == "__set__":
            if name == "requires_grad":
                return self.set_requires_grad(x, args[1])
            if name == "grad":
                return self.set_gradient(x, args[1])
            if name == "data" and id(x) in self._names and self._is_like(x, args[1]):
                return None  # the weight's old storage goes as the new one would
            raise InputError(f"the model sets {name} of a tensor in its forward pass, which has no rule")
        if name == "device":
            return self.device
        if name == "dtype":
            self.asked_dtype(x)
        if name == "requires_grad":
            return self.requires_grad(x)
        if name == "is_leaf":
            return not self.requires_grad(x) or id(x) in self._names
        if name in ("is_cuda", "is_cpu", "is_meta"):
            return name == f"is_{self.device.type}"
        if name == "grad":
            return self.gradient(x)
        if name == "grad_fn":
            return None
        out = function(*args)
        if not isinstance(out, torch.Tensor):
            return out
        out = self.note(name, args, {}, out)
        self.data.follow(name, function, args, {}, out)
        return out

    @staticmethod
    def _is_like(x: torch.Tensor, new: torch.Tensor) -> bool:
        """Whether a tensor that takes the place of another's data has as many bytes, laid out alike."""
        return (x.shape, x.dtype, x.stride()) == (new.shape, new.dtype, new.stride())

    def gradient(self, x: torch.Tensor) -> torch.Tensor | None:
        """``x.grad``. No backward runs within a forward pass, so there is none."""
        return None

    def set_gradient(self, x: torch.Tensor, grad: torch.Tensor | None) -> None:
        """``x.grad = grad``."""
        raise InputError("the model sets a gradient in its forward pass, which has no rule")

    def backward(self, loss: torch.Tensor) -> None:
        """``loss.backward()``."""
        raise InputError("the model runs a backward pass of its own, for which there is no rule")

    def set_requires_grad(self, x: Any, value: bool) -> Any:
        mark = getattr(x, MARK, None)
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
        dtype = torch.get_autocast_dtype(self.device.type)
        if name in AUTOCAST_LOWER:
            args, kwargs = cast_all((args, kwargs), dtype)
        elif name in (AUTOCAST_FLOAT32 if DEVICES[self.device.type].autocasts_to_float32 else AUTOCAST_LOSSES):
            args, kwargs = cast_all((args, kwargs), torch.float32)
        elif name in ("cat", "stack"):
            widest = max((x.dtype for x in tensors_in(args)), key=lambda d: d.itemsize)
            args, kwargs = cast_all((args, kwargs), widest)
        return function(*args, **kwargs)
