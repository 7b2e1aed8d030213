"""Records what a trainer's ``training_step`` calls around its models, with small real models. Needs PyTorch.

A trainer such as TRL's ``DPOTrainer`` reads data: how many tokens have a label, which rows are chosen. So it is run for
real, on the CPU, with a model of a few numbers. Its models are not recorded: each call of one is an event, which a
program of the model answers later. All else is noted as it is called, custom autograd functions by their names.
"""

from __future__ import annotations

import inspect
import itertools
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any
from unittest import mock

import torch
from accelerate.utils import convert_outputs_to_fp32
from transformers import PreTrainedModel
from transformers.generation import GenerateDecoderOnlyOutput
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from ..errors import InputError
from ..operators.table import SAME
from ..programs.program import Autocast, Backward, Call, Drop, Event, GradMode, Program, Ref, Stored, made, used
from ..programs.trainer_calls import CHECKPOINTS, DIVERGENCE, FUNCTIONS, GENERATE, HEAD, MODEL, NEVER, OF_LOGITS, REWARD
from .calls import Recorder, dtype_name, recording
from .calls.data import tensors_in
from .calls.functions import Context
from .calls.marks import MARK
from .model_classes import model_class, takes_cache
from .rows import fold_rows


def _is_data(value: Any) -> bool:
    """Whether it is a list of numbers, or of such lists."""
    return type(value) is list and bool(value) and all(isinstance(x, (int, float)) or _is_data(x) for x in value)


class _StepRecorder(Recorder):
    """Notes a trainer's step, whose tensors have data."""

    def __init__(self, names: Mapping[int, str], autocast: torch.dtype | None) -> None:
        super().__init__(torch.nn.Module(), autocast=autocast)
        self._names.update(names)
        self.functions = dict.fromkeys(FUNCTIONS, self._function)
        self._clears = False

    def note(self, op: str, args: Sequence[Any], keywords: Mapping[str, Any], out: Any) -> Any:
        if self._autocast is not None:
            self._note_autocast()
        if op == "linalg_vector_norm":
            args = [tuple(x) if type(x) is list else x for x in args]  # dimensions, and no data
        return super().note(op, args, keywords, out)

    def plain_call(self, function: Any, name: str, args: Any, kwargs: Any) -> Any:
        if isinstance(kwargs.get("out"), torch.Tensor):
            raise InputError(f"the trainer lets {name} write into a tensor that it gives (out=), which has no rule")
        out = self._autocast_call(function, name, args, kwargs) if self.autocasts else function(*args, **kwargs)
        if not any(True for _ in tensors_in(out)):
            return out
        return self.note(SAME.get(name, name), args, kwargs, out)

    def new(self, data: torch.Tensor) -> torch.Tensor:
        return data

    def moved(self, x: torch.Tensor) -> torch.Tensor:
        return x  # where all are on one device

    def encode(self, value: Any) -> Any:
        return () if _is_data(value) else super().encode(value)  # of a new tensor, whose shape is that of the result

    def found(self, tensor: torch.Tensor) -> str:
        if torch._C.TensorBase.requires_grad.__get__(tensor):
            raise InputError("the trainer computes with a parameter of a model's other than its head's")
        return super().found(tensor)

    def clear_autocast_cache(self) -> None:
        """Note that the outermost autocast has ended."""
        self._clears = True

    def _note_autocast(self) -> None:
        if self._clears or self.autocasts != self._autocast_on:
            self._autocast_on = self.autocasts
            self.events.append(Autocast(self._autocast_on, self._clears))
            self._clears = False

    def backward(self, loss: torch.Tensor) -> None:
        if self._autocast is not None:
            self._note_autocast()
        ref = self.operand(loss)
        if not isinstance(ref, Ref):
            raise InputError("the loss does not depend on anything that the step computes")
        self.events.append(Backward(ref, ()))

    def _function(self, function: Any, args: tuple[Any, ...]) -> Any:
        """Note a custom autograd function that has a rule of its own."""
        with torch._C.DisableTorchFunction():
            out = function.forward(Context(()), *args)
        if function.__name__ == DIVERGENCE:
            args = (*args[:6], 0 < args[6] < 1, *args[7:])  # of beta it matters whether it mixes both
        return self.note(function.__name__, args, {}, out)

    def call_model(self, name: str, mode: Mapping[str, Any], given: Mapping[str, Any], out: torch.Tensor) -> Any:
        """Note a call of a model. Returns its result, and what stands for its cache where it has one."""
        cache = torch.empty(0) if mode.get("use_cache") else None
        given = {"model": name, **mode, **given}
        if cache is None:
            made = self.note(MODEL, (), given, out)
        else:
            made, cache = self.note(MODEL, (), given, (out, cache))
        getattr(made, MARK).own = self.grad_enabled and name == "model"
        return made, cache


