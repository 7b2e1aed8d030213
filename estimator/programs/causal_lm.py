"""A model that runs from its program, with the method's, the base's and the step's rules around its modules."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property, partial
from typing import Any

from .. import operators as ops
from ..errors import InputError
from ..ledger import Size, Tensor
from .attention_functions import Cache
from .event_loop import EventLoop, Frame
from .interfaces import Interfaces
from .layer_runs import segments
from .module_table import NamedModule
from .modules import Base, Builder, Module
from .neftune import noised
from .program import (
    LOSS,
    SPAN,
    Call,
    Drop,
    Enter,
    Event,
    Exit,
    Program,
    Ref,
    exits,
    made,
)
from .recorded import Sizes
from .replaced_modules import RecordedEmbedding, RecordedLinear, RecordedModule
from .step import Inputs, Step

PROMPT_ENCODER = "prompt_encoder.default"
"""The module of PEFT's that makes the tokens which a method puts before each sequence."""


class Region(Module):
    """A module without weights of its own, by its recorded calls."""

    def __init__(self, path: str, model: RecordedCausalLM) -> None:
        self.path, self.ledger, self.model = path, model.ledger, model
        self.c = model.c

    def inner(self, name: str) -> Module:
        """The module of a name within it, once all are made."""
        return self.model.recorded.replaced[f"{self.path}.{name}"]

    def forward(self, x: Tensor, *args: Tensor | None) -> Any:
        """Run the calls as they were recorded for tokens of ``x``'s shape, [B, S, hidden]."""
        recorded = self.model.recorded
        outer = recorded.program
        recorded.program = self.model.program(*x.shape[:2])
        out = recorded.run_region(self.path, {}, x, *args)
        recorded.program = outer
        return out


def _is_kept(base: Base | None, path: str) -> bool:
    """Whether a base leaves a module as it is, by its name (``quantizers_utils.py: should_convert_module``)."""
    return base is not None and any(path.endswith(name) or path.startswith(f"{name}.") for name in base.kept)


