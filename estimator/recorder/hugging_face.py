"""Programs of a Hugging Face model, recorded from the installed transformers when they are asked for. Needs PyTorch."""

from __future__ import annotations

import copy
import inspect
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cached_property
from typing import Any
from unittest import mock
from weakref import WeakKeyDictionary

import torch
import transformers

from ..errors import InputError, TooLong, shown
from ..ledger import Size, whole
from ..programs.depth import deepened
from ..programs.heads import CAUSAL, HEADS, Input, Part, batch_of
from ..programs.images import Given, Media
from ..programs.libraries import quiet, silence, without_collector
from ..programs.module_table import NamedModule
from ..programs.program import Program, layer_numbers
from ..programs.recorded import Config, Source, language_model_alone, part_of, refuse_encoder
from ..programs.releases import is_before, with_its_keys
from ..programs.setting import Setting
from ..programs.split import Split
from ..programs.step import Procedure, Step
from ..programs.substitution import substitute
from . import generate_cache
from .calls import (
    Wrapped,
    checkpoints_itself,
    is_attention,
    layers_as_checkpointed,
    modules_of,
    named_tensors,
    plain_paths,
    record,
    stacks_among,
)
from .fewer_layers import fewer_layers
from .fit import fit_inputs
from .flash_attn import with_flash_attn
from .media import data_of, media_of, parts_of
from .model_classes import build_model, model_class, takes_cache
from .narrowed import narrowed

try:
    from transformers.integrations.heterogeneity.configuration_utils import AmbiguousGlobalPerLayerAttributeError
except ImportError:  # releases before 5 have no such configs

    class AmbiguousGlobalPerLayerAttributeError(Exception):  # type: ignore[no-redef]
        """Is never raised."""


silence()


ROUTED = (
    "It runs experts one by one, for the tokens that choose them: tokens choose all evenly with routing: balanced, and "
    "the same few with routing: worst"
)


MOST_LAYERS = 1024
"""The most layers of a model that is built, which takes some milliseconds each. The deepest known model has 128."""
MOST_IMAGES = 1000
"""The most images of a batch, where the module goes through them one by one: some milliseconds each."""
_MOST_PROGRAMS = 256
"""The most programs that a model keeps. Advice asks for most: for each of its steps at several lengths."""
_TARGETS = (5, 7, 11)
"""The tokens of a decoder beside an encoder in recordings that sizes are fitted to."""
_CUTS = ("mamba_chunk_size", "chunk_size", "mamba_d_state", "ssm_state_size", "linear_key_head_dim", "index_topk")
"""Keys of configs whose layers cut the sequence into chunks, or select tokens of it: sizes have jumps in its length.
The first ones are the chunk's; a class without one has it in its code."""


_DEPTH = re.compile("(?!max_)([a-z]+_)*(layers?|depths?|blocks)")
"""Names of keys that say how many layers a part of a model has."""
MOST_LABELS = 100_000
"""The most labels of a classifier, for each of which transformers makes a name (``PretrainedConfig.num_labels``)."""
_LABELS = re.compile("num_labels")


def _numbers(raw: Any, named: re.Pattern[str], key: str = "") -> Iterator[int]:
    """The whole numbers of a config and its parts whose keys match; of a list of depths, their sum."""
    if isinstance(raw, Mapping):
        for name, value in raw.items():
            yield from _numbers(value, named, str(name))
    elif isinstance(raw, list) and key == "depths" and named.fullmatch(key):
        yield sum(one for one in raw if type(one) is int)
    elif type(raw) is int and named.fullmatch(key):
        yield raw


def _cut_by(config: Any) -> str | None:
    return next((key for key in _CUTS if type(getattr(config, key, None)) is int), None)