class _Models:
    """A trainer's models while its step is recorded: random numbers answer their calls, which are noted."""

    def __init__(self, trainer: Any) -> None:
        self.recorder: _StepRecorder | None = None
        self._without_cache = CHECKPOINTS if trainer.args.gradient_checkpointing else NEVER
        self.names: dict[int, str] = {}
        """Names of the heads' weights by the ``id`` of their objects."""
        self._replaced: list[tuple[Any, str, Any]] = []
        """Objects and the attributes that were put in place of theirs, with what they had of their own."""
        for name, model in models_of(trainer).items():
            self._replace(name, model)

    def _put(self, module: Any, name: str, function: Any) -> None:
        self._replaced.append((module, name, vars(module).get(name)))
        setattr(module, name, function)

    def of_logits(self, name: str, function: Any, *args: Any, **given: Any) -> Any:
        """A call of one of ``OF_LOGITS``, with its defaults written out."""
        recorder = self.recorder
        if recorder is None:
            return function(*args, **given)
        bound = inspect.signature(function).bind(*args, **given)
        bound.apply_defaults()
        with torch._C.DisableTorchFunction(), mock.patch.object(self, "recorder", None):
            out = function(*bound.args)
        return recorder.note(name, bound.args, {}, out)

    def restore(self) -> None:
        """Give the models their own functions again."""
        for module, name, own in reversed(self._replaced):
            delattr(module, name) if own is None else setattr(module, name, own)

    def _replace(self, name: str, outer: Any) -> None:
        base = base_of(outer)
        head = base.get_output_embeddings()
        backbone = base if is_without_head(base) else getattr(base, base.base_model_prefix, None)
        if backbone is None or base.config.is_encoder_decoder or base.main_input_name != "input_ids":
            raise InputError(
                f"the trainer's {type(base).__name__} is no decoder or encoder of text; there is no rule for it"
            )
        size = base.config.get_text_config().hidden_size
        forward = base.forward
        head_of_model = "sequence-classification" if head is None else "causal-lm"

        def mode(gives: str, mask: Any) -> dict[str, Any]:
            tuners = [m for m in base.modules() if isinstance(getattr(m, "disable_adapters", None), bool)]
            on = not any(m.disable_adapters for m in tuners)
            checkpoints = any(getattr(m, "gradient_checkpointing", False) for m in backbone.modules())
            found = {"gives": gives, "adapter": on, "checkpointing": checkpoints and base.training}
            with torch._C.DisableTorchFunction():
                padded = isinstance(mask, torch.Tensor) and mask.dim() == 2 and not bool(mask.all())
            return found | ({"padded": True} if padded else {})

        def inputs(given: Mapping[str, Any]) -> dict[str, Any]:
            return {key: x for key, x in given.items() if isinstance(x, torch.Tensor)}

        def run_backbone(input_ids: Any = None, **given: Any) -> Any:
            assert self.recorder is not None
            with torch._C.DisableTorchFunction():
                out = torch.randn(*input_ids.shape, size).to(base.dtype)
            own = mode("hidden", given.get("attention_mask"))
            made, _ = self.recorder.call_model(name, own, inputs({"input_ids": input_ids, **given}), out)
            return BaseModelOutputWithPast(last_hidden_state=made)

        def run(input_ids: Any = None, *, fused_lm_head: bool = False, labels: Any = None, **given: Any) -> Any:
            if fused_lm_head:
                return forward(input_ids=input_ids, fused_lm_head=True, labels=labels, **given)
            if self.recorder is None:
                return forward(input_ids, labels=labels, **given)
            width = base.config.num_labels if head is None else base.config.get_text_config().vocab_size
            kept = given.pop("logits_to_keep", 0)
            shape = (input_ids.shape[0], width) if head is None else (len(input_ids), kept or input_ids.shape[1], width)
            with torch._C.DisableTorchFunction():
                out = torch.randn(*shape).to(torch.bfloat16 if torch.is_autocast_enabled("cpu") else base.dtype)
            counted = {key: given.pop(key) for key in ("num_items_in_batch",) if key in given}
            own = mode("logits", given.get("attention_mask"))
            caches = given.get("use_cache", takes_cache(head_of_model, base) and base.config.use_cache)
            own |= {"use_cache": True} if caches and not own["checkpointing"] else {}
            own |= {"logits_to_keep": kept} if kept else {}
            made, cache = self.recorder.call_model(name, own, inputs({"input_ids": input_ids, **given}), out)
            loss = None
            if labels is not None and head is None:
                raise InputError(
                    f"the trainer asks {type(base).__name__} for its loss, which has a rule with a causal language "
                    "model alone; make the loss of the logits, or ask estimator.estimate with a head"
                )
            if labels is not None:
                loss = base.loss_function(logits=made, labels=labels, vocab_size=width, **counted)
            return CausalLMOutputWithPast(loss=loss, logits=made, past_key_values=cache)

        def generate(input_ids: Any = None, *, attention_mask: Any = None, generation_config: Any, **how: Any) -> Any:
            assert self.recorder is not None
            new = generation_config.max_new_tokens
            with torch._C.DisableTorchFunction():  # no id is a special token's
                out = torch.cat([input_ids, torch.full((input_ids.shape[0], new), base.config.vocab_size - 1)], 1)
            given = {"input_ids": input_ids, "attention_mask": attention_mask, "max_new_tokens": new}
            given |= {"use_cache": self._without_cache} if generation_config.use_cache is False else {}
            ids = self.recorder.note(GENERATE, (), {"model": name, **given}, out)
            return GenerateDecoderOnlyOutput(sequences=ids) if how.get("return_dict_in_generate") else ids

        if hasattr(base, "_original_forward"):  # accelerate has it evaluate under autocast
            run = convert_outputs_to_fp32(torch.autocast("cpu", torch.bfloat16)(run))
        self._put(backbone, "forward", run_backbone)
        if backbone is base:
            return
        run.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]  # by which a batch's columns are kept
        self._put(base, "forward", run)
        self._put(base, "generate", generate)
        if head is not None:
            for part in ("weight", "bias"):
                if getattr(head, part, None) is not None:
                    self.names[id(getattr(head, part))] = HEAD.format(name, part)


