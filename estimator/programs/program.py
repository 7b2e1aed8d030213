"""A program as data: what a module's forward pass calls, in order, and where each tensor's name dies.

A recorder writes it (``recorder.py``), and an interpreter runs it over the ledger (``interpreter.py``). A tensor is
named by a number, its *slot*. Sizes are integers, or polynomials in the batch B and the sequence S.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Union

from ..ledger import Shape
from .module_table import NamedModule


class Ref(NamedTuple):
    """An operand: the tensor in a slot."""

    slot: int


class Weight(NamedTuple):
    """An operand: a parameter or a buffer, by its name in ``named_parameters()`` or ``named_buffers()``."""

    name: str


class Made(NamedTuple):
    """A result of a call."""

    slot: int
    shape: Shape
    dtype: str


class Call(NamedTuple):
    """A call of a PyTorch function, by its name in ``torch.Tensor`` or ``torch``, with its arguments as they were given.

    Tensors are ``Ref`` and ``Weight``, dtypes their names, lists tuples. Of floating numbers only zero is kept, since
    memory depends on no other value: others are 1.0.
    """

    op: str
    args: tuple[Any, ...]
    keywords: Mapping[str, Any]
    out: tuple[Made, ...]


class Drop(NamedTuple):
    """The last name of a slot's tensor dies."""

    slot: int


class Enter(NamedTuple):
    """A module's forward starts. ``args`` are the tensors among its positional arguments, ``keywords`` all others."""

    path: str
    args: tuple[Ref | Weight, ...]
    keywords: tuple[Ref | Weight, ...]


class Exit(NamedTuple):
    """A module's forward returns. ``out`` are the tensors among its results."""

    path: str
    out: tuple[Ref | Weight, ...]


class GradMode(NamedTuple):
    """``torch.set_grad_enabled``."""

    enabled: bool


class Autocast(NamedTuple):
    """Autocast is turned on or off within a plan that uses it."""

    enabled: bool


class Function(NamedTuple):
    """A custom ``torch.autograd.Function``: its forward, what its context saves, and its backward.

    ``out`` is its result, and ``inner`` the tensor that its forward returns. ``saved`` went through
    ``save_for_backward``; ``attached`` are the context's attributes. In backward, ``unpacked`` are the slots of the saved tensors, ``grad`` that of the incoming gradient, and
    ``results`` the gradient of each input.
    """

    name: str
    inputs: tuple[Any, ...]
    forward: tuple[Any, ...]
    out: Made
    inner: Ref | Weight
    saved: tuple[Any, ...]
    attached: tuple[Any, ...]
    unpacked: tuple[int, ...]
    grad: int
    backward: tuple[Any, ...]
    results: tuple[Any, ...]


Event = Union[Call, Drop, Enter, Exit, GradMode, Autocast, Function]


class Stored(NamedTuple):
    """A parameter, a buffer or a plain tensor attribute of a module."""

    name: str
    shape: Shape
    dtype: str
    requires_grad: bool = False
    added: bool = False
    """The fine-tuning method adds it."""


class Layer(NamedTuple):
    """One of the layers that follow each other: where its iteration starts and ends in the events.

    An iteration is everything from a layer's start to the next one's: a loop may do something between two layers.
    """

    path: str
    start: int
    stop: int
    exit: int
    """Where the layer itself ends."""


