"""A program as data: what a module's forward pass calls, in order, and where each tensor's name dies.

A recorder writes it (``estimator/recorder/``), and an event loop runs it over the ledger (``event_loop.py``). A tensor
is named by a number, its *slot*. Sizes are integers, or polynomials in the sizes of the inputs, such as the batch B.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Union

from ..ledger import Shape, Size
from .module_table import NamedModule


class Ref(NamedTuple):
    """An operand: the tensor in a slot."""

    slot: int


class Weight(NamedTuple):
    """An operand: a parameter or a buffer, by its name in ``named_parameters()`` or ``named_buffers()``."""

    name: str


class DtypeOf(NamedTuple):
    """An argument: the dtype of a slot's tensor, which need not be alive any more. ``dtype`` is what it was."""

    slot: int
    dtype: str


class Rate(NamedTuple):
    """An argument: a number of the config, such as the probability of a dropout, of which only zero matters."""

    key: str


class Made(NamedTuple):
    """A result of a call."""

    slot: int
    shape: Shape
    dtype: str


class Call(NamedTuple):
    """A call of a PyTorch function, by its name in ``torch.Tensor`` or ``torch``, with its arguments as given.

    Tensors are ``Ref`` and ``Weight``, dtypes their names, lists tuples. Of floating numbers only zero is kept, since
    memory depends on no other value: others are 1.0.
    """

    op: str
    args: tuple[Any, ...]
    keywords: tuple[tuple[str, Any], ...]
    out: tuple[Made, ...]


ATTENTION, MASK, UPDATE = "attention_interface", "create_causal_mask", "cache.update"
"""Calls of what transformers chooses by the setting (``interfaces.py``): attention of queries, keys and values; its
mask; and what a cache gives for new keys and values. Their results may be ``None``, whose slots then have no tensor."""
LOSS = "loss"
"""The path of the loss function, which is no module, among the modules that are called."""
INTERFACES = (ATTENTION, MASK, UPDATE)
CACHED = "cached"
"""The function of a call that takes a tensor which a cache has from forward passes before: its storage's elements, and
its strides."""


class Drop(NamedTuple):
    """The last name of a slot's tensor dies."""

    slot: int


class Enter(NamedTuple):
    """A module's forward starts. ``args`` are the tensors that it is given by position, ``keywords`` all others, those
    in lists, too.
    """

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
    clears: bool = False
    """The outermost ``autocast`` has ended, which lets the cast weights go (``autocast_mode.py: __exit__``)."""


class Function(NamedTuple):
    """A custom ``torch.autograd.Function``: its forward, what its context saves, and its backward.

    ``out`` is its result, and ``inner`` the tensor that its forward returns. ``saved`` went through
    ``save_for_backward``; ``attached`` are the context's attributes. In backward, ``unpacked`` are the slots of the
    saved tensors, ``grad`` that of the incoming gradient, and ``results`` the gradient of each input.
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


class Hook(NamedTuple):
    """What the hooks of a parameter do with its gradient (``Tensor.register_hook``): the gradient's slot, what they
    call, and what they give back. Slots are their own.
    """

    grad: int
    events: tuple[Any, ...]
    result: Ref | Weight


class Backward(NamedTuple):
    """``loss.backward()``. ``grads`` are the parameters that get their first gradient, and the slots of these."""

    loss: Ref
    grads: tuple[tuple[str, int], ...]


class Repeat(NamedTuple):
    """Events that are called so many times (``repeats.py``).

    Each pass has the slots from ``first`` on ``stride`` above those of the pass before it, and so has what follows. So
    what a pass leaves is renamed by ``-stride`` when it ends, and all passes can be run with the same slots.

    ``place``: of a pass beside the one that stands for many, -1 before it and 1 behind it.
    """

    count: Any
    first: int
    stride: int
    events: tuple[Any, ...]
    place: int = 0


Event = Union[Call, Drop, Enter, Exit, GradMode, Autocast, Function, Backward, Repeat]


class Stored(NamedTuple):
    """A parameter, a buffer or a plain tensor attribute of a module."""

    name: str
    shape: Shape
    dtype: str
    requires_grad: bool = False
    added: bool = False
    """The fine-tuning method adds it."""
    unreached: bool = False
    """The loss does not depend on it while it is trained, so it gets no gradient."""
    storage: Size | None = None
    """The elements of its storage where these are not its own: it is a view of more, or shares an earlier one's (0)."""