def model_within(model: Any) -> Any:
    """The model of transformers that a trainer's model is, or has in it, as a ``SentenceTransformer`` its encoder.

    Raises ``InputError`` where there is none.
    """
    if isinstance(model, PreTrainedModel) or hasattr(model, "get_base_model"):
        return model
    found = next((module for module in model.modules() if isinstance(module, PreTrainedModel)), None)
    if found is None:
        raise InputError(f"the trainer's {type(model).__name__} has no model of transformers; there is no rule for it")
    return found


def base_of(model: Any) -> Any:
    """A model without what PEFT has put around it. An adapter that transformers added is in the model's modules."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def is_without_head(model: Any) -> bool:
    """Whether a model is what ``AutoModel`` makes, and ends with hidden states."""
    return type(model) is model_class("feature-extraction", model.config)


def models_of(trainer: Any) -> dict[str, Any]:
    """A trainer's models: ``model``, which trains, a ``reference`` like it, and others by their attributes' names."""
    own = model_within(trainer.model)
    rewards = [x for x in getattr(trainer, "reward_funcs", ()) if isinstance(x, PreTrainedModel)]
    others = {
        "reference" if name == "ref_model" else name: value
        for name, value in [*vars(trainer).items(), *((f"{REWARD}{i or ''}", x) for i, x in enumerate(rewards))]
        if isinstance(value, PreTrainedModel) and value not in (own, getattr(trainer, "model_wrapped", None))
    }
    return {"model": own, **others}


def batches_of_generation(trainer: Any) -> int:
    """How many batches train before a trainer generates anew; 0 where it does not generate."""
    return _batches_of(trainer) * getattr(trainer.args, "num_iterations", 1)


def _batches_of(trainer: Any) -> int:
    """How many batches come from one generation: those of an update, unless the trainer's arguments say it."""
    own = trainer.args.gradient_accumulation_steps if hasattr(trainer, "_buffered_inputs") else 0
    return getattr(trainer.args, "steps_per_generation", None) or own


