"""A plan whose names have been looked up, and the refusals of what does not go together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..bases.formats import BITSANDBYTES, FORMATS, FOUR_BIT
from ..errors import InputError
from ..methods.base import AdapterMethod
from ..methods.full import FullMethod
from ..methods.options import module_paths
from ..operators import CPU, Cuda
from ..plans.models import ModelSpec, load
from ..plans.plan import Plan
from ..programs.config import LAYER_MODULES, LAYER_NORMS, Config
from ..programs.method import Method
from ..programs.sizes import Sizes
from ..programs.step import Step
from ..steps.optimizers import OPTIMIZERS

if TYPE_CHECKING:
    from ..steps.generate import Generation


@dataclass(frozen=True)
class Resolved:
    """A plan whose names have been looked up and checked."""

    plan: Plan
    spec: ModelSpec
    method: Method
    step: Step

    def at(self, batch: int, seq: int) -> Resolved:
        """The same plan with another batch and sequence."""
        if (batch, seq) == (self.plan.batch, self.plan.seq):
            return self
        return resolve(self.plan.model_copy(update={"batch": batch, "seq": seq}))

    def sizes(self, symbolic: bool = False) -> Sizes:
        """The model's sizes; layers that the method treats alike share a run."""
        # GPUs choose attention kernels by the head's size.
        open_heads = self.plan.runtime != "torch-cuda" or self.plan.attention == "eager"
        return self.spec.config.sizes(layer_signature(self.method), symbolic, open_heads)


def capability_of(device: str | None) -> tuple[int, int]:
    """The compute capability of a plan's device. Raises ``InputError`` for a device that runs no CUDA."""
    from ..plans.devices import DEFAULT_GPU, find

    capability = find(device or DEFAULT_GPU).capability
    if capability is None:
        raise InputError(f"device {device} runs no CUDA; leave runtime torch-cuda out, or name another device")
    return capability


def layer_signature(method: Method) -> Any:
    """What a method does to the layer at a path, module by module."""
    if not method.by_layer:
        return lambda prefix: None
    return lambda prefix: tuple(method.signature(prefix + module) for module in (*LAYER_MODULES, *LAYER_NORMS))


def resolve(plan: Plan) -> Resolved:
    """Look up the names of a plan in PyTorch. Raises ``InputError``."""
    if plan.runtime == "llama.cpp":
        raise InputError(
            "this question is about steps in PyTorch; of runtime llama.cpp `estimator estimate` answers a plan and "
            "`estimator max-context` finds the longest context"
        )
    _refuse_savings(plan)
    if plan.implementation == "litgpt":
        from ..plans import litgpt

        litgpt.check(plan)
        spec = litgpt.load(plan)
    else:
        spec = load(plan.model)
    config = spec.config
    infers = plan.task == "infer"
    evaluates = infers or plan.method.procedure == "zeroth-order"  # in eval mode, without dropout
    if plan.attention == "sdpa" and config.attention_dropout > 0 and not evaluates:
        raise InputError(
            "attention_dropout above 0 with sdpa runs PyTorch's math kernel, which has no rule yet; "
            "use attention: eager, or set attention_dropout to 0"
        )
    optimizer = OPTIMIZERS[plan.optimizer]
    if optimizer.in_backward and plan.gradient_accumulation_steps > 1:
        raise InputError(
            f"optimizer {plan.optimizer} applies each gradient in backward, so none is left to accumulate; "
            "set gradient_accumulation_steps to 1"
        )
    if plan.optimizer_rank is not None and plan.optimizer != "galore-adamw":
        raise InputError(f"optimizer_rank belongs to optimizer galore-adamw, not {plan.optimizer}; leave it out")
    plan.method.check_plan(plan, spec)
    if plan.activation_group_size % 2:
        raise InputError(
            f"activation_group_size {plan.activation_group_size} is odd, and int4 packs two to a byte; "
            "take an even size, such as 64"
        )
    method = litgpt.method(plan, config) if plan.implementation == "litgpt" else plan.method.build(config, plan.dtype)
    window = window_of(config, method)
    step = Step(
        family=config.family,
        dtype=plan.held_dtype,
        base=plan.base,
        autocast=plan.autocast,
        attention=plan.attention,
        checkpointing=plan.checkpointing,
        mlp_chunks=plan.mlp_chunks,
        loss=plan.loss,
        loss_chunk=plan.loss_chunk,
        optimizer=plan.optimizer,
        optimizer_rank=plan.optimizer_rank or Step.optimizer_rank,
        keep_logits=plan.keep_logits,
        drop_output=plan.drop_output_before_step,
        padding_mask=plan.attention_mask,
        use_cache=plan.use_cache,
        window_reached=window is not None and plan.seq >= window,
        gradients_alive=plan.gradient_accumulation_steps > 1,
        procedure="inference" if infers else plan.method.procedure,
        saved_activations=plan.saved_activations,
        activation_group_size=plan.activation_group_size,
        gradient_clipping=plan.gradient_clipping,
        generation=_generation(plan, window),
        previous_output=plan.holds_previous_output and plan.runtime == "torch-cpu",  # a replay has the real one
        device=Cuda(capability_of(plan.device), plan.sdpa_kernel) if plan.runtime == "torch-cuda" else CPU,
    )
    if plan.base is not None:
        _check_quantised(plan, method, config)
    if plan.generate is not None:
        _check_generation(plan, method, window)
    if plan.loss == "chunked" and not plan.method.by_token and method.adapts("lm_head"):
        raise InputError(
            f"loss chunked would cut the sequence that {plan.method.title} makes one vector of at lm_head; "
            "take lm_head out of target_modules"
        )
    return Resolved(plan, spec, method, step)