class HuggingFaceModel(Source):
    """The programs of a config.json's model with a head. ``where`` is what messages call the config."""

    def __init__(self, raw: Mapping[str, Any], where: str, head: str = CAUSAL) -> None:
        self.raw, self.where, self.head = raw, where, head
        keys = {
            k: v for k, v in raw.items() if k not in ("torch_dtype", "dtype", "architectures", "_attn_implementation")
        }
        for what, named, most in (("layers", _DEPTH, MOST_LAYERS), ("labels", _LABELS, MOST_LABELS)):
            if (given := max(_numbers(raw, named), default=0)) > most:  # before the class lists each of them
                raise InputError(f"{where}: {given:,} {what}; {most:,} are the most that a model is built with")
        keys = with_its_keys(_with_long_rope(keys))
        # Its validation wraps what a check says.
        refused = told(lambda e: f"{where}: transformers refuses the config ({first_line(e.__cause__ or e)})")
        with refused, quiet():
            config = transformers.AutoConfig.for_model(**keys)
            if config.is_encoder_decoder and head == CAUSAL:
                refuse_encoder(raw, where)
            self.config = config.get_text_config() if head == CAUSAL else config
            if not isinstance(self.config, transformers.PretrainedConfig):  # a class takes a key that it does not know
                raise InputError(f"{where}: text_config must be a mapping, not {shown(self.config)}")
        self.model_class = model_class(head, self.config)
        if self.model_class is None:
            having = ", ".join(name for name, one in HEADS.items() if one.labels and model_class(name, self.config))
            raise InputError(
                f"{where}: transformers {transformers.__version__} has no model of model_type {self.config.model_type} "
                f"with head: {head}; " + (f"it has {having}" if having else "none with another head either")
            )
        if HEADS[head].text and self.model_class.main_input_name != "input_ids":
            raise InputError(
                f"{where}: the model takes {self.model_class.main_input_name}, for which there is no rule; give the "
                "config.json of a model of text"
            )
        parts = [key for key in getattr(config, "sub_configs", {}) if getattr(config, key, None) is not self.config]
        self.is_part = self.config is not config
        """Whether the config.json is a larger model's, of which this is the language model."""
        self._note = f". {language_model_alone(parts)}" if self.is_part else self._other_class()
        window = getattr(self.config, "sliding_window", None)
        self.window = window if isinstance(window, int) and window > 0 else None
        self._media: dict[Any, Given] = {}
        self._models: dict[Any, Any] = {}
        self._programs: dict[Any, Program] = {}
        self._encoded: tuple[tuple[Any, ...], dict[str, Any]] = (), {}
        """What ``generate`` has before its first pass, and what was asked about then."""
        self._routed = False
        """Whether the program that was asked for last depends on which experts tokens choose."""
        self._idle = ""
        """A sentence about parameters that the program that was asked for last has no use for."""

    @property
    def num_labels(self) -> int:
        """Labels of a classification."""
        return int(getattr(self.config, "num_labels", 0)) if "classification" in self.head else 0

    def _other_class(self) -> str:
        """A sentence where the config's ``architectures`` name another class of transformers than the one that runs."""
        names, runs = self.raw.get("architectures"), self.model_class.__name__
        if not (isinstance(names, list) and names and isinstance(names[0], str)) or runs in names:
            return ""
        return f". It is that of {runs}, and not of {names[0]}" if hasattr(transformers, names[0]) else ""

    def _model(self, dtype: str, attention: str | None = None, experts: str | None = None) -> Any:
        """The model on the meta device. ``attention`` and ``experts`` are by default what transformers picks."""
        if (dtype, attention, experts) not in self._models:
            with without_collector():
                model = self.build(dtype, attention, experts)
            for implementation in (attention, model.config._attn_implementation):
                self._models[dtype, implementation, experts] = model
        return self._models[dtype, attention, experts]

    def build(self, dtype: str, attention: str | None = None, experts: str | None = None) -> Any:
        """Build the model."""
        options = {} if experts is None else {"experts_implementation": experts}
        implementation = "flash_attention_2" if attention == "flash" else attention
        refused = told(lambda error: f"{self.where}: transformers cannot build the model ({first_line(error)})")
        flash = with_flash_attn() if attention == "flash" else nullcontext()
        with refused, torch.device("meta"), quiet(), flash:
            model = build_model(
                self.head,
                copy.deepcopy(self.config),
                dtype=getattr(torch, dtype),
                attn_implementation=implementation,
                tied=self.raw.get("tie_word_embeddings"),
                **options,
            )
            if experts is not None and not model._can_set_experts_implementation():
                raise InputError(
                    f"{self.where}: {type(model).__name__} runs its experts in its own way; leave "
                    "experts_implementation out"
                )
            return model.to("meta")  # some make their weights on the CPU, whatever the default device

    @cached_property
    def attention(self) -> str:
        """The attention implementation that transformers picks."""
        picked: str = self._model("bfloat16").config._attn_implementation
        return "flash" if picked == "flash_attention_2" else picked

    def check_attention(self, attention: str) -> None:
        """Raises ``InputError`` for an implementation that a part of the model refuses when it is named, and does
        without when it is not (``get_correct_attn_implementation``): Gemma 2 within PaliGemma 2.
        """
        for module in self._model("bfloat16").modules() if attention == "sdpa" else ():
            if isinstance(module, transformers.PreTrainedModel) and not module._supports_sdpa:
                raise InputError(
                    f"{self.where}: transformers refuses attention: sdpa ({type(module).__name__} does not support an "
                    "attention implementation through torch.nn.functional.scaled_dot_product_attention yet); leave "
                    "attention out, which then runs eager there, or use eager"
                )

    @cached_property
    def experts(self) -> str | None:
        """The implementation of experts that transformers picks; ``None`` where the class has one alone."""
        model = self._model("bfloat16")
        has_several = getattr(model, "_can_set_experts_implementation", bool)  # not in releases before 5
        return str(model.config._experts_implementation) if has_several() else None

    @property
    def origin(self) -> str:
        said = f"the program is what the installed transformers {transformers.__version__} runs; others may differ"
        return said + self._note + self._idle + (f". {ROUTED}" if self._routed else "")

    @property
    def release(self) -> str:
        return str(transformers.__version__)

    @property
    def has_experts(self) -> bool:
        """Whether weights of several experts are one parameter. A convolution's weight has three dimensions, too."""
        modules = [m for m in self._model("bfloat16").modules() if not isinstance(m, torch.nn.Conv1d)]
        return any(p.dim() == 3 for module in modules for p in module.parameters(recurse=False))

    @cached_property
    def tp_plan(self) -> dict[str, str]:
        """The class's plan, also for modules that this config's model does not have."""
        return dict(getattr(self._model("bfloat16"), "_tp_plan", None) or {})  # releases before 5 may have none

    @property
    def supports_checkpointing(self) -> bool:
        """Whether transformers can put a checkpoint around each layer. StarCoder2 of 4.48 says so, and puts none."""
        base = self._base(self._model("bfloat16"))
        if not base.supports_gradient_checkpointing:
            return False
        by_layer = any(checkpoints_itself(module) for module in base.modules())
        return by_layer or "_gradient_checkpointing_func(" in inspect.getsource(sys.modules[type(base).__module__])

    @cached_property
    def caches_in_checkpoints(self) -> bool:
        """Whether the class does not turn ``use_cache`` off with gradient checkpointing, as GPTBigCode's of 4.48."""
        base = self._base(self._model("bfloat16"))
        if not base.supports_gradient_checkpointing or not takes_cache(self.head, base):
            return False
        source = inspect.getsource(sys.modules[type(base).__module__])  # a GradientCheckpointingLayer turns it off, too
        return "_gradient_checkpointing_func(" in source and "use_cache = False" not in source

    @cached_property
    def position_axes(self) -> tuple[int, ...]:
        """The axes of ``generate``'s position ids before [rows, tokens]."""
        model = self._base(self._model("bfloat16"))
        if self.head != CAUSAL or "position_ids" not in generate_cache.taken(model):
            return ()
        return generate_cache.position_axes(model)

    @cached_property
    def attention_checkpoints(self) -> bool:
        """Whether attention itself asks whether checkpoints are on, as T5's does."""
        return any(
            hasattr(m, "gradient_checkpointing") for m in filter(is_attention, self._model("bfloat16").modules())
        )

    def media(self, asked: Media, dtype: str) -> Given:
        if (asked, dtype) not in self._media:
            model = self._model(dtype)
            refused = told(lambda error: f"{self.where}: the model takes no such images ({first_line(error)})")
            with refused, quiet():
                self._media[asked, dtype] = media_of(model, asked, dtype, self.where)
        return self._media[asked, dtype]

    def part(self, name: Part) -> tuple[str, ...]:
        return part_of(parts_of(self._model("bfloat16")), name, self.where)

    def modules(self) -> tuple[NamedModule[int], ...]:
        model = self._model("bfloat16")
        base = self._base(model)
        plain = plain_paths(model, base)
        rows = list(modules_of(model, base, plain))
        paths = [plain(path) for stack in stack_paths(model) for path in stack]
        numbers = layer_numbers([row.path for row in rows], paths)
        return tuple(row._replace(layer=numbers.get(row.path)) for row in rows)

    def parameters(self) -> dict[str, tuple[Size, ...]]:
        model = self._model("bfloat16")
        plain = plain_paths(model, self._base(model))
        return {plain(name): tuple(p.shape) for name, p in model.named_parameters()}

    def at(self, step: Step, batch: Size, seq: Size) -> Program:
        asks = step.checkpointing != "none" and self.attention_checkpoints
        if asks and step.checkpointing not in ("layer", "offloaded"):
            raise InputError(
                f"{self.where}: checkpointing: {step.checkpointing} has no rule with {self.config.model_type}, whose "
                "attention makes other tensors within checkpoints of layers; use layer or none"
            )
        given = (step.media, step.placeholders, step.lengths, step.attention_mask)
        key = (Setting.of(step), asks, step.cached, step.window_reached, given, step.tensor_parallel)
        program = self._programs.get((*key, batch, seq))
        if program is None:
            sizes = step.sizes(batch, seq)
            if all(isinstance(size, int) for size in sizes.values()):
                program = self._record(step, batch, seq)  # type: ignore[arg-type]
            elif not isinstance(seq, int) and (key_of := _cut_by(self.config)):
                raise InputError(
                    f"{self.where}: a formula does not go with {key_of}, by which layers cut the sequence; give "
                    "one sequence, or ask `estimator estimate`"
                )
            else:
                program = substitute(self._fitted(key, step, batch, seq), sizes)
            self._keep((*key, batch, seq), program)
        self._routed = program.routed
        if getattr(self.config, "sub_configs", None):
            held = self._model("bfloat16").get_parameter
            idle = sum(held(p.name).numel() for p in program.parameters if p.unreached)
            self._idle = f". {idle:,} of its parameters are counted, and a step of token ids does not use them" * (
                idle > 0
            )
        return program

    def _fitted(self, key: tuple[Any, ...], step: Step, batch: Size, seq: Size) -> Program:
        """The program in the batch B and the sequence S, of those that are no numbers."""
        drawn = {"B": (2, 3), "S": self._lengths(step), "T": _TARGETS}
        values = [(x,) if isinstance(x, int) else drawn[name] for name, x in step.sizes(batch, seq).items()]
        first = list(itertools.product(*[one[:2] for one in values]))
        points = [*first, tuple(one[-1] for one in values)]
        known = (*key, "fitted", *points)
        program = self._programs.get(known)
        if program is None:
            found = []
            for b, s, *others in points:
                lengths = tuple((name, n) for (name, _), n in zip(step.lengths, others, strict=True))
                sizes = {"B": b, "S": s, **dict(lengths)}
                found.append((sizes, self.at(step._replace(lengths=lengths), b, s)))
            program = self._keep(known, fit_inputs(found))
        return program

    def _keep(self, key: tuple[Any, ...], program: Program) -> Program:
        """Keep a program, in the place of the oldest of many: a page that is served asks about any lengths."""
        if len(self._programs) >= _MOST_PROGRAMS:
            del self._programs[next(iter(self._programs))]
        self._programs[key] = program
        return program

    def _lengths(self, step: Step) -> tuple[int, ...]:
        """Three sequences on the step's side of the sliding window, two to fit sizes and one to check them. They have
        room for the images.
        """
        images = sum(step.placeholders[1])
        if self.window is None or step.window_reached:
            return tuple(n + max(images, self.window or 0) for n in (131, 149, 166))
        shorter = self.window - 1
        return tuple(sorted({min(n + images, shorter - i) for i, n in enumerate((166, 149, 131))}))

    def _record(self, step: Step, batch: int, seq: int) -> Program:
        infers = not step.procedure.trains
        device = step.device.type
        model = self._model(step.dtype, step.attention, step.experts_implementation)
        model.train(not infers)
        changes = any(hasattr(module, "set_attention_type") for module in model.modules())
        if changes:  # its first pass over few tokens puts other attention in place, for good
            model = self.build(step.dtype, step.attention, step.experts_implementation).train(not infers)
        split = Split.of(self.tp_plan, step.tensor_parallel, self.config.model_type)
        sizes = step.sizes(batch, seq)
        rows = step._replace(data_collator=False, packing=False, return_seq_idx=False).inputs()
        if not HEADS[self.head].decodes:  # a decoder's loss shifts its labels into a tensor of its own
            rows = tuple(one._replace(same_as="") for one in rows)
        given = batch_of(rows, lambda one: _empty(one, sizes))
        images = max((len(given[one.name]) for one in rows if one.values and one.name in given), default=0)
        if images > MOST_IMAGES:
            raise TooLong(
                f"{self.where}: a batch of {images:,} images, which the model goes through one by one; {MOST_IMAGES:,} "
                "are the most; ask about a smaller batch, or fewer images"
            )
        inputs = {one.name: given[one.name] for one in rows if not one.same_as}
        known = {
            one.name: data
            for one in rows
            if one.name in inputs and (data := data_of(one, given[one.name], self.config)) is not None
        }
        if step.packing:
            if "position_ids" not in generate_cache.taken(self._base(model)):
                raise InputError(
                    f"{self.where}: packing does not go with a class that takes no position_ids; leave it out"
                )
            given["position_ids"] = inputs["position_ids"] = torch.empty_like(inputs["input_ids"])
        cache = {"use_cache": step.returns_cache} if takes_cache(self.head, self._base(model)) else {}
        dtype = None if step.autocast is None else getattr(torch, step.autocast)
        wrapped = self.wrapped(model)

        def call() -> Mapping[str, Any]:
            with autocast(device, dtype):
                return dict(model(**given, **cache))

        def once() -> Program:
            if step.cached is not None:
                return self._of_generate(model, step, batch, seq)
            return record(
                model,
                inputs,
                call,
                device,
                dtype,
                wrapped,
                step.routing,
                packed=step.packing,
                padded=step.attention_mask,
                known=known,
            )

        def program() -> Program:
            if changes:
                once()
            return _settled(model, once)

        cached = step.returns_cache and not self.caches_in_checkpoints
        checkpointed = is_before("5") and model.training and not cached
        checkpoints = layers_as_checkpointed(model) if checkpointed else nullcontext()
        if step.checkpointing != "none" and self.attention_checkpoints:
            checkpoints = _attention_that_knows(model)
        flash = with_flash_attn(self._base(model)) if step.attention == "flash" else nullcontext()
        refused = told(lambda error: self.does_not_run(error, batch, seq))
        with quiet(), self.running(), checkpoints, flash, refused:
            with nullcontext() if split is None else narrowed(model, split):
                few = None if step.returns_cache else self._of_few_layers(model, program)
                found = few or program()
            trains = step.procedure.trains and HEADS[self.head].labels
            if self.head != CAUSAL and trains and "loss" not in found.outputs:
                raise InputError(
                    f"{self.where}: the model does not run with labels, of which {type(model).__name__} makes no loss; "
                    "set task: infer"
                )
            return found if split is None else split.applied(found, self.parameters())

    def does_not_run(self, error: Exception, batch: int, seq: int) -> str:
        """What a message says of an error that the model raised."""
        if isinstance(error, AttributeError) and isinstance(error.obj, type(self.config)):
            return f"{self.where}: {error.name} is missing; add it to the config"
        sizes = f"batch {batch}" + f" and seq {seq}" * HEADS[self.head].text
        return f"{self.where}: the model does not run with {sizes} ({first_line(error)})"

    def _of_few_layers(self, model: Any, program: Callable[[], Program]) -> Program | None:
        """The program from a recording of some of the layers; ``None`` where none can be left out."""
        stacks = stack_paths(model)
        if len(stacks) != 1:
            return None
        with fewer_layers(model, stacks[0]) as like:
            if like is None:
                return None
            try:
                few = program()
                if len(few.layers) != len(set(like)) or few.looks_back or not _repeats(few, like):
                    return None
                return deepened(few, like)
            except (InputError, IndexError, KeyError, TypeError):  # the model asks for a layer that is left out
                return None

    def _of_generate(self, model: Any, step: Step, rows: int, seq: int) -> Program:
        """The program of a forward pass of ``generate`` over tokens, [rows, seq], that follow what is cached."""
        cached, causal_lm = step.cached, self._base(model)
        assert cached is not None
        device, dtype = step.device.type, None if step.autocast is None else getattr(torch, step.autocast)
        if cached.encodes:
            return self._of_encoder(model, step, rows, seq)
        kept, known = self._kept(step, model, rows, seq)
        inputs, ids = dict(named_tensors(kept)), kept.pop("input_ids")
        held: list[Any] = []

        def before() -> Iterator[list[torch.Tensor]]:
            with autocast(device, dtype):
                held.append(generate_cache.filled(causal_lm, cached, rows, {**kept, "input_ids": ids}))
            _forget(causal_lm)
            return generate_cache.tensors_of(held[0])

        def call() -> Mapping[str, Any]:
            with autocast(device, dtype):
                return generate_cache.forward(causal_lm, held.pop(), ids, kept, first=not cached.past)

        return record(
            model,
            inputs,
            call,
            device,
            dtype,
            self.wrapped(model),
            step.routing,
            before,
            padded=step.attention_mask,
            known=known,
            stacks=None if self.head == CAUSAL else stack_paths(model),
        )

    def _kept(self, step: Step, model: Any, rows: int, seq: int) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """What a forward pass of ``generate`` is given beside its cache, and what is known of its data."""
        cached = step.cached
        assert cached is not None
        if self.head == CAUSAL:
            ids = torch.empty((rows, cached.past + seq), dtype=torch.int64, device="meta")
            kept = {"input_ids": ids}
            if "position_ids" in generate_cache.taken(self._base(model)):
                kept["position_ids"] = ids.new_empty((*self.position_axes, *ids.shape))
            return kept, {}
        batch = rows // cached.beams
        if self._encoded[0] != _asked_of_encoder(step, batch, seq):
            self._of_encoder(model, step, batch, seq)
        prompt = self._encoded[1]["input_ids"].shape[1]
        given = {name: x for name, x in self._encoded[1].items() if not name.startswith("held ")}
        kept = generate_cache.fresh(given, whole(cached.past) + 1 if cached.past else prompt)
        grown = generate_cache.GROWING if cached.past else set()
        return kept, self._known(step, {name: x for name, x in kept.items() if x is not None and name not in grown})

    def _known(self, step: Step, given: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """What follows from the plan of the data of inputs."""
        found = {one.name: data_of(one, given[one.name], self.config) for one in step.inputs() if one.name in given}
        return {name: data for name, data in found.items() if data is not None}

    def _of_encoder(self, model: Any, step: Step, batch: int, seq: int) -> Program:
        """The program of what ``generate`` calls before its first forward pass."""
        assert step.cached is not None
        causal_lm, beams = self._base(model), step.cached.beams
        device, dtype = step.device.type, None if step.autocast is None else getattr(torch, step.autocast)
        sizes = step.sizes(batch, seq)
        given = batch_of(step.inputs(), lambda one: _empty(one, sizes))

        def call() -> Mapping[str, Any]:
            with autocast(device, dtype):
                self._encoded = _asked_of_encoder(step, batch, seq), generate_cache.encoded(causal_lm, given, beams)
            return self._encoded[1]

        return record(
            model,
            given,
            call,
            device,
            dtype,
            self.wrapped(model),
            step.routing,
            padded=step.attention_mask,
            known=self._known(step, given),
            stacks=stack_paths(model),
        )

    def of_all_settings(self, setting: Setting, batch: int, seq: int, cached: bool) -> Program:
        """The program whose attention, masks and cache are calls, and which is for all of these (``interfaces.py``).

        Without ``cached`` the model is given no cache: some take none but their own.
        """
        from .calls.noted_interfaces import Cache

        generates = setting.cache is not None
        model = self._model(setting.dtype, experts=setting.experts_implementation)
        model.train(setting.trains)
        procedure = Procedure(trains=setting.trains)
        step = Step(
            self.raw["model_type"], setting.dtype, procedure=procedure, head=self.head, num_labels=self.num_labels
        )
        rows = step.inputs()
        given = batch_of(rows, lambda one: _empty(one, step.sizes(batch, seq)))
        inputs = {one.name: given[one.name] for one in rows if not one.same_as}
        ids, taken = inputs["input_ids"], generate_cache.taken(model)
        if setting.attention_mask:
            inputs["attention_mask"] = torch.empty_like(ids)
        if setting.packing or generates:
            if "position_ids" in taken:
                inputs["position_ids"] = ids.new_empty((*(self.position_axes if generates else ()), *ids.shape))
            elif setting.packing:
                raise InputError(f"{self.where}: the class takes no position_ids")
        options: dict[str, Any] = {"use_cache": False} if takes_cache(self.head, model) else {}
        if generates and "logits_to_keep" in taken:
            options["logits_to_keep"] = 1
        cache = Cache()
        if cached:
            options["cache"] = cache

        def call() -> Mapping[str, Any]:
            return dict(model(**{**given, **inputs}, **options))

        def program() -> Program:
            return record(model, inputs, call, setting.device, packed=setting.packing, interfaces=cache)

        with quiet(), told(lambda error: self.does_not_run(error, batch, seq)):
            return _settled(model, program)

    def _base(self, model: Any) -> Any:
        """The model that a library may have wrapped."""
        wrapped = self.wrapped(model)
        return model if wrapped is None else wrapped.base

    def wrapped(self, model: Any) -> Wrapped | None:
        """What a library has wrapped."""
        return None

    def running(self) -> AbstractContextManager[Any]:
        """The context in which the model runs."""
        return nullcontext()


def _asked_of_encoder(step: Step, batch: int, seq: int) -> tuple[Any, ...]:
    """What decides what ``generate`` calls before its first pass, for one model."""
    assert step.cached is not None
    return Setting.of(step)[1:5], step.attention_mask, step.media, step.lengths, step.cached.beams, batch, seq


def _empty(one: Input, sizes: Mapping[str, Any]) -> torch.Tensor:
    """An input on the meta device."""
    return torch.empty(one.sized(sizes), dtype=getattr(torch, one.dtype), device="meta")


def _with_long_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config whose long rope has its factors. Their number follows from the head's size, and their values from data
    that no size depends on, so a config may come without them.
    """
    found = dict(config)
    for key in ("rope_scaling", "rope_parameters"):
        rope = found.get(key)
        if isinstance(rope, Mapping) and "longrope" in (rope.get("rope_type"), rope.get("type")):
            heads = found.get("num_attention_heads")
            size = found.get("head_dim") or found.get("hidden_size", 0) // heads if isinstance(heads, int) else 0
            share = rope.get("partial_rotary_factor", found.get("partial_rotary_factor", 1.0))
            factors = [1.0] * (int(size * share) // 2)
            found[key] = {"short_factor": factors, "long_factor": factors, **rope}
    return found


@contextmanager
def _attention_that_knows(model: torch.nn.Module) -> Iterator[None]:
    """Within it, attention that asks whether checkpoints are on is told so, as T5's."""
    with ExitStack() as stack:
        for module in model.modules():
            if is_attention(module) and hasattr(module, "gradient_checkpointing"):
                stack.enter_context(mock.patch.object(module, "gradient_checkpointing", True))
        yield


@contextmanager
def autocast(device: str, dtype: torch.dtype | None) -> Iterator[None]:
    """``torch.autocast``, which turns itself off where there is no device of that type. ``None``: without it."""
    if dtype is None:
        yield
        return
    enabled, other = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    torch.set_autocast_enabled(device, True)
    torch.set_autocast_dtype(device, dtype)
    try:
        yield
    finally:
        torch.set_autocast_enabled(device, enabled)
        torch.set_autocast_dtype(device, other)


@contextmanager
def told(sentence: Callable[[Exception], str]) -> Iterator[None]:
    """Within it, what a library raises becomes an ``InputError`` of one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(sentence(error)) from None


def first_line(error: BaseException) -> str:
    """An exception's type and the first line of its message, with the next one where that ends in a colon."""
    lines = str(error).strip().splitlines()
    if len(lines) > 1 and lines[0].endswith(":"):
        lines[0] += f" {lines[1].strip()}"
    return f"{type(error).__name__}: {lines[0][:150]}" if lines else type(error).__name__


def stack_paths(model: Any) -> list[list[str]]:
    """The paths of the layers of each stack, before anything was called."""
    lists = [
        (module, [f"{path}.{name}" for name, _ in module.named_children()])
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module)
    ]

    def beside(a: list[str], b: list[str]) -> bool:
        return not any(y.startswith(f"{x}.") or x.startswith(f"{y}.") for x in a for y in b)

    stacks = stacks_among(lists, beside)
    return [paths for _, paths in lists if paths in stacks]


