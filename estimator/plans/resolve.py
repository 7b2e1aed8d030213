"""Looking up the names in a plan, and the frozen step that follows from it."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import lru_cache
from sys import maxsize
from typing import TYPE_CHECKING, NamedTuple

from ..bases.formats import FOUR_BIT, FP8_BLOCKS, KEPT
from ..errors import InputError
from ..ledger import ITEMSIZE, Size, product, whole
from ..ledger.sizes import symbol
from ..methods.full import FullMethod
from ..methods.lora import LoraOptions
from ..methods.options import MethodOptions
from ..methods.other import OtherMethod
from ..methods.target_parameters import parameters_of_layers
from ..programs.heads import HEADS
from ..programs.images import Given
from ..programs.libraries import is_installed, silence
from ..programs.module_table import has_token_types
from ..programs.modules import Method
from ..programs.recorded import Config, Sizes
from ..programs.releases import NEWEST, installed_release, is_older
from ..programs.step import Procedure, Step
from ..programs.trainer_calls import REWARD, TEACHER
from ..steps import trainers
from ..steps.procedures import procedure_of
from ..steps.sharding import sharding_of
from ..steps.unsloth import LEAST_OF_LOSS, MOST_OF_LOSS
from .models import ModelSpec, load
from .plan import Plan
from .quantised_checkpoints import kept_modules
from .refusals import check_model, check_second, check_step
from .second_model import SecondModel, check_vocabulary

if TYPE_CHECKING:
    from ..programs.trainer_calls import Key
    from ..programs.trainer_programs import TrainerProgram
    from ..steps.trainer_step import OtherModel


class Resolved(NamedTuple):
    """A plan whose names have been looked up and checked."""

    plan: Plan
    spec: ModelSpec
    method: Method
    step: Step

    def at(self, batch: int, seq: int) -> Resolved:
        """The same plan with another batch and sequence."""
        if (batch, seq) == (self.plan.batch, self.plan.seq):
            return self
        anchor = self.plan.anchor_seq and min(self.plan.anchor_seq, seq)  # a first step may be shorter
        plan = self.plan.model_copy(update={"batch": batch, "seq": seq, "anchor_seq": anchor})
        if "seq" not in self.plan.model_fields_set:
            plan.model_fields_set.discard("seq")  # nobody gave it
        check_step(plan)
        return _resolved(plan, self.spec, self.method)

    def with_step(self, step: Step) -> Resolved:
        """The same plan with another step."""
        return self._replace(step=step)

    def with_open_rank(self) -> Resolved:
        """The same plan with the symbol r for the rank of its method. Raises ``InputError`` where it has no rules."""
        method = self.plan.method.build(self.spec.config, self.plan.dtype, symbol("r"))
        method.untrained, method.open_rank = self.method.untrained, True
        if type(method) is not type(self.method):
            raise InputError(f"method: {self.plan.method.name} is recorded, at its own rank")
        return self._replace(method=method)

    def sizes(self, symbolic: bool = False, batch: Size | None = None, seq: Size | None = None) -> Sizes:
        """The model's sizes. Layers that the method treats alike are counted as one run.

        ``batch`` and ``seq`` are by default the plan's.
        """
        batch, seq = self.step.rows(self.plan.batch if batch is None else batch, self.plan.seq if seq is None else seq)
        seq = seq + self.method.virtual_tokens
        config = self.spec.config
        return config.sizes(layer_signature(config, self.method), self.step, batch, seq, symbolic)

    def knows(self, batch: Size, seq: Size) -> bool:
        """Whether there is a program for these sizes without recording one first, which may take a minute."""
        return self.spec.config.source.knows(self.step, batch, seq + self.method.virtual_tokens)


def layer_signature(config: Config, method: Method) -> Callable[[int], Hashable]:
    """A function of a layer's index: what the method does to each module of that layer."""
    if not method.by_layer:
        return lambda layer: None
    return lambda layer: tuple(method.signature(module.path) for module in config.modules.layers[layer] if module.shape)


