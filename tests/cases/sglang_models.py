"""Ask SGLang itself for pools and shares: ``python -m tests.cases.sglang_models`` where its wheel is, without the rest.

The wheel goes in alone, beside PyTorch for CPUs, transformers and msgspec (``make .venv-sglang-0.5.23/made``). These
modules of it run as they are: ``REAL``. All others, among them those of CUDA kernels (``sgl_kernel``, ``triton``,
``flashinfer``), are stand-ins without content. What the real ones ask of them is in ``Asked``: the number of ranks, the
settings, and that no environment variable is set. Configs are transformers' own. A state's shape is SGLang's, of
sizes that are read here from the config, since its own classes of configs need the whole package.

``tests/data/sglang_models.json`` has the answers. ``make witness`` asks again.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import sys
import types
from datetime import date
from importlib.metadata import distribution
from pathlib import Path
from types import SimpleNamespace as Space
from typing import Any

import torch
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

RELEASE = "0.5.23"
ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "tests" / "data" / "sglang_models.json"
SIZES = (1, 2, 4, 8)
AVAILABLE = 40 * 2**30
"""Bytes for states and tokens of a rank."""
REAL = {
    f"sglang.srt.{name}"
    for name in (
        *("configs.model_config", "configs.mamba_utils", "distributed.utils", "mem_cache.kv_cache_configurator"),
        *("mem_cache.allocation_sizing", "model_executor.pool_configurator", "model_executor.cuda_graph_config"),
        *("arg_groups.memory_hook", "arg_groups.cuda_graph_hook"),
    )
}
STANDING_IN = ("sglang", "sgl_kernel", "triton", "flashinfer")
ARCHITECTURES = {"llama4_text": "Llama4ForConditionalGeneration", "gemma4_text": "Gemma4ForCausalLM"}
"""SGLang's classes for language models of which transformers has one of their own."""


class Nothing(types.ModuleType):
    """A module, class or function without content."""

    __path__: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing(f"{self.__name__}.{name}")

    def __call__(self, *args: Any, **more: Any) -> Any:
        return args[0] if len(args) == 1 and callable(args[0]) and not more else Nothing(self.__name__)

    def __mro_entries__(self, bases: Any) -> tuple[type, ...]:
        return ()

    def __or__(self, other: Any) -> Any:
        return self

    __ror__ = __or__

    def __getitem__(self, key: Any) -> Any:
        return self

    def __bool__(self) -> bool:
        return False

    def __iter__(self) -> Any:
        return iter(())


class Finder:
    """Finds the real modules in the wheel, and stand-ins for the others."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """What to import for a name."""
        if name in REAL:
            return importlib.util.spec_from_file_location(name, self.folder / f"{name.replace('.', '/')}.py")
        return importlib.util.spec_from_loader(name, self) if name.split(".")[0] in STANDING_IN else None  # type: ignore[arg-type]

    def create_module(self, spec: Any) -> types.ModuleType:
        """A stand-in."""
        return Nothing(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """It has no content."""


class Unset:
    """Environment variables, none of which is set."""

    def __getattr__(self, name: str) -> Any:
        value = {"SGLANG_SWA_EVICTION_INTERVAL": 128, "SGLANG_MAMBA_CONV_DTYPE": "bfloat16"}.get(name)
        none = {"SGLANG_MAMBA_SSM_DTYPE", "SGLANG_MOONCAKE_CUSTOM_MEM_POOL"}
        found = value if value is not None else None if name in none else False
        return Space(get=lambda: found, is_set=lambda: False, set=lambda value: None)


class Asked:
    """What the real modules ask: the settings of one question."""

    def __init__(self, ranks: int) -> None:
        self.schedule = Space(
            max_total_tokens=None,
            max_running_requests=None,
            max_mamba_cache_size=None,
            mamba_full_memory_ratio=0.9,
            swa_full_tokens_ratio=0.8,
            disable_overlap_schedule=False,
            chunked_prefill_size=8192,
            page_size=1,
            mem_fraction_static=0.8,
        )
        self.parallel = Space(attn_tp_size=ranks, attn_dcp_size=1, pp_size=1, tp_size=ranks)
        off = (
            "disable_radix_cache",
            "enable_unified_memory",
            "enable_hisparse",
            "enable_unified_cache_external_linker",
        )
        self.memory = Space(**dict.fromkeys(off, False))
        self.mamba = Space(
            enable_mamba_extra_buffer=True, enable_mamba_extra_buffer_lazy=False, enable_linear_replayssm_spec=False
        )

    def tell(self, module: Any) -> None:
        """Let a module ask."""
        kernel = Space(dsa_prefill_backend="flashmla_sparse", dsa_decode_backend="flashmla_kv")
        answers = {
            "get_schedule": self.schedule,
            "get_parallel": self.parallel,
            "get_memory": self.memory,
            "get_exec": Space(mamba=self.mamba, kernel=kernel),
            "get_spec": Space(speculative_algorithm=None, speculative_num_draft_tokens=None),
            "get_disagg": Space(disaggregation_mode="null"),
            "get_model": Space(qsa_indexer_dtype="auto"),
            "get_context": Space(override=lambda name, **values: vars(self.schedule).update(values)),
        }
        for name, value in answers.items():
            if hasattr(module, name):
                setattr(module, name, lambda value=value: value)


def functions(path: Path, names: tuple[str, ...]) -> Space:
    """Some functions and constants of a module whose rest needs the whole package."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kept = [
        node
        for node in tree.body
        if getattr(node, "name", None) in names
        or any(getattr(target, "id", None) in names for target in getattr(node, "targets", ()))
    ]
    found: dict[str, Any] = {}
    exec(compile(ast.Module(kept, []), str(path), "exec"), found)
    return Space(**{name: found[name] for name in names})