def _repeats(few: Program, like: Sequence[int]) -> bool:
    """Whether a layer that stands for others calls what the same layer of the repetition before calls."""
    for number in set(like):
        if like.count(number) > 1:
            first = like.index(number)
            length = like.index(number, first + 1) - first
            if few.layers[number] != few.layers[like[first - length]]:
                return False
    return True


def _settled(model: torch.nn.Module, once: Callable[[], Program]) -> Program:
    """The program of a pass, or of the next one where the first made what later ones find, which are asked about."""
    _forget(model)
    known = _plain_attributes(model)
    program = once()
    return program if _plain_attributes(model) == known else once()


def _forget(model: torch.nn.Module) -> None:
    """Forget what passes of other lengths have left: dynamic rotary embeddings keep the longest length, and the
    frequencies for it.
    """
    for module in model.modules():
        if module not in _FIRST:
            numbers = {name: value for name, value in vars(module).items() if type(value) in (int, float)}
            _FIRST[module] = numbers, dict(module._buffers)
        numbers, buffers = _FIRST[module]
        for name, number in numbers.items():
            if isinstance(vars(module).get(name), torch.Tensor):
                setattr(module, name, number)
        module._buffers.update(buffers)


_FIRST: WeakKeyDictionary[torch.nn.Module, tuple[dict[str, float], dict[str, torch.Tensor | None]]] = (
    WeakKeyDictionary()
)
"""The numbers that each module had as plain attributes before its first pass, and its buffers."""