def resolve(plan: Plan, procedure: Procedure | None = None) -> Resolved:
    """Look up the names in a plan of PyTorch's runtimes, and check it with its model. Raises ``InputError``.

    ``procedure``: what is run, if the plan does not say it.
    """
    check_step(plan)
    if plan.implementation == "litgpt":
        from . import litgpt

        spec = litgpt.load(plan)
        method = litgpt.method(plan, spec.config)
    else:
        plan = _with_targets(_with_frozen(_without_dropout(plan)))
        spec, method = _model(plan)
        method.untrained = _parts(plan, spec)
    config = spec.config
    if "attention" not in plan.model_fields_set:
        plan = plan.model_copy(update={"attention": config.source.attention})
    else:
        config.source.check_attention(plan.attention)
    return _resolved(plan, spec, method, procedure)


def _resolved(plan: Plan, spec: ModelSpec, method: Method, procedure: Procedure | None = None) -> Resolved:
    config, given = spec.config, given_of(plan, spec)
    if plan.engine.replays and plan.lengths is None and plan.shorter_seq < given.least:
        plan = plan.model_copy(update={"previous_seq": given.least})  # the batch before has its images, too
    step = step_of(plan, config, window_of(config, method), spec.head, given, procedure)
    kept = kept_modules(spec) if plan.dtype in FP8_BLOCKS else None
    if kept is not None and plan.base is not None:
        step = step._replace(base=replace(plan.base, kept=kept, quantises_head=True))  # the names have the head's
    resolved = Resolved(plan, spec, method, step)
    check_model(resolved)
    return resolved


_ALIKE = (
    "autocast", "attention", "checkpointing", "kernels", "mlp_chunks", "loss", "loss_chunk", "num_output_chunks",
    "label_share", "optimizer", "keep_logits", "data_collator", "packing", "return_seq_idx", "convert_outputs_to_fp32",
    "saved_activations", "activation_group_size", "gradient_clipping", "experts_implementation", "routing",
)  # fmt: skip
"""The keys of a plan that its step takes as they are."""


def given_of(plan: Plan, spec: ModelSpec) -> Given:
    """The images and the audio of a plan. Raises ``InputError`` for images with more tokens than a row has."""
    if not HEADS[spec.head].media:
        return Given()
    processor = spec.processor("image" if plan.video_frames is None else "video")
    media = plan.media._replace(processor=processor) if processor is not None and processor.known else plan.media
    given = spec.config.source.media(media, plan.held_dtype)
    if given.least > plan.seq and HEADS[spec.head].text:
        raise InputError(
            f"seq: {plan.seq:,} is less than the {given.least:,} tokens of a row's images; give a longer one, "
            "fewer images, or a smaller image_size"
        )
    return given


def tokens_of_images(plan: Plan) -> int:
    """The tokens of a row that the images of a plan take, whatever its ``seq``. Raises ``InputError``."""
    return given_of(plan.model_copy(update={"seq": maxsize}), _asked(plan)).least if plan.sees else 0


