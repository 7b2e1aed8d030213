"""What a plan may say of llama.cpp: the block ``llama_cpp`` of the engine's own parameters, and recipes as dtypes."""

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ...io.fields import Block, FileName, Whole, block_reader, torch_dtype
from ..devices import Device, find
from ..keys import Keys

if TYPE_CHECKING:  # every plan has these options, few need the engine
    from .context import Parameters


Recipe = Literal[
    "f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q5_1", "q5_0", "q4_k_m", "q4_k_s", "q4_1", "q4_0",
    "iq4_nl", "iq4_xs", "q3_k_l", "q3_k_m", "q3_k_s", "iq3_m", "iq3_s", "q2_k", "mxfp4_moe",
]  # fmt: skip
"""What llama-quantize makes of the weights (``recipes.py``)."""
UNQUANTISED = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
"""llama.cpp's names of recipes that are dtypes of PyTorch, by PyTorch's names."""


def _switch(value: Any) -> Any:
    """True or false, also given as 1 or 0, as the engine's own options are."""
    return bool(value) if type(value) is int and value in (0, 1) else value


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _listed(value: Any) -> Any:
    """A list, also written with commas."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


def _shares(value: Any) -> Any:
    """Shares, also written as the engine's programs take them: ``3,1`` or ``3/1``."""
    if not isinstance(value, str):
        return value
    try:
        return tuple(float(part) for part in value.replace("/", ",").split(","))
    except ValueError:
        raise ValueError("write shares like 3,1") from None


def _layers(value: Any) -> Any:
    """A number of layers; ``all``, ``auto`` and -1 are all of them."""
    return None if value in ("all", "auto", -1, "-1") and not isinstance(value, bool) else value


Switch = Annotated[bool, Field(strict=True), BeforeValidator(_switch)]
CacheType = Annotated[
    Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"], BeforeValidator(_lower)
]
"""The types that llama.cpp's programs offer for a cache (``common/arg.cpp: kv_cache_types``)."""
Count = Annotated[Whole, Field(ge=1, le=2**31 - 1)]
Index = Annotated[Whole, Field(ge=0, le=2**31 - 1)]
Share = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
RPC = "rpc"
"""The device that is a worker of the engine's RPC backend on a CPU."""


