"""The engine: from a plan to the buffers of a process, and to its resident memory.

The buffers are those that the engine reports. ``process`` is the peak resident set while it decodes. The compute
buffer is reserved for the logits of a whole batch; decoding computes them for the last token of each sequence only, and
never touches most of the buffer's pages.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ...errors import InputError, shown
from ...io.fields import parse_size
from ...io.files import existing
from ...text import human, printable
from ..assumptions import Assumption
from ..devices import Device, context_bytes, find
from ..engine import Engine, Figures, Limit, Spec, host_limit
from . import convert, gguf_file, hparams, placement, projector
from .builds import BUILDS
from .header import Header
from .options import RPC, UNQUANTISED, is_gguf
from .recipes import RELEASED
from .usage import UNCERTAINTY, Usage, usage

_ARM = ("Android phone", "board")
_PLAIN = ("raspberry-pi-4", "jetson-nano")
"""Boards with ARMv8.0 cores (Cortex-A72, A57), which have no dot-product instructions."""


@dataclass(frozen=True)
class Model:
    """A model as llama.cpp sees it."""

    name: str
    header: Header
    from_file: bool
    """Whether the header was read from a GGUF file, not made from a config."""
    warnings: tuple[str, ...]
    draft: Model | None = None
    images: projector.Projector = projector.NONE
    """A multimodal projector beside it."""

    @cached_property
    def trained(self) -> int:
        """The positions that it was made for. Raises ``InputError`` where the header does not say."""
        return hparams.read(self.header).n_ctx_train


def _backend_on(device: Device) -> str:
    """The backend that runs a device of the catalogue."""
    if device.is_apple:
        return "metal"
    if device.name.startswith(_PLAIN):
        return "cpu-plain"
    if device.kind in _ARM:
        return "cpu-arm"
    return "cuda" if device.capability is not None else "vulkan" if device.kind.startswith("GPU") else "cpu"


def backend_of(plan: Any) -> str:
    """The plan's backend, by default its device's. Raises ``InputError`` for an unknown device."""
    chosen: str | None = plan.llama_cpp.backend
    if chosen is not None or plan.device is None:
        return chosen or ("cuda" if plan.llama_cpp.n_gpu_layers else "cpu")
    return _backend_on(find(plan.device))


VOCABULARIES_DIFFER = 128
"""Tokens by which a draft's vocabulary may differ (``SPEC_VOCAB_MAX_SIZE_DIFFERENCE``, ``common/speculative.cpp``)."""


@dataclass(frozen=True)
class Card:
    """A device of a plan that is not its host. Sizes are bytes."""

    device: placement.Device
    limit: int | None
    """What it has room for; ``None`` where nobody said."""
    driver: int
    """What its driver takes beside the buffers."""
    in_ram: bool
    """Whether its memory is the host's."""


def cards_of(plan: Any) -> tuple[Card, ...]:
    """The devices beside the host, in the plan's order. Raises ``InputError``."""
    names, one = plan.devices, backend_of(plan)
    if names is None:
        names = () if one not in placement.BACKENDS else (plan.device or one,)
    found, counts = [], Counter[str]()
    cards = [text for text in names if not text.startswith(RPC)]
    for text in names:
        name, _, size = text.partition("=")
        device = None if name in placement.BACKENDS else find(name)
        kind = name if device is None else _backend_on(device)
        if plan.llama_cpp.backend == "vulkan" and kind == "cuda":
            kind = "vulkan"
        if device is not None and (kind not in placement.BACKENDS or device.kind == "accelerator"):
            raise InputError(
                f"devices: {device.name} has no GPU that llama.cpp runs; name GPUs, or rpc for a worker on a CPU"
            )
        if device is not None and device.is_apple and len(cards) > 1:
            raise InputError(f"devices: {text} is a machine of its own; ask it alone, with device: {name}")
        backend = placement.BACKENDS[kind]
        limit = parse_size(size) if size else None if device is None else device.usable_bytes
        driver = context_bytes(device)[0] if device is not None and kind == "cuda" else 0
        if plan.llama_cpp.preset is not None and kind != "metal":
            driver = max(driver, OLLAMA_RESERVE)
        place = placement.Device(f"{backend.prefix}{counts[kind]}", backend, max((limit or 0) - driver, 0))
        found.append(Card(place, limit, driver, device is not None and device.is_apple))
        counts[kind] += 1
    options = plan.llama_cpp
    return (found[options.main_gpu],) if options.split_mode == "none" and found else tuple(found)


