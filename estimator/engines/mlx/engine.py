"""The engine: from a plan to a step of mlx-lm, or a call of its ``generate_step``, and to the memory that it takes.

``peak`` is what ``mx.get_peak_memory`` reports, and ``resident`` what ``mx.get_active_memory`` reports before. Freed
buffers that MLX keeps for later, and the interpreter, are beside them: ``process`` counts the second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from ...errors import InputError
from ..devices import Device, find
from ..engine import Engine, Figures, Limit, Spec
from .evaluation import Allocator, Evaluator, Stream
from .generation import CacheOptions, generate
from .layers import Setting
from .metal import MetalAllocator, MetalStream
from .models import FAMILIES, Model, config_of
from .options import unpacked
from .training import prepare, step

MIB = 2**20
LIBRARIES_BYTES = 95 * MIB
"""The resident set of a process that has made three steps, less their peak: 91 and 99 MiB of two models (mlx 0.32.4,
mlx-lm 0.32.2, Python 3.11, x86-64 Linux). Up to 32 MiB of freed buffers are in it, which MLX keeps on a CPU."""
UNCERTAINTY = 0.03
"""What a step's peak differs by from one run to the next: the thread that frees runs beside the one that allocates."""


class Found(NamedTuple):
    """What a step or a call takes, in bytes."""

    parameters: int
    adapters: int
    optimizer: int
    gradients: int
    kv_cache: int
    buffers: int
    peak: int
    moments: Mapping[str, int]
    total_parameters: int
    trainable_parameters: int


class Mlx(Engine):
    """MLX on Apple silicon, or on a CPU."""

    title = "MLX"
    is_searched = True
    reads_checkpoints = False
    defaults = MappingProxyType({})
    rows = (
        ("parameters", "parameters"),
        ("adapters", "  of them adapters"),
        ("buffers", "buffers"),
        ("optimizer", "optimizer states"),
        ("resident", "resident"),
        ("gradients", "gradients"),
        ("kv_cache", "KV cache"),
        ("peak_above_resident", "peak above resident"),
        ("peak", "peak (mx.get_peak_memory)"),
        ("process", "process"),
    )
    always = ("parameters", "resident", "peak_above_resident", "peak")
    meanings = MappingProxyType(
        {
            "seq": "tokens of a sequence or prompt",
            "parameters": "all parameters, adapters among them",
            "adapters": "parameters that LoRA or DoRA adds",
            "buffers": "tables of rotary embeddings",
            "gradients": "gradients of what is trained",
            "optimizer": "the optimizer's states",
            "saved": "not counted: what a lazy graph keeps is in its peak",
            "resident": "what is there before a step or a call",
            "kv_cache": "the caches at the end of a call",
            "peak_above_resident": "mx.get_peak_memory() less mx.get_active_memory() before",
            "peak": "mx.get_peak_memory()",
            "process": "the peak, the interpreter and the libraries",
        }
    )
    uncertainty = UNCERTAINTY
    uncertainty_of = "what a step's own peak differs by from one run to the next on a CPU"
    page_dtypes = ("bfloat16", "mlx-4bit", "mlx-8bit")
    exactness = f"parameters and caches are exact to the byte; a step's peak repeats within {UNCERTAINTY:.0%}"

    def asked(self, plan: Any) -> str:
        place = "Apple silicon" if _on_metal(plan) else "a CPU"
        what = "a training step of mlx-lm" if plan.task == "train" else "a call of mlx-lm's generate_step"
        return f"{what} on {place}"

    def heading(self, plan: Any) -> str:
        what = plan.method.name if plan.task == "train" else f"{plan.mlx.max_tokens} new tokens"
        return f"{plan.model}, {plan.dtype}, {what}, {plan.batch} x {plan.seq}, MLX"

    def release(self, plan: Any) -> str:
        return "mlx 0.32, mlx-lm 0.32"

    def knows(self, family: str) -> bool:
        return family in FAMILIES

    def device_of(self, plan: Any) -> Device | None:
        return None if plan.device is None else find(plan.device)

    def runs_alike(self, plan: Any, device: Device) -> bool:
        return device.is_apple == _on_metal(plan)

    def against(self, plan: Any, device: Device | None) -> tuple[str, str]:
        name = "peak" if _on_metal(plan) else "process"
        return name, name

    def parts(self, sizes: Mapping[str, int], peak_at: str, gradients_alive: bool = False) -> dict[str, int]:
        return {
            "parameters": sizes["parameters"] + sizes["buffers"],
            "optimizer states": sizes["optimizer"],
            "compute": sizes["peak_above_resident"],
        }

    def model(self, plan: Any, load: Callable[[str], Spec]) -> Spec:
        base, bits = unpacked(plan.model)
        if bits is not None and plan.dtype != f"mlx-{bits}bit":
            raise InputError(f"model: {plan.model} has weights of {bits} bits by its name; set dtype: mlx-{bits}bit")
        spec = load(base)
        family = str(spec.raw.get("model_type"))
        if config_of(spec.raw)["model_type"] not in FAMILIES:
            raise InputError(f"model_type: {family} has no rule with runtime: mlx; known: {', '.join(FAMILIES)}")
        return spec

    def contexts(self, plan: Any, model: Spec) -> tuple[int, int, int, int]:
        last = int(config_of(model.raw).get("max_position_embeddings") or 10**6)
        return plan.seq, 1, last, 1

    def figures(self, plan: Any, model: Spec) -> Figures:
        config, o = config_of(model.raw), plan.mlx
        layers = config["num_hidden_layers"]
        if plan.task == "train" and o.num_layers > layers and "num_layers" in o.model_fields_set:
            raise InputError(
                f"num_layers: {o.num_layers} does not go with {model.name}, which has {layers} layers; set num_layers: "
                "-1"
            )
        metal = _on_metal(plan)
        bits = int(plan.dtype[4]) if plan.dtype.endswith("bit") else None
        dtype = "bfloat16" if bits else plan.dtype
        if not metal and bits is None and dtype != "float32" and FAMILIES[config["model_type"]].experts:
            raise InputError(
                f"dtype: {dtype} does not go with experts on a CPU, where MLX multiplies them in float32 alone "
                "(GatherMM); set dtype: float32 or mlx-4bit, or default_device: gpu"
            )
        if plan.task == "train":
            found = _trained(plan, config, Setting(dtype, bits, metal, o.q_group_size, plan.checkpointing == "layer"))
        else:
            found = _generated(plan, config, Setting(dtype, bits, metal, o.q_group_size, training=False))
        resident = found.parameters + found.buffers + found.optimizer
        sizes = {
            "parameters": found.parameters,
            "adapters": found.adapters,
            "buffers": found.buffers,
            "gradients": found.gradients,
            "optimizer": found.optimizer,
            "saved": 0,
            "resident": resident,
            "kv_cache": found.kv_cache,
            "peak_above_resident": found.peak,
            "peak": resident + found.peak,
            "process": resident + found.peak + LIBRARIES_BYTES,
        }
        limited = self.against(plan, self.device_of(plan))[0]  # Metal counts what it allocates
        wired: int | None = o.iogpu_wired_limit_mb
        budget = plan.budget_bytes() if wired is None else wired * MIB
        limit = Limit(limited, sizes[limited], budget, sizes["peak"])
        grows = o.server is not None and (budget is None or limit.left >= 0)
        return Figures(
            sizes,
            found.moments,
            found.total_parameters,
            (limit,),
            trainable_parameters=found.trainable_parameters,
            warnings=(*model.warnings, *_notes(plan, sizes)),
            unknown=(f"the prompt caches that {o.server} keeps between requests",) if grows else (),
        )