class LlamaCppOptions(BaseModel):
    """A context's parameters; defaults are those of ``llama-cli`` and ``llama-server``."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    n_ctx: Count | None = Field(
        None, description="cells of the KV cache, of all sequences; if not given, batch times seq, or the model's own"
    )
    n_batch: Count = Field(2048, description="most tokens submitted at once")
    n_ubatch: Count = Field(512, description="most tokens computed at once")
    type_k: CacheType = Field("f16", description="type of the keys in the cache")
    type_v: CacheType = Field("f16", description="type of the values in the cache")
    flash_attn: Switch = Field(True, description="flash attention, which the engine turns on where it can")
    n_seq_max: Annotated[Whole, Field(ge=1, le=256)] | None = Field(
        None, description="sequences at once; the plan's batch if not given"
    )
    kv_unified: Switch = Field(False, description="one cache for all sequences, instead of a part for each")
    swa_full: Switch = Field(False, description="a windowed layer's cache holds the whole context too")
    use_mmap: Switch = Field(True, description="weights are mapped from the file, not read")
    repack: Switch = Field(True, description="weights are kept in a second form that the CPU's kernels are faster with")
    n_outputs_max: Annotated[Whole, Field(ge=0, le=2**31 - 1)] = Field(
        0, description="most tokens of a batch whose logits are computed; 0 reserves for all, and decoding uses one"
    )
    n_gpu_layers: Annotated[Index | None, BeforeValidator(_layers)] = Field(
        None, description="layers on devices, the output and the last layers first; all if not given"
    )
    tensor_split: Annotated[tuple[Share, ...] | None, BeforeValidator(_shares)] = Field(
        None, description="shares of the layers for each device, such as 3,1; by free memory if not given"
    )
    split_mode: Literal["layer", "row", "none"] = Field(
        "layer", description="what devices share: layers, rows of weights, or none, since main_gpu has all"
    )
    main_gpu: Index = Field(0, description="split_mode none: the number of the device that has all")
    cache_ram: Annotated[Whole, Field(ge=-1, le=2**31 - 1)] = Field(
        8192,
        description="MiB of earlier prompts that llama-server keeps, which host_memory has to hold; 0: none",
    )
    no_kv_offload: Switch = Field(False, description="caches and states stay in the host's memory")
    n_cpu_moe: Index = Field(0, description="the first so many layers have their experts in the host's memory")
    override_tensor: str | None = Field(
        None, description="where weights are by pattern=NAME, after commas more: exps=CPU, blk\\.0\\.=CUDA1"
    )
    mmproj: FileName | None = Field(None, description="a GGUF file with a multimodal projector, held beside the model")
    model_draft: FileName | None = Field(
        None, description="a draft model for speculative decoding: a GGUF file, or a name in the plan's dtype"
    )
    n_gpu_layers_draft: Annotated[Index | None, BeforeValidator(_layers)] = Field(
        None, description="layers of the draft model on devices; all if not given"
    )
    preset: Literal["ollama"] | None = Field(
        None, description="whose defaults hold where a key is not given: ollama has its own context, batch and reserve"
    )
    backend: Literal["cpu", "cpu-avx512", "cpu-arm", "cpu-plain", "metal", "vulkan", "cuda"] | None = Field(
        None,
        description="what runs it: a CPU by its instructions (x86-64 with AVX2 or AVX-512, ARMv8.2, none of them), or "
        "a GPU; the device's if it is one of the catalogue, else cpu",
    )
    build: Literal["2025", "0c1e57098", "b11739"] = Field(
        "0c1e57098",
        description="build of the engine: 0c1e57098 is in llama-cpp-python 0.3.36; with devices b11739, if not given",
    )

    @property
    def cache(self) -> str:
        """The cache's type: ``f16``, or ``q8_0/f16`` where keys and values have different ones."""
        return self.type_k if self.type_k == self.type_v else f"{self.type_k}/{self.type_v}"

    @property
    def split(self) -> str:
        """The shares as the engine's programs take them."""
        return ",".join(f"{share:g}" for share in self.tensor_split or ())

    @property
    def shares(self) -> int:
        """The number of shares that are given."""
        return len(self.tensor_split or ())

    def sequences(self, batch: int) -> int:
        """Sequences at once, for a plan's ``batch``."""
        return self.n_seq_max or batch

    def parameters(self, batch: int, seq: int | None, n_ctx_train: int) -> "Parameters":
        """The context's parameters for ``batch`` sequences of ``seq`` tokens, or of the model's own context."""
        from .context import Parameters

        sequences = self.sequences(batch)
        own = {one.name: getattr(self, one.name) for one in fields(Parameters)}
        n_ctx = self.n_ctx or (n_ctx_train if seq is None else sequences * seq)
        return Parameters(**{**own, "n_ctx": n_ctx, "n_seq_max": sequences})


DEFAULTS = LlamaCppOptions.model_construct()
"""The block of a plan that gives none."""


class LlamaCppKeys(BaseModel):
    """The key of a plan with the block."""

    model_config = ConfigDict(defer_build=True)

    llama_cpp: Annotated[
        LlamaCppOptions,
        Block(block_reader(LlamaCppOptions, "llama_cpp", "{n_ctx: 8192, type_k: q8_0, type_v: q8_0}")),
    ] = Field(DEFAULTS, description="runtime llama.cpp: the context's parameters, by the engine's names")
    devices: Annotated[tuple[Annotated[str, Field(min_length=1)], ...] | None, BeforeValidator(_listed)] = Field(
        None,
        min_length=1,
        max_length=16,
        description="runtime llama.cpp: devices that share one model, by name; rpc: a worker on a CPU. budget is then "
        "the host's, and NAME=SIZE gives a device another one",
    )

    @property
    def n_devices(self) -> int:
        """The number of devices that are listed."""
        return len(self.devices or ())


def is_gguf(model: Any) -> bool:
    """Whether a plan's model is the name of a GGUF file."""
    return isinstance(model, str) and model.lower().endswith(".gguf")


def _claims(data: Mapping[str, Any]) -> bool:
    """Whether a plan has a GGUF file, the block, or a dtype that is a recipe which only llama.cpp has."""
    dtype = data.get("dtype")
    recipe = isinstance(dtype, str) and dtype.lower() in _RECIPES and torch_dtype(dtype) not in UNQUANTISED
    return is_gguf(data.get("model")) or "llama_cpp" in data or "devices" in data or recipe


def _runs(backend: str | None, device: Device) -> bool:
    """Whether a backend runs on a device; ``None`` is the device's own."""
    on = {"metal": device.is_apple, "cuda": device.capability is not None, "vulkan": not device.is_apple}
    return on.get(backend or "", True)