def cpu_of(plan: Any) -> str:
    """The host's processor, told apart by its instructions."""
    backend = backend_of(plan)
    if backend not in placement.BACKENDS:
        return backend
    return "cpu-arm" if any(card.in_ram for card in cards_of(plan)) else "cpu"


def layout_of(plan: Any, n_layer: int) -> placement.Layout:
    """Who holds which layers of a model. Raises ``InputError``."""
    options = plan.llama_cpp
    devices = tuple(card.device for card in cards_of(plan))
    if not devices:
        return placement.ON_HOST
    layers = n_layer + 1 if options.n_gpu_layers is None else options.n_gpu_layers
    shares = options.tensor_split or [device.free for device in devices]
    shares = [*shares, *[0] * (len(devices) - len(shares))] if any(shares) else [1] * len(devices)
    overrides = [
        (rf"blk\.{layer}{placement.EXPERTS}", len(devices)) for layer in range(min(options.n_cpu_moe, n_layer))
    ]
    overrides += _overrides(options.override_tensor, [*(device.name for device in devices), "CPU"])
    build = BUILDS[build_of(plan)]
    places = placement.share_out(n_layer, layers, shares, build.output_first)
    if options.split_mode == "row":
        places = tuple(place if place == len(devices) else options.main_gpu for place in places)
        return placement.Layout(devices, places, options.no_kv_offload, tuple(overrides), rows=tuple(shares))
    overlap = len(devices) > 1 and layers > n_layer and not options.no_kv_offload and not overrides
    pipelines = overlap and {device.backend.kind for device in devices} <= {*build.pipelines}
    return placement.Layout(devices, places, options.no_kv_offload, tuple(overrides), pipelines)


def _overrides(text: str | None, names: list[str]) -> list[tuple[str, int]]:
    """The patterns of ``override_tensor`` with their places. Raises ``InputError``."""
    found = []
    for one in text.split(",") if text else ():
        pattern, _, name = one.rpartition("=")
        if name not in names:
            raise InputError(
                f"override_tensor: {shown(one)} names no place; write pattern=NAME with one of {', '.join(names)}"
            )
        try:
            re.compile(pattern)
        except re.error as error:
            raise InputError(f"override_tensor: {shown(pattern)} is no regular expression ({error})") from None
        found.append((pattern, names.index(name)))
    return found


def build_of(plan: Any) -> str:
    """The build whose rules hold: with ``devices`` the one whose workers were measured, if no other is named."""
    options = plan.llama_cpp
    return "b11739" if plan.devices and "build" not in options.model_fields_set else options.build


def usage_of(plan: Any, model: Model) -> Usage:
    """The buffers of a plan. Raises ``InputError``."""
    options, header = _with_preset(plan, model.trained), model.header
    seq = plan.seq if "seq" in plan.model_fields_set else None
    draft = None
    if model.draft is not None:
        layers = {"n_gpu_layers": options.n_gpu_layers_draft, "model_draft": None, "mmproj": None}
        own = {**layers, "n_ctx": options.n_ctx or (model.trained if seq is None else None), "override_tensor": None}
        drafting = plan.model_copy(update={"llama_cpp": options.model_copy(update={**own, "n_cpu_moe": 0})})
        draft = usage_of(drafting, model.draft)
    found = usage(
        header,
        options.parameters(plan.batch, seq, model.trained),
        BUILDS[build_of(plan)],
        cpu_of(plan),
        lambda n_layer: layout_of(plan, n_layer),
        use_mmap=options.use_mmap,
        repack=options.repack,
        tokenizer=header.tokens is not None or not model.from_file,
    )
    return replace(found, draft=draft, projector=model.images)