def _generation(plan: Plan, window: int | None) -> Generation | None:
    if plan.generate is None:
        return None
    from ..steps.generate import Generation

    return Generation(plan.generate, window)


def _refuse_savings(plan: Plan) -> None:
    """Raise ``InputError`` if the plan's memory savings do not go with each other or with the rest."""
    if plan.pins_memory and plan.runtime != "torch-cuda":
        raise InputError(
            f"{plan.pins_memory} moves what is saved from a GPU to the host's memory, and on runtime {plan.runtime} "
            "the model is there itself; set runtime: torch-cuda or a GPU, or take checkpointing: layer"
        )
    if plan.saved_activations == "on-host" and plan.dtype in FORMATS and plan.dtype not in BITSANDBYTES:
        raise InputError(
            f"saved_activations on-host has no rule for a base in {plan.dtype}, which saves whole weights; take "
            "checkpointing: offloaded, or another dtype"
        )
    if plan.saved_activations == "on-host" and plan.mlp_chunks > 1:
        raise InputError(
            "saved_activations on-host brings a chunk back contiguous, which PyTorch recomputes by another product and "
            "refuses (CheckpointError); set mlp_chunks to 1, or take checkpointing: offloaded"
        )
    if plan.use_cache and plan.checkpointing not in ("none", "layer", "offloaded"):
        raise InputError(
            f"checkpointing {plan.checkpointing} with use_cache would write the cache again when it recomputes; "
            "set use_cache to false"
        )
    if plan.mlp_chunks > plan.batch * plan.seq:
        raise InputError(
            f"mlp_chunks {plan.mlp_chunks} is more than the {plan.batch * plan.seq} tokens there are; use fewer"
        )
    if not plan.method.by_token and plan.mlp_chunks > 1:
        raise InputError(f"mlp_chunks would cut the sequence that {plan.method.title} makes one vector of; set it to 1")
    if plan.method.pads_labels and plan.loss == "cce":
        raise InputError(
            f"loss cce leaves out tokens without a label, which {plan.method.title} adds some of; use loss: chunked"
        )
    if not plan.method.plain_saved and plan.saved_activations != "as-is":
        raise InputError(
            f"{plan.method.title} saves sparse or transformed tensors, which have no rule for saved_activations; "
            "set it to as-is"
        )
    group_size = Plan.model_fields["activation_group_size"].default
    if plan.activation_group_size != group_size and plan.saved_activations in ("as-is", "on-host"):
        raise InputError("activation_group_size belongs to saved_activations: int8 or int4; leave it out")
    if plan.loss_chunk is not None and plan.loss != "chunked":
        raise InputError(f"loss_chunk is a size of loss: chunked; with loss: {plan.loss} leave it out")


