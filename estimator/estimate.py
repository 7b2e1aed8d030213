"""From a plan to its answer: resolve names, run the ledger, read totals and verdict."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .adapters.base import AdapterMethod, Method
from .adapters.full import FullMethod
from .adapters.options import module_paths
from .adapters.traced import TracedMethod
from .architectures.base import Sizes
from .assumptions import Assumption
from .errors import InputError
from .flat import nested
from .ledger.sizes import Size
from .lengths import quantile
from .margins import STATED, Margin, verdict_of
from .operators import CPU, Cuda
from .plan import Plan, parse_plan
from .quantised import BITSANDBYTES, FORMATS, FOUR_BIT
from .report import human
from .runtimes import torch_cpu
from .specs import LAYER_MODULES, LAYER_NORMS, Config, ModelSpec, load
from .training.optimizers import OPTIMIZERS
from .training.step import StepOptions, StepTotals, run

if TYPE_CHECKING:
    from .inference.generate import Generation
    from .runtimes.torch_cuda import Phase
    from .trace_cuda import Tracer

SCHEMA = 1


@dataclass(frozen=True)
class Resolved:
    """A plan whose names have been looked up and checked."""

    plan: Plan
    spec: ModelSpec
    method: Method
    options: StepOptions

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
    from .devices import DEFAULT_GPU, find

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
        from . import litgpt

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
    options = StepOptions(
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
        optimizer_rank=plan.optimizer_rank or StepOptions.optimizer_rank,
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
    return Resolved(plan, spec, method, options)


def _generation(plan: Plan, window: int | None) -> Generation | None:
    if plan.generate is None:
        return None
    from .inference.generate import Generation

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


def _refuse_tracing(plan: Plan) -> None:
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


@dataclass(frozen=True)
class Result:
    """The answer to a plan. Sizes are bytes."""

    model: str
    asked: str
    """What is done with it and in which program, in words."""
    task: str
    runtime: str
    bytes: Mapping[str, int]
    """parameters, adapters, buffers, gradients, optimizer, saved, resident, peak_above_resident, peak, process; of
    task infer also kv_cache; host_pinned where what is saved waits in the host's memory, which is no part of the
    others."""
    trainable_parameters: int
    total_parameters: int
    peak_at: str
    moments: Mapping[str, int]
    """Named moments and the bytes above resident reached there."""
    fits: bool | None
    budget_bytes: int | None
    warnings: tuple[str, ...] = field(default=())
    uncertainty: float = 0.0
    """Share of ``process`` that measured processes were within."""
    against: str = "process"
    """Which of ``bytes`` the budget is compared with: what the device counts."""
    limits: Mapping[str, int] = field(default_factory=dict)
    """Where a device has several limits, all of them in bytes, by what they count; ``budget_bytes`` is of the one that
    is reached first."""
    assumptions: tuple[Assumption, ...] = field(default=())
    """What the answer rests on although nobody published or measured it."""
    run: Mapping[str, Any] | None = None
    """Of a plan with ``lengths``: the run's batches, how likely one of them is to run out of memory, and on a GPU what
    batches reserve."""
    phases: tuple[Phase, ...] = field(default=())
    """On a GPU: allocated and reserved bytes after loading, in each part of the step, and after it."""

    @property
    def margin_bytes(self) -> int | None:
        """Bytes of the budget that are left (not those of a ``Margin``); below zero, those that are missing."""
        return None if self.budget_bytes is None else self.budget_bytes - self.bytes[self.against]

    def kept(self, margin: Margin) -> int:
        """Bytes of the budget that a margin keeps free: a share is one of what is counted. Where that is dirty or used
        memory it is one of the whole process, which is what was measured.
        """
        return margin.of(self.bytes["process" if self.against in ("dirty", "used") else self.against], self.uncertainty)

    def held_against(self, budget: int) -> Result:
        """The same answer for a budget in bytes."""
        return replace(self, budget_bytes=budget, fits=self.bytes[self.against] <= budget)

    @property
    def uncertainty_bytes(self) -> int:
        """``uncertainty`` in bytes."""
        return self.kept(STATED)

    def verdict_with(self, margin: Margin) -> str | None:
        """``fits``, ``tight`` (it fits by less than the margin) or ``does not fit``; ``None`` without a budget."""
        if self.margin_bytes is None:
            return None
        return verdict_of(bool(self.fits), bool(self.fits) and self.margin_bytes >= self.kept(margin))

    @property
    def verdict(self) -> str | None:
        """The verdict with the uncertainty as margin."""
        return self.verdict_with(STATED)

    def to_dict(self) -> dict[str, Any]:
        """The result object of the project's contract (schema 1)."""
        answer: dict[str, Any] = {
            "schema": SCHEMA,
            "model": self.model,
            "asked": self.asked,
            "task": self.task,
            "runtime": self.runtime,
            "bytes": dict(self.bytes),
            "trainable_parameters": self.trainable_parameters,
            "peak_at": self.peak_at,
            "fits": self.fits,
            "budget_bytes": self.budget_bytes,
            "warnings": list(self.warnings),
            "assumptions": [asdict(one) for one in self.assumptions],
        }
        if self.limits:
            answer["limits"] = dict(self.limits)
        if self.verdict is not None:
            answer["verdict"] = self.verdict
            answer["margin_bytes"] = self.margin_bytes
            answer["uncertainty_bytes"] = self.uncertainty_bytes
        if self.phases:
            answer["phases"] = [asdict(phase) for phase in self.phases]
        if self.run is not None:
            answer["run"] = dict(self.run)
        return answer

    def _repr_html_(self) -> str:
        from .report import result_html

        return result_html(self)