def step_of(
    plan: Plan,
    config: Config,
    window: int | None,
    head: str = "causal-lm",
    given: Given = Given(),  # noqa: B008
    procedure: Procedure | None = None,
) -> Step:
    """The frozen step of a plan. ``window``: see ``window_of``. ``procedure``: see ``resolve``."""
    alike = {name: getattr(plan, name) for name in _ALIKE}
    by_tokenizer = head != "causal-lm" and plan.trainer is not None and plan.task == "train"
    token_types = by_tokenizer and has_token_types(config.family, config.modules.of("embedding"))
    return Step(
        **alike,
        family=config.family,
        dtype=plan.held_dtype,
        base=None if plan.base is None else replace(plan.base, kept=KEPT.get(config.family, ())),
        use_reentrant=plan.reentrant,
        caches_in_checkpoints=(plan.use_cache or _caches_beside_images(plan, given))
        and config.source.caches_in_checkpoints,
        hooks_in_checkpoint=plan.sharding is not None and is_older(plan.transformers, "4.57"),
        loss_target=_loss_target(plan, config) if plan.loss == "unsloth" else 0,
        optimizer_rank=plan.optimizer_rank or Step._field_defaults["optimizer_rank"],
        wide_states=frozenset(f"{module.path}.weight" for module in config.modules.of("embedding"))
        if plan.embedding_optim_bits == 32
        else frozenset(),
        # litgpt's loop keeps the loss as a Python number
        drop_output_before_step=plan.drop_output_before_step or plan.implementation == "litgpt",
        attention_mask=plan.attention_mask
        or (not given.inputs and not HEADS[head].masked and _masks_without_padding(plan, config, window)),
        neftune=plan.neftune_noise_alpha is not None,
        window_reached=window is not None and plan.row >= window,
        micro_batches=min(plan.gradient_accumulation_steps, 2 if plan.sharding is None else 3),
        procedure=procedure or _procedure(plan, config, window),
        sharding=None
        if plan.sharding is None
        else sharding_of(
            plan.sharding, config.hidden_size, adapted=_has_tuner(plan), upcasts=plan.upcasts_trained is not None
        ),
        previous_output=plan.holds_previous_output and not plan.engine.replays,  # a replay has the previous step itself
        head=head,
        num_labels=config.num_labels,
        token_types=token_types,
        special=config.special,
        use_cache=plan.use_cache or _caches_beside_images(plan, given),
        lengths=(("T", plan.decoder_seq),) if HEADS[head].has_target else (),
        media=given.inputs,
        placeholders=given.placeholders,
        device=plan.engine.kernels(plan),
    )


