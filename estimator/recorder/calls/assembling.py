"""Runs a module under the recorder, and makes a program of what it notes."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
import torch._tensor
import torch.functional

from ...errors import InputError
from ...programs.libraries import without_collector
from ...programs.module_table import Kind, NamedModule, Role
from ...programs.program import LOSS, Call, Enter, Event, Exit, Program, Ref, Stored, fold, renamed
from . import special  # noqa: F401 (enters its functions)
from .data import Routing, data_of_input, tensors_in
from .functions import Vmap
from .functions import apply as apply_function
from .functions import hooks as hooks_of
from .marks import dtype_name, elements_held, storage_of
from .mode import Recorder


def _nothing_overrides(*_: Any) -> bool:
    """PyTorch's functions in Python are to run, and not to ask the mode first."""
    return False


def _capability(*_: Any) -> tuple[int, int]:
    """What a GPU can do: all that transformers asks for are kernels of compute capability 8.0, grouped products."""
    return 8, 0


def _nothing(*_: Any) -> None:
    """A mode that is not to act."""


def _refuse_gradient(*_: Any, **__: Any) -> None:
    raise InputError("torch.autograd.grad has no rule; a step calls loss.backward()")


def _refuse_hooks(*_: Any) -> None:
    raise InputError("the model changes by hooks what is saved for its backward pass, for which there is no rule")


@contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    """Within it, everything that PyTorch runs goes through the recorder."""
    call_module = torch.nn.Module.__call__
    paths = recorder.paths

    def call(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        path = paths.get(id(module))
        if path is None:
            return call_module(module, *args, **kwargs)
        recorder.enter(path, args, kwargs)
        asked = len(recorder.sources or ())
        try:
            out = call_module(module, *args, **kwargs)
        finally:
            if recorder.sources is not None:  # the module's variables are gone
                del recorder.sources[asked:]
        # A list in a model's output has a tensor of each layer, which is that layer's result.
        results = [x for x in out.values() if not isinstance(x, (list, tuple))] if isinstance(out, Mapping) else out
        recorder.events.append(Exit(path, tuple(recorder.operand(x) for x in tensors_in(results))))
        return out

    def apply(function: Any, *args: Any, **kwargs: Any) -> Any:
        own = recorder.functions.get(function.__name__)
        return apply_function(recorder, function, args) if own is None else own(function, args)

    def backward(loss: torch.Tensor, *_: Any, **__: Any) -> None:
        recorder.backward(loss)

    def is_grad_enabled() -> bool:
        return recorder.grad_enabled

    with ExitStack() as stack:
        for module in (torch.functional, torch.nn.functional, torch._tensor):
            for name in ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"):
                if hasattr(module, name):
                    stack.enter_context(mock.patch.object(module, name, _nothing_overrides))
        stack.enter_context(mock.patch.object(torch.nn.Module, "__call__", call))
        stack.enter_context(mock.patch.object(torch.autograd.Function, "apply", classmethod(apply)))
        stack.enter_context(mock.patch.object(torch, "vmap", Vmap()))
        if indexing := sys.modules.get("torch._dynamo._trace_wrapped_higher_order_op"):
            for name in ("__enter__", "__exit__"):  # an index that is mapped broadcasts, and takes no special call
                stack.enter_context(mock.patch.object(indexing.TransformGetItemToIndex, name, _nothing))
        stack.enter_context(mock.patch.object(torch.cuda, "get_device_capability", _capability))
        stack.enter_context(mock.patch.object(torch.Tensor, "backward", backward))
        stack.enter_context(mock.patch.object(torch.autograd, "grad", _refuse_gradient))
        stack.enter_context(mock.patch.object(torch.autograd.graph.saved_tensors_hooks, "__enter__", _refuse_hooks))
        stack.enter_context(torch.inference_mode())  # views do not refer to their bases
        stack.enter_context(mock.patch.object(torch, "is_grad_enabled", is_grad_enabled))
        stack.enter_context(recorder)
        try:
            yield
        except RuntimeError as error:
            if "Inference tensors cannot be saved" in str(error):  # a checkpoint's inputs, before it takes hooks
                _refuse_hooks()
            raise


@contextmanager
def _drawn() -> Iterator[None]:
    """Within it, what numpy draws is the same each time, and its shares are the largest ones.

    Some models draw masks of their features by numpy, and whether a layer of an adapter is left out. Spans of a mask
    lie apart, so that as much is masked as can be.
    """

    def choice(places: Any, size: int, **_: Any) -> Any:
        last = len(places) - 1
        return np.array([places[i * last // max(size - 1, 1)] for i in range(size)], dtype=np.int64)

    with ExitStack() as stack:
        for name, drawn in {"random": lambda: 1.0, "rand": np.ones, "choice": choice}.items():
            stack.enter_context(mock.patch.object(np.random, name, drawn))
        yield


class _Ordered(set[Any]):
    """A set that is walked in order."""

    def __iter__(self) -> Iterator[Any]:
        return iter(sorted(super().__iter__(), key=str))


@contextmanager
def _sets_in_order(model: torch.nn.Module) -> Iterator[None]:
    """Within it, a model of transformers walks its sets in order.

    Python walks a set of strings in another order in each process. Some models make a rotary embedding for each kind
    of layer in that order, so their step's events, and at times its peaks, would differ from process to process.
    """
    kinds = set(getattr(getattr(model, "config", None), "layer_types", None) or ())
    with ExitStack() as stack:
        for module in model.modules():
            for name, value in vars(module).items():
                if kinds and isinstance(value, set) and value == kinds:  # made with the model
                    stack.enter_context(mock.patch.object(module, name, _Ordered(value)))
        own = {type(module).__module__ for module in model.modules()}
        for name in (*(one for one in own if one.startswith("transformers.models.")), "transformers.masking_utils"):
            if name in sys.modules:  # releases before 4.53 make masks within their models
                stack.enter_context(mock.patch.object(sys.modules[name], "set", _Ordered, create=True))
        yield


@contextmanager
def layers_as_checkpointed(model: torch.nn.Module) -> Iterator[None]:
    """Within it, a model that hands its layers to a checkpoint itself calls them with the arguments that it hands over.

    A checkpoint saves those that are tensors. Releases of transformers before 5 have such models. A layer that is a
    ``GradientCheckpointingLayer`` gets the same arguments with and without a checkpoint.
    """

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        return layer(*args, **kwargs)

    parents = [
        module
        for module in model.modules()
        if hasattr(module, "gradient_checkpointing") and not checkpoints_itself(module)
    ]
    for module in parents:
        module.gradient_checkpointing, module._gradient_checkpointing_func = True, call
    try:
        yield
    finally:
        for module in parents:
            module.gradient_checkpointing = False
            del module._gradient_checkpointing_func


def checkpoints_itself(module: torch.nn.Module) -> bool:
    """Whether transformers puts a checkpoint around the module's call."""
    return any(kind.__name__ == "GradientCheckpointingLayer" for kind in type(module).__mro__)


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


@without_collector()
def record(
    model: torch.nn.Module,
    inputs: Mapping[str, torch.Tensor],
    call: Callable[[], Any],
    device: str = "cpu",
    autocast: torch.dtype | None = None,
    wrapped: Wrapped | None = None,
    routing: Routing = "balanced",
    before: Callable[[], Iterable[Sequence[torch.Tensor]]] | None = None,
    packed: bool = False,
    padded: bool = True,
    interfaces: Any = None,
    known: Mapping[str, torch.Tensor] | None = None,
    stacks: Sequence[Sequence[str]] | None = None,
) -> Program:
    """Record ``call()``, which runs ``model`` with ``inputs``, all on the meta device. Its tensors are the outputs.

    ``call`` returns a mapping of names to tensors. Where a library has wrapped a model, as ``wrapped`` says, paths
    within it are as they were. ``routing`` says how tokens choose experts where the program depends on it. ``before``
    fills a cache before the recording, and gives the tensors of each of its layers. ``packed``: position ids that are
    given start again in each sequence. ``padded``: a mask that is given has padding in it. ``interfaces``: an
    ``interfaces.Cache`` that ``call`` gives the model, if what transformers chooses by the setting is to be noted as
    calls of its own. ``known``: data of inputs that follow from the plan. ``stacks``: the paths of the layers of each
    stack, where the call runs some of them; by default those that it runs. Raises ``InputError`` where the model reads
    numbers that depend on its weights.
    """
    base = model if wrapped is None else wrapped.base
    plain = plain_paths(model, base)
    recorder = Recorder(model, device, autocast, plain, routing)
    slots = {name: recorder.mark(x) for name, x in inputs.items()}
    for name, x in inputs.items():
        data = (known or {}).get(name)
        if data is None:
            data = data_of_input(name, x, getattr(model, "config", None), packed, padded)
        if data is not None:
            recorder.data.set(x, data)
    loss = getattr(base, "loss_function", None)
    with _sets_in_order(model), _drawn(), recording(recorder), ExitStack() as stack:
        if callable(loss):
            base.loss_function = recorder.region(LOSS, loss)
            stack.callback(setattr, base, "loss_function", loss)
        if before is not None:
            recorder.start_with(before)
        if interfaces is not None:
            from .noted_interfaces import noted

            recorder.sources = []
            stack.enter_context(noted(recorder, model, interfaces))
        out = call()
        recorder.take_unused()
        returns_cache = interfaces is not None and any(x is interfaces for x in out.values())
        hooks = hooks_of(recorder, model, plain) if recorder.grad_enabled and "loss" in out else {}
    outputs = {name: recorder.operand(x) for name, x in named_tensors(out)}
    events, recorder.events = tuple(recorder.events), []
    end = outputs.get("loss", outputs.get("last_hidden_state"))  # of which a trainer makes the loss
    reached = recorder.reached(end)
    parameters = tuple(
        Stored(
            plain(name),
            tuple(p.shape),
            dtype_name(p.dtype),
            p.requires_grad,
            wrapped is not None and wrapped.added(plain(name), p),
            end is not None and plain(name) not in reached,
            storage,
        )
        for name, p, storage in _with_storages(model.named_parameters())
    )
    stacks = _stacks(model, events, plain) if stacks is None else [[*map(plain, paths)] for paths in stacks]
    parametrized = _parametrized(events)
    parts, renumbered = fold(events, stacks, results=[ref.slot for ref in outputs.values() if isinstance(ref, Ref)])
    given: dict[str, int] = {}
    for name, slot in slots.items():
        with suppress(KeyError):  # the model has no use for it
            given[name] = renumbered(slot)
    return Program(
        modules=tuple(modules_of(model, base, plain)),
        parameters=parameters,
        buffers=tuple(
            Stored(plain(name), tuple(x.shape), dtype_name(x.dtype), storage=storage)
            for name, x, storage in _with_storages(model.named_buffers())
        ),
        attributes=tuple(recorder.attributes),
        inputs=given,
        outputs={name: renamed(ref, renumbered, str) for name, ref in outputs.items()},
        **parts,
        dtype=_dtype(parameters),
        plain=frozenset(
            plain(path)
            for path, module in model.named_modules()
            if type(module).forward in (torch.nn.Linear.forward, torch.nn.Embedding.forward)
            and plain(path) not in parametrized
        ),
        tied=_tied(model, plain),
        checkpoints=frozenset(
            plain(path) for path, module in model.named_modules() if checkpoints_itself(module)
        ).difference(*stacks),
        routed=recorder.data.routed,
        hooks=hooks,
        returns_cache=returns_cache,
    )


def named_tensors(tree: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of an output by their names, those of outputs in it too: ``image_outputs.last_hidden_state``."""
    if isinstance(tree, torch.Tensor):
        yield name, tree
    elif isinstance(tree, (Mapping, tuple, list)):
        parts = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
        for key, x in parts:
            yield from named_tensors(x, f"{name}.{key}" if name else str(key))


def _parametrized(events: Sequence[Event]) -> set[str]:
    """The modules that multiply by a weight which is computed anew (``torch.nn.utils.parametrize``)."""
    found: set[str] = set()
    path = ""
    for event in events:
        if isinstance(event, Enter):
            path = event.path
        elif (
            isinstance(event, Call)
            and event.op in ("linear", "embedding")
            and any(isinstance(x, Ref) for x in (event.args[1:2] if event.op == "linear" else event.args[:1]))
        ):
            found.add(path)
    return found


def _with_storages(named: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor, int | None]]:
    """Each tensor with the elements of its storage, if it is a view of a larger one or shares one (``Stored``)."""
    seen: set[int] = set()
    for name, x in named:
        elements = elements_held(x)
        storage = storage_of(x)
        held = 0 if storage in seen else elements
        seen.update({storage} - {0})
        yield name, x, held if held != x.numel() else None


def _dtype(parameters: Sequence[Stored]) -> str:
    """The dtype that most of the model's elements have."""
    counts: dict[str, Any] = {}
    for p in parameters:
        if not p.added:
            counts[p.dtype] = counts.get(p.dtype, 0) + math.prod(p.shape)
    return max(counts, key=lambda dtype: int(counts[dtype]), default="float32")


def _tied(model: torch.nn.Module, plain: Callable[[str], str]) -> dict[str, str]:
    first: dict[int, str] = {}
    tied = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        if first.setdefault(id(p), name) != name:
            tied[plain(name)] = plain(first[id(p)])
    return tied


def plain_paths(model: torch.nn.Module, base: torch.nn.Module) -> Callable[[str], str]:
    """From the paths in a model that a library has wrapped to those in the model itself."""
    prefix = next(f"{path}." if path else "" for path, module in model.named_modules() if module is base)
    return lambda path: path.removeprefix(prefix)


def modules_of(
    model: torch.nn.Module, base: torch.nn.Module | None = None, plain: Callable[[str], str] = str
) -> Iterator[NamedModule[int]]:
    """The rows of the table of a model's modules. ``base`` is the model that a library has wrapped."""
    base = base or model
    embeddings = [module for part in base.modules() for module in _wrapped_in(input_embeddings(part))]
    heads = _wrapped_in(getattr(base, "get_output_embeddings", lambda: None)())
    for path, module in model.named_modules():
        if path:
            kind = _kind(module)
            role: Role | None = (
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


def input_embeddings(model: Any) -> Any:
    """What transformers' ``enable_input_require_grads`` hooks of a model or of one within it, such as an encoder."""
    try:
        return model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None


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
    if (isinstance(module, torch.nn.Linear) and "weight" in module._parameters) or _is_conv1d(module):
        return "linear"
    if isinstance(module, torch.nn.Embedding):
        return "embedding"
    if isinstance(module, torch.nn.LayerNorm) or name.endswith(("RMSNorm", "LayerNorm", "Norm")):
        return "norm"
    if name.endswith("Attention"):
        return "attention"
    return "mlp" if name.endswith("MLP") else "container"


def is_attention(module: torch.nn.Module) -> bool:
    """Whether a module is one of attention."""
    return _kind(module) == "attention"


Layers = tuple[torch.nn.Module, list[str]]
"""A list of modules, and their paths."""


def stacks_among(lists: Iterable[Layers], beside: Callable[[list[str], list[str]], bool]) -> list[list[str]]:
    """Of a model's lists of modules those that are stacks: the one with the most parameters, of those with attention
    where there are any, and others beside it that have attention in each layer, as those of encoders do.
    """

    def order(one: Layers) -> tuple[bool, int]:
        return not any(map(is_attention, one[0].modules())), -sum(p.numel() for p in one[0].parameters())

    stacks: list[list[str]] = []
    for layers, paths in sorted(lists, key=order):
        attend = len(paths) > 1 and all(any(map(is_attention, layer.modules())) for layer in layers.children())
        if not stacks or (attend and all(beside(paths, other) for other in stacks)):
            stacks.append(paths)
    return stacks


def _stacks(model: torch.nn.Module, events: Sequence[Event], plain: Callable[[str], str]) -> list[list[str]]:
    """The paths of the layers of each stack, in order. Its modules are called one after the other."""
    entered: dict[str, list[int]] = {}
    left: dict[str, int] = {}
    for i, event in enumerate(events):
        if isinstance(event, Enter):
            entered.setdefault(event.path, []).append(i)
        elif isinstance(event, Exit):
            left[event.path] = i
    found: list[Layers] = []
    for path, module in model.named_modules():
        if not isinstance(module, (torch.nn.ModuleList, torch.nn.Sequential)) or len(module) < 2:
            continue
        paths = [plain(f"{path}.{name}" if path else name) for name, _ in module.named_children()]
        if any(len(entered.get(p, ())) != 1 for p in paths):
            continue
        starts = [entered[p][0] for p in paths]
        in_turn = starts == sorted(starts) and all(left[a] < entered[b][0] for a, b in pairwise(paths))
        if in_turn and any(p.numel() for p in module.parameters()):
            found.append((module, paths))
    stacks = stacks_among(found, lambda a, b: left[b[-1]] < entered[a[0]][0] or left[a[-1]] < entered[b[0]][0])
    return sorted(stacks, key=lambda paths: entered[paths[0]])