def started() -> Space:
    """SGLang's modules."""
    folder = Path(str(distribution("sglang").locate_file("")))
    transformers = folder / "sglang" / "srt" / "utils" / "hf_transformers"
    sys.meta_path.insert(0, Finder(folder))  # type: ignore[arg-type]

    def of(name: str) -> Any:
        return importlib.import_module(f"sglang.srt.{name}")

    of("environ").envs = Unset()
    common = of("utils.common")
    common.is_hip = common.is_npu = common.is_float4_e2m1fn_x2 = lambda *args: False
    common.ceil_div = lambda x, y: -(-x // y)
    common.ceil_align = lambda x, y: -(-x // y) * y
    sizes = {"quant_block_size": 128, "rope_storage_dtype": torch.bfloat16}
    sizes["index_k_with_scale_buffer_dtype"] = torch.uint8
    of("mem_cache.memory_pool").DSATokenToKVPool = type("DSATokenToKVPool", (), sizes)
    of("configs.dots3").Dots3Config = type("Dots3Config", (), {})
    of("layers.cp.utils").get_glm_dsa_cp_layer_shard_info = lambda kvc: (0, 1)
    of("layers.cp.utils").get_glm_dsa_layer_split_effective_num_layers = lambda kvc, layers: layers
    of("layers.attention.qsa.config").parse_qsa_profile = lambda config: None
    of("mem_cache.page_interleave").compute_page_shard_scratch_bytes = lambda *args, **more: 0
    overrides = of("arg_groups.overrides")
    overrides.resolving_view = overrides.resolved_view = lambda args: args
    overrides.post_capture_kv_sizing_planned = lambda args: False
    overrides.use_mla_backend = lambda args: args.latent
    overrides.model_config_of = lambda args: Space(is_multimodal=False)
    overrides.declare_resolution = lambda args, name, **values: vars(args).update(values)
    of("runtime_context").attn_dp_enabled_of = lambda args: args.attn_dp_size > 1
    of("runtime_context").get_platform = lambda: Space(is_xpu=False, is_cuda=True)
    of("configs.hybrid_arch").mambaish_config = lambda config: config.states
    return Space(
        models=of("configs.model_config"),
        states=of("configs.mamba_utils"),
        pools=of("model_executor.pool_configurator"),
        caches=of("mem_cache.kv_cache_configurator"),
        sizing=of("mem_cache.allocation_sizing"),
        memory=of("arg_groups.memory_hook"),
        graphs=of("model_executor.cuda_graph_config"),
        configs=functions(
            transformers / "config.py",
            ("_apply_gemma4_attention_overrides", "_gemma4_attention_shapes", "_GEMMA4_FLATTENED_PER_LAYER_ATTRS"),
        ),
        common=functions(transformers / "common.py", ("get_context_length", "CONTEXT_LENGTH_KEYS")),
    )


def config_of(sglang: Space, raw: dict[str, Any]) -> Any:
    """SGLang's ``ModelConfig`` of a config.json, by its own methods."""
    rope = raw.get("rope_parameters") or {}
    if rope.get("rope_type") == "longrope" and "short_factor" not in rope:  # no size follows from the factors
        share = rope.get("partial_rotary_factor") or raw.get("partial_rotary_factor") or 1
        factors = [1.0] * (int(raw["hidden_size"] // raw["num_attention_heads"] * share) // 2)
        raw = {**raw, "rope_parameters": {**rope, "short_factor": factors, "long_factor": factors}}
    hf = AutoConfig.for_model(raw["model_type"], **{key: value for key, value in raw.items() if key != "model_type"})
    named = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(raw["model_type"], raw["model_type"])
    hf.architectures = [ARCHITECTURES.get(raw["model_type"], named)]
    if raw["model_type"] == "gemma4_text":
        sglang.configs._apply_gemma4_attention_overrides(Space(text_config=hf))
    sglang.models.get_context_length = sglang.common.get_context_length
    config = object.__new__(sglang.models.ModelConfig)
    config.hf_config = config.hf_text_config = hf
    config.is_draft_model, config.disable_hybrid_swa_memory, config.quantization = False, False, None
    config._derive_context_length(None)
    config._derive_model_shapes()
    config._derive_hybrid_model()
    if raw["model_type"].startswith("gemma") and raw["model_type"] != "gemma4_text":
        config.is_hybrid_swa = False  # model_overrides/gemma2_gemma3.py: disable_hybrid_swa_memory
    return config


def states_of(sglang: Space, raw: dict[str, Any], ranks: int) -> Any:
    """The states of a request: layers, and bytes by SGLang's shapes; ``None`` for a model without."""
    kinds = raw.get("layer_types") or []
    if "linear_num_value_heads" in raw:
        layers = [i for i, kind in enumerate(kinds) if kind == "linear_attention"]
        sizes = [raw["linear_value_head_dim"] * raw["linear_num_value_heads"], raw["linear_num_key_heads"]]
        sizes += [raw["linear_num_value_heads"], raw["linear_value_head_dim"], raw["linear_key_head_dim"]]
        sizes += [raw["linear_conv_kernel_dim"]]
    elif "mamba_d_state" in raw:
        layers = [i for i, kind in enumerate(kinds) if kind == "mamba"]
        sizes = [raw["mamba_n_heads"] * raw["mamba_d_head"], raw["mamba_n_groups"], raw["mamba_n_heads"]]
        sizes += [raw["mamba_d_head"], raw["mamba_d_state"], raw["mamba_d_conv"]]
    elif "ssm_state_size" in raw:
        pattern = raw.get("hybrid_override_pattern") or "".join(
            "M" if kind == "mamba" else "*" if "attention" in kind else "-" for kind in raw["layers_block_type"]
        )
        layers = [i for i, kind in enumerate(pattern) if kind == "M"]
        kinds = ["attention" if kind == "*" else "mamba" if kind == "M" else "" for kind in pattern]
        sizes = [raw["mamba_num_heads"] * raw["mamba_head_dim"], raw["n_groups"], raw["mamba_num_heads"]]
        sizes += [raw["mamba_head_dim"], raw["ssm_state_size"], raw["conv_kernel"]]
    elif "conv_L_cache" in raw:
        layers = [i for i, kind in enumerate(kinds) if kind == "conv"]
        sizes = [raw["hidden_size"], 1, ranks, raw["hidden_size"], 0, raw["conv_L_cache"]]
    else:
        return None
    if not layers:
        return None
    names = ("intermediate_size", "n_groups", "num_heads", "head_dim", "state_size", "conv_kernel")
    shape = sglang.states.Mamba2StateShape.create(tp_world_size=ranks, **dict(zip(names, sizes, strict=True)))
    dtype = sglang.states.mamba2_state_dtype(Space(mamba_ssm_dtype=raw.get("mamba_ssm_dtype")))
    full = [i for i, kind in enumerate(kinds) if "attention" in kind and "linear" not in kind]
    params = sglang.states.Mamba2CacheParams(shape=shape, layers=layers, dtype=dtype)
    return Space(full_attention_layer_ids=full, mamba2_cache_params=params)


def answer(sglang: Space, raw: dict[str, Any], ranks: int) -> dict[str, Any]:
    """What SGLang says of a rank with ``AVAILABLE`` bytes, or why it stops."""
    asked = Asked(ranks)
    for module in (sglang.pools, sglang.caches, sglang.sizing, sglang.states):
        asked.tell(module)
    asked.mamba.enable_mamba_extra_buffer = "conv_L_cache" not in raw
    try:
        config = config_of(sglang, raw)
        config.states = states_of(sglang, raw, ranks)
        latent = config.attention_arch == sglang.models.AttentionArch.MLA
        no = Space(is_eagle=bool, is_standalone=bool, is_dflash_family=bool, is_none=lambda: True)
        kvc = object.__new__(sglang.caches.KVCacheConfigurator)
        swa, full = config.swa_attention_layer_ids, config.full_attention_layer_ids
        layers = Space(
            start_layer=0,
            end_layer=config.num_hidden_layers,
            num_effective_layers=config.num_attention_layers,
            swa_attention_layer_ids=swa,
            full_attention_layer_ids=full,
        )
        known: dict[str, Any] = {
            "model_config": config,
            "layer_info": layers,
            "kv_cache_dtype": torch.bfloat16,
            "kv_cache_dtype_str": "auto",
            "page_size": 1,
            "sliding_window_size": config._get_sliding_window_size() if config.is_hybrid_swa else None,
            "spec_algorithm": no,
            "spec_aux_config": None,
            "is_draft_worker": False,
            "is_hybrid_swa": config.is_hybrid_swa,
            "use_mla_backend": latent,
            "server_args": Space(enable_hisparse=False),
            "attn_dp_size": 1,
            "pp_size": 1,
            "mambaish_config": config.states,
            "hybrid_gdn_config": None,
            "hybrid_kda_config": None,
            "extra_mamba_cache_bytes_per_req": 0,
        }
        for name, value in known.items():
            setattr(kvc, name, value)
        type(kvc).fused_entry_bytes = lambda self, name: None
        rest = AVAILABLE
        found: dict[str, Any] = {"length": config.context_len}
        if config.states is not None:
            rest = round(kvc._handle_max_mamba_cache(AVAILABLE / 2**30) * 2**30)
            found["states"] = asked.schedule.max_mamba_cache_size
            found["state"] = config.states.mamba2_cache_params.mamba_cache_per_req
        pool = kvc.config_from_budget(rest)
        found["tokens"] = pool.max_total_num_tokens
        if pool.swa_max_total_num_tokens is not None:
            found["windows"] = pool.swa_max_total_num_tokens
        found["requests"] = kvc.resolve_max_num_reqs(pool.max_total_num_tokens)
        return found
    except Exception as error:
        return {"error": (str(error) or repr(error)).strip().splitlines()[0][:200]}


SHARES = [
    {"memory": memory, "tp_size": tp, "pp_size": pp, **more}
    for memory in (15360, 24564, 40960, 81559, 143771, 183359)
    for tp, pp in ((1, 1), (2, 1), (4, 1), (8, 1), (4, 2))
    for more in (
        *({}, {"latent": True}, {"chunked_prefill_size": 4096}, {"chunked_prefill_size": -1}),
        *({"attn_dp_size": tp}, {"max_running_requests": 24}, {"graph": 96}, {"no_graphs": True}),
    )
]
"""Questions about the share: MiB of a GPU, and settings."""


def share(sglang: Space, asked: dict[str, Any]) -> float:
    """``mem_fraction_static`` of a question."""
    backend = sglang.graphs.Backend
    phases = {"decode": backend.FULL, "prefill": backend.DISABLED if asked["pp_size"] > 1 else backend.BREAKABLE}
    if asked.get("no_graphs"):
        phases = dict.fromkeys(phases, backend.DISABLED)
    config = {name: sglang.graphs.PhaseConfig(backend=value) for name, value in phases.items()}
    config["decode"].max_bs = asked.get("graph")
    args = Space(
        device="cuda",
        cuda_graph_config=sglang.graphs.CudaGraphConfig(**config),
        chunked_prefill_size=asked.get("chunked_prefill_size"),
        max_prefill_tokens=16384,
        max_running_requests=asked.get("max_running_requests"),
        tp_size=asked["tp_size"],
        pp_size=asked["pp_size"],
        attn_dp_size=asked.get("attn_dp_size", 1),
        latent=asked.get("latent", False),
        disable_cuda_graph_padding=False,
        speculative_algorithm=None,
        max_total_tokens=None,
        model_path="model",
        mem_fraction_static=None,
        disaggregation_mode="null",
        moe_a2a_backend="none",
        enable_symm_mem=False,
        language_only=False,
        language_model_only=False,
        _cuda_graph_config_locked=frozenset(),
    )
    sglang.memory.get_device_memory_capacity = lambda device: asked["memory"]
    sglang.memory.handle_gpu_memory_settings(args)
    found: float = args.mem_fraction_static
    return found


def main(names: list[str]) -> None:
    """Ask about all built-in models, or print those of which the names are given."""
    sglang = started()
    found: dict[str, Any] = {}
    for path in sorted((ROOT / "model_specs").glob("*.json")):
        if names and path.stem not in names:
            continue
        raw = json.loads(path.read_text(encoding="utf-8"))["config"]
        if "architectures" in raw:
            continue  # no causal language model
        found[path.stem] = {str(ranks): answer(sglang, raw, ranks) for ranks in SIZES}
        if names:
            print(json.dumps({path.stem: found[path.stem]}))
    if names:
        return
    shares = [{**asked, "share": share(sglang, asked)} for asked in SHARES]
    made_by = {"sglang": RELEASE, "torch": torch.__version__, "date": f"{date.today()}"}
    text = json.dumps({**made_by, "shares": shares, "models": found}, separators=(",", ":"))
    RESULTS.write_text(text.replace('}},"', '}},\n"').replace('},{"memory', '},\n{"memory') + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