def refuse_tracing(plan: Plan) -> None:
    """Raise ``InputError`` for what a trace of a step does not follow."""
    name = f"method {plan.method.name} has no rules, and its trace"
    if plan.task == "infer":
        raise InputError(f"{name} is of a training step; use task: train, or full for the model without adapters")
    if plan.loss != "standard":
        raise InputError(f"{name} has no labels to read for loss {plan.loss}; use loss: standard")
    if plan.gradient_accumulation_steps > 1 and plan.runtime == "torch-cpu":
        raise InputError(f"{name} is of a step of one batch; set gradient_accumulation_steps to 1")
    if OPTIMIZERS[plan.optimizer].in_backward:
        raise InputError(f"{name} does not follow optimizer {plan.optimizer}, which updates in backward; take another")
    if plan.saved_activations != "as-is":
        raise InputError(f"{name} does not quantise or move what is saved; set saved_activations to as-is")
    if plan.checkpointing == "offloaded":
        raise InputError(f"{name} does not move what is saved; use checkpointing: layer")


def _check_generation(plan: Plan, method: Method, window: int | None) -> None:
    """Raise ``InputError`` for a call of ``generate`` that transformers refuses, or that has no rules."""
    assert plan.generate is not None
    if method.virtual_tokens or plan.method.name == "adaption_prompt":
        raise InputError(
            f"generate with {plan.method.title} runs PEFT's own preparation of the prompt, which has no rules in this "
            "version; leave generate out for one pass, or take another method"
        )
    if plan.generate.cache_implementation == "quantized" and window is not None:
        raise InputError(
            "transformers' quantized cache takes no sliding windows, which this model has; "
            "use cache_implementation: dynamic or static"
        )
    if plan.generate.cache_implementation == "quantized" and plan.autocast:
        raise InputError(
            "under autocast PyTorch cannot join the 8-bit floats of transformers' quantized cache; "
            "leave autocast out, or use cache_implementation: dynamic or static"
        )


_INFERENCE_FORMATS: Mapping[str, tuple[str, ...]] = {
    "torch-cpu": ("int8-weight-only", "float8"),
    "torch-cuda": ("nf4", "fp4", "int8", "int8-weight-only", "float8"),
}
"""Formats whose layers run in inference what they run in training's forward pass. In eval mode on a CPU bitsandbytes
repacks 4-bit weights (``nn/modules.py: Linear4bit.forward``, with AVX512-BF16) and multiplies 8-bit ones as integers
(``autograd/_functions.py: matmul``); GPTQ's and AWQ's rules are of the kernels that can train."""


def _check_quantised(plan: Plan, method: Method, config: Config) -> None:
    """Refuse what a quantised base cannot do."""
    assert plan.base is not None
    if plan.task == "infer" and plan.dtype not in _INFERENCE_FORMATS[plan.runtime]:
        raise InputError(
            f"a base in {plan.dtype} runs other kernels in inference on {plan.runtime} than in training, which have no "
            f"rules in this version; take one of {', '.join(_INFERENCE_FORMATS[plan.runtime])}"
        )
    if plan.task == "train" or not isinstance(plan.method, FullMethod):
        plan.method.check_base(plan.base, plan.held_dtype, plan.autocast)
    if plan.checkpointing == "matmul" and plan.dtype in FOUR_BIT:
        raise InputError(
            f"checkpointing matmul keeps PyTorch's products, and those with {plan.dtype} weights are bitsandbytes'; "
            "use checkpointing: layer"
        )
    for path in module_paths(config)[1:-1]:
        if isinstance(method, AdapterMethod) and method.saves(path):
            raise InputError(f"modules_to_save takes in {path}, whose packed weight cannot be trained; leave it out")


def window_of(config: Config, method: Method) -> int | None:
    """The sequence length from which on a sliding window hides keys; ``None`` where no layer has one."""
    if not any(config.windowed_layers):
        return None
    assert config.sliding_window is not None
    return max(config.sliding_window - method.virtual_tokens, 1)