def _commanded(text: str) -> Mapping[str, Any] | None:
    """The keys that a command line of ``llama-server``, ``llama-cli``, Ollama or LM Studio means."""
    from .command_line import is_command, keys_of

    return keys_of(text) if is_command(text) else None


def _splits_rows(plan: Any, name: str) -> bool:
    """Whether a device of a plan is a GPU that CUDA runs."""
    name = name.partition("=")[0]
    return name == "cuda" or (name != RPC and plan.llama_cpp.backend != "vulkan" and find(name).capability is not None)


_RECIPES = get_args(Recipe)
KEYS = Keys(
    words=("llamacpp", "llama_cpp", "llama", "ggml", "gguf", "ollama"),
    fields=LlamaCppKeys,
    dtypes=Recipe,
    topic=("llama.cpp", "llama.cpp (the engine's names)"),
    claims=_claims,
    commanded=_commanded,
    refused={
        "task: train does not go with runtime: llama.cpp, which infers; take runtime: torch-cpu or torch-cuda": (
            lambda p: p.task == "train"
        ),
        "dtype: {p.dtype} does not go with a GGUF file, whose tensors have their own; leave it out": (
            lambda p: p.from_gguf and p.dtype != "q4_k_m"
        ),
        "dtype: {p.dtype} does not go with runtime: llama.cpp; take a recipe of llama-quantize: "
        f"{', '.join(_RECIPES)}": lambda p: p.dtype not in _RECIPES,
        "device: {p.device} has no rule with runtime: llama.cpp, which has no backend for it; name another device": (
            lambda p: p.device is not None and find(p.device).kind == "accelerator"
        ),
        "backend: {p.llama_cpp.backend} does not go with device: {p.device}, which it does not run on; leave backend "
        "out, or name another device": lambda p: (
            p.device is not None and not _runs(p.llama_cpp.backend, find(p.device))
        ),
        "devices does not go with device: {p.device}, since one of them says where it runs; leave device out": (
            lambda p: p.devices is not None and p.device is not None
        ),
        "tensor_split does not go with a plan without devices, which share the layers; name them, as in devices: "
        "[rtx-3090, rtx-3060]": lambda p: p.llama_cpp.shares and p.devices is None,
        "tensor_split: {p.llama_cpp.split} does not go with devices, of which there are {p.n_devices}; give each one "
        "share": lambda p: p.llama_cpp.shares > p.n_devices,
        "tensor_split: {p.llama_cpp.split} does not go with devices, since it gives them nothing; give one a share": (
            lambda p: p.llama_cpp.shares and not any(p.llama_cpp.tensor_split)
        ),
        "devices does not go with workers of RPC and without tensor_split, since they tell no free memory; set "
        "tensor_split, as in 1,1": lambda p: (
            p.n_devices > 1 and RPC in p.devices and not p.llama_cpp.shares and p.llama_cpp.split_mode == "layer"
        ),
        "tensor_split does not go with split_mode: none, since one device has all; leave one of them out": (
            lambda p: p.llama_cpp.shares and p.llama_cpp.split_mode == "none"
        ),
        "main_gpu: {p.llama_cpp.main_gpu} does not go with devices, of which there are {p.n_devices}, counted from 0; "
        "give a smaller one": lambda p: p.llama_cpp.main_gpu and p.llama_cpp.main_gpu >= p.n_devices,
        "main_gpu does not go with split_mode: layer, where layers have devices; set split_mode: none": lambda p: (
            p.llama_cpp.main_gpu and p.llama_cpp.split_mode == "layer"
        ),
        "split_mode: row has no rule with a build of 2026, which keeps no rows apart; set build: 2025": lambda p: (
            p.llama_cpp.split_mode == "row" and p.llama_cpp.build != "2025"
        ),
        "split_mode: row does not go with devices that run no CUDA; take split_mode: layer": lambda p: (
            p.llama_cpp.split_mode == "row" and not all(_splits_rows(p, one) for one in p.devices or ())
        ),
    },
    refused_elsewhere={
        "a GGUF file does not go with runtime: {p.runtime}, since llama.cpp alone runs it; leave runtime out": (
            lambda p: p.from_gguf
        ),
        "dtype: {p.dtype} does not go with runtime: {p.runtime}, since it is a recipe of llama.cpp; set runtime: "
        "llama.cpp, or take float16 or nf4": lambda p: p.dtype in _RECIPES,
    },
)