def _plain_attributes(model: torch.nn.Module) -> set[tuple[str, str, torch.Size | None]]:
    """The tensors that modules have as plain attributes, such as frequencies which a first pass computes, and the
    buffers with their shapes, which it may change.
    """
    return {
        (path, name, None)
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, torch.Tensor)
    } | {("", name, x.shape) for name, x in model.named_buffers()}


MOST_HELD = 8
"""The most models whose programs are held, the latest ones. Each takes some megabytes."""
_CONFIGS: dict[str, Config] = {}


def recorded_config(raw: Mapping[str, Any], where: str, head: str = CAUSAL) -> Config:
    """The numbers of a model of any class of the installed transformers with a head. Raises ``InputError``."""
    return held([raw, where, head], lambda: config_of(raw, HuggingFaceModel(raw, where, head)))


def held(key: Sequence[Any], make: Callable[[], Config]) -> Config:
    """What ``make`` gives for a key, made once while it is held."""
    text = json.dumps(key, sort_keys=True, default=str)
    if text not in _CONFIGS:
        if len(_CONFIGS) >= MOST_HELD:
            _CONFIGS.pop(next(iter(_CONFIGS)))
        _CONFIGS[text] = make()
    return _CONFIGS[text]


def _special_id(source: HuggingFaceModel) -> int | None:
    """The blank of CTC. The end of a text, by which encoder-decoders find what they classify (``eos_mask``)."""
    key = "pad_token_id" if source.head == "ctc" else "eos_token_id"
    reads = source.head == "ctc" or (source.head == "sequence-classification" and source.config.is_encoder_decoder)
    found = getattr(source.config, key, None) if reads else None
    return found if isinstance(found, int) else None