def _loss_target(plan: Plan, config: Config) -> int:
    """Bytes that Unsloth's loss gives a chunk: half of the memory that is free at its first call, up to
    ``MOST_OF_LOSS`` (``_free_target_gb``). That is taken to be what the weights leave, which is the most it can be.
    """
    capacity = plan.engine.capacity(plan)
    if capacity is None:
        return MOST_OF_LOSS
    packed = {f"{path}.weight" for path in config.modules.all_linear} if plan.dtype in FOUR_BIT else ()
    sizes = {name: whole(product(shape)) for name, shape in config.parameters.items()}
    held = sum(size // 2 if name in packed else size * ITEMSIZE[plan.held_dtype] for name, size in sizes.items())
    return max(min((capacity - held) // 2, MOST_OF_LOSS), LEAST_OF_LOSS)


def _caches_beside_images(plan: Plan, given: Given) -> bool:
    """Whether a trainer's model makes a cache: ``Trainer`` turns ``use_cache`` off in the model's config, and not in
    that of a decoder within it.
    """
    return bool(given.images) and plan.trainer is not None


def _with_frozen(plan: Plan) -> Plan:
    """The plan with PEFT's method on no module of the frozen parts."""
    if not plan.freeze or not plan.method.inner.peft:
        return plan
    spec = load(plan.model).asked(plan.transformers, plan.head, plan.sees)
    if getattr(plan.method, "exclude_modules", "") is not None:
        raise InputError(
            f"freeze has no rule with method: {plan.method.name} that names modules to exclude, or takes none; name "
            "the modules in target_modules"
        )
    paths = "|".join(map(re.escape, _parts(plan, spec)))
    method = plan.method.model_copy(update={"exclude_modules": rf"({paths})(\..*)?"})
    return plan.model_copy(update={"method": method})


def _parts(plan: Plan, spec: ModelSpec) -> tuple[str, ...]:
    return tuple(path for part in plan.freeze for path in spec.config.source.part(part))


def _has_tuner(plan: Plan) -> bool:
    return plan.method.inner.peft and plan.method.inner.tuner


def _masks_without_padding(plan: Plan, config: Config, window: int | None) -> bool:
    """Whether all masks are made of a padding mask without padding. SDPA takes none where no window hides keys
    (``masking_utils.py: _ignore_causal_mask_sdpa``), and flash attention never (``flash_attention_mask``).
    """
    if not plan.data_collator or plan.packing or plan.attention == "flash":
        return False
    hides = window is not None and plan.seq >= window
    return plan.attention == "eager" or (hides and all(config.windowed_layers))


def _without_dropout(plan: Plan) -> Plan:
    """The plan without its adapters' dropout, where the trainer turns it off (``disable_dropout``)."""
    method = plan.method.inner
    drops = plan.trainer in trainers.TRAINERS and trainers.TRAINERS[str(plan.trainer)].drops_dropout
    if not drops or not getattr(method, "lora_dropout", 0):
        return plan
    return plan.model_copy(update={"method": method.model_copy(update={"lora_dropout": 0.0})})


def _with_targets(plan: Plan) -> Plan:
    """The plan, with LoRA on all linear layers where it names none and PEFT has no default; an assumption says so."""
    method = plan.method
    if not isinstance(method, LoraOptions) or method.target_modules is not None or method.target_parameters:
        return plan
    config = _asked(plan).config
    if method.default_targets(config.family) is not None and not parameters_of_layers(config):
        return plan
    return plan.with_targets(f"PEFT has no default target_modules of {method.title} for {config.family}; the answer")


def _asked(plan: Plan) -> ModelSpec:
    """The plan's model with its head, and without the dropout that its trainer turns off.

    A reward model has one label and a padding token, whatever its config says.
    """
    spec = load(plan.model).asked(plan.transformers, plan.head, plan.sees)
    recorded = trainers.TRAINERS.get(str(plan.trainer))
    if recorded is not None and recorded.drops_dropout:
        off = dict.fromkeys(trainers.DROPOUTS, 0.0)
        spec = replace(spec, raw={**spec.raw, **off})
    if recorded is None or plan.head != "sequence-classification":
        return spec
    raw = {key: value for key, value in spec.raw.items() if key not in ("id2label", "label2id")}
    pad = raw.get("pad_token_id")
    return replace(spec, raw={**raw, "num_labels": 1, "pad_token_id": 0 if pad is None else pad})


def _model(plan: Plan) -> tuple[ModelSpec, Method]:
    """The model and the method. Where the method has no rules for the model, what PEFT makes of both is recorded."""
    spec = _asked(plan)
    method = plan.method.inner
    method.check_config(spec.raw)
    if isinstance(method, OtherMethod) or not method.has_rules or _acts_not(method, spec):
        what = f"method: {method.name}"
        if plan.base is not None:
            raise InputError(
                f"dtype: {plan.dtype} has no rule with {what}; take method: lora with target_modules by name, or an "
                "unquantised dtype",
                "dtype",
            )
        if not is_installed("torch", "peft"):
            raise InputError(
                f"{what} has no rules; its estimate needs PyTorch and PEFT (the trace extra): pip install '.[trace]' "
                "in a clone"
            )
        if plan.transformers not in (NEWEST, installed_release()):
            raise InputError(
                f"{what} has no rules; it is recorded from the installed transformers, which is not "
                f"{plan.transformers}; leave transformers out, or take method: lora"
            )
        silence()
        from ..recorder.peft_adapters import RecordedMethod, wrapped_config

        config = wrapped_config(spec.raw, spec.where or spec.name, method, plan.engine.kernels(plan).type)
        return replace(spec, read=config), RecordedMethod(config)
    return spec, plan.method.build(spec.config, plan.dtype)


def _acts_not(method: MethodOptions, spec: ModelSpec) -> bool:
    """Whether the method's rules do not act on the model's program, which is recorded."""
    config = spec.config
    if method.acts_on_interfaces:
        return not config.open_sizes or (method.name == "adaption_prompt" and config.family not in ("llama", "mistral"))
    return not method.acts_on_programs


def _trainer_step(plan: Plan, window: int | None, compact: bool, config: Config) -> Procedure:
    """The step of a trainer that is recorded. Raises ``InputError`` where there is none for the plan."""
    vocab_size = config.vocab_size
    name, trainer = str(plan.trainer), trainers.TRAINERS[str(plan.trainer)]
    adapted = plan.method.inner.peft
    second = plan.reference if isinstance(plan.reference, SecondModel) else None
    kind = plan.reference.model if isinstance(plan.reference, SecondModel) else plan.reference
    reference = trainers.reference_of(
        name, kind, adapted, plan.precompute_ref_log_probs, plan.beta, second is not None, plan.loss_type
    )
    generations, accumulated = plan.num_generations or trainer.num_generations, plan.gradient_accumulation_steps
    rows = plan.batch * (1 if plan.sharding is None else plan.sharding.world_size or 1)  # of all processes
    per, iterations = plan.steps_per_generation, plan.num_iterations
    generation = trainers.generation_of(name, per, iterations, accumulated, generations, rows)
    if (second or reference == "copy") and plan.sharding is not None and plan.sharding.name != "ddp":
        instead = "leave reference out, and set" if second else "set"
        raise InputError(
            f"reference: {kind or reference} has no rule with sharding: {plan.sharding.name}; {instead} "
            "precompute_ref_log_probs: true, or take a method of PEFT's, whose reference is the model without it"
        )
    scoring = plan.reward_model if isinstance(plan.reward_model, tuple) else (plan.reward_model,)
    seconds = [
        ("reference", "reference", second),
        (TEACHER, "teacher", plan.teacher),
        *((f"{REWARD}{number or ''}", "reward_model", one) for number, one in enumerate(scoring)),
    ]
    others = tuple((what, _second(plan, one, key, vocab_size)) for what, key, one in seconds if one is not None)
    autocasts = plan.autocast is not None
    old, rewards = generation.old, sum(one is not None for one in scoring)
    loss = trainers.divergence_of(name, plan.beta) if trainer.has_teacher else plan.loss_type
    own = loss, reference, autocasts, plan.held_dtype
    release = trainer.release or plan.trl
    generates = trainers.generates(name, plan.lmbda, plan.seq_kd)
    key = trainers.key_of(name, release, *own, compact, old, rewards, plan.use_vllm, generates)
    dims = tuple(sorted(plan.matryoshka_dims, reverse=True))
    if trainer.embeds:
        key = key._replace(pooling=plan.pooling_mode, normalize=plan.normalize)
        key = key._replace(negatives=plan.negatives or 0, dims=len(dims))
    if max(dims, default=0) > config.hidden_size:
        raise InputError(
            f"matryoshka_dims: {max(dims)} does not go with embeddings of {config.hidden_size:,} numbers (`Dimensions "
            "in matryoshka_dims cannot exceed the model's embedding dimension`, sentence-transformers' words)"
        )
    if plan.anchor_seq is not None and plan.anchor_seq > plan.seq:
        raise InputError(
            f"anchor_seq: {plan.anchor_seq} does not go with seq: {plan.seq}, which are the tokens of a row's longest "
            "text; give fewer, or a longer seq"
        )
    if plan.prompt_seq is not None and plan.prompt_seq >= plan.seq:
        raise InputError(
            f"prompt_seq: {plan.prompt_seq} leaves no completion of seq: {plan.seq}; give fewer, or a longer seq"
        )
    token_types = not trainer.embeds or has_token_types(config.family, config.modules.of("embedding"))
    return procedure_of(
        "trainer",
        _program_of_trainer(trainer.steps or name, release, key, token_types),
        reference,
        2 if trainer.pairs else 1 + (plan.negatives or 0),
        0 if trainer.embeds else plan.prompt_seq,
        generations,
        generation.batches,
        generation.every,
        window,
        others,
        plan.anchor_seq,
        dims,
    )


def _second(plan: Plan, second: SecondModel, key: str, vocab_size: int) -> OtherModel:
    """A frozen second model, which is called as the trainer calls the plan's own. Raises ``InputError``.

    ``vocab_size`` is that of the plan's own.
    """
    from ..steps.trainer_step import OtherModel

    if second.device not in (None, plan.engine.kernels(plan).type):
        raise InputError(
            f"{key}.device: {second.device} does not go with trainer: {plan.trainer}, which moves it to where the "
            "model is (accelerate's prepare_model); leave it out"
        )
    asked = plan.model_copy(
        update={
            "model": second.model,
            "dtype": second.dtype or (plan.rest_dtype if _is_left_whole(plan, key) else plan.dtype),
            "method": FullMethod.model_construct(),
            "sharding": None,
            "kbit_preparation": False,
            "reference": None,
            "reward_model": None,
            "teacher": None,
            **({"head": "sequence-classification", "data_collator": False} if key == "reward_model" else {}),
        }
    )
    try:
        spec = _asked(asked)
    except InputError as error:
        raise InputError(f"{key}: {error}") from None
    if key != "reward_model" and spec.head != "causal-lm":
        raise InputError(
            f"{key}: {second.model} has head: {spec.head}, which says nothing of the next token; name a causal "
            "language model",
            key,
        )
    if "attention" not in plan.model_fields_set:
        asked = asked.model_copy(update={"attention": spec.config.source.attention})
    step = step_of(asked, spec.config, window_of(spec.config, Method()), spec.head)
    alone = asked.model_copy(update={"trainer": None, "task": "infer", "checkpointing": "none", "run": None})
    check_second(key, Resolved(alone, spec, Method(), step))
    if key == "reference":
        check_vocabulary(key, spec.config.vocab_size, vocab_size)
    elif key == "teacher" and spec.config.vocab_size != vocab_size:
        raise InputError(
            f"teacher: {second.model} has a vocabulary of {spec.config.vocab_size:,}, and the model one of "
            f"{vocab_size:,} (`requires a shared vocabulary`, TRL's words); take a teacher with the same one",
            key,
        )
    return OtherModel(step, Resolved(asked, spec, Method(), step).sizes)


def _is_left_whole(plan: Plan, key: str) -> bool:
    """Whether a second model is not quantised with the plan's own: the teacher of ``trl distillation``."""
    return key == "teacher" and plan.trainer == "trl-distillation" and plan.base is not None


@lru_cache(maxsize=8)
def _program_of_trainer(name: str, release: str, key: Key, token_types: bool) -> TrainerProgram:
    """A trainer's step: as it comes with the package, or recorded from the installed library where that release has
    more. ``token_types``: the tokenizer makes them, where the trainer's was recorded with some.

    Raises ``InputError`` where neither has it.
    """
    from ..programs.trainer_programs import TrainerProgram, has_step, step_of, without_input

    library = name if trainers.TRAINERS[name].embeds else "trl"
    if has_step(name, release, key) or installed_release(library) != release:
        found = step_of(name, release, key)
    else:
        silence()
        from ..recorder.trainer_family import record_family

        found = TrainerProgram(record_family(name, key))
    return found if token_types else TrainerProgram(without_input(found.program, "token_type_ids"))


def _procedure(plan: Plan, config: Config, window: int | None) -> Procedure:
    if plan.trainer in trainers.TRAINERS and plan.task == "train":
        return _trainer_step(plan, window, plan.engine.kernels(plan).tiles_on_chip, config)
    if plan.generate is not None:
        experts = plan.experts_implementation or config.source.experts
        switches = experts == "grouped_mm" and plan.engine.has_own_memory and config.source.has_experts
        return procedure_of("generate", plan.generate, window, "batched_mm" if switches else None)
    return procedure_of("inference" if plan.task == "infer" else plan.method.procedure)


def window_of(config: Config, method: Method) -> int | None:
    """The shortest sequence in which a sliding window hides keys; ``None`` where no layer has a window."""
    if config.sliding_window is None or not any(config.windowed_layers):
        return None
    return max(config.sliding_window - method.virtual_tokens, 1)
