"""Runs the events of a program over the ledger, with operators' rules, and other modules in place of recorded ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from typing import Any

from ..errors import InputError
from ..ledger import Call as BackwardCall
from ..ledger import Ledger, Tensor, backward
from ..ledger import record as record_node
from ..ledger.sizes import is_so
from ..operators.layout import normalised
from ..operators.table import RULES, Result
from .interfaces import Interfaces
from .modules import Module
from .program import (
    CACHED,
    INTERFACES,
    Autocast,
    Backward,
    Call,
    Drop,
    DtypeOf,
    Enter,
    Event,
    Exit,
    Function,
    GradMode,
    Hook,
    Program,
    Ref,
    Repeat,
    Weight,
    dropped,
    end_pass,
    exits,
    free_slots,
    made,
)
from .step import ModuleHooks


class Frame(dict[int, Tensor]):
    """The tensors that have names, by slot. What is not in it is looked up in the frame around it."""

    __slots__ = ("outer",)

    def __init__(self, outer: Frame | None = None) -> None:
        super().__init__()
        self.outer = outer

    def __missing__(self, slot: int) -> Tensor:
        if self.outer is None:
            raise InputError(f"the program uses slot {slot}, which has no tensor there; record it again")
        return self.outer[slot]

    def find(self, slot: int) -> Tensor | None:
        """The tensor of a slot, or ``None``: a mask that there is not, for one."""
        found = self.get(slot)
        return self.outer.find(slot) if found is None and self.outer is not None else found


class Sharing(Frame):
    """The tensors of layers within a checkpoint. Once all that outlive it are made, they are put into the frame around.

    Layers of transformers that share keys and values have a dict for them, which a layer writes again when it is run
    again. What was in it is freed, and what is in it keeps the graph of the second run.
    """

    __slots__ = ("shared",)

    def __init__(self, outer: Frame, shared: Set[int]) -> None:
        super().__init__(outer)
        self.shared = shared

    def __setitem__(self, slot: int, tensor: Tensor) -> None:
        super().__setitem__(slot, tensor)
        if slot in self.shared and self.keys() >= self.shared:
            assert self.outer is not None
            for one in self.shared:
                self.outer[one] = self[one]


def _is_none(count: int) -> bool:
    return count < 1


class EventLoop:
    """A module's program: its weights in a ledger, and the modules that replace the recorded ones."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.weights: dict[str, Tensor] = {}
        self.replaced: dict[str, Module] = {}
        self.program: Program | None = None
        """The program that runs now."""
        self.parametrized: dict[str, Callable[[], Tensor]] = {}
        """What makes the tensors that take the place of parameters now, by these names."""
        self.trained: set[str] = set()
        """Names of the parameters that have got a gradient."""
        self._gradients: dict[int, str] = {}
        """Names of the parameters whose gradients have these slots."""
        self._exits: dict[int, tuple[dict[int, int], Sequence[Event]]] = {}
        self.cached: dict[int, Tensor] = {}
        """What the cache has from forward passes before, by the slots of the calls that take it."""
        self.checkpoints: frozenset[str] = frozenset()
        """The modules that run in a checkpoint."""
        self.checkpoint: Callable[..., Any] | None = None
        """What runs a function of tensors in a checkpoint."""
        self.watch: Callable[[str, bool], None] = lambda path, entered: None
        """Called with a module's path where it is entered and left."""
        self.hooks: ModuleHooks
        """What is called around the modules of ``hooked`` (``step.ModuleHooks``)."""
        self.hooked: frozenset[str] = frozenset()
        self._given: dict[str, dict[int, Tensor]] = {}
        """What these were given in place of copies, by slots."""
        self.interfaces: Interfaces | None = None
        """What the setting chooses of what the program calls."""
        self.dtypes: dict[int, str] = {}
        """The dtypes of tensors that are not alive any more, by their slots, where the program asks for them."""

    def run(self, events: Sequence[Event], start: int, stop: int, frame: Frame) -> None:
        """Run events in a frame. A replaced module is called in place of its events."""
        i = start
        ledger = self.ledger
        outer: list[str] = []  # the modules around those that are entered here, or replaced
        while i < stop:
            event: Any = events[i]
            i += 1
            kind = type(event)
            if kind is Call:
                self._call(event, frame)
            elif kind is Drop:
                if self.interfaces is not None and event.slot in frame:
                    self.dtypes[event.slot] = frame[event.slot].dtype
                frame.pop(event.slot, None)
                if event.slot in self._gradients:
                    self.weights[self._gradients.pop(event.slot)].grad = None
            elif kind is Enter:
                module = self.replaced.get(event.path)
                if event.path in self.hooked:
                    self._given[event.path] = self.before_module(self.hooks, event, frame)
                outer.append(ledger.within)
                self.watch(event.path, True)
                if module is None and not (event.path in self.checkpoints and ledger.grad_enabled):
                    ledger.module = ledger.within = event.path
                else:
                    end = self._exit(events, i - 1)
                    if module is None:
                        self.run_in_checkpoint([events[i:end]], event, events[end:], frame)
                    else:
                        self._module(module, events, i - 1, end, frame)
                    self._drop_outer(events, i, end, frame)
                    i = end
            elif kind is Exit:
                if event.path in self.hooked:
                    self.after_module(self.hooks, event, frame, self._given.pop(event.path, {}))
                self.watch(event.path, False)
                ledger.within = outer.pop() if outer else ""
            elif kind is Repeat:
                self._repeat(event, frame)
            elif kind is Function:
                self._function(event, frame)
            elif kind is GradMode:
                ledger.grad_enabled = event.enabled and self._grad
            elif kind is Backward:
                self._backward(event, frame)
            elif kind is Autocast:
                ledger.autocast = self._autocast if event.enabled else None
                if event.clears:
                    ledger.clear_autocast_cache()

    @staticmethod
    def before_module(hooks: ModuleHooks, enter: Enter, frame: Frame) -> dict[int, Tensor]:
        """Call what is called before a module. Returns, by their slots, the inputs that it has replaced by copies."""
        named = (*enter.args, *enter.keywords)
        given = {x.slot: frame[x.slot] for x in named if isinstance(x, Ref) and x.slot in frame}
        frame.update(zip(given, hooks.before_module(enter.path, [*given.values()]), strict=True))
        return {slot: x for slot, x in given.items() if frame[slot].storage is not x.storage}

    @staticmethod
    def after_module(hooks: ModuleHooks, exit_: Exit, frame: Frame, given: Mapping[int, Tensor]) -> None:
        """Call what is called with a module's outputs. What is used again of the inputs is as it was ``given``."""
        hooks.after_module(exit_.path, [frame[x.slot] for x in exit_.out if isinstance(x, Ref) and x.slot in frame])
        frame.update({slot: x for slot, x in given.items() if slot in frame})

    def _repeat(self, loop: Repeat, frame: Frame) -> None:
        """Run a pass of a loop and count it for all, unless the ledger is unrolled and no log outlines loops."""
        ledger, count, events = self.ledger, loop.count, self.ledger.events
        each, outer = ledger.unrolled, ledger.turn
        is_so(_is_none, count, ruled=False)
        if events is not None and events.outlines_loops:
            each, ledger.turn = False, events.turn_of(loop.place, count)
        try:
            for _ in range(count if each else 1):
                with ledger.counted(1 if ledger.unrolled else count):
                    self.run(loop.events, 0, len(loop.events), frame)
                    end_pass(loop, frame)  # which frees what the pass before handed on, and this one anew
                end_pass(loop, self.dtypes)
        finally:  # a checkpoint stops within it
            ledger.turn = outer

    def run_in_checkpoint(
        self,
        parts: Sequence[Sequence[Event]],
        enter: Enter,
        then: Sequence[Event],
        frame: Frame,
        hooks: ModuleHooks | None = None,
    ) -> None:
        """Run parts of a program in a checkpoint. A module is entered before them, and ``then`` it is left.

        ``hooks`` are called in the checkpoint around that module.
        """
        assert self.checkpoint is not None
        exit_ = then[0]
        assert isinstance(exit_, Exit)
        positional = [x.slot for x in enter.args if isinstance(x, Ref) and frame.find(x.slot) is not None]
        within = [event for part in parts for event in part]
        others = [slot for slot in free_slots(within) if slot not in positional and slot in frame]
        gone = {slot for event in (*within, *then) for slot in dropped(event)}
        own = {slot for event in within for slot in made(event)}
        out = tuple(dict.fromkeys(x.slot for x in exit_.out if isinstance(x, Ref) and x.slot in own))
        outer = Frame() if frame.outer is None else frame.outer
        shared = own - gone - {*out}
        around = None if hooks is None else (hooks, enter, exit_)
        function = partial(self._within, self.program, parts, (*positional, *others), out, outer, shared, around)
        given = tuple(frame[slot] for slot in positional)
        rest = tuple(frame[slot] for slot in others)
        results = self.checkpoint(function, given, rest)
        frame.update(zip(out, results, strict=True))

    def _within(
        self,
        program: Program | None,
        parts: Sequence[Sequence[Event]],
        slots: tuple[int, ...],
        out: tuple[int, ...],
        outer: Frame,
        shared: Set[int],
        around: tuple[ModuleHooks, Enter, Exit] | None,
        *args: Tensor,
    ) -> tuple[Tensor, ...]:
        frame = Sharing(outer, shared)
        for slot, tensor in zip(slots, args, strict=True):
            frame[slot] = tensor
        running, self.program = self.program, program  # a second run may come while a part of a sequence runs again
        given = {} if around is None else self.before_module(around[0], around[1], frame)
        for events in parts:
            self.run(events, 0, len(events), frame)
        if around is not None:
            self.after_module(around[0], around[2], frame, given)
        self.program = running
        return tuple(frame[slot] for slot in out)

    _grad = True
    _autocast: str | None = None

    def start(self) -> None:
        """Remember the modes that the program switches off and on again."""
        self._grad, self._autocast = self.ledger.grad_enabled, self.ledger.autocast

    def value(self, argument: Any, frame: Frame) -> Any:
        """An argument, with tensors in place of their names."""
        kind = type(argument)
        if kind is Ref:
            return frame[argument.slot]
        if kind is Weight:
            made = self.parametrized.get(argument.name)
            return self.weights[argument.name] if made is None else made()
        if kind is DtypeOf:
            return self._dtype(argument, frame)
        if kind is tuple and argument:
            return tuple([self.value(x, frame) for x in argument])
        return argument

    def _dtype(self, argument: DtypeOf, frame: Frame) -> str:
        """The dtype of a tensor, which may be alive no more."""
        tensor = frame.find(argument.slot)
        return self.dtypes.get(argument.slot, argument.dtype) if tensor is None else tensor.dtype

    def _interface(self, call: Call, frame: Frame) -> None:
        """Call what the setting chooses. An operand may be ``None``, and so may a result."""
        assert self.interfaces is not None
        args = [frame.find(x.slot) if type(x) is Ref else self.value(x, frame) for x in call.args]
        keywords = {name: self.value(x, frame) for name, x in call.keywords}
        try:
            out = list(zip(call.out, self.interfaces(call.op, *args, **keywords), strict=True))
        except (TypeError, AttributeError, ValueError) as error:
            raise InputError(f"this model calls {call.op} in a way that has no rule ({error})") from None
        args.clear()
        for one, tensor in out:
            if tensor is not None:
                frame[one.slot] = tensor

    def fill_cache(self, events: Sequence[Event]) -> None:
        """Make the tensors that events take from the cache."""
        for event in events:
            if isinstance(event, Call) and event.op == CACHED:
                (out,) = event.out
                elements, strides = event.args
                storage = self.ledger.empty((elements,), out.dtype).storage
                self.cached[out.slot] = Tensor(storage, out.shape, out.dtype, normalised(out.shape, strides))

    def _call(self, call: Call, frame: Frame) -> None:
        if call.op == CACHED:
            frame[call.out[0].slot] = self.cached.pop(call.out[0].slot)
            return
        if call.op in INTERFACES:
            self._interface(call, frame)
            return
        rule = RULES.get(call.op)
        if rule is None:
            raise InputError(f"this model calls {call.op}, for which this version has no rule")
        made = call.out
        args = [self.value(x, frame) for x in call.args]
        keywords = {name: self.value(x, frame) for name, x in call.keywords}
        result = Result(self.ledger, made[0].shape, made[0].dtype, made) if made else Result(self.ledger, (), "", ())
        if self.interfaces is not None and type(asked := dict(call.keywords).get("dtype")) is DtypeOf:
            result = result._replace(dtype=self._dtype(asked, frame))
        running, self.ledger.running = self.ledger.running, call.op
        try:
            out = rule(result, *args, **keywords)
        except InputError:
            raise
        except (TypeError, AttributeError, LookupError, ValueError, ArithmeticError) as error:  # a damaged program
            raise InputError(f"this model calls {call.op} in a way that has no rule ({error})") from None
        self.ledger.running = running
        args.clear()
        keywords.clear()
        if len(made) == 1:
            if type(out) is list or type(out) is tuple:
                (out,) = out
            self._check(call, made[0], out)
            frame[made[0].slot] = out
        else:
            for one, tensor in zip(made, out or (), strict=True):
                self._check(call, one, tensor)
                frame[one.slot] = tensor

    def _exit(self, events: Sequence[Event], enter: int) -> int:
        """The index of the ``Exit`` that belongs to an ``Enter``."""
        if id(events) not in self._exits:
            self._exits[id(events)] = exits(events), events
        return self._exits[id(events)][0][enter]

    def _check(self, call: Call, made: Any, out: Tensor) -> None:
        if self.interfaces is not None and out.shape == made.shape:
            return  # dtypes follow from those of the operands, whatever the program was recorded with
        if out.shape == made.shape and out.dtype != made.dtype and self.ledger.autocast is not None:
            raise InputError(
                f"under autocast {call.op} of this model gives {out.dtype} here, and {made.dtype} in its program, for "
                "which there is no rule; leave autocast out, or take an unquantised dtype"
            )
        if out.shape != made.shape or out.dtype != made.dtype:
            raise InputError(
                f"the rule of {call.op} gives {out.dtype} {out.shape} where PyTorch gives {made.dtype} {made.shape}"
            )

    def _module(self, module: Module, events: Sequence[Event], start: int, stop: int, frame: Frame) -> None:
        exit_ = events[stop]
        assert isinstance(exit_, Exit)
        given = [frame.find(slot) for slot in operands(events, start, stop)]
        enter = events[start]
        assert isinstance(enter, Enter)
        given = given or [self.value(x, frame) for x in enter.args]  # a parameter, which a method looks up in a layer
        out = module(*given)
        for name, tensor in zip(exit_.out, (out,) if isinstance(out, Tensor) else out, strict=True):
            assert isinstance(name, Ref)
            if tensor is not None:  # attention's weights, which not all implementations give
                frame[name.slot] = tensor

    @staticmethod
    def _drop_outer(events: Sequence[Event], start: int, stop: int, frame: Frame) -> None:
        """Drop what dies within skipped events, if it was made before them."""
        for i in range(start, stop):
            for slot in dropped(events[i]):
                frame.pop(slot, None)

    def run_region(self, path: str, weights: Mapping[str, Tensor], *args: Tensor | None) -> Any:
        """Run the recorded events of a module with other tensors for its operands and its weights."""
        assert self.program is not None
        events, start, stop = self.program.module_call(path)
        exit_ = events[stop]
        assert isinstance(exit_, Exit)
        frame = Frame()
        for slot, tensor in zip(operands(events, start, stop), args, strict=True):
            if tensor is not None:
                frame[slot] = tensor
        outer, self.weights = self.weights, {**self.weights, **weights}
        self.run(events, start + 1, stop, frame)
        self.weights = outer
        out = [frame.find(x.slot) if isinstance(x, Ref) else self.value(x, frame) for x in exit_.out]
        return out[0] if len(out) == 1 else tuple(out)

    def _backward(self, event: Backward, frame: Frame) -> None:
        ledger = self.ledger
        ledger.mark("backward")
        backward(ledger, frame[event.loss.slot])
        ledger.phase = "step"
        for name, slot in event.grads:
            grad = self.weights[name].grad
            if grad is None:
                raise InputError("the step's backward gives a parameter no gradient where PyTorch's does")
            frame[slot] = grad
            self._gradients[slot] = name
            self.trained.add(name)

    def _function(self, function: Function, frame: Frame) -> None:
        ledger = self.ledger
        inputs = [None if x is None else self.value(x, frame) for x in function.inputs]
        inner = Frame(frame)
        attached: dict[int, Tensor] = {}

        def make() -> Tensor:
            with ledger.no_grad():
                self.run(function.forward, 0, len(function.forward), inner)
            out: Tensor = self.value(function.inner, inner)
            return out.alias()

        out = record_node(f"{function.name}Backward", make, inputs, (), _function_backward, self, function, attached)
        if out.node is not None:
            node = out.node
            node.saved = [
                ledger.pack(
                    None if x is None else out if x == function.inner else self.value(x, inner), node.name, i, inputs
                )
                for i, x in enumerate(function.saved)
            ]
            for x in function.attached:
                held = self.value(x, inner)
                node.attach(held)
                if isinstance(x, Ref):
                    attached[x.slot] = held.alias()
        frame[function.out.slot] = out

    def run_hook(self, hook: Hook, grad: Tensor) -> Tensor:
        """What a parameter's hooks make of its gradient."""
        frame = Frame()
        frame[hook.grad] = grad
        self.run(hook.events, 0, len(hook.events), frame)
        changed: Tensor = self.value(hook.result, frame)
        return changed


def _function_backward(call: BackwardCall) -> tuple[Tensor | None, ...]:
    recorded, function, attached = call.args
    frame = Frame()
    frame.update(attached)
    for slot, tensor in zip(function.unpacked, call.saved, strict=True):
        if slot >= 0:
            frame[slot] = tensor
    frame[function.grad] = call.grad
    recorded.run(function.backward, 0, len(function.backward), frame)
    return tuple(None if x is None else recorded.value(x, frame) for x in function.results)


def operands(events: Sequence[Event], start: int, stop: int) -> list[int]:
    """The slots that a module's calls use: its arguments, and what they look up outside."""
    enter = events[start]
    assert isinstance(enter, Enter)
    own = [x.slot for x in (*enter.args, *enter.keywords) if isinstance(x, Ref)]
    return list(dict.fromkeys([*own, *free_slots(events[start + 1 : stop])]))