class Body(NamedTuple):
    """What one of the layers that follow each other calls, from its start to the next one's.

    A loop may do something between two layers, so ``exit``, the index of the layer's own ``Exit``, need not be the
    last. Slots are relative: see ``Program.events_of``.
    """

    events: tuple[Event, ...]
    exit: int


class ModuleCall(NamedTuple):
    """A module's call: the events that it is among, and the indices of its ``Enter`` and its ``Exit``."""

    events: tuple[Event, ...]
    enter: int
    exit: int


def index_of_exit(events: Sequence[Event]) -> int:
    """The index of the layer's own exit."""
    return max(i for i, event in enumerate(events) if isinstance(event, Exit) and event.path == "{}")


class Stack(NamedTuple):
    """Layers that follow each other, such as an encoder's or a decoder's."""

    path: str
    """The path of a layer, with ``{}`` for its index."""
    depth: int
    """How many layers there are."""


SPAN = 1 << 20
"""Slots below it are made outside the layers. The layer at the place i has those from ``(i + 1) * SPAN`` on. In a body,
the layer's own are those from ``SPAN`` on, and those of the layer ``d`` before it from ``(d + 1) * SPAN`` on. What a
stack's first layer is called with has the slot of a result of the place before it (``Program.places``)."""


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
    before: tuple[Event, ...]
    """What is called before the first layer, or all of it where no layers were found."""
    bodies: tuple[Body, ...]
    """The layers that differ."""
    layers: tuple[int, ...]
    """For each layer, which of the bodies it runs. The layers of all stacks are numbered together."""
    after: tuple[Event, ...]
    """What is called after the last layer."""
    stacks: tuple[Stack, ...] = ()
    between: tuple[tuple[Event, ...], ...] = ()
    """What is called after each stack of layers but the last."""
    dtype: str = ""
    """The dtype that most weights have: the plan's."""
    plain: frozenset[str] = frozenset()
    """Modules that do just what ``nn.Linear`` or ``nn.Embedding`` does."""
    tied: Mapping[str, str] = field(default_factory=dict)
    """Parameters that are another one's, by name."""
    checkpoints: frozenset[str] = frozenset()
    """Other modules than the layers around which transformers puts a checkpoint."""
    routed: bool = False
    """Sizes depend on which experts tokens choose."""
    returns_cache: bool = False
    """The module gives back a cache that it is given, whatever ``use_cache`` says."""
    hooks: Mapping[str, Hook] = field(default_factory=dict)
    """For parameters that have some, what their hooks do."""
    split: Any = None
    """How the weights are split over processes, if it is one's (``split.Split``)."""

    def events_of(self, layer: int) -> tuple[Event, ...]:
        """The events of a layer, with its own slots and paths."""
        if layer not in self._instances:
            path, place = self.paths[layer], self.places[layer]

            def slot(number: int) -> int:
                distance = number // SPAN - 1
                return number if distance < 0 else number + (place - 2 * distance) * SPAN

            events = self.bodies[self.layers[layer]].events
            self._instances[layer] = tuple(
                renamed(event, slot, lambda name: name.replace("{}", path, 1)) for event in events
            )
        return self._instances[layer]

    @cached_property
    def _instances(self) -> dict[int, tuple[Event, ...]]:
        return {}

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """For each layer, its path."""
        return tuple([stack.path.format(i) for stack in self.stacks for i in range(stack.depth)])

    @cached_property
    def stack_of(self) -> tuple[int, ...]:
        """For each layer, the number of its stack."""
        return tuple([k for k, stack in enumerate(self.stacks) for _ in range(stack.depth)])

    @cached_property
    def places(self) -> tuple[int, ...]:
        """For each layer, where its slots are: its number, with a free place before each stack but the first."""
        return tuple([layer + stack for layer, stack in enumerate(self.stack_of)])

    @property
    def outside(self) -> tuple[tuple[Event, ...], ...]:
        """What is called before, between and after the stacks."""
        return (self.before, *self.between, self.after)

    def exit_of(self, layer: int) -> int:
        """The index of a layer's ``Exit`` among its events."""
        return self.bodies[self.layers[layer]].exit

    def module_call(self, path: str) -> ModuleCall:
        """A module's first call. Raises ``KeyError`` for a module that is not called."""
        layer = self.layer_of.get(path)
        if layer not in self._module_calls:
            self._module_calls[layer] = _calls_in(self.outside if layer is None else (self.events_of(layer),))
        if layer is None and path not in self._module_calls[None]:
            return self._calls_between[path]
        return self._module_calls[layer][path]

    @cached_property
    def _calls_between(self) -> dict[str, ModuleCall]:
        """What is called after a layer and before the next one, and is in none, such as Qwen3-VL's mergers."""
        return _calls_in(self.events_of(self.layers.index(body)) for body in range(len(self.bodies)))

    @cached_property
    def _module_calls(self) -> dict[int | None, dict[str, ModuleCall]]:
        """By the number of a layer: the calls within it. ``None``: those outside the layers."""
        return {}

    @cached_property
    def asks_interfaces(self) -> bool:
        """Whether it calls what transformers chooses by the setting."""
        return self._calls(INTERFACES)

    @cached_property
    def updates_cache(self) -> bool:
        """Whether its layers store keys and values in a cache that they are given."""
        return self._calls((UPDATE,))

    def _calls(self, ops: Sequence[str]) -> bool:
        return any(
            isinstance(event, Call) and event.op in ops
            for events in (*self.outside, *(body.events for body in self.bodies))
            for event in events
        )

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

    @cached_property
    def tied_of(self) -> dict[str, list[str]]:
        """For each module, the names of its parameters that are another module's."""
        found: dict[str, list[str]] = {}
        for name in self.tied:
            found.setdefault(name.rpartition(".")[0], []).append(name)
        return found

    @cached_property
    def layer_of(self) -> dict[str, int]:
        """For each module that is a layer or in one, the layer's number."""
        return layer_numbers(self.rows, self.paths)

    def numbered_modules(self) -> tuple[NamedModule[Any], ...]:
        """The modules, each with the number of its layer."""
        return tuple([m._replace(layer=self.layer_of.get(m.path)) for m in self.modules])

    @cached_property
    def layer_modules(self) -> tuple[tuple[str, ...], ...]:
        """For each layer, its modules' paths."""
        found: list[list[str]] = [[] for _ in self.layers]
        for path, number in self.layer_of.items():
            found[number].append(path)
        return tuple(map(tuple, found))

    def rename(self, frame: dict[int, Any], layer: int, other: int) -> None:
        """Give what is left of a layer's tensors the slots of an equal layer's, of the same stack."""
        start = (self.places[layer] + 1) * SPAN
        for slot in [slot for slot in frame if start <= slot < start + SPAN]:
            frame[slot + (other - layer) * SPAN] = frame.pop(slot)

    @cached_property
    def kinds(self) -> tuple[int, ...]:
        """For each layer, the first layer that calls the same. Where names die does not matter."""
        if self.looks_back:
            return tuple(range(len(self.layers)))
        seen: dict[Any, int] = {}
        of_body = [
            seen.setdefault(tuple(e for e in b.events if not isinstance(e, Drop)), i) for i, b in enumerate(self.bodies)
        ]
        return tuple(of_body[body] for body in self.layers)

    @cached_property
    def looks_back(self) -> bool:
        """Whether something uses, or lets go of, what a layer other than the one just before it has made."""
        within = (slot for b in self.bodies for e in b.events for slot in used(e))
        if any(slot >= 3 * SPAN for slot in within):
            return True
        layer = 0
        for stack, events in zip(self.stacks, self.outside[1:], strict=False):
            layer += stack.depth
            before = {place + 1 for place in self.places[: layer - 1]}  # but for the stack's last layer
            if any(slot // SPAN in before for e in events for slot in (*used(e), *dropped(e))):
                return True
        return False


def layer_numbers(paths: Iterable[str], layers: Sequence[str]) -> dict[str, int]:
    """For each path that is a layer's or begins with one, the layer's number."""
    numbers = {path: i for i, path in enumerate(layers)}
    found = {}
    for path in paths:
        parts = path.split(".")
        for end in range(len(parts), 0, -1):
            if (number := numbers.get(".".join(parts[:end]))) is not None:
                found[path] = number
                break
    return found


def _calls_in(parts: Iterable[Sequence[Event]]) -> dict[str, ModuleCall]:
    """The first call of each module."""
    found: dict[str, ModuleCall] = {}
    for events in parts:
        for enter, exit_ in sorted(exits(events).items()):
            event = events[enter]
            assert isinstance(event, Enter)
            found.setdefault(event.path, ModuleCall(tuple(events), enter, exit_))
    return found


def exits(events: Sequence[Event]) -> dict[int, int]:
    """For each ``Enter``, by its index, the index of its ``Exit``."""
    found: dict[int, int] = {}
    open_: list[int] = []
    for i, event in enumerate(events):
        if isinstance(event, Enter):
            open_.append(i)
        elif isinstance(event, Exit) and open_:  # a module that is around the layers is entered before them
            found[open_.pop()] = i
    return found


def made(event: Event) -> Iterator[int]:
    """The slots of an event's results."""
    if isinstance(event, Call):
        for one in event.out:
            yield one.slot
    elif isinstance(event, Function):
        yield event.out.slot
    elif isinstance(event, Repeat):
        yield from (_after_pass(event, slot) for inner in event.events for slot in made(inner))


def used(event: Event) -> Iterator[int]:
    """The slots of an event's operands."""
    if isinstance(event, Call):
        yield from _slots((event.args, event.keywords))
    elif isinstance(event, Function):
        yield from _slots(event.inputs)
    elif isinstance(event, Enter):
        yield from _slots((event.args, event.keywords))
    elif isinstance(event, Repeat):
        yield from free_slots(event.events)


def dropped(event: Event) -> Iterator[int]:
    """The slots whose last names die."""
    if isinstance(event, Drop):
        yield event.slot
    elif isinstance(event, Repeat):
        yield from (_after_pass(event, slot) for inner in event.events for slot in dropped(inner))


def _after_pass(loop: Repeat, slot: int) -> int:
    """What a slot of a loop's pass is called when the pass has ended."""
    return slot - loop.stride if loop.first + loop.stride <= slot < (loop.first // SPAN + 1) * SPAN else slot


def end_pass(loop: Repeat, frame: dict[int, Any]) -> None:
    """Rename what a loop's pass leaves."""
    for event in loop.events:
        for slot in made(event):
            if slot in frame:
                frame[_after_pass(loop, slot)] = frame.pop(slot)


def free_slots(events: Sequence[Event]) -> list[int]:
    """The slots that events use and do not make."""
    free: dict[int, None] = {}
    own: set[int] = set()
    for event in events:
        for slot in used(event):
            if slot not in own:
                free[slot] = None
        own.update(made(event))
    return list(free)


def _slots(tree: Any) -> Iterator[int]:
    if isinstance(tree, Ref):
        yield tree.slot
    elif isinstance(tree, tuple) and not isinstance(tree, (Weight, DtypeOf, Rate)):
        for x in tree:
            yield from _slots(x)


def renamed(event: Any, slot: Callable[[int], int], name: Callable[[str], str]) -> Any:
    """An event, or a part of one, with other slots, paths and names of weights."""
    kind = type(event)
    if kind is Ref or kind is Drop:
        return kind(slot(event[0]))
    if kind is DtypeOf:
        return DtypeOf(slot(event.slot), event.dtype)
    if kind is Weight:
        return Weight(name(event.name))
    if kind is Made:
        return Made(slot(event.slot), event.shape, event.dtype)
    if kind is Call:
        return Call(
            event.op,
            renamed(event.args, slot, name),
            tuple([(key, renamed(x, slot, name)) for key, x in event.keywords]),
            tuple([Made(slot(m.slot), m.shape, m.dtype) for m in event.out]),
        )
    if kind is Enter or kind is Exit:
        return kind(name(event.path), *[renamed(x, slot, name) for x in event[1:]])
    if kind is Function:
        inner = [renamed(x, slot, name) for x in event[1:]]
        unpacked = tuple(x if x < 0 else slot(x) for x in event.unpacked)
        return Function(event.name, *inner)._replace(
            unpacked=unpacked, grad=slot(event.grad) if event.grad >= 0 else -1
        )
    if kind is tuple:
        return tuple([renamed(x, slot, name) for x in event])
    if kind is Repeat:
        return event._replace(first=slot(event.first), events=tuple([renamed(x, slot, name) for x in event.events]))
    if (events := getattr(event, "events", None)) is not None:  # a loop over rows (``rows.Rows``)
        return event._replace(events=tuple([renamed(x, slot, name) for x in events]))
    return event


def slots_in(event: Any) -> list[int]:
    """The slots that an event names, its results' among them, as they come."""
    found: list[int] = []

    def note(slot: int) -> int:
        found.append(slot)
        return slot

    renamed(event, note, str)
    return found


def with_weights(event: Any, weights: Mapping[str, Weight | None]) -> Any:
    """An event, or a part of one, with other weights in place of some, by name."""
    kind = type(event)
    if kind is Weight:
        return weights.get(event.name, event)
    if kind is Call:
        return event._replace(args=with_weights(event.args, weights), keywords=with_weights(event.keywords, weights))
    if kind in (Enter, Exit, Function, Repeat):
        return kind(*[with_weights(x, weights) for x in event])
    if kind is tuple:
        return tuple([with_weights(x, weights) for x in event])
    return event


def fold(
    events: Sequence[Event],
    stacks: Sequence[Sequence[str]],
    starts: Sequence[int] = (),
    results: Iterable[int] = (),
) -> tuple[dict[str, Any], Callable[[int], int]]:
    """The parts of a program from the events of a whole forward pass and, for each stack, the paths of its layers.

    Each layer must be entered once, or none of a stack, whose layers then call nothing. ``starts`` are the indices of
    their first events, by default of their ``Enter``. ``results`` are slots of results, of which events may use none.
    The function that comes with the parts gives new slots for old ones.
    """
    if not stacks:
        return {"before": tuple(events), "bodies": (), "layers": (), "after": ()}, lambda slot: slot
    spans = _spans(events, stacks, starts)
    slots = _numbered(events, spans, results)
    bodies: dict[Body, int] = {}
    numbers = []
    for span in itertools.chain(*spans):

        def slot(old: int, place: int = span.place) -> int:
            new = slots[old]
            made_at = new // SPAN - 1  # -1 outside the layers
            if made_at < 0:  # what the first layer is called with stands for the result of a layer before it
                return new if new or place else 2 * SPAN
            return new + (place - 2 * made_at) * SPAN

        def name(old: str, path: str = span.path) -> str:
            return "{}" + old[len(path) :] if old == path or old.startswith(f"{path}.") else old

        own = tuple([renamed(e, slot, name) for e in events[span.start : span.stop]])
        numbers.append(bodies.setdefault(Body(own, span.left - span.start), len(bodies)))

    def outside(start: int, stop: int | None) -> tuple[Event, ...]:
        return tuple([renamed(e, slots.__getitem__, str) for e in events[start:stop]])

    parts = {
        "before": outside(0, spans[0][0].start),
        "bodies": tuple(bodies),
        "layers": tuple(numbers),
        "after": outside(spans[-1][-1].stop, None),
        "stacks": tuple([_stack(paths) for paths in stacks]),
        "between": tuple([outside(a[-1].stop, b[0].start) for a, b in itertools.pairwise(spans)]),
    }
    return parts, slots.__getitem__


def _stack(paths: Sequence[str]) -> Stack:
    return Stack(f"{paths[0].rpartition('.')[0]}.{{}}".removeprefix("."), len(paths))


class _Span(NamedTuple):
    """A layer in the events of a forward pass."""

    path: str
    start: int
    stop: int
    left: int
    """The index of its ``Exit``."""
    place: int
    entered: int
    """The index of its ``Enter``; that of the last event and one more where it is not called."""

    @property
    def is_called(self) -> bool:
        return self.start < self.stop


def _spans(events: Sequence[Event], stacks: Sequence[Sequence[str]], starts: Sequence[int]) -> list[list[_Span]]:
    """The layers of each stack."""
    entered = {e.path: i for i, e in enumerate(events) if isinstance(e, Enter)}
    left = {e.path: i for i, e in enumerate(events) if isinstance(e, Exit)}
    called = [paths[0] in entered for paths in stacks]
    begins = iter(
        starts
        or [entered[path] for paths, is_called in zip(stacks, called, strict=True) if is_called for path in paths]
    )
    places = itertools.count()
    found = []
    for number, paths in enumerate(stacks):
        if not called[number]:  # it lies before the next one that is called, or behind all
            following = (
                entered[other[0]]
                for other, is_called in zip(stacks[number:], called[number:], strict=True)
                if is_called
            )
            at = next(following, len(events))
            found.append([_Span(path, at, at, at, next(places), len(events)) for path in paths])
            next(places)
            continue
        own = [next(begins) for _ in paths]
        end = left[paths[-1]] + 1
        while end < len(events) and isinstance(events[end], Drop):
            end += 1  # what the loop lets go of when it takes the layer's result
        found.append(
            [
                _Span(path, start, stop, left[path], next(places), entered[path])
                for path, start, stop in zip(paths, own, [*own[1:], end], strict=True)
            ]
        )
        next(places)  # stays free
    return found


def _numbered(
    events: Sequence[Event], stacks: Sequence[Sequence[_Span]], results: Iterable[int] = ()
) -> dict[int, int]:
    """New slots for old ones (``SPAN``).

    A layer's results come first among its own, and what the first layer is called with comes first at the place before
    it. So a layer that takes the result of the one before it looks alike, whichever layer that is. In a program of
    several stacks, what others than the next layer use, such as an encoder's output, has a slot outside the layers.
    """
    found: dict[int, int] = {}
    spans = [span for span in itertools.chain(*stacks) if span.is_called]
    far = _far(events, spans) if len(stacks) > 1 else set()
    for span, *_ in stacks:
        if not span.is_called:
            continue
        first = events[span.entered]
        assert isinstance(first, Enter)
        for ref in first.args[:1]:
            if isinstance(ref, Ref) and ref.slot not in far:
                found.setdefault(ref.slot, span.place * SPAN)
    outside = itertools.count(1)
    layer = 0
    own: Iterator[int] = iter(())
    for i, event in enumerate(events):
        if layer < len(spans) and i == spans[layer].start:
            own = itertools.count((spans[layer].place + 1) * SPAN)
            result = events[spans[layer].left]
            assert isinstance(result, Exit)
            for ref in result.out:
                if isinstance(ref, Ref) and ref.slot not in found and ref.slot not in far:
                    found[ref.slot] = next(own)
        within = layer < len(spans) and spans[layer].start <= i < spans[layer].stop
        for slot in (*made(event), *_inner(event)):
            if slot not in found:
                found[slot] = next(own if within and slot not in far else outside)
        if within and i + 1 == spans[layer].stop:
            layer += 1
    for event in events:  # the inputs, which nothing makes
        for slot in (*used(event), *dropped(event)):
            if slot not in found:
                found[slot] = next(outside)
    for slot in results:
        if slot not in found:
            found[slot] = next(outside)
    return found


def _far(events: Sequence[Event], spans: Sequence[_Span]) -> set[int]:
    """The slots that others use than the layer which makes them, the next one of its stack, and what follows a stack's
    last layer before the next stack's first.
    """
    at: list[int] = []  # for each event twice its layer's place, or one more outside, behind that layer
    for span in spans:
        at += [at[-1] | 1 if at else -1] * (span.start - len(at))
        at += [2 * span.place] * (span.stop - span.start)
    at += [at[-1] | 1 if at else -1] * (len(events) - len(at))
    made_at: dict[int, int] = {}
    far: set[int] = set()
    for where, event in zip(at, events, strict=True):
        far.update(slot for slot in (*used(event), *dropped(event)) if where - made_at.get(slot, where) > 2)
        if where % 2 == 0:
            made_at |= dict.fromkeys((*made(event), *_inner(event)), where)
    return far


def _inner(event: Event) -> Iterator[int]:
    """The slots that are made within a custom function."""
    if isinstance(event, Function):
        yield from (slot for slot in (*event.unpacked, event.grad) if slot >= 0)
        for inner in (*event.forward, *event.backward):
            yield from made(inner)
            yield from _inner(inner)