OLLAMA_CONTEXTS = ((48, 262144), (24, 32768), (0, 4096))
"""Ollama's default context by the GiB of all GPUs (its ``docs/context-length.mdx``), the model's own at most."""
OLLAMA_RESERVE = 457 * 2**20
"""What Ollama keeps free of each GPU, for CUDA's context among others (issue 8430 and later logs)."""


def _with_preset(plan: Any, trained: int) -> Any:
    """The plan's options, with the defaults of its preset where it does not say otherwise."""
    options = plan.llama_cpp
    if options.preset is None:
        return options
    memory = sum(card.limit or 0 for card in cards_of(plan))
    n_ctx = min(trained, next(context for gib, context in OLLAMA_CONTEXTS if memory >= gib * 2**30))
    own = {"n_batch": 512} if "seq" in plan.model_fields_set else {"n_ctx": n_ctx, "n_batch": 512}
    return options.model_copy(update={k: v for k, v in own.items() if k not in options.model_fields_set})


def _needed(plan: Any, use: Usage) -> list[int]:
    """Bytes that each device, and at the end the host, need. Of the host's compute buffers it is what is touched."""
    cards, needed = cards_of(plan), [sum(place.values()) for place in use.places]
    untouched = use.reserved[-1] - use.touched[-1]
    if use.draft is not None:
        untouched += use.draft.reserved[-1] - use.draft.touched[-1]
    needed[-1] += use.overhead - untouched
    for i, card in enumerate(cards):
        needed[i] += card.driver + (needed[-1] if card.in_ram else 0)
    return needed


_COUNTED = {"all": "process", "used": "used", "dirty": "dirty"}
"""The figure that a device's system counts."""
RAM_BINDS = (
    "the RAM that the system leaves binds before the limit of dirty memory: mapped weights that find no room are read "
    "from storage again for every token"
)


def _limits_of(plan: Any, use: Usage) -> tuple[Limit, ...]:
    """All limits of a plan: of its devices, and of the machine's RAM where it is given. Raises ``InputError``."""
    apart = any(not card.in_ram for card in cards_of(plan))
    needed = _needed(plan, use)[-1] if apart else use.clean + use.dirty
    return (*_of_devices(plan, use), *host_limit(needed + kept_prompts(plan), plan.host_memory_bytes()))


def kept_prompts(plan: Any) -> int:
    """Bytes that ``llama-server`` keeps of earlier prompts at most (``--cache-ram``, ``common/common.h``); without a
    limit (-1) those of the default.
    """
    mib: int = plan.llama_cpp.cache_ram
    return (8192 if mib < 0 else mib) * 2**20


def _of_devices(plan: Any, use: Usage) -> tuple[Limit, ...]:
    """The limits of a plan's devices: the budget, or what the system allows one app. Raises ``InputError``.

    iOS limits the dirty memory of an app. Mapped weights that are read for every token must find room in the RAM, too,
    or they are read from storage each time: the RAM that the system leaves is then a second limit. A budget replaces
    the limit of one app; if it is more than the system is assumed to leave, it replaces the second limit, too.

    The uncertainty of dirty and used memory is of the whole process: its clean pages are certain, so that all of its
    difference from a prediction is dirty memory.
    """
    device, budget = ENGINE.device_of(plan), plan.budget_bytes()
    process = use.clean + use.dirty
    cards = cards_of(plan)
    if plan.devices is not None:
        limits = [*(card.limit for card in cards), budget]
        needs = zip(use.layout.names, _needed(plan, use), limits, strict=True)
        found = tuple(Limit(name, needed, limit, needed) for name, needed, limit in needs if limit is not None)
        return found or (Limit("process", process, None, process),)
    if cards and not cards[0].in_ram and not cards[0].device.backend.maps:
        needed = _needed(plan, use)[0]
        return (Limit("device", needed, budget, needed),)
    if device is None or device.counts == "all":
        return (Limit("process", process, budget, process),)
    if device.counts == "used":
        return (Limit("used", use.used, budget, process),)
    assert budget is not None
    assert device.ram is not None
    ram = max(device.ram, budget)
    return (Limit("dirty", use.dirty, budget, process), Limit("used", use.used, ram, process, RAM_BINDS))