def record_trainer_step(trainer: Any, batches: int = 1) -> Program:
    """The program of the first ``training_step`` of a trainer's second update, in its own loop.

    Where it generates for several, it is the first that generates again, and the one behind it follows, which stands
    for all later ones. The scoring of so many ``batches``, if they are more than two, is a loop. Nothing is computed
    with the models, and no callback is called. Raises ``InputError`` where the step calls what has no rule.
    """
    models = _Models(trainer)
    original = trainer.training_step
    every = batches_of_generation(trainer) or 1
    accumulated = trainer.args.gradient_accumulation_steps
    if every % accumulated and accumulated % every:
        raise InputError(
            f"the trainer generates every {every} batches, of which gradient_accumulation_steps: {accumulated} is "
            "neither a multiple nor a part, so that updates differ; give another steps_per_generation"
        )
    first = -(-accumulated // every) * every
    recorder = _StepRecorder(models.names, torch.bfloat16 if trainer.args.bf16 else None)
    stored: tuple[Stored, ...] = ()
    events: tuple[Event, ...] = ()
    inputs: dict[str, int] = {}
    ran = itertools.count()

    def training_step(model: Any, given: Any, *rest: Any) -> Any:
        nonlocal stored, events
        number = next(ran)
        if number < first:
            return torch.zeros(())
        models.recorder = recorder
        if number > first:
            recorder.events.append(GradMode(True))  # where the events of a later batch begin
        if number == first and type(given) is dict:
            tensors = {key: x for key, x in given.items() if isinstance(x, torch.Tensor)}
            stored = tuple(Stored(key, tuple(x.shape), dtype_name(x.dtype)) for key, x in tensors.items())
            inputs.update({key: recorder.mark(x) for key, x in tensors.items()})
        clear = mock.patch.object(torch, "clear_autocast_cache", recorder.clear_autocast_cache)
        with recording(recorder), clear:
            out = original(model, given, *rest)
            events = tuple(recorder.events)
            del out  # which the loop holds until the step ends, as it does the batch
        models.recorder = None
        if number == first + (every > 1):
            raise _Recorded
        return torch.zeros(())

    silent: Any = mock.patch.object(trainer.callback_handler, "callbacks", [])
    try:
        with (
            mock.patch.object(trainer, "training_step", training_step),
            silent,
            ExitStack() as patched,
            suppress(_Recorded),
        ):
            for module in [place for name, place in sys.modules.items() if name.startswith("trl.")]:
                for one in {*OF_LOGITS} & {*vars(module)}:  # the function itself, and where it is imported
                    noted = partial(models.of_logits, one, getattr(module, one))
                    patched.enter_context(mock.patch.object(module, one, noted))
            trainer.train()
    finally:
        models.restore()
    asked = first + 1 + (every > 1)
    if (last := next(ran)) < asked:
        raise InputError(f"the trainer ends after {last} batches; its second update, batch {asked}, is asked")
    recorder.events = []
    if sum(isinstance(event, Backward) for event in events) > 1 + (every > 1):
        raise InputError("the trainer's training_step runs backward more than once; add its losses up and run it once")
    rows = max(map(_rows, events))
    if getattr(trainer.args, "use_vllm", False):  # which makes the completions of all batches outside of the step
        rows = trainer.args.per_device_train_batch_size * _batches_of(trainer)
    counts = (*([rows] if rows > 1 else []), *([batches] if batches > 2 else []))
    return Program(
        modules=(),
        parameters=(),
        buffers=stored,
        attributes=tuple(recorder.attributes),
        inputs=inputs,
        outputs={},
        before=fold_rows(without_idle_views(events), counts, len(inputs)),
        bodies=(),
        layers=(),
        after=(),
    )


def without_idle_views(events: Sequence[Event]) -> tuple[Event, ...]:
    """The events without the slices that no later event has a use for: the batches of an update beyond the second.

    One stays of what has no other slice, since it holds the whole to the end.
    """
    known: set[int] = set()
    idle: set[int] = set()
    for place, event in reversed([*enumerate(events)]):
        if isinstance(event, Call) and event.op == "slice" and known.isdisjoint(made(event)):
            idle.add(place)
        known.update(used(event), (event.slot,) if isinstance(event, Drop) else ())
    held = {e.args[0] for i, e in enumerate(events) if isinstance(e, Call) and e.op == "slice" and i not in idle}
    kept: list[Event] = []
    for place, event in enumerate(events):
        if place in idle:
            assert isinstance(event, Call)
            if event.args[0] in held:
                continue
            held.add(event.args[0])
        kept.append(event)
    return tuple(kept)


def _rows(event: Event) -> int:
    """The rows that a model is given, if the event calls one."""
    return event.out[0].shape[0] if isinstance(event, Call) and event.op in (MODEL, GENERATE) else 0  # type: ignore[return-value]


class _Recorded(Exception):
    """The step is recorded."""