class RecordedCausalLM(Module):
    """A causal language model run from a program: ids or embeddings, and labels -> (loss, logits, cache)."""

    def __init__(self, build: Builder, sizes: Sizes) -> None:
        self.path, self.ledger, self.c = "", build.ledger, sizes
        self.model = self  # whose segments and embeddings steps and methods ask for
        self.ledger.frozen = frozenset(build.method.untrained)
        self.recorded = EventLoop(self.ledger)
        self.recorded.weights.update(self.ledger.borrowed or {})
        self.recorded.program = program = sizes.program
        self.segments = segments(sizes.runs, build.segment, self.ledger) if program.layers else []
        self._build(build, program)

    def _build(self, build: Builder, program: Program) -> None:
        """Make the weights and modules, in the order of ``named_modules()``; of equal layers, only those that run."""
        ledger = self.ledger
        built: set[int] = set()
        for path in program.weights_of:
            if path not in program.layer_of:
                self._module(build, program, path)
            elif (stack := program.stack_of[program.layer_of[path]]) not in built:
                built.add(stack)
                for number, segment in enumerate(self.segments):
                    if segment.stack != stack:
                        continue
                    ledger.segment = number
                    with ledger.standing_for(segment.copies):
                        for index, _ in segment.layers:
                            for inner in program.layer_modules[index]:
                                self._module(build, program, inner)
                ledger.segment = -1
        self._attributes(program)
        for name, hook in program.hooks.items():
            ledger.tensor_hooks[name] = partial(self.recorded.run_hook, hook)

    _adapts_head = False
    """The weight of the output embedding has an adapter itself."""

    def _attributes(self, program: Program) -> None:
        """Make the plain attributes that are not there. A pass over a longer sequence may have more of them."""
        for stored in program.attributes:
            known = self.recorded.weights.get(stored.name)
            if known is None or (known.shape, known.dtype) != (stored.shape, stored.dtype):
                self.recorded.weights[stored.name] = self.ledger.attribute(stored.shape, stored.dtype)

    def _module(self, build: Builder, program: Program, path: str) -> None:
        """Make one module's own weights and, if rules may replace it, the module."""
        ledger, recorded = self.ledger, self.recorded
        row = program.rows.get(path)
        own, buffers = program.weights_of[path]
        before = len(ledger.parameters)
        module: Module | None = None
        build.fixed.update(w.name for w in own if not w.added and not w.requires_grad)
        build.dtypes.update({w.name: w.dtype for w in own if w.dtype != program.dtype})
        for name in program.tied_of.get(path, ()):
            build.tied[name] = recorded.weights[program.tied[name]]
        adapted = build.method.parameters_of(path)
        self._adapts_head = self._adapts_head or (bool(adapted) and path == self._head)
        quantised = build.base is not None and row is not None and self._quantised(build.base, program, row)
        if adapted and build.base is not None and quantised and row is not None and row.kind == "linear":
            raise InputError(
                f"PEFT adapts the weight of {path} as a parameter, and it is quantised, for which there is no rule; "
                "take it out of the targets, or an unquantised dtype"
            )
        if adapted:
            module = build.method.wrap_parameters(build, RecordedModule(build, path, own, recorded))
        elif any(w.added for w in own):
            for weight in own:
                if weight.added:
                    build.adapter(weight.name, weight.shape, weight.dtype, weight.requires_grad, weight.storage)
                else:
                    build.parameter(weight.name, *weight.shape)
        elif row is None or row.kind not in ("linear", "embedding", "norm") or not row.shape:
            base = build.base if path.endswith(".experts") and not _is_kept(build.base, path) else None
            for weight in own:
                if base is None:
                    build.parameter(weight.name, *weight.shape)
                else:
                    base.expert(build, weight.name, weight.shape)
        elif row.kind == "norm":
            module = self._wrapped(build, partial(RecordedModule, build, path, own, recorded))
        elif row.kind == "embedding" and path in program.plain:
            module = build.embedding(path, *row.shape)
        elif row.kind == "embedding":
            embedding = build.layers.of(path, RecordedEmbedding)
            module = self._wrapped(build, partial(embedding, build, path, row.shape[0], row.shape[1], recorded))
        elif path in program.plain:
            module = build.linear(path, row.shape[1], row.shape[0], row.bias, quantised)
        else:
            n_out, n_in = row.shape
            transposed = own[0].shape != (n_out, n_in)
            linear = build.layers.of(path, RecordedLinear)
            make = partial(linear, build, path, (n_out, n_in), row.bias, transposed, recorded)
            module = self._wrapped(build, make)
            if module is not None and self._is_called(program, path):
                self._check_output(program, path, n_out)
        plain = not adapted and not any(w.added for w in own)
        if plain and row is not None and row.kind in ("linear", "embedding") and row.shape:
            for weight in own:
                if weight.name not in (f"{path}.weight", f"{path}.bias"):  # a class of its own has more than these
                    build.parameter(weight.name, *weight.shape)
        unreached = {w.name for w in own if w.unreached}
        reached = not own or len(unreached) < len(own)  # a tied module has no weights of its own
        useless = plain and module is not None and not (reached and self._is_called(program, path))
        for p in ledger.parameters[before:]:
            recorded.weights.setdefault(p.name, p)
            p.unreached = p.unreached or p.name in unreached or (p.added and useless)
        for buffer in buffers:
            recorded.weights[buffer.name] = ledger.buffer(buffer.shape, buffer.dtype, storage=buffer.storage)
        if row is not None and path in program.layer_of and row.kind in ("attention", *build.within):
            region: Module = Region(path, self)
            wrapped = build.method.wrap_attention(build, region) if row.kind == "attention" else region
            wrapped = build.within[row.kind](wrapped) if row.kind in build.within else wrapped
            module = module if wrapped is region else wrapped
        if module is not None:
            recorded.replaced[path] = module

    @staticmethod
    def _quantised(base: Base, program: Program, row: NamedModule[Any]) -> bool:
        """Whether a linear layer is quantised: not the output embedding, a tied weight or the model's last parameter
        (``get_keys_to_not_convert``), none that the class keeps, and not that of ``nn.MultiheadAttention``.
        """
        weight, parent = f"{row.path}.weight", row.path.rpartition(".")[0]
        whole = bool(row.role) and not base.quantises_head
        last = weight == program.parameters[-1].name and not base.quantises_head
        own = any(w.name == f"{parent}.in_proj_weight" for w in program.weights_of[parent][0])
        return not (whole or last or own or weight in program.tied or _is_kept(base, row.path))

    @staticmethod
    def _is_called(program: Program, path: str) -> bool:
        """Whether a module is called. Of some, such as a router's, others take the weight."""
        try:
            program.module_call(path)
        except KeyError:
            return False
        return True

    @staticmethod
    def _check_output(program: Program, path: str, n_out: Size) -> None:
        """Raise ``InputError`` for a layer to whose output an adapter's cannot be added: a router's tuple, groups."""
        events, start, stop = program.module_call(path)
        exit_ = events[stop]
        assert isinstance(exit_, Exit)
        sizes = {
            one.shape[-1:]
            for event in events[start:stop]
            if isinstance(event, Call)
            for one in event.out
            if Ref(one.slot) in exit_.out
        }
        if len(exit_.out) > 1 or not sizes <= {(n_out,)}:
            what = "several tensors" if len(exit_.out) > 1 else "its outputs in groups"
            raise InputError(f"{path} gives {what}, which PEFT's adapters do not take; exclude it")

    @staticmethod
    def _wrapped(build: Builder, make: Callable[[], Module]) -> Module | None:
        """What takes the place of a module; ``None`` if that is the module itself, whose recorded calls then run."""
        made: list[Module] = []

        def make_one() -> Module:
            made.append(make())
            return made[-1]

        module = build.wrapped(make_one)
        return None if module is made[0] and type(module) in _RECORDED else module

    def program(self, batch: Size, seq: Size) -> Program:
        """The program of a forward pass over so many tokens, with the options of the pass that runs now."""
        return self.c.source.at(self._step, batch, seq)

    def embed(self, input_ids: Tensor, inputs: Inputs) -> Tensor:
        """Token embeddings [B, S, H]."""
        self.ledger.scope = "embedding"
        self.recorded.program = self.c.source.at(inputs.step, inputs.batch, inputs.seq)
        path = self._embedding
        assert path is not None
        module = self.recorded.replaced.get(path)
        out: Tensor = self.recorded.run_region(path, {}, input_ids) if module is None else module(input_ids)
        return self._enters(out, inputs)

    @staticmethod
    def _enters(inputs_embeds: Tensor, inputs: Inputs) -> Tensor:
        if inputs.step.checkpointing in ("layer", "offloaded"):
            inputs_embeds.requires_grad = True  # transformers' enable_input_require_grads
        return noised(inputs_embeds) if inputs.step.neftune else inputs_embeds

    def fill_cache(self, inputs: Inputs) -> None:
        """Make what the cache has before the forward pass of ``inputs``."""
        program = self.c.source.at(inputs.step, inputs.batch, inputs.seq)
        for number, segment in enumerate(self.segments):
            self.ledger.segment = number
            with self.ledger.counted(segment.copies):
                for index, _ in segment.layers:
                    self.recorded.fill_cache(program.events_of(index))
        self.ledger.segment = -1
        for events in program.outside:
            self.recorded.fill_cache(events)

    @property
    def filled(self) -> list[tuple[int, Tensor]]:
        """What was made of the cache, with the layer of each tensor; -1 outside of the layers."""
        program = self.recorded.program
        places = (-1, *(() if program is None else program.places))
        return [(places.index(slot // SPAN - 1) - 1, tensor) for slot, tensor in self.recorded.cached.items()]

    def forward(
        self,
        input_ids: Tensor | None,
        labels: Tensor | None,
        inputs: Inputs,
        inputs_embeds: Tensor | None = None,
        past: Cache | None = None,
    ) -> tuple[Any, ...]:
        ledger, recorded = self.ledger, self.recorded
        self._step = inputs.step
        recorded.program = program = self.program(inputs.batch, inputs.seq)
        self._attributes(program)
        recorded.start()
        cache = past
        recorded.dtypes.clear()
        recorded.interfaces = None
        if program.asks_interfaces:
            if past is not None and not program.updates_cache:
                raise InputError("this model's layers take no keys and values from a prefix; use another method")
            if cache is None and inputs.step.returns_cache:
                cache = Cache(ledger, windows=self.c.layers(windowed=True))
            flash = inputs.step.dtype if inputs.step.base is None else inputs.step.base.dtype
            recorded.interfaces = Interfaces(
                inputs._replace(attention_mask=None, position_ids=None, others={}), cache, flash
            )
        recorded.checkpoint = inputs.gradient_checkpointing_func
        whole = inputs.step.checkpointing in ("layer", "offloaded")
        recorded.checkpoints = program.checkpoints if whole else frozenset()
        if program.checkpoints and not program.layers:
            _refuse_without_layers(inputs.step)
        frame = Frame(Frame())  # around it is what checkpointed layers share
        ledger.scope = "inputs" if self.c.given else ledger.scope
        for own in self.c.given:
            frame[program.inputs[own.name]] = ledger.empty(own.shape, own.dtype)
        if inputs.attention_mask is not None and ("attention_mask" in program.inputs or not program.asks_interfaces):
            if past is not None or inputs_embeds is not None:
                raise InputError(
                    "a padding mask has no rule here beside virtual tokens: the model's program takes a mask of the "
                    "sequence; leave attention_mask out"
                )
            if "attention_mask" in program.inputs:
                frame[program.inputs["attention_mask"]] = inputs.attention_mask
        for name, tensor in inputs.others.items():
            if name in program.inputs and name not in ("input_ids", "attention_mask", "position_ids"):
                frame[program.inputs[name]] = tensor
        generated = inputs.generated
        positions = inputs.position_ids if generated is None else generated.position_ids
        if positions is not None and "position_ids" in program.inputs:
            frame[program.inputs["position_ids"]] = positions
        del positions
        ids = labels if input_ids is None else input_ids  # the same in a program, where embeddings are not given
        if ids is not None and "input_ids" in program.inputs:
            frame[program.inputs["input_ids"]] = ids
        del ids
        if inputs_embeds is None:
            ledger.scope = "embedding"
        recorded.watch = self._watch
        if inputs.module_hooks is not None:
            within = program.paths if inputs.gradient_checkpointing_func is not None else ()  # around their checkpoints
            recorded.hooks = inputs.module_hooks
            recorded.hooked = frozenset(inputs.module_hooks.paths).difference(within)
        if inputs.until and not self.segments:  # without layers there is nothing else
            self._end_at(program, program.before, inputs, frame)
            return frame[0], None
        self._before(program, inputs, inputs_embeds, frame)
        del inputs_embeds
        held = Cache(ledger) if cache is None else cache
        before: tuple[Size, int, int, int] | None = None
        ends = list(itertools.accumulate(stack.depth for stack in program.stacks))
        for number, segment in enumerate(self.segments):
            if number and segment.stack != self.segments[number - 1].stack:
                assert before is not None
                ledger.scope, ledger.segment = "embedding", -1
                self._run_outside(program.between[segment.stack - 1], inputs, frame)
                self._keep(program, frame, before[0], 0 if program.looks_back else before[1], *before[2:], held)
                before = None
            ledger.segment = number
            ledger.scope = (
                "first block" if number == 0 else "last block" if number == len(self.segments) - 1 else "inner block"
            )
            first, last = segment.layers[0][0], segment.layers[-1][0]
            with ledger.counted(segment.copies):
                for ledger.group, group in enumerate(segment.groups):
                    self._run_layers(program, [index for index, _ in group], inputs, frame)
            if before is not None and not program.looks_back:
                self._keep(program, frame, *before, held)
            following = ends[segment.stack]
            if number + 1 < len(self.segments) and self.segments[number + 1].stack == segment.stack:
                following = self.segments[number + 1].layers[0][0]
            if following != last + 1:
                for event in itertools.takewhile(_is_drop, reversed(program.events_of(following - 1))):
                    if event.slot < SPAN:  # what a stack's caller lets go of as it returns
                        frame.pop(event.slot, None)
                program.rename(frame, last, following - 1)
                program.rename(recorded.dtypes, last, following - 1)
            before = segment.copies, first, following - 1, last
        if before is not None:
            ledger.scope, ledger.segment = "final norm", -1
            self._finish(program, inputs, labels, frame)
            self._keep(program, frame, before[0], 0 if program.looks_back else before[1], *before[2:], held)
        if inputs.until:
            return frame[0], held
        loss, logits = (self._output(program, name, frame) for name in ("loss", "logits"))
        others = [self._output(program, name, frame) for name in program.outputs if name not in ("loss", "logits")]
        if self.c.given or inputs.step.returns_cache:  # the loop's names of its inputs and of the output
            known = {ref.slot for ref in program.outputs.values() if isinstance(ref, Ref)} | {*program.inputs.values()}
            modules = {id(weight.storage) for weight in recorded.weights.values()}
            for slot in [slot for slot in frame if self.c.given or slot not in known]:
                if id((tensor := frame.pop(slot)).storage) not in modules:
                    held.hold(tensor, 1)
        if past is not None and not (inputs.step.returns_cache or program.returns_cache):
            held = Cache(ledger)  # the caller's names of the cache are all that is left
        if not ledger.grad_enabled:
            recorded.interfaces = None  # which has the inputs and the cache; a checkpoint's second run asks it again
        return loss, logits, held, others

    def _before(self, program: Program, inputs: Inputs, inputs_embeds: Tensor | None, frame: Frame) -> None:
        """What is called before the layers. Embeddings that are given stand in for those that would be looked up."""
        recorded, events = self.recorded, program.before
        among: Sequence[Event] = ()
        if self._embedding is not None:
            with suppress(KeyError):
                among, start, stop = program.module_call(self._embedding)
        if among is not events and inputs.step.neftune:
            raise InputError("neftune_noise_alpha has no rule with a model whose embedding is in its layers")
        if among is not events or inputs_embeds is None:
            self._run_outside(events, inputs, frame)
            return
        exit_ = events[stop]
        assert isinstance(exit_, Exit)
        assert isinstance(exit_.out[0], Ref)
        recorded.run(events, 0, start, frame)
        frame[exit_.out[0].slot] = inputs_embeds
        del inputs_embeds
        recorded.run(events, stop + 1, len(events), frame)

    def _run_outside(self, events: Sequence[Event], inputs: Inputs, frame: Frame) -> None:
        """Run what is called outside the layers, with the hooks of the input embedding."""
        start = 0
        for stop, event in enumerate(events):
            if isinstance(event, Exit) and event.path in self._embeddings:
                assert isinstance(event.out[0], Ref)
                self.recorded.run(events, start, stop + 1, frame)
                frame[event.out[0].slot] = self._enters(frame.pop(event.out[0].slot), inputs)
                start = stop + 1
        self.recorded.run(events, start, len(events), frame)

    @staticmethod
    def _keep(program: Program, frame: Frame, copies: Size, first: int, last: int, run: int, cache: Cache) -> None:
        """Put what outlives the layer after its own into the cache: keys and values, and what else a layer's has.

        ``last`` has the slots of ``run``, the last layer that is run.
        """
        start, stop = (program.places[first] + 1) * SPAN, (program.places[last] + 2) * SPAN
        given = {ref.slot for ref in program.outputs.values() if isinstance(ref, Ref)}
        for slot in [slot for slot in frame if start <= slot < stop and slot not in given]:
            layer = program.places.index(slot // SPAN - 1)
            cache.hold(frame.pop(slot), copies, layer if layer < last else run)

    @staticmethod
    def _output(program: Program, name: str, frame: Frame) -> Tensor | None:
        ref = program.outputs.get(name)
        return frame.get(ref.slot) if isinstance(ref, Ref) else None

    def _watch(self, path: str, entered: bool) -> None:
        if path == LOSS and entered:
            self.ledger.scope = self.ledger.module = "loss"
        elif path == self._head and entered:
            self.ledger.scope = "lm_head"
        elif path == PROMPT_ENCODER and entered:
            self.ledger.scope = "prompt encoder"
        elif path == self._embedding and entered and self.ledger.scope == "prompt encoder":
            self.ledger.scope = "embedding"  # a prefix is made before it

    @cached_property
    def _head(self) -> str | None:
        return self._path_of("output embedding")

    @cached_property
    def _embedding(self) -> str | None:
        return self._path_of("input embedding")

    @cached_property
    def _embeddings(self) -> frozenset[str]:
        """Those of the model and of the models in it, such as an encoder."""
        return frozenset([row.path for row in self.c.program.modules if row.role == "input embedding"])

    @property
    def segment_of(self) -> dict[str, int]:
        """The number of the segment of each layer that is run, by the layer's path."""
        paths = self.c.program.paths
        return {paths[index]: number for number, one in enumerate(self.segments) for index, _ in one.layers}

    @property
    def roles(self) -> dict[str, str]:
        """The paths of modules by their roles, with that of the last norm beside the layers as ``final norm``."""
        program = self.c.program
        found = {row.role: row.path for row in reversed(program.modules) if row.role}
        norms = [row.path for row in program.modules if row.kind == "norm" and row.path.count(".") == 1]
        return {**found, **({"final norm": norms[-1]} if norms else {})}

    def _path_of(self, role: str) -> str | None:
        return self.roles.get(role)

    def _run_layers(self, program: Program, layers: Sequence[int], inputs: Inputs, frame: Frame) -> None:
        recorded = self.recorded
        if inputs.gradient_checkpointing_func is None:
            for layer in layers:
                events = program.events_of(layer)
                recorded.run(events, 0, len(events), frame)
            return
        first, last = program.events_of(layers[0]), program.events_of(layers[-1])
        enter, end = first[0], program.exit_of(layers[-1])
        exit_ = last[end]
        assert isinstance(enter, Enter)
        assert isinstance(exit_, Exit)
        hooks = inputs.module_hooks
        inner = hooks if inputs.step.hooks_in_checkpoint else None
        hooks = None if inner is not None else hooks
        hooked = hooks if hooks is not None and enter.path in hooks.paths else None
        given = {} if hooked is None else recorded.before_module(hooked, enter, frame)
        parts = [program.events_of(layer) for layer in layers[:-1]] + [last[:end]]
        recorded.run_in_checkpoint(parts, enter, last[end:], frame, inner)
        for part in parts[:-1]:
            recorded._drop_outer(part, 0, len(part), frame)
        if hooks is not None and exit_.path in hooks.paths:
            recorded.after_module(hooks, exit_, frame, given)
        recorded.run(last, end + 1, len(last), frame)

    def layer_of(self, parameter: str) -> str | None:
        """The path of the layer that a parameter belongs to; ``None`` outside of the layers."""
        layer_of, path = self.c.program.layer_of, parameter
        while path and path not in layer_of:
            path = path.rpartition(".")[0]
        return self.c.program.paths[layer_of[path]] if path else None

    def head(self) -> tuple[Module, tuple[str, ...]]:
        """The output embedding, and what is called between it and the loss. Raises ``InputError`` where it has none."""
        program = self.c.program
        if self._head not in program.plain or self._adapts_head:
            raise InputError(f"the trainer multiplies by the head's weight, and this model's {self._head} does more")
        (events, _, end), (_, loss, _) = program.module_call(self._head or ""), program.module_call(LOSS)
        return self.recorded.replaced[self._head or ""], tuple(e.op for e in events[end:loss] if isinstance(e, Call))

    def _end_at(self, program: Program, events: Sequence[Event], inputs: Inputs, frame: Frame) -> None:
        """Run events up to the head, or to what makes the logits. Of all tensors that one is left, as 0."""
        start, stop = 0, len(events)
        hidden_states = program.outputs.get("last_hidden_state")
        if hidden_states is not None:  # of a model without a head
            given = hidden_states
        elif inputs.until == "hidden" or inputs.logits_to_keep:
            _, stop, _ = program.module_call(self._head or "")
            enter = events[stop]
            assert isinstance(enter, Enter)
            (given,) = enter.args
        if inputs.logits_to_keep:
            self._run_outside(events[:stop], inputs, frame)
            start, hidden = stop, self.recorded.value(given, frame)
            assert isinstance(given, Ref)
            frame[given.slot] = ops.narrow(hidden, 1, inputs.logits_to_keep, keeps_strides=True)
            del hidden
        if hidden_states is None and inputs.until != "hidden":
            given = program.outputs["logits"]
            assert isinstance(given, Ref)
            last = max(i for i, event in enumerate(events) if given.slot in made(event))
            around = [end for enter, end in exits(events).items() if enter < last < end]
            stop = 1 + max([last, *around])
        self._run_outside(events[start:stop], inputs, frame)
        end = self.recorded.value(given, frame)
        frame.clear()
        frame[0] = end

    def _finish(self, program: Program, inputs: Inputs, labels: Tensor | None, frame: Frame) -> None:
        """What follows the layers: the last norm, the head and the loss."""
        recorded, events = self.recorded, program.after
        if inputs.until:
            self._end_at(program, program.after, inputs, frame)
            return
        if labels is None or inputs.fused_loss is None:
            recorded.run(events, 0, len(events), frame)
            return
        assert self._head is not None
        if self._head not in program.plain or self._adapts_head:
            raise InputError(
                f"loss: {inputs.step.loss} makes no whole logits, and this model's {self._head} does more than a "
                "product; use loss: standard",
                "loss",
            )
        try:
            (_, *head), (_, *loss) = program.module_call(self._head), program.module_call(LOSS)
        except KeyError:
            raise InputError(
                f"loss {inputs.step.loss} has no rule for a model that computes its loss itself, as this one does in "
                f"transformers {self.c.source.release}; use loss: standard"
            ) from None
        recorded.run(events, 0, head[0], frame)
        between = tuple(e.op for e in events[head[1] : loss[0]] if isinstance(e, Call))
        fused = inputs.fused_loss_after.get(between) if between else inputs.fused_loss
        if fused is None:
            raise InputError(
                f"loss {inputs.step.loss} makes no whole logits, and this model changes them by {between[0]} before "
                "its loss; use loss: standard"
            )
        self.ledger.scope = self.ledger.module = "loss"
        enter, exit_ = events[head[0]], events[loss[1]]
        assert isinstance(enter, Enter)
        assert isinstance(exit_, Exit)
        assert isinstance(exit_.out[0], Ref)
        frame[exit_.out[0].slot] = fused(recorded.replaced[enter.path], recorded.value(enter.args[0], frame), labels)
        recorded._drop_outer(events, head[0], loss[1], frame)
        recorded.run(events, loss[1] + 1, len(events), frame)


def _is_drop(event: Event) -> bool:
    return isinstance(event, Drop)


_RECORDED = (RecordedEmbedding, RecordedLinear, RecordedModule)


def _refuse_without_layers(step: Step) -> None:
    """Raise ``InputError`` for what acts on a program's layers, or on what follows them."""
    asked = {
        "checkpointing": step.checkpointing not in ("none", "layer", "offloaded"),
        "loss": step.loss != "standard",
        "mlp_chunks": step.mlp_chunks > 1,
    }
    for key, is_asked in asked.items():
        if is_asked:
            what = f"{key}: {getattr(step, key)}"
            raise InputError(f"{what} has no rule with a model that calls its layers more than once; leave it out", key)