def _system_left(plan: Any, limits: tuple[Limit, ...]) -> int | None:
    """Bytes of the RAM that a budget leaves to the system; ``None`` where they are as many as assumed, or more."""
    device = ENGINE.device_of(plan)
    if device is None or len(limits) < 2 or limits[1].budget is None:
        return None
    left = device.total_bytes - limits[1].budget
    return left if left < device.system_bytes else None


def _assumptions_of(plan: Any, limits: tuple[Limit, ...]) -> tuple[Assumption, ...]:
    """The system's part of the RAM, where it limits the plan."""
    device = ENGINE.device_of(plan)
    if device is None or len(limits) < 2 or _system_left(plan, limits) is not None:
        return ()
    override = f"A budget above {human(device.total_bytes - device.system_bytes)} beside the device replaces it"
    why = f"{device.system_assumed}. {device.source}. {override}"
    return (Assumption("system", device.system_bytes, why),)


def _device_notes(plan: Any, use: Usage, limits: tuple[Limit, ...]) -> list[str]:
    """Warnings about a result on a device."""
    device = ENGINE.device_of(plan)
    if device is None:
        on_cuda = plan.devices is None and backend_of(plan) == "cuda"
        return ["the GPU's CUDA context is not counted; name a device to count it"] if on_cuda else []
    found = []
    if (left := _system_left(plan, limits)) is not None:
        found.append(
            f"the budget is more than the {human(device.total_bytes - device.system_bytes)} that iOS is assumed to "
            f"leave of the RAM; it is taken to limit the RAM in use, too, and iOS keeps {human(left)}"
        )
    if not use.layout.devices and device.capability is not None:
        found.append(f"counted on the CPU of {device.name}; its GPU runs it with backend cuda")
    return found


def _notes(plan: Any, use: Usage) -> list[str]:
    """Warnings about a result on any device."""
    found = []
    trained, context = use.context.hparams.n_ctx_train, use.context
    if context.n_ctx_seq > trained:
        found.append(f"the model was made for {trained:,} positions; {context.n_ctx_seq:,} are more")
    for kind in dict.fromkeys(device.backend.kind for device in use.layout.devices):
        if kind != RPC:
            found.append(f"backend {kind}: compared with public logs only, since no such GPU was at hand")
    if plan.llama_cpp.preset is not None:
        found.append(
            f"preset {plan.llama_cpp.preset}: n_ctx {context.parameters.n_ctx:,}, n_batch {context.parameters.n_batch} "
            f"and {human(OLLAMA_RESERVE)} of each GPU kept free; other values are given beside it"
        )
    if use.projector.tokens:
        found.append(
            f"mmproj: an image, or a tile of one, takes {use.projector.tokens:,} tokens of the context; what the "
            "projector computes for it is counted"
        )
    elif use.projector.weights:
        found.append("mmproj: the projector's weights are counted, and not what it computes for an image")
    if use.draft is not None:
        found.append("model_draft: taken to have the main model's context; compared with no run")
    if context.n_ctx != context.parameters.n_ctx:
        found.append(f"the engine rounds n_ctx to {context.n_ctx:,}")
    return found


def _offload_notes(plan: Any, use: Usage) -> list[str]:
    """Where the cache is, and what prefix caching takes; of plans that say how a model is shared out."""
    told = {"n_gpu_layers", "no_kv_offload", "override_tensor", "n_cpu_moe"} & plan.llama_cpp.model_fields_set
    if not use.layout.devices or (plan.devices is None and not told):
        return []
    held, host = [sum(one) for one in use.caches], sum(use.caches[-1])
    where = "on the host, since no_kv_offload is set" if plan.llama_cpp.no_kv_offload else "where their layers are"
    share = f": {human(sum(held) - host)} on devices, {human(host)} on the host" if host and sum(held) > host else ""
    counted = "host_memory counts" if plan.host_memory else "is not counted"
    kept = f"; llama-server also keeps up to {human(kept_prompts(plan))} of earlier prompts in the host's memory "
    kept += f"(--cache-ram), which {counted}"
    return [
        f"KV cache and states are {where}{share}",
        "prefix caching: a prompt's beginning that is in the cache is used again, which takes nothing more"
        f"{kept if kept_prompts(plan) else ''}",
    ]