@dataclass(frozen=True)
class Program:
    """A module's forward pass."""

    modules: tuple[NamedModule[Any], ...]
    """Every module, in the order of ``named_modules()``."""
    parameters: tuple[Stored, ...]
    buffers: tuple[Stored, ...]
    attributes: tuple[Stored, ...]
    """Tensors that the forward pass uses and nothing registered; each is resident, and counted where it is saved."""
    inputs: Mapping[str, int]
    """Slots of the inputs by their names."""
    outputs: Mapping[str, Ref | Weight]
    """The results by their names, held until the step ends."""
    events: tuple[Event, ...]
    layers: tuple[Layer, ...]
    dtype: str = ""
    """The dtype that most weights have: the plan's."""
    plain: frozenset[str] = frozenset()
    """Modules that do just what ``nn.Linear`` or ``nn.Embedding`` does."""
    tied: Mapping[str, str] = field(default_factory=dict)
    """Parameters that are another one's, by name."""

    @cached_property
    def exits(self) -> dict[int, int]:
        """For each ``Enter``, by its index among the events, the index of its ``Exit``."""
        found: dict[int, int] = {}
        open_: list[int] = []
        for i, event in enumerate(self.events):
            if isinstance(event, Enter):
                open_.append(i)
            elif isinstance(event, Exit):
                found[open_.pop()] = i
        return found

    @cached_property
    def regions(self) -> dict[str, tuple[int, int]]:
        """For each module that is called, the indices of its first ``Enter`` and that one's ``Exit``."""
        found: dict[str, tuple[int, int]] = {}
        for start, stop in sorted(self.exits.items()):
            event = self.events[start]
            assert isinstance(event, Enter)
            found.setdefault(event.path, (start, stop))
        return found

    @cached_property
    def rows(self) -> dict[str, NamedModule[Any]]:
        """The modules by their paths."""
        return {module.path: module for module in self.modules}

    @cached_property
    def weights_of(self) -> dict[str, tuple[list[Stored], list[Stored]]]:
        """For each module, the root ``""`` first, the parameters and the buffers that it holds itself."""
        found: dict[str, tuple[list[Stored], list[Stored]]] = {path: ([], []) for path in ("", *self.rows)}
        for which, tensors in enumerate((self.parameters, self.buffers)):
            for tensor in tensors:
                found[tensor.name.rpartition(".")[0]][which].append(tensor)
        return found

    def layer_of(self, path: str) -> int | None:
        """The number of the layer that a module is, or is in."""
        return self._layer_of.get(path)

    @cached_property
    def _layer_of(self) -> dict[str, int]:
        numbers = {layer.path: i for i, layer in enumerate(self.layers)}
        found = {}
        for path in self.rows:
            parts = path.split(".")
            for end in range(len(parts), 0, -1):
                if (number := numbers.get(".".join(parts[:end]))) is not None:
                    found[path] = number
                    break
        return found

    @cached_property
    def layer_modules(self) -> tuple[tuple[str, ...], ...]:
        """For each layer, its modules' paths."""
        found: list[list[str]] = [[] for _ in self.layers]
        for path, number in self._layer_of.items():
            found[number].append(path)
        return tuple(map(tuple, found))

    @cached_property
    def _made_in(self) -> tuple[dict[int, tuple[int, int]], list[list[int]]]:
        """For each slot made in a layer's iteration, that layer and the slot's place; and the slots by layer."""
        of: dict[int, tuple[int, int]] = {}
        slots: list[list[int]] = []
        for number, layer in enumerate(self.layers):
            slots.append([])
            for event in self.events[layer.start : layer.stop]:
                for slot in made(event):
                    if slot not in of:
                        of[slot] = number, len(slots[-1])
                        slots[-1].append(slot)
        return of, slots

    def rename(self, frame: dict[int, Any], layer: int, other: int) -> None:
        """Give what is left of a layer's tensors the names of an equal layer's."""
        slots = self._made_in[1]
        for old, new in zip(slots[layer], slots[other], strict=True):
            if old in frame:
                frame[new] = frame.pop(old)

    def free_slots(self, start: int, stop: int) -> list[int]:
        """The slots that events use, and that were made before them."""
        free: dict[int, None] = {}
        own: set[int] = set()
        for event in self.events[start:stop]:
            for ref in used(event):
                if ref not in own:
                    free[ref] = None
            own.update(made(event))
        return list(free)

    @cached_property
    def kinds(self) -> tuple[Any, ...]:
        """For each layer, what it calls, in a form in which equal layers are equal."""
        seen: dict[Any, int] = {}
        return tuple(seen.setdefault(self._form(i), i) for i in range(len(self.layers)))

    def _form(self, number: int) -> Any:
        layer = self.layers[number]
        of, _ = self._made_in
        prefix = layer.path + "."
        arguments: dict[int, int] = {}

        def name(x: Any) -> Any:
            if isinstance(x, Ref):
                if x.slot in arguments:
                    return "argument", arguments[x.slot]
                where = of.get(x.slot)
                if where is None:
                    return "outside", x.slot
                return ("own", where[1]) if where[0] == number else ("layer", number - where[0], where[1])
            if isinstance(x, Weight):
                return "weight", x.name.removeprefix(prefix)
            if isinstance(x, Made):
                return name(Ref(x.slot)), x.shape, x.dtype
            if isinstance(x, (tuple, list)):
                return tuple(name(y) for y in x)
            if isinstance(x, Mapping):
                return tuple((key, name(y)) for key, y in x.items())
            return x.removeprefix(prefix) if isinstance(x, str) else x

        first = self.events[layer.start]
        assert isinstance(first, Enter)
        for i, x in enumerate((*first.args, *first.keywords)):
            if isinstance(x, Ref):
                arguments.setdefault(x.slot, i)
        inner = [e for e in self.events[layer.start + 1 : layer.stop] if not isinstance(e, (Drop, Exit))]
        weights = tuple(
            (
                w.name.removeprefix(path).removeprefix("."),
                self.rows[path].path.removeprefix(layer.path),
                w.shape,
                w.dtype,
            )
            for path in self.layer_modules[number]
            for w in (*self.weights_of[path][0], *self.weights_of[path][1])
        )
        outside = [
            x.slot
            for i, x in enumerate((*first.args, *first.keywords))
            if i and isinstance(x, Ref) and x.slot not in of
        ]
        return tuple((type(e).__name__, *map(name, e)) for e in inner), weights, tuple(outside)


def made(event: Event) -> Iterator[int]:
    """The slots of an event's results."""
    if isinstance(event, Call):
        for one in event.out:
            yield one.slot
    elif isinstance(event, Function):
        yield event.out.slot


def used(event: Event) -> Iterator[int]:
    """The slots of an event's operands."""
    if isinstance(event, Call):
        yield from _slots((event.args, tuple(event.keywords.values())))
    elif isinstance(event, Function):
        yield from _slots(event.inputs)
    elif isinstance(event, Enter):
        yield from _slots((event.args, event.keywords))


def _slots(tree: Any) -> Iterator[int]:
    if isinstance(tree, Ref):
        yield tree.slot
    elif isinstance(tree, tuple) and not isinstance(tree, Weight):
        for x in tree:
            yield from _slots(x)