def estimate(plan: Plan | Mapping[str, Any] | str | None = None, /, **keys: Any) -> Result:
    """Answer a plan: a ``Plan``, a mapping of its keys, or a model's name and the keys themselves.

    Keys of a plan's block (of its method, ``generate`` or ``llama_cpp``) may be given beside the plan's own.

    >>> estimate("llama-3.2-1b", method="lora", r=16, seq=2048).peak_at
    'loss backward'

    Raises ``InputError`` for wrong input.
    """
    if isinstance(plan, str):
        if "model" in keys:
            raise TypeError("give the model once")
        plan = {"model": plan}
    if not isinstance(plan, Plan):
        plan = parse_plan(nested(plan or {}, keys))
    elif keys:
        raise TypeError("give a plan or keys, not both")
    if plan.runtime == "llama.cpp":
        from .runtimes import llama_cpp

        return llama_cpp.estimate(plan)
    resolved = resolve(plan)
    if isinstance(plan.method, TracedMethod):
        _refuse_tracing(plan)
        try:
            result = _traced(resolved)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"method {plan.method.name} cannot be traced with these options "
                f"({type(error).__name__}: {str(error).splitlines()[0][:150] if str(error) else 'no message'})"
            ) from None
        from importlib.metadata import version

        note = (
            f"method {plan.method.name} has no rules here: these are the bytes of a trace of the installed PEFT's own "
            f"module, release {version('peft')}; others may run it differently "
            "(peak without what a kernel takes inside)"
        )
        return replace(result, warnings=(*result.warnings, note))
    totals = run(resolved.options, resolved.sizes(), resolved.method, plan.batch, plan.seq)
    result = to_result(resolved, totals)
    return result if plan.lengths is None else replace(result, run=_run_of(plan, result))


def _run_of(plan: Plan, result: Result) -> dict[str, Any]:
    """What a run over the plan's lengths meets: its batches, the longest, and how likely it is to run out of memory.

    A run dies of the first batch that does not fit, so the longest length that fits is looked for among the
    lengths that its batches have, by estimates of each on its own.
    """
    assert plan.lengths is not None
    lengths = plan.lengths.read()
    batches = lengths.batches(plan.batch, plan.gradient_accumulation_steps)
    found: dict[str, Any] = {"batches": batches, "longest_seq": plan.seq}
    if result.budget_bytes is not None:
        widths = [width for width, _ in lengths.batch_distribution(plan.batch)]
        # Whether the longest fits is known.
        below, above = (len(widths) - 1, len(widths)) if result.fits else (-1, len(widths) - 1)
        while above - below > 1:
            middle = (below + above) // 2
            one = estimate(plan.model_copy(update={"lengths": None, "seq": widths[middle]}))
            below, above = (middle, above) if one.fits else (below, middle)
        fitting = widths[below] if below >= 0 else 0
        found["longest_seq_that_fits"] = fitting
        found["oom_probability"] = lengths.probability_of_exceeding(fitting, plan.batch, batches)
    if plan.runtime == "torch-cuda":
        found["reserved_quantiles"] = {}
        distribution = lengths.batch_distribution(plan.batch)
        for share in _QUANTILES:
            alone = plan.model_copy(update={"lengths": None, "seq": quantile(distribution, share)})
            found["reserved_quantiles"][str(share)] = estimate(alone).bytes["reserved_peak"]
    return found


_QUANTILES = (0.5, 0.9, 0.99)
"""Shares of a run's batches for which it is said what none of them reserves more than, cached memory given back
before each."""


def _traced(resolved: Resolved) -> Result:
    """The answer from a trace of PEFT's own module."""
    if resolved.plan.runtime == "torch-cpu":
        from .trace import trace_step

        return to_result(resolved, trace_step(resolved))
    from .trace_cuda import Tracer

    tracer = Tracer(resolved)
    return to_result(resolved, tracer.totals(resolved.plan.batch, resolved.plan.seq), tracer)


