"""A trainer's step from its recording: what it calls around its models, and the models' programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from copy import copy
from dataclasses import InitVar, dataclass
from typing import Any, ClassVar

from ..errors import InputError
from ..ledger import Size, Tensor, backward, whole
from ..ledger.sizes import ceiling
from ..programs import Procedure, Sizes, Step
from ..programs.event_loop import EventLoop, Frame
from ..programs.modules import Frozen, Method
from ..programs.program import Backward, Call, Event, GradMode, Weight, made, used
from ..programs.trainer_calls import (
    CHECKPOINTS,
    DIVERGENCE,
    FUNCTIONS,
    GENERATE,
    MODEL,
    NEVER,
    OF_LOGITS,
    REWARD,
    TEACHER,
)
from ..programs.trainer_programs import DIMS, TrainerProgram
from . import trl_loss
from .generate import Generate, UncachedCall, call_of
from .generate_options import GenerateOptions
from .loop import Loop, Model
from .sharding.scope import Scope
from .trl_divergence import Head, divergence


@dataclass(frozen=True, eq=False)
class OtherModel:
    """A frozen model with its options."""

    step: Step
    sizes: Callable[..., Sizes]
    """What it is built from, by ``batch`` and ``seq``."""


@dataclass(frozen=True)
class TrainerStep(Procedure):
    """From the start of a step of the trainer's loop to its end. The batch was made before."""

    program: TrainerProgram
    reference: str = "none"
    """What the policy is compared with (``trainer_calls.Key``)."""
    per_row: InitVar[int] = 1
    prompt_seq: int | None = None
    """Half of a row, if not given; 0 where rows have no prompt."""
    num_generations: int = 0
    batches: int = 1
    """Those that come from one generation."""
    every: int = 0
    """Batches after which completions are generated anew; 0: none are."""
    window: int | None = None
    """The model's sliding window in tokens, if it has one."""
    others: tuple[tuple[str, OtherModel], ...] = ()
    """Models that answer beside the policy and its reference, such as a teacher, by their names."""
    anchor_seq: int | None = None
    """Tokens of a row's first text, of rows of texts; those of all, if not given."""
    dims: tuple[int, ...] = ()
    """Lengths of embeddings that the loss is taken of, the largest first."""
    runs_backward: ClassVar[bool] = True
    asks_loss: ClassVar[bool] = False

    def __post_init__(self, per_row: int) -> None:
        object.__setattr__(self, "rows", per_row)
        object.__setattr__(self, "layer_by_layer", not self.others)  # whose layers are not the policy's

    def add_models(self, loop: Loop, make: Callable[..., Model]) -> None:
        # Nobody freezes a reference, so autocast keeps its casts. DDP wraps no model that is evaluated alone.
        for name, other in self.others:
            sizes = other.sizes(batch=loop.model.inputs.batch // self.rows, seq=loop.model.inputs.seq)
            step = other.step._replace(procedure=self)
            loop.models[name] = Model(loop.ledger, step, sizes, Method(), 1, 1, shared=False)
        if self.reference == "copy" and "reference" not in loop.models:
            loop.models["reference"] = make(method=Method(), shared=False)
        elif self.reference == "adapter-off":
            loop.models["base"] = make(method=Frozen(), weights_of=loop.model)
        for p in (p for name, model in loop.models.items() if name != "model" for p in model.own):
            p.unreached = True  # no optimizer has it

    def phases(self, loop: Loop) -> Iterator[str]:
        ledger, model = loop.ledger, loop.model
        if loop.optimizer.in_backward:
            ledger.gradient_hooks = loop.optimizer
        else:
            loop.note_gradients()
        batch, seq = model.inputs.batch // self.rows, model.inputs.seq
        if seq == 1 and self.prompt_seq != 0:
            raise InputError("seq: 1 leaves no completion behind a prompt; give a longer seq", "seq")
        if self.others and ledger.events is not None:
            whole(seq)  # each layer is run, which takes too long with symbols
        completions, generations = batch * self.batches, self.num_generations
        if generations and whole(completions) % generations:  # a prompt's are in several processes
            generations = whole(completions)
        given = {
            "B": batch,
            "S": seq,
            "prompt_seq": self.prompt_seq or _half(seq),
            "num_generations": generations,
            "prompts": whole(completions) // generations if generations else 0,
            "completions": completions,
            "batches": self.batches,
            "desirable": _half(batch),
            "anchor_seq": self.anchor_seq or seq,
            **dict(zip(DIMS, self.dims, strict=False)),
        }
        if TEACHER in loop.models:
            given["teacher_hidden_size"] = loop.models[TEACHER].causal_lm.c.hidden
        others = {name: _sizes_of(other, given) for name, other in loop.models.items() if name != "model"}
        program = self.program.at(*_sizes_of(model, given), others)
        events = program.before
        sections = _sections(events)
        calls, frame = _Calls(loop, self.window, generations > 0), Frame()
        own: dict[int, Any] = {}
        for again in range(loop.step.micro_batches):
            loop.sent.append(model.scope.communicated)
            yield "forward"
            ledger.scope, ledger.phase = "inputs", "forward"
            later = bool(self.every and again % self.every)
            start, stop, end = sections[later]
            if later:
                own = own or _given(events[start:stop], frame)
                frame.update(own)
            else:
                calls, frame = _Calls(loop, self.window, generations > 0), Frame()
                for one in program.buffers:
                    frame[program.inputs[one.name]] = ledger.attribute(one.shape, one.dtype)
                for one in program.attributes:
                    calls.weights[one.name] = ledger.attribute(one.shape, one.dtype)
            calls.start()
            calls.run(events, start, stop, frame)
            own = own if later else {}  # what an earlier generation made was there until now
            loop.note_saved()
            yield "backward"
            model.scope.before_backward(last=again + 1 == loop.step.micro_batches)
            loss = events[stop]
            assert isinstance(loss, Backward)
            backward(ledger, frame[loss.loss.slot])
            ledger.phase = "step"
            calls.run(events, stop + 1, end, frame)
        yield "update"
        loop.update()
        yield from loop.end({})


def _half(size: Size) -> Size:
    return size - ceiling(size, 2)


def _sizes_of(model: Model, given: Mapping[str, Size]) -> tuple[Mapping[str, Size], str]:
    """A step's sizes with those of a model's results, and the model's dtype."""
    c = model.causal_lm.c
    return {**given, "vocab_size": c.vocab, "hidden_size": c.hidden}, model.inputs.step.dtype


def _sections(events: Sequence[Event]) -> list[tuple[int, int, int]]:
    """For each batch of a step: where its events begin, its backward pass, and where they end."""
    first, *later = (i for i, event in enumerate(events) if isinstance(event, Backward))
    starts = [i for i in range(first, len(events)) if isinstance(events[i], GradMode)][: len(later)]
    return [*zip([0, *starts], [first, *later], [*starts, len(events)], strict=True)]


def _given(events: Sequence[Event], frame: Frame) -> dict[int, Any]:
    """What events of a later batch find: its slices of what was generated."""
    new = {slot for event in events for slot in made(event)}
    return {slot: frame[slot] for event in events for slot in used(event) if slot in frame and slot not in new}


class _Calls(EventLoop):
    """A trainer's calls, of which some are answered by models."""

    def __init__(self, loop: Loop, window: int | None, generates: bool) -> None:
        super().__init__(loop.ledger)
        self.models, self._step, self._window = loop.models, loop.step, window
        self._generates = generates
        self._mixed = TEACHER in self.models and self.models[TEACHER].step.dtype != loop.model.step.dtype

    def start(self) -> None:
        super().start()
        self._autocast = self._step.autocast

    def _call(self, call: Call, frame: Frame) -> None:
        if call.op == MODEL:
            self._model(call, frame)
        elif call.op == GENERATE:
            self._generate(call, frame)
        elif call.op in FUNCTIONS:
            (self._divergence if call.op == DIVERGENCE else self._log_probabilities)(call, frame)
        elif call.op in OF_LOGITS:
            made = getattr(trl_loss, call.op)(*[self.value(one, frame) for one in call.args])
            for one, tensor in zip(call.out, made, strict=True):
                frame[one.slot] = tensor
        else:
            super()._call(call, frame)

    def _check(self, call: Call, made: Any, out: Tensor) -> None:
        """A teacher of another dtype has results of another one: they follow from those of the operands."""
        if not (self._mixed and out.shape == made.shape):
            super()._check(call, made, out)

    def _model(self, call: Call, frame: Frame) -> None:
        given = dict(call.keywords)
        name = given["model"]
        if name == "model" and not given["adapter"] and "base" in self.models:
            name = "base"
        ids = frame[given["input_ids"].slot]
        mask = frame[given["attention_mask"].slot] if "attention_mask" in given else None
        others = {key: frame[ref.slot] for key, ref in given.items() if key in ("token_type_ids",)}
        caches = given.get("use_cache", False)
        if self._generates:
            self.ledger.phase = "forward" if self.ledger.grad_enabled and name == "model" else "scoring"
        with self.ledger.no_grad() if name.startswith(REWARD) else nullcontext():  # TRL's torch.inference_mode
            kept = given.get("logits_to_keep", 0)
            model, gives = self.models[name], given["gives"]
            padded = given.get("padded", False)
            made = model.part(ids, mask, gives, given["checkpointing"], caches, kept, others, padded)
        self.ledger.scope = self.ledger.module = "loss"
        for one, result in zip(call.out, made, strict=False):
            frame[one.slot] = result

    def _generate(self, call: Call, frame: Frame) -> None:
        """A call of ``generate`` by sampling, as the trainer makes it, with the model in train mode."""
        given, ledger = dict(call.keywords), self.ledger
        rows, seq = frame[given["input_ids"].slot].shape
        model = copy(self.models[given["model"]])
        model.scope = Scope()
        procedure = Generate(
            GenerateOptions.model_validate({"max_new_tokens": whole(given["max_new_tokens"])}), self._window
        )
        model.step = model.step._replace(
            procedure=procedure, checkpointing="none", data_collator=False, attention_mask=False
        )
        model.inputs = model.inputs._replace(
            batch=rows, seq=seq, step=model.step, gradient_checkpointing_func=None, fused_loss=None
        )
        grad_enabled = ledger.grad_enabled
        without = [NEVER] if self._step.checkpointing == "none" else [NEVER, CHECKPOINTS]
        if given.get("use_cache") in without:
            UncachedCall(model, procedure, model.causal_lm.c.vocab).run()
        else:
            call_of(model, procedure).run()
        ledger.grad_enabled, ledger.training, ledger.inference_mode = grad_enabled, True, False
        ledger.phase, ledger.scope = "forward", "inputs"
        frame[call.out[0].slot] = ledger.empty(call.out[0].shape, call.out[0].dtype)

    def _log_probabilities(self, call: Call, frame: Frame) -> None:
        x, weight, _, targets, *_, outputs = call.args
        model, head, capped = self._head(weight)
        given = [self.value(one, frame) for one in (x, targets)]
        made = trl_loss.log_probabilities(given[0], *head, given[1], capped, outputs)
        del given
        for one, tensor in zip(call.out, model.scope.after_forward(tuple(made)), strict=True):
            frame[one.slot] = tensor

    def _divergence(self, call: Call, frame: Frame) -> None:
        x, weight, _, taught, teachers, _, mixes, *_ = call.args
        (model, head, capped), (_, other, _) = self._head(weight), self._head(teachers)
        student, teacher = Head(self.value(x, frame), *head), Head(self.value(taught, frame), *other)
        made = divergence(student, teacher, mixes, capped)
        del student, teacher
        for one, tensor in zip(call.out, model.scope.after_forward(made), strict=True):
            frame[one.slot] = tensor

    def _head(self, weight: Any) -> tuple[Model, tuple[Any, Any], bool]:
        """The model that has the head with this weight, the head's weight and bias, and whether it has a soft cap."""
        assert isinstance(weight, Weight)
        model = self.models[weight.name.partition(":")[0]]
        head, after = model.causal_lm.head()
        return model, trl_loss.whole_head(head), "tanh" in after