def _devices_of(use: Usage) -> tuple[Mapping[str, Any], ...]:
    """The buffers of each device and of the host, as the engine reports them; nothing where the host has all."""
    if not use.layout.devices:
        return ()
    return tuple({"name": name, "bytes": sizes} for name, sizes in zip(use.layout.names, use.places, strict=True))


class LlamaCpp(Engine):
    """llama.cpp on a CPU, and on devices beside it."""

    title = "llama.cpp"
    maps_weights = takes_budget_on_cards = finds_contexts = shares_with_host = True
    reads_checkpoints = False
    witness = "llama_cpp"
    defaults = MappingProxyType({"task": "infer", "dtype": "q4_k_m"})
    rows = (
        ("weights", "weights"),
        ("mapped", "  mapped from the file"),
        ("repacked", "  repacked beside it"),
        ("kv_cache", "KV cache"),
        ("recurrent_state", "recurrent state"),
        ("output", "output"),
        ("compute", "compute, reserved"),
        ("host_compute", "compute, host's part"),
        ("beside", "draft model and projector"),
        ("peak_above_resident", "compute, touched"),
        ("clean", "clean (can be dropped)"),
        ("dirty", "dirty"),
        ("used", "in use for every token"),
        ("process", "process"),
        ("device", "on the device"),
    )
    always = ("process", "dirty")
    meanings = MappingProxyType(
        {
            "n_ctx": "cells of the KV cache, of all sequences",
            "weights": "the weights, in the form in which they are kept",
            "mapped": "weights that are mapped from the file",
            "repacked": "weights in the form that the CPU's kernels are faster with",
            "kv_cache": "the KV cache",
            "recurrent_state": "the states of recurrent layers",
            "compute": "the compute buffer, as the engine reserves it",
            "output": "the buffer of logits",
            "parameters": "the weights",
            "adapters": "parameters that a method adds",
            "buffers": "buffers of the model",
            "gradients": "gradients",
            "optimizer": "optimizer states",
            "saved": "activations saved for backward",
            "resident": "weights, caches and output",
            "peak_above_resident": "what decoding writes of the compute buffer",
            "peak": "resident and what decoding writes of the compute buffer",
            "process": "the peak resident set while decoding",
            "clean": "pages that the system may drop and read again",
            "dirty": "memory that the system cannot drop",
            "used": "memory that decoding reads or writes for every token",
            "beside": "a draft model with its cache, and a projector with what it computes",
            "host_compute": "the compute buffer on the host, beside a GPU",
            "device": "what is on the GPU, with the CUDA context of a known device",
        }
    )
    uncertainty = UNCERTAINTY
    uncertainty_of = "the most by which one of 108 measured runs was above its prediction"
    context_key = "n_ctx"
    context_step = 256
    """``GGML_PAD`` in ``llama_context``."""
    fixed_keys = ("batch",)
    page_dtypes = ("q4_k_m", "q8_0", "f16")
    exactness = f"buffers are exact to the byte; measured processes differ by up to {UNCERTAINTY:.1%}"

    def heading(self, plan: Any) -> str:
        options = plan.llama_cpp
        model = printable(plan.model)
        parts = [model] if plan.from_gguf else [model, plan.dtype.upper()]
        if options.preset is not None:
            parts.append(f"{options.preset}'s defaults")
        elif options.n_ctx is not None or "seq" in plan.model_fields_set:
            parts.append(f"n_ctx {options.n_ctx or plan.batch * plan.seq}")
        else:
            parts.append("the model's own context")
        parts.append(f"cache {options.cache}")
        sequences = options.sequences(plan.batch)
        if sequences > 1:
            parts.append(f"{sequences} sequences")
        where = backend_of(plan) if plan.devices is None else ", ".join(plan.devices)
        return ", ".join([*parts, f"llama.cpp {build_of(plan)} ({where})"])

    def dtype(self, name: Any) -> Any:
        return UNQUANTISED.get(name, name) if isinstance(name, str) else name

    def release(self, plan: Any) -> str:
        return f"llama.cpp, build {build_of(plan)}"

    def knows(self, family: str) -> bool:
        return family in convert.FAMILIES

    def device_of(self, plan: Any) -> Device | None:
        return None if plan.device is None else find(plan.device)

    def runs_alike(self, plan: Any, device: Device) -> bool:
        if device.kind == "accelerator":
            return False
        there = {"device": device.name, "llama_cpp": plan.llama_cpp.model_copy(update={"backend": None})}
        return backend_of(plan.model_copy(update=there)) == backend_of(plan)

    def against(self, plan: Any, device: Device | None) -> tuple[str, str]:
        on_card = backend_of(plan) in ("cuda", "vulkan")
        name = "device" if on_card else "process" if device is None else _COUNTED[device.counts]
        return name, name

    def parts(self, sizes: Mapping[str, int], peak_at: str, gradients_alive: bool = False) -> dict[str, int]:
        held = sizes["kv_cache"] + sizes["recurrent_state"] + sizes["output"]
        return {
            "weights": sizes["resident"] - held,
            "KV cache and states": held,
            "compute": sizes["peak_above_resident"],
        }

    def model(self, plan: Any, load: Callable[[str], Spec]) -> Model:
        found, options = self._model(plan.model, plan.dtype, load), plan.llama_cpp
        draft = None if options.model_draft is None else self._model(options.model_draft, plan.dtype, load)
        if draft is not None and abs(draft.header.n_vocab - found.header.n_vocab) > VOCABULARIES_DIFFER:
            raise InputError(
                f"model_draft: {draft.name} has {draft.header.n_vocab:,} tokens and {found.name} "
                f"{found.header.n_vocab:,}; a draft needs the same vocabulary"
            )
        images = projector.NONE if options.mmproj is None else projector.read(Path(options.mmproj))
        embd = found.header.metadata.get("embedding_length")
        if images.embd not in (0, embd):
            raise InputError(
                f"mmproj: {shown(options.mmproj)} makes embeddings of {images.embd:,} and {found.name} takes {embd:,}; "
                "name the projector of this model"
            )
        return replace(found, draft=draft, images=images)

    def defaults_of(self, model: Any, load: Callable[[str], Spec]) -> Mapping[str, Any]:
        if not isinstance(model, str) or is_gguf(model):
            return self.defaults
        with suppress(InputError):  # is raised where the model is needed
            recipe = RELEASED.get(str(load(model).raw.get("model_type")), self.defaults["dtype"])
            return {**self.defaults, "dtype": recipe}
        return self.defaults

    def _model(self, name: str, recipe: str, load: Callable[[str], Spec]) -> Model:
        path = existing(Path(name))
        if path is not None and is_gguf(name):
            return Model(path.name, gguf_file.read(path), True, ())
        spec = load(name)
        return Model(spec.name, convert.header(spec.raw, spec.name, recipe), False, spec.warnings)

    def contexts(self, plan: Any, model: Model) -> tuple[int, int, int, int]:
        options, sequences = plan.llama_cpp, self.sequences(plan)
        step = self.context_step * (1 if options.kv_unified else sequences)
        least, last = min(options.n_batch, options.n_ubatch), model.trained * sequences
        if -(-last // step) * step < least:
            raise InputError(f"n_ctx: the model was made for {model.trained} positions, fewer than n_ubatch; give less")
        return options.n_ctx or usage_of(plan, model).context.n_ctx, least, last, step

    def compared(
        self, keys: Mapping[str, Any], recipes: Sequence[str], caches: Sequence[tuple[str, str]]
    ) -> list[dict[str, Any]]:
        block = dict(keys.get("llama_cpp", {}))
        files = is_gguf(keys["model"])
        plain = {key: value for key, value in keys.items() if key != "dtype"}
        return [
            {**plain, **({"dtype": recipe} if recipe else {}), "llama_cpp": {**block, "type_k": one, "type_v": other}}
            for recipe in ([""] if files else recipes or [keys.get("dtype", "")])
            for one, other in caches
        ]

    def recipe_of(self, plan: Any) -> str | None:
        return None if plan.from_gguf else plan.dtype

    def cache_of(self, plan: Any) -> str:
        return str(plan.llama_cpp.cache)

    def cache_types(self, plan: Any) -> tuple[str | None, str | None]:
        return plan.llama_cpp.type_k, plan.llama_cpp.type_v

    def sequences(self, plan: Any) -> int:
        found: int = plan.llama_cpp.sequences(plan.batch)
        return found

    def at_context(self, plan: Any, context: int) -> Any:
        """The plan with so many cells of the cache, of all sequences."""
        return plan.model_copy(update={"llama_cpp": plan.llama_cpp.model_copy(update={"n_ctx": context})})

    def layers(self, model: Model) -> int:
        return hparams.read(model.header).n_layer

    def stored(self, model: Model) -> int:
        return sum(tensor.nbytes for tensor in model.header.tensors.values())

    def places(self, plan: Any) -> int:
        return len(cards_of(plan))

    def shared_out(self, plan: Any, layers: int) -> tuple[int, ...]:
        shares = plan.llama_cpp.model_copy(update={"n_gpu_layers": layers})
        places = layout_of(plan.model_copy(update={"llama_cpp": shares}), layers - 1).layers
        return tuple(places.count(place) for place in range(self.places(plan)))

    def limits(self, plan: Any, model: Model) -> tuple[Limit, ...]:
        return _limits_of(plan, usage_of(plan, model))

    def figures(self, plan: Any, model: Model) -> Figures:
        use = usage_of(plan, model)
        context, weights, touched = use.context, use.weights, sum(use.touched)
        held = weights.mapped + weights.repacked + weights.read + weights.device
        resident = held + context.kv_bytes + context.recurrent_bytes + context.output_bytes
        sizes = {
            "weights": weights.total,
            "mapped": weights.mapped,
            "repacked": weights.repacked,
            "kv_cache": context.kv_bytes,
            "recurrent_state": context.recurrent_bytes,
            "compute": sum(use.reserved[:-1]) or use.reserved[-1],
            "output": context.output_bytes,
            "parameters": weights.total,
            **dict.fromkeys(("adapters", "buffers", "gradients", "optimizer", "saved"), 0),
            "resident": resident,
            "peak_above_resident": touched,
            "peak": resident + touched,
            "process": resident + touched + use.overhead + use.beside,
            "clean": use.clean,
            "dirty": use.dirty,
            "used": use.used,
        }
        if use.beside:
            sizes["beside"] = use.beside
        if use.layout.devices:
            sizes["host_compute"] = use.reserved[-1]
        if plan.devices is not None:
            sizes |= dict(zip(use.layout.names, _needed(plan, use), strict=True))
        limits = _limits_of(plan, use)
        sizes |= {one.against: one.needed for one in limits if one.against not in sizes}
        return Figures(
            sizes,
            {"prompt batch": touched},
            sum(prod(tensor.shape) for tensor in model.header.tensors.values()),
            limits,
            warnings=(
                *model.warnings,
                *_notes(plan, use),
                *_device_notes(plan, use, limits),
                *_offload_notes(plan, use),
            ),
            assumptions=_assumptions_of(plan, limits),
            devices=_devices_of(use),
            unknown=_unknown(plan, model),
        )


def _unknown(plan: Any, model: Model) -> tuple[str, ...]:
    """What changes the buffers by an amount without a rule, by name: logs of 2025 show others than the rules give."""
    keys = hparams.read(model.header)
    found = ["split_mode: row with experts"] if plan.llama_cpp.split_mode == "row" and keys.n_expert else []
    if plan.llama_cpp.build == "2025" and model.header.architecture == "deepseek2":
        found.append("the cache of multi-head latent attention before pull request 19067")
    return tuple(found)


ENGINE = LlamaCpp()