def to_result(resolved: Resolved, totals: StepTotals, tracer: Tracer | None = None, says_where: bool = True) -> Result:
    """The answer from a step's totals, all of them integers; on a GPU, of a method without rules, with its tracer.

    ``says_where``: a warning says where a process without hope runs out of a GPU's memory.
    """
    result = live_of(resolved, totals)
    if resolved.plan.runtime != "torch-cuda":
        return result
    from .runtimes import torch_cuda

    if totals.math_attention:
        note = _math_note(resolved, totals.math_attention, result.bytes["peak_above_resident"])
        result = replace(result, warnings=(*result.warnings, note))
    return torch_cuda.with_usage(result, resolved, tracer, says_where)


def live_result(resolved: Resolved) -> Result:
    """The answer of a method with rules before a GPU's runtime adds allocator, context and verdict.

    For what only asks about live bytes, ``peak``, which are never above ``process``. Raises ``InputError``.
    """
    plan = resolved.plan
    return live_of(resolved, run(resolved.options, resolved.sizes(), resolved.method, plan.batch, plan.seq))


def live_of(resolved: Resolved, totals: StepTotals) -> Result:
    """The answer from a step's totals before a GPU's runtime adds allocator, context and verdict."""
    moments = {name: max(_integer(v) for v in values) for name, values in totals.moments.items()}
    components = {name: _integer(getattr(totals, name)) for name in COMPONENTS}
    result = make_result(resolved.plan, resolved.spec, components, moments)
    if not totals.host_pinned:
        return result
    return replace(result, bytes={**result.bytes, "host_pinned": totals.host_pinned})


def _math_note(resolved: Resolved, why: str, peak: int) -> str:
    """That attention is quadratic, what it costs against a kernel that is not, and what avoids it."""
    cost, plan = "", resolved.plan
    if not isinstance(plan.method, TracedMethod):
        options = replace(resolved.options, device=Cuda(capability_of(plan.device), "efficient"))
        with suppress(InputError):  # which does not take this dtype or head size on this device
            totals = run(options, resolved.sizes(), resolved.method, plan.batch, plan.seq)
            least = max(_integer(v) for values in totals.moments.values() for v in values)
            cost = f", here {human(max(peak - least, 0))} more at the peak than the memory-efficient kernel needs"
    return f"attention runs PyTorch's math kernel, whose memory grows with the square of the sequence{cost}: {why}"


def make_result(plan: Plan, spec: ModelSpec, components: Mapping[str, int], moments: Mapping[str, int]) -> Result:
    """The answer from the bytes of ``COMPONENTS`` and of the moments above resident, on a CPU."""
    peak_at = max(moments, key=lambda name: moments[name])
    above = moments[peak_at]
    left_out = ("trainable_parameters", "total_parameters", *(() if plan.task == "infer" else ("kv_cache",)))
    sizes = {name: components[name] for name in COMPONENTS if name not in left_out}
    sizes["resident"] = sizes["parameters"] + sizes["buffers"] + sizes["optimizer"]
    sizes["peak_above_resident"] = above
    sizes["peak"] = sizes["resident"] + above
    sizes["process"] = torch_cpu.process_bytes(sizes)
    budget = plan.budget_bytes()
    return Result(
        model=plan.model,
        asked=plan.asked,
        task=plan.task,
        runtime=plan.runtime,
        bytes=sizes,
        trainable_parameters=components["trainable_parameters"],
        total_parameters=components["total_parameters"],
        peak_at=peak_at,
        moments=dict(sorted(moments.items(), key=lambda item: -item[1])),
        fits=None if budget is None else sizes["process"] <= budget,
        budget_bytes=budget,
        warnings=(
            *spec.warnings,
            *plan.method.inner.notes(plan),
            *_beyond(plan, spec),
            *(OPTIMIZERS[plan.optimizer].warnings if plan.runtime == "torch-cpu" else ()),
        ),
        uncertainty=torch_cpu.UNCERTAINTY,
        assumptions=plan.assumptions(),
    )


def _beyond(plan: Plan, spec: ModelSpec) -> list[str]:
    """A note where an inference run has more positions than the model was made for."""
    positions = spec.raw.get("max_position_embeddings")
    tokens = plan.seq + (0 if plan.generate is None else plan.generate.max_new_tokens)
    if plan.task == "train" or not isinstance(positions, int) or tokens <= positions:
        return []
    return [f"the model was made for {positions:,} positions; {tokens:,} are more"]


COMPONENTS = (
    "parameters",
    "adapters",
    "buffers",
    "gradients",
    "optimizer",
    "saved",
    "kv_cache",
    "trainable_parameters",
    "total_parameters",
)
"""What a step's totals hold beside the moments: bytes, and two counts of parameters."""


def _integer(size: Size) -> int:
    assert isinstance(size, int)
    return size
