"""Ask vLLM itself what a rank of a model holds: ``python -m tests.cases.vllm_models`` in vLLM's own environment.

vLLM's model classes are made with parameters on the meta device, for rank 0 of each tensor-parallel size, in one
process without a group. Its own functions say each layer's cache, the groups and the blocks. The wheel is for GPUs.
It is asked on vLLM's CPU platform, so two things of that platform are replaced by those of CUDA: the sizes of
FlashAttention's blocks, and the refusal of sparse attention. Packing of weights after loading is not asked.

``tests/data/vllm_models.json`` has the answers of two releases. ``make witness`` asks again.
"""

# ruff: noqa: E402 (the platform is chosen before vLLM is imported)
from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections import Counter
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.update(VLLM_TARGET_DEVICE="cpu", VLLM_LOGGING_LEVEL="ERROR", HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1")
os.environ.update(VLLM_CPU_KVCACHE_SPACE="4", VLLM_USE_V1="1")

import torch
import vllm.platforms as platforms
from torch.overrides import TorchFunctionMode

platforms.resolve_current_platform_cls_qualname = lambda: "vllm.platforms.cpu.CpuPlatform"

import vllm
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from vllm.config import set_current_vllm_config
from vllm.distributed import parallel_state
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.model_executor.models import registry
from vllm.platforms.cpu import CpuPlatform

registry._run_in_subprocess = lambda fn: fn()  # a subprocess would look for another platform
RELEASE = ".".join(vllm.__version__.split(".")[:2])
ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "tests" / "data" / "vllm_models.json"
SIZES = (1, 2, 4, 8)
AVAILABLE = 64 * 2**30
"""Bytes for the cache of a rank."""
CONTEXT = 8192
BATCHED = 2048
FOLDER = tempfile.TemporaryDirectory()
LEFT_OUT: dict[str, dict[str, Any]] = {
    "gpt_oss": {"rope_parameters": {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}},
    "lfm2": {"conv_dim": "hidden_size", "block_dim": "hidden_size", "block_ff_dim": "intermediate_size"},
    "lfm2_moe": {"conv_dim": "hidden_size"},
}
"""Keys of published config.json files that no size follows from, and so the built-in models do without."""


class _Sizes(TorchFunctionMode):
    """Large tensors are made on the meta device. Small ones are real, since constructors compute with them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn):
            with torch._C.DisableTorchFunctionSubclass():
                out = func(*args, **{**kwargs, "device": "meta"})
            if out.numel() > 4096:
                return out
        return func(*args, **kwargs)


class _Ranks(SimpleNamespace):
    """A group of ranks, of which this is the first."""

    def __init__(self, size: int) -> None:
        group = SimpleNamespace(size=lambda: size, rank=lambda: 0)
        own = {"rank_in_group": 0, "rank": 0, "local_rank": 0, "first_rank": 0, "is_first_rank": True}
        super().__init__(world_size=size, ranks=list(range(size)), is_last_rank=True, **own)
        self.device_group = self.cpu_group = group

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)


def _as_on_cuda() -> None:
    torch.cpu._is_avx512_bf16_supported = lambda: False  # with it states are float32 whatever the model says
    for name in ("gelu_new", "gelu_fast", "gelu_quick", "gelu_and_mul", "gelu_tanh_and_mul"):
        setattr(torch.ops._C, name, None)
    if RELEASE == "0.11":
        from vllm.v1.attention.backends import cpu_attn

        CpuPlatform.get_attn_backend_cls = classmethod(
            lambda *args, **more: "vllm.v1.attention.backends.cpu_attn.TorchSDPABackend"
        )
        CpuPlatform.check_and_update_config = classmethod(lambda *args: None)
        EngineArgs._is_v1_supported_oracle = lambda *args: True
        cpu_attn.TorchSDPABackendImpl.__init__ = lambda self, *args, **more: None
        return
    from vllm.v1.attention.backends import cpu_attn

    backend = next(
        getattr(cpu_attn, name) for name in dir(cpu_attn) if name.endswith("AttentionBackend") and "CPU" in name.upper()
    )
    from vllm.v1.attention.backend import MultipleOf

    blocks = staticmethod(lambda *args: [MultipleOf(16)])
    backend.get_supported_kernel_block_sizes = blocks
    chosen = CpuPlatform.get_attn_backend_cls.__func__

    def dense(cls: Any, backend: Any, *args: Any, **more: Any) -> Any:
        args = tuple(one._replace(use_sparse=False) if hasattr(one, "use_sparse") else one for one in args)
        more = {k: one._replace(use_sparse=False) if hasattr(one, "use_sparse") else one for k, one in more.items()}
        return chosen(cls, backend, *args, **more)

    CpuPlatform.get_attn_backend_cls = classmethod(dense)
    from vllm.model_executor.layers.fused_moe import config as moe
    from vllm.model_executor.layers.fused_moe import unquantized_fused_moe_method
    from vllm.model_executor.layers.fused_moe.oracle import unquantized
    from vllm.v1.attention.backends.mla import amx_mla, cpu_mla

    for module in (amx_mla, cpu_mla):
        for kind in (getattr(module, name) for name in dir(module) if name.endswith("MLAImpl")):
            kind.__init__ = lambda self, *args, **more: None
    gpu = SimpleNamespace(is_cuda_alike=lambda: True, fp8_dtype=lambda: torch.float8_e4m3fn)
    moe.current_platform = gpu
    backend = unquantized.UnquantizedMoeBackend.CPU
    unquantized_fused_moe_method.select_unquantized_moe_backend = lambda *args, **more: (
        backend,
        unquantized.backend_to_kernel_cls(backend)[0],
    )


def configured(raw: dict[str, Any], ranks: int, **options: Any) -> Any:
    """vLLM's configuration of a model by its config.json."""
    names = {"_TP": ranks, "_EP": ranks, "_WORLD": ranks, "_EPLB": ranks, "_PP": 1, "_DP": 1, "_DCP": 1, "_PCP": 1}
    for name, size in names.items():
        if hasattr(parallel_state, name):
            setattr(parallel_state, name, _Ranks(size))
    raw = {**raw}
    for key, value in LEFT_OUT.get(raw["model_type"], {}).items():
        raw[key] = {**raw[key], **value} if isinstance(value, dict) else raw[value]
    rope = raw.get("rope_parameters") or {}
    if rope.get("rope_type") == "longrope" and "short_factor" not in rope:
        share = rope.get("partial_rotary_factor") or raw.get("partial_rotary_factor") or 1
        factors = [1.0] * (int(raw["hidden_size"] // raw["num_attention_heads"] * share) // 2)
        raw["rope_parameters"] = {**rope, "short_factor": factors, "long_factor": factors}
    raw.setdefault("architectures", [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(raw["model_type"], raw["model_type"])])
    folder = tempfile.mkdtemp(dir=FOLDER.name)
    Path(folder, "config.json").write_text(json.dumps(raw))
    return EngineArgs(
        model=folder,
        tensor_parallel_size=ranks,
        load_format="dummy",
        enforce_eager=True,
        skip_tokenizer_init=True,
        distributed_executor_backend="mp",
        max_num_batched_tokens=BATCHED,
        max_num_seqs=256,
        **({"swap_space": 0} if RELEASE == "0.11" else {}),
        block_size=16,
        async_scheduling=False,
        **options,
    ).create_engine_config()


def made(config: Any) -> Any:
    """The rank's model."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(config.model_config.dtype)
    try:
        with set_current_vllm_config(config), _Sizes():
            return initialize_model(vllm_config=config)
    finally:
        torch.set_default_dtype(before)


def layers(config: Any) -> dict[str, Any]:
    """The cache of each layer, by vLLM's own names."""
    if RELEASE == "0.11":
        return _layers_of_0_11(config)
    from vllm.platforms import current_platform
    from vllm.v1.worker.gpu.attn_utils import get_kv_cache_spec

    current_platform.update_block_size_for_backend(config)
    return get_kv_cache_spec(config)


def _layers_of_0_11(config: Any) -> dict[str, Any]:
    """``GPUModelRunner.get_kv_cache_spec`` without a runner."""
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    hf = config.model_config.hf_text_config
    runner = SimpleNamespace(
        vllm_config=config,
        shared_kv_cache_layers={},
        attention_chunk_size=getattr(hf, "attention_chunk_size", None),
        kv_cache_dtype=config.model_config.dtype,
        speculative_config=None,
    )
    found: dict[str, Any] = GPUModelRunner.get_kv_cache_spec(runner)
    return found


def planned(config: Any, specs: dict[str, Any]) -> dict[str, Any]:
    """Groups of layers, blocks of ``AVAILABLE`` bytes, and requests of ``CONTEXT`` tokens that they hold."""
    if RELEASE == "0.11":
        from vllm.v1.core.kv_cache_utils import get_kv_cache_configs, get_max_concurrency_for_kv_cache_config

        plan = get_kv_cache_configs(config, [specs], [AVAILABLE])[0]
        concurrency = get_max_concurrency_for_kv_cache_config(config, plan)
    else:
        from vllm.v1.attention.backends.utils import resolve_kv_cache_layout
        from vllm.v1.core.kv_cache_planning import get_global_kv_cache_groups, get_kv_cache_configs
        from vllm.v1.core.kv_cache_utils import get_max_concurrency_for_kv_cache_config

        resolve_kv_cache_layout(config, [["LBNHC", "LBHNC", "BLNHC", "BLHNC"]], specs.values())
        groups = get_global_kv_cache_groups(config, [specs])
        plan = get_kv_cache_configs(config, [specs], [AVAILABLE], groups)[0]
        concurrency = get_max_concurrency_for_kv_cache_config(config, plan)
    sizes = [len(group.layer_names) for group in plan.kv_cache_groups]
    return {"groups": sizes, "blocks": plan.num_blocks, "concurrency": round(concurrency, 6)}


def _layer(spec: Any) -> list[Any]:
    """What a layer keeps: kind, tokens of a block, bytes of a block, and the tokens that it sees."""
    seen = getattr(spec, "sliding_window", None) or getattr(spec, "attention_chunk_size", None)
    return [type(spec).__name__.removesuffix("Spec"), spec.block_size, spec.page_size_bytes, seen]


def answer(raw: dict[str, Any], ranks: int, details: bool = False, **options: Any) -> dict[str, Any]:
    """What vLLM says of a rank, or why it stops."""
    try:
        config = configured(raw, ranks, **options)
        config.model_config.max_model_len = min(CONTEXT, config.model_config.max_model_len)
        model = made(config)
    except Exception as error:
        lines = str(error).strip().splitlines() or [repr(error)]
        return {"error": lines[1 if "alidation error" in lines[0] else -1].strip()[:200]}
    tensors = [*model.parameters(), *(b for b in model.buffers() if b.ndim)]
    found: dict[str, Any] = {
        "parameters": sum(p.numel() * p.element_size() for p in model.parameters()),
        "buffers": sum(b.numel() * b.element_size() for b in tensors)
        - sum(p.numel() * p.element_size() for p in model.parameters()),
    }
    if details:
        for kind, named in (("names", model.named_parameters()), ("named_buffers", model.named_buffers())):
            seen: dict[str, Counter[str]] = {}
            for name, x in named:
                seen.setdefault(re.sub(r"\d+", "N", name), Counter())[f"{tuple(x.shape)} {str(x.dtype)[6:]}"] += 1
            found[kind] = {name: dict(count) for name, count in seen.items()}
        found["class"] = type(model).__name__
    with set_current_vllm_config(config):
        try:
            specs = layers(config)
            counted: Counter[str] = Counter(json.dumps(_layer(spec)) for spec in specs.values())
            found["layers"] = [[count, *json.loads(key)] for key, count in counted.items()]
            found.update(planned(config, specs))
        except Exception as error:
            found["no plan"] = (str(error) or repr(error)).strip().splitlines()[0][:200]
    return found


def in_pipelines(specs: list[dict[str, Any]]) -> dict[str, list[int]]:
    """Bytes of the parameters of each of two ranks of a pipeline, of the smallest model of each family."""
    found: dict[str, list[int]] = {}
    for spec in {one["config"]["model_type"]: one for one in sorted(specs, key=lambda x: -x["parameters"])}.values():
        held = []
        for rank in range(2):
            try:
                config = configured(spec["config"], 1)
                config.parallel_config.pipeline_parallel_size = 2
                parallel_state._PP = _Ranks(2)
                vars(parallel_state._PP).update(rank_in_group=rank, is_first_rank=rank == 0, is_last_rank=rank == 1)
                held.append(sum(p.numel() * p.element_size() for p in made(config).parameters()))
            except Exception:
                break
        if len(held) == 2:
            found[spec["name"]] = held
    return found


def main(names: list[str]) -> None:
    """Ask about all built-in models, or those of which the names are given, in detail."""
    _as_on_cuda()
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known = kept.get(RELEASE, {}).get("models", {}) if os.environ.get("RESUME") else {}
    found: dict[str, Any] = {}
    specs: list[dict[str, Any]] = []
    for path in sorted((ROOT / "model_specs").glob("*.json")):
        if names and path.stem not in names:
            continue
        raw = json.loads(path.read_text())["config"]
        if "architectures" in raw:
            continue  # no causal language model
        found[path.stem] = known.get(path.stem) or {str(ranks): answer(raw, ranks, bool(names)) for ranks in SIZES}
        if names:
            print(json.dumps({path.stem: found[path.stem]}), flush=True)
            continue
        specs.append(json.loads(path.read_text()))
        made_by = {"vllm": vllm.__version__, "torch": torch.__version__, "date": f"{date.today()}"}
        kept[RELEASE] = {**made_by, "models": found}
        write(kept)
    if not names and RELEASE != "0.11":
        write({**kept, RELEASE: {**kept[RELEASE], "pipelines": in_pipelines(specs)}})


def write(kept: dict[str, Any]) -> None:
    """Write the answers."""
    text = json.dumps(kept, separators=(",", ":")).replace('}},"', '}},\n"')
    RESULTS.write_text(text + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