def _on_metal(plan: Any) -> bool:
    return bool(plan.mlx.default_device == "gpu")


def _evaluator(plan: Any) -> Evaluator:
    if not _on_metal(plan):
        allocator = Allocator()
        return Evaluator(allocator, Stream(allocator))
    allocator = MetalAllocator()
    return Evaluator(allocator, MetalStream(allocator, None if plan.device is None else find(plan.device)))


def _counts(model: Model) -> tuple[int, int, int, int]:
    """Bytes of adapters and of tables, and how many parameters there are and are trained."""
    adapters = tables = total = trained = 0
    for module in model.modules():
        for name, a in module.arrays.items():
            if name[0] == "_":
                tables += a.nbytes
                continue
            adapters += a.nbytes if name in module.adapters else 0
            trained += a.size if name in module.trained else 0
            if name not in module.adapters and name not in ("scales", "biases"):
                packed = "scales" in module.arrays and name == "weight"
                total += module.arrays["scales"].size * model.setting.group if packed else a.size
    return adapters, tables, total, trained


def _trained(plan: Any, config: Mapping[str, Any], setting: Setting) -> Found:
    model = Model(config, setting)
    method = plan.method
    if method.name == "full":
        prepare(model, "full", plan.mlx.num_layers, 0)
    else:
        keys = method.target_modules if isinstance(method.target_modules, list) else None
        prepare(model, "dora" if method.use_dora else "lora", plan.mlx.num_layers, method.r, keys)
    adapters, tables, total, trained = _counts(model)
    if not trained:
        raise InputError("target_modules: none of them is a layer of the model; leave it out for all linear layers")
    use = step(model, plan.batch, plan.seq, plan.optimizer, plan.gradient_accumulation_steps, _evaluator(plan))
    sizes = use.parameters, adapters, use.states, use.trained, 0, tables, use.peak
    return Found(*sizes, {"step": use.peak}, total + (trained if adapters else 0), trained)


def _generated(plan: Any, config: Mapping[str, Any], setting: Setting) -> Found:
    o = plan.mlx
    model = Model(config, setting)
    _, tables, total, _ = _counts(model)
    caches = CacheOptions(o.max_kv_size, o.kv_bits, o.kv_group_size, o.quantized_kv_start)
    use = generate(model, plan.seq, o.max_tokens, o.prefill_step_size, caches, _evaluator(plan))
    return Found(use.parameters, 0, 0, 0, use.kv_cache, tables, use.peak, use.moments, total, 0)


def _notes(plan: Any, sizes: Mapping[str, int]) -> list[str]:
    """Warnings about a result."""
    if not _on_metal(plan):
        return []
    found = ["what MLX keeps of freed buffers is beside the peak, and grows up to the device's limit"]
    if plan.device is None:
        found.append("without a device the answer is for Apple silicon; default_device: cpu asks about a CPU")
    if plan.task == "train":
        found.append("on Apple silicon compared with public logs only, since no Mac was at hand")
    return found


ENGINE = Mlx()