def config_of(raw: Mapping[str, Any], source: HuggingFaceModel) -> Config:
    """The numbers of a recorded model, by the names that transformers' configs have for them."""
    config = source.config
    if "text_config" in getattr(config, "sub_configs", {}):
        config = config.get_text_config()

    def number(*names: str, default: int = 0) -> int:
        return next((value for name in names if isinstance(value := getattr(config, name, None), int)), default)

    def of_all_layers(name: str, default: int | None) -> int | None:
        """A size of attention. None where layers differ in it: transformers then refuses to answer for all of them."""
        try:
            return number(name) or default
        except AmbiguousGlobalPerLayerAttributeError:
            return None

    for name in ("hidden_size", "d_model", "vocab_size"):
        if isinstance(size := getattr(config, name, None), int) and size < 1:
            raise InputError(f"{source.where}: {name} is {size}; it must be at least 1")
    hidden = number("hidden_size", "d_model")
    heads = of_all_layers("num_attention_heads", 1)
    layers = number("num_hidden_layers", "n_layer", "num_layers")
    kinds = getattr(config, "layer_types", None)
    window = number("sliding_window") or None
    if kinds is not None:
        windowed = tuple(kind == "sliding_attention" for kind in kinds)
    else:
        windowed = (window is not None,) * layers
    return Config(
        family=str(config.model_type if source.is_part else raw["model_type"]),
        vocab_size=number("vocab_size"),
        hidden_size=hidden,
        num_hidden_layers=layers,
        heads={
            "num_attention_heads": heads,
            "num_key_value_heads": of_all_layers("num_key_value_heads", heads),
            "head_dim": of_all_layers("head_dim", None if heads is None else hidden // heads),
        },
        tie_word_embeddings=bool(getattr(config, "tie_word_embeddings", False)),
        sliding_window=window if any(windowed) else None,
        windowed_layers=windowed,
        source=source,
        num_labels=source.num_labels,
        special=_special_id(source),
    )
